//! `send_message`: an application message. It needs no tree: the epoch, the sender's leaf key
//! and the audiences.

use moh_messages::{DsRequest, DsResponseBody, MlsBytes, QueuePayload, SendMessage};

use super::read_group;
use super::submission::Submission;
use crate::authenticate::Claimed;
use crate::change::{Change, Expect, Whose};
use crate::error::Refusal;
use crate::group::read_application;
use crate::node::Node;
use crate::owner::TRIES;
use crate::store::CommitError;

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    body: &SendMessage,
) -> Result<DsResponseBody, Refusal> {
    let bytes = body.message.as_slice();
    let submission = Submission::by_member(node, claimed, bytes, || {
        Ok(read_application(bytes)?.group_id)
    })?;
    let application = read_application(bytes)?;
    let payload = MlsBytes::new(bytes).map_err(|_| Refusal::LimitExceeded("message"))?;
    let payload = QueuePayload::MlsMessage(payload);
    let group_id = &submission.group_id;
    for _ in 0..TRIES {
        let now = node.now_ms();
        let decided = read_group(node, group_id, |group| {
            let sender = submission.sender(group)?;
            let outgoing = group.message(&application, &sender, &payload)?;
            Ok((sender, outgoing))
        });
        let (group, (sender, outgoing)) = match decided.await {
            Ok(decided) => decided,
            Err(refusal) => return submission.first_answer_or(refusal).await,
        };
        let (epoch, version) = (group.epoch(), group.version());
        let writes = vec![submission.answered(epoch, now, Whose::Key(sender.signature_key))];
        let expect = vec![
            Expect::Group(group_id.clone(), Some(version)),
            submission.is_new(),
        ];
        let mut change = Change { expect, writes };
        node.send(&group, outgoing, now, &mut change).await?;
        // The group stays as it is until the message is durable: what is accepted first is
        // delivered first.
        let committed = node.commit(change).await;
        drop(group);
        match committed {
            Ok(()) => {
                return Ok(DsResponseBody::Ok {
                    epoch,
                    accepted_at: now,
                });
            }
            Err(CommitError::Conflict) => {
                if let Some(first) = submission.first_answer().await? {
                    return Ok(first);
                }
                // What is not the newest is forgotten, and decided on again.
                let groups = node.groups();
                groups.is_newest(node.store(), group_id, version).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommitError::Conflict.into())
}
