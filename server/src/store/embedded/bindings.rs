//! Who may deliver to which queue. A queue is bound to the provider that delivers to it first.

use moh_messages::{AudienceDigest, ClientId, ProviderName};
use rusqlite::{Connection, OptionalExtension, params};

use super::apply::{Made, rows, run};
use super::int;
use crate::change::{QueueDigest, Seat, Write};
use crate::store::{CommitError, StoreError};

/// What a provider may expect of a queue.
enum Takes {
    /// Nobody has delivered to it yet.
    First,
    Everything,
    /// It is thrown away.
    AndDrops,
    Nothing,
}

/// What a queue becomes, as `queue_bindings` has it.
#[derive(Clone, Copy)]
pub(super) enum State {
    Closed = 1,
    Muted = 2,
}

const CLOSED: i64 = State::Closed as i64;
const MUTED: i64 = State::Muted as i64;

/// Audiences that hold a client have to be said anew: what has no name is not found by it. What
/// is in them already stays there.
pub(super) const RENAME_ALL: &str = "
    UPDATE audiences SET digest = CAST('said ' || id AS BLOB)
    WHERE id IN (SELECT audience FROM audience_members WHERE client = ?1)";

/// The same for one who names audiences.
pub(super) const RENAME: &str = "
    UPDATE audiences SET digest = CAST('said ' || id AS BLOB)
    WHERE id IN (SELECT audience FROM audience_members WHERE client = ?1) AND sender = ?2";

pub(super) const TELL_PEERS: &str = "
    INSERT INTO outbox
        (destination, group_id, delivery_id, digest, created_at, payload, deleted_client)
    SELECT provider, X'', X'', X'', ?2, X'', client FROM client_peers WHERE client = ?1";

fn takes(connection: &Connection, sender: &ProviderName, seat: &Seat) -> Result<Takes, StoreError> {
    let client = seat.client_id.as_str();
    let mut found = connection.prepare_cached(
        "SELECT b.queue IS NULL, b.sender IS NULL OR b.sender = ?3, b.state,
             EXISTS (SELECT 1 FROM deleted_names WHERE name = ?2)
         FROM (SELECT 1) LEFT JOIN queue_bindings b ON b.queue = ?1",
    )?;
    let row = found.query_row(params![seat.queue, client, sender.as_str()], |row| {
        let state: Option<i64> = row.get(2)?;
        Ok((row.get(0)?, row.get(1)?, state, row.get(3)?))
    })?;
    Ok(match row {
        (_, _, _, true) | (_, false, _, _) | (_, _, Some(CLOSED), _) => Takes::Nothing,
        (true, ..) => Takes::First,
        (false, true, Some(MUTED), false) => Takes::AndDrops,
        (false, true, _, false) => Takes::Everything,
    })
}

pub(super) fn queues_take(
    connection: &Connection,
    sender: &ProviderName,
    queues: &[Seat],
) -> Result<Vec<bool>, StoreError> {
    let take = |seat| Ok(!matches!(takes(connection, sender, seat)?, Takes::Nothing));
    queues.iter().map(take).collect()
}

/// A queue takes nothing any more, or throws it away, unless it is a shared one; the audiences
/// that hold its client, and are named by the one who delivers to it, have to be said anew.
pub(super) fn set_state(connection: &Connection, queue: &QueueDigest, state: State) -> Made {
    let bound: Option<(String, String)> = connection
        .prepare_cached(
            "UPDATE queue_bindings SET state = ?2 WHERE queue = ?1 AND sender IS NOT NULL
             RETURNING client, sender",
        )?
        .query_row(params![queue, state as i64], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    match bound {
        Some((client, sender)) => run(connection, RENAME, [client, sender]),
        None => Ok(()),
    }
}

fn mute(connection: &Connection, sender: &ProviderName, seats: &[Seat]) -> Made {
    for seat in seats {
        bind(connection, sender, seat)?;
        set_state(connection, &seat.queue, State::Muted)?;
    }
    Ok(())
}

/// Makes the writes that are about who may deliver alone.
pub(super) fn written(connection: &Connection, write: &Write) -> Made {
    match write {
        Write::BoundAudience {
            sender,
            digest,
            seats,
        } => bound_audience(connection, sender, digest, seats),
        Write::SharedQueue(seat) => run(
            connection,
            "INSERT INTO queue_bindings (queue, client, sender, state) VALUES (?1, ?2, NULL, 0)
             ON CONFLICT DO NOTHING",
            params![seat.queue, seat.client_id.as_str()],
        ),
        Write::Mute { sender, seats } => mute(connection, sender, seats),
        Write::CloseClient { client_id, at } => close_client(connection, client_id, *at),
        Write::ClientPeer {
            client_id,
            provider,
        } => peer(connection, client_id, provider),
        _ => Ok(()),
    }
}

fn bound_audience(
    connection: &Connection,
    sender: &ProviderName,
    digest: &AudienceDigest,
    seats: &[Option<Seat>],
) -> Made {
    let new = rows(
        connection,
        "INSERT INTO audiences (sender, digest) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![sender.as_str(), digest.as_slice()],
    )?;
    if new == 0 {
        return Err(CommitError::Conflict);
    }
    let audience = connection.last_insert_rowid();
    let mut list = String::new();
    let mut member = connection.prepare_cached(
        "INSERT INTO audience_members (client, audience, position) VALUES (?1, ?2, ?3)",
    )?;
    for (position, seat) in (0_i64..).zip(seats) {
        if let Some(seat) = seat {
            let client = seat.client_id.as_str();
            if bind(connection, sender, seat)? {
                member.execute(params![client, audience, position])?;
            }
            list.push_str(client);
        }
        list.push('\n');
    }
    run(
        connection,
        "INSERT INTO audience_lists (audience, clients) VALUES (?1, ?2)",
        params![audience, list],
    )
}

/// A provider delivers to a queue; whether anything comes of it.
fn bind(connection: &Connection, sender: &ProviderName, seat: &Seat) -> Result<bool, CommitError> {
    let takes = takes(connection, sender, seat)?;
    match takes {
        Takes::Nothing => return Err(CommitError::Conflict),
        Takes::Everything | Takes::AndDrops => {}
        Takes::First => run(
            connection,
            "INSERT INTO queue_bindings (queue, client, sender, state) VALUES (?1, ?2, ?3, 0)",
            params![seat.queue, seat.client_id.as_str(), sender.as_str()],
        )?,
    }
    if seat.client_id.provider() != *sender {
        peer(connection, &seat.client_id, sender)?;
    }
    Ok(!matches!(takes, Takes::AndDrops))
}

fn peer(connection: &Connection, client_id: &ClientId, provider: &ProviderName) -> Made {
    run(
        connection,
        "INSERT INTO client_peers (client, provider) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![client_id.as_str(), provider.as_str()],
    )
}

fn close_client(connection: &Connection, client_id: &ClientId, at: u64) -> Made {
    let client = client_id.as_str();
    run(connection, TELL_PEERS, params![client, int(at)?])?;
    run(connection, RENAME_ALL, [client])?;
    run(
        connection,
        "INSERT INTO deleted_names (name, deleted_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![client, int(at)?],
    )?;
    // Nobody waits for it to acknowledge anything.
    run(
        connection,
        "INSERT INTO acknowledged (client, sequence) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET sequence = excluded.sequence",
        params![client, i64::MAX],
    )?;
    for sql in [
        "DELETE FROM queue_bindings WHERE client = ?1",
        "DELETE FROM client_peers WHERE client = ?1",
    ] {
        run(connection, sql, [client])?;
    }
    Ok(())
}
