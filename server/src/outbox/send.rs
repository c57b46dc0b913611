//! What a lane sends, and what it makes of the answers.
//!
//! Deliveries of a group are sent in order, and one is sent after all before it have their results.
//! A group whose next delivery is not taken yet is held back, and the others go on.

mod request;
mod settle;

use std::collections::{BTreeMap, BTreeSet};

use moh_messages::{ClientId, Endpoint, GroupId, Message, QueuePayload};
use tokio::time::Instant;

use super::destination::{Destination, MAX_BATCH, Permit, asked, backoff};
use crate::change::{Change, Ending, OutboxDelivery, Write};
use crate::inbox::endpoint_of;
use crate::node::Node;
use crate::store::{OutboxItem, OutboxRow, StoreError};

/// The most bytes of the payloads in one request.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Groups of a lane that wait while others go on.
const MAX_HELD: usize = 256;
/// Why something is set aside that was tried for too long.
const EXPIRED: &str = "expired";
/// Why something is set aside that was stored wrongly.
const UNREADABLE: &str = "what is stored cannot be read";

/// What was done of what waits in a lane.
pub(super) enum Sent {
    /// Something was tried, or set aside.
    Something,
    /// Nothing can be sent before then; none: before something new comes.
    Nothing(Option<Instant>),
}

/// What came of an attempt.
enum Attempt {
    /// What was sent has had its answer, as far as it has one.
    Answered,
    /// The destination will never take this request, for what is in it.
    Refused(String),
    /// Later again.
    Later(Failure),
}

/// An attempt that says nothing of what was sent.
struct Failure {
    reason: String,
    /// As it wants to be left alone.
    after_seconds: Option<u32>,
    /// Something has answered: the destination, or what stands before it.
    is_answer: bool,
}

impl Attempt {
    /// There was no answer.
    fn unreachable(reason: impl ToString) -> Self {
        Self::Later(Failure {
            reason: reason.to_string(),
            after_seconds: None,
            is_answer: false,
        })
    }

    /// There was an answer that says nothing.
    fn later(reason: impl ToString, after_seconds: Option<u32>) -> Self {
        Self::Later(Failure {
            reason: reason.to_string(),
            after_seconds,
            is_answer: true,
        })
    }
}

/// A delivery that waits, decoded.
struct Waiting {
    id: u64,
    row: OutboxDelivery,
    payload: QueuePayload,
}

impl Waiting {
    /// Where deliveries like this one go.
    fn endpoint(&self) -> Endpoint {
        endpoint_of(&self.payload)
    }
}

/// What is sent at once.
enum Run {
    /// Deliveries of one kind.
    Deliveries(Vec<Waiting>),
    /// A client of ours is gone.
    ClientDeleted(u64, ClientId),
    /// It cannot be read.
    Unreadable(u64),
}

impl Run {
    /// The first that waits, and what goes with it: what is of a group that goes `alone` does not.
    fn of(rows: Vec<OutboxRow>, alone: impl Fn(&GroupId) -> bool) -> Option<Self> {
        let mut run: Vec<Waiting> = Vec::new();
        for OutboxRow { id, item, .. } in rows {
            let next = match item {
                OutboxItem::ClientDeleted(client) if run.is_empty() => {
                    return Some(Self::ClientDeleted(id, client));
                }
                OutboxItem::ClientDeleted(_) => break,
                OutboxItem::Delivery(row) => match QueuePayload::decode(&row.payload) {
                    Ok(payload) => Waiting { id, row, payload },
                    Err(_) if run.is_empty() => return Some(Self::Unreadable(id)),
                    Err(_) => break,
                },
            };
            let goes_with = |first: &Waiting| {
                first.endpoint() == next.endpoint()
                    && !alone(&first.row.group_id)
                    && !alone(&next.row.group_id)
            };
            if run.first().is_some_and(|first| !goes_with(first)) {
                break;
            }
            run.push(next);
        }
        (!run.is_empty()).then_some(Self::Deliveries(run))
    }
}

/// Why a group has to wait, or had to.
struct Held {
    until: Instant,
    /// How often it was tried.
    failures: u32,
    /// How often the destination had answered when it was held back.
    successes: u64,
    /// Requests with it in them failed while others did not: it is sent alone.
    is_suspected: bool,
}

/// What has failed last.
struct Failed {
    /// How often the destination had answered by then.
    successes: u64,
    /// The group, where there was nothing else in the request.
    alone: Option<GroupId>,
}

