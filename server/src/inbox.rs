//! `/deliver_message`: what other providers have for our clients.

use moh_messages::{
    Audience, AudienceDigest, ClientId, Delivery, DeliveryResult, DsError, DsErrorCode,
    DsProtocolVersion, Endpoint, List, Message, ProviderName, QueuePayload, QueueingServiceRequest,
    QueueingServiceResponse, audience_digest,
};

use crate::authenticate::{Claimed, Repeats};
use crate::change::{Change, Expect, Write};
use crate::error::Refusal;
use crate::node::Node;

impl Node {
    /// Takes deliveries, in order, up to and including the first whose audience is not known.
    pub(crate) async fn deliver_message(
        &self,
        claimed: Claimed<QueueingServiceRequest>,
    ) -> Result<QueueingServiceResponse, Refusal> {
        // A repeated delivery is known by its id.
        let request = self
            .authenticate_provider(Endpoint::DeliverMessage, claimed, Repeats::Harmless)
            .await?
            .into_request();
        let wrong_endpoint = request
            .deliveries
            .iter()
            .any(|d| matches!(d.payload, QueuePayload::ConnectionRequest(_)));
        if wrong_endpoint {
            return Err(Refusal::WrongEndpoint(Endpoint::ConnectionRequest.path()));
        }
        let results = self.commit_decided(|| self.take(&request)).await?;
        let results = List::new(results).expect("not more than deliveries");
        Ok(QueueingServiceResponse {
            version: DsProtocolVersion::MOH1,
            results,
        })
    }

    async fn take(
        &self,
        request: &QueueingServiceRequest,
    ) -> Result<(Change, Vec<DeliveryResult>), Refusal> {
        let mut change = Change::default();
        let mut results = Vec::new();
        for delivery in &request.deliveries {
            let result = self
                .take_one(&request.sender, delivery, &mut change)
                .await?;
            let stop = result == DeliveryResult::UnknownAudience;
            results.push(result);
            if stop {
                break;
            }
        }
        Ok((change, results))
    }

    async fn take_one(
        &self,
        sender: &ProviderName,
        delivery: &Delivery,
        change: &mut Change,
    ) -> Result<DeliveryResult, Refusal> {
        let id = &delivery.delivery_id;
        let expected = Expect::NewDelivery(sender.clone(), id.clone());
        if change.expect.contains(&expected) {
            let error = DsError::new(DsErrorCode::POLICY_VIOLATION, "a delivery_id stands twice");
            return Ok(DeliveryResult::Error(error));
        }
        if let Some(before) = self.store().delivered(sender, id).await? {
            let unreadable = |_| Refusal::not_built("the first result");
            return DeliveryResult::decode(&before).map_err(unreadable);
        }
        let now = self.now_ms();
        let (members, enqueue) = match &delivery.audience {
            Audience::Full { recipients } => {
                let digest = audience_digest(recipients);
                self.enqueue(
                    sender,
                    recipients,
                    &digest,
                    delivery.except,
                    &delivery.payload,
                    now,
                )
            }
            Audience::Digest {
                audience_digest: digest,
            } => {
                let members = match said_before(change, sender, digest) {
                    Some(members) => Some(members),
                    None => self.store().audience(sender, digest).await?,
                };
                let Some(members) = members else {
                    return Ok(DeliveryResult::UnknownAudience);
                };
                let write = Write::Message {
                    sender: sender.clone(),
                    digest: digest.clone(),
                    except: delivery.except,
                    received_at: now,
                    payload: delivery.payload.encode(),
                };
                let members = self.queues().members(sender, digest, || members);
                (members, vec![write])
            }
        };
        if delivery
            .except
            .is_some_and(|e| usize::try_from(e).is_ok_and(|e| e >= members.len()))
        {
            let error = DsError::new(DsErrorCode::MALFORMED, "except is not in the audience");
            return Ok(DeliveryResult::Error(error));
        }
        let result = result_for(&members, delivery.except);
        change.expect.push(expected);
        change.writes.extend(enqueue);
        change.writes.push(Write::Delivered {
            sender: sender.clone(),
            delivery_id: id.clone(),
            result: result.encode(),
            received_at: now,
        });
        Ok(result)
    }
}

/// The members of an audience that an earlier delivery of the same request says in full.
fn said_before(
    change: &Change,
    by: &ProviderName,
    name: &AudienceDigest,
) -> Option<Vec<Option<ClientId>>> {
    change.writes.iter().find_map(|write| match write {
        Write::Audience {
            sender,
            digest,
            members,
        } if sender == by && digest == name => Some(members.clone()),
        _ => None,
    })
}

/// `ok` when every recipient is a client of ours.
fn result_for(members: &[Option<ClientId>], except: Option<u32>) -> DeliveryResult {
    let invalid: Vec<u32> = (0..)
        .zip(members)
        .filter(|(position, member)| member.is_none() && Some(*position) != except)
        .map(|(position, _)| position)
        .collect();
    if invalid.is_empty() {
        return DeliveryResult::Ok;
    }
    let recipients = List::new(invalid).expect("not more than recipients");
    DeliveryResult::InvalidClientQueueInformation { recipients }
}
