//! The time of the demonstration, which can be moved on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moh_client::{Clock as _, SystemClock};

/// So far is it moved on, in milliseconds: an hour more than a day.
const A_DAY_MS: u64 = 25 * 60 * 60 * 1000;

/// What providers and clients take for the time. It begins a day ago, so that it never is ahead
/// of the machine's, which MLS looks at as well.
#[derive(Clone, Debug)]
pub(super) struct StageClock {
    behind_ms: Arc<AtomicU64>,
}

impl StageClock {
    pub(super) fn yesterday() -> Self {
        Self {
            behind_ms: Arc::new(AtomicU64::new(A_DAY_MS)),
        }
    }

    /// A day goes by.
    pub(super) fn next_day(&self) {
        self.behind_ms.store(0, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        let behind_ms = self.behind_ms.load(Ordering::Relaxed);
        SystemClock.now_ms().saturating_sub(behind_ms)
    }
}

impl moh_client::Clock for StageClock {
    fn now_ms(&self) -> u64 {
        self.now()
    }
}

impl moh_server::clock::Clock for StageClock {
    fn now_ms(&self) -> u64 {
        self.now()
    }
}
