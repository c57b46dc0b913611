//! Our own tables, as typed reads and writes.

use moh_messages::client_api::{Cursor, QueueItem};
use moh_messages::{Attestation, CipherSuite, ClientId, GroupId, Message, Opaque, ProviderName};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row};

use super::{StoreError, Tx};
use crate::events::{Event, Operation};
use crate::mls::KeyPackageKind;

/// How long a group that this client was in is remembered, in milliseconds: longer than
/// anything for it can still be on its way.
const LEFT_GROUP_LIFE_MS: u64 = 90 * 24 * 60 * 60 * 1000;

/// The row of `account`.
#[derive(Clone, Debug)]
pub(crate) struct AccountRow {
    pub(crate) client: ClientId,
    pub(crate) cipher_suite: CipherSuite,
    pub(crate) signature_key: Vec<u8>,
    pub(crate) attestation: Option<Attestation>,
}

/// A row of `key_packages`.
#[derive(Clone, Debug)]
pub(crate) struct KeyPackageRow {
    pub(crate) reference: Vec<u8>,
    pub(crate) kind: KeyPackageKind,
    pub(crate) not_after_s: u64,
    pub(crate) at_provider: bool,
}

/// How many KeyPackages of each kind the provider is to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyPackageStock {
    pub(crate) wanted: u32,
    /// The provider has said that there are few.
    pub(crate) is_low: bool,
    /// When there was a look at that for the last time, in milliseconds since the Unix epoch.
    pub(crate) seen_ms: u64,
}

/// A row of `pending`: a request as it goes out, and goes out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) group: GroupId,
    pub(crate) operation: Operation,
    pub(crate) owner: ProviderName,
    pub(crate) request: Vec<u8>,
    /// The plaintext of a message, the queue item of a Welcome.
    pub(crate) extra: Vec<u8>,
}

/// From when on a client is in a group.
pub(crate) struct Since {
    /// The first epoch in which it was a member.
    pub(crate) member: u64,
    /// The first epoch that its state knows of: a later one, where it has joined again.
    pub(crate) state: u64,
}

/// A row of `parked`.
pub(crate) struct ParkedItem {
    pub(crate) id: i64,
    pub(crate) item: QueueItem,
}

/// A column with a message of `moh-messages`.
pub(super) fn decoded<T: Message>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let bytes = row.get_ref(column)?.as_blob()?;
    T::decode(bytes).map_err(|error| conversion(column, Type::Blob, error))
}

pub(super) fn named<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err = moh_messages::InvalidName>,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse()
        .map_err(|error| conversion(column, Type::Text, error))
}

pub(super) fn opaque<const MAX: usize>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Opaque<MAX>> {
    Opaque::new(row.get_ref(column)?.as_blob()?)
        .map_err(|error| conversion(column, Type::Blob, error))
}

