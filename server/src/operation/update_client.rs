//! `update_client`: a commit with a path, for fresh keys.

use moh_messages::{DsRequest, DsRequestBody, DsResponseBody};

use super::group_commit::{self, Commit};
use super::violation;
use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};
use crate::node::Node;

const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Everybody,
    ends_group: false,
    check,
};

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let DsRequestBody::UpdateClient(body) = &claimed.request.body else {
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
    if !commit.by_value().is_empty() {
        return violation("update_client holds no proposals by value");
    }
    if !commit.has_path() {
        return violation("update_client has a path");
    }
    Ok(())
}
