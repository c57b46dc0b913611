//! Time, randomness, and where heavy work runs, as constructor arguments: a whole federation can
//! run on one thread, on virtual time, from one seed. Waiting goes through tokio's timer, which can
//! be paused.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The current time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// A source of random bytes that an attacker cannot predict.
pub trait Random: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Random {
    /// `N` random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the real time comes in"
    )]
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The random number generator of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where real randomness comes in"
    )]
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the system has a random number generator");
    }
}

/// Where work runs that takes its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// On tokio's threads for it, where it holds up nobody.
    #[default]
    Pool,
    /// At once, where it is asked for: then all that happens on one thread happens in an order
    /// that is the same in each run.
    Inline,
}

/// What was to be done was not done to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("work was cut off")]
pub struct CutOff;

impl Work {
    /// Does something that takes its time. It is done to its end, even if nobody waits for it any
    /// more.
    ///
    /// # Errors
    /// When it has panicked on another thread, or the runtime shuts down.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CutOff> {
        match self {
            Self::Pool => tokio::task::spawn_blocking(work).await.map_err(|_| CutOff),
            Self::Inline => Ok(work()),
        }
    }
}

/// All three, as they are handed around.
#[derive(Clone)]
pub struct Environment {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What nobody can guess.
    pub random: Arc<dyn Random>,
    /// Where heavy work runs.
    pub work: Work,
}

impl Environment {
    /// Those of the machine, and its threads for heavy work.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            work: Work::Pool,
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}

/// A second, in milliseconds.
pub const SECOND_MS: u64 = 1000;
/// A minute, in milliseconds.
pub const MINUTE_MS: u64 = 60 * SECOND_MS;
/// An hour, in milliseconds.
pub const HOUR_MS: u64 = 60 * MINUTE_MS;
/// A day, in milliseconds.
pub const DAY_MS: u64 = 24 * HOUR_MS;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_where_it_is_to() {
        let here = std::thread::current().id();
        let at = || std::thread::current().id();
        assert_eq!(Work::Inline.run(at).await, Ok(here));
        assert_ne!(Work::Pool.run(at).await, Ok(here));
        let cut_off = Work::Pool.run(|| panic!("on purpose")).await;
        assert_eq!(cut_off, Err(CutOff));
    }
}
