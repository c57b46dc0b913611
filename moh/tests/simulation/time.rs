//! Virtual time, and clocks that do not quite agree on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use moh_server::clock::{Clock as _, DAY_MS, SystemClock};
use tokio::time::Instant;

/// The time that has passed since the start of a run, which is told by tokio's paused clock.
#[derive(Debug)]
pub(crate) struct Time {
    start: Instant,
    base_ms: u64,
}

impl Time {
    /// Begins now, at the start of a day that has passed: MLS itself compares the start of a
    /// KeyPackage's life with the machine's clock.
    pub(crate) fn begin() -> Arc<Self> {
        let today = SystemClock.now_ms() / DAY_MS * DAY_MS;
        Arc::new(Self {
            start: Instant::now(),
            base_ms: today - 3 * DAY_MS,
        })
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Since the start, in milliseconds.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap()
    }
}

/// The clock of one process.
#[derive(Debug)]
pub(crate) struct Watch {
    time: Arc<Time>,
    offset_ms: AtomicI64,
}

impl Watch {
    /// A clock that is wrong by so much.
    pub(crate) fn new(time: &Arc<Time>, offset_ms: i64) -> Arc<Self> {
        Arc::new(Self {
            time: Arc::clone(time),
            offset_ms: AtomicI64::new(offset_ms),
        })
    }

    /// From now on it is wrong by so much.
    pub(crate) fn set(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        let now = self.time.base_ms + self.time.elapsed_ms();
        now.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }
}

/// A watch, as the libraries take it.
#[derive(Clone, Debug)]
pub(crate) struct Clock(pub(crate) Arc<Watch>);

impl moh_server::clock::Clock for Clock {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }
}

impl moh_client::Clock for Clock {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }
}
