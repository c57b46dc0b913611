//! A client's queue: what its audiences hold beyond its cursor, merged.
//!
//! A client is in many audiences: its groups get a new one whenever their members here change,
//! and the old ones stay for a while. So a read first finds the audiences that can hold
//! anything, by the number of their newest message:
//! - where few audiences of anybody have messages beyond the cursor, which is so for a client
//!   that keeps up, it looks at those, and whether the client is in them;
//! - else it looks at all audiences of the client: one look at a small row for each, and
//!   nothing more for those that have nothing new.
//!
//! Then it merges what those hold. Of each it knows the first message beyond the cursor; it
//! reads further numbers in small portions from an index, of an audience whose turn has come,
//! and no payload that it does not return.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use moh_messages::ClientId;
use rusqlite::{Connection, params};

use super::reads::number;
use super::{bound, name};
use crate::store::{QueueRow, StoreError};

/// As many audiences with something new are looked at one by one.
const FEW_AUDIENCES: i64 = 64;

/// Numbers that are read at once of an audience.
const PORTION: i64 = 32;

/// What an audience still has for the client at one of its positions.
struct Source {
    audience: i64,
    position: i64,
    /// The next numbers, and what they were read up to: there may be more after it.
    upcoming: VecDeque<i64>,
    read_to: i64,
    /// The first number; that one may be excepted. Taken when its turn has come.
    first: Option<i64>,
}

pub(super) fn queue(
    connection: &Connection,
    client_id: &ClientId,
    after: u64,
    max_rows: usize,
    max_bytes: usize,
) -> Result<Vec<QueueRow>, StoreError> {
    let after = bound(after);
    let mut sources = sources(connection, client_id, after)?;
    let mut heads = BinaryHeap::new();
    for (index, source) in sources.iter().enumerate() {
        heads.extend(source.first.map(|first| Reverse((first, index))));
    }
    let mut message = connection.prepare_cached(
        "SELECT m.sequence, a.sender, m.received_at, m.payload
         FROM messages m JOIN audiences a ON a.id = m.audience WHERE m.sequence = ?1",
    )?;
    let (mut found, mut bytes, mut last) = (Vec::new(), 0, after);
    while found.len() < max_rows && (bytes < max_bytes || found.is_empty()) {
        let Some(Reverse((sequence, index))) = heads.pop() else {
            break;
        };
        let is_read = sources[index].first.take().is_none();
        let head = sources[index].pop(connection)?;
        heads.extend(head.map(|head| Reverse((head, index))));
        // A client that is in an audience twice still gets a message once.
        if !is_read || sequence == last {
            continue;
        }
        last = sequence;
        let (sequence, sender, received_at, payload): (_, String, _, Vec<u8>) = message
            .query_row([sequence], |row| {
                Ok((number(row, 0)?, row.get(1)?, number(row, 2)?, row.get(3)?))
            })?;
        bytes += payload.len();
        found.push(QueueRow {
            sequence,
            sender: name(&sender)?,
            received_at,
            payload,
        });
    }
    Ok(found)
}

/// The audiences of a client whose newest message is after its cursor.
fn sources(
    connection: &Connection,
    client_id: &ClientId,
    after: i64,
) -> Result<Vec<Source>, StoreError> {
    let audiences: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM audiences WHERE last_sequence > ?1 LIMIT ?2)",
        )?
        .query_row([after, FEW_AUDIENCES + 1], |row| row.get(0))?;
    // CROSS JOIN keeps this order of the loops.
    let sql = if audiences <= FEW_AUDIENCES {
        "SELECT m.audience, m.position,
             (SELECT min(sequence) FROM messages WHERE audience = a.id AND sequence > ?2)
         FROM audiences a
         CROSS JOIN audience_members m ON m.client = ?1 AND m.audience = a.id
         WHERE a.last_sequence > ?2"
    } else {
        "SELECT m.audience, m.position,
             (SELECT min(sequence) FROM messages WHERE audience = a.id AND sequence > ?2)
         FROM audience_members m
         CROSS JOIN audiences a ON a.id = m.audience
         WHERE m.client = ?1 AND a.last_sequence > ?2"
    };
    let sources = connection
        .prepare_cached(sql)?
        .query_map(params![client_id.as_str(), after], |row| {
            Ok(Source {
                audience: row.get(0)?,
                position: row.get(1)?,
                upcoming: VecDeque::new(),
                read_to: after,
                first: row.get(2)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(sources)
}

impl Source {
    fn pop(&mut self, connection: &Connection) -> Result<Option<i64>, StoreError> {
        if self.upcoming.is_empty() && self.read_to < i64::MAX {
            self.upcoming = connection
                .prepare_cached(
                    "SELECT sequence FROM messages
                     WHERE audience = ?1 AND sequence > ?2 AND except_position IS NOT ?3
                     ORDER BY sequence LIMIT ?4",
                )?
                .query_map(
                    [self.audience, self.read_to, self.position, PORTION],
                    |row| row.get(0),
                )?
                .collect::<Result<_, _>>()?;
            // Less than a portion: this was the rest.
            let portion = usize::try_from(PORTION).unwrap_or(usize::MAX);
            self.read_to = match self.upcoming.back() {
                Some(last) if self.upcoming.len() == portion => *last,
                _ => i64::MAX,
            };
        }
        Ok(self.upcoming.pop_front())
    }
}
