//! A clock that stands still, until a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moh_server::Environment;

pub(crate) use moh_server::clock::{DAY_MS, HOUR_MS, MINUTE_MS};

#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    /// Begins with the machine's time. (openmls reads that one for itself.)
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(Environment::system().now_ms())))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl moh_server::clock::Clock for Clock {
    fn now_ms(&self) -> u64 {
        Self::now_ms(self)
    }
}
