//! `client_deleted`: the word of a provider that a client of its own is gone. The owner proposes
//! to remove it from every group that it is in.

use moh_messages::{DsRequest, DsResponseBody, Endpoint};

use crate::authenticate::Claimed;
use crate::change::{Change, Write};
use crate::error::Refusal;
use crate::node::Node;

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let endpoint = Endpoint::GroupOperation;
    let on_behalf = node.authenticate_on_behalf(endpoint, claimed).await?;
    let now = node.now_ms();
    let wanted = Write::WantRemoval {
        client_id: on_behalf.client().clone(),
        group_id: None,
        at: now,
    };
    let change = Change {
        expect: Vec::new(),
        writes: vec![wanted],
    };
    node.commit(change).await?;
    Ok(DsResponseBody::Ok {
        epoch: 0,
        accepted_at: now,
    })
}
