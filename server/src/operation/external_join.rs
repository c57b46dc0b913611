//! `external_join`: an external commit, by which a client joins without a Welcome.

use super::violation;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposal, Proposed, Roles};

pub(super) const RULES: CommitRules = CommitRules {
    by: Committer::NewMember,
    roles: Roles::Everybody,
    ends_group: false,
    check,
};

fn check(commit: &Proposed<'_>) -> Result<(), Refusal> {
    let (mut inits, mut removes) = (0, Vec::new());
    for proposal in commit.by_value() {
        match proposal {
            Proposal::ExternalInit => inits += 1,
            Proposal::Remove(leaf) => removes.push(*leaf),
            _ => return violation("external_join holds an ExternalInit, and a Remove at most"),
        }
    }
    if inits != 1 {
        return violation("external_join holds one ExternalInit");
    }
    let own: Vec<u32> = commit.leaf().into_iter().collect();
    if removes != own {
        return violation("a client that joins again removes its own leaf, and nobody else's");
    }
    if !commit.belongs(&commit.client().user_id()) {
        return Err(Refusal::UnknownGroup);
    }
    Ok(())
}
