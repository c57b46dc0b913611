//! What waits for other providers, and what is set aside. The totals of each provider are kept by
//! triggers (see `schema::steps`).

use std::collections::BTreeSet;

use moh_messages::{AudienceDigest, GroupId, ProviderName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::apply::{Made, one, rows, run};
use super::reads::{Found, number};
use super::{bound, int, name, opaque, time};
use crate::change::{Ending, OUTBOX_ROW_BYTES, OutboxBounds, OutboxDelivery, Write, outbox_lane};
use crate::store::{
    About, CommitError, OutboxItem, OutboxRow, OutboxTotal, SetAsideRow, StoreError,
};

/// The most rows that one write sets aside, gives up or forgets for the sake of bounds.
const MAX_BOUNDED: usize = 1024;

/// Why something ended for which there was no room.
const CROWDED: &str = "too much waits for this provider";

pub(super) fn lanes(connection: &Connection) -> Result<Vec<(ProviderName, u8)>, StoreError> {
    // One look into the index for each lane, however much waits in it.
    let mut next = connection.prepare_cached(
        "SELECT destination, lane FROM outbox WHERE (destination, lane) > (?1, ?2)
         ORDER BY destination, lane LIMIT 1",
    )?;
    let mut lanes: Vec<(ProviderName, u8)> = Vec::new();
    loop {
        let (after, lane) = match lanes.last() {
            Some((destination, lane)) => (destination.as_str(), *lane),
            None => ("", 0),
        };
        let found: Option<(String, u8)> = next
            .query_row(params![after, lane], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((destination, lane)) = found else {
            return Ok(lanes);
        };
        lanes.push((name(&destination)?, lane));
    }
}

pub(super) fn outbox(
    connection: &Connection,
    destination: &ProviderName,
    lane: u8,
    but: &BTreeSet<GroupId>,
    max_rows: usize,
    max_bytes: usize,
) -> Result<Vec<OutboxRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, group_id, delivery_id, digest, except_position, created_at, payload,
             deleted_client
         FROM outbox WHERE destination = ?1 AND lane = ?2 ORDER BY id",
    )?;
    let mut rows = statement.query(params![destination.as_str(), lane])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while found.len() < max_rows && (bytes < max_bytes || found.is_empty()) {
        let Some(row) = rows.next()? else { break };
        let group_id: GroupId = opaque(row.get(1)?)?;
        if but.contains(&group_id) {
            continue;
        }
        let payload: Vec<u8> = row.get(6)?;
        bytes += payload.len();
        let (created_at, deleted) = (number(row, 5)?, row.get::<_, Option<String>>(7)?);
        let item = match deleted {
            Some(client) => OutboxItem::ClientDeleted(name(&client)?),
            None => OutboxItem::Delivery(OutboxDelivery {
                destination: destination.clone(),
                group_id,
                delivery_id: opaque(row.get(2)?)?,
                digest: opaque(row.get(3)?)?,
                except: row.get(4)?,
                created_at,
                payload,
            }),
        };
        found.push(OutboxRow {
            id: number(row, 0)?,
            created_at,
            item,
        });
    }
    Ok(found)
}

pub(super) fn outbox_audience(connection: &Connection, digest: &AudienceDigest) -> Found<Vec<u8>> {
    Ok(connection
        .prepare_cached("SELECT recipients FROM outbox_audiences WHERE digest = ?1")?
        .query_row([digest.as_slice()], |row| row.get(0))
        .optional()?)
}

pub(super) fn totals(
    connection: &Connection,
    after: Option<&ProviderName>,
    max: usize,
) -> Result<Vec<OutboxTotal>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT destination, waiting, waiting_bytes, set_aside, set_aside_bytes, forgotten
         FROM outbox_totals WHERE destination > ?1 ORDER BY destination",
    )?;
    let mut rows = statement.query([after.map_or("", ProviderName::as_str)])?;
    let mut found = Vec::new();
    while found.len() < max {
        let Some(row) = rows.next()? else { break };
        let destination: String = row.get(0)?;
        let oldest = oldest(connection, &destination)?;
        found.push(OutboxTotal {
            oldest_at: oldest.map(|oldest| oldest.created_at),
            destination: name(&destination)?,
            waiting: number(row, 1)?,
            waiting_bytes: number(row, 2)?,
            set_aside: number(row, 3)?,
            set_aside_bytes: number(row, 4)?,
            forgotten: number(row, 5)?,
        });
    }
    Ok(found)
}

