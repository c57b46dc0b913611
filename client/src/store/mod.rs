//! The state database: one SQLite file, one connection, so that one transaction covers the
//! state of MLS and ours.

mod attestations;
mod kv;
mod people;
mod rejoins;
mod tables;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use moh_messages::GroupId;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use openmls_traits::random::OpenMlsRand;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::clock::{Random, Work};
use crate::error::Error;
use crate::key_file::{self, KeyFile};

pub(crate) use attestations::UnverifiedRow;
pub(crate) use kv::Kv;
pub(crate) use people::{
    ConnectionRow, KeptRequest, Step, TO_COMMIT, TO_CONSENT, TO_TELL, TO_UPDATE,
};
pub(crate) use rejoins::RejoinRow;
pub(crate) use tables::{AccountRow, KeyPackageRow, Pending, Since};

/// The state database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite said no.
    #[error("state database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value does not read as what it was written as.
    #[error("state database, a stored value: {0}")]
    Value(String),
    /// The file could not be created.
    #[error("state database file: {0}")]
    File(#[from] std::io::Error),
    /// The file was written by a later version of this crate.
    #[error("state database of version {0}, which is later than this program's")]
    Later(i64),
    /// The client was deleted, and its state with it.
    #[error("state database of a client that was deleted")]
    Deleted,
    /// A row is missing or is not what this version writes.
    #[error("state database lacks {0}")]
    Incomplete(&'static str),
}

/// What leads from each version of the database to the next, beginning with an empty one.
const STEPS: [&str; 4] = [SCHEMA, FURTHER_OPERATIONS, PEOPLE, UPKEEP];

const SCHEMA: &str = "
CREATE TABLE kv (
    kind INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
-- This client; one row. The cursor is that of the last queue item that was processed.
CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    client TEXT NOT NULL, cipher_suite INTEGER NOT NULL, signature_key BLOB NOT NULL,
    attestation BLOB, cursor BLOB NOT NULL DEFAULT x''
);
-- KeyPackages whose private keys are in kv. at_provider: the provider said that it has it.
CREATE TABLE key_packages (
    reference BLOB PRIMARY KEY, last_resort INTEGER NOT NULL, not_after_s INTEGER NOT NULL,
    at_provider INTEGER NOT NULL
);
-- Groups that the owner knows us as a member of. stale_queue: joined by a last-resort
-- KeyPackage, whose queue config is to be replaced.
CREATE TABLE groups (
    group_id BLOB PRIMARY KEY, owner TEXT NOT NULL, stale_queue INTEGER NOT NULL
);
-- Requests whose answer is not known; one for each group.
CREATE TABLE pending (
    group_id BLOB PRIMARY KEY, operation INTEGER NOT NULL, owner TEXT NOT NULL,
    request BLOB NOT NULL, extra BLOB NOT NULL
);
-- Messages that are to be encrypted anew, once this client has caught up; one for each group.
CREATE TABLE unsent (group_id BLOB PRIMARY KEY, content BLOB NOT NULL);
-- Queue items that wait until what is pending in their group is settled.
CREATE TABLE parked (
    id INTEGER PRIMARY KEY AUTOINCREMENT, group_id BLOB NOT NULL, item BLOB NOT NULL
);
-- What the application has not taken yet.
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB NOT NULL);
";

const FURTHER_OPERATIONS: &str = "
-- Groups that this client was in: what still arrives for them is left out.
CREATE TABLE left_groups (group_id BLOB PRIMARY KEY, since_ms INTEGER NOT NULL) WITHOUT ROWID;
-- What will be in kv when the owner of the group takes the external commit that is pending there.
CREATE TABLE staged (
    group_id BLOB NOT NULL, kind INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (group_id, kind, key)
) WITHOUT ROWID;
-- The first epoch in which this client was a member, and the first of which its state knows.
ALTER TABLE groups ADD COLUMN member_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE groups ADD COLUMN state_since INTEGER NOT NULL DEFAULT 0;
";

