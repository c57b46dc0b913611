//! `re_initialize_group`: a commit that ends the group for another one to succeed it.

use moh_messages::CipherSuite;

use super::violation;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};

const PROTOCOL_VERSION_MLS10: u16 = 1;

pub(super) const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Everybody,
    ends_group: true,
    check,
};

fn check(commit: &Proposed<'_>) -> Result<(), Refusal> {
    commit.group().nothing_is_pending()?;
    let Some(reinit) = commit.only_reinit() else {
        return violation("re_initialize_group holds one ReInit, and nothing else");
    };
    let owner = commit.checks().owner;
    if !owner.issued(&reinit.group_id) || reinit.group_id == commit.group().group_id() {
        return violation("the name of the successor was not issued here");
    }
    if reinit.version < PROTOCOL_VERSION_MLS10 {
        return violation("the successor's version is not lower");
    }
    if CipherSuite(reinit.cipher_suite)
        .signature_scheme()
        .is_none()
    {
        return violation("the ciphersuite is none of 1, 2 and 3");
    }
    Ok(())
}
