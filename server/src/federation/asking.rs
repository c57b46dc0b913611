//! Requests to other providers, at the protocol's endpoints.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use moh_messages::{CONTENT_TYPE, Endpoint, MAX_TREE_BYTES, ProviderName};

use super::discovery::{Discovery, Failures, MAX_PEERS};
use super::transport::{PeerRequest, PeerResponse, Transport, Unreachable};

/// The longest answer to a request, in bytes, without the tree that may be in it.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// What is around a tree, in bytes.
const AROUND_TREE_BYTES: usize = 16 << 20;

/// What a peer answered at one of the protocol's endpoints.
#[derive(Clone, Debug)]
pub struct PeerAnswer {
    /// The HTTP status.
    pub status: u16,
    /// When to come again, of `Retry-After`, in seconds; whatever the status is.
    pub retry_after_seconds: Option<u32>,
    /// `max-age` of `Cache-Control`, in seconds.
    pub max_age_seconds: Option<u64>,
    /// The body, if it is one of the protocol's; an answer with another one is `unavailable`.
    pub body: Option<Bytes>,
}

/// Asks other providers.
pub(super) struct Asking {
    transport: Arc<dyn Transport>,
    discovery: Arc<Discovery>,
    max_tree_bytes: usize,
    /// Those that something stands before which does not pass the bodies of GET requests.
    by_post: Mutex<LruCache<ProviderName, ()>>,
}

impl Asking {
    /// Takes trees of at most `max_tree_bytes`.
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        discovery: Arc<Discovery>,
        max_tree_bytes: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            transport,
            discovery,
            max_tree_bytes: max_tree_bytes.min(MAX_TREE_BYTES),
            by_post: Mutex::new(LruCache::new(MAX_PEERS)),
        })
    }

    /// Asks a provider, at the DS domain that it is found at.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn ask(
        &self,
        name: &ProviderName,
        endpoint: Endpoint,
        body: Bytes,
        failures: Failures,
    ) -> Result<PeerAnswer, Unreachable> {
        let host = self.discovery.ds_domain(name, failures).await?;
        let asked = self.ask_at(&host, name, endpoint, body).await;
        match &asked {
            // Nobody is there, or somebody else is.
            Err(_) | Ok(PeerAnswer { status: 421, .. }) => self.discovery.doubt(name, &host),
            Ok(_) => self.discovery.confirm(name, &host),
        }
        asked
    }

    async fn ask_at(
        &self,
        host: &str,
        name: &ProviderName,
        endpoint: Endpoint,
        body: Bytes,
    ) -> Result<PeerAnswer, Unreachable> {
        let get = endpoint.is_get() && !self.by_post().contains(name);
        let request = |get| PeerRequest {
            get,
            host: host.to_owned(),
            path: endpoint.path(),
            body: Some(body.clone()),
            max_answer_bytes: self.max_answer_bytes(endpoint),
        };
        let mut response = self.transport.send(request(get)).await?;
        let ours = |r: &PeerResponse| r.content_type.as_deref() == Some(CONTENT_TYPE);
        if get && !ours(&response) && matches!(response.status, 400 | 403 | 405 | 411 | 415 | 501) {
            response = self.transport.send(request(false)).await?;
            if ours(&response) {
                self.by_post().put(name.clone(), ());
            }
        }
        Ok(PeerAnswer {
            status: response.status,
            retry_after_seconds: response.retry_after_seconds,
            max_age_seconds: response.max_age_seconds,
            body: ours(&response).then_some(response.body),
        })
    }

    fn by_post(&self) -> std::sync::MutexGuard<'_, LruCache<ProviderName, ()>> {
        self.by_post.lock().unwrap_or_else(PoisonError::into_inner)
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
}

#[cfg(test)]
mod tests;
