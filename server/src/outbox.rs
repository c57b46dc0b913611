//! What other providers are told, durably: in order, tried until it is answered.
//!
//! What waits for a destination is in a few lanes, a group always in the same one. A lane in which
//! something waits has a task (`lane`), which reads what waits, has it sent (`send`), and removes
//! what was answered; everything is in the store until then, so that whatever dies here, it is sent
//! again, a delivery with the same id. What the lanes of a destination share is in `destination`.

mod destination;
mod lane;
mod send;
mod status;

pub use status::{Chosen, PeerState, PeerStatus};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moh_messages::ProviderName;

use self::destination::Destination;
use self::lane::Lane;
use crate::node::Node;

/// A lane whose task has failed, by a mistake of ours, is left alone for so long.
const AFTER_PANIC: Duration = Duration::from_secs(60);

/// The destinations that something waits for, or waited for a while ago.
#[derive(Default)]
pub(crate) struct Outbox {
    active: Mutex<BTreeMap<ProviderName, Active>>,
}

/// A destination whose lanes have tasks.
struct Active {
    destination: Arc<Destination>,
    lanes: BTreeMap<u8, Arc<Lane>>,
}

impl Outbox {
    fn active(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn destination(&self, provider: &ProviderName) -> Option<Arc<Destination>> {
        let active = self.active();
        let found = active.get(provider);
        found.map(|active| Arc::clone(&active.destination))
    }

    /// The names after `after` of those that are in memory.
    fn destinations(&self, after: Option<&ProviderName>) -> Vec<ProviderName> {
        let active = self.active();
        let names = active.keys().filter(|name| Some(*name) > after);
        names.cloned().collect()
    }

    /// A provider was heard of: there is no reason to wait for it any longer, unless it wants that.
    pub(crate) fn sign_of_life(&self, provider: &ProviderName) {
        if let Some(destination) = self.destination(provider) {
            destination.gave_a_sign_of_life();
        }
    }

    /// Ends a lane, and forgets its destination with the last one. False where there is something
    /// new in it, or the destination has asked for something that has to be remembered.
    fn end(&self, destination: &Destination, lane: &Lane) -> bool {
        let mut active = self.active();
        let Some(found) = active.get_mut(destination.name()) else {
            return true;
        };
        // Whoever wakes it holds the same lock: what comes after this finds no lane, and begins one.
        if lane.is_woken() || !destination.can_be_forgotten() {
            return false;
        }
        found.lanes.remove(&lane.number());
        if found.lanes.is_empty() {
            active.remove(destination.name());
        }
        true
    }
}

impl Node {
    /// Sees to it that what waits in a lane is delivered.
    pub(crate) fn wake_outbox(&self, destination: &ProviderName, number: u8) {
        let mut active = self.outbox().active();
        let found = active
            .entry(destination.clone())
            .or_insert_with_key(|name| Active {
                destination: Arc::new(Destination::new(name.clone(), self.environment().clone())),
                lanes: BTreeMap::new(),
            });
        if let Some(lane) = found.lanes.get(&number) {
            lane.wake();
            return;
        }
        let lane = Arc::new(Lane::new(number));
        found.lanes.insert(number, Arc::clone(&lane));
        let (node, destination) = (self.clone(), Arc::clone(&found.destination));
        self.tasks().spawn(node.keep_lane(destination, lane));
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

    /// Runs a lane until it ends of its own accord.
    async fn keep_lane(self, destination: Arc<Destination>, lane: Arc<Lane>) {
        loop {
            let run = self
                .clone()
                .run_lane(Arc::clone(&destination), Arc::clone(&lane));
            let error = match tokio::spawn(run).await {
                Ok(()) => return,
                Err(error) if error.is_cancelled() => return,
                Err(error) => error,
            };
            let (peer, lane) = (destination.name(), lane.number());
            tracing::error!(%peer, lane, %error, "a lane of the outbox has failed");
            tokio::select! {
                biased;
                () = self.stopping().cancelled() => return,
                () = tokio::time::sleep(AFTER_PANIC) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Environment;

    /// Whatever comes between the end of a lane's wait and its own end is not lost.
    #[test]
    fn a_lane_that_was_woken_does_not_end() {
        let outbox = Outbox::default();
        let name: ProviderName = "b.example".parse().unwrap();
        let destination = Arc::new(Destination::new(name.clone(), Environment::system()));
        let lanes: Vec<_> = (0..2).map(|number| Arc::new(Lane::new(number))).collect();
        let active = Active {
            destination: Arc::clone(&destination),
            lanes: (0..).zip(lanes.iter().cloned()).collect(),
        };
        outbox.active().insert(name, active);
        lanes[0].wake();
        assert!(!outbox.end(&destination, &lanes[0]));
        assert!(outbox.end(&destination, &lanes[1]));
        assert_eq!(outbox.destinations(None).len(), 1);
        lanes[0].looks_again();
        assert!(outbox.end(&destination, &lanes[0]));
        assert!(outbox.destinations(None).is_empty());
    }
}