pub(super) fn conversion(
    column: usize,
    kind: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

fn pending(row: &Row<'_>) -> rusqlite::Result<Pending> {
    let operation: u8 = row.get(1)?;
    Ok(Pending {
        group: opaque(row, 0)?,
        operation: Operation::decode(&[operation])
            .map_err(|error| conversion(1, Type::Integer, error))?,
        owner: named(row, 2)?,
        request: row.get(3)?,
        extra: row.get(4)?,
    })
}

const PENDING: &str = "SELECT group_id, operation, owner, request, extra FROM pending";

impl Tx<'_> {
    pub(crate) fn account(&self) -> Result<Option<AccountRow>, StoreError> {
        let sql = "SELECT client, cipher_suite, signature_key, attestation FROM account";
        Ok(self
            .conn
            .query_row(sql, [], |row| {
                Ok(AccountRow {
                    client: named(row, 0)?,
                    cipher_suite: CipherSuite(row.get(1)?),
                    signature_key: row.get(2)?,
                    attestation: match row.get_ref(3)? {
                        rusqlite::types::ValueRef::Null => None,
                        _ => Some(decoded(row, 3)?),
                    },
                })
            })
            .optional()?)
    }

    /// A client that is to be registered; `is_new` where it was before, and its state is lost.
    pub(crate) fn insert_account(
        &self,
        account: &AccountRow,
        is_new: bool,
    ) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT INTO account (id, client, cipher_suite, signature_key, is_new)
             VALUES (1, ?1, ?2, ?3, ?4)",
            (
                account.client.as_str(),
                account.cipher_suite.0,
                &account.signature_key,
                is_new,
            ),
        )?;
        Ok(())
    }

    /// Another key than that of a client that is not registered yet.
    pub(crate) fn set_key(&self, account: &AccountRow) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE account SET cipher_suite = ?1, signature_key = ?2",
            (account.cipher_suite.0, &account.signature_key),
        )?;
        Ok(())
    }

    /// Whether this state does not replace yet what was lost.
    pub(crate) fn is_new(&self) -> Result<bool, StoreError> {
        let sql = "SELECT is_new FROM account";
        Ok(self.conn.query_row(sql, [], |row| row.get(0))?)
    }

    /// This state replaces what was lost, from now on.
    pub(crate) fn set_not_new(&self, now_ms: u64) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE account SET is_new = 0, lost_ms = ?1",
            [i64::try_from(now_ms).unwrap_or(i64::MAX)],
        )?;
        Ok(())
    }

    pub(crate) fn set_attestation(&self, attestation: &Attestation) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE account SET attestation = ?1",
            [attestation.encode()],
        )?;
        Ok(())
    }

    /// Whether the end of this client was asked for.
    pub(crate) fn is_ending(&self) -> Result<bool, StoreError> {
        Ok(self.ending()? > 0)
    }

    /// Whether this client was deleted.
    pub(super) fn is_over(&self) -> Result<bool, StoreError> {
        Ok(self.ending()? > 1)
    }

    fn ending(&self) -> Result<i64, StoreError> {
        let sql = "SELECT ending FROM account";
        let ending = self.conn.query_row(sql, [], |row| row.get(0)).optional()?;
        Ok(ending.unwrap_or(0))
    }

    pub(crate) fn set_ending(&self) -> Result<(), StoreError> {
        self.conn.execute("UPDATE account SET ending = 1", [])?;
        Ok(())
    }

    /// Deletes all there is, but for the word that the client was deleted.
    pub(super) fn wipe(&self) -> Result<(), StoreError> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table'
                   AND name NOT LIKE 'sqlite_%' AND name <> 'account'";
        let mut statement = self.conn.prepare(sql)?;
        let tables = statement.query_map([], |row| row.get::<_, String>(0))?;
        for table in tables.collect::<Result<Vec<_>, _>>()? {
            self.conn.execute(&format!("DELETE FROM {table}"), [])?;
        }
        let sql = "UPDATE account SET ending = 2, attestation = NULL, cursor = x''";
        self.conn.execute(sql, [])?;
        Ok(())
    }

    /// Just after the last queue item that was processed.
    pub(crate) fn cursor(&self) -> Result<Cursor, StoreError> {
        Ok(self
            .conn
            .query_row("SELECT cursor FROM account", [], |row| opaque(row, 0))?)
    }

    pub(crate) fn set_cursor(&self, cursor: &Cursor) -> Result<(), StoreError> {
        self.conn
            .execute("UPDATE account SET cursor = ?1", [cursor.as_slice()])?;
        Ok(())
    }

    /// What there is to know of how many KeyPackages there are to be.
    pub(crate) fn key_package_stock(&self) -> Result<KeyPackageStock, StoreError> {
        let sql = "SELECT key_packages_wanted, key_packages_low, key_packages_seen_ms FROM account";
        Ok(self.conn.query_row(sql, [], |row| {
            Ok(KeyPackageStock {
                wanted: row.get(0)?,
                is_low: row.get(1)?,
                seen_ms: row.get::<_, i64>(2)?.try_into().unwrap_or(0),
            })
        })?)
    }

    /// The provider says that it has few KeyPackages.
    pub(crate) fn key_packages_are_low(&self) -> Result<(), StoreError> {
        self.conn
            .execute("UPDATE account SET key_packages_low = 1", [])?;
        Ok(())
    }

    /// The provider has as many KeyPackages as it is to have.
    pub(crate) fn key_packages_are_there(&self, now_ms: u64) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE account SET key_packages_low = 0, key_packages_seen_ms = ?1",
            [i64::try_from(now_ms).unwrap_or(i64::MAX)],
        )?;
        Ok(())
    }

    pub(crate) fn set_key_packages_wanted(&self, count: u32) -> Result<(), StoreError> {
        self.conn
            .execute("UPDATE account SET key_packages_wanted = ?1", [count])?;
        Ok(())
    }

    pub(crate) fn key_packages(&self) -> Result<Vec<KeyPackageRow>, StoreError> {
        let sql = "SELECT reference, last_resort, not_after_s, at_provider, for_connections
                   FROM key_packages";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(KeyPackageRow {
                reference: row.get(0)?,
                kind: KeyPackageKind {
                    last_resort: row.get(1)?,
                    for_connections: row.get(4)?,
                },
                not_after_s: row.get::<_, i64>(2)?.try_into().unwrap_or(0),
                at_provider: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn insert_key_package(&self, row: &KeyPackageRow) -> Result<(), StoreError> {
        let not_after_s = i64::try_from(row.not_after_s).unwrap_or(i64::MAX);
        self.conn.execute(
            "INSERT INTO key_packages VALUES (?1, ?2, ?3, ?4, ?5)",
            (
                &row.reference,
                row.kind.last_resort,
                not_after_s,
                row.at_provider,
                row.kind.for_connections,
            ),
        )?;
        Ok(())
    }

    pub(crate) fn key_package_is_at_provider(&self, reference: &[u8]) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE key_packages SET at_provider = 1 WHERE reference = ?1",
            [reference],
        )?;
        Ok(())
    }

    pub(crate) fn delete_key_package_row(&self, reference: &[u8]) -> Result<(), StoreError> {
        self.conn
            .execute("DELETE FROM key_packages WHERE reference = ?1", [reference])?;
        Ok(())
    }

    /// All groups but connection groups, with their owners.
    pub(crate) fn groups(&self) -> Result<Vec<(GroupId, ProviderName)>, StoreError> {
        let sql = "SELECT group_id, owner FROM groups WHERE group_type = 0 ORDER BY rowid";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| Ok((opaque(row, 0)?, named(row, 1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn owner(&self, group: &GroupId) -> Result<Option<ProviderName>, StoreError> {
        let sql = "SELECT owner FROM groups WHERE group_id = ?1";
        Ok(self
            .conn
            .prepare_cached(sql)?
            .query_row([group.as_slice()], |row| named(row, 0))
            .optional()?)
    }

    /// A group that this client has joined in this epoch, perhaps not for the first time.
    pub(crate) fn replace_group(
        &self,
        group: &GroupId,
        owner: &ProviderName,
        epoch: u64,
        stale_queue: bool,
    ) -> Result<(), StoreError> {
        let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        self.conn.execute(
            "INSERT INTO groups (group_id, owner, stale_queue, member_since, state_since)
             VALUES (?1, ?2, ?4, ?3, ?3)
             ON CONFLICT (group_id) DO UPDATE SET stale_queue = ?4, state_since = ?3",
            (group.as_slice(), owner.as_str(), epoch, stale_queue),
        )?;
        Ok(())
    }

    pub(crate) fn since(&self, group: &GroupId) -> Result<Since, StoreError> {
        let sql = "SELECT member_since, state_since FROM groups WHERE group_id = ?1";
        let epoch = |row: &Row<'_>, column| -> rusqlite::Result<u64> {
            Ok(row.get::<_, i64>(column)?.try_into().unwrap_or(0))
        };
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([group.as_slice()], |row| {
            Ok(Since {
                member: epoch(row, 0)?,
                state: epoch(row, 1)?,
            })
        })?)
    }

    pub(crate) fn delete_group_row(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn
            .execute("DELETE FROM groups WHERE group_id = ?1", [group.as_slice()])?;
        Ok(())
    }

    /// Remembers a group that this client was in; and forgets those of long ago.
    pub(crate) fn insert_left_group(&self, group: &GroupId, now_ms: u64) -> Result<(), StoreError> {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let long_ago = ms(now_ms.saturating_sub(LEFT_GROUP_LIFE_MS));
        self.conn
            .execute("DELETE FROM left_groups WHERE since_ms < ?1", [long_ago])?;
        self.conn.execute(
            "INSERT OR REPLACE INTO left_groups VALUES (?1, ?2)",
            (group.as_slice(), ms(now_ms)),
        )?;
        Ok(())
    }

    /// Whether this client was in a group not long ago.
    pub(crate) fn has_left(&self, group: &GroupId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM left_groups WHERE group_id = ?1)";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([group.as_slice()], |row| row.get(0))?)
    }

    pub(crate) fn groups_with_stale_queue(&self) -> Result<Vec<GroupId>, StoreError> {
        let sql = "SELECT group_id FROM groups WHERE stale_queue";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| opaque(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn queue_is_fresh(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE groups SET stale_queue = 0 WHERE group_id = ?1",
            [group.as_slice()],
        )?;
        Ok(())
    }

    /// The groups in which something is pending or unsent, what came first first.
    pub(crate) fn pending_groups(&self) -> Result<Vec<GroupId>, StoreError> {
        let sql = "SELECT group_id FROM (SELECT rowid AS n, group_id FROM pending
                   UNION ALL SELECT rowid, group_id FROM unsent) GROUP BY group_id ORDER BY min(n)";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| opaque(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn pending(&self, group: &GroupId) -> Result<Option<Pending>, StoreError> {
        Ok(self
            .conn
            .prepare_cached(&format!("{PENDING} WHERE group_id = ?1"))?
            .query_row([group.as_slice()], pending)
            .optional()?)
    }

    pub(crate) fn put_pending(&self, row: &Pending) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT INTO pending VALUES (?1, ?2, ?3, ?4, ?5)",
            (
                row.group.as_slice(),
                row.operation as u8,
                row.owner.as_str(),
                &row.request,
                &row.extra,
            ),
        )?;
        Ok(())
    }

    /// The state of MLS that an external commit leads to is that of the group from now on.
    pub(crate) fn adopt_staged(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT OR REPLACE INTO kv SELECT kind, key, value FROM staged WHERE group_id = ?1",
            [group.as_slice()],
        )?;
        self.drop_staged(group)
    }

    /// There is no external commit, or it was refused.
    pub(crate) fn drop_staged(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn
            .execute("DELETE FROM staged WHERE group_id = ?1", [group.as_slice()])?;
        Ok(())
    }

    /// A message that is to be encrypted anew.
    pub(crate) fn unsent(&self, group: &GroupId) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT content FROM unsent WHERE group_id = ?1";
        Ok(self
            .conn
            .prepare_cached(sql)?
            .query_row([group.as_slice()], |row| row.get(0))
            .optional()?)
    }

    pub(crate) fn put_unsent(&self, group: &GroupId, content: &[u8]) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT OR REPLACE INTO unsent VALUES (?1, ?2)",
            (group.as_slice(), content),
        )?;
        Ok(())
    }

    pub(crate) fn delete_unsent(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn
            .execute("DELETE FROM unsent WHERE group_id = ?1", [group.as_slice()])?;
        Ok(())
    }

    pub(crate) fn delete_pending(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn.execute(
            "DELETE FROM pending WHERE group_id = ?1",
            [group.as_slice()],
        )?;
        Ok(())
    }

    /// Whether queue items of the group, by this provider, have to wait: for an answer of the
    /// owner or of the user who is asked to be connected, or for others of it that do.
    pub(crate) fn has_to_wait(
        &self,
        group: &GroupId,
        sender: &ProviderName,
    ) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM pending WHERE group_id = ?1 AND owner = ?2)
                       OR EXISTS (SELECT 1 FROM parked
                                  WHERE group_id = ?1 AND sender IN (?2, ''))";
        let mut statement = self.conn.prepare_cached(sql)?;
        let waits = statement.query_row((group.as_slice(), sender.as_str()), |row| row.get(0))?;
        Ok(waits || self.is_requested(group, sender)?)
    }

    pub(crate) fn park(&self, group: &GroupId, item: &QueueItem) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT INTO parked (group_id, item, sender) VALUES (?1, ?2, ?3)",
            (group.as_slice(), item.encode(), item.sender.as_str()),
        )?;
        Ok(())
    }

    /// The first parked item of a group in which nothing is pending any more.
    pub(crate) fn next_parked(&self) -> Result<Option<ParkedItem>, StoreError> {
        let sql = "SELECT id, item FROM parked WHERE NOT EXISTS
                   (SELECT 1 FROM pending WHERE pending.group_id = parked.group_id
                    AND parked.sender IN (pending.owner, ''))
                   AND NOT EXISTS
                   (SELECT 1 FROM connections WHERE request_group = parked.group_id)
                   ORDER BY id LIMIT 1";
        Ok(self
            .conn
            .prepare_cached(sql)?
            .query_row([], |row| {
                Ok(ParkedItem {
                    id: row.get(0)?,
                    item: decoded(row, 1)?,
                })
            })
            .optional()?)
    }

    /// How many items of a group wait.
    pub(crate) fn count_parked(&self, group: &GroupId) -> Result<u32, StoreError> {
        let sql = "SELECT count(*) FROM parked WHERE group_id = ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([group.as_slice()], |row| row.get(0))?)
    }

    /// Throws away what waits in a group, by this provider.
    pub(crate) fn drop_parked(
        &self,
        group: &GroupId,
        sender: &ProviderName,
    ) -> Result<(), StoreError> {
        self.conn.execute(
            "DELETE FROM parked WHERE group_id = ?1 AND sender IN (?2, '')",
            (group.as_slice(), sender.as_str()),
        )?;
        Ok(())
    }

    pub(crate) fn unpark(&self, id: i64) -> Result<(), StoreError> {
        self.conn
            .execute("DELETE FROM parked WHERE id = ?1", [id])?;
        Ok(())
    }

    pub(crate) fn insert_event(&self, event: &Event) -> Result<(), StoreError> {
        self.conn
            .execute("INSERT INTO events (event) VALUES (?1)", [event.encode()])?;
        Ok(())
    }

    /// The oldest `limit` events after the one with this number.
    pub(crate) fn events(&self, after: i64, limit: u32) -> Result<Vec<(i64, Event)>, StoreError> {
        let sql = "SELECT id, event FROM events WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows =
            statement.query_map((after, limit), |row| Ok((row.get(0)?, decoded(row, 1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The application has taken these.
    pub(crate) fn delete_events(&self, up_to: i64) -> Result<(), StoreError> {
        self.conn
            .execute("DELETE FROM events WHERE id <= ?1", [up_to])?;
        Ok(())
    }
}
