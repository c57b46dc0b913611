//! Durable deliveries to other providers: made in order, tried until they are answered.
//!
//! For each destination there is one task. It reads what waits, sends it as a batch, and
//! removes what was answered; a delivery is in the store until then, so that whatever dies
//! here, it is made again, with the same id.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moh_messages::{
    Audience, AudienceDigest, ClientQueueInformation, Delivery, DeliveryResult, DsErrorCode,
    DsProtocolVersion, DsResponse, DsResponseBody, Endpoint, GroupId, List, Message, ProviderAuth,
    ProviderName, QueuePayload, QueueingServiceRequest, QueueingServiceResponse, Recipients,
};
use tls_codec::Size as _;
use tokio::sync::Notify;

use crate::change::{Change, Write};
use crate::clock::DAY_MS;
use crate::node::Node;
use crate::store::{OutboxRow, StoreError};

/// The most deliveries in one request, and the most bytes of their payloads.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 4 << 20;
/// The most bytes of the deliveries in one request, audiences included, where there are several.
const MAX_REQUEST_BYTES: usize = 7 << 20;
/// Audiences that a destination is remembered to know.
const MAX_KNOWN: usize = 16_384;
/// Deliveries are tried for so long.
const KEEP_MS: u64 = 7 * DAY_MS;
/// The first wait after a failure, which is doubled with each further one, and the longest.
const FIRST_BACKOFF_MS: u64 = 250;
const MAX_BACKOFF_MS: u64 = 5 * 60 * 1000;

/// What a destination's task waits for.
#[derive(Default)]
struct Lane {
    /// There is something new to deliver.
    new: Notify,
    /// The destination is alive, whatever failed before.
    alive: Notify,
}

/// The destinations that have a task.
#[derive(Default)]
pub(crate) struct Outbox {
    lanes: Mutex<HashMap<ProviderName, Arc<Lane>>>,
}

impl Outbox {
    fn lanes(&self) -> std::sync::MutexGuard<'_, HashMap<ProviderName, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A provider was heard of: there is no reason to wait for it any longer.
    pub(crate) fn sign_of_life(&self, provider: &ProviderName) {
        if let Some(lane) = self.lanes().get(provider) {
            lane.alive.notify_one();
        }
    }
}

/// What came of an attempt.
enum Attempt {
    /// Deliveries have had their answer.
    Answered,
    /// The destination will never take this request, for what is in it.
    Refused(String),
    /// Later again; after so many seconds, if it said so.
    Later {
        reason: String,
        after_seconds: Option<u32>,
    },
}

impl Node {
    /// Sees to it that what waits for a destination is delivered.
    pub(crate) fn wake_outbox(&self, destination: &ProviderName) {
        let mut lanes = self.outbox().lanes();
        if let Some(lane) = lanes.get(destination) {
            lane.new.notify_one();
            return;
        }
        let lane = Arc::new(Lane::default());
        lanes.insert(destination.clone(), lane.clone());
        let (node, destination) = (self.clone(), destination.clone());
        self.tasks()
            .spawn(async move { node.run_lane(&destination, &lane).await });
    }

    async fn run_lane(&self, destination: &ProviderName, lane: &Lane) {
        let mut sender = LaneSender {
            node: self,
            destination,
            known: HashSet::new(),
            max_batch: MAX_BATCH,
        };
        let mut failures = 0u32;
        let stopping = self.stopping();
        loop {
            // An attempt that is cut off is made again after the next start.
            let progress = tokio::select! {
                progress = sender.deliver_what_waits() => progress,
                () = stopping.cancelled() => return,
            };
            let wait = match progress {
                Ok(Progress::Empty) => None,
                Ok(Progress::Some) => {
                    failures = 0;
                    continue;
                }
                Ok(Progress::Later {
                    reason,
                    after_seconds,
                }) => {
                    let wait = self.backoff(failures, after_seconds);
                    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(%destination, %reason, wait_ms, "not delivered");
                    failures += 1;
                    Some(wait)
                }
                Err(error) => {
                    tracing::error!(%destination, %error, "the outbox cannot be read");
                    failures += 1;
                    Some(self.backoff(failures, None))
                }
            };
            match wait {
                None => tokio::select! {
                    () = lane.new.notified() => {}
                    () = stopping.cancelled() => return,
                },
                Some(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = lane.alive.notified() => failures = 0,
                    () = stopping.cancelled() => return,
                },
            }
        }
    }

