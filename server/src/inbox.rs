//! `/deliver_message` and `/connection_request`: what other providers have for our clients.

use moh_messages::{
    Audience, ClientId, ConnectionRequest, Delivery, DeliveryResult, DsError, DsErrorCode,
    DsProtocolVersion, Endpoint, List, Message, ProviderName, QueuePayload, QueueingServiceRequest,
    QueueingServiceResponse, audience_digest,
};

use crate::authenticate::{Claimed, Repeats};
use crate::change::{Change, Expect, Write};
use crate::connections::Asking;
use crate::deliver::written_before;
use crate::error::Refusal;
use crate::node::Node;

/// The longest Welcome in a connection request, in bytes.
const MAX_WELCOME_BYTES: usize = 512 << 10;

impl Node {
    /// Takes deliveries, in order, up to and including the first that has to be made again.
    pub(crate) async fn deliver(
        &self,
        endpoint: Endpoint,
        claimed: Claimed<QueueingServiceRequest>,
    ) -> Result<QueueingServiceResponse, Refusal> {
        // A repeated delivery is known by its id.
        let request = self
            .authenticate_provider(endpoint, claimed, Repeats::Known)
            .await?
            .into_request();
        let endpoints = request.deliveries.iter().map(|d| endpoint_of(&d.payload));
        if let Some(right) = endpoints.into_iter().find(|right| *right != endpoint) {
            return Err(Refusal::WrongEndpoint(right.path()));
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
            let sender = &request.sender;
            let result = match self.known_result(sender, delivery, &mut change).await? {
                Some(result) => result,
                None => match &delivery.payload {
                    QueuePayload::MlsMessage(_) => {
                        self.take_message(sender, delivery, &mut change).await?
                    }
                    QueuePayload::ConnectionRequest(request) => {
                        self.take_request(sender, delivery, request, &mut change)
                            .await?
                    }
                },
            };
            let ends = is_to_be_repeated(&result);
            results.push(result);
            if ends {
                break;
            }
        }
        Ok((change, results))
    }

    /// The result of a delivery that was taken before, or cannot be.
    async fn known_result(
        &self,
        sender: &ProviderName,
        delivery: &Delivery,
        change: &mut Change,
    ) -> Result<Option<DeliveryResult>, Refusal> {
        let id = &delivery.delivery_id;
        let expected = Expect::NewDelivery(sender.clone(), id.clone());
        if change.expect.contains(&expected) {
            let error = DsError::new(DsErrorCode::POLICY_VIOLATION, "a delivery_id stands twice");
            return Ok(Some(DeliveryResult::Error(error)));
        }
        if let Some(before) = self.store().delivered(sender, id).await? {
            let unreadable = |_| Refusal::not_built("the first result");
            let result = DeliveryResult::decode(&before).map_err(unreadable)?;
            return Ok(Some(result));
        }
        Ok(None)
    }

    async fn take_message(
        &self,
        sender: &ProviderName,
        delivery: &Delivery,
        change: &mut Change,
    ) -> Result<DeliveryResult, Refusal> {
        let (members, digest) = match &delivery.audience {
            Audience::Full { recipients } => {
                if is_beyond(delivery.except, recipients.len()) {
                    return Ok(not_in_the_audience());
                }
                let digest = audience_digest(recipients);
                let before = change.writes.len();
                let seated = self.seat(sender, recipients, &digest, &mut change.writes);
                let members = seated.await?.into_members();
                if is_for_nobody(&members, delivery.except) {
                    change.writes.truncate(before);
                }
                (members, digest)
            }
            Audience::Digest { audience_digest } => {
                let said = written_before(&change.writes, sender, audience_digest);
                let members = match said {
                    Some(members) => Some(members),
                    None => self.known_audience(sender, audience_digest).await?,
                };
                match members {
                    Some(members) => (members, audience_digest.clone()),
                    None => return Ok(DeliveryResult::UnknownAudience),
                }
            }
        };
        if is_beyond(delivery.except, members.len()) {
            return Ok(not_in_the_audience());
        }
        let now = self.now_ms();
        let result = result_for(&members, delivery.except);
        if !is_for_nobody(&members, delivery.except) {
            change.writes.push(Write::Message {
                sender: sender.clone(),
                digest,
                except: delivery.except,
                received_at: now,
                payload: delivery.payload.encode(),
            });
        }
        taken(change, sender, delivery, &result, now);
        Ok(result)
    }

