//! `request_group_id`: a name for a group that is to be created.

use moh_messages::{DsRequest, DsResponseBody, Endpoint, RequestGroupId};

use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::node::Node;

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    body: &RequestGroupId,
) -> Result<DsResponseBody, Refusal> {
    let endpoint = Endpoint::GroupOperation;
    let on_behalf = node.authenticate_on_behalf(endpoint, claimed).await?;
    if on_behalf.client().provider() != *node.name() {
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
