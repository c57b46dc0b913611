//! `welcome_info`: the tree of the epoch that a Welcome leads to.

use moh_messages::{DsAuth, DsRequest, DsResponseBody, GroupId, WelcomeInfo};

use super::{ratchet_tree, read_newest};
use crate::authenticate::Claimed;
use crate::error::Refusal;
use crate::group::{Fetching, Group};
use crate::node::Node;
use crate::store::StoreError;

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    body: &WelcomeInfo,
) -> Result<DsResponseBody, Refusal> {
    let Claimed { request, signed } = claimed;
    let DsAuth::KeyPackage {
        key_package_ref,
        signature,
    } = &request.auth
    else {
        return Err(Refusal::Unauthenticated(
            "whoever was added signs this request",
        ));
    };
    let group_id = &body.group_id;
    let fetching = Fetching {
        reference: key_package_ref,
        epoch: body.epoch,
        signature,
    };
    let admit = |group: &Group, now| group.authenticate_joiner(request, signed, &fetching, now);
    let (group, has_fetched) =
        read_newest(node, group_id, |group| admit(group, node.now_ms())).await?;
    let current = (group.epoch() == body.epoch).then(|| answer(node, &group));
    // The group is free again, to be changed.
    drop(group);
    let answer = match current {
        Some(answer) => answer?,
        None => answer(node, &at_epoch(node, group_id, body.epoch).await?)?,
    };
    if !has_fetched {
        let first = node.change_group(
            group_id,
            |group, checks| {
                admit(group, checks.now)?;
                Ok((Group::fetched(&fetching), ()))
            },
            |_, _, ()| Vec::new(),
        );
        first.await?;
    }
    Ok(answer)
}

/// The group as it was when an epoch began.
async fn at_epoch(node: &Node, group_id: &GroupId, epoch: u64) -> Result<Group, Refusal> {
    let stored = node.store().group_at_epoch(group_id, epoch).await?;
    let stored = stored.ok_or(Refusal::EpochNotKept)?;
    let work = node.environment().work;
    let restored = work.run(move || Group::restore(&stored)).await;
    let unreadable = || StoreError("an epoch of a group cannot be read".to_owned());
    Ok(restored.ok().and_then(Result::ok).ok_or_else(unreadable)?)
}

fn answer(node: &Node, group: &Group) -> Result<DsResponseBody, Refusal> {
    Ok(DsResponseBody::WelcomeInfo {
        ratchet_tree: ratchet_tree(node, group)?,
        provider_keys: node.provider_keys(group.providers())?,
    })
}
