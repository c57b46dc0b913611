//! The keys of other providers, fetched from them.
//!
//! Anybody can claim to be any provider, and so make us ask that one for its keys. Each is asked at
//! most once in an interval, whatever came of it, and few that we do not know at the same time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use moh_messages::{
    DsProtocolVersion, Endpoint, KeyId, Message, ProviderName, VerificationKey,
    VerificationKeyRequest, VerificationKeyResponse,
};
use tokio::sync::Semaphore;

use super::asking::Asking;
use super::discovery::{Failures, MAX_PEERS};
use super::flights::{Background, Flight, Flights};
use super::transport::Unreachable;
use crate::clock::{DAY_MS, Environment, HOUR_MS, SECOND_MS};
use crate::crypto::sha256;

/// How long keys are good for: when the answer does not say, and at least and at most.
const LIFE_MS: u64 = HOUR_MS;
const MIN_LIFE_MS: u64 = INTERVAL_MS;
const MAX_LIFE_MS: u64 = DAY_MS;
/// A peer is asked at most this often.
const INTERVAL_MS: u64 = 10 * SECOND_MS;
/// How long it may take until the keys are there, discovery included.
const DEADLINE: Duration = Duration::from_secs(15);
/// Peers whose keys are not known that are asked at once; and as many whose keys are.
const MAX_AT_ONCE: usize = 64;
/// When so many are being asked, the next one is worth a try after this.
const BUSY_MS: u64 = 2 * SECOND_MS;

/// The keys are not there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct NoKeys {
    reason: String,
    /// When to try again, in milliseconds.
    pub(crate) retry_after_ms: u64,
}

struct Fetched {
    keys: Vec<VerificationKey>,
    at: u64,
    refresh_at: u64,
    good_until: u64,
}

impl Fetched {
    fn is_good(&self, now: u64) -> bool {
        (self.at..self.good_until).contains(&now)
    }
}

struct Known {
    fetched: LruCache<ProviderName, Fetched>,
    asked_at: LruCache<ProviderName, u64>,
}

/// The keys of other providers.
pub(super) struct PeerKeys {
    asking: Arc<Asking>,
    environment: Environment,
    known: Mutex<Known>,
    flights: Arc<Flights<Result<(), NoKeys>>>,
    strangers: Arc<Semaphore>,
    acquaintances: Arc<Semaphore>,
}

impl PeerKeys {
    pub(super) fn new(
        asking: Arc<Asking>,
        environment: Environment,
        background: Background,
    ) -> Arc<Self> {
        Arc::new(Self {
            asking,
            environment,
            known: Mutex::new(Known {
                fetched: LruCache::new(MAX_PEERS),
                asked_at: LruCache::new(MAX_PEERS),
            }),
            flights: Flights::new(background),
            strangers: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            acquaintances: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key of a provider, as far as it is known. When it will not be for long any more, the keys
    /// are fetched again meanwhile.
    pub(super) fn key(
        self: &Arc<Self>,
        name: &ProviderName,
        key_id: &KeyId,
    ) -> Option<VerificationKey> {
        let now = self.environment.now_ms();
        let (key, is_due) = {
            let mut known = self.known();
            let fetched = known.fetched.get(name).filter(|f| f.is_good(now))?;
            let key = fetched.keys.iter().find(|key| key.key_id == *key_id);
            (key?.clone(), now >= fetched.refresh_at)
        };
        if is_due {
            // If it may not be asked now, it is at a later use.
            let _ = self.start(name);
        }
        Some(key)
    }

    /// All keys of a provider that are known.
    pub(super) fn all(&self, name: &ProviderName) -> Vec<VerificationKey> {
        let now = self.environment.now_ms();
        let known = self.known();
        let fetched = known.fetched.peek(name).filter(|f| f.is_good(now));
        fetched.map(|f| f.keys.clone()).unwrap_or_default()
    }

    /// Asks a provider for its keys, if it is not being asked already.
    ///
    /// # Errors
    /// When there is no answer, or it may not be asked again yet.
    pub(super) async fn fetch(self: &Arc<Self>, name: &ProviderName) -> Result<(), NoKeys> {
        let landed = self.start(name)?.landed().await;
        landed.unwrap_or_else(|| {
            Err(NoKeys {
                reason: "we are stopping".to_owned(),
                retry_after_ms: INTERVAL_MS,
            })
        })
    }

    fn start(self: &Arc<Self>, name: &ProviderName) -> Result<Flight<Result<(), NoKeys>>, NoKeys> {
        self.flights.join(name, || {
            let now = self.environment.now_ms();
            let mut known = self.known();
            let asked_at = known.asked_at.get(name).copied();
            // A clock that was put back does not make the wait longer.
            if let Some(at) = asked_at.filter(|at| (*at..at + INTERVAL_MS).contains(&now)) {
                return Err(NoKeys {
                    reason: format!("{name} was asked for its keys a moment ago"),
                    retry_after_ms: at + INTERVAL_MS - now,
                });
            }
            let group = match known.fetched.contains(name) {
                true => &self.acquaintances,
                false => &self.strangers,
            };
            let permit = Arc::clone(group).try_acquire_owned();
            let permit = permit.map_err(|_| NoKeys {
                reason: "too many providers are being asked for their keys".to_owned(),
                retry_after_ms: BUSY_MS,
            })?;
            known.asked_at.put(name.clone(), now);
            let (this, name) = (Arc::clone(self), name.clone());
            Ok(async move {
                let asked = tokio::time::timeout(DEADLINE, this.ask(&name)).await;
                drop(permit);
                let too_slow = |_| Err(Unreachable(format!("{name} took too long")));
                this.note(&name, now, asked.unwrap_or_else(too_slow))
            })
        })
    }

    /// The keys of a provider, and how long they are good for, in milliseconds.
    async fn ask(&self, name: &ProviderName) -> Result<(Vec<VerificationKey>, u64), Unreachable> {
        let request = VerificationKeyRequest {
            version: DsProtocolVersion::MOH1,
            recipient: name.clone(),
        };
        let body = request.encode().into();
        let endpoint = Endpoint::VerificationKey;
        // It has sent us something, as it seems: then it may be found again.
        let asked = self.asking.ask(name, endpoint, body, Failures::AreOver);
        let answer = asked.await?;
        let response = answer
            .body
            .filter(|_| answer.status == 200)
            .and_then(|body| VerificationKeyResponse::decode(&body).ok())
            .filter(|response| response.provider == *name)
            .ok_or_else(|| Unreachable(format!("{name} did not tell its keys")))?;
        let mut keys = response.keys.into_vec();
        keys.retain(|key| key.key_id.as_slice() == sha256(key.public_key.as_slice()));
        let life = answer
            .max_age_seconds
            .map_or(LIFE_MS, |s| s.saturating_mul(SECOND_MS));
        Ok((keys, life.clamp(MIN_LIFE_MS, MAX_LIFE_MS)))
    }

    fn note(
        &self,
        name: &ProviderName,
        asked_at: u64,
        asked: Result<(Vec<VerificationKey>, u64), Unreachable>,
    ) -> Result<(), NoKeys> {
        match asked {
            Ok((keys, life)) => {
                let fetched = Fetched {
                    keys,
                    at: asked_at,
                    refresh_at: asked_at + life / 4 * 3,
                    good_until: asked_at + life,
                };
                self.known().fetched.put(name.clone(), fetched);
                Ok(())
            }
            Err(error) => Err(NoKeys {
                reason: error.0,
                retry_after_ms: (asked_at + INTERVAL_MS)
                    .saturating_sub(self.environment.now_ms())
                    .clamp(SECOND_MS, INTERVAL_MS),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
