//! What an operator sees of the outbox, and does with it.

use std::collections::BTreeSet;

use moh_messages::{DeliveryId, ProviderName};

use crate::change::{Change, Ending, OutboxBounds, Write};
use crate::clock::HOUR_MS;
use crate::node::Node;
use crate::store::{OutboxTotal, SetAsideRow, StoreError};

/// Records of what is set aside for a provider; further ones push out the oldest.
const MAX_SET_ASIDE: u64 = 10_000;
/// Others forget after 8 days what they have taken: nothing is tried for longer than 7.
const MAX_EXPIRY_HOURS: u64 = 168;
/// As much of what is set aside is changed at once.
const PORTION: usize = 256;

/// How things stand with another provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub provider: ProviderName,
    /// How much waits for it.
    pub waiting: u64,
    /// Of the payloads that wait, in bytes.
    pub waiting_bytes: u64,
    /// When the oldest that waits was made, in milliseconds since the Unix epoch.
    pub oldest_at: Option<u64>,
    /// How much is set aside.
    pub set_aside: u64,
    /// Of the payloads that are set aside and kept, in bytes.
    pub set_aside_bytes: u64,
    /// Records of what was set aside that were removed before their time, as there were too many.
    pub forgotten: u64,
    /// What is done about what waits.
    pub state: PeerState,
    /// When it was last heard of, in milliseconds since the Unix epoch; none: not since this
    /// provider has started, or not as long as that is remembered.
    pub last_alive_at: Option<u64>,
}

/// What is done about what waits for another provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Nothing waits.
    Idle,
    /// It is being sent.
    Sending,
    /// It did not work, and is tried again.
    Waiting {
        /// When, in milliseconds since the Unix epoch. A time in the past: right now.
        until_ms: u64,
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: u64,
        /// How often it did not work since then.
        failures: u32,
        /// What happened the last time.
        reason: String,
    },
    /// The settings do not allow to talk to it; what waits stays until they do, or until it expires.
    Paused,
}

/// Which of what is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// These numbers; those that are not set aside are left out.
    Ids(Vec<u64>),
    /// All that is set aside for a provider.
    Peer(ProviderName),
}

