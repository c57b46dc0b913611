//! Other providers: which of them we talk to, where they are, what keys they have, and how they
//! are asked. Each module knows only those above it:
//!
//! 1. `policy`: which providers we talk to.
//! 2. `transport`: what is between us and the network. `https` is the real one, which connects to
//!    the addresses that `addresses` finds and lets pass, at most as often as `doors` says.
//! 3. `discovery`: from a provider's name to its DS domain.
//! 4. `asking`: a request to an endpoint of the protocol, at that domain.
//! 5. `peer_keys`: the keys of other providers.

mod policy;

mod addresses;
mod doors;
mod https;
mod transport;

mod flights;

mod discovery;

mod asking;

mod peer_keys;

#[cfg(test)]
mod scene;

pub use addresses::Dns;
pub use asking::PeerAnswer;
pub(crate) use discovery::read_ds_domain;
pub(crate) use flights::Background;
pub use https::{HttpsOptions, HttpsTransport, Override};
pub(crate) use peer_keys::NoKeys;
pub use policy::{Admission, DomainPattern, InvalidPattern, PeerPolicy, PeerRules};
pub use transport::{PeerRequest, PeerResponse, Transport, Unreachable};

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use moh_messages::{Endpoint, KeyId, ProviderName, VerificationKey};
use tokio::sync::Semaphore;

use self::asking::Asking;
use self::discovery::{Discovery, Failures};
use self::peer_keys::PeerKeys;
use crate::clock::Environment;
use crate::limits::Limits;

/// What is known of other providers.
pub(crate) struct Federation {
    policy: RwLock<PeerPolicy>,
    discovery: Arc<Discovery>,
    asking: Arc<Asking>,
    keys: Arc<PeerKeys>,
    looking: Semaphore,
}

/// Requests because of which it is looked up at once where a provider is that is not known, or not
/// where it is known to be.
const MAX_LOOKING: usize = 256;

fn without_port(domain: &str) -> &str {
    domain.split_once(':').map_or(domain, |(host, _)| host)
}

impl Federation {
    /// Knows nobody yet, and talks to those that `policy` allows.
    pub(crate) fn new(
        policy: PeerPolicy,
        transport: Arc<dyn Transport>,
        environment: &Environment,
        limits: &Limits,
        background: &Background,
    ) -> Self {
        let discovery = Discovery::new(
            Arc::clone(&transport),
            environment.clone(),
            Duration::from_millis(limits.discovery_ms),
            background.clone(),
        );
        let asking = Asking::new(transport, Arc::clone(&discovery), limits.max_tree_bytes);
        Self {
            policy: RwLock::new(policy),
            keys: PeerKeys::new(Arc::clone(&asking), environment.clone(), background.clone()),
            discovery,
            asking,
            looking: Semaphore::new(MAX_LOOKING),
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

    /// Asks a provider.
    ///
    /// # Errors
    /// When there is no answer, or we do not talk to it.
    pub(crate) async fn ask(
        &self,
        name: &ProviderName,
        endpoint: Endpoint,
        body: Bytes,
    ) -> Result<PeerAnswer, Unreachable> {
        if !self.allows(name) {
            return Err(Unreachable(format!("we do not talk to {name}")));
        }
        self.asking.ask(name, endpoint, body, Failures::Count).await
    }

    /// Whether this holds for the domain at which a provider is. Where it does not, the provider may
    /// have moved: then it is looked for anew.
    ///
    /// # Errors
    /// When it is not found, or too many are being looked for.
    pub(crate) async fn is_at(
        &self,
        name: &ProviderName,
        holds: impl Fn(&str) -> bool,
    ) -> Result<bool, Unreachable> {
        let known = self.discovery.at_hand(name);
        if known.is_some_and(|domain| holds(without_port(&domain))) {
            return Ok(true);
        }
        let busy = |_| Unreachable("too many providers are being looked for".to_owned());
        let _permit = self.looking.try_acquire().map_err(busy)?;
        let domain = self.discovery.ds_domain_anew(name).await?;
        Ok(holds(without_port(&domain)))
    }

    /// A provider was heard of: that it was not found a moment ago says nothing any more.
    pub(crate) fn heard_of(&self, name: &ProviderName) {
        self.discovery.heard_of(name);
    }

    /// A key of a provider that we talk to, as far as it is known.
    pub(crate) fn key(&self, name: &ProviderName, key_id: &KeyId) -> Option<VerificationKey> {
        if !self.allows(name) {
            return None;
        }
        self.keys.key(name, key_id)
    }

    /// All keys of a provider that are known. Nothing is fetched because of it.
    pub(crate) fn known_keys(&self, name: &ProviderName) -> Vec<VerificationKey> {
        self.keys.all(name)
    }

    /// Asks a provider that we talk to for its keys, when that was not done a moment ago.
    ///
    /// # Errors
    /// When there is no answer, or it may not be asked again yet.
    pub(crate) async fn fetch_keys(&self, name: &ProviderName) -> Result<(), NoKeys> {
        self.keys.fetch(name).await
    }
}

#[cfg(test)]
mod tests;
