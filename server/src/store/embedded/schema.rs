//! The file: its lock, its tables, and how connections to it are set up.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::store::StoreError;

/// The version of [`TABLES`]. Raise it with each change to them, and say how to get there.
const SCHEMA_VERSION: i64 = 2;

/// The first version that was released; what is older cannot be read.
const FIRST_RELEASED_VERSION: i64 = 2;

/// "MoH1": tells this server's files from other SQLite files.
const APPLICATION_ID: i64 = 0x4d6f_4831;

/// Where the write-ahead log is copied back into the file, in pages of 4 KiB.
const CHECKPOINT_PAGES: i64 = 16_000;

/// What is left of the write-ahead log's file when it has grown past that.
const LOG_LIMIT_BYTES: i64 = 128 << 20;

const STATEMENTS: usize = 128;

const TABLES: &str = "
-- Groups: a snapshot and the log after it.
CREATE TABLE groups (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    -- When it has to be looked after; none: never.
    due_at INTEGER,
    -- Whether nothing is left of it but its name.
    forgotten INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX groups_by_due_time ON groups (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE group_snapshots (
    group_number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (group_number, version)
);
CREATE TABLE group_log (
    group_number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (group_number, version)
);
-- The groups of a client.
CREATE TABLE group_members (
    client TEXT NOT NULL,
    group_number INTEGER NOT NULL,
    PRIMARY KEY (client, group_number)
) WITHOUT ROWID;
CREATE INDEX group_members_by_group ON group_members (group_number);
-- Clients that are to be removed, not before a time.
CREATE TABLE wanted_removals (
    group_number INTEGER NOT NULL,
    client TEXT NOT NULL,
    wanted_at INTEGER NOT NULL,
    PRIMARY KEY (group_number, client)
) WITHOUT ROWID;
CREATE INDEX wanted_removals_by_time ON wanted_removals (wanted_at, group_number);
-- Who may have an answer again is a key or a provider.
CREATE TABLE answers (
    group_id BLOB NOT NULL,
    message_hash BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    signature_key BLOB,
    provider TEXT,
    PRIMARY KEY (group_id, message_hash)
) WITHOUT ROWID;
CREATE INDEX answers_by_epoch ON answers (group_id, epoch);

-- Queues: an audience, who is in it, and its messages.
CREATE TABLE audiences (
    id INTEGER PRIMARY KEY,
    sender TEXT NOT NULL,
    digest BLOB NOT NULL,
    -- The newest of its messages, 0 when it never had one.
    last_sequence INTEGER NOT NULL DEFAULT 0,
    -- When it was last written to, 0 when that is not known.
    used_at INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sender, digest)
);
CREATE INDEX audiences_by_last_sequence ON audiences (last_sequence);
-- All members by position, one a line, an empty line where there is none.
CREATE TABLE audience_lists (
    audience INTEGER PRIMARY KEY,
    clients TEXT NOT NULL
);
CREATE TABLE audience_members (
    client TEXT NOT NULL,
    audience INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (client, audience, position)
) WITHOUT ROWID;
CREATE TABLE messages (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    audience INTEGER NOT NULL,
    except_position INTEGER,
    received_at INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX messages_by_audience ON messages (audience, sequence, except_position);
CREATE INDEX messages_by_time ON messages (received_at);
CREATE TABLE acknowledged (
    client TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE delivered (
    sender TEXT NOT NULL,
    delivery_id BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    result BLOB NOT NULL,
    PRIMARY KEY (sender, delivery_id)
) WITHOUT ROWID;
CREATE INDEX delivered_by_time ON delivered (received_at);

-- Deliveries to other providers.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    group_id BLOB NOT NULL,
    delivery_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    except_position INTEGER,
    created_at INTEGER NOT NULL,
    set_aside_reason TEXT,
    payload BLOB NOT NULL
);
CREATE INDEX outbox_waiting ON outbox (destination, id) WHERE set_aside_reason IS NULL;
CREATE INDEX outbox_by_digest ON outbox (digest);
CREATE TABLE outbox_audiences (
    digest BLOB PRIMARY KEY,
    recipients BLOB NOT NULL
);
-- When it was last written to, 0 when that is not known. Apart, as recipients can be large.
CREATE TABLE outbox_audience_uses (
    digest BLOB PRIMARY KEY,
    used_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Our own users.
CREATE TABLE clients (
    client_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    scheme INTEGER NOT NULL,
    signature_key BLOB NOT NULL,
    registered_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX clients_by_user ON clients (user_id, client_id);
CREATE TABLE key_packages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    reference BLOB NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    cipher_suite INTEGER NOT NULL,
    last_resort INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    bytes BLOB NOT NULL
);
CREATE INDEX key_packages_by_client
    ON key_packages (client_id, last_resort, number, cipher_suite, expires_at);
CREATE INDEX key_packages_by_expiry ON key_packages (expires_at);
CREATE TABLE consents (
    user_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    PRIMARY KEY (user_id, peer)
) WITHOUT ROWID;
";

/// Takes the file for this process alone; until the returned file is closed.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = private_file(&PathBuf::from(name))?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            StoreError(format!("{} is in use by another process", path.display()))
        }
        TryLockError::Error(error) => {
            StoreError(format!("{} cannot be locked: {error}", path.display()))
        }
    })?;
    Ok(file)
}

/// Opens a file, or makes one that only its owner can read. What SQLite puts beside a file has
/// the permissions of that file.
fn private_file(path: &Path) -> Result<File, StoreError> {
    let failed = |error| StoreError(format!("{} cannot be opened: {error}", path.display()));
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(failed)?;
    #[cfg(unix)]
    if is_new {
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
    }
    Ok(file)
}

/// The connection that writes. The file has this version's tables afterwards.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    drop(private_file(path)?);
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    set_up(&connection)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError(format!(
            "{} is on a file system that does not allow a write-ahead log",
            path.display()
        )));
    }
    // A commit has returned when the log is on the disk itself, also where that needs saying.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "cache_size", -64 * 1024)?;
    make_tables(&mut connection, path)?;
    Ok(connection)
}

/// A connection that reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    set_up(&connection)?;
    connection.pragma_update(None, "cache_size", -8 * 1024)?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

fn make_tables(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let number = |pragma: &str| {
        connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0))
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(StoreError(format!(
            "{} is not a database of this server",
            path.display()
        )));
    }
    if version > SCHEMA_VERSION {
        return Err(StoreError(format!(
            "{} has schema version {version}; this software knows {SCHEMA_VERSION} and older: \
             use a newer one",
            path.display()
        )));
    }
    if tables > 0 && version < FIRST_RELEASED_VERSION {
        return Err(StoreError(format!(
            "{} has schema version {version}, which was never released, and this software does \
             not read: remove the file to begin anew",
            path.display()
        )));
    }
    if tables == 0 {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
    }
    Ok(())
}
