//! Where other providers are: from a provider's name to its DS domain.
//!
//! An answer is good for as long as it says, within bounds, and is asked for again in the
//! background before that is over. When it cannot be, the last good one stands in, for a week. A
//! failure is remembered too, for longer with each one that follows it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use moh_messages::{ProviderName, WELL_KNOWN_PATH};

use super::flights::{Background, Flight, Flights};
use super::transport::{PeerRequest, Transport, Unreachable};
use crate::clock::{DAY_MS, Environment, HOUR_MS, MINUTE_MS, SECOND_MS};

/// How long an answer is good for: when it does not say, and at least and at most.
const LIFE_MS: u64 = HOUR_MS;
const MIN_LIFE_MS: u64 = MINUTE_MS;
const MAX_LIFE_MS: u64 = DAY_MS;
/// How long the last good answer stands in for one that does not come.
const KEPT_MS: u64 = 7 * DAY_MS;
/// How long a first failure is remembered, which is doubled with each further one, and at most.
const FAILURE_LIFE_MS: u64 = 5 * SECOND_MS;
const MAX_FAILURE_LIFE_MS: u64 = 5 * MINUTE_MS;
/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 512;
/// The longest DS domain, in bytes.
const MAX_DS_DOMAIN_BYTES: usize = 261;
/// Peers whose DS domains are remembered; failures that are.
pub(super) const MAX_PEERS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Whether a failure of a moment ago counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failures {
    /// While one is remembered, nothing is asked.
    Count,
    /// There is a reason to think that it is over, and whoever thinks so has a limit of their own.
    AreOver,
}

/// An answer.
struct Found {
    domain: String,
    at: u64,
    refresh_at: u64,
    good_until: u64,
    /// Who was asked there did not answer: it may be somewhere else by now.
    doubted: bool,
}

/// No answer.
struct Failed {
    error: Unreachable,
    /// How often in a row.
    times: u32,
    at: u64,
    until: u64,
}

/// What is known. Failures stand apart, so that names that lead nowhere do not displace those that
/// lead somewhere.
struct Known {
    found: LruCache<ProviderName, Found>,
    failed: LruCache<ProviderName, Failed>,
}

/// Where other providers are.
pub(super) struct Discovery {
    transport: Arc<dyn Transport>,
    environment: Environment,
    deadline: Duration,
    known: Mutex<Known>,
    flights: Arc<Flights<Result<String, Unreachable>>>,
}

/// What there is to do for who wants to know.
enum Next {
    Is(String),
    /// It is good, and better asked for again.
    Refresh(String),
    Ask,
    Failed(Unreachable),
}

