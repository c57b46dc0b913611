//! `remove_clients`: a commit with Removes of other clients of the sender's own user.

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
    let DsRequestBody::RemoveClients(body) = &claimed.request.body else {
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
    let Some(removed) = commit
        .only_removes()
        .filter(|_| !commit.by_value().is_empty())
    else {
        return violation("remove_clients holds Removes, and nothing else by value");
    };
    let user = commit.client().user_id();
    if removed.iter().any(|(_, m)| m.client_id.user_id() != user) {
        return violation("remove_clients is for the sender's own user");
    }
    if removed.iter().any(|(leaf, _)| Some(*leaf) == commit.leaf()) {
        return violation("a client does not remove itself by a commit");
    }
    Ok(())
}
