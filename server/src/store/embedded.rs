//! The embedded backend: one SQLite file, for a provider on one machine.
//!
//! One thread owns the only connection that writes. It takes the changes that have queued up
//! meanwhile and commits them together: one synchronization of the disk for all of them, and
//! no answer before it. Reads run beside it, on connections of their own, each on a snapshot
//! that holds everything whose commit has returned.
//!
//! A message is stored once for its audience. A client's queue is not stored at all: it is
//! what its audiences hold beyond its cursor (see `reads::queue`).

mod accounts;
mod apply;
mod bindings;
mod commit;
mod connections;
mod inline;
mod key_packages;
mod outbox;
mod queue;
mod reads;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;
mod upkeep;
mod writer;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use moh_messages::client_api::{BlockTarget, Connection};
use moh_messages::{
    AudienceDigest, ClientId, DeliveryId, GroupId, KeyPackageRef, ProviderName, UserId,
};
use tokio::sync::{mpsc, oneshot};

use self::commit::Committer;
use self::inline::Inline;
use self::reads::Readers;
use self::writer::{Job, Writer};
use super::{
    CommitError, OutboxRow, OutboxTotal, QueueRow, Relation, SetAsideRow, Store, StoreError,
    StoredGroup, Takes,
};
use crate::change::{
    Answer, Change, Client, InvitationId, KeyPackage, Pool, PoolState, Seat, Uploads, Version,
};

/// What the writer is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterEvent {
    /// A transaction begins, for this many changes.
    Begin(usize),
    /// Everything is written, nothing is durable.
    BeforeCommit,
    /// Everything is durable, nothing is answered.
    BeforeReply,
}

/// Is told what the writer is about to do, on the writer's thread.
pub type Observer = Arc<dyn Fn(WriterEvent) + Send + Sync>;

/// How the embedded backend runs.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// The most reads at a time.
    pub max_readers: usize,
    /// The most changes that wait for the writer; further ones wait to be let in.
    pub max_waiting_changes: usize,
    /// The most changes that are committed together.
    pub max_batch_changes: usize,
    /// No further change is taken into a batch that writes this many bytes.
    pub max_batch_bytes: usize,
    /// For tests: watches the writer. It must not use the store.
    pub observer: Option<Observer>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            max_readers: 8,
            max_waiting_changes: 1024,
            max_batch_changes: 512,
            max_batch_bytes: 8 << 20,
            observer: None,
        }
    }
}

/// Storage in one SQLite file, which is durable; or in memory.
///
/// Dropping it waits until the changes that are queued are committed.
pub struct Embedded {
    writes: Writes,
    readers: Readers,
    /// Released last.
    _lock: Option<File>,
}

/// Where changes become durable.
enum Writes {
    /// On a thread of its own.
    Thread {
        jobs: Option<mpsc::Sender<Job>>,
        writer: Option<JoinHandle<()>>,
    },
    /// At once, in memory.
    Inline(Arc<Inline>),
}

impl Embedded {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be read or written, is in use by another process, or was written by a
    /// version of this software that is newer, or was never released.
    pub fn open(path: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let lock = schema::lock(path)?;
        let connection = schema::open_writer(path)?;
        let readers = Readers::open(path, options.max_readers.max(1))?;
        let (jobs, queued) = mpsc::channel(options.max_waiting_changes.max(1));
        let writer = Writer::new(connection, queued, options);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError(format!("no thread for the writer: {error}")))?;
        Ok(Self {
            writes: Writes::Thread {
                jobs: Some(jobs),
                writer: Some(writer),
            },
            readers,
            _lock: Some(lock),
        })
    }

    /// An empty database in memory, which is gone when this is dropped: for tests. It is the same
    /// in all else, but it has no threads: each change and each read is done on the thread of
    /// whoever asks, one at a time, before the call first waits. So all that happens on one thread
    /// happens in the same order in each run. Of the options, the observer counts.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn open_in_memory(options: EmbeddedOptions) -> Result<Self, StoreError> {
        let committer = Committer::new(schema::open_in_memory()?, options.observer);
        let inline = Arc::new(Inline::new(committer));
        Ok(Self {
            writes: Writes::Inline(Arc::clone(&inline)),
            readers: Readers::Inline(inline),
            _lock: None,
        })
    }
}

