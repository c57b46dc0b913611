//! What can be asked of the owner of a group: one file for each operation, all of one shape.

mod add_clients;
mod add_users;
mod client_deleted;
mod create_group;
mod delete_group;
mod external_commit_info;
mod external_join;
mod group_commit;
mod re_initialize_group;
mod remove_clients;
mod remove_users;
mod request_group_id;
mod self_remove_client;
mod send_message;
mod set_roles;
mod submission;
mod update_client;
mod welcome_info;

use moh_messages::{DsRequest, DsRequestBody, DsResponseBody, Endpoint, GroupId, TreeBytes};
use tokio::sync::OwnedRwLockReadGuard;

use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::Group;
use crate::node::Node;
use crate::owner::TRIES;
use crate::store::CommitError;

/// Runs the operation that a request is.
pub(crate) async fn run(
    node: &Node,
    endpoint: Endpoint,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    use DsRequestBody as B;
    let (claimed, body) = (&claimed, &claimed.request.body);
    if body.endpoint() != endpoint {
        return Err(Refusal::WrongEndpoint(body.endpoint().path()));
    }
    if !claimed.request.group_state_key.is_empty() {
        return Err(Refusal::PolicyViolation(
            "group_state_key is empty in version 1".to_owned(),
        ));
    }
    let commit = |rules, body| group_commit::run(node, claimed, rules, body);
    let adding = |rules, body| group_commit::run_with_welcomes(node, claimed, rules, body);
    match body {
        B::RequestGroupId(body) => request_group_id::run(node, claimed, body).await,
        B::CreateGroup(body) => create_group::run(node, claimed, body).await,
        B::DeleteGroup(body) => commit(&delete_group::RULES, body).await,
        B::AddUsers(body) => adding(&add_users::RULES, body).await,
        B::RemoveUsers(body) => commit(&remove_users::RULES, body).await,
        B::AddClients(body) => adding(&add_clients::RULES, body).await,
        B::RemoveClients(body) => commit(&remove_clients::RULES, body).await,
        B::SelfRemoveClient(body) => self_remove_client::run(node, claimed, body).await,
        B::UpdateClient(body) => commit(&update_client::RULES, body).await,
        B::ExternalJoin(body) => commit(&external_join::RULES, body).await,
        B::SendMessage(body) => send_message::run(node, claimed, body).await,
        B::ReInitializeGroup(body) => commit(&re_initialize_group::RULES, body).await,
        B::WelcomeInfo(body) => welcome_info::run(node, claimed, body).await,
        B::ExternalCommitInfo(body) => external_commit_info::run(node, claimed, body).await,
        B::SetRoles(body) => commit(&set_roles::RULES, body).await,
        B::ClientDeleted => client_deleted::run(node, claimed).await,
    }
}

/// What a rule says when it is broken.
fn violation<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::PolicyViolation(what.to_owned()))
}

/// The tree of a group, for whoever joins it.
///
/// # Errors
/// `limit_exceeded`.
fn ratchet_tree(node: &Node, group: &Group) -> Result<TreeBytes, Refusal> {
    let tree = group.ratchet_tree()?;
    if tree.as_slice().len() > node.limits().max_tree_bytes {
        return Err(Refusal::LimitExceeded(
            "the tree is larger than is handed out",
        ));
    }
    Ok(tree)
}

/// As `read_group`, and the group is the newest version that there is.
///
/// # Errors
/// As `read_group`.
async fn read_newest<T>(
    node: &Node,
    group_id: &GroupId,
    decide: impl Fn(&Group) -> Result<T, Refusal>,
) -> Result<(OwnedRwLockReadGuard<Option<Group>, Group>, T), Refusal> {
    for _ in 0..TRIES {
        let (group, found) = read_group(node, group_id, &decide).await?;
        let version = group.version();
        if node.store().group_version(group_id).await? == Some(version) {
            return Ok((group, found));
        }
        drop(group);
        let groups = node.groups();
        groups.is_newest(node.store(), group_id, version).await?;
    }
    Err(CommitError::Conflict.into())
}

/// A group, to read it, with what `decide` found. What it refuses is refused on the newest
/// version.
///
/// # Errors
/// What `decide` refuses; `unknown_group`; `unavailable` when the store fails.
async fn read_group<T>(
    node: &Node,
    group_id: &GroupId,
    decide: impl Fn(&Group) -> Result<T, Refusal>,
) -> Result<(OwnedRwLockReadGuard<Option<Group>, Group>, T), Refusal> {
    for _ in 0..TRIES {
        let group = node.groups().read(node.store(), group_id).await?;
        match decide(&group) {
            Ok(found) => return Ok((group, found)),
            Err(refusal) => {
                let version = group.version();
                drop(group);
                let groups = node.groups();
                if groups.is_newest(node.store(), group_id, version).await? {
                    return Err(refusal);
                }
            }
        }
    }
    Err(CommitError::Conflict.into())
}
