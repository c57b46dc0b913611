//! What the lanes of one destination share: whether it answers, how much it is sent at once, and
//! which audiences it knows.
//!
//! As long as it answers, each lane sends what it has, and every success doubles how much is sent at
//! once. When it does not, one lane at a time tries again, with a single delivery, after a random
//! wait whose limit doubles; the others wait for what becomes of that. Nothing of a destination that
//! does not answer is in memory meanwhile.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use moh_messages::{AudienceDigest, ProviderName};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::status::PeerState;
use crate::clock::{Environment, MINUTE_MS, SECOND_MS};

/// The most deliveries in one request.
pub(super) const MAX_BATCH: usize = 256;
/// The limit of the first wait after a failure, which is doubled with each further one, and the
/// longest.
const FIRST_BACKOFF_MS: u64 = 250;
const MAX_BACKOFF_MS: u64 = 5 * MINUTE_MS;
/// The longest that a destination can ask to be left alone.
const MAX_RETRY_AFTER_S: u64 = 3600;
/// A lane whose attempt has failed lets the others go first for so long.
const GRACE: Duration = Duration::from_millis(50);
/// Audiences that a destination is remembered to know.
const MAX_KNOWN: usize = 4096;

/// Full jitter: anything between nothing and a limit that doubles with each failure.
pub(super) fn backoff(environment: &Environment, failures: u32) -> Duration {
    let limit = FIRST_BACKOFF_MS
        .saturating_mul(1 << failures.min(20))
        .min(MAX_BACKOFF_MS);
    let random = u64::from_be_bytes(environment.random.bytes());
    Duration::from_millis(random % (limit + 1))
}

/// As long as a destination has asked to be left alone, within reason.
pub(super) fn asked(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds).min(MAX_RETRY_AFTER_S))
}

/// A provider that something waits for, or waited for a while ago.
pub(super) struct Destination {
    name: ProviderName,
    environment: Environment,
    shared: Mutex<Shared>,
    /// Lanes that were not let through may be now.
    changed: Notify,
}

struct Shared {
    /// It does not answer.
    trouble: Option<Trouble>,
    /// It asked to be left alone until then, whatever else is heard of it.
    asked_until: Option<Instant>,
    /// The lane that tries whether it answers again.
    prober: Option<u8>,
    /// Lanes that were not let through and have not come back yet.
    turned_away: BTreeSet<u8>,
    /// How many deliveries are sent at once: one where it does not answer.
    batch: usize,
    /// Failures that counted, and successes, since the destination was last forgotten.
    failures: u64,
    successes: u64,
    /// Audiences that it has taken in full.
    known: LruCache<AudienceDigest, ()>,
    last_alive_at: Option<u64>,
}

/// A destination has not answered since a while.
struct Trouble {
    since_ms: u64,
    /// Attempts since then, or since it last gave a sign of life.
    failures: u32,
    reason: String,
    /// When and by which lane it was tried last.
    tried_at: Instant,
    tried_by: u8,
    /// It is not tried again before.
    until: Instant,
}

/// Whether a lane may send.
pub(super) enum Gate<'a> {
    /// It may.
    Open(Permit<'a>),
    /// Not before then; none: something has to change first.
    Closed(Option<Instant>),
}

/// A lane may send, once. Given back without a word, it says nothing of the destination.
pub(super) struct Permit<'a> {
    destination: &'a Destination,
    lane: u8,
    is_probe: bool,
    /// Failures that had counted when it was given.
    failures: u64,
    given_at: Instant,
    /// As many deliveries at most.
    pub(super) max_deliveries: usize,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            let mut shared = self.destination.shared();
            if shared.prober == Some(self.lane) {
                shared.prober = None;
            }
            drop(shared);
            self.destination.changed.notify_waiters();
        }
    }
}

impl Destination {
    pub(super) fn new(name: ProviderName, environment: Environment) -> Self {
        Self {
            name,
            environment,
            shared: Mutex::new(Shared {
                trouble: None,
                asked_until: None,
                prober: None,
                turned_away: BTreeSet::new(),
                batch: 1,
                failures: 0,
                successes: 0,
                known: LruCache::unbounded(),
                last_alive_at: None,
            }),
            changed: Notify::new(),
        }
    }

    pub(super) fn name(&self) -> &ProviderName {
        &self.name
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a lane that is not let through after this call may be. To be made before
    /// [`Destination::enter`].
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Whether a lane may send.
    pub(super) fn enter(&self, lane: u8) -> Gate<'_> {
        let now = Instant::now();
        let mut shared = self.shared();
        shared.turned_away.remove(&lane);
        let closed = match (&shared.trouble, shared.asked_until) {
            (_, Some(until)) if until > now => Some(Some(until)),
            (None, _) => None,
            (Some(_), _) if shared.prober.is_some() => Some(None),
            (Some(trouble), _) => {
                let others = !shared.turned_away.is_empty();
                let grace = if others && trouble.tried_by == lane {
                    GRACE
                } else {
                    Duration::ZERO
                };
                let until = trouble.until + grace;
                (until > now).then_some(Some(until))
            }
        };
        if let Some(until) = closed {
            shared.turned_away.insert(lane);
            return Gate::Closed(until);
        }
        let is_probe = shared.trouble.is_some();
        if is_probe {
            shared.prober = Some(lane);
        }
        Gate::Open(Permit {
            destination: self,
            lane,
            is_probe,
            failures: shared.failures,
            given_at: now,
            max_deliveries: shared.batch,
        })
    }