impl Discovery {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        environment: Environment,
        deadline: Duration,
        background: Background,
    ) -> Arc<Self> {
        Arc::new(Self {
            transport,
            environment,
            deadline,
            known: Mutex::new(Known {
                found: LruCache::new(MAX_PEERS),
                failed: LruCache::new(MAX_PEERS),
            }),
            flights: Flights::new(background),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The DS domain of a provider.
    ///
    /// # Errors
    /// When it is not known, and is not told.
    pub(super) async fn ds_domain(
        self: &Arc<Self>,
        name: &ProviderName,
        failures: Failures,
    ) -> Result<String, Unreachable> {
        let now = self.environment.now_ms();
        let next = self.known().next(name, now, failures);
        match next {
            Next::Is(domain) => Ok(domain),
            Next::Refresh(domain) => {
                self.ask(name);
                Ok(domain)
            }
            Next::Failed(error) => Err(error),
            Next::Ask => {
                let landed = self.ask(name).landed().await;
                landed.unwrap_or_else(stopping)
            }
        }
    }

    /// The DS domain of a provider, if nobody has to wait for it.
    pub(super) fn at_hand(self: &Arc<Self>, name: &ProviderName) -> Option<String> {
        let now = self.environment.now_ms();
        let next = self.known().next(name, now, Failures::Count);
        match next {
            Next::Is(domain) => Some(domain),
            Next::Refresh(domain) => {
                self.ask(name);
                Some(domain)
            }
            Next::Ask | Next::Failed(_) => None,
        }
    }

    /// The DS domain of a provider of which somebody says that it is not where it was found. If
    /// that was found out only just now, it is not asked for again.
    ///
    /// # Errors
    /// As `ds_domain`.
    pub(super) async fn ds_domain_anew(
        self: &Arc<Self>,
        name: &ProviderName,
    ) -> Result<String, Unreachable> {
        let now = self.environment.now_ms();
        let is_new = self.known().found.peek(name).is_some_and(|f| f.is_new(now));
        let has_failed = self
            .known()
            .failed
            .peek(name)
            .is_some_and(|f| f.counts(now));
        if is_new || has_failed {
            return self.ds_domain(name, Failures::Count).await;
        }
        let landed = self.ask(name).landed().await;
        landed.unwrap_or_else(stopping)
    }

    fn ask(self: &Arc<Self>, name: &ProviderName) -> Flight<Result<String, Unreachable>> {
        let (this, of) = (Arc::clone(self), name.clone());
        let asking = async move {
            let answer = this.discover(&of).await;
            let now = this.environment.now_ms();
            this.known().note(&of, answer, now)
        };
        let Ok(flight) = self
            .flights
            .join(name, || Ok::<_, std::convert::Infallible>(asking));
        flight
    }

    /// The DS domain and how long it is good for, in milliseconds.
    async fn discover(&self, name: &ProviderName) -> Result<(String, u64), Unreachable> {
        let request = PeerRequest {
            get: true,
            host: name.to_string(),
            path: WELL_KNOWN_PATH,
            body: None,
            max_answer_bytes: MAX_ANSWER_BYTES,
        };
        let answer = tokio::time::timeout(self.deadline, self.transport.send(request)).await;
        let too_slow = || Unreachable(format!("discovery of {name} took too long"));
        let answer = answer.map_err(|_| too_slow())??;
        let life = answer
            .max_age_seconds
            .map_or(LIFE_MS, |s| s.saturating_mul(SECOND_MS));
        let life = life.clamp(MIN_LIFE_MS, MAX_LIFE_MS);
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

    /// Nobody answered there. If that was not found out only just now, it is asked for again
    /// before the next request.
    pub(super) fn doubt(&self, name: &ProviderName, domain: &str) {
        let now = self.environment.now_ms();
        if let Some(found) = self.known().found.get_mut(name)
            && found.domain == domain
            && !found.is_new(now)
        {
            found.doubted = true;
        }
    }

    /// Somebody answers there, as ever.
    pub(super) fn confirm(&self, name: &ProviderName, domain: &str) {
        if let Some(found) = self.known().found.get_mut(name)
            && found.domain == domain
        {
            found.doubted = false;
        }
    }

    /// The provider was heard of: that it was not found says nothing any more. (Where its last good
    /// answer stands in, nobody has to hurry.)
    pub(super) fn heard_of(&self, name: &ProviderName) {
        let now = self.environment.now_ms();
        let mut known = self.known();
        let stands_in = |found: &Found| found.is_kept(now) && !found.doubted;
        if !known.found.peek(name).is_some_and(stands_in) {
            known.failed.pop(name);
        }
    }
}

impl Known {
    fn next(&mut self, name: &ProviderName, now: u64, failures: Failures) -> Next {
        let failed = self.failed.get(name);
        let has_failed = failed.is_some();
        let failed = failed.filter(|failed| failures == Failures::Count && failed.counts(now));
        match (self.found.get(name), failed) {
            (Some(found), failed) if found.is_good(now) => {
                let domain = found.domain.clone();
                match failed.is_none() && now >= found.refresh_at {
                    true => Next::Refresh(domain),
                    false => Next::Is(domain),
                }
            }
            // While it goes on failing, only the first one has waited for that.
            (Some(found), None) if has_failed && found.is_kept(now) && !found.doubted => {
                Next::Refresh(found.domain.clone())
            }
            (_, None) => Next::Ask,
            (Some(found), Some(_)) if found.is_kept(now) => Next::Is(found.domain.clone()),
            (_, Some(failed)) => Next::Failed(failed.error.clone()),
        }
    }

    /// Notes an answer, or that there was none: the domain that counts from now on.
    fn note(
        &mut self,
        name: &ProviderName,
        answer: Result<(String, u64), Unreachable>,
        now: u64,
    ) -> Result<String, Unreachable> {
        match answer {
            Ok((domain, life)) => {
                self.failed.pop(name);
                let found = Found {
                    domain: domain.clone(),
                    at: now,
                    refresh_at: now + life / 4 * 3,
                    good_until: now + life,
                    doubted: false,
                };
                self.found.put(name.clone(), found);
                Ok(domain)
            }
            Err(error) => {
                let times = self.failed.get(name).map_or(0, |failed| failed.times);
                let life = FAILURE_LIFE_MS.saturating_mul(1 << times.min(16));
                let failed = Failed {
                    error: error.clone(),
                    times: times.saturating_add(1),
                    at: now,
                    until: now + life.min(MAX_FAILURE_LIFE_MS),
                };
                self.failed.put(name.clone(), failed);
                let found = self.found.get(name).filter(|found| found.is_kept(now));
                found.map(|found| found.domain.clone()).ok_or(error)
            }
        }
    }
}

impl Found {
    fn is_good(&self, now: u64) -> bool {
        (self.at..self.good_until).contains(&now) && !self.doubted
    }

    fn is_kept(&self, now: u64) -> bool {
        now < self.at + KEPT_MS
    }

    /// Whether it was found out only just now.
    fn is_new(&self, now: u64) -> bool {
        (self.at..self.at + FAILURE_LIFE_MS).contains(&now)
    }
}

impl Failed {
    fn counts(&self, now: u64) -> bool {
        // A clock that was put back does not make it last longer.
        (self.at..self.until).contains(&now)
    }
}

fn stopping<T>() -> Result<T, Unreachable> {
    Err(Unreachable("we are stopping".to_owned()))
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
mod tests;
