//! `add_users`: a commit with Adds of users who have no leaf.

use std::collections::BTreeSet;

use moh_messages::{GroupType, UserId};

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
    let Some(added) = commit.only_adds() else {
        return violation("add_users holds Adds of clients, and nothing else by value");
    };
    let users: BTreeSet<UserId> = added.iter().map(|client| client.user_id()).collect();
    if users.iter().any(|user| commit.keeps_leaf(user)) {
        return violation("add_users is for users who have no leaf");
    }
    if commit.group_type() == GroupType::Connection {
        if users.len() > 1 {
            return violation("a connection group holds two users");
        }
        if commit.invited().is_some() {
            return violation("somebody has been invited into this connection group");
        }
    }
    Ok(())
}
