//! `send_message`: an application message. It needs no tree: the epoch, the sender's leaf key
//! and the audiences.

use moh_messages::{DsAuth, DsRequest, DsRequestBody, DsResponseBody, MlsBytes, QueuePayload};

use super::group_commit::repeated_or;
use super::{TRIES, first_answer};
use crate::authenticate::Claimed;
use crate::change::{Answer, Change, Expect, Write};
use crate::crypto::sha256;
use crate::error::Refusal;
use crate::group::read_application;
use crate::node::Node;
use crate::store::CommitError;

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let request = &claimed.request;
    let (
        DsRequestBody::SendMessage(body),
        DsAuth::Leaf {
            leaf_index,
            signature,
        },
    ) = (&request.body, &request.auth)
    else {
        return Err(Refusal::Unauthenticated("a member signs this request"));
    };
    let bytes = body.message.as_slice();
    let application = read_application(bytes)?;
    let hash = sha256(bytes);
    let payload = MlsBytes::new(bytes).map_err(|_| Refusal::LimitExceeded("message"))?;
    let payload = QueuePayload::MlsMessage(payload);
    let group_id = &application.group_id;
    for _ in 0..TRIES {
        let now = node.now_ms();
        let group = node.groups().read(node.store(), group_id).await;
        let decided = group.and_then(|group| {
            let sender =
                group.authenticate_leaf(request, &claimed.signed, *leaf_index, signature)?;
            let outgoing = group.message(&application, &sender, &payload)?;
            Ok((group, sender, outgoing))
        });
        let (group, sender, outgoing) = match decided {
            Ok(decided) => decided,
            Err(refusal) => {
                return repeated_or(refusal, node, &claimed, group_id, &hash, signature).await;
            }
        };
        let epoch = group.epoch();
        let answer = Answer {
            epoch,
            accepted_at: now,
            signature_key: sender.signature_key,
        };
        let mut writes = vec![Write::Answer {
            group_id: group_id.clone(),
            message_hash: hash,
            answer,
        }];
        writes.extend(node.deliver(group_id, outgoing, now));
        let expect = vec![
            Expect::Group(group_id.clone(), Some(group.version())),
            Expect::NewMessage(group_id.clone(), hash),
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
                if let Some(first) =
                    first_answer(node, &claimed, group_id, &hash, signature).await?
                {
                    return Ok(first);
                }
                node.groups().invalidate(group_id).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommitError::Conflict.into())
}
