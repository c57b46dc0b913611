//! `add_users`: a commit with Adds of users who have no leaf.

use moh_messages::{DsRequest, DsRequestBody, DsResponseBody};

use super::group_commit::{self, Commit};
use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::CommitKind;
use crate::node::Node;

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let DsRequestBody::AddUsers(body) = &claimed.request.body else {
        return Err(Refusal::not_built(claimed.request.body.name()));
    };
    let commit = Commit {
        kind: CommitKind::AddUsers,
        update: &body.group_update,
        welcomes: &body.welcomes,
    };
    group_commit::run(node, &claimed, commit).await
}
