//! The providers b.example and c.example, as a.example reaches them: they say their keys, and
//! take deliveries if a test wants them to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use moh_messages::{
    Audience, AudienceDigest, CONTENT_TYPE, ClientId, DeliveryId, DeliveryResult,
    DsProtocolVersion, DsRequest, DsResponse, DsResponseBody, Endpoint, List, Message,
    ProviderName, QueuePayload, QueueingServiceRequest, QueueingServiceResponse, Recipients,
    VerificationKeyResponse, WELL_KNOWN_PATH,
};
use moh_server::federation::{PeerRequest, PeerResponse, Transport, Unreachable};

use crate::home::Home;

pub(crate) struct Peers {
    homes: BTreeMap<&'static str, Arc<Home>>,
    state: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    open: BTreeSet<String>,
    gone: BTreeSet<ClientId>,
    audiences: BTreeMap<AudienceDigest, Recipients>,
    messages: BTreeMap<ClientId, Vec<Vec<u8>>>,
    deliveries: BTreeSet<DeliveryId>,
    operations: Vec<(ProviderName, DsRequest)>,
    expired: BTreeSet<String>,
}

impl Peers {
    pub(crate) fn of(homes: &BTreeMap<&'static str, Arc<Home>>) -> Arc<Self> {
        Arc::new(Self {
            homes: homes.clone(),
            state: Mutex::default(),
        })
    }

    /// From now on, this provider takes what is sent to it.
    pub(crate) fn open(&self, provider: &str) {
        self.state.lock().unwrap().open.insert(provider.to_owned());
    }

    /// From now on, this provider says that its keys are past their time.
    pub(crate) fn expire_keys(&self, provider: &str) {
        let mut state = self.state.lock().unwrap();
        state.expired.insert(provider.to_owned());
    }

    pub(crate) fn is_open(&self, provider: &str) -> bool {
        self.state.lock().unwrap().open.contains(provider)
    }

    /// From now on, this client's provider does not know its queue.
    pub(crate) fn lose(&self, client: &ClientId) {
        self.state.lock().unwrap().gone.insert(client.clone());
    }

    /// What has been taken, for whom, and by which deliveries.
    pub(crate) fn taken(&self) -> (BTreeMap<ClientId, Vec<Vec<u8>>>, BTreeSet<DeliveryId>) {
        let state = self.state.lock().unwrap();
        (state.messages.clone(), state.deliveries.clone())
    }

    /// What these providers have been asked as owners of groups.
    pub(crate) fn operations(&self) -> Vec<(ProviderName, DsRequest)> {
        self.state.lock().unwrap().operations.clone()
    }

    fn keys(&self, provider: &str) -> Vec<u8> {
        let home = &self.homes[provider];
        let mut keys = home.keys.verification_keys(home.now_ms()).into_vec();
        if self.state.lock().unwrap().expired.contains(provider) {
            keys[0].not_after = home.now_ms() - 1;
        }
        VerificationKeyResponse {
            version: DsProtocolVersion::MOH1,
            provider: provider.parse().unwrap(),
            keys: List::new(keys).unwrap(),
        }
        .encode()
    }

    fn deliver(&self, provider: &str, body: &[u8]) -> Vec<u8> {
        let request = QueueingServiceRequest::decode(body).unwrap();
        let home = &self.homes[provider];
        let mut state = self.state.lock().unwrap();
        let results = request.deliveries.iter().map(|delivery| {
            let recipients = match &delivery.audience {
                Audience::Full { recipients } => recipients.clone(),
                Audience::Digest { audience_digest } => state.audiences[audience_digest].clone(),
            };
            let digest = moh_messages::audience_digest(&recipients);
            state.audiences.insert(digest, recipients.clone());
            let is_new = state.deliveries.insert(delivery.delivery_id.clone());
            let mut invalid = Vec::new();
            for (position, recipient) in (0..).zip(recipients.iter()) {
                let client = home.keys.open_queue(recipient).unwrap();
                if state.gone.contains(&client) {
                    invalid.push(position);
                } else if is_new && delivery.except != Some(position) {
                    let all = state.messages.entry(client).or_default();
                    all.extend(message(&delivery.payload));
                }
            }
            match invalid.as_slice() {
                [] => DeliveryResult::Ok,
                _ => DeliveryResult::InvalidClientQueueInformation {
                    recipients: List::new(invalid).unwrap(),
                },
            }
        });
        let results = List::new(results.collect()).unwrap();
        let version = DsProtocolVersion::MOH1;
        QueueingServiceResponse { version, results }.encode()
    }

    fn operation(&self, provider: &str, body: &[u8]) -> Vec<u8> {
        let request = DsRequest::decode(body).unwrap();
        let provider = provider.parse().unwrap();
        let mut state = self.state.lock().unwrap();
        state.operations.push((provider, request));
        DsResponse::new(DsResponseBody::Ok {
            epoch: 0,
            accepted_at: 0,
        })
        .encode()
    }
}

/// The MLSMessage in a payload.
pub(crate) fn message(payload: &QueuePayload) -> Option<Vec<u8>> {
    match payload {
        QueuePayload::MlsMessage(message) => Some(message.as_slice().to_vec()),
        QueuePayload::ConnectionRequest(_) => None,
    }
}

#[async_trait]
impl Transport for Peers {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let answer = |status, body: Vec<u8>| PeerResponse {
            status,
            content_type: Some(CONTENT_TYPE.to_owned()),
            max_age_seconds: None,
            retry_after_seconds: None,
            body: body.into(),
        };
        let provider = request.host.as_str();
        if !self.homes.contains_key(provider) {
            return Err(Unreachable("nobody there".to_owned()));
        }
        if request.path == WELL_KNOWN_PATH {
            return Ok(answer(404, Vec::new()));
        }
        if request.path == Endpoint::VerificationKey.path() {
            return Ok(answer(200, self.keys(provider)));
        }
        if !self.is_open(provider) {
            return Err(Unreachable("not reached".to_owned()));
        }
        let content = request.body.as_deref().unwrap();
        let deliveries = [Endpoint::DeliverMessage, Endpoint::ConnectionRequest];
        let body = if deliveries.iter().any(|e| e.path() == request.path) {
            self.deliver(provider, content)
        } else {
            self.operation(provider, content)
        };
        Ok(answer(200, body))
    }
}
