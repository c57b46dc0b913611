//! Other providers: they answer as they are told to, and remember what they were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use moh_messages::{
    Audience, AudienceDigest, CONTENT_TYPE, Delivery, DeliveryId, DeliveryResult, DsError,
    DsErrorCode, DsProtocolVersion, DsResponse, DsResponseBody, Endpoint, List, Message,
    QueuePayload, QueueingServiceRequest, QueueingServiceResponse, VerificationKeyResponse,
    audience_digest,
};
use moh_server::Keys;
use moh_server::federation::{PeerRequest, PeerResponse, Transport, Unreachable};
use tokio::time::{Instant, sleep};

/// How another provider answers deliveries.
#[derive(Clone, Debug)]
pub(crate) enum Mood {
    /// As it should.
    Well,
    /// It cannot be reached.
    Away,
    /// It never answers.
    Silent,
    /// With this status and no message; with this in Retry-After.
    Status(u16, Option<u32>),
    /// Batches of more than so many are too large, as for a proxy.
    Small(usize),
}

/// One request for deliveries.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) at: Instant,
    pub(crate) texts: Vec<String>,
    pub(crate) in_full: Vec<bool>,
    pub(crate) ids: Vec<DeliveryId>,
}

struct Peer {
    mood: Mood,
    keys: Arc<Keys>,
    /// Deliveries with texts that begin with this are answered so.
    results: BTreeMap<&'static str, DeliveryResult>,
    /// Requests with texts that begin with this are answered so.
    fails_on: BTreeMap<&'static str, Mood>,
    batches: Vec<Batch>,
    audiences: BTreeSet<AudienceDigest>,
    known: BTreeSet<DeliveryId>,
    taken: Vec<String>,
    /// Requests that are being answered.
    at_once: usize,
    most_at_once: usize,
}

