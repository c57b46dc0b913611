//! `self_remove_client`: the proposal of a member to be removed, which stays pending.

use moh_messages::{DsRequest, DsResponseBody, SelfRemoveClient};

use super::submission::Submission;
use crate::authenticate::Claimed;
use crate::change::Whose;
use crate::error::Refusal;
use crate::group::read_handshake;
use crate::node::Node;

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    body: &SelfRemoveClient,
) -> Result<DsResponseBody, Refusal> {
    let bytes = body.proposal.as_slice();
    let group_id = || Ok(read_handshake(bytes)?.group_id);
    let submission = Submission::by_member(node, claimed, bytes, group_id)?;
    let changed = node.change_group(
        &submission.group_id,
        |group, _| {
            let sender = submission.sender(group)?;
            let decision = group.propose(read_handshake(bytes)?, &sender)?;
            Ok((decision, sender.signature_key))
        },
        |_, changed, key| {
            vec![submission.answered(changed.epoch, changed.accepted_at, Whose::Key(key))]
        },
    );
    submission.answer(changed.await).await
}