    async fn take_request(
        &self,
        sender: &ProviderName,
        delivery: &Delivery,
        request: &ConnectionRequest,
        change: &mut Change,
    ) -> Result<DeliveryResult, Refusal> {
        let refused = |what| {
            let error = DsError::new(DsErrorCode::POLICY_VIOLATION, what);
            Ok(DeliveryResult::Error(error))
        };
        if request.requester.provider() != *sender {
            return refused("the requester is of another provider");
        }
        if request.responder.provider() != *self.name() {
            return refused("the responder is of another provider");
        }
        if request.welcome.as_slice().len() > MAX_WELCOME_BYTES {
            let error = DsError::new(DsErrorCode::LIMIT_EXCEEDED, "the Welcome is too long");
            return Ok(DeliveryResult::Error(error));
        }
        // The queues have to be known one by one, should the request be declined.
        let Audience::Full { recipients } = &delivery.audience else {
            return Ok(DeliveryResult::UnknownAudience);
        };
        if is_beyond(delivery.except, recipients.len()) {
            return Ok(not_in_the_audience());
        }
        let asking = Asking {
            sender,
            recipients,
            except: delivery.except,
            request,
        };
        let result = self.ask(&asking, change).await?;
        if !is_to_be_repeated(&result) {
            taken(change, sender, delivery, &result, self.now_ms());
        }
        Ok(result)
    }
}

/// Where deliveries of a kind go.
pub(crate) fn endpoint_of(payload: &QueuePayload) -> Endpoint {
    match payload {
        QueuePayload::MlsMessage(_) => Endpoint::DeliverMessage,
        QueuePayload::ConnectionRequest(_) => Endpoint::ConnectionRequest,
    }
}

/// Whether the sender makes the delivery again; then nothing after it is looked at.
fn is_to_be_repeated(result: &DeliveryResult) -> bool {
    match result {
        DeliveryResult::UnknownAudience => true,
        DeliveryResult::Error(error) => error.code == DsErrorCode::RATE_LIMITED,
        DeliveryResult::Ok | DeliveryResult::InvalidClientQueueInformation { .. } => false,
    }
}

/// A delivery is taken, and known by its id from now on.
fn taken(
    change: &mut Change,
    sender: &ProviderName,
    delivery: &Delivery,
    result: &DeliveryResult,
    now: u64,
) {
    let (sender, delivery_id) = (sender.clone(), delivery.delivery_id.clone());
    let expected = Expect::NewDelivery(sender.clone(), delivery_id.clone());
    change.expect.push(expected);
    change.writes.push(Write::Delivered {
        sender,
        delivery_id,
        result: result.encode(),
        received_at: now,
    });
}

fn is_beyond(except: Option<u32>, recipients: usize) -> bool {
    except.is_some_and(|e| usize::try_from(e).is_ok_and(|e| e >= recipients))
}

/// Whether nothing of it has to be kept: whoever knows nobody here fills nothing.
fn is_for_nobody(members: &[Option<ClientId>], except: Option<u32>) -> bool {
    let mut members = (0..).zip(members);
    !members.any(|(position, member)| member.is_some() && Some(position) != except)
}

fn not_in_the_audience() -> DeliveryResult {
    let error = DsError::new(DsErrorCode::MALFORMED, "except is not in the audience");
    DeliveryResult::Error(error)
}

/// `ok` when every recipient is a client of ours.
pub(crate) fn result_for(members: &[Option<ClientId>], except: Option<u32>) -> DeliveryResult {
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
