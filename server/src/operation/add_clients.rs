//! `add_clients`: a commit with Adds of further clients of users who have a leaf.

use super::violation;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};

pub(super) const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Everybody,
    ends_group: false,
    check,
};

fn check(commit: &Proposed<'_>) -> Result<(), Refusal> {
    let Some(added) = commit.only_adds() else {
        return violation("add_clients holds Adds of clients, and nothing else by value");
    };
    if !added
        .iter()
        .all(|client| commit.keeps_leaf(&client.user_id()))
    {
        return violation("add_clients is for users who have a leaf");
    }
    Ok(())
}
