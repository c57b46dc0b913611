//! What other providers are told, durably: in order, tried until it is answered.
//!
//! For each destination there is one task. It reads what waits, sends it, deliveries as a batch,
//! and removes what was answered; everything is in the store until then, so that whatever dies
//! here, it is sent again, a delivery with the same id.

mod lane;
mod status;

pub use status::{Chosen, PeerState, PeerStatus};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moh_messages::ProviderName;
use tokio::sync::Notify;

use self::lane::{LaneSender, Progress};
use crate::node::Node;

/// The first wait after a failure, which is doubled with each further one, and the longest.
const FIRST_BACKOFF_MS: u64 = 250;
const MAX_BACKOFF_MS: u64 = 5 * 60 * 1000;

/// What a destination's task waits for.
#[derive(Default)]
struct Lane {
    /// There is something new to deliver.
    new: Notify,
    /// The destination is alive, whatever failed before.
    alive: Notify,
}

/// The lanes that have a task, by destination and number.
#[derive(Default)]
pub(crate) struct Outbox {
    lanes: Mutex<BTreeMap<(ProviderName, u8), Arc<Lane>>>,
}

impl Outbox {
    fn lanes(&self) -> MutexGuard<'_, BTreeMap<(ProviderName, u8), Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A provider was heard of: there is no reason to wait for it any longer.
    pub(crate) fn sign_of_life(&self, provider: &ProviderName) {
        let lanes = self.lanes();
        let of = (provider.clone(), 0)..=(provider.clone(), u8::MAX);
        for lane in lanes.range(of).map(|(_, lane)| lane) {
            lane.alive.notify_one();
        }
    }
}

impl Node {
    /// Sees to it that what waits in a lane is delivered.
    pub(crate) fn wake_outbox(&self, destination: &ProviderName, number: u8) {
        let key = (destination.clone(), number);
        let mut lanes = self.outbox().lanes();
        if let Some(lane) = lanes.get(&key) {
            lane.new.notify_one();
            return;
        }
        let lane = Arc::new(Lane::default());
        lanes.insert(key, lane.clone());
        let (node, destination) = (self.clone(), destination.clone());
        self.tasks()
            .spawn(async move { node.run_lane(&destination, number, &lane).await });
    }

    /// Sees to it that all that waits is delivered.
    pub(crate) async fn wake_all_lanes(&self) {
        match self.store().outbox_lanes().await {
            Ok(all) => all
                .iter()
                .for_each(|(destination, lane)| self.wake_outbox(destination, *lane)),
            Err(error) => tracing::warn!(%error, "what waits in the outbox is not sent yet"),
        }
    }

    async fn run_lane(&self, destination: &ProviderName, number: u8, lane: &Lane) {
        let mut sender = LaneSender::new(self, destination, number);
        let mut failures = 0u32;
        let stopping = self.stopping();
        loop {
            // An attempt that is cut off is made again after the next start.
            let progress = tokio::select! {
                biased;
                progress = sender.deliver_what_waits() => progress,
                () = stopping.cancelled() => return,
            };
            let wait = match progress {
                Ok(Progress::Empty(until)) => {
                    let has_to_wait = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                    biased;
                            () = lane.new.notified() => {}
                            () = has_to_wait => {}
                            () = stopping.cancelled() => return,
                        }
                    continue;
                }
                Ok(Progress::Some) => {
                    failures = 0;
                    continue;
                }
                Ok(Progress::Later {
                    reason,
                    after_seconds,
                }) => {
                    let wait = self.backoff(failures, after_seconds);
                    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(%destination, %reason, wait_ms, "not delivered");
                    failures += 1;
                    wait
                }
                Err(error) => {
                    tracing::error!(%destination, %error, "the outbox cannot be read");
                    failures += 1;
                    self.backoff(failures, None)
                }
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = lane.alive.notified() => failures = 0,
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Full jitter: anything between nothing and twice the last limit.
    fn backoff(&self, failures: u32, after_seconds: Option<u32>) -> Duration {
        let limit = FIRST_BACKOFF_MS
            .saturating_mul(1 << failures.min(20))
            .min(MAX_BACKOFF_MS);
        let jitter = u64::from_be_bytes(self.random_bytes()) % (limit + 1);
        let asked = u64::from(after_seconds.unwrap_or(0)) * 1000;
        Duration::from_millis(jitter.max(asked.min(MAX_BACKOFF_MS)))
    }
}