async fn send<T>(
    jobs: Option<&mpsc::Sender<Job>>,
    job: Job,
    reply: oneshot::Receiver<Result<T, CommitError>>,
) -> Result<T, CommitError> {
    let stopped = || StoreError("the writer has stopped".to_owned());
    let jobs = jobs.ok_or_else(stopped)?;
    jobs.send(job).await.map_err(|_| stopped())?;
    reply.await.map_err(|_| stopped())?
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Writes::Thread { jobs, writer } = &mut self.writes {
            *jobs = None;
            // A writer that has panicked has nothing more to say.
            let _ = writer.take().map(JoinHandle::join);
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, change: Change) -> Result<(), CommitError> {
        match &self.writes {
            Writes::Thread { jobs, .. } => {
                let (reply, answer) = oneshot::channel();
                send(jobs.as_ref(), Job::Commit(change, reply), answer).await
            }
            Writes::Inline(inline) => inline.commit(&change),
        }
    }

    async fn group(&self, group_id: &GroupId) -> Result<Option<StoredGroup>, StoreError> {
        let group_id = group_id.clone();
        self.readers.read(move |c| reads::group(c, &group_id)).await
    }

    async fn group_at_epoch(
        &self,
        group_id: &GroupId,
        epoch: u64,
    ) -> Result<Option<StoredGroup>, StoreError> {
        let group_id = group_id.clone();
        self.readers
            .read(move |c| reads::group_at_epoch(c, &group_id, epoch))
            .await
    }

    async fn group_version(&self, group_id: &GroupId) -> Result<Option<Version>, StoreError> {
        let group_id = group_id.clone();
        self.readers
            .read(move |c| reads::group_version(c, &group_id))
            .await
    }

    async fn groups_due(&self, now: u64, max: usize) -> Result<Vec<GroupId>, StoreError> {
        self.readers
            .read(move |c| upkeep::groups_due(c, now, max))
            .await
    }

    async fn wanted_removals(&self, group_id: &GroupId) -> Result<Vec<ClientId>, StoreError> {
        let group_id = group_id.clone();
        self.readers
            .read(move |c| upkeep::wanted_removals(c, &group_id))
            .await
    }

    async fn answer(
        &self,
        group_id: &GroupId,
        message_hash: &[u8; 32],
    ) -> Result<Option<Answer>, StoreError> {
        let (group_id, message_hash) = (group_id.clone(), *message_hash);
        self.readers
            .read(move |c| reads::answer(c, &group_id, &message_hash))
            .await
    }

    async fn queues_take(
        &self,
        sender: &ProviderName,
        queues: Vec<Seat>,
    ) -> Result<Vec<Takes>, StoreError> {
        let sender = sender.clone();
        self.readers
            .read(move |c| bindings::queues_take(c, &sender, &queues))
            .await
    }

    async fn audience(
        &self,
        sender: &ProviderName,
        digest: &AudienceDigest,
    ) -> Result<Option<Vec<Option<ClientId>>>, StoreError> {
        let (sender, digest) = (sender.clone(), digest.clone());
        self.readers
            .read(move |c| reads::audience(c, &sender, &digest))
            .await
    }

    async fn delivered(
        &self,
        sender: &ProviderName,
        delivery_id: &DeliveryId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let (sender, delivery_id) = (sender.clone(), delivery_id.clone());
        self.readers
            .read(move |c| reads::delivered(c, &sender, &delivery_id))
            .await
    }

    async fn outbox_lanes(&self) -> Result<Vec<(ProviderName, u8)>, StoreError> {
        self.readers.read(outbox::lanes).await
    }

    async fn outbox(
        &self,
        destination: &ProviderName,
        lane: u8,
        but: &BTreeSet<GroupId>,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let (destination, but) = (destination.clone(), but.clone());
        self.readers
            .read(move |c| outbox::outbox(c, &destination, lane, &but, max_rows, max_bytes))
            .await
    }

    async fn outbox_audience(
        &self,
        digest: &AudienceDigest,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let digest = digest.clone();
        self.readers
            .read(move |c| outbox::outbox_audience(c, &digest))
            .await
    }

    async fn outbox_totals(
        &self,
        after: Option<&ProviderName>,
        max: usize,
    ) -> Result<Vec<OutboxTotal>, StoreError> {
        let after = after.cloned();
        self.readers
            .read(move |c| outbox::totals(c, after.as_ref(), max))
            .await
    }

    async fn set_aside(
        &self,
        destination: Option<&ProviderName>,
        after: u64,
        max: usize,
    ) -> Result<Vec<SetAsideRow>, StoreError> {
        let destination = destination.cloned();
        self.readers
            .read(move |c| outbox::set_aside(c, destination.as_ref(), after, max))
            .await
    }

    async fn client(&self, client_id: &ClientId) -> Result<Option<Client>, StoreError> {
        let client_id = client_id.clone();
        self.readers
            .read(move |c| accounts::client(c, &client_id))
            .await
    }

    async fn clients(&self, user: &UserId) -> Result<Vec<ClientId>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |c| accounts::clients(c, &user))
            .await
    }

    async fn is_deleted(&self, client_id: &ClientId) -> Result<bool, StoreError> {
        let client_id = client_id.clone();
        self.readers
            .read(move |c| accounts::is_deleted(c, &client_id))
            .await
    }

    async fn invitation_is_used(&self, invitation: &InvitationId) -> Result<bool, StoreError> {
        let invitation = *invitation;
        self.readers
            .read(move |c| accounts::invitation_is_used(c, &invitation))
            .await
    }

    async fn next_key_package(
        &self,
        pool: &Pool,
        cipher_suites: &[u16],
        now: u64,
    ) -> Result<Option<KeyPackage>, StoreError> {
        let (pool, cipher_suites) = (pool.clone(), cipher_suites.to_vec());
        self.readers
            .read(move |c| key_packages::next(c, &pool, &cipher_suites, now))
            .await
    }

    async fn key_packages(&self, pool: &Pool, now: u64) -> Result<PoolState, StoreError> {
        let pool = pool.clone();
        self.readers
            .read(move |c| key_packages::state(c, &pool, now))
            .await
    }

    async fn uploads(&self, client_id: &ClientId) -> Result<Uploads, StoreError> {
        let client_id = client_id.clone();
        self.readers
            .read(move |c| key_packages::uploads(c, &client_id))
            .await
    }

    async fn deleted_clients(&self, user: &UserId) -> Result<u64, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |c| accounts::deleted_clients(c, &user))
            .await
    }

    async fn known_key_packages(
        &self,
        references: &[KeyPackageRef],
    ) -> Result<Vec<(KeyPackageRef, bool)>, StoreError> {
        let references = references.to_vec();
        self.readers
            .read(move |c| key_packages::known(c, &references))
            .await
    }

    async fn consent(&self, user: &UserId, peer: &UserId) -> Result<bool, StoreError> {
        let (user, peer) = (user.clone(), peer.clone());
        self.readers
            .read(move |c| connections::consent(c, &user, &peer))
            .await
    }

    async fn blocked(&self, user: &UserId, peer: &UserId) -> Result<bool, StoreError> {
        let (user, peer) = (user.clone(), peer.clone());
        self.readers
            .read(move |c| connections::blocked(c, &user, &peer))
            .await
    }

    async fn relation(&self, user: &UserId, peer: &UserId) -> Result<Relation, StoreError> {
        let (user, peer) = (user.clone(), peer.clone());
        self.readers
            .read(move |c| connections::relation(c, &user, &peer))
            .await
    }

    async fn connections(
        &self,
        user: &UserId,
        after: Option<&UserId>,
        max: usize,
    ) -> Result<Vec<Connection>, StoreError> {
        let (user, after) = (user.clone(), after.cloned());
        self.readers
            .read(move |c| connections::connections(c, &user, after.as_ref(), max))
            .await
    }

    async fn blocks(
        &self,
        user: &UserId,
        after: Option<&BlockTarget>,
        max: usize,
    ) -> Result<Vec<BlockTarget>, StoreError> {
        let (user, after) = (user.clone(), after.cloned());
        self.readers
            .read(move |c| connections::blocks(c, &user, after.as_ref(), max))
            .await
    }

    async fn queue(
        &self,
        client_id: &ClientId,
        after: u64,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueRow>, StoreError> {
        let client_id = client_id.clone();
        self.readers
            .read(move |c| queue::queue(c, &client_id, after, max_rows, max_bytes))
            .await
    }

    async fn acknowledged(&self, client_id: &ClientId) -> Result<u64, StoreError> {
        let client_id = client_id.clone();
        self.readers
            .read(move |c| reads::acknowledged(c, &client_id))
            .await
    }

    async fn sweep(&self, before: u64) -> Result<(), StoreError> {
        let jobs = match &self.writes {
            Writes::Thread { jobs, .. } => jobs.as_ref(),
            Writes::Inline(inline) => return inline.sweep(before),
        };
        let (reply, answer) = oneshot::channel();
        match send(jobs, Job::Sweep(before, reply), answer).await {
            Ok(()) => Ok(()),
            Err(CommitError::Failed(error)) => Err(error),
            Err(CommitError::Conflict) => Err(StoreError("a sweep cannot conflict".to_owned())),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A number as SQLite keeps it.
fn int(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError(format!("{value} is too large to be stored")))
}

/// A bound that stored numbers are compared with: none of them is greater than the greatest.
fn bound(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A time as SQLite keeps it; what is too far away for it is the end of time.
fn time(value: u64) -> i64 {
    bound(value)
}

/// A time that [`time`] was given.
fn time_of(stored: u64) -> u64 {
    if bound(stored) == i64::MAX {
        u64::MAX
    } else {
        stored
    }
}

/// A stored name, which was valid when it was written.
fn name<T: std::str::FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse()
        .map_err(|_| StoreError(format!("{text:?} in the database is not a valid name")))
}

/// Stored bytes, which were within their bounds when they were written.
fn opaque<const MAX: usize, const MIN: usize>(
    bytes: Vec<u8>,
) -> Result<moh_messages::Opaque<MAX, MIN>, StoreError> {
    moh_messages::Opaque::new(bytes)
        .map_err(|error| StoreError(format!("a value in the database: {error}")))
}