/// All of them.
pub(crate) struct Peers(Mutex<BTreeMap<&'static str, Peer>>);

impl Peers {
    pub(crate) fn of(keys: BTreeMap<&'static str, Arc<Keys>>) -> Arc<Self> {
        let peer = |keys| Peer {
            mood: Mood::Well,
            keys,
            results: BTreeMap::new(),
            fails_on: BTreeMap::new(),
            batches: Vec::new(),
            audiences: BTreeSet::new(),
            known: BTreeSet::new(),
            taken: Vec::new(),
            at_once: 0,
            most_at_once: 0,
        };
        let peers = keys.into_iter().map(|(name, keys)| (name, peer(keys)));
        Arc::new(Self(Mutex::new(peers.collect())))
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<&'static str, Peer>> {
        self.0.lock().unwrap()
    }

    fn with<T>(&self, name: &str, f: impl FnOnce(&mut Peer) -> T) -> T {
        f(self.peers().get_mut(name).unwrap())
    }

    pub(crate) fn are(&self, name: &str, mood: Mood) {
        self.with(name, |peer| peer.mood = mood);
    }

    /// Deliveries with texts that begin so have this result; none: as they should.
    pub(crate) fn answer(&self, name: &str, begins: &'static str, result: Option<DeliveryResult>) {
        self.with(name, |peer| match result {
            Some(result) => drop(peer.results.insert(begins, result)),
            None => drop(peer.results.remove(begins)),
        });
    }

    /// Requests with texts that begin so are answered like this; none: as they should.
    pub(crate) fn fail_on(&self, name: &str, begins: &'static str, mood: Option<Mood>) {
        self.with(name, |peer| match mood {
            Some(mood) => drop(peer.fails_on.insert(begins, mood)),
            None => drop(peer.fails_on.remove(begins)),
        });
    }

    /// It does not know any audience any more.
    pub(crate) fn forget_audiences(&self, name: &str) {
        self.with(name, |peer| peer.audiences.clear());
    }

    /// What it has taken, in order.
    pub(crate) fn taken(&self, name: &str) -> Vec<String> {
        self.with(name, |peer| peer.taken.clone())
    }

    /// What it has been sent, each attempt.
    pub(crate) fn batches(&self, name: &str) -> Vec<Batch> {
        self.with(name, |peer| peer.batches.clone())
    }

    /// Forgets what it has been sent, but not what it has taken.
    pub(crate) fn forget_batches(&self, name: &str) {
        self.with(name, |peer| {
            peer.batches.clear();
            peer.most_at_once = 0;
        });
    }

    /// The most requests that were with it at once.
    pub(crate) fn most_at_once(&self, name: &str) -> usize {
        self.with(name, |peer| peer.most_at_once)
    }

    async fn deliver(&self, name: &str, body: &[u8]) -> Result<PeerResponse, Unreachable> {
        let deliveries = QueueingServiceRequest::decode(body).unwrap().deliveries;
        let mood = self.with(name, |peer| {
            let batch = Batch {
                at: Instant::now(),
                texts: deliveries.iter().map(text).collect(),
                in_full: deliveries.iter().map(is_full).collect(),
                ids: deliveries.iter().map(|d| d.delivery_id.clone()).collect(),
            };
            let mut fails = peer.fails_on.iter();
            let fails =
                fails.find(|(begins, _)| batch.texts.iter().any(|t| t.starts_with(*begins)));
            let mood = fails.map_or_else(|| peer.mood.clone(), |(_, mood)| mood.clone());
            peer.batches.push(batch);
            mood
        });
        // So that what is sent at the same time is seen.
        sleep(Duration::from_millis(1)).await;
        match mood {
            Mood::Away => Err(Unreachable("nobody is there".to_owned())),
            Mood::Silent => std::future::pending().await,
            Mood::Status(status, after) => Ok(PeerResponse {
                retry_after_seconds: after,
                ..answer(status, "text/plain", Vec::new())
            }),
            Mood::Small(most) if deliveries.len() > most => {
                Ok(answer(413, "text/plain", Vec::new()))
            }
            Mood::Well | Mood::Small(_) => {
                let results = self.with(name, |peer| peer.take(&deliveries));
                let response = QueueingServiceResponse {
                    version: DsProtocolVersion::MOH1,
                    results: List::new(results).unwrap(),
                };
                Ok(answer(200, CONTENT_TYPE, response.encode()))
            }
        }
    }
}

impl Peer {
    fn take(&mut self, deliveries: &[Delivery]) -> Vec<DeliveryResult> {
        let mut results = Vec::new();
        for delivery in deliveries {
            let text = text(delivery);
            let mut told = self.results.iter();
            if let Some((_, result)) = told.find(|(begins, _)| text.starts_with(*begins)) {
                results.push(result.clone());
                match result {
                    DeliveryResult::Error(error) if error.code != DsErrorCode::RATE_LIMITED => {
                        continue;
                    }
                    _ => break,
                }
            }
            let is_known = match &delivery.audience {
                Audience::Full { recipients } => {
                    self.audiences.insert(audience_digest(recipients));
                    true
                }
                Audience::Digest { audience_digest } => self.audiences.contains(audience_digest),
            };
            if !is_known {
                results.push(DeliveryResult::UnknownAudience);
                break;
            }
            if self.known.insert(delivery.delivery_id.clone()) {
                self.taken.push(text);
            }
            results.push(DeliveryResult::Ok);
        }
        results
    }
}

pub(crate) fn rate_limited() -> DeliveryResult {
    let error = DsError::new(DsErrorCode::RATE_LIMITED, "later");
    DeliveryResult::Error(error)
}

pub(crate) fn refused() -> DeliveryResult {
    let error = DsError::new(DsErrorCode::POLICY_VIOLATION, "never");
    DeliveryResult::Error(error)
}

fn text(delivery: &Delivery) -> String {
    match &delivery.payload {
        QueuePayload::MlsMessage(message) => {
            String::from_utf8(message.as_slice().to_vec()).unwrap()
        }
        QueuePayload::ConnectionRequest(_) => unreachable!("none is made"),
    }
}

fn is_full(delivery: &Delivery) -> bool {
    matches!(delivery.audience, Audience::Full { .. })
}

fn answer(status: u16, content_type: &str, body: Vec<u8>) -> PeerResponse {
    PeerResponse {
        status,
        content_type: Some(content_type.to_owned()),
        max_age_seconds: None,
        retry_after_seconds: None,
        body: body.into(),
    }
}

#[async_trait]
impl Transport for Peers {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let name = request.host.as_str();
        if request.path == Endpoint::VerificationKey.path() {
            let keys = self.with(name, |peer| Arc::clone(&peer.keys));
            let response = VerificationKeyResponse {
                version: DsProtocolVersion::MOH1,
                provider: name.parse().unwrap(),
                keys: keys.verification_keys(super::world::START_MS),
            };
            return Ok(answer(200, CONTENT_TYPE, response.encode()));
        }
        let body = request.body.unwrap_or_default();
        if request.path == Endpoint::GroupOperation.path() {
            let is_well = self.with(name, |peer| matches!(peer.mood, Mood::Well));
            let (status, body) = if is_well {
                let (epoch, accepted_at) = (0, super::world::START_MS);
                (200, DsResponseBody::Ok { epoch, accepted_at })
            } else {
                let error = DsError::new(DsErrorCode::UNAUTHORIZED, "not now");
                (403, DsResponseBody::Error(error))
            };
            let version = DsProtocolVersion::MOH1;
            let response = DsResponse { version, body };
            return Ok(answer(status, CONTENT_TYPE, response.encode()));
        }
        if request.path != Endpoint::DeliverMessage.path() {
            // Where they are: at their own names.
            return Ok(answer(404, "text/plain", Vec::new()));
        }
        self.with(name, |peer| {
            peer.at_once += 1;
            peer.most_at_once = peer.most_at_once.max(peer.at_once);
        });
        let answer = self.deliver(name, &body).await;
        self.with(name, |peer| peer.at_once -= 1);
        answer
    }
}