    /// A request of the destination has come.
    pub(super) fn gave_a_sign_of_life(&self) {
        let mut shared = self.shared();
        shared.last_alive_at = Some(self.environment.now_ms());
        if let Some(trouble) = &mut shared.trouble {
            trouble.failures = 0;
            // However much is heard of one that cannot be reached, it is tried in measure.
            let soon = trouble.tried_at + Duration::from_millis(FIRST_BACKOFF_MS);
            trouble.until = trouble.until.min(soon);
            drop(shared);
            self.changed.notify_waiters();
        }
    }

    /// It is tried at once, whatever happened before.
    pub(super) fn try_now(&self) {
        let mut shared = self.shared();
        shared.asked_until = None;
        if let Some(trouble) = &mut shared.trouble {
            trouble.failures = 0;
            trouble.until = Instant::now();
        }
        drop(shared);
        self.changed.notify_waiters();
    }

    /// How often it has answered.
    pub(super) fn successes(&self) -> u64 {
        self.shared().successes
    }

    /// Whether it has taken an audience in full.
    pub(super) fn knows(&self, audience: &AudienceDigest) -> bool {
        self.shared().known.get(audience).is_some()
    }

    /// It has taken an audience in full.
    pub(super) fn has_learnt(&self, audience: AudienceDigest) {
        let known = &mut self.shared().known;
        known.put(audience, ());
        if known.len() > MAX_KNOWN {
            known.pop_lru();
        }
    }

    /// It does not know an audience any more.
    pub(super) fn has_forgotten(&self, audience: &AudienceDigest) {
        self.shared().known.pop(audience);
    }

    /// Whether nothing is lost when all of this is forgotten: it has not asked to be left alone.
    pub(super) fn can_be_forgotten(&self) -> bool {
        let asked = self.shared().asked_until;
        asked.is_none_or(|until| until <= Instant::now())
    }

    /// What is done about what waits, where something does; and when it was last heard of.
    pub(super) fn state(&self) -> (PeerState, Option<u64>) {
        let (now, now_ms) = (Instant::now(), self.environment.now_ms());
        let shared = self.shared();
        let asked = shared.asked_until.filter(|until| *until > now);
        let until_ms = |until: Instant| {
            let wait = until.saturating_duration_since(now).as_millis();
            now_ms.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
        };
        let state = match (&shared.trouble, asked) {
            (Some(trouble), _) => PeerState::Waiting {
                until_ms: until_ms(asked.map_or(trouble.until, |asked| asked.max(trouble.until))),
                since_ms: trouble.since_ms,
                failures: trouble.failures,
                reason: trouble.reason.clone(),
            },
            (None, Some(until)) => PeerState::Waiting {
                until_ms: until_ms(until),
                since_ms: now_ms,
                failures: 0,
                reason: "it wants to be left alone for a while".to_owned(),
            },
            (None, None) => PeerState::Sending,
        };
        (state, shared.last_alive_at)
    }
}

impl Permit<'_> {
    /// The destination has answered.
    pub(super) fn succeeded(self) {
        let destination = self.destination;
        let now_ms = destination.environment.now_ms();
        let mut shared = destination.shared();
        if self.is_probe {
            shared.prober = None;
        }
        shared.successes += 1;
        shared.last_alive_at = Some(now_ms);
        shared.batch = (shared.batch * 2).min(MAX_BATCH);
        let Some(trouble) = shared.trouble.take() else {
            return;
        };
        drop(shared);
        let (peer, failures) = (&destination.name, trouble.failures);
        let after_s = now_ms.saturating_sub(trouble.since_ms) / SECOND_MS;
        tracing::info!(%peer, failures, after_s, "a provider takes again what waits for it");
        destination.changed.notify_waiters();
    }

    /// The destination has not answered, or wants to be asked later: after so many seconds if it
    /// said so.
    pub(super) fn failed(self, reason: String, after_seconds: Option<u32>) {
        let destination = self.destination;
        let (now, now_ms) = (Instant::now(), destination.environment.now_ms());
        let mut shared = destination.shared();
        if self.is_probe {
            shared.prober = None;
        }
        if let Some(seconds) = after_seconds {
            shared.asked_until = shared.asked_until.max(Some(now + asked(seconds)));
        } else if self.failures != shared.failures {
            // What was on its way when another attempt failed is the same failure.
            return;
        }
        shared.failures += 1;
        shared.batch = 1;
        let before = shared.trouble.take();
        let failures = before.as_ref().map_or(0, |trouble| trouble.failures);
        let wait = backoff(&destination.environment, failures);
        let peer = &destination.name;
        if before.is_none() {
            tracing::info!(%peer, %reason, "a provider does not take what waits for it");
        } else {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(%peer, %reason, failures, wait_ms, "still not");
        }
        shared.trouble = Some(Trouble {
            since_ms: before.map_or(now_ms, |trouble| trouble.since_ms),
            failures: failures.saturating_add(1),
            reason,
            tried_at: self.given_at,
            tried_by: self.lane,
            until: now + wait,
        });
    }
}
