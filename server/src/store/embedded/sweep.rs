//! Forgetting what nobody needs any more, in small steps between commits.

use rusqlite::{Connection, OptionalExtension, params};

use super::bound;
use crate::store::StoreError;

/// The most rows that are removed at once.
const ROWS: i64 = 256;

/// As many recipients at other providers, which can be large, are looked at in one step.
const DIGESTS: i64 = 32;

/// About as many rows are looked at in one step.
const WORK: usize = 4096;

/// A sweep under way: what is done, and where it goes on.
pub(super) struct Sweep {
    before: i64,
    stage: Stage,
}

enum Stage {
    /// One statement after the other, each as often as it removes something.
    Old(usize),
    /// Audiences by their number, after this one.
    Audiences(i64),
    /// Recipients at other providers by their digest, after this one.
    OutboxAudiences(Vec<u8>),
}

const OLD: [&str; 7] = [
    "DELETE FROM messages WHERE sequence IN
         (SELECT sequence FROM messages WHERE received_at < ?1 LIMIT ?2)",
    "DELETE FROM delivered WHERE (sender, delivery_id) IN
         (SELECT sender, delivery_id FROM delivered WHERE received_at < ?1 LIMIT ?2)",
    "DELETE FROM key_packages WHERE number IN
         (SELECT number FROM key_packages WHERE expires_at < ?1 LIMIT ?2)",
    "DELETE FROM known_key_packages WHERE reference IN
         (SELECT reference FROM known_key_packages WHERE expires_at < ?1 LIMIT ?2)",
    "DELETE FROM used_invitations WHERE invitation IN
         (SELECT invitation FROM used_invitations WHERE expires_at < ?1 LIMIT ?2)",
    "DELETE FROM key_package_queues WHERE queue IN
         (SELECT queue FROM key_package_queues WHERE expires_at < ?1 LIMIT ?2)",
    "DELETE FROM outbox_set_aside WHERE id IN
         (SELECT id FROM outbox_set_aside WHERE set_aside_at < ?1 LIMIT ?2)",
];

impl Sweep {
    pub(super) fn new(before: u64) -> Self {
        Self {
            before: bound(before),
            stage: Stage::Old(0),
        }
    }

    /// Does a little, and says whether that was all.
    pub(super) fn step(&mut self, connection: &Connection) -> Result<bool, StoreError> {
        self.stage = match &self.stage {
            Stage::Old(statement) => {
                let Some(sql) = OLD.get(*statement) else {
                    self.stage = Stage::Audiences(0);
                    return Ok(false);
                };
                let rows = connection
                    .prepare_cached(sql)?
                    .execute([self.before, ROWS])?;
                Stage::Old(if rows == 0 { statement + 1 } else { *statement })
            }
            Stage::Audiences(after) => match self.audiences(connection, *after)? {
                Some(last) => Stage::Audiences(last),
                None => Stage::OutboxAudiences(Vec::new()),
            },
            Stage::OutboxAudiences(after) => match self.outbox_audiences(connection, after)? {
                Some(last) => Stage::OutboxAudiences(last),
                None => return Ok(true),
            },
        };
        Ok(false)
    }

    /// Looks at some audiences, and returns where to go on.
    fn audiences(&self, connection: &Connection, after: i64) -> Result<Option<i64>, StoreError> {
        let mut next = connection.prepare_cached(
            "SELECT id, used_at, (SELECT min(sequence) FROM messages WHERE audience = id)
             FROM audiences WHERE id > ?1 ORDER BY id LIMIT 1",
        )?;
        let (mut at, mut work) = (after, 0);
        while work < WORK {
            let row: Option<(i64, i64, Option<i64>)> = next
                .query_row([at], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let Some((audience, used_at, oldest)) = row else {
                return Ok(None);
            };
            work += 8;
            if let Some(oldest) = oldest {
                let members = members(connection, audience)?;
                work += members.len();
                let removed = remove_acknowledged(connection, audience, oldest, &members)?;
                work += removed;
                // It is looked at again while that may remove more.
                if removed > 0 {
                    continue;
                }
            } else if used_at == 0 && self.before > 0 {
                // Nothing was ever sent to it: its time counts from now.
                connection
                    .prepare_cached("UPDATE audiences SET used_at = ?2 WHERE id = ?1")?
                    .execute([audience, self.before])?;
            } else if used_at < self.before {
                let members = members(connection, audience)?;
                work += members.len() * 4;
                remove_audience(connection, audience, &members)?;
            }
            at = audience;
        }
        Ok(Some(at))
    }

    fn outbox_audiences(
        &self,
        connection: &Connection,
        after: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement = connection.prepare_cached(
            "SELECT digest, used_at, used_at < ?2
                 AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.digest = uses.digest)
                 AND NOT EXISTS (SELECT 1 FROM outbox_set_aside AS aside
                                 WHERE aside.digest = uses.digest AND payload IS NOT NULL)
             FROM outbox_audience_uses AS uses WHERE digest > ?1 ORDER BY digest LIMIT ?3",
        )?;
        let found: Vec<(Vec<u8>, i64, bool)> = statement
            .query_map(params![after, self.before, DIGESTS], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Result<_, _>>()?;
        for (digest, used_at, unused) in &found {
            if *used_at == 0 && self.before > 0 {
                connection
                    .prepare_cached(
                        "UPDATE outbox_audience_uses SET used_at = ?2 WHERE digest = ?1",
                    )?
                    .execute(params![digest, self.before])?;
            } else if *unused {
                for sql in [
                    "DELETE FROM outbox_audience_uses WHERE digest = ?1",
                    "DELETE FROM outbox_audiences WHERE digest = ?1",
                ] {
                    connection.prepare_cached(sql)?.execute([digest])?;
                }
            }
        }
        Ok(found.into_iter().next_back().map(|(digest, _, _)| digest))
    }
}

fn members(connection: &Connection, audience: i64) -> Result<Vec<String>, StoreError> {
    let list: String = connection
        .prepare_cached("SELECT clients FROM audience_lists WHERE audience = ?1")?
        .query_row([audience], |row| row.get(0))?;
    let clients = list.lines().filter(|line| !line.is_empty());
    Ok(clients.map(str::to_owned).collect())
}

/// Removes some messages up to the first that a member has not acknowledged.
fn remove_acknowledged(
    connection: &Connection,
    audience: i64,
    oldest: i64,
    members: &[String],
) -> Result<usize, StoreError> {
    let mut acknowledged =
        connection.prepare_cached("SELECT sequence FROM acknowledged WHERE client = ?1")?;
    let mut by_all = i64::MAX;
    for member in members {
        let by_member = acknowledged
            .query_row([member], |row| row.get(0))
            .optional()?;
        by_all = by_all.min(by_member.unwrap_or(0));
        if by_all < oldest {
            return Ok(0);
        }
    }
    Ok(connection
        .prepare_cached(
            "DELETE FROM messages WHERE sequence IN
                 (SELECT sequence FROM messages WHERE audience = ?1 AND sequence <= ?2 LIMIT ?3)",
        )?
        .execute([audience, by_all, ROWS])?)
}

fn remove_audience(
    connection: &Connection,
    audience: i64,
    members: &[String],
) -> Result<(), StoreError> {
    let mut member = connection
        .prepare_cached("DELETE FROM audience_members WHERE client = ?1 AND audience = ?2")?;
    for client in members {
        member.execute(params![client, audience])?;
    }
    for sql in [
        "DELETE FROM audience_lists WHERE audience = ?1",
        "DELETE FROM audiences WHERE id = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([audience])?;
    }
    Ok(())
}
