//! `send_message`: an application message. It needs no tree: the epoch, the sender's leaf key
//! and the audiences.

use moh_messages::{DsRequest, DsRequestBody, DsResponseBody, MlsBytes, QueuePayload};

use super::TRIES;
use super::submission::Submission;
use crate::authenticate::Claimed;
use crate::change::{Change, Expect};
use crate::error::Refusal;
use crate::group::{Application, Group, Outgoing, Sender, read_application};
use crate::node::Node;
use crate::store::CommitError;

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let DsRequestBody::SendMessage(body) = &claimed.request.body else {
        return Err(Refusal::not_built(claimed.request.body.name()));
    };
    let bytes = body.message.as_slice();
    let read = || {
        let application = read_application(bytes)?;
        Ok((application.group_id.clone(), application))
    };
    let (submission, application) = Submission::new(node, &claimed, bytes, read)?;
    let payload = MlsBytes::new(bytes).map_err(|_| Refusal::LimitExceeded("message"))?;
    let payload = QueuePayload::MlsMessage(payload);
    let group_id = &submission.group_id;
    for _ in 0..TRIES {
        let now = node.now_ms();
        let group = match node.groups().read(node.store(), group_id).await {
            Ok(group) => group,
            Err(refusal) => return submission.first_answer_or(refusal).await,
        };
        let (sender, outgoing) = match decide(&group, &submission, &application, &payload) {
            Ok(decided) => decided,
            Err(refusal) => {
                let version = group.version();
                drop(group);
                if node
                    .groups()
                    .is_newest(node.store(), group_id, version)
                    .await?
                {
                    return submission.first_answer_or(refusal).await;
                }
                continue;
            }
        };
        let (epoch, version) = (group.epoch(), group.version());
        let mut writes = vec![submission.answered(epoch, now, sender.signature_key)];
        writes.extend(node.deliver(group_id, outgoing, now));
        let expect = vec![
            Expect::Group(group_id.clone(), Some(version)),
            submission.is_new(),
        ];
        // The group stays as it is until the message is durable: what is accepted first is
        // delivered first.
        let committed = node.commit(Change { expect, writes }).await;
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
                node.groups()
                    .is_newest(node.store(), group_id, version)
                    .await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommitError::Conflict.into())
}

fn decide(
    group: &Group,
    submission: &Submission<'_>,
    application: &Application,
    payload: &QueuePayload,
) -> Result<(Sender, Vec<Outgoing>), Refusal> {
    let Submission {
        claimed,
        leaf_index,
        signature,
        ..
    } = submission;
    let sender =
        group.authenticate_leaf(&claimed.request, &claimed.signed, *leaf_index, signature)?;
    let outgoing = group.message(application, &sender, payload)?;
    Ok((sender, outgoing))
}
