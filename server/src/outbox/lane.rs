//! One lane of a destination: when something is sent, and what is waited for meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::destination::{Destination, Gate, backoff};
use super::send::{Sender, Sent};
use crate::node::Node;
use crate::store::StoreError;

/// A lane in which nothing waits ends after this.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// How often a lane that may not send looks for what has expired.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);

/// What wakes a lane.
pub(super) struct Lane {
    number: u8,
    /// Something came since the lane last looked.
    woken: AtomicBool,
    new: Notify,
}

impl Lane {
    pub(super) fn new(number: u8) -> Self {
        Self {
            number,
            woken: AtomicBool::new(false),
            new: Notify::new(),
        }
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// There is something new, or the lane should look again.
    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.new.notify_one();
    }

    /// The lane looks at what waits: what comes from now on may not be seen any more.
    pub(super) fn looks_again(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }
}

/// What a lane does next.
enum Next {
    /// It looks again.
    Again,
    /// It waits until something new comes, or until then.
    New(Option<Instant>),
    /// Its store has failed: it waits.
    Store(Duration),
}

impl Node {
    /// Delivers what waits in a lane until nothing has waited for a while, or the provider stops.
    pub(super) async fn run_lane(self, destination: Arc<Destination>, lane: Arc<Lane>) {
        let mut running = Running {
            node: &self,
            sender: Sender::new(&self, &destination, lane.number()),
            destination: &destination,
            lane: &lane,
            expiry_due: Instant::now(),
            store_failures: 0,
        };
        let stopping = self.stopping();
        loop {
            // An attempt that is cut off is made again after the next start.
            let next = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                next = running.step() => next,
            };
            let (until, is_idle) = match next {
                Next::Again => continue,
                Next::New(Some(until)) => (until, false),
                Next::New(None) => (Instant::now() + IDLE, true),
                Next::Store(wait) => {
                    tokio::select! {
                        biased;
                        () = stopping.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = lane.new.notified() => {}
                () = sleep_until(until) => {
                    if is_idle && self.outbox().end(&destination, &lane) {
                        return;
                    }
                }
            }
        }
    }
}

/// A lane at work.
struct Running<'a> {
    node: &'a Node,
    destination: &'a Destination,
    lane: &'a Lane,
    sender: Sender<'a>,
    /// When to look for what has expired, should nothing be sent until then.
    expiry_due: Instant,
    /// How often the store has failed since it last did not.
    store_failures: u32,
}

impl Running<'_> {
    async fn step(&mut self) -> Next {
        match self.look().await {
            Ok(next) => {
                self.store_failures = 0;
                next
            }
            Err(error) => {
                let peer = self.destination.name();
                tracing::error!(%peer, %error, "the outbox cannot be read or written");
                let wait = backoff(self.node.environment(), self.store_failures);
                self.store_failures = self.store_failures.saturating_add(1);
                Next::Store(wait)
            }
        }
    }

    /// Sends something, if the destination is to be sent anything; otherwise waits until it is.
    async fn look(&mut self) -> Result<Next, StoreError> {
        if !self.node.may_talk_to(self.destination.name()) {
            self.expire().await?;
            return Ok(Next::New(Some(self.expiry_due)));
        }
        let changed = self.destination.changed();
        let permit = match self.destination.enter(self.lane.number) {
            Gate::Open(permit) => permit,
            Gate::Closed(until) => {
                self.expire().await?;
                let until = until.map_or(self.expiry_due, |until| until.min(self.expiry_due));
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = sleep_until(until) => {}
                }
                return Ok(Next::Again);
            }
        };
        self.lane.looks_again();
        match self.sender.send(permit).await? {
            Sent::Something => Ok(Next::Again),
            Sent::Nothing(until) => Ok(Next::New(until)),
        }
    }

    /// Sets aside what has expired, now and then.
    async fn expire(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        if self.expiry_due <= now {
            self.sender.expire().await?;
            self.expiry_due = now + EXPIRY_INTERVAL;
        }
        Ok(())
    }
}
