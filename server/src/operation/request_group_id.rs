//! `request_group_id`: a name for a group that is to be created.

use moh_messages::{DsAuth, DsRequest, DsRequestBody, DsResponseBody, Endpoint};

use crate::authenticate::{Claimed, Repeats};
use crate::error::Refusal;
use crate::node::Node;

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let request = node
        .authenticate_provider(Endpoint::GroupOperation, claimed, Repeats::Refused)
        .await?
        .into_request();
    let (DsRequestBody::RequestGroupId(body), DsAuth::Provider { on_behalf_of, .. }) =
        (&request.body, &request.auth)
    else {
        return Err(Refusal::Unauthenticated("a provider signs this request"));
    };
    if on_behalf_of.provider() != request.sender {
        return Err(Refusal::Unauthenticated(
            "on_behalf_of is of another provider",
        ));
    }
    if request.sender != *node.name() {
        return Err(Refusal::Unauthenticated(
            "this provider owns groups of its own clients",
        ));
    }
    let ds_sender = node.keys().ds_sender(body.cipher_suite).ok_or_else(|| {
        Refusal::PolicyViolation("the ciphersuite is none of 1, 2 and 3".to_owned())
    })?;
    let group_id = node.keys().issue_group_id(node.random());
    Ok(DsResponseBody::GroupId {
        group_id,
        ds_sender,
    })
}