pub(super) fn set_aside(
    connection: &Connection,
    destination: Option<&ProviderName>,
    after: u64,
    max: usize,
) -> Result<Vec<SetAsideRow>, StoreError> {
    const COLUMNS: &str = "SELECT id, destination, group_id, deleted_client, kind, created_at,
        set_aside_at, ending, reason, bytes, payload IS NOT NULL FROM outbox_set_aside";
    let (after, max) = (bound(after), i64::try_from(max).unwrap_or(i64::MAX));
    let mut statement = match destination {
        Some(_) => connection.prepare_cached(&format!(
            "{COLUMNS} WHERE destination = ?3 AND id > ?1 ORDER BY id LIMIT ?2"
        )),
        None => connection.prepare_cached(&format!(
            "{COLUMNS} WHERE id > ?1 AND ?3 IS NULL ORDER BY id LIMIT ?2"
        )),
    }?;
    let destination = destination.map(ProviderName::as_str);
    let mut rows = statement.query(params![after, max, destination])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(set_aside_row(row)?);
    }
    Ok(found)
}

fn set_aside_row(row: &Row<'_>) -> Result<SetAsideRow, StoreError> {
    let (destination, client): (String, Option<String>) = (row.get(1)?, row.get(3)?);
    let about = match (client, row.get(4)?) {
        (Some(client), _) => About::ClientDeleted(name(&client)?),
        (None, 1) => About::ConnectionRequest(opaque(row.get(2)?)?),
        (None, _) => About::Message(opaque(row.get(2)?)?),
    };
    Ok(SetAsideRow {
        id: number(row, 0)?,
        destination: name(&destination)?,
        about,
        created_at: number(row, 5)?,
        set_aside_at: number(row, 6)?,
        ending: ending(row.get(7)?)?,
        reason: row.get(8)?,
        bytes: number(row, 9)?,
        can_be_retried: row.get(10)?,
    })
}

fn ending(stored: i64) -> Result<Ending, StoreError> {
    Ok(match stored {
        0 => Ending::Refused,
        1 => Ending::RequestRefused,
        2 => Ending::Expired,
        3 => Ending::Crowded,
        4 => Ending::Unreadable,
        _ => return Err(StoreError(format!("{stored} is no ending"))),
    })
}

fn stored_ending(ending: Ending) -> i64 {
    match ending {
        Ending::Refused => 0,
        Ending::RequestRefused => 1,
        Ending::Expired => 2,
        Ending::Crowded => 3,
        Ending::Unreadable => 4,
    }
}

/// Makes the writes that are about the outbox alone.
pub(super) fn written(connection: &Connection, write: &Write) -> Made {
    match write {
        Write::OutboxAudience { digest, recipients } => audience(connection, digest, recipients),
        Write::Outbox(delivery) => wait(connection, delivery),
        Write::OutboxDone { id } => {
            run(connection, "DELETE FROM outbox WHERE id = ?1", [bound(*id)])
        }
        Write::OutboxSetAside {
            id,
            ending,
            reason,
            at,
        } => put_aside(connection, *id, *ending, reason, *at),
        Write::OutboxRetry {
            id,
            delivery_id,
            at,
        } => {
            let delivery_id = delivery_id.as_ref().map(|id| id.as_slice());
            run(
                connection,
                "INSERT INTO outbox
                     (destination, lane, group_id, delivery_id, digest, except_position,
                      created_at, payload, deleted_client)
                 SELECT destination, lane, group_id, coalesce(?2, delivery_id), digest,
                     except_position, ?3, payload, deleted_client
                 FROM outbox_set_aside WHERE id = ?1 AND payload IS NOT NULL",
                params![bound(*id), delivery_id, time(*at)],
            )?;
            run(
                connection,
                "DELETE FROM outbox_set_aside WHERE id = ?1 AND payload IS NOT NULL",
                [bound(*id)],
            )
        }
        Write::OutboxDrop { id } => run(
            connection,
            "DELETE FROM outbox_set_aside WHERE id = ?1",
            [bound(*id)],
        ),
        Write::OutboxBounds {
            destination,
            bounds,
            at,
        } => bring_within(connection, destination.as_str(), bounds, *at),
        _ => Ok(()),
    }
}

fn audience(connection: &Connection, digest: &AudienceDigest, recipients: &[u8]) -> Made {
    let new = rows(
        connection,
        "INSERT INTO outbox_audience_uses (digest, used_at) VALUES (?1, 0) ON CONFLICT DO NOTHING",
        [digest.as_slice()],
    )?;
    if new == 0 {
        return Ok(());
    }
    run(
        connection,
        "INSERT INTO outbox_audiences (digest, recipients) VALUES (?1, ?2)",
        params![digest.as_slice(), recipients],
    )
}

fn wait(connection: &Connection, delivery: &OutboxDelivery) -> Made {
    let created_at = int(delivery.created_at)?;
    one(
        connection,
        "UPDATE outbox_audience_uses SET used_at = max(used_at, ?2) WHERE digest = ?1",
        params![delivery.digest.as_slice(), created_at],
    )?;
    run(
        connection,
        "INSERT INTO outbox
             (destination, lane, group_id, delivery_id, digest, except_position, created_at,
              payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            delivery.destination.as_str(),
            outbox_lane(delivery.group_id.as_slice()),
            delivery.group_id.as_slice(),
            delivery.delivery_id.as_slice(),
            delivery.digest.as_slice(),
            delivery.except,
            created_at,
            delivery.payload
        ],
    )
}