/// The outbox, for the operator.
impl Node {
    /// Providers that something waits for, waited for within the last ten minutes or so, or is set
    /// aside for, by name: at most `max` after `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn peers(
        &self,
        after: Option<&ProviderName>,
        max: usize,
    ) -> Result<Vec<PeerStatus>, StoreError> {
        let mut totals = self.store().outbox_totals(after, max).await?;
        let listed: BTreeSet<_> = totals.iter().map(|t| t.destination.clone()).collect();
        let others = self.outbox().destinations(after).into_iter();
        let others = others.filter(|name| !listed.contains(name));
        totals.extend(others.map(nothing_for));
        totals.sort_by(|a, b| a.destination.cmp(&b.destination));
        totals.truncate(max);
        Ok(totals.into_iter().map(|total| self.status(total)).collect())
    }

    fn status(&self, total: OutboxTotal) -> PeerStatus {
        let active = self.outbox().destination(&total.destination);
        let (active, last_alive_at) = match active.map(|active| active.state()) {
            Some((state, last_alive_at)) => (state, last_alive_at),
            None => (PeerState::Sending, None),
        };
        let state = if total.waiting == 0 {
            PeerState::Idle
        } else if self.may_talk_to(&total.destination) {
            active
        } else {
            PeerState::Paused
        };
        PeerStatus {
            provider: total.destination,
            waiting: total.waiting,
            waiting_bytes: total.waiting_bytes,
            oldest_at: total.oldest_at,
            set_aside: total.set_aside,
            set_aside_bytes: total.set_aside_bytes,
            forgotten: total.forgotten,
            state,
            last_alive_at,
        }
    }

    /// What is set aside, for one provider or for all, in the order in which that happened: at
    /// most `max` whose numbers are greater than `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn set_aside(
        &self,
        peer: Option<&ProviderName>,
        after: u64,
        max: usize,
    ) -> Result<Vec<SetAsideRow>, StoreError> {
        self.store().set_aside(peer, after, max).await
    }

    /// What is set aside, and not given up, is tried again, as if it were new: behind all that
    /// waits for the same group. Returns how much.
    ///
    /// What has expired keeps its id, by which the destination knows it if it took it after all;
    /// what was refused gets another one, as the destination would repeat its answer.
    ///
    /// # Errors
    /// When the store fails; some of it may be tried again then.
    pub async fn retry_set_aside(&self, chosen: &Chosen) -> Result<u64, StoreError> {
        self.with_set_aside(chosen, |row| {
            let is_new = row.ending == Ending::Refused;
            let new = || DeliveryId::new(self.random_bytes::<16>()).expect("16 bytes");
            row.can_be_retried.then(|| Write::OutboxRetry {
                id: row.id,
                delivery_id: is_new.then(new),
                at: self.now_ms(),
            })
        })
        .await
    }

    /// What is set aside is forgotten. Returns how much.
    ///
    /// # Errors
    /// When the store fails; some of it may be forgotten then.
    pub async fn drop_set_aside(&self, chosen: &Chosen) -> Result<u64, StoreError> {
        self.with_set_aside(chosen, |row| Some(Write::OutboxDrop { id: row.id }))
            .await
    }

    /// What waits for a provider is tried now, whatever happened before, and even if it wanted to
    /// be left alone for a while. Returns whether anything waits for it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn retry_peer_now(&self, provider: &ProviderName) -> Result<bool, StoreError> {
        let lanes = self.store().outbox_lanes().await?;
        let mut waits = false;
        for (_, lane) in lanes.iter().filter(|(peer, _)| peer == provider) {
            self.wake_outbox(provider, *lane);
            waits = true;
        }
        if let Some(destination) = self.outbox().destination(provider) {
            destination.try_now();
        }
        Ok(waits)
    }

    /// Makes a write of each that is chosen, in portions; what is set aside meanwhile is left out.
    async fn with_set_aside(
        &self,
        chosen: &Chosen,
        write: impl Fn(&SetAsideRow) -> Option<Write>,
    ) -> Result<u64, StoreError> {
        let writes: Vec<_> = self
            .chosen(chosen)
            .await?
            .iter()
            .filter_map(write)
            .collect();
        for portion in writes.chunks(PORTION) {
            let (expect, writes) = (Vec::new(), portion.to_vec());
            let made = self.commit(Change { expect, writes }).await;
            made.map_err(|error| StoreError(error.to_string()))?;
        }
        Ok(writes.len() as u64)
    }

    async fn chosen(&self, chosen: &Chosen) -> Result<Vec<SetAsideRow>, StoreError> {
        let mut rows = Vec::new();
        match chosen {
            Chosen::Ids(ids) => {
                for id in ids.iter().collect::<BTreeSet<_>>() {
                    let found = self.store().set_aside(None, id.saturating_sub(1), 1);
                    rows.extend(found.await?.into_iter().filter(|row| row.id == *id));
                }
            }
            Chosen::Peer(peer) => loop {
                let after = rows.last().map_or(0, |row: &SetAsideRow| row.id);
                let more = self.store().set_aside(Some(peer), after, PORTION).await?;
                let is_all = more.len() < PORTION;
                rows.extend(more);
                if is_all {
                    break;
                }
            },
        }
        Ok(rows)
    }

    /// The write that keeps what is kept for a provider within its bounds.
    pub(crate) fn outbox_bounds(&self, destination: &ProviderName) -> Write {
        let limits = self.limits();
        Write::OutboxBounds {
            destination: destination.clone(),
            bounds: OutboxBounds {
                waiting_bytes: limits.max_outbox_bytes_per_peer,
                set_aside_bytes: limits.max_set_aside_bytes_per_peer,
                set_aside: MAX_SET_ASIDE,
            },
            at: self.now_ms(),
        }
    }

    /// How long something is tried, in milliseconds.
    pub(super) fn outbox_expiry_ms(&self) -> u64 {
        self.limits().outbox_expiry_hours.min(MAX_EXPIRY_HOURS) * HOUR_MS
    }
}

/// Nothing is kept for a provider.
fn nothing_for(destination: ProviderName) -> OutboxTotal {
    OutboxTotal {
        destination,
        waiting: 0,
        waiting_bytes: 0,
        oldest_at: None,
        set_aside: 0,
        set_aside_bytes: 0,
        forgotten: 0,
    }
}
