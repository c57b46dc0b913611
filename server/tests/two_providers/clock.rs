//! Time as a test wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moh_server::Environment;

/// A clock that a test moves. It ends where the clock of the machine is, which openmls reads.
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn start(before_now_ms: u64) -> Arc<Self> {
        let now = Environment::system().now_ms();
        Arc::new(Self(AtomicU64::new(now - before_now_ms)))
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl moh_server::clock::Clock for Clock {
    fn now_ms(&self) -> u64 {
        self.now()
    }
}
