//! Reads: the connections for them, and each one in SQL.

use std::sync::{Arc, Mutex, PoisonError};

use moh_messages::{AudienceDigest, ClientId, DeliveryId, GroupId, ProviderName};
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::Semaphore;

use super::inline::Inline;
use super::{bound, name, opaque, schema};
use crate::change::{Answer, Version, Whose};
use crate::store::{StoreError, StoredGroup};

pub(super) type Found<T> = Result<Option<T>, StoreError>;

/// Where reads run.
pub(super) enum Readers {
    /// Beside each other, on tokio's threads for such work.
    Pool(Pool),
    /// One at a time, at once.
    Inline(Arc<Inline>),
}

/// Connections that read, each for one read at a time.
pub(super) struct Pool {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

/// A connection that goes back when its read has ended, in whichever way.
struct Lease {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.connection.take());
    }
}

impl Readers {
    pub(super) fn open(path: &std::path::Path, count: usize) -> Result<Self, StoreError> {
        let idle = (0..count)
            .map(|_| schema::open_reader(path))
            .collect::<Result<_, _>>()?;
        Ok(Self::Pool(Pool {
            idle: Arc::new(Mutex::new(idle)),
            permits: Arc::new(Semaphore::new(count)),
        }))
    }

    /// Runs a read on one snapshot of everything whose commit has returned by now.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Pool(pool) => pool.read(read).await,
            Self::Inline(inline) => inline.read(read),
        }
    }
}

impl Pool {
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |what: &str| StoreError(format!("a read: {what}"));
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| failed("no permit"))?;
        let idle = Arc::clone(&self.idle);
        let task = tokio::task::spawn_blocking(move || {
            // The connection goes back before the permit does.
            let _permit = permit;
            let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let lease = Lease { connection, idle };
            let connection = lease
                .connection
                .as_ref()
                .ok_or_else(|| failed("no connection"))?;
            let snapshot = connection.unchecked_transaction()?;
            read(&snapshot)
        });
        task.await
            .map_err(|error| StoreError(format!("a read: {error}")))?
    }
}

/// A column that was written from a `u64`.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// The number and the version of a group that is not forgotten.
pub(super) fn group_number(connection: &Connection, group_id: &GroupId) -> Found<(i64, Version)> {
    Ok(connection
        .prepare_cached("SELECT number, version FROM groups WHERE group_id = ?1 AND forgotten = 0")?
        .query_row([group_id.as_slice()], |row| {
            Ok((row.get(0)?, number(row, 1)?))
        })
        .optional()?)
}

pub(super) fn group_version(connection: &Connection, group_id: &GroupId) -> Found<Version> {
    Ok(connection
        .prepare_cached("SELECT version FROM groups WHERE group_id = ?1")?
        .query_row([group_id.as_slice()], |row| number(row, 0))
        .optional()?)
}

pub(super) fn group(connection: &Connection, group_id: &GroupId) -> Found<StoredGroup> {
    let Some((group, version)) = group_number(connection, group_id)? else {
        return Ok(None);
    };
    let (snapshot_version, _, snapshot) = snapshot(connection, group, i64::MAX)?
        .ok_or_else(|| StoreError("a group without a snapshot".to_owned()))?;
    let log = connection
        .prepare_cached(
            "SELECT bytes FROM group_log WHERE group_number = ?1 AND version > ?2
             ORDER BY version",
        )?
        .query_map(params![group, bound(snapshot_version)], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(Some(StoredGroup {
        version,
        snapshot_version,
        snapshot,
        log,
    }))
}

/// The newest snapshot that is not of a later epoch: its version, epoch and bytes.
fn snapshot(connection: &Connection, group: i64, epoch: i64) -> Found<(Version, u64, Vec<u8>)> {
    Ok(connection
        .prepare_cached(
            "SELECT version, epoch, bytes FROM group_snapshots
             WHERE group_number = ?1 AND epoch <= ?2 ORDER BY version DESC LIMIT 1",
        )?
        .query_row([group, epoch], |row| {
            Ok((number(row, 0)?, number(row, 1)?, row.get(2)?))
        })
        .optional()?)
}

pub(super) fn group_at_epoch(
    connection: &Connection,
    group_id: &GroupId,
    epoch: u64,
) -> Found<StoredGroup> {
    let Some((group, _)) = group_number(connection, group_id)? else {
        return Ok(None);
    };
    let Some((snapshot_version, mut reached, snapshot)) =
        snapshot(connection, group, bound(epoch))?
    else {
        return Ok(None);
    };
    let mut found = StoredGroup {
        version: snapshot_version,
        snapshot_version,
        snapshot,
        log: Vec::new(),
    };
    let mut statement = connection.prepare_cached(
        "SELECT version, epoch, bytes FROM group_log WHERE group_number = ?1 AND version > ?2
         ORDER BY version",
    )?;
    let mut entries = statement.query(params![group, bound(snapshot_version)])?;
    while reached < epoch {
        let Some(entry) = entries.next()? else {
            return Ok(None);
        };
        found.version = number(entry, 0)?;
        reached = number(entry, 1)?;
        found.log.push(entry.get(2)?);
    }
    Ok((reached == epoch).then_some(found))
}

pub(super) fn answer(
    connection: &Connection,
    group_id: &GroupId,
    message_hash: &[u8; 32],
) -> Found<Answer> {
    let row = connection
        .prepare_cached(
            "SELECT epoch, accepted_at, signature_key, provider FROM answers
             WHERE group_id = ?1 AND message_hash = ?2",
        )?
        .query_row(params![group_id.as_slice(), message_hash], |row| {
            let (key, provider): (_, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok((number(row, 0)?, number(row, 1)?, key, provider))
        })
        .optional()?;
    row.map(|(epoch, accepted_at, key, provider)| {
        let whose = match (key, provider) {
            (Some(key), None) => Whose::Key(opaque(key)?),
            (None, Some(provider)) => Whose::Provider(name(&provider)?),
            _ => return Err(StoreError("an answer that is nobody's".to_owned())),
        };
        Ok(Answer {
            epoch,
            accepted_at,
            whose,
        })
    })
    .transpose()
}

pub(super) fn audience(
    connection: &Connection,
    sender: &ProviderName,
    digest: &AudienceDigest,
) -> Found<Vec<Option<ClientId>>> {
    let list: Option<String> = connection
        .prepare_cached(
            "SELECT clients FROM audience_lists WHERE audience =
                 (SELECT id FROM audiences WHERE sender = ?1 AND digest = ?2)",
        )?
        .query_row(params![sender.as_str(), digest.as_slice()], |row| {
            row.get(0)
        })
        .optional()?;
    list.map(|list| {
        list.lines()
            .map(|line| (!line.is_empty()).then(|| name(line)).transpose())
            .collect()
    })
    .transpose()
}

pub(super) fn delivered(
    connection: &Connection,
    sender: &ProviderName,
    delivery_id: &DeliveryId,
) -> Found<Vec<u8>> {
    Ok(connection
        .prepare_cached("SELECT result FROM delivered WHERE sender = ?1 AND delivery_id = ?2")?
        .query_row(params![sender.as_str(), delivery_id.as_slice()], |row| {
            row.get(0)
        })
        .optional()?)
}

pub(super) fn acknowledged(
    connection: &Connection,
    client_id: &ClientId,
) -> Result<u64, StoreError> {
    Ok(connection
        .prepare_cached("SELECT sequence FROM acknowledged WHERE client = ?1")?
        .query_row([client_id.as_str()], |row| number(row, 0))
        .optional()?
        .unwrap_or(0))
}
