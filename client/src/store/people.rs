//! Connections, as typed reads and writes.

use moh_messages::client_api::{QueueItem, QueueItemPayload};
use moh_messages::{GroupId, GroupType, Message, ProviderName, UserId};
use rusqlite::types::{Type, ValueRef};
use rusqlite::{OptionalExtension, Row};

use super::tables::{conversion, decoded, named, opaque};
use super::{StoreError, Tx};

/// What a client is about with a peer. The numbers are in databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The peer is about to be asked: the group is to be created, and the peer to be added.
    Asking = 0,
    /// The peer has been asked.
    Sent = 1,
    /// The peer has asked.
    Received = 2,
    /// What the peer asked is accepted: the group is to be joined, and others are to be told.
    Accepting = 3,
    /// There is a connection.
    Connected = 4,
    /// It is over, and the provider is to be told.
    Ending = 5,
}

/// To commit in the connection group, so that the peer learns of the acceptance.
pub(crate) const TO_UPDATE: u8 = 1;
/// To tell the provider that the peer may add this client's user to groups.
pub(crate) const TO_CONSENT: u8 = 2;
/// To commit what others proposed in the connection group.
pub(crate) const TO_COMMIT: u8 = 4;

/// To tell the application that there is a connection, as soon as its group is joined.
pub(crate) const TO_TELL: u8 = 8;

/// A request of a peer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptRequest {
    /// The connection group that it is for.
    pub(crate) group: GroupId,
    pub(crate) item: QueueItem,
}

/// A row of `connections`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionRow {
    pub(crate) peer: UserId,
    pub(crate) step: Step,
    pub(crate) since_ms: u64,
    pub(crate) group: Option<GroupId>,
    /// A request of the peer whose group is not joined. Where that is not `group`, it waits for
    /// the end of the connection that there is.
    pub(crate) request: Option<KeptRequest>,
    pub(crate) todo: u8,
}

impl ConnectionRow {
    pub(crate) fn new(peer: UserId, step: Step, since_ms: u64, group: Option<GroupId>) -> Self {
        Self {
            peer,
            step,
            since_ms,
            group,
            request: None,
            todo: 0,
        }
    }

    /// The peer has asked.
    pub(crate) fn received(peer: UserId, request: KeptRequest) -> Self {
        Self {
            peer,
            step: Step::Received,
            since_ms: request.item.received_at,
            group: Some(request.group.clone()),
            request: Some(request),
            todo: 0,
        }
    }

    pub(crate) fn has_to(&self, what: u8) -> bool {
        self.todo & what != 0
    }
}

fn step(row: &Row<'_>, column: usize) -> rusqlite::Result<Step> {
    Ok(match row.get::<_, i64>(column)? {
        0 => Step::Asking,
        1 => Step::Sent,
        2 => Step::Received,
        3 => Step::Accepting,
        4 => Step::Connected,
        5 => Step::Ending,
        other => {
            let error = StoreError::Value(format!("step {other} of a connection"));
            return Err(conversion(column, Type::Integer, error));
        }
    })
}

fn optional_group(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<GroupId>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => opaque(row, column).map(Some),
    }
}

fn connection(row: &Row<'_>) -> rusqlite::Result<ConnectionRow> {
    let request = match optional_group(row, 4)? {
        Some(group) => Some(KeptRequest {
            group,
            item: decoded(row, 5)?,
        }),
        None => None,
    };
    Ok(ConnectionRow {
        peer: named(row, 0)?,
        step: step(row, 1)?,
        since_ms: row.get::<_, i64>(2)?.try_into().unwrap_or(0),
        group: optional_group(row, 3)?,
        request,
        todo: row.get(6)?,
    })
}

const CONNECTION: &str =
    "SELECT peer, step, since_ms, group_id, request_group, request, todo FROM connections";

