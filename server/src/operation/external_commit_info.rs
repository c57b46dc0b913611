//! `external_commit_info`: what a client needs to join without a Welcome.

use moh_messages::{DsAuth, DsRequest, DsResponseBody, Endpoint, ExternalCommitInfo};

use super::{ratchet_tree, read_newest};
use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::node::Node;

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    body: &ExternalCommitInfo,
) -> Result<DsResponseBody, Refusal> {
    let on_behalf = match &claimed.request.auth {
        DsAuth::Leaf { .. } => None,
        _ => {
            let endpoint = Endpoint::ExternalCommitInformation;
            Some(node.authenticate_on_behalf(endpoint, claimed).await?)
        }
    };
    let group = read_newest(node, &body.group_id, |group| {
        match (&claimed.request.auth, &on_behalf) {
            (_, Some(on_behalf)) => group.admit(on_behalf.client()),
            (
                DsAuth::Leaf {
                    leaf_index,
                    signature,
                },
                None,
            ) => {
                let Claimed { request, signed } = claimed;
                let sender = group.authenticate_leaf(request, signed, *leaf_index, signature);
                sender.map(|_| ())
            }
            _ => Err(Refusal::UnknownGroup),
        }
    });
    let (group, ()) = group.await?;
    Ok(DsResponseBody::ExternalCommitInfo {
        group_info: group.group_info()?,
        ratchet_tree: ratchet_tree(node, &group)?,
        provider_keys: node.provider_keys(group.providers())?,
    })
}
