//! Groups that are to be joined again, as typed reads and writes.

use moh_messages::{GroupId, ProviderName};
use rusqlite::{OptionalExtension, Row};

use super::tables::{named, opaque};
use super::{StoreError, Tx};

/// How many groups of which nothing is known are to be joined again at a time, at most.
const MAX_UNKNOWN: i64 = 256;
/// How long after the state was lost groups of which nothing is known are joined again, in
/// milliseconds.
const AFTER_LOSS_MS: u64 = 90 * 24 * 60 * 60 * 1000;
/// How long after a group was joined again it counts that it was, in milliseconds.
const DONE_MS: u64 = 60 * 60 * 1000;
/// How long it counts that a group could not be joined again, in milliseconds.
const GIVEN_UP_MS: u64 = 24 * 60 * 60 * 1000;
/// How long whoever has joined again waits before the next time, in milliseconds; twice as long
/// each time.
const PAUSE_MS: u64 = 60 * 1000;

const WAITING: i64 = 0;
const DONE: i64 = 1;
const GIVEN_UP: i64 = 2;

/// A group that is to be joined again.
#[derive(Clone, Debug)]
pub(crate) struct RejoinRow {
    pub(crate) group: GroupId,
    pub(crate) owner: ProviderName,
    /// The epoch of the state that is no good.
    pub(crate) epoch: u64,
    pub(crate) not_before_ms: u64,
}

fn ms(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.try_into().unwrap_or(0))
}

impl Tx<'_> {
    /// A group cannot be followed from this epoch on. Whether that was not known: it is joined
    /// again after `delay_ms` at the earliest, or never, where that did not help a while ago.
    pub(crate) fn want_rejoin(
        &self,
        group: &GroupId,
        owner: &ProviderName,
        epoch: u64,
        now_ms: u64,
        delay_ms: u64,
    ) -> Result<bool, StoreError> {
        self.conn.execute(
            "DELETE FROM rejoins WHERE state <> 0 AND not_before_ms < ?1",
            [ms(now_ms)],
        )?;
        let sql = "SELECT state, times FROM rejoins WHERE group_id = ?1";
        let known: Option<(i64, u32)> = self
            .conn
            .prepare_cached(sql)?
            .query_row([group.as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let times = match known {
            Some((DONE, times)) => times.saturating_add(1),
            Some(_) => return Ok(false),
            None => 0,
        };
        if known.is_none() && self.owner(group)?.is_none() && self.unknown_rejoins()? >= MAX_UNKNOWN
        {
            return Ok(false);
        }
        let pause_ms = match times {
            0 => 0,
            times => PAUSE_MS << times.min(6),
        };
        let not_before_ms = now_ms.saturating_add(delay_ms.max(pause_ms));
        self.conn.execute(
            "INSERT OR REPLACE INTO rejoins VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (
                group.as_slice(),
                owner.as_str(),
                ms(epoch),
                WAITING,
                times,
                ms(not_before_ms),
            ),
        )?;
        Ok(true)
    }

    /// The groups that are to be joined again, now or later.
    pub(crate) fn rejoins(&self) -> Result<Vec<RejoinRow>, StoreError> {
        let sql = "SELECT group_id, owner, epoch, not_before_ms FROM rejoins WHERE state = 0";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(RejoinRow {
                group: opaque(row, 0)?,
                owner: named(row, 1)?,
                epoch: number(row, 2)?,
                not_before_ms: number(row, 3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many of them are groups of which nothing is known.
    fn unknown_rejoins(&self) -> Result<i64, StoreError> {
        let sql =
            "SELECT count(*) FROM rejoins WHERE group_id NOT IN (SELECT group_id FROM groups)";
        Ok(self.conn.query_row(sql, [], |row| row.get(0))?)
    }

    /// Whether the state was lost not long ago: groups of which nothing is known may be ours.
    pub(crate) fn has_lost_state(&self, now_ms: u64) -> Result<bool, StoreError> {
        let sql = "SELECT lost_ms FROM account";
        let lost_ms = self.conn.query_row(sql, [], |row| number(row, 0))?;
        Ok(lost_ms > 0 && now_ms < lost_ms.saturating_add(AFTER_LOSS_MS))
    }

    /// Whether a group cannot be followed: it is to be joined again, or could not be.
    pub(crate) fn is_lost(&self, group: &GroupId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM rejoins WHERE group_id = ?1 AND state <> ?2)";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row((group.as_slice(), DONE), |row| row.get(0))?)
    }

    /// Whether a group is to be joined again.
    pub(crate) fn is_to_rejoin(&self, group: &GroupId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM rejoins WHERE group_id = ?1 AND state = 0)";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([group.as_slice()], |row| row.get(0))?)
    }

    /// This client has joined a group again; whether it was to.
    pub(crate) fn has_rejoined(&self, group: &GroupId, now_ms: u64) -> Result<bool, StoreError> {
        self.end_rejoin(group, DONE, now_ms.saturating_add(DONE_MS))
    }

    /// A group cannot be joined again; whether it was to.
    pub(crate) fn give_up_rejoin(&self, group: &GroupId, now_ms: u64) -> Result<bool, StoreError> {
        self.end_rejoin(group, GIVEN_UP, now_ms.saturating_add(GIVEN_UP_MS))
    }

    fn end_rejoin(&self, group: &GroupId, state: i64, until_ms: u64) -> Result<bool, StoreError> {
        let changed = self.conn.execute(
            "UPDATE rejoins SET state = ?2, not_before_ms = ?3 WHERE group_id = ?1 AND state <> ?4",
            (group.as_slice(), state, ms(until_ms), DONE),
        )?;
        Ok(changed > 0)
    }

    /// A group need not be joined again.
    pub(crate) fn forget_rejoin(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn.execute(
            "DELETE FROM rejoins WHERE group_id = ?1",
            [group.as_slice()],
        )?;
        Ok(())
    }

    /// When this client has last changed its keys in a group; now, where that is not known.
    pub(crate) fn updated_ms(&self, group: &GroupId, now_ms: u64) -> Result<u64, StoreError> {
        let sql = "SELECT updated_ms FROM groups WHERE group_id = ?1";
        let updated_ms = self
            .conn
            .prepare_cached(sql)?
            .query_row([group.as_slice()], |row| number(row, 0))
            .optional()?;
        if updated_ms == Some(0) {
            self.set_updated_ms(group, now_ms)?;
        }
        Ok(updated_ms.filter(|at| *at > 0).unwrap_or(now_ms))
    }

    pub(crate) fn set_updated_ms(&self, group: &GroupId, now_ms: u64) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE groups SET updated_ms = ?2 WHERE group_id = ?1",
            (group.as_slice(), ms(now_ms)),
        )?;
        Ok(())
    }

    /// All groups, those of connections too.
    pub(crate) fn all_groups(&self) -> Result<Vec<GroupId>, StoreError> {
        let sql = "SELECT group_id FROM groups ORDER BY rowid";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| opaque(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
