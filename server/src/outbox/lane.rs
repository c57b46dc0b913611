//! What a destination's task sends, and what it makes of the answers.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use moh_messages::{
    Audience, AudienceDigest, ClientId, ClientQueueInformation, Delivery, DeliveryResult, DsAuth,
    DsError, DsErrorCode, DsProtocolVersion, DsRequest, DsRequestBody, DsResponse, DsResponseBody,
    Endpoint, GroupId, List, Message, Opaque, ProviderAuth, ProviderName, QueuePayload,
    QueueingServiceRequest, QueueingServiceResponse, Recipients,
};
use tls_codec::Size as _;
use tokio::time::Instant;

use crate::change::{Change, Ending, OutboxDelivery, Write};
use crate::inbox::endpoint_of;
use crate::node::Node;
use crate::store::{OutboxItem, OutboxRow, StoreError};

/// The most deliveries in one request, and the most bytes of their payloads.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 4 << 20;
/// The most bytes of the deliveries in one request, audiences included, where there are several.
const MAX_REQUEST_BYTES: usize = 7 << 20;
/// Audiences that a destination is remembered to know.
const MAX_KNOWN: usize = 16_384;
/// Groups that wait while others go on.
const MAX_HELD: usize = 256;
/// Why something is set aside that was tried for too long.
const EXPIRED: &str = "expired";
/// Why something is set aside that was stored wrongly.
const UNREADABLE: &str = "what is stored cannot be read";

/// What was done of what waits.
pub(super) enum Progress {
    /// Nothing waits, but for what has to wait until then.
    Empty(Option<Instant>),
    /// Something; there may be more.
    Some,
    /// Nothing; the destination has to be tried again later, after so many seconds if it said so.
    Later {
        reason: String,
        after_seconds: Option<u32>,
    },
}

/// What came of an attempt.
enum Attempt {
    /// What was sent has had its answer.
    Answered,
    /// The destination will never take this request, for what is in it.
    Refused(String),
    /// Later again; after so many seconds, if it said so.
    Later {
        reason: String,
        after_seconds: Option<u32>,
    },
}

impl Attempt {
    fn later(reason: impl ToString) -> Self {
        Self::Later {
            reason: reason.to_string(),
            after_seconds: None,
        }
    }
}

/// A delivery that waits, decoded.
struct Waiting {
    id: u64,
    row: OutboxDelivery,
    payload: QueuePayload,
}

impl Waiting {
    /// Where deliveries like this one go.
    fn endpoint(&self) -> Endpoint {
        endpoint_of(&self.payload)
    }
}

/// What is sent at once.
enum Run {
    /// Deliveries of one kind.
    Deliveries(Vec<Waiting>),
    /// A client of ours is gone.
    ClientDeleted(u64, ClientId),
    /// It cannot be read.
    Unreadable(u64),
}

impl Run {
    /// The first that waits, and what goes with it.
    fn of(rows: Vec<OutboxRow>) -> Option<Self> {
        let mut run: Vec<Waiting> = Vec::new();
        for OutboxRow { id, item, .. } in rows {
            let next = match item {
                OutboxItem::ClientDeleted(client) if run.is_empty() => {
                    return Some(Self::ClientDeleted(id, client));
                }
                OutboxItem::ClientDeleted(_) => break,
                OutboxItem::Delivery(row) => match QueuePayload::decode(&row.payload) {
                    Ok(payload) => Waiting { id, row, payload },
                    Err(_) if run.is_empty() => return Some(Self::Unreadable(id)),
                    Err(_) => break,
                },
            };
            if run.first().is_some_and(|f| f.endpoint() != next.endpoint()) {
                break;
            }
            run.push(next);
        }
        (!run.is_empty()).then_some(Self::Deliveries(run))
    }
}

/// What a destination's task sends, and what it knows of the destination.
pub(super) struct LaneSender<'a> {
    node: &'a Node,
    destination: &'a ProviderName,
    lane: u8,
    /// Audiences that the destination has taken in full.
    known: HashSet<AudienceDigest>,
    /// Groups whose next delivery is not taken yet; the others go on.
    held: BTreeMap<GroupId, Held>,
    max_batch: usize,
}

/// Why a group has to wait.
struct Held {
    until: Instant,
    /// How often it was tried.
    failures: u32,
}

impl<'a> LaneSender<'a> {
    pub(super) fn new(node: &'a Node, destination: &'a ProviderName, lane: u8) -> Self {
        Self {
            node,
            destination,
            lane,
            known: HashSet::new(),
            held: BTreeMap::new(),
            max_batch: MAX_BATCH,
        }
    }