/// What a lane sends.
pub(super) struct Sender<'a> {
    node: &'a Node,
    destination: &'a Destination,
    lane: u8,
    /// Groups whose next delivery is not taken yet; what is about clients that are gone counts as
    /// one whose name is empty.
    held: BTreeMap<GroupId, Held>,
    failed: Option<Failed>,
    /// A request was too large, or nobody knows what was wrong in it: there is less in the next.
    max_deliveries: usize,
}

impl<'a> Sender<'a> {
    pub(super) fn new(node: &'a Node, destination: &'a Destination, lane: u8) -> Self {
        Self {
            node,
            destination,
            lane,
            held: BTreeMap::new(),
            failed: None,
            max_deliveries: MAX_BATCH,
        }
    }

    /// Sends some of what waits.
    ///
    /// # Errors
    /// When the store cannot be read or written. What was sent may have been taken; then it is
    /// sent again, and known by its id.
    pub(super) async fn send(&mut self, permit: Permit<'_>) -> Result<Sent, StoreError> {
        let max = permit.max_deliveries.min(self.max_deliveries);
        let rows = self.next(max).await?;
        if self.set_expired_aside(&rows).await? > 0 {
            return Ok(Sent::Something);
        }
        let alone = |group_id: &GroupId| self.held.get(group_id).is_some_and(|h| h.is_suspected);
        let (first, groups, attempt) = match Run::of(rows, alone) {
            None => return Ok(Sent::Nothing(self.first_held())),
            Some(Run::Unreadable(id)) => {
                let aside = self.set_aside(id, Ending::Unreadable, UNREADABLE);
                self.write(vec![aside]).await?;
                return Ok(Sent::Something);
            }
            Some(Run::ClientDeleted(id, client)) => {
                (id, vec![GroupId::empty()], self.tell(id, &client).await?)
            }
            Some(Run::Deliveries(run)) => {
                let (deliveries, unreadable) = self.batch(&run).await?;
                if !unreadable.is_empty() {
                    self.write(unreadable).await?;
                    return Ok(Sent::Something);
                }
                let run = &run[..deliveries.len()];
                let groups = run.iter().map(|w| w.row.group_id.clone()).collect();
                (run[0].id, groups, self.attempt(run, deliveries).await?)
            }
        };
        match attempt {
            Attempt::Answered => self.answered(permit, &groups),
            Attempt::Refused(reason) => {
                self.answered(permit, &groups);
                if groups.len() > 1 {
                    self.max_deliveries = groups.len() / 2;
                } else {
                    let aside = self.set_aside(first, Ending::RequestRefused, &reason);
                    self.write(vec![aside]).await?;
                }
            }
            Attempt::Later(failure) => self.failed(permit, &groups, failure),
        }
        let now = Instant::now();
        if self.held.values().filter(|held| held.until > now).count() < MAX_HELD {
            return Ok(Sent::Something);
        }
        self.held.retain(|_, held| held.until > now);
        Ok(Sent::Nothing(self.first_held()))
    }

    /// What waits and is not held back. What has failed alone comes last, in case it is to blame.
    async fn next(&mut self, max: usize) -> Result<Vec<OutboxRow>, StoreError> {
        let now = Instant::now();
        let held = self.held.iter().filter(|(_, held)| held.until > now);
        let mut but: BTreeSet<_> = held.map(|(group_id, _)| group_id.clone()).collect();
        let failed = self.failed.as_ref().and_then(|f| f.alone.clone());
        if let Some(failed) = failed.filter(|failed| !but.contains(failed)) {
            but.insert(failed.clone());
            let rows = self.read(&but, max).await?;
            if !rows.is_empty() {
                return Ok(rows);
            }
            but.remove(&failed);
        }
        let rows = self.read(&but, max).await?;
        if rows.is_empty() {
            // Of the others nothing waits any more.
            self.held.retain(|group_id, _| but.contains(group_id));
        }
        Ok(rows)
    }

    async fn read(
        &self,
        but: &BTreeSet<GroupId>,
        max: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let (store, peer) = (self.node.store(), self.destination.name());
        store
            .outbox(peer, self.lane, but, max, MAX_BATCH_BYTES)
            .await
    }

    /// When the first group that is held back may go on.
    fn first_held(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }

