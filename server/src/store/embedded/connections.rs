//! Our own users and their peers: who has asked, who may fetch KeyPackages, who is blocked.

use moh_messages::client_api::{BlockTarget, Connection as Listed, ConnectionState};
use moh_messages::{ProviderName, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::apply::{Made, run};
use super::reads::number;
use super::{bindings, bound, int, name};
use crate::change::{Decided, QueueDigest, Write};
use crate::store::{Relation, StoreError};

/// As `connections` has it, where it is not only asked for.
const CONSENTED: i64 = 1;

/// A user blocks a peer, or the peer's provider.
const BLOCKED: &str = "
    SELECT 1 FROM blocks
    WHERE user_id = ?1 AND ((kind = 0 AND target = ?2) OR (kind = 1 AND target = ?3))";

/// Makes the writes that are about connections.
pub(super) fn written(connection: &Connection, write: &Write) -> Made {
    match write {
        Write::Consent {
            user,
            peer,
            allowed: true,
            at,
        } => run(
            connection,
            "INSERT INTO connections (user_id, peer, state, since, requests)
             SELECT ?1, ?2, 1, ?3, 0
             WHERE NOT EXISTS (SELECT 1 FROM deleted_names WHERE name = ?1)
             ON CONFLICT DO UPDATE SET state = 1, since = excluded.since WHERE state = 0",
            params![user.as_str(), peer.as_str(), int(*at)?],
        ),
        Write::Consent { user, peer, .. } => withdraw(connection, user, peer),
        Write::Asked { .. } => asked(connection, write),
        Write::Decided {
            user,
            peer,
            decision,
        } => {
            match decision {
                Decided::Declined => {
                    bindings::close(connection, &queues_of(connection, user, peer)?)?;
                }
                // They are not for a further request any more.
                Decided::Accepted => run(
                    connection,
                    "DELETE FROM key_package_queues WHERE user_id = ?1 AND peer = ?2
                         AND queue IN (SELECT queue FROM queue_bindings)",
                    [user.as_str(), peer.as_str()],
                )?,
            }
            decided(connection, user, peer)
        }
        Write::Block {
            user,
            target,
            blocked,
        } => block(connection, user, target, *blocked),
        Write::ForgetUser { user } => {
            for sql in [
                "DELETE FROM connections WHERE user_id = ?1",
                "DELETE FROM connection_queues WHERE user_id = ?1",
                "DELETE FROM blocks WHERE user_id = ?1",
                "DELETE FROM key_package_queues WHERE user_id = ?1",
            ] {
                run(connection, sql, [user.as_str()])?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn withdraw(connection: &Connection, user: &UserId, peer: &UserId) -> Made {
    run(
        connection,
        "DELETE FROM connections
         WHERE user_id = ?1 AND peer = ?2 AND state = 1 AND requests = 0",
        [user.as_str(), peer.as_str()],
    )?;
    run(
        connection,
        "UPDATE connections SET state = 0 WHERE user_id = ?1 AND peer = ?2",
        [user.as_str(), peer.as_str()],
    )
}

fn asked(connection: &Connection, write: &Write) -> Made {
    let Write::Asked {
        user,
        peer,
        sender,
        audience,
        queues,
        at,
    } = write
    else {
        return Ok(());
    };
    run(
        connection,
        "INSERT INTO connections (user_id, peer, state, since, requests)
         VALUES (?1, ?2, 0, ?3, 1)
         ON CONFLICT DO UPDATE SET requests = requests + 1",
        params![user.as_str(), peer.as_str(), int(*at)?],
    )?;
    for queue in queues {
        run(
            connection,
            "INSERT INTO connection_queues (user_id, peer, queue, sender, audience)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            params![
                user.as_str(),
                peer.as_str(),
                queue,
                sender.as_str(),
                audience.as_slice()
            ],
        )?;
    }
    Ok(())
}

/// The queues of what a peer has asked for, and those that the peer was given in order to ask.
fn queues_of(
    connection: &Connection,
    user: &UserId,
    peer: &UserId,
) -> Result<Vec<QueueDigest>, StoreError> {
    let both = [user.as_str(), peer.as_str()];
    Ok(connection
        .prepare_cached(
            "SELECT queue FROM connection_queues WHERE user_id = ?1 AND peer = ?2
             UNION
             SELECT queue FROM key_package_queues
             WHERE user_id = ?1 AND peer = ?2 AND for_connections",
        )?
        .query_map(both, |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

/// What a peer asked for throws away what comes: also what is named by audiences that there are.
fn mute(connection: &Connection, user: &UserId, peer: &UserId) -> Made {
    let queues = queues_of(connection, user, peer)?;
    bindings::mute_all(connection, &queues)?;
    run(
        connection,
        "DELETE FROM audience_members WHERE (client, audience) IN
             (SELECT b.client, a.id FROM connection_queues q
              JOIN queue_bindings b ON b.queue = q.queue AND b.sender IS NOT NULL
              JOIN audiences a ON a.sender = q.sender AND a.digest = q.audience
              WHERE q.user_id = ?1 AND q.peer = ?2)",
        [user.as_str(), peer.as_str()],
    )
}

/// What was asked is done with.
fn decided(connection: &Connection, user: &UserId, peer: &UserId) -> Made {
    let both = [user.as_str(), peer.as_str()];
    run(
        connection,
        "DELETE FROM connection_queues WHERE user_id = ?1 AND peer = ?2",
        both,
    )?;
    run(
        connection,
        "DELETE FROM connections WHERE user_id = ?1 AND peer = ?2 AND state = 0",
        both,
    )?;
    run(
        connection,
        "UPDATE connections SET requests = 0 WHERE user_id = ?1 AND peer = ?2",
        both,
    )
}

fn block(connection: &Connection, user: &UserId, target: &BlockTarget, blocked: bool) -> Made {
    let (kind, target_name) = kind_of(target);
    if !blocked {
        return run(
            connection,
            "DELETE FROM blocks WHERE user_id = ?1 AND kind = ?2 AND target = ?3",
            params![user.as_str(), kind, target_name],
        );
    }
    run(
        connection,
        "INSERT INTO blocks (user_id, kind, target) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![user.as_str(), kind, target_name],
    )?;
    for peer in peers_of(connection, user, target)? {
        mute(connection, user, &peer)?;
        decided(connection, user, &peer)?;
        withdraw(connection, user, &peer)?;
    }
    Ok(())
}

/// Who is connected with a user, or has asked, of those that a block is for.
fn peers_of(
    connection: &Connection,
    user: &UserId,
    target: &BlockTarget,
) -> Result<Vec<UserId>, StoreError> {
    let (from, to) = match target {
        BlockTarget::User(peer) => return Ok(vec![peer.clone()]),
        BlockTarget::Provider(provider) => users_of(provider),
    };
    connection
        .prepare_cached(
            "SELECT peer FROM connections WHERE user_id = ?1 AND peer >= ?2 AND peer < ?3",
        )?
        .query_and_then([user.as_str(), &from, &to], |row| {
            name(&row.get::<_, String>(0)?)
        })?
        .collect()
}

/// Between which names those of a provider's users are: '0' comes after '/'.
fn users_of(provider: &ProviderName) -> (String, String) {
    let domain = format!("mimi://{provider}/u");
    (format!("{domain}/"), format!("{domain}0"))
}

fn kind_of(target: &BlockTarget) -> (i64, &str) {
    match target {
        BlockTarget::User(user) => (0, user.as_str()),
        BlockTarget::Provider(provider) => (1, provider.as_str()),
    }
}

pub(super) fn blocked(
    connection: &Connection,
    user: &UserId,
    peer: &UserId,
) -> Result<bool, StoreError> {
    let provider = peer.provider();
    Ok(connection.prepare_cached(BLOCKED)?.exists([
        user.as_str(),
        peer.as_str(),
        provider.as_str(),
    ])?)
}

/// Whether a peer has asked a user, or may fetch their KeyPackages.
pub(super) fn is_there(
    connection: &Connection,
    user: &UserId,
    peer: &UserId,
) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM connections WHERE user_id = ?1 AND peer = ?2")?
        .exists([user.as_str(), peer.as_str()])?)
}

pub(super) fn consent(
    connection: &Connection,
    user: &UserId,
    peer: &UserId,
) -> Result<bool, StoreError> {
    let consents = connection
        .prepare_cached("SELECT 1 FROM connections WHERE user_id = ?1 AND peer = ?2 AND state = 1")?
        .exists([user.as_str(), peer.as_str()])?;
    Ok(consents && !blocked(connection, user, peer)?)
}

pub(super) fn relation(
    connection: &Connection,
    user: &UserId,
    peer: &UserId,
) -> Result<Relation, StoreError> {
    let row: Option<(i64, u64)> = connection
        .prepare_cached("SELECT state, requests FROM connections WHERE user_id = ?1 AND peer = ?2")?
        .query_row([user.as_str(), peer.as_str()], |row| {
            Ok((row.get(0)?, number(row, 1)?))
        })
        .optional()?;
    let count = |sql| -> Result<u64, StoreError> {
        let mut count = connection.prepare_cached(sql)?;
        Ok(count.query_row([user.as_str()], |row| number(row, 0))?)
    };
    let (from, to) = users_of(&peer.provider());
    let from_there = connection
        .prepare_cached(
            "SELECT count(*) FROM connections
             WHERE user_id = ?1 AND peer >= ?2 AND peer < ?3 AND state = 0",
        )?
        .query_row([user.as_str(), &from, &to], |row| number(row, 0))?;
    Ok(Relation {
        asked_from_there: from_there,
        state: row.map(|(state, _)| state_of(state)),
        requests: row.map_or(0, |(_, requests)| requests),
        blocked: blocked(connection, user, peer)?,
        asked: count("SELECT count(*) FROM connections WHERE user_id = ?1 AND state = 0")?,
        connections: count("SELECT count(*) FROM connections WHERE user_id = ?1")?,
    })
}

fn state_of(stored: i64) -> ConnectionState {
    match stored {
        CONSENTED => ConnectionState::Consented,
        _ => ConnectionState::Asked,
    }
}

pub(super) fn connections(
    connection: &Connection,
    user: &UserId,
    after: Option<&UserId>,
    max: usize,
) -> Result<Vec<Listed>, StoreError> {
    let after = after.map_or("", UserId::as_str);
    connection
        .prepare_cached(
            "SELECT peer, state, since FROM connections WHERE user_id = ?1 AND peer > ?2
             ORDER BY peer LIMIT ?3",
        )?
        .query_and_then(params![user.as_str(), after, bound(max as u64)], |row| {
            Ok(Listed {
                peer: name(&row.get::<_, String>(0)?)?,
                state: state_of(row.get(1)?),
                since: number(row, 2)?,
            })
        })?
        .collect()
}

pub(super) fn blocks(
    connection: &Connection,
    user: &UserId,
    after: Option<&BlockTarget>,
    max: usize,
) -> Result<Vec<BlockTarget>, StoreError> {
    let (kind, target) = after.map_or((0, ""), kind_of);
    connection
        .prepare_cached(
            "SELECT kind, target FROM blocks WHERE user_id = ?1 AND (kind, target) > (?2, ?3)
             ORDER BY kind, target LIMIT ?4",
        )?
        .query_and_then(
            params![user.as_str(), kind, target, bound(max as u64)],
            |row| {
                let target: String = row.get(1)?;
                Ok(match row.get::<_, i64>(0)? {
                    0 => BlockTarget::User(name(&target)?),
                    _ => BlockTarget::Provider(name(&target)?),
                })
            },
        )?
        .collect()
}
