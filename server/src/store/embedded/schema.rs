//! The file: its lock, its tables, and how connections to it are set up.

mod steps;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use self::steps::{FIRST_RELEASED_VERSION, STEPS, TABLES};
use crate::store::StoreError;

/// The version that the last step leads to.
pub(super) const SCHEMA_VERSION: i64 = FIRST_RELEASED_VERSION + STEPS.len() as i64;

/// "MoH1": tells this server's files from other SQLite files.
const APPLICATION_ID: i64 = 0x4d6f_4831;

/// Where the write-ahead log is copied back into the file, in pages of 4 KiB.
const CHECKPOINT_PAGES: i64 = 16_000;

/// What is left of the write-ahead log's file when it has grown past that.
const LOG_LIMIT_BYTES: i64 = 128 << 20;

const STATEMENTS: usize = 128;

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

/// The connection that writes. The file has this version's tables afterwards, and what was in
/// those of an older one.
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

/// A connection to a new database in memory, with this version's tables.
pub(super) fn open_in_memory() -> Result<Connection, StoreError> {
    let mut connection = Connection::open_in_memory()?;
    set_up(&connection)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    make_tables(&mut connection, Path::new(":memory:"))?;
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
    let is_new = tables == 0;
    let version = if is_new {
        FIRST_RELEASED_VERSION
    } else {
        version
    };
    if !is_new && version == SCHEMA_VERSION {
        return Ok(());
    }
    // All steps or none: who is interrupted begins where it began.
    let transaction = connection.transaction()?;
    if is_new {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    } else {
        tracing::info!(
            version,
            to = SCHEMA_VERSION,
            "the database is brought up to date"
        );
    }
    let done = usize::try_from(version - FIRST_RELEASED_VERSION).unwrap_or(STEPS.len());
    for step in &STEPS[done..] {
        for sql in step.sql {
            transaction.execute_batch(sql)?;
        }
        (step.then)(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(transaction.commit()?)
}
