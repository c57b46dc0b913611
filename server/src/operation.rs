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
    let body = &claimed.request.body;
    if body.endpoint() != endpoint {
        return Err(Refusal::WrongEndpoint(body.endpoint().path()));
    }
    if !claimed.request.group_state_key.is_empty() {
        return Err(Refusal::PolicyViolation(
            "group_state_key is empty in version 1".to_owned(),
        ));
    }
    match body {
        DsRequestBody::RequestGroupId(_) => request_group_id::run(node, claimed).await,
        DsRequestBody::CreateGroup(_) => create_group::run(node, claimed).await,
        DsRequestBody::DeleteGroup(_) => delete_group::run(node, claimed).await,
        DsRequestBody::AddUsers(_) => add_users::run(node, claimed).await,
        DsRequestBody::RemoveUsers(_) => remove_users::run(node, claimed).await,
        DsRequestBody::AddClients(_) => add_clients::run(node, claimed).await,
        DsRequestBody::RemoveClients(_) => remove_clients::run(node, claimed).await,
        DsRequestBody::SelfRemoveClient(_) => self_remove_client::run(node, claimed).await,
        DsRequestBody::UpdateClient(_) => update_client::run(node, claimed).await,
        DsRequestBody::ExternalJoin(_) => external_join::run(node, claimed).await,
        DsRequestBody::SendMessage(_) => send_message::run(node, claimed).await,
        DsRequestBody::ReInitializeGroup(_) => re_initialize_group::run(node, claimed).await,
        DsRequestBody::WelcomeInfo(_) => welcome_info::run(node, claimed).await,
        DsRequestBody::ExternalCommitInfo(_) => external_commit_info::run(node, claimed).await,
        DsRequestBody::SetRoles(_) => set_roles::run(node, claimed).await,
        DsRequestBody::ClientDeleted => client_deleted::run(node, claimed).await,
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
