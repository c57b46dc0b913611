//! `delete_group`: a commit that removes all others, and ends the group.

use super::violation;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};

pub(super) const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Admins,
    ends_group: true,
    check,
};

fn check(commit: &Proposed<'_>) -> Result<(), Refusal> {
    if !commit.by_value().is_empty() && commit.only_removes().is_none() {
        return violation("delete_group holds Removes, and nothing else by value");
    }
    let stays = |(leaf, _): &(u32, _)| !commit.removed().contains(leaf);
    let mut staying = commit.roster().members().filter(stays);
    if !staying.all(|(leaf, _)| Some(leaf) == commit.leaf()) {
        return violation("delete_group removes everybody else");
    }
    if commit.roster().len() == 1 && !commit.has_path() {
        return violation("in a group of one, delete_group has a path");
    }
    Ok(())
}
