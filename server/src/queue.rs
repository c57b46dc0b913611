//! Clients' queues: read, acknowledged, and waited for.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use moh_messages::client_api::{Acknowledge, QueueItem, QueueItemPayload, ReadQueue};
use moh_messages::{AudienceDigest, ClientId, List, Message, Opaque, ProviderName};
use tokio::sync::Notify;

use crate::change::{Change, Write};
use crate::error::Refusal;
use crate::node::Node;
use crate::store::StoreError;

/// The most items in one answer.
const MAX_ITEMS: usize = 256;
/// No further item is read once there are so many bytes.
const MAX_BYTES: usize = 4 << 20;
/// Audiences whose members are remembered.
const REMEMBERED_AUDIENCES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// The members of an audience, by position.
pub(crate) type Members = Arc<[Option<ClientId>]>;

/// Who waits for what, and who is in which audience.
pub(crate) struct Queues {
    /// By name, so that they are woken in the same order each time.
    waiting: Mutex<BTreeMap<ClientId, Arc<Notify>>>,
    audiences: Mutex<Audiences>,
}

/// The members of audiences as they are in the store. What is read there before some of them
/// have to be said anew, and would be remembered after it, is not.
struct Audiences {
    reading: u64,
    members: LruCache<(ProviderName, AudienceDigest), Members>,
}

impl Queues {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            audiences: Mutex::new(Audiences {
                reading: 0,
                members: LruCache::new(REMEMBERED_AUDIENCES),
            }),
        }
    }

    fn audiences(&self) -> std::sync::MutexGuard<'_, Audiences> {
        self.audiences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What members that are read from now on are remembered by.
    pub(crate) fn reading(&self) -> u64 {
        self.audiences().reading
    }

    /// Members were read.
    pub(crate) fn remember(
        &self,
        reading: u64,
        audience: (ProviderName, AudienceDigest),
        members: Members,
    ) {
        let mut audiences = self.audiences();
        if audiences.reading == reading {
            audiences.members.put(audience, members);
        }
    }

    /// The members of an audience, if they are remembered.
    pub(crate) fn remembered(&self, audience: &(ProviderName, AudienceDigest)) -> Option<Members> {
        self.audiences().members.get(audience).cloned()
    }

    /// A change was in conflict: perhaps because these are not what they were.
    pub(crate) fn forget<'a>(
        &self,
        some: impl IntoIterator<Item = &'a (ProviderName, AudienceDigest)>,
    ) {
        let mut audiences = self.audiences();
        for audience in some {
            audiences.members.pop(audience);
        }
    }

    /// Some audiences have to be said anew.
    pub(crate) fn forget_all(&self) {
        let mut audiences = self.audiences();
        audiences.reading += 1;
        audiences.members.clear();
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<ClientId, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something new is in the queues of these, who are woken in this order.
    pub(crate) fn wake(&self, members: &[Option<ClientId>]) {
        let waiting = self.waiting();
        if waiting.is_empty() {
            return;
        }
        let bells = members.iter().flatten().filter_map(|m| waiting.get(m));
        bells.for_each(|bell| bell.notify_waiters());
    }

    fn bell(&self, client: &ClientId) -> Bell<'_> {
        let notify = self.waiting().entry(client.clone()).or_default().clone();
        Bell {
            queues: self,
            client: client.clone(),
            notify,
        }
    }
}

/// A client's place among those who wait, given up when it is dropped.
struct Bell<'a> {
    queues: &'a Queues,
    client: ClientId,
    notify: Arc<Notify>,
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queues.waiting();
        // The map's own, and this one: nobody else waits.
        if Arc::strong_count(&self.notify) <= 2 {
            waiting.remove(&self.client);
        }
    }
}

fn cursor_of(sequence: u64) -> Opaque<64> {
    Opaque::new(sequence.to_be_bytes()).expect("8 bytes")
}

fn sequence_of(cursor: &Opaque<64>) -> Result<Option<u64>, Refusal> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let bytes = cursor.as_slice().try_into();
    let sequence = bytes
        .map(u64::from_be_bytes)
        .ok()
        .filter(|s| i64::try_from(*s).is_ok());
    let unknown = || Refusal::PolicyViolation("this cursor is none of ours".to_owned());
    sequence.map(Some).ok_or_else(unknown)
}

impl Node {
    /// What is in a client's queue after a cursor; waits for it as long as the client wants, and
    /// at most as long as the limit says.
    ///
    /// # Errors
    /// `policy_violation` for a cursor that is none; `unauthenticated` when the client is deleted
    /// meanwhile; `unavailable`.
    pub async fn read_queue(
        &self,
        client: &ClientId,
        read: &ReadQueue,
    ) -> Result<List<QueueItem, MAX_ITEMS>, Refusal> {
        let after = match sequence_of(&read.cursor)? {
            Some(sequence) => sequence,
            None => self.store().acknowledged(client).await?,
        };
        let wait = read.wait_ms.min(self.limits().max_queue_wait_ms);
        let deadline = tokio::time::Instant::now() + Duration::from_millis(wait.into());
        let bell = self.queues().bell(client);
        loop {
            // Listen first, look then: what comes in between rings.
            let rung = bell.notify.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let rows = self
                .store()
                .queue(client, after, MAX_ITEMS, MAX_BYTES)
                .await?;
            // It may have been deleted while it waited.
            if self.store().is_deleted(client).await? {
                return Err(Refusal::Unauthenticated("no such client, or key"));
            }
            let stopping = self.stopping();
            if !rows.is_empty() || wait == 0 || stopping.is_cancelled() {
                let items = rows.into_iter().map(item).collect::<Result<Vec<_>, _>>()?;
                return Ok(List::new(items).expect("not more than were asked for"));
            }
            tokio::select! {
                biased;
                () = rung => {}
                () = tokio::time::sleep_until(deadline) => return Ok(List::empty()),
                () = stopping.cancelled() => return Ok(List::empty()),
            }
        }
    }

    /// Forgets what a client has.
    ///
    /// # Errors
    /// As for `read_queue`.
    pub async fn acknowledge(
        &self,
        client: &ClientId,
        acknowledge: &Acknowledge,
    ) -> Result<(), Refusal> {
        if let Some(sequence) = sequence_of(&acknowledge.cursor)? {
            let write = Write::Acknowledge {
                client_id: client.clone(),
                sequence,
            };
            self.commit(Change {
                expect: Vec::new(),
                writes: vec![write],
            })
            .await?;
        }
        Ok(())
    }
}

fn item(row: crate::store::QueueRow) -> Result<QueueItem, Refusal> {
    let payload = QueueItemPayload::decode(&row.payload)
        .map_err(|error| StoreError(format!("a queued message cannot be read: {error}")))?;
    Ok(QueueItem {
        cursor: cursor_of(row.sequence),
        received_at: row.received_at,
        sender: row.sender,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors() {
        assert_eq!(sequence_of(&cursor_of(7)), Ok(Some(7)));
        assert_eq!(sequence_of(&Opaque::empty()), Ok(None));
        assert!(sequence_of(&Opaque::new([1]).unwrap()).is_err());
        assert!(sequence_of(&Opaque::new([0xff; 8]).unwrap()).is_err());
    }

    #[test]
    fn who_no_longer_waits_takes_no_room() {
        let queues = Queues::new();
        let client: ClientId = "mimi://a.example/d/alice/phone".parse().unwrap();
        let first = queues.bell(&client);
        let second = queues.bell(&client);
        drop(first);
        assert_eq!(queues.waiting().len(), 1);
        drop(second);
        assert_eq!(queues.waiting().len(), 0);
    }
}
