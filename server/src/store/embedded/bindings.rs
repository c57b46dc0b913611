//! Who may deliver to which queue. A queue is bound to the provider that delivers to it first.

use std::collections::BTreeSet;

use moh_messages::{AudienceDigest, ClientId, ProviderName, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::apply::{Made, new_audience, run};
use super::{connections, int, name, time};
use crate::change::{QueueDigest, Seat, Write, outbox_lane};
use crate::store::{CommitError, StoreError, Takes};

/// As `queue_bindings` has it.
const CLOSED: i64 = 1;
const MUTED: i64 = 2;

/// So many providers are told at most that a client is gone. Others find its queues invalid.
const MAX_PEERS: i64 = 10_000;

/// Audiences that hold a client have to be said anew: what has no name is not found by it. What
/// is in them already stays there.
pub(super) const RENAME_ALL: &str = "
    UPDATE audiences SET digest = CAST('said ' || id AS BLOB)
    WHERE id IN (SELECT audience FROM audience_members WHERE client = ?1)
        AND length(digest) = 32";

/// The same for one who names audiences.
pub(super) const RENAME: &str = "
    UPDATE audiences SET digest = CAST('said ' || id AS BLOB)
    WHERE id IN (SELECT audience FROM audience_members WHERE client = ?1) AND sender = ?2
        AND length(digest) = 32";

pub(super) const TELL_PEERS: &str = "
    INSERT INTO outbox
        (destination, lane, group_id, delivery_id, digest, created_at, payload, deleted_client)
    SELECT provider, ?3, X'', X'', X'', ?2, X'', client FROM client_peers WHERE client = ?1";

/// What a queue does with deliveries by a provider, and whether it throws them away.
fn takes(
    connection: &Connection,
    sender: &ProviderName,
    seat: &Seat,
) -> Result<(Takes, bool), StoreError> {
    let client = seat.client_id.as_str();
    let mut found = connection.prepare_cached(
        "SELECT b.sender, b.state, EXISTS (SELECT 1 FROM deleted_names WHERE name = ?2)
         FROM (SELECT 1) LEFT JOIN queue_bindings b ON b.queue = ?1",
    )?;
    let row = found.query_row(params![seat.queue, client], |row| {
        let (bound, state): (Option<String>, Option<i64>) = (row.get(0)?, row.get(1)?);
        Ok((bound, state, row.get(2)?))
    })?;
    Ok(match row {
        (_, _, true) | (_, Some(CLOSED), _) => (Takes::Nothing, false),
        (_, None, _) => (Takes::First, false),
        (None, Some(_), _) => (Takes::Shared, false),
        (Some(bound), Some(state), _) if bound == sender.as_str() => (Takes::Bound, state == MUTED),
        (Some(_), Some(_), _) => (Takes::Nothing, false),
    })
}

pub(super) fn queues_take(
    connection: &Connection,
    sender: &ProviderName,
    queues: &[Seat],
) -> Result<Vec<Takes>, StoreError> {
    let take = |seat| Ok(takes(connection, sender, seat)?.0);
    queues.iter().map(take).collect()
}

/// These queues take nothing any more, but for shared ones; the audiences that hold their
/// clients, and are named by whoever delivers to them, have to be said anew.
pub(super) fn close(connection: &Connection, queues: &[QueueDigest]) -> Made {
    let mut concerned = BTreeSet::new();
    let mut close = connection.prepare_cached(
        "UPDATE queue_bindings SET state = 1 WHERE queue = ?1 AND sender IS NOT NULL
         RETURNING client, sender",
    )?;
    for queue in queues {
        let bound: Option<(String, String)> = close
            .query_row([queue], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        concerned.extend(bound);
    }
    for (client, sender) in concerned {
        run(connection, RENAME, [client, sender])?;
    }
    Ok(())
}

/// What comes to these queues is thrown away from now on, but for shared ones. Their audiences
/// keep their names: nobody notices.
pub(super) fn mute_all(connection: &Connection, queues: &[QueueDigest]) -> Made {
    for queue in queues {
        run(
            connection,
            "UPDATE queue_bindings SET state = 2
             WHERE queue = ?1 AND sender IS NOT NULL AND state = 0",
            [queue],
        )?;
    }
    Ok(())
}

/// New queues are bound to a provider, and throw away what it delivers.
fn mute(connection: &Connection, sender: &ProviderName, seats: &[Seat]) -> Made {
    for seat in seats {
        if takes(connection, sender, seat)?.0 != Takes::First {
            return Err(CommitError::Conflict);
        }
        bind(connection, sender, seat)?;
        mute_all(connection, &[seat.queue])?;
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
        Write::KeyPackageQueue {
            reference,
            seat,
            for_connections,
            expires_at,
        } => run(
            connection,
            "INSERT INTO key_package_queues
                 (queue, reference, client, user_id, for_connections, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            params![
                seat.queue,
                reference.as_slice(),
                seat.client_id.as_str(),
                seat.client_id.user_id().as_str(),
                for_connections,
                time(*expires_at)
            ],
        ),
        Write::HandedOut { reference, peer } => run(
            connection,
            "UPDATE key_package_queues SET peer = ?2 WHERE reference = ?1",
            params![reference.as_slice(), peer.as_str()],
        ),
        Write::CloseClient { client_id, at } => close_client(connection, client_id, *at),
        Write::ClientPeer {
            client_id,
            provider,
        } => peer(connection, client_id, provider),
        _ => Ok(()),
    }
}

fn bound_audience<'a>(
    connection: &Connection,
    sender: &ProviderName,
    digest: &AudienceDigest,
    seats: &'a [Option<Seat>],
) -> Made {
    let reader = |seat: &'a Seat| Ok((&seat.client_id, bind(connection, sender, seat)?));
    match new_audience(connection, sender, digest, seats, reader)? {
        true => Ok(()),
        false => Err(CommitError::Conflict),
    }
}

/// A provider delivers to a queue; whether anything comes of it.
fn bind(connection: &Connection, sender: &ProviderName, seat: &Seat) -> Result<bool, CommitError> {
    let (takes, mut is_muted) = takes(connection, sender, seat)?;
    match takes {
        Takes::Nothing => return Err(CommitError::Conflict),
        Takes::Bound | Takes::Shared => {}
        Takes::First => {
            is_muted = is_unwanted(connection, seat)?;
            let state = if is_muted { MUTED } else { 0 };
            run(
                connection,
                "INSERT INTO queue_bindings (queue, client, sender, state)
                 VALUES (?1, ?2, ?3, ?4)",
                params![seat.queue, seat.client_id.as_str(), sender.as_str(), state],
            )?;
        }
    }
    if seat.client_id.provider() != *sender {
        peer(connection, &seat.client_id, sender)?;
    }
    Ok(!is_muted)
}

/// Whether a queue was handed out to somebody of whom the user wants to hear nothing.
fn is_unwanted(connection: &Connection, seat: &Seat) -> Result<bool, StoreError> {
    let handed: Option<(String, bool)> = connection
        .prepare_cached(
            "SELECT peer, for_connections FROM key_package_queues
             WHERE queue = ?1 AND client = ?2 AND peer IS NOT NULL",
        )?
        .query_row(params![seat.queue, seat.client_id.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((peer, for_connections)) = handed else {
        return Ok(false);
    };
    let (user, peer): (_, UserId) = (seat.client_id.user_id(), name(&peer)?);
    if peer == user {
        return Ok(false);
    }
    if connections::blocked(connection, &user, &peer)? {
        return Ok(true);
    }
    Ok(for_connections && !connections::is_there(connection, &user, &peer)?)
}

fn peer(connection: &Connection, client_id: &ClientId, provider: &ProviderName) -> Made {
    run(
        connection,
        "INSERT INTO client_peers (client, provider) SELECT ?1, ?2
         WHERE NOT EXISTS (SELECT 1 FROM client_peers WHERE client = ?1 AND provider = ?2)
             AND (SELECT count(*) FROM client_peers WHERE client = ?1) < ?3",
        params![client_id.as_str(), provider.as_str(), MAX_PEERS],
    )
}

fn close_client(connection: &Connection, client_id: &ClientId, at: u64) -> Made {
    let client = client_id.as_str();
    let lane = outbox_lane(client.as_bytes());
    run(connection, TELL_PEERS, params![client, int(at)?, lane])?;
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
        "DELETE FROM key_package_queues WHERE client = ?1",
    ] {
        run(connection, sql, [client])?;
    }
    Ok(())
}
