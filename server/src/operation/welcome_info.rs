//! `welcome_info`: the tree of the epoch that a Welcome leads to.

use std::collections::BTreeSet;

use moh_messages::{
    DsAuth, DsRequest, DsRequestBody, DsResponseBody, GroupId, List, ProviderKeys, ProviderName,
    VerificationKeys,
};

use super::TRIES;
use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::Group;
use crate::node::Node;
use crate::store::{CommitError, StoreError};

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let request = &claimed.request;
    let (
        DsRequestBody::WelcomeInfo(body),
        DsAuth::KeyPackage {
            key_package_ref,
            signature,
        },
    ) = (&request.body, &request.auth)
    else {
        return Err(Refusal::Unauthenticated(
            "whoever was added signs this request",
        ));
    };
    let (store, group_id, epoch) = (node.store(), &body.group_id, body.epoch);
    for _ in 0..TRIES {
        let group = node.groups().read(store, group_id).await?;
        let signed = &claimed.signed;
        let joins = group.authenticate_joiner(request, signed, key_package_ref, epoch, signature);
        match joins {
            Ok(()) if group.epoch() == epoch => return answer(node, &group),
            Ok(()) => {
                drop(group);
                return answer(node, &at_epoch(node, group_id, epoch).await?);
            }
            Err(refusal) => {
                let version = group.version();
                drop(group);
                if node.groups().is_newest(store, group_id, version).await? {
                    return Err(refusal);
                }
            }
        }
    }
    Err(CommitError::Conflict.into())
}

/// The group as it was when an epoch began.
async fn at_epoch(node: &Node, group_id: &GroupId, epoch: u64) -> Result<Group, Refusal> {
    let stored = node.store().group_at_epoch(group_id, epoch).await?;
    let stored = stored.ok_or(Refusal::EpochNotKept)?;
    let restored = tokio::task::spawn_blocking(move || Group::restore(&stored)).await;
    let unreadable = || StoreError("an epoch of a group cannot be read".to_owned());
    Ok(restored.ok().and_then(Result::ok).ok_or_else(unreadable)?)
}

fn answer(node: &Node, group: &Group) -> Result<DsResponseBody, Refusal> {
    let providers: BTreeSet<ProviderName> = group
        .roster()
        .members()
        .map(|(_, member)| member.client_id.provider())
        .collect();
    let provider_keys = providers
        .into_iter()
        .map(|provider| {
            let keys = node.known_keys(&provider);
            ProviderKeys {
                provider,
                keys: VerificationKeys::new(keys).unwrap_or_default(),
            }
        })
        .collect();
    let too_many = |_| Refusal::LimitExceeded("members of too many providers");
    Ok(DsResponseBody::WelcomeInfo {
        ratchet_tree: group.ratchet_tree()?,
        provider_keys: List::new(provider_keys).map_err(too_many)?,
    })
}
