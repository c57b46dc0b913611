//! What has to be done for groups when nobody asks for it: when it is due, whose removal is
//! wanted, in which groups a client is, and the end.

use std::collections::BTreeSet;

use moh_messages::{ClientId, GroupId};
use rusqlite::{Connection, OptionalExtension, params};

use super::apply::{Made, run};
use super::{bound, name, opaque, reads, time};
use crate::change::Write;
use crate::store::StoreError;

pub(super) const DUE: &str = "
    SELECT number, due_at AS at FROM groups WHERE due_at <= ?1
    UNION ALL
    SELECT group_number, wanted_at FROM wanted_removals WHERE wanted_at <= ?1
    ORDER BY at";

pub(super) const WANT_FROM_ALL: &str = "
    INSERT INTO wanted_removals (group_number, client, wanted_at)
    SELECT group_number, client, ?2 FROM group_members WHERE client = ?1
    ON CONFLICT DO UPDATE SET wanted_at = min(wanted_at, excluded.wanted_at)";

pub(super) const POSTPONE: &str = "
    UPDATE wanted_removals SET wanted_at = ?3
    WHERE group_number = ?1 AND client = ?2 AND wanted_at < ?3";

/// A removal is not wanted any more.
const DONE: &str = "DELETE FROM wanted_removals WHERE group_number = ?1 AND client = ?2";

/// A group is due later.
pub(super) const DEFER: &str = "UPDATE groups SET due_at = ?2 WHERE number = ?1 AND due_at < ?2";

/// What a group that is forgotten has by its number.
pub(super) const FORGET: [&str; 4] = [
    "DELETE FROM group_snapshots WHERE group_number = ?1",
    "DELETE FROM group_log WHERE group_number = ?1",
    "DELETE FROM group_members WHERE group_number = ?1",
    "DELETE FROM wanted_removals WHERE group_number = ?1",
];

/// The time at which a group is due, as SQLite keeps it.
pub(super) fn due(at: u64) -> Option<i64> {
    (at != u64::MAX).then(|| time(at))
}

/// Keeps the index of a client's groups. Who both leaves and enters stays; the removal of who
/// leaves is not wanted any more.
pub(super) fn members(
    connection: &Connection,
    group: i64,
    entered: &[ClientId],
    left: &[ClientId],
) -> Made {
    for client in left {
        run(
            connection,
            "DELETE FROM group_members WHERE client = ?1 AND group_number = ?2",
            params![client.as_str(), group],
        )?;
        run(connection, DONE, params![group, client.as_str()])?;
    }
    for client in entered {
        run(
            connection,
            "INSERT INTO group_members (client, group_number) VALUES (?1, ?2)
             ON CONFLICT DO NOTHING",
            params![client.as_str(), group],
        )?;
    }
    Ok(())
}

/// Makes the writes that are about upkeep alone.
pub(super) fn written(connection: &Connection, write: &Write) -> Made {
    match write {
        Write::ForgetGroup { group_id } => forget_group(connection, group_id),
        Write::WantRemoval {
            client_id,
            group_id,
            at,
        } => match group_id {
            Some(group_id) => want_removal(connection, client_id, group_id, *at),
            None => run(
                connection,
                WANT_FROM_ALL,
                params![client_id.as_str(), time(*at)],
            ),
        },
        Write::RemovalsDone { group_id, clients } => removals_done(connection, group_id, clients),
        Write::PostponeRemovals {
            group_id,
            clients,
            until,
        } => postpone_removals(connection, group_id, clients, *until),
        _ => Ok(()),
    }
}

fn forget_group(connection: &Connection, group_id: &GroupId) -> Made {
    let number: Option<i64> = connection
        .prepare_cached(
            "UPDATE groups SET forgotten = 1, due_at = NULL
             WHERE group_id = ?1 AND forgotten = 0 RETURNING number",
        )?
        .query_row([group_id.as_slice()], |row| row.get(0))
        .optional()?;
    let Some(number) = number else {
        return Ok(());
    };
    for sql in FORGET {
        run(connection, sql, [number])?;
    }
    run(
        connection,
        "DELETE FROM answers WHERE group_id = ?1",
        [group_id.as_slice()],
    )
}

fn want_removal(
    connection: &Connection,
    client_id: &ClientId,
    group_id: &GroupId,
    at: u64,
) -> Made {
    let Some((group, _)) = reads::group_number(connection, group_id)? else {
        return Ok(());
    };
    run(
        connection,
        "INSERT INTO wanted_removals (group_number, client, wanted_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET wanted_at = min(wanted_at, excluded.wanted_at)",
        params![group, client_id.as_str(), time(at)],
    )
}

fn removals_done(connection: &Connection, group_id: &GroupId, clients: &[ClientId]) -> Made {
    let Some((group, _)) = reads::group_number(connection, group_id)? else {
        return Ok(());
    };
    for client in clients {
        run(connection, DONE, params![group, client.as_str()])?;
    }
    Ok(())
}

fn postpone_removals(
    connection: &Connection,
    group_id: &GroupId,
    clients: &[ClientId],
    until: u64,
) -> Made {
    let Some((group, _)) = reads::group_number(connection, group_id)? else {
        return Ok(());
    };
    for client in clients {
        let row = params![group, client.as_str(), time(until)];
        run(connection, POSTPONE, row)?;
    }
    run(connection, DEFER, [group, time(until)])
}

pub(super) fn groups_due(
    connection: &Connection,
    now: u64,
    max: usize,
) -> Result<Vec<GroupId>, StoreError> {
    let mut due = connection.prepare_cached(DUE)?;
    let mut group_id =
        connection.prepare_cached("SELECT group_id FROM groups WHERE number = ?1")?;
    let mut rows = due.query([bound(now)])?;
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    while found.len() < max {
        let Some(row) = rows.next()? else { break };
        let group: i64 = row.get(0)?;
        if seen.insert(group) {
            found.push(opaque(group_id.query_row([group], |row| row.get(0))?)?);
        }
    }
    Ok(found)
}

pub(super) fn wanted_removals(
    connection: &Connection,
    group_id: &GroupId,
) -> Result<Vec<ClientId>, StoreError> {
    let Some((group, _)) = reads::group_number(connection, group_id)? else {
        return Ok(Vec::new());
    };
    connection
        .prepare_cached(
            "SELECT client FROM wanted_removals WHERE group_number = ?1 ORDER BY client",
        )?
        .query_and_then([group], |row| name(&row.get::<_, String>(0)?))?
        .collect()
}
