//! `delete_group`: a commit that removes all others, and ends the group.

use moh_messages::{DsRequest, DsRequestBody, DsResponseBody};

use super::group_commit::{self, Commit};
use super::violation;
use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};
use crate::node::Node;

const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Admins,
    ends_group: true,
    check,
};

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let DsRequestBody::DeleteGroup(body) = &claimed.request.body else {
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
    if commit.only_removes().is_none() {
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
