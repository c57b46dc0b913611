//! Other providers: where they are, what keys they have, and how they are asked.

mod https;
mod policy;

pub use https::{HttpsOptions, HttpsTransport, Override};
pub use policy::{Admission, DomainPattern, InvalidPattern, PeerPolicy, PeerRules};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use moh_messages::{
    CONTENT_TYPE, DsProtocolVersion, Endpoint, KeyId, MAX_TREE_BYTES, Message, ProviderName,
    VerificationKey, VerificationKeyRequest, VerificationKeyResponse, WELL_KNOWN_PATH,
};

use crate::clock::{DAY_MS, Environment, SECOND_MS};
use crate::crypto::sha256;

/// How long an answer of discovery is good for, when it does not say.
const DISCOVERY_LIFE_MS: u64 = 3600 * SECOND_MS;
/// How long a failure of discovery is remembered.
const DISCOVERY_FAILURE_LIFE_MS: u64 = 5 * SECOND_MS;
/// How long keys are good for, when the answer does not say; and at most.
const KEYS_LIFE_MS: u64 = 3600 * SECOND_MS;
const MAX_KEYS_LIFE_MS: u64 = DAY_MS;
/// An unknown key leads to a request for the keys at most this often.
const KEYS_FETCH_INTERVAL_MS: u64 = 10 * SECOND_MS;
/// The longest answer of discovery, in bytes.
const MAX_DISCOVERY_BYTES: usize = 512;
/// The longest DS domain, in bytes.
const MAX_DS_DOMAIN_BYTES: usize = 261;
/// The longest answer to a request, in bytes, without the tree that may be in it.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// What is around a tree, in bytes.
const AROUND_TREE_BYTES: usize = 16 << 20;
/// Peers that are remembered.
const MAX_PEERS: usize = 10_000;

/// One HTTPS request.
#[derive(Clone, Debug)]
pub struct PeerRequest {
    /// GET; POST otherwise.
    pub get: bool,
    /// The host, with `:port` where it is not 443.
    pub host: String,
    /// The path.
    pub path: &'static str,
    /// The body, of type `application/octet-stream`.
    pub body: Option<Bytes>,
    /// A longer answer is a failure.
    pub max_answer_bytes: usize,
}

/// The answer to one.
#[derive(Clone, Debug)]
pub struct PeerResponse {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`, without parameters.
    pub content_type: Option<String>,
    /// `max-age` of `Cache-Control`, in seconds.
    pub max_age_seconds: Option<u64>,
    /// When to come again, of `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u32>,
    /// The body.
    pub body: Bytes,
}

/// No answer: the peer could not be reached, did not speak TLS 1.3 with a valid certificate,
/// was too slow, or said too much.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// How requests get to other providers.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Makes one request; follows no redirect.
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable>;
}

/// What a peer answered at one of the protocol's endpoints.
#[derive(Clone, Debug)]
pub struct PeerAnswer {
    /// The HTTP status.
    pub status: u16,
    /// When to come again, of `Retry-After`, in seconds; whatever the status is.
    pub retry_after_seconds: Option<u32>,
    /// The body, if it is one of the protocol's; an answer with another one is `unavailable`.
    pub body: Option<Bytes>,
}

#[derive(Default)]
struct Peer {
    ds_domain: Option<(Result<String, Unreachable>, u64)>,
    keys: Option<Keys>,
    keys_asked_at: Option<u64>,
    /// How often keys have been fetched.
    keys_fetched: u64,
    /// Held by whoever fetches them.
    fetching_keys: Arc<tokio::sync::Mutex<()>>,
    drops_get_bodies: bool,
}

struct Keys {
    keys: Vec<VerificationKey>,
    good_until: u64,
}

/// What is known of other providers.
pub struct Federation {
    transport: Arc<dyn Transport>,
    environment: Environment,
    max_tree_bytes: usize,
    policy: RwLock<PeerPolicy>,
    peers: Mutex<HashMap<ProviderName, Peer>>,
}

impl Federation {
    /// Knows nobody yet, and talks to those that `policy` allows. Trees of at most
    /// `max_tree_bytes` are taken.
    pub fn new(
        transport: Arc<dyn Transport>,
        environment: Environment,
        max_tree_bytes: usize,
        policy: PeerPolicy,
    ) -> Self {
        Self {
            transport,
            environment,
            policy: RwLock::new(policy),
            max_tree_bytes: max_tree_bytes.min(MAX_TREE_BYTES),
            peers: Mutex::default(),
        }
    }

    pub(crate) fn policy(&self) -> PeerPolicy {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.clone()
    }