    /// The destination has answered, whatever the answer was.
    fn answered(&mut self, permit: Permit<'_>, groups: &[GroupId]) {
        permit.succeeded();
        self.max_deliveries = (self.max_deliveries * 2).min(MAX_BATCH);
        match &mut self.failed {
            // Others are answered; whether it is to blame shows when it is tried again.
            Some(failed) if failed.alone.as_ref().is_some_and(|g| !groups.contains(g)) => {
                failed.alone = None;
            }
            _ => self.failed = None,
        }
    }

    /// There was no answer, or none that says what became of the request. Where others are answered
    /// meanwhile, it is not the destination that is to blame, but what was sent.
    fn failed(&mut self, permit: Permit<'_>, groups: &[GroupId], failure: Failure) {
        let Failure {
            reason,
            after_seconds,
            is_answer,
        } = failure;
        let successes = self.destination.successes();
        let alone = groups.first().filter(|_| groups.len() == 1).cloned();
        let suspected = alone.as_ref().and_then(|group_id| self.held.get(group_id));
        let suspected = suspected.filter(|held| held.is_suspected);
        let before = suspected.map(|held| held.successes);
        let before = before.or(self.failed.as_ref().map(|failed| failed.successes));
        // What was suspected before, and is answered like that again, is to blame without them.
        let others_are_answered =
            before.is_some_and(|before| before < successes) || (suspected.is_some() && is_answer);
        if after_seconds.is_some() || !others_are_answered {
            self.failed = Some(Failed { successes, alone });
            permit.failed(reason, after_seconds);
        } else if let Some(group_id) = alone {
            self.failed = Some(Failed {
                successes,
                alone: None,
            });
            self.hold(&group_id, &reason, None, true);
        } else {
            self.max_deliveries = groups.len() / 2;
        }
    }

    /// A group waits while the others go on.
    fn hold(
        &mut self,
        group_id: &GroupId,
        reason: &str,
        after_seconds: Option<u32>,
        is_suspected: bool,
    ) {
        let failures = self.held.get(group_id).map_or(0, |held| held.failures + 1);
        let wait = backoff(self.node.environment(), failures);
        let wait = wait.max(after_seconds.map(asked).unwrap_or_default());
        let (peer, wait_ms) = (self.destination.name(), wait.as_millis());
        tracing::debug!(%peer, %reason, wait_ms, "a group has to wait");
        let held = Held {
            until: Instant::now() + wait,
            failures,
            successes: self.destination.successes(),
            is_suspected,
        };
        self.held.insert(group_id.clone(), held);
    }

    /// Sets aside all that has expired, without sending anything.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(super) async fn expire(&self) -> Result<(), StoreError> {
        let nothing = BTreeSet::new();
        // Mostly there is nothing: then no more than the oldest is read.
        let mut max = 1;
        loop {
            let rows = self.read(&nothing, max).await?;
            if self.set_expired_aside(&rows).await? == 0 {
                return Ok(());
            }
            max = MAX_BATCH;
        }
    }

    async fn set_expired_aside(&self, rows: &[OutboxRow]) -> Result<usize, StoreError> {
        let (now, expiry_ms) = (self.node.now_ms(), self.node.outbox_expiry_ms());
        let has_expired = |row: &&OutboxRow| row.created_at.saturating_add(expiry_ms) < now;
        let expired = rows.iter().filter(has_expired);
        let writes: Vec<_> = expired
            .map(|row| self.set_aside(row.id, Ending::Expired, EXPIRED))
            .collect();
        let many = writes.len();
        if many > 0 {
            self.write(writes).await?;
        }
        Ok(many)
    }

    fn set_aside(&self, id: u64, ending: Ending, reason: &str) -> Write {
        let peer = self.destination.name();
        tracing::warn!(%peer, reason, "something is set aside, and not tried any more");
        Write::OutboxSetAside {
            id,
            ending,
            reason: reason.to_owned(),
            at: self.node.now_ms(),
        }
    }

    async fn write(&self, mut writes: Vec<Write>) -> Result<(), StoreError> {
        let is_aside = |write: &Write| matches!(write, Write::OutboxSetAside { .. });
        if writes.iter().any(is_aside) {
            writes.push(self.node.outbox_bounds(self.destination.name()));
        }
        let change = Change {
            expect: Vec::new(),
            writes,
        };
        let made = self.node.commit(change).await;
        made.map_err(|error| StoreError(error.to_string()))
    }
}
