//! What can be asked of the owner of a group: one file for each operation, all of one shape.

mod add_users;
mod create_group;
mod group_commit;
mod request_group_id;
mod send_message;
mod submission;
mod update_client;
mod welcome_info;

use moh_messages::{DsRequest, DsRequestBody, DsResponseBody, Endpoint};

use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::node::Node;

/// An operation whose changes others race with is tried this often.
const TRIES: usize = 16;

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
        DsRequestBody::AddUsers(_) => add_users::run(node, claimed).await,
        DsRequestBody::UpdateClient(_) => update_client::run(node, claimed).await,
        DsRequestBody::SendMessage(_) => send_message::run(node, claimed).await,
        DsRequestBody::WelcomeInfo(_) => welcome_info::run(node, claimed).await,
        DsRequestBody::DeleteGroup(_)
        | DsRequestBody::RemoveUsers(_)
        | DsRequestBody::AddClients(_)
        | DsRequestBody::RemoveClients(_)
        | DsRequestBody::SelfRemoveClient(_)
        | DsRequestBody::ExternalJoin(_)
        | DsRequestBody::ReInitializeGroup(_)
        | DsRequestBody::ExternalCommitInfo(_)
        | DsRequestBody::SetRoles(_)
        | DsRequestBody::ClientDeleted => Err(Refusal::not_built(body.name())),
    }
}
