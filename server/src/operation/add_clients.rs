//! `add_clients`: a commit with Adds of further clients of users who have a leaf.

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
    let DsRequestBody::AddClients(body) = &claimed.request.body else {
        return Err(Refusal::not_built(claimed.request.body.name()));
    };
    let commit = Commit {
        rules: &RULES,
        update: &body.group_update,
        welcomes: &body.welcomes,
    };
    group_commit::run(node, &claimed, commit).await
}

fn check(commit: &Proposed<'_>) -> Result<(), Refusal> {
    let Some(added) = commit.only_adds() else {
        return violation("add_clients holds Adds of clients, and nothing else by value");
    };
    if !added
        .iter()
        .all(|client| commit.keeps_leaf(&client.user_id()))
    {
        return violation("add_clients is for users who have a leaf");
    }
    Ok(())
}
