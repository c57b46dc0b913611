//! `re_initialize_group`: a commit that ends the group for another one to succeed it.

use moh_messages::{CipherSuite, DsRequest, DsRequestBody, DsResponseBody};

use super::group_commit::{self, Commit};
use super::violation;
use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};
use crate::node::Node;

const PROTOCOL_VERSION_MLS10: u16 = 1;

const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Everybody,
    ends_group: true,
    check,
};

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let DsRequestBody::ReInitializeGroup(body) = &claimed.request.body else {
        return Err(Refusal::not_built(claimed.request.body.name()));
    };
    let commit = Commit {
        rules: &RULES,
        update: &body.group_update,
        welcomes: &[],
    };
    group_commit::run(node, &claimed, commit).await
}

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
