//! `remove_clients`: a commit with Removes of other clients of the sender's own user.

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
    let Some(removed) = commit.only_removes() else {
        return violation("remove_clients holds Removes, and nothing else by value");
    };
    let user = commit.client().user_id();
    if removed.iter().any(|(_, m)| m.client_id.user_id() != user) {
        return violation("remove_clients is for the sender's own user");
    }
    if removed.iter().any(|(leaf, _)| Some(*leaf) == commit.leaf()) {
        return violation("a client does not remove itself by a commit");
    }
    Ok(())
}
