//! `remove_users`: a commit with Removes of all clients of users.

use std::collections::BTreeSet;

use moh_messages::UserId;

use super::violation;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};

pub(super) const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Admins,
    ends_group: false,
    check,
};

fn check(commit: &Proposed<'_>) -> Result<(), Refusal> {
    let Some(removed) = commit.only_removes() else {
        return violation("remove_users holds Removes, and nothing else by value");
    };
    let users: BTreeSet<UserId> = removed.iter().map(|(_, m)| m.client_id.user_id()).collect();
    if users.contains(&commit.client().user_id()) {
        return violation("nobody removes themselves as a user");
    }
    if users.iter().any(|user| commit.keeps_leaf(user)) {
        return violation("a user is removed with all clients");
    }
    Ok(())
}