    pub(crate) fn set_policy(&self, policy: PeerPolicy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    pub(crate) fn allows(&self, provider: &ProviderName) -> bool {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.allows(provider)
    }

    fn with_peer<T>(&self, name: &ProviderName, f: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS && !peers.contains_key(name) {
            // What is forgotten is learnt again; which one it is does not matter.
            if let Some(any) = peers.keys().next().cloned() {
                peers.remove(&any);
            }
        }
        f(peers.entry(name.clone()).or_default())
    }

    /// Where a provider can be reached.
    async fn ds_domain(&self, name: &ProviderName) -> Result<String, Unreachable> {
        let now = self.environment.now_ms();
        let known = self.with_peer(name, |peer| match &peer.ds_domain {
            Some((found, until)) if *until > now => Some(found.clone()),
            _ => None,
        });
        if let Some(found) = known {
            return found;
        }
        let (found, life) = match self.discover(name).await {
            Ok((domain, life)) => (Ok(domain), life),
            Err(error) => (Err(error), DISCOVERY_FAILURE_LIFE_MS),
        };
        self.with_peer(name, |peer| {
            peer.ds_domain = Some((found.clone(), now + life))
        });
        found
    }

    async fn discover(&self, name: &ProviderName) -> Result<(String, u64), Unreachable> {
        let request = PeerRequest {
            get: true,
            host: name.to_string(),
            path: WELL_KNOWN_PATH,
            body: None,
            max_answer_bytes: MAX_DISCOVERY_BYTES,
        };
        let answer = self.transport.send(request).await?;
        let life = answer
            .max_age_seconds
            .map_or(DISCOVERY_LIFE_MS, |s| s.saturating_mul(SECOND_MS));
        let life = life.clamp(DISCOVERY_FAILURE_LIFE_MS, DAY_MS);
        match answer.status {
            200 => {
                let domain = std::str::from_utf8(&answer.body)
                    .ok()
                    .and_then(read_ds_domain);
                let what = || Unreachable(format!("{name} names no valid DS domain"));
                Ok((domain.ok_or_else(what)?, life))
            }
            404 => Ok((name.to_string(), life)),
            status => Err(Unreachable(format!(
                "discovery of {name} was answered {status}"
            ))),
        }
    }

    /// Asks a provider.
    ///
    /// # Errors
    /// When there is no answer, or we do not talk to it.
    pub async fn ask(
        &self,
        name: &ProviderName,
        endpoint: Endpoint,
        body: Bytes,
    ) -> Result<PeerAnswer, Unreachable> {
        self.ask_for(name, endpoint, body)
            .await
            .map(|(answer, _)| answer)
    }

    async fn ask_for(
        &self,
        name: &ProviderName,
        endpoint: Endpoint,
        body: Bytes,
    ) -> Result<(PeerAnswer, Option<u64>), Unreachable> {
        if !self.allows(name) {
            return Err(Unreachable(format!("we do not talk to {name}")));
        }
        let host = self.ds_domain(name).await?;
        let get = endpoint.is_get() && !self.with_peer(name, |peer| peer.drops_get_bodies);
        let request = |get, host| PeerRequest {
            get,
            host,
            path: endpoint.path(),
            body: Some(body.clone()),
            max_answer_bytes: self.max_answer_bytes(endpoint),
        };
        let sent = self.transport.send(request(get, host.clone())).await;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => {
                // It may have moved.
                self.with_peer(name, |peer| peer.ds_domain = None);
                return Err(error);
            }
        };
        let ours = |r: &PeerResponse| r.content_type.as_deref() == Some(CONTENT_TYPE);
        if get && !ours(&response) && matches!(response.status, 400 | 403 | 405 | 411 | 415 | 501) {
            // Something on the way does not pass the bodies of GET requests.
            response = self.transport.send(request(false, host)).await?;
            if ours(&response) {
                self.with_peer(name, |peer| peer.drops_get_bodies = true);
            }
        }
        let body = ours(&response).then_some(response.body);
        Ok((
            PeerAnswer {
                status: response.status,
                retry_after_seconds: response.retry_after_seconds,
                body,
            },
            response.max_age_seconds,
        ))
    }

    /// The longest answer that is taken.
    fn max_answer_bytes(&self, endpoint: Endpoint) -> usize {
        match endpoint {
            Endpoint::WelcomeInformation | Endpoint::ExternalCommitInformation => {
                self.max_tree_bytes + AROUND_TREE_BYTES
            }
            _ => MAX_ANSWER_BYTES,
        }
    }

    /// A provider was heard of: that it was not found a moment ago says nothing any more.
    pub(crate) fn heard_of(&self, name: &ProviderName) {
        self.with_peer(name, |peer| {
            if matches!(peer.ds_domain, Some((Err(_), _))) {
                peer.ds_domain = None;
            }
        });
    }

