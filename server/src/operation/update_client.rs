//! `update_client`: a commit with a path, for fresh keys.

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
    if !commit.by_value().is_empty() {
        return violation("update_client holds no proposals by value");
    }
    if !commit.has_path() {
        return violation("update_client has a path");
    }
    Ok(())
}