    /// Sends some of what waits.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(super) async fn deliver_what_waits(&mut self) -> Result<Progress, StoreError> {
        let store = self.node.store();
        let at = Instant::now();
        let held = self.held.iter().filter(|(_, held)| held.until > at);
        let held: BTreeSet<_> = held.map(|(group_id, _)| group_id.clone()).collect();
        let rows = store
            .outbox(
                self.destination,
                self.lane,
                &held,
                self.max_batch,
                MAX_BATCH_BYTES,
            )
            .await?;
        let now = self.node.now_ms();
        let keep_ms = self.node.outbox_expiry_ms();
        let expired: Vec<_> = rows
            .iter()
            .filter(|row| row.created_at.saturating_add(keep_ms) < now)
            .map(|row| self.set_aside(row.id, Ending::Expired, EXPIRED))
            .collect();
        if !expired.is_empty() {
            self.write(expired).await?;
            return Ok(Progress::Some);
        }
        let (first, tried, attempt) = match Run::of(rows) {
            None => {
                self.held.retain(|group_id, _| held.contains(group_id));
                let until = self.held.values().map(|held| held.until).min();
                return Ok(Progress::Empty(until));
            }
            Some(Run::Unreadable(id)) => {
                self.write(vec![self.set_aside(id, Ending::Unreadable, UNREADABLE)])
                    .await?;
                return Ok(Progress::Some);
            }
            Some(Run::ClientDeleted(id, client)) => (id, 1, self.tell(id, &client).await?),
            Some(Run::Deliveries(run)) => {
                let (deliveries, unreadable) = self.batch(&run).await?;
                if !unreadable.is_empty() {
                    self.write(unreadable).await?;
                    return Ok(Progress::Some);
                }
                let run = &run[..deliveries.len()];
                (run[0].id, run.len(), self.attempt(run, deliveries).await?)
            }
        };
        match attempt {
            Attempt::Answered => {
                self.max_batch = (self.max_batch * 2).min(MAX_BATCH);
                Ok(Progress::Some)
            }
            Attempt::Refused(reason) if tried == 1 => {
                self.write(vec![self.set_aside(first, Ending::RequestRefused, &reason)])
                    .await?;
                Ok(Progress::Some)
            }
            Attempt::Refused(_) => {
                self.max_batch = (tried / 2).max(1);
                Ok(Progress::Some)
            }
            Attempt::Later {
                reason,
                after_seconds,
            } => Ok(Progress::Later {
                reason,
                after_seconds,
            }),
        }
    }

    async fn write(&self, mut writes: Vec<Write>) -> Result<(), StoreError> {
        if writes
            .iter()
            .any(|w| matches!(w, Write::OutboxSetAside { .. }))
        {
            writes.push(self.node.outbox_bounds(self.destination));
        }
        let change = Change {
            expect: Vec::new(),
            writes,
        };
        self.node
            .commit(change)
            .await
            .map_err(|error| StoreError(error.to_string()))
    }

    /// What waits as deliveries, as many as one request holds; and what becomes of those whose
    /// audience cannot be read.
    async fn batch(&self, run: &[Waiting]) -> Result<(Vec<Delivery>, Vec<Write>), StoreError> {
        let mut deliveries = Vec::new();
        let mut unreadable = Vec::new();
        let mut bytes = 0;
        // Said once in full, an audience is known to the deliveries after it.
        let mut said = HashSet::new();
        for waiting in run {
            let digest = &waiting.row.digest;
            let audience = if self.known.contains(digest) || said.contains(digest) {
                Some(Audience::Digest {
                    audience_digest: digest.clone(),
                })
            } else {
                let recipients = self.node.store().outbox_audience(digest).await?;
                let recipients = recipients.and_then(|bytes| Recipients::decode(&bytes).ok());
                recipients.map(|recipients| Audience::Full { recipients })
            };
            let Some(audience) = audience else {
                unreadable.push(self.set_aside(waiting.id, Ending::Unreadable, UNREADABLE));
                continue;
            };
            let delivery = Delivery {
                delivery_id: waiting.row.delivery_id.clone(),
                audience,
                except: waiting.row.except,
                payload: waiting.payload.clone(),
            };
            bytes += delivery.tls_serialized_len();
            if bytes > MAX_REQUEST_BYTES && !deliveries.is_empty() {
                break;
            }
            said.insert(digest);
            deliveries.push(delivery);
        }
        Ok((deliveries, unreadable))
    }

    async fn attempt(
        &mut self,
        run: &[Waiting],
        deliveries: Vec<Delivery>,
    ) -> Result<Attempt, StoreError> {
        let mut request = QueueingServiceRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.node.name().clone(),
            recipient: self.destination.clone(),
            deliveries: List::new(deliveries).expect("not more than were read"),
            provider_auth: ProviderAuth::blank(),
        };
        let endpoint = run[0].endpoint();
        let environment = self.node.environment();
        self.node
            .keys()
            .sign_request(environment, endpoint, &mut request, |r| {
                Some(&mut r.provider_auth)
            });
        let is_full = |d: &Delivery| matches!(d.audience, Audience::Full { .. });
        let in_full: Vec<bool> = request.deliveries.iter().map(is_full).collect();
        match self
            .ask(endpoint, request.encode(), is_about_the_content)
            .await
        {
            Err(attempt) => Ok(attempt),
            Ok(body) => match QueueingServiceResponse::decode(&body) {
                Ok(response) => self.settle(run, &in_full, &response.results).await,
                Err(error) => {
                    let what = format!("the answer does not decode: {error}");
                    Ok(Attempt::later(what))
                }
            },
        }
    }

    /// Tells the owner of groups that a client of ours is gone, so that it is removed from them.
    async fn tell(&self, id: u64, client: &ClientId) -> Result<Attempt, StoreError> {
        let mut request = DsRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.node.name().clone(),
            recipient: self.destination.clone(),
            group_state_key: Opaque::empty(),
            body: DsRequestBody::ClientDeleted,
            auth: DsAuth::Provider {
                on_behalf_of: client.clone(),
                provider_auth: ProviderAuth::blank(),
            },
        };
        let (endpoint, environment) = (Endpoint::GroupOperation, self.node.environment());
        self.node
            .keys()
            .sign_request(environment, endpoint, &mut request, |r| match &mut r.auth {
                DsAuth::Provider { provider_auth, .. } => Some(provider_auth),
                DsAuth::Anonymous | DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => None,
            });
        match self
            .ask(endpoint, request.encode(), is_final_for_client)
            .await
        {
            Err(attempt) => Ok(attempt),
            Ok(body) => match DsResponse::decode(&body).map(|response| response.body) {
                Ok(DsResponseBody::Ok { .. }) => {
                    self.write(vec![Write::OutboxDone { id }]).await?;
                    Ok(Attempt::Answered)
                }
                _ => Ok(Attempt::later("the answer is not ok")),
            },
        }
    }

    /// The body of the destination's answer; or what came of it, where it is none of success.
    async fn ask(
        &self,
        endpoint: Endpoint,
        body: Vec<u8>,
        is_final: fn(DsErrorCode) -> bool,
    ) -> Result<Bytes, Attempt> {
        let federation = self.node.federation();
        let answer = federation.ask(self.destination, endpoint, body.into());
        let answer = answer.await.map_err(Attempt::later)?;
        if matches!(answer.status, 413 | 415) {
            return Err(Attempt::Refused(format!("answered {}", answer.status)));
        }
        let Some(body) = answer.body else {
            let what = format!("answered {} without a message", answer.status);
            return Err(Attempt::later(what));
        };
        if (200..300).contains(&answer.status) {
            return Ok(body);
        }
        Err(
            match DsResponse::decode(&body).map(|response| response.body) {
                Ok(DsResponseBody::Error(error)) if is_final(error.code) => {
                    Attempt::Refused(error.to_string())
                }
                Ok(DsResponseBody::Error(error)) => Attempt::Later {
                    after_seconds: seconds_in(&error),
                    reason: error.to_string(),
                },
                _ => Attempt::later(format!("answered {}", answer.status)),
            },
        )
    }

    /// Removes what was answered, in order, up to the first that was not.
    async fn settle(
        &mut self,
        run: &[Waiting],
        in_full: &[bool],
        results: &[DeliveryResult],
    ) -> Result<Attempt, StoreError> {
        let mut writes = Vec::new();
        let mut stopped = None;
        let mut gone: BTreeMap<&GroupId, HashSet<ClientQueueInformation>> = BTreeMap::new();
        for ((waiting, in_full), result) in run.iter().zip(in_full).zip(results) {
            match result {
                DeliveryResult::Ok => {}
                DeliveryResult::InvalidClientQueueInformation { recipients } => {
                    let queues = self.queues_at(&waiting.row, recipients).await?;
                    gone.entry(&waiting.row.group_id)
                        .or_default()
                        .extend(queues);
                }
                DeliveryResult::UnknownAudience => {
                    self.known.remove(&waiting.row.digest);
                    // It was told just now who they are: to say so again at once is of no use.
                    stopped = in_full.then(|| "an audience is not taken".to_owned());
                    break;
                }
                DeliveryResult::Error(error) if is_retryable(error.code) => {
                    if !self.hold(&waiting.row.group_id, error) {
                        stopped = Some(error.to_string());
                    }
                    break;
                }
                DeliveryResult::Error(error) => {
                    writes.push(self.set_aside(waiting.id, Ending::Refused, &error.to_string()));
                    continue;
                }
            }
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(waiting.row.digest.clone());
            self.held.remove(&waiting.row.group_id);
            writes.push(Write::OutboxDone { id: waiting.id });
        }
        let destination = self.destination;
        for (group_id, queues) in gone {
            let wanted = self.node.want_removals(group_id, destination, &queues);
            writes.extend(wanted.await?);
        }
        let answered = !writes.is_empty();
        if answered {
            self.write(writes).await?;
        }
        let nothing = results.is_empty().then(|| "no results".to_owned());
        match stopped.or(nothing) {
            Some(reason) if !answered => Ok(Attempt::Later {
                reason,
                after_seconds: None,
            }),
            _ => Ok(Attempt::Answered),
        }
    }

    /// Whether a group can wait while the others go on: its deliveries are made in order, but one
    /// group does not wait for another.
    fn hold(&mut self, group_id: &GroupId, error: &DsError) -> bool {
        if self.held.len() >= MAX_HELD && !self.held.contains_key(group_id) {
            return false;
        }
        let failures = self.held.get(group_id).map_or(0, |held| held.failures + 1);
        let wait = self.node.backoff(failures, seconds_in(error));
        let (destination, wait_ms) = (self.destination, wait.as_millis());
        tracing::info!(%destination, %error, wait_ms, "a group has to wait");
        let until = Instant::now() + wait;
        self.held.insert(group_id.clone(), Held { until, failures });
        true
    }

    /// The recipients of a delivery at these positions, which do not exist.
    async fn queues_at(
        &self,
        delivery: &OutboxDelivery,
        positions: &[u32],
    ) -> Result<HashSet<ClientQueueInformation>, StoreError> {
        let destination = self.destination;
        tracing::info!(%destination, invalid = positions.len(), "not all recipients exist");
        let audience = self.node.store().outbox_audience(&delivery.digest);
        let recipients = audience
            .await?
            .and_then(|bytes| Recipients::decode(&bytes).ok());
        let recipients = recipients.unwrap_or_else(List::empty);
        let at = |position: &u32| recipients.get(usize::try_from(*position).ok()?).cloned();
        Ok(positions.iter().filter_map(at).collect())
    }

    fn set_aside(&self, id: u64, ending: Ending, reason: &str) -> Write {
        let destination = self.destination;
        tracing::warn!(%destination, id, reason, "what waited is set aside");
        Write::OutboxSetAside {
            id,
            ending,
            reason: reason.to_owned(),
            at: self.node.now_ms(),
        }
    }
}

/// When the destination wants to be asked again, where it says that.
fn seconds_in(error: &DsError) -> Option<u32> {
    let says = matches!(
        error.code,
        DsErrorCode::UNAVAILABLE | DsErrorCode::RATE_LIMITED
    );
    let seconds = u32::decode(error.data.as_slice());
    seconds.ok().filter(|_| says)
}

/// Whether another request with the same content would be refused again.
fn is_about_the_content(code: DsErrorCode) -> bool {
    matches!(
        code,
        DsErrorCode::MALFORMED
            | DsErrorCode::WRONG_ENDPOINT
            | DsErrorCode::INVALID_MESSAGE
            | DsErrorCode::POLICY_VIOLATION
            | DsErrorCode::LIMIT_EXCEEDED
    )
}

/// Whether an owner that is told of a client that is gone will never say anything else.
fn is_final_for_client(code: DsErrorCode) -> bool {
    !is_retryable(code) && code != DsErrorCode::UNAUTHENTICATED
}

fn is_retryable(code: DsErrorCode) -> bool {
    matches!(
        code,
        DsErrorCode::UNAVAILABLE | DsErrorCode::RATE_LIMITED | DsErrorCode::REPLAYED
    )
}