const PEOPLE: &str = "
-- 1: the end of this client was asked for; 2: it has come, and nothing else is left.
ALTER TABLE account ADD COLUMN ending INTEGER NOT NULL DEFAULT 0;
-- How many KeyPackages of each kind the provider is to have; whether it has said that there are
-- few; when there was a look at that for the last time.
ALTER TABLE account ADD COLUMN key_packages_wanted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN key_packages_low INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN key_packages_seen_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE key_packages ADD COLUMN for_connections INTEGER NOT NULL DEFAULT 0;
ALTER TABLE groups ADD COLUMN group_type INTEGER NOT NULL DEFAULT 0;
-- What this client is about with each peer. group_id: the connection group. request: a request of
-- the peer, as a queue item, that is not accepted, or whose group is not joined yet; it is for
-- request_group. todo: what is yet to be done, as bits.
CREATE TABLE connections (
    peer TEXT PRIMARY KEY, step INTEGER NOT NULL, since_ms INTEGER NOT NULL, group_id BLOB UNIQUE,
    request_group BLOB UNIQUE, request BLOB, todo INTEGER NOT NULL
) WITHOUT ROWID;
-- Connection groups that are over, and are to be deleted or left.
CREATE TABLE endings (group_id BLOB PRIMARY KEY) WITHOUT ROWID;
-- The keys that a provider attests with, as it says.
CREATE TABLE provider_keys (
    provider TEXT PRIMARY KEY, keys BLOB NOT NULL, fetched_ms INTEGER NOT NULL
) WITHOUT ROWID;
-- Attestations of members that are not verified yet. seen_ms: when this client saw them first.
CREATE TABLE unverified (
    id INTEGER PRIMARY KEY AUTOINCREMENT, provider TEXT NOT NULL, group_id BLOB NOT NULL,
    attestation BLOB NOT NULL, seen_ms INTEGER NOT NULL, UNIQUE (group_id, attestation)
);
CREATE INDEX unverified_of ON unverified (provider);
";

const UPKEEP: &str = "
-- Groups that this client cannot follow, and is to join again at not_before_ms; or, by state, has
-- joined again, or could not, which counts until then. epoch: that of the state which is no good.
CREATE TABLE rejoins (
    group_id BLOB PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL, state INTEGER NOT NULL,
    times INTEGER NOT NULL, not_before_ms INTEGER NOT NULL
) WITHOUT ROWID;
-- When this client has last changed its keys in a group; 0: not known.
ALTER TABLE groups ADD COLUMN updated_ms INTEGER NOT NULL DEFAULT 0;
-- The database was lost, and this one does not replace it yet; when it did.
ALTER TABLE account ADD COLUMN is_new INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN lost_ms INTEGER NOT NULL DEFAULT 0;
-- Who delivered what waits.
ALTER TABLE parked ADD COLUMN sender TEXT NOT NULL DEFAULT '';
";

/// The state database, shared by all that use it.
#[derive(Clone)]
pub(crate) struct Store {
    conn: Arc<Mutex<Connection>>,
    random: Arc<dyn Random>,
    work: Work,
    /// Where the client's key is kept apart.
    key_path: Arc<Path>,
    /// The client was deleted.
    is_over: Arc<AtomicBool>,
}

/// An open transaction; also what openmls calls a provider.
pub(crate) struct Tx<'c> {
    conn: &'c Connection,
    kv: Kv<'c>,
    crypto: RustCrypto,
    rand: Rand,
}

impl Store {
    /// Opens the database at `path`, or creates it, readable for its owner only.
    pub(crate) async fn open(
        path: &Path,
        random: Arc<dyn Random>,
        work: Work,
    ) -> Result<Self, Error> {
        let key_path = key_file::path_beside(path).into();
        let path = path.to_owned();
        let conn = work.run(move || open_connection(&path, work)).await?;
        let store = Self {
            conn: Arc::new(Mutex::new(conn)),
            random,
            work,
            key_path,
            is_over: Arc::default(),
        };
        if store.run(|tx| Ok::<_, Error>(tx.is_over()?)).await? {
            return Err(Error::AccountDeleted);
        }
        Ok(store)
    }

    /// Deletes all there is, but for the word that the client was deleted.
    pub(crate) async fn wipe(&self) -> Result<(), Error> {
        let key_path = Arc::clone(&self.key_path);
        let work = self.work;
        work.run(move || KeyFile::delete(&key_path)).await?;
        let is_over = Arc::clone(&self.is_over);
        let wiped = self
            .run(move |tx| {
                tx.wipe()?;
                // Nobody gets to write in between.
                is_over.store(true, Ordering::Relaxed);
                Ok::<_, Error>(())
            })
            .await;
        self.is_over.store(wiped.is_ok(), Ordering::Relaxed);
        wiped
    }

    /// Runs `work` in a transaction of its own: all of it becomes durable, or, where it fails,
    /// none. It runs to its end even if the returned future is dropped.
    pub(crate) async fn run<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        let this = self.clone();
        let on_database = move || {
            let mut conn = this.conn.lock().unwrap_or_else(PoisonError::into_inner);
            if this.is_over.load(Ordering::Relaxed) {
                return Err(StoreError::Deleted.into());
            }
            let transaction = conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(StoreError::from)?;
            let result = work(&Tx {
                conn: &transaction,
                kv: Kv::new(&transaction),
                crypto: RustCrypto::default(),
                rand: Rand(this.random),
            })?;
            transaction.commit().map_err(StoreError::from)?;
            Ok(result)
        };
        self.work.run(on_database).await
    }
}

