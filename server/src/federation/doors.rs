//! So that many requests to a host share a connection.
//!
//! reqwest keeps connections, and sends many requests over one where that is HTTP/2. But it begins
//! a connection for each request that comes while there is none yet. Therefore the first request to
//! a host goes ahead, and the others wait until it has come through: then there is a connection, or
//! none can be made.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{MutexGuard, Semaphore};
use tokio::time::Instant;

/// Hosts that are remembered.
const MAX_HOSTS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Requests to one host at once, which is what bounds the connections to one that has no HTTP/2.
/// Others wait for their turn, as long as a request may take.
pub(super) const MAX_AT_ONCE: usize = 128;
/// A connection that is not used is kept this long.
pub(super) const IDLE: Duration = Duration::from_secs(90);
/// There is a connection for so long after an answer, to be on the safe side of `IDLE`.
const OPEN: Duration = Duration::from_secs(60);

/// The hosts that requests are made to.
pub(super) struct Doors(Mutex<LruCache<String, Arc<Door>>>);

/// The way to one of them.
pub(super) struct Door {
    pub(super) places: Semaphore,
    /// Held by who goes ahead.
    opening: tokio::sync::Mutex<()>,
    open_until: Mutex<Option<Instant>>,
}

impl Doors {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX_HOSTS)))
    }

    /// The way to a host, with its port.
    pub(super) fn to(&self, host: &str) -> Arc<Door> {
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let door = doors.get_or_insert_ref(host, || {
            Arc::new(Door {
                places: Semaphore::new(MAX_AT_ONCE),
                opening: tokio::sync::Mutex::default(),
                open_until: Mutex::default(),
            })
        });
        Arc::clone(door)
    }
}

impl Door {
    /// Waits until there is a connection, at most for `patience`; or until it is one's turn to make
    /// one, for as long as the answer is held.
    pub(super) async fn pass(&self, patience: Duration) -> Option<MutexGuard<'_, ()>> {
        if self.is_open() {
            return None;
        }
        let first = tokio::time::timeout(patience, self.opening.lock()).await;
        first.ok().filter(|_| !self.is_open())
    }

    fn open_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.open_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.open_until()
            .is_some_and(|until| Instant::now() < until)
    }

    /// A request came through, or did not.
    pub(super) fn came_through(&self, did: bool) {
        *self.open_until() = did.then(|| Instant::now() + OPEN);
    }
}
