//! Time, randomness, and where heavy work runs, as constructor arguments.

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // This is where system time enters.
    fn now_ms(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}

/// Gives random bytes that nobody can foretell.
pub trait Random: Send + Sync + 'static {
    /// Fills all of `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The generator of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[allow(clippy::disallowed_methods)] // This is where system randomness enters.
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// Where a client does what takes its time: work on its state database, most of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// On tokio's threads for it, where it holds up nobody.
    #[default]
    Pool,
    /// At once, where it is asked for, for tests: then all that happens on one thread happens in
    /// an order that is the same in each run. Nothing waits for the disk: the state survives the
    /// end of the process, and not that of the machine.
    Inline,
}

impl Work {
    /// Does work that takes its time, to its end, even if the returned future is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if self == Self::Inline {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down: nobody waits for this future any more.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// A number below `end`, or 0 where that is 0; for jitter, not for keys.
pub(crate) fn below(random: &dyn Random, end: u64) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_be_bytes(bytes).checked_rem(end).unwrap_or(0)
}