    /// A key of a provider that we talk to, as far as it is known.
    #[must_use]
    pub fn key(&self, name: &ProviderName, key_id: &KeyId) -> Option<VerificationKey> {
        if !self.allows(name) {
            return None;
        }
        let now = self.environment.now_ms();
        self.with_peer(name, |peer| {
            let keys = peer.keys.as_ref().filter(|keys| keys.good_until > now)?;
            keys.keys.iter().find(|key| key.key_id == *key_id).cloned()
        })
    }

    /// All keys of a provider that are known.
    #[must_use]
    pub fn known_keys(&self, name: &ProviderName) -> Vec<VerificationKey> {
        let now = self.environment.now_ms();
        self.with_peer(name, |peer| {
            let keys = peer.keys.as_ref().filter(|keys| keys.good_until > now);
            keys.map(|keys| keys.keys.clone()).unwrap_or_default()
        })
    }

    /// Asks a provider for its keys, when that was not done a moment ago. Who comes while that is
    /// being done waits for it.
    ///
    /// # Errors
    /// When there is no answer, or it may not be asked again yet.
    pub async fn fetch_keys(&self, name: &ProviderName) -> Result<(), Unreachable> {
        let (fetching, before) = self.with_peer(name, |peer| {
            (Arc::clone(&peer.fetching_keys), peer.keys_fetched)
        });
        let _fetching = fetching.lock().await;
        if self.with_peer(name, |peer| peer.keys_fetched) != before {
            return Ok(());
        }
        let now = self.environment.now_ms();
        let may = self.with_peer(name, |peer| {
            let may = peer
                .keys_asked_at
                .is_none_or(|at| at + KEYS_FETCH_INTERVAL_MS <= now);
            if may {
                peer.keys_asked_at = Some(now);
            }
            may
        });
        if !may {
            return Err(Unreachable(format!(
                "the keys of {name} were asked for a moment ago"
            )));
        }
        let request = VerificationKeyRequest {
            version: DsProtocolVersion::MOH1,
            recipient: name.clone(),
        };
        let asked = self
            .ask_for(name, Endpoint::VerificationKey, request.encode().into())
            .await;
        let fetched = asked.and_then(|(answer, max_age)| {
            let keys = answer
                .body
                .filter(|_| answer.status == 200)
                .and_then(|body| VerificationKeyResponse::decode(&body).ok())
                .filter(|response| response.provider == *name)
                .ok_or_else(|| Unreachable(format!("{name} did not tell its keys")))?;
            let mut keys = keys.keys.into_vec();
            keys.retain(|key| key.key_id.as_slice() == sha256(key.public_key.as_slice()));
            Ok((keys, max_age))
        });
        match fetched {
            Ok((keys, max_age)) => {
                let life = max_age.map_or(KEYS_LIFE_MS, |s| s.saturating_mul(SECOND_MS));
                let good_until = now + life.clamp(KEYS_FETCH_INTERVAL_MS, MAX_KEYS_LIFE_MS);
                self.with_peer(name, |peer| {
                    peer.keys = Some(Keys { keys, good_until });
                    peer.keys_fetched += 1;
                });
                Ok(())
            }
            Err(error) => {
                // It was not told anything; it may be asked again at once.
                self.with_peer(name, |peer| peer.keys_asked_at = None);
                Err(error)
            }
        }
    }
}

/// A DS domain as the well-known tells it: a domain, with `:port` where it is not 443.
pub(crate) fn read_ds_domain(text: &str) -> Option<String> {
    let text = text.trim();
    let (domain, port) = match text.split_once(':') {
        Some((domain, port)) => (domain, Some(port)),
        None => (text, None),
    };
    let is_port = |port: &str| {
        port.parse::<u16>()
            .is_ok_and(|p| p > 0 && p.to_string() == port)
    };
    let valid = text.len() <= MAX_DS_DOMAIN_BYTES
        && domain.parse::<ProviderName>().is_ok()
        && port.is_none_or(is_port);
    valid.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ds_domains() {
        assert_eq!(
            read_ds_domain(" ds.a.example \n").as_deref(),
            Some("ds.a.example")
        );
        assert_eq!(
            read_ds_domain("a.example:8443").as_deref(),
            Some("a.example:8443")
        );
        for bad in [
            "",
            "127.0.0.1",
            "a.example:0",
            "a.example:65536",
            "a.example:",
            "[::1]:1",
            "https://a.example",
            "a.example/x",
            "a.example:08",
            "A.example",
            "user@a.example",
        ] {
            assert_eq!(read_ds_domain(bad), None, "{bad}");
        }
    }
}