fn put_aside(connection: &Connection, id: u64, ending: Ending, reason: &str, at: u64) -> Made {
    let keeps = ending != Ending::Crowded;
    run(
        connection,
        "INSERT INTO outbox_set_aside
             (destination, lane, group_id, delivery_id, digest, except_position, created_at,
              set_aside_at, ending, reason, kind, bytes, payload, deleted_client)
         SELECT destination, lane, group_id, delivery_id, digest, except_position, created_at,
             ?2, ?3, ?4,
             CASE WHEN deleted_client IS NOT NULL THEN 2 WHEN substr(payload, 1, 1) = X'01' THEN 1
                 ELSE 0 END,
             length(payload), CASE WHEN ?5 OR deleted_client IS NOT NULL THEN payload END,
             deleted_client
         FROM outbox WHERE id = ?1",
        params![bound(id), time(at), stored_ending(ending), reason, keeps],
    )?;
    run(connection, "DELETE FROM outbox WHERE id = ?1", [bound(id)])
}

/// The first of a lane.
struct First {
    id: u64,
    created_at: u64,
}

/// The oldest that waits for a provider: one look into the index for each lane.
fn oldest(connection: &Connection, destination: &str) -> Found<First> {
    let mut next = connection.prepare_cached(
        "SELECT id, created_at, lane FROM outbox WHERE destination = ?1 AND lane > ?2
         ORDER BY lane, id LIMIT 1",
    )?;
    let (mut oldest, mut lane): (Option<First>, i64) = (None, -1);
    loop {
        let found = next
            .query_row(params![destination, lane], |row| {
                let first = First {
                    id: number(row, 0)?,
                    created_at: number(row, 1)?,
                };
                Ok((first, row.get(2)?))
            })
            .optional()?;
        let Some((first, of)) = found else {
            return Ok(oldest);
        };
        lane = of;
        if oldest.as_ref().is_none_or(|oldest| first.id < oldest.id) {
            oldest = Some(first);
        }
    }
}

/// What is kept for a provider: waiting, and the bytes of it; set aside, and the bytes of it.
fn kept(connection: &Connection, destination: &str) -> Result<[u64; 4], StoreError> {
    let kept = connection
        .prepare_cached(
            "SELECT waiting, waiting_bytes, set_aside, set_aside_bytes FROM outbox_totals
             WHERE destination = ?1",
        )?
        .query_row([destination], |row| {
            Ok([
                number(row, 0)?,
                number(row, 1)?,
                number(row, 2)?,
                number(row, 3)?,
            ])
        })
        .optional()?;
    Ok(kept.unwrap_or_default())
}

fn bring_within(
    connection: &Connection,
    destination: &str,
    bounds: &OutboxBounds,
    at: u64,
) -> Made {
    for _ in 0..MAX_BOUNDED {
        let [waiting, bytes, ..] = kept(connection, destination)?;
        let bytes = bytes.saturating_add(waiting.saturating_mul(OUTBOX_ROW_BYTES));
        if waiting <= 1 || bytes <= bounds.waiting_bytes {
            break;
        }
        let Some(First { id, .. }) = oldest(connection, destination)? else {
            break;
        };
        put_aside(connection, id, Ending::Crowded, CROWDED, at)?;
    }
    for _ in 0..MAX_BOUNDED {
        let [_, _, _, bytes] = kept(connection, destination)?;
        if bytes <= bounds.set_aside_bytes {
            break;
        }
        run(
            connection,
            "UPDATE outbox_set_aside SET payload = NULL WHERE id =
                 (SELECT id FROM outbox_set_aside
                  WHERE destination = ?1 AND payload IS NOT NULL AND deleted_client IS NULL
                  ORDER BY id LIMIT 1)",
            [destination],
        )?;
    }
    let [_, _, set_aside, _] = kept(connection, destination)?;
    let beyond = bound(set_aside.saturating_sub(bounds.set_aside));
    if beyond > 0 {
        let many = beyond.min(i64::try_from(MAX_BOUNDED).unwrap_or(i64::MAX));
        forget(connection, destination, many)?;
    }
    Ok(())
}

/// The oldest records of what was set aside are forgotten, and counted.
fn forget(connection: &Connection, destination: &str, many: i64) -> Result<(), CommitError> {
    run(
        connection,
        "UPDATE outbox_totals SET forgotten = forgotten + ?2 WHERE destination = ?1",
        params![destination, many],
    )?;
    run(
        connection,
        "DELETE FROM outbox_set_aside WHERE id IN
             (SELECT id FROM outbox_set_aside WHERE destination = ?1 ORDER BY id LIMIT ?2)",
        params![destination, many],
    )
}