impl Tx<'_> {
    pub(crate) fn connection(&self, peer: &UserId) -> Result<Option<ConnectionRow>, StoreError> {
        Ok(self
            .conn
            .prepare_cached(&format!("{CONNECTION} WHERE peer = ?1"))?
            .query_row([peer.as_str()], connection)
            .optional()?)
    }

    /// The connection whose group this is.
    pub(crate) fn connection_of(
        &self,
        group: &GroupId,
    ) -> Result<Option<ConnectionRow>, StoreError> {
        Ok(self
            .conn
            .prepare_cached(&format!("{CONNECTION} WHERE group_id = ?1"))?
            .query_row([group.as_slice()], connection)
            .optional()?)
    }

    /// Whether a connection, or a request for one, has this group.
    pub(crate) fn is_connection_group(&self, group: &GroupId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS
                   (SELECT 1 FROM connections WHERE group_id = ?1 OR request_group = ?1)";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([group.as_slice()], |row| row.get(0))?)
    }

    /// The connection for whose group, which is not joined, there is a request.
    pub(crate) fn connection_requested(
        &self,
        group: &GroupId,
    ) -> Result<Option<ConnectionRow>, StoreError> {
        Ok(self
            .conn
            .prepare_cached(&format!("{CONNECTION} WHERE request_group = ?1"))?
            .query_row([group.as_slice()], connection)
            .optional()?)
    }

    /// Whether a request for a connection, by a user of this provider, has this group.
    pub(crate) fn is_requested(
        &self,
        group: &GroupId,
        sender: &ProviderName,
    ) -> Result<bool, StoreError> {
        let row = self.connection_requested(group)?;
        Ok(row.is_some_and(|row| row.peer.provider() == *sender))
    }

    /// All of them, by the name of the peer.
    pub(crate) fn connections(&self) -> Result<Vec<ConnectionRow>, StoreError> {
        let sql = format!("{CONNECTION} ORDER BY peer");
        let mut statement = self.conn.prepare_cached(&sql)?;
        let rows = statement.query_map([], connection)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The peers with whom something is yet to be done.
    pub(crate) fn unfinished_connections(&self) -> Result<Vec<UserId>, StoreError> {
        let sql = "SELECT peer FROM connections WHERE step IN (0, 3, 5) OR todo <> 0";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| named(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many peers have asked, and have no answer.
    pub(crate) fn count_received(&self) -> Result<u32, StoreError> {
        let sql = "SELECT count(*) FROM connections WHERE step = 2";
        Ok(self.conn.query_row(sql, [], |row| row.get(0))?)
    }

    pub(crate) fn put_connection(&self, row: &ConnectionRow) -> Result<(), StoreError> {
        let request = row.request.as_ref();
        self.conn.execute(
            "INSERT OR REPLACE INTO connections
                 (peer, step, since_ms, group_id, request_group, request, todo)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                row.peer.as_str(),
                row.step as i64,
                i64::try_from(row.since_ms).unwrap_or(i64::MAX),
                row.group.as_ref().map(|group| group.as_slice()),
                request.map(|request| request.group.as_slice()),
                request.map(|request| request.item.encode()),
                row.todo,
            ),
        )?;
        Ok(())
    }

    pub(crate) fn delete_connection(&self, peer: &UserId) -> Result<(), StoreError> {
        self.conn
            .execute("DELETE FROM connections WHERE peer = ?1", [peer.as_str()])?;
        Ok(())
    }

    /// Throws away the requests, of whoever makes this one, that wait in a group.
    pub(crate) fn drop_parked_requests(
        &self,
        group: &GroupId,
        of: &QueueItem,
    ) -> Result<(), StoreError> {
        let requester = |item: &QueueItem| match &item.payload {
            QueueItemPayload::ConnectionRequest(request) => Some(request.requester.clone()),
            _ => None,
        };
        let sql = "SELECT id, item FROM parked WHERE group_id = ?1 AND sender = ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let waiting = statement.query_map((group.as_slice(), of.sender.as_str()), |row| {
            Ok((row.get::<_, i64>(0)?, decoded::<QueueItem>(row, 1)?))
        })?;
        for (id, item) in waiting.collect::<Result<Vec<_>, _>>()? {
            if requester(&item).is_some() && requester(&item) == requester(of) {
                self.unpark(id)?;
            }
        }
        Ok(())
    }

    /// A connection group is over, and is to be deleted or left.
    pub(crate) fn insert_ending(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT OR IGNORE INTO endings VALUES (?1)",
            [group.as_slice()],
        )?;
        Ok(())
    }

    pub(crate) fn endings(&self) -> Result<Vec<GroupId>, StoreError> {
        let sql = "SELECT group_id FROM endings";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| opaque(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn delete_ending(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn.execute(
            "DELETE FROM endings WHERE group_id = ?1",
            [group.as_slice()],
        )?;
        Ok(())
    }

    /// Whether a group is to be ended.
    pub(crate) fn is_to_end(&self, group: &GroupId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM endings WHERE group_id = ?1)";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([group.as_slice()], |row| row.get(0))?)
    }

    pub(crate) fn group_type(&self, group: &GroupId) -> Result<Option<GroupType>, StoreError> {
        let sql = "SELECT group_type FROM groups WHERE group_id = ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let number: Option<i64> = statement
            .query_row([group.as_slice()], |row| row.get(0))
            .optional()?;
        Ok(number.map(|number| match number {
            1 => GroupType::Connection,
            _ => GroupType::Regular,
        }))
    }

    pub(crate) fn set_group_type(
        &self,
        group: &GroupId,
        group_type: GroupType,
    ) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE groups SET group_type = ?2 WHERE group_id = ?1",
            (group.as_slice(), group_type as u8),
        )?;
        Ok(())
    }
}