fn open_connection(path: &Path, work: Work) -> Result<Connection, StoreError> {
    create_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    // One process at a time: two of them would use the same keys of a ratchet twice.
    conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match work {
        Work::Pool => "FULL",
        Work::Inline => "OFF",
    };
    conn.pragma_update(None, "synchronous", synchronous)?;
    conn.pragma_update(None, "secure_delete", "ON")?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let steps = usize::try_from(version).ok().and_then(|v| STEPS.get(v..));
    for (number, step) in (version + 1..).zip(steps.ok_or(StoreError::Later(version))?) {
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", number)?;
    }
    transaction.commit()?;
    Ok(conn)
}

/// Creates the file, if it is not there, so that it is never readable for others: SQLite gives
/// the files beside it the same mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?;
    Ok(())
}

impl Tx<'_> {
    /// The same transaction; what openmls stores in it is kept apart until it is adopted.
    pub(crate) fn staged<'a>(&'a self, group: &'a GroupId) -> Tx<'a> {
        Tx {
            conn: self.conn,
            kv: Kv::staged(self.conn, group.as_slice()),
            crypto: RustCrypto::default(),
            rand: Rand(Arc::clone(&self.rand.0)),
        }
    }

    /// Runs `work` so that what it wrote is undone if it fails; the transaction goes on.
    pub(crate) fn attempt<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.batch("SAVEPOINT attempt")?;
        let result = work();
        if result.is_err() {
            self.batch("ROLLBACK TO attempt")?;
        }
        self.batch("RELEASE attempt")?;
        result
    }

    /// Runs `work` and undoes what it wrote.
    pub(crate) fn look<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.batch("SAVEPOINT look")?;
        let result = work();
        self.batch("ROLLBACK TO look; RELEASE look")?;
        result
    }

    fn batch(&self, sql: &str) -> Result<(), StoreError> {
        Ok(self.conn.execute_batch(sql)?)
    }
}

impl<'c> OpenMlsProvider for Tx<'c> {
    type CryptoProvider = RustCrypto;
    type RandProvider = Rand;
    type StorageProvider = Kv<'c>;

    fn storage(&self) -> &Kv<'c> {
        &self.kv
    }
    fn crypto(&self) -> &RustCrypto {
        &self.crypto
    }
    fn rand(&self) -> &Rand {
        &self.rand
    }
}

/// The randomness of MLS.
pub(crate) struct Rand(Arc<dyn Random>);

impl OpenMlsRand for Rand {
    type Error = std::convert::Infallible;

    fn random_array<const N: usize>(&self) -> Result<[u8; N], Self::Error> {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        Ok(bytes)
    }

    fn random_vec(&self, len: usize) -> Result<Vec<u8>, Self::Error> {
        let mut bytes = vec![0; len];
        self.0.fill(&mut bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandom;

    #[tokio::test]
    async fn a_database_of_an_earlier_version_is_led_to_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let group = GroupId::new(*b"group").unwrap();
        {
            let conn = Connection::open(&path).unwrap();
            conn.execute_batch(SCHEMA).unwrap();
            conn.pragma_update(None, "user_version", 1).unwrap();
            let row = (group.as_slice(), "a.example", false);
            conn.execute("INSERT INTO groups VALUES (?1, ?2, ?3)", row)
                .unwrap();
        }
        for _ in 0..2 {
            let store = Store::open(&path, Arc::new(SystemRandom), Work::Pool)
                .await
                .unwrap();
            let id = group.clone();
            let since = store.run(move |tx| tx.since(&id)).await.unwrap();
            assert_eq!((since.member, since.state), (0, 0));
        }
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        drop(conn);
        let later = Store::open(&path, Arc::new(SystemRandom), Work::Pool).await;
        assert!(matches!(
            later.err(),
            Some(Error::Store(StoreError::Later(99)))
        ));
    }

    #[tokio::test]
    async fn work_inline_is_done_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let done_at_once = |work| {
            let path = path.clone();
            async move {
                let opened = Store::open(&path, Arc::new(SystemRandom), work);
                futures_util::FutureExt::now_or_never(opened).is_some_and(|store| store.is_ok())
            }
        };
        assert!(done_at_once(Work::Inline).await);
        assert!(!done_at_once(Work::Pool).await);
    }
}