    /// Full jitter: anything between nothing and twice the last limit.
    fn backoff(&self, failures: u32, after_seconds: Option<u32>) -> Duration {
        let limit = FIRST_BACKOFF_MS
            .saturating_mul(1 << failures.min(20))
            .min(MAX_BACKOFF_MS);
        let jitter = u64::from_be_bytes(self.random_bytes()) % (limit + 1);
        let asked = u64::from(after_seconds.unwrap_or(0)) * 1000;
        Duration::from_millis(jitter.max(asked.min(MAX_BACKOFF_MS)))
    }
}

enum Progress {
    Empty,
    Some,
    Later {
        reason: String,
        after_seconds: Option<u32>,
    },
}

struct LaneSender<'a> {
    node: &'a Node,
    destination: &'a ProviderName,
    /// Audiences that the destination has taken in full.
    known: HashSet<AudienceDigest>,
    max_batch: usize,
}

impl LaneSender<'_> {
    async fn deliver_what_waits(&mut self) -> Result<Progress, StoreError> {
        let store = self.node.store();
        let rows = store
            .outbox(self.destination, self.max_batch, MAX_BATCH_BYTES)
            .await?;
        if rows.is_empty() {
            return Ok(Progress::Empty);
        }
        let now = self.node.now_ms();
        let expired: Vec<_> = rows
            .iter()
            .take_while(|row| row.delivery.created_at.saturating_add(KEEP_MS) < now)
            .map(|row| set_aside(row, "expired"))
            .collect();
        if !expired.is_empty() {
            self.write(expired).await?;
            return Ok(Progress::Some);
        }
        let (deliveries, unreadable) = self.batch(&rows).await?;
        if !unreadable.is_empty() {
            self.write(unreadable).await?;
            return Ok(Progress::Some);
        }
        let rows = &rows[..deliveries.len()];
        match self.attempt(rows, deliveries).await? {
            Attempt::Answered => {
                self.max_batch = (self.max_batch * 2).min(MAX_BATCH);
                Ok(Progress::Some)
            }
            Attempt::Refused(reason) if rows.len() == 1 => {
                self.write(vec![set_aside(&rows[0], &reason)]).await?;
                Ok(Progress::Some)
            }
            Attempt::Refused(_) => {
                self.max_batch = (rows.len() / 2).max(1);
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

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let change = Change {
            expect: Vec::new(),
            writes,
        };
        self.node
            .commit(change)
            .await
            .map_err(|error| StoreError(error.to_string()))
    }

    /// The rows as deliveries, as many as one request holds; and what becomes of those that
    /// cannot be read.
    async fn batch(&self, rows: &[OutboxRow]) -> Result<(Vec<Delivery>, Vec<Write>), StoreError> {
        let mut deliveries = Vec::new();
        let mut unreadable = Vec::new();
        let mut bytes = 0;
        // Said once in full, an audience is known to the deliveries after it.
        let mut said = HashSet::new();
        for row in rows {
            let digest = &row.delivery.digest;
            let audience = if self.known.contains(digest) || said.contains(digest) {
                Some(Audience::Digest {
                    audience_digest: digest.clone(),
                })
            } else {
                let recipients = self.node.store().outbox_audience(digest).await?;
                let recipients = recipients.and_then(|bytes| Recipients::decode(&bytes).ok());
                recipients.map(|recipients| Audience::Full { recipients })
            };
            match (audience, QueuePayload::decode(&row.delivery.payload)) {
                (Some(audience), Ok(payload)) => {
                    let delivery = Delivery {
                        delivery_id: row.delivery.delivery_id.clone(),
                        audience,
                        except: row.delivery.except,
                        payload,
                    };
                    bytes += delivery.tls_serialized_len();
                    if bytes > MAX_REQUEST_BYTES && !deliveries.is_empty() {
                        break;
                    }
                    said.insert(digest);
                    deliveries.push(delivery);
                }
                _ => unreadable.push(set_aside(row, "what is stored cannot be read")),
            }
        }
        Ok((deliveries, unreadable))
    }

    async fn attempt(
        &mut self,
        rows: &[OutboxRow],
        deliveries: Vec<Delivery>,
    ) -> Result<Attempt, StoreError> {
        let mut request = QueueingServiceRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.node.name().clone(),
            recipient: self.destination.clone(),
            deliveries: List::new(deliveries).expect("not more than were read"),
            provider_auth: ProviderAuth::blank(),
        };
        let endpoint = Endpoint::DeliverMessage;
        let environment = self.node.environment();
        self.node
            .keys()
            .sign_request(environment, endpoint, &mut request, |r| {
                Some(&mut r.provider_auth)
            });
        let body = request.encode().into();
        let is_full = |d: &Delivery| matches!(d.audience, Audience::Full { .. });
        let in_full: Vec<bool> = request.deliveries.iter().map(is_full).collect();
        let later = |reason: String, after_seconds| {
            Ok(Attempt::Later {
                reason,
                after_seconds,
            })
        };
        let answer = match self
            .node
            .federation()
            .ask(self.destination, endpoint, body)
            .await
        {
            Ok(answer) => answer,
            Err(error) => return later(error.to_string(), None),
        };
        if matches!(answer.status, 413 | 415) {
            return Ok(Attempt::Refused(format!("answered {}", answer.status)));
        }
        let Some(body) = answer.body else {
            return later(
                format!("answered {} without a message", answer.status),
                None,
            );
        };
        if (200..300).contains(&answer.status) {
            return match QueueingServiceResponse::decode(&body) {
                Ok(response) => self.settle(rows, &in_full, &response.results).await,
                Err(error) => later(format!("the answer does not decode: {error}"), None),
            };
        }
        match DsResponse::decode(&body).map(|response| response.body) {
            Ok(DsResponseBody::Error(error)) if is_about_the_content(error.code) => {
                Ok(Attempt::Refused(error.to_string()))
            }
            Ok(DsResponseBody::Error(error)) => {
                let seconds = u32::decode(error.data.as_slice()).ok().filter(|_| {
                    matches!(
                        error.code,
                        DsErrorCode::UNAVAILABLE | DsErrorCode::RATE_LIMITED
                    )
                });
                later(error.to_string(), seconds)
            }
            _ => later(format!("answered {}", answer.status), None),
        }
    }

    /// Removes what was answered, in order, up to the first that was not.
    async fn settle(
        &mut self,
        rows: &[OutboxRow],
        in_full: &[bool],
        results: &[DeliveryResult],
    ) -> Result<Attempt, StoreError> {
        let mut writes = Vec::new();
        let mut stopped = None;
        let mut gone: BTreeMap<&GroupId, HashSet<ClientQueueInformation>> = BTreeMap::new();
        for ((row, in_full), result) in rows.iter().zip(in_full).zip(results) {
            match result {
                DeliveryResult::Ok => {}
                DeliveryResult::InvalidClientQueueInformation { recipients } => {
                    let queues = self.queues_at(row, recipients).await?;
                    gone.entry(&row.delivery.group_id)
                        .or_default()
                        .extend(queues);
                }
                DeliveryResult::UnknownAudience => {
                    self.known.remove(&row.delivery.digest);
                    // It was told just now who they are: to say so again at once is of no use.
                    stopped = in_full.then(|| "an audience is not taken".to_owned());
                    break;
                }
                DeliveryResult::Error(error) if is_retryable(error.code) => {
                    stopped = Some(error.to_string());
                    break;
                }
                DeliveryResult::Error(error) => {
                    writes.push(set_aside(row, &error.to_string()));
                    continue;
                }
            }
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(row.delivery.digest.clone());
            writes.push(Write::OutboxDone { id: row.id });
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

    /// The recipients of a delivery at these positions, which do not exist.
    async fn queues_at(
        &self,
        row: &OutboxRow,
        positions: &[u32],
    ) -> Result<HashSet<ClientQueueInformation>, StoreError> {
        let destination = self.destination;
        tracing::info!(%destination, invalid = positions.len(), "not all recipients exist");
        let audience = self.node.store().outbox_audience(&row.delivery.digest);
        let recipients = audience
            .await?
            .and_then(|bytes| Recipients::decode(&bytes).ok());
        let recipients = recipients.unwrap_or_else(List::empty);
        let at = |position: &u32| recipients.get(usize::try_from(*position).ok()?).cloned();
        Ok(positions.iter().filter_map(at).collect())
    }
}

fn set_aside(row: &OutboxRow, reason: &str) -> Write {
    tracing::warn!(destination = %row.delivery.destination, id = row.id, reason, "a delivery is set aside");
    Write::OutboxSetAside {
        id: row.id,
        reason: reason.to_owned(),
    }
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

fn is_retryable(code: DsErrorCode) -> bool {
    matches!(
        code,
        DsErrorCode::UNAVAILABLE | DsErrorCode::RATE_LIMITED | DsErrorCode::REPLAYED
    )
}
