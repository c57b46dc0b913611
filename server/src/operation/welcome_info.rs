//! `welcome_info`: the tree of the epoch that a Welcome leads to.

use std::collections::BTreeSet;

use moh_messages::{
    DsAuth, DsRequest, DsRequestBody, DsResponseBody, List, ProviderKeys, ProviderName,
    VerificationKeys,
};

use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::Group;
use crate::node::Node;
use crate::store::StoreError;

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
    let group = node.groups().read(node.store(), &body.group_id).await?;
    let signed = &claimed.signed;
    group.authenticate_joiner(request, signed, key_package_ref, body.epoch, signature)?;
    if group.epoch() == body.epoch {
        return answer(node, &group);
    }
    drop(group);
    let stored = node
        .store()
        .group_at_epoch(&body.group_id, body.epoch)
        .await?;
    let stored = stored.ok_or(Refusal::EpochNotKept)?;
    let restored = tokio::task::spawn_blocking(move || Group::restore(&stored)).await;
    let unreadable = || StoreError("an epoch of a group cannot be read".to_owned());
    let group = restored.ok().and_then(Result::ok).ok_or_else(unreadable)?;
    answer(node, &group)
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
