//! A change in SQL: what it expects, and what it writes.

use moh_messages::{AudienceDigest, ClientId, GroupId, ProviderName};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::{
    StoreError, accounts, bindings, bound, connections, int, key_packages, outbox, reads, upkeep,
};
use crate::change::{Answer, Expect, Whose, Write};
use crate::store::CommitError;

pub(super) type Made = Result<(), CommitError>;

/// Whether everything holds that a change was based on.
pub(super) fn expected(connection: &Connection, expect: &[Expect]) -> Made {
    for expect in expect {
        if !holds(connection, expect)? {
            return Err(CommitError::Conflict);
        }
    }
    Ok(())
}

fn holds(connection: &Connection, expect: &Expect) -> Result<bool, StoreError> {
    let exists = |sql, params: &[&dyn rusqlite::ToSql]| -> Result<bool, StoreError> {
        Ok(connection.prepare_cached(sql)?.exists(params)?)
    };
    match expect {
        Expect::Group(group_id, None) => Ok(reads::group_version(connection, group_id)?.is_none()),
        Expect::Group(group_id, Some(expected)) => {
            let group = reads::group_number(connection, group_id)?;
            Ok(group.is_some_and(|(_, version)| version == *expected))
        }
        Expect::NoClient(_)
        | Expect::Client(_)
        | Expect::NotDeleted(_)
        | Expect::ClientCount(..)
        | Expect::UnusedInvitation(_) => accounts::holds(connection, expect),
        Expect::KeyPackage(reference) => exists(
            "SELECT 1 FROM key_packages WHERE reference = ?1",
            params![reference.as_slice()],
        ),
        Expect::KeyPackagesLeft { pool, now, left } => {
            Ok(key_packages::state(connection, pool, *now)?.left == *left)
        }
        Expect::NewMessage(group_id, message_hash) => Ok(!exists(
            "SELECT 1 FROM answers WHERE group_id = ?1 AND message_hash = ?2",
            params![group_id.as_slice(), message_hash],
        )?),
        Expect::NewDelivery(sender, delivery_id) => Ok(!exists(
            "SELECT 1 FROM delivered WHERE sender = ?1 AND delivery_id = ?2",
            params![sender.as_str(), delivery_id.as_slice()],
        )?),
        Expect::Blocked {
            user,
            peer,
            blocked,
        } => Ok(connections::blocked(connection, user, peer)? == *blocked),
    }
}

/// Makes the writes of a change, in their order. On an error, some of them may be made.
pub(super) fn written(connection: &Connection, writes: &[Write]) -> Made {
    for write in writes {
        match write {
            Write::CreateGroup { .. } => create_group(connection, write),
            Write::AppendGroup { .. } => append_group(connection, write),
            Write::ForgetGroup { .. }
            | Write::WantRemoval { .. }
            | Write::RemovalsDone { .. }
            | Write::PostponeRemovals { .. } => upkeep::written(connection, write),
            Write::Answer {
                group_id,
                message_hash,
                answer: given,
            } => answer(connection, group_id, message_hash, given),
            Write::ForgetAnswers {
                group_id,
                before_epoch,
            } => run(
                connection,
                "DELETE FROM answers WHERE group_id = ?1 AND epoch < ?2",
                params![group_id.as_slice(), bound(*before_epoch)],
            ),
            Write::Audience {
                sender,
                digest,
                members,
            } => audience(connection, sender, digest, members),
            Write::BoundAudience { .. }
            | Write::SharedQueue(_)
            | Write::KeyPackageQueue { .. }
            | Write::HandedOut { .. }
            | Write::CloseClient { .. }
            | Write::ClientPeer { .. }
            | Write::Mute { .. } => bindings::written(connection, write),
            Write::Message { .. } => message(connection, write),
            Write::Delivered { .. } => delivered(connection, write),
            Write::OutboxAudience { .. }
            | Write::Outbox(_)
            | Write::OutboxDone { .. }
            | Write::OutboxSetAside { .. }
            | Write::OutboxRetry { .. }
            | Write::OutboxDrop { .. }
            | Write::OutboxBounds { .. } => outbox::written(connection, write),
            Write::Client { .. }
            | Write::UseInvitation { .. }
            | Write::Nonce { .. }
            | Write::DeleteClient { .. }
            | Write::DeleteUser { .. } => accounts::written(connection, write),
            Write::KeyPackage(_)
            | Write::DropExpired { .. }
            | Write::RemoveKeyPackage(_)
            | Write::KeepKeyPackages { .. }
            | Write::ToldLow { .. } => key_packages::written(connection, write),
            Write::Consent { .. }
            | Write::Asked { .. }
            | Write::Decided { .. }
            | Write::Block { .. }
            | Write::ForgetUser { .. } => connections::written(connection, write),
            Write::Acknowledge {
                client_id,
                sequence,
            } => acknowledge(connection, client_id, *sequence),
        }?;
    }
    Ok(())
}

pub(super) fn rows(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<usize, CommitError> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}

pub(super) fn run(connection: &Connection, sql: &str, params: impl Params) -> Made {
    rows(connection, sql, params).map(|_| ())
}

/// One row, or the change has to be decided again: something is there already, or is gone.
pub(super) fn one(connection: &Connection, sql: &str, params: impl Params) -> Made {
    match rows(connection, sql, params)? {
        1 => Ok(()),
        _ => Err(CommitError::Conflict),
    }
}

fn create_group(connection: &Connection, write: &Write) -> Made {
    let Write::CreateGroup {
        group_id,
        snapshot,
        due_at,
        members,
    } = write
    else {
        return Ok(());
    };
    run(
        connection,
        "INSERT INTO groups (group_id, version, due_at) VALUES (?1, 0, ?2)",
        params![group_id.as_slice(), upkeep::due(*due_at)],
    )?;
    let number = connection.last_insert_rowid();
    run(
        connection,
        "INSERT INTO group_snapshots (group_number, version, epoch, bytes) VALUES (?1, 0, 0, ?2)",
        params![number, snapshot],
    )?;
    upkeep::members(connection, number, members, &[])
}

fn append_group(connection: &Connection, write: &Write) -> Made {
    let Write::AppendGroup {
        group_id,
        version,
        epoch,
        entry,
        snapshot,
        keep_from_epoch,
        due_at,
        entered,
        left,
    } = write
    else {
        return Ok(());
    };
    let (version, epoch) = (int(*version)?, int(*epoch)?);
    let number: i64 = connection
        .prepare_cached(
            "UPDATE groups SET version = ?2, due_at = ?3
             WHERE group_id = ?1 AND version = ?2 - 1 AND forgotten = 0 RETURNING number",
        )?
        .query_row(
            params![group_id.as_slice(), version, upkeep::due(*due_at)],
            |row| row.get(0),
        )
        .optional()?
        .ok_or_else(|| StoreError(format!("version {version} does not follow the stored one")))?;
    upkeep::members(connection, number, entered, left)?;
    run(
        connection,
        "INSERT INTO group_log (group_number, version, epoch, bytes) VALUES (?1, ?2, ?3, ?4)",
        params![number, version, epoch, entry],
    )?;
    let Some(snapshot) = snapshot else {
        return Ok(());
    };
    run(
        connection,
        "INSERT INTO group_snapshots (group_number, version, epoch, bytes)
         VALUES (?1, ?2, ?3, ?4)",
        params![number, version, epoch, snapshot],
    )?;
    let oldest_kept: Option<i64> = connection
        .prepare_cached(
            "SELECT version FROM group_snapshots WHERE group_number = ?1 AND epoch <= ?2
             ORDER BY version DESC LIMIT 1",
        )?
        .query_row(params![number, bound(*keep_from_epoch)], |row| row.get(0))
        .optional()?;
    if let Some(oldest_kept) = oldest_kept {
        run(
            connection,
            "DELETE FROM group_snapshots WHERE group_number = ?1 AND version < ?2",
            [number, oldest_kept],
        )?;
        run(
            connection,
            "DELETE FROM group_log WHERE group_number = ?1 AND version <= ?2",
            [number, oldest_kept],
        )?;
    }
    Ok(())
}

fn answer(connection: &Connection, group: &GroupId, hash: &[u8; 32], given: &Answer) -> Made {
    let (key, provider) = match &given.whose {
        Whose::Key(key) => (Some(key.as_slice()), None),
        Whose::Provider(provider) => (None, Some(provider.as_str())),
    };
    one(
        connection,
        "INSERT INTO answers (group_id, message_hash, epoch, accepted_at, signature_key, provider)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        params![
            group.as_slice(),
            hash,
            int(given.epoch)?,
            int(given.accepted_at)?,
            key,
            provider
        ],
    )
}

fn audience(
    connection: &Connection,
    sender: &ProviderName,
    digest: &AudienceDigest,
    members: &[Option<ClientId>],
) -> Made {
    let everybody = |client| Ok((client, true));
    new_audience(connection, sender, digest, members, everybody).map(|_| ())
}

/// Makes an audience, unless there is one of this name; whether it is new. `reader` says which client
/// is at a position, and whether it gets what comes.
pub(super) fn new_audience<'a, S>(
    connection: &Connection,
    sender: &ProviderName,
    digest: &AudienceDigest,
    seats: &'a [Option<S>],
    reader: impl Fn(&'a S) -> Result<(&'a ClientId, bool), CommitError>,
) -> Result<bool, CommitError> {
    let new = rows(
        connection,
        "INSERT INTO audiences (sender, digest) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![sender.as_str(), digest.as_slice()],
    )?;
    if new == 0 {
        return Ok(false);
    }
    let audience = connection.last_insert_rowid();
    let mut list = String::new();
    let mut member = connection.prepare_cached(
        "INSERT INTO audience_members (client, audience, position) VALUES (?1, ?2, ?3)",
    )?;
    for (position, seat) in (0_i64..).zip(seats) {
        if let Some(seat) = seat {
            let (client, gets_it) = reader(seat)?;
            if gets_it {
                member.execute(params![client.as_str(), audience, position])?;
            }
            list.push_str(client.as_str());
        }
        list.push('\n');
    }
    run(
        connection,
        "INSERT INTO audience_lists (audience, clients) VALUES (?1, ?2)",
        params![audience, list],
    )?;
    Ok(true)
}

fn message(connection: &Connection, write: &Write) -> Made {
    let Write::Message {
        sender,
        digest,
        except,
        received_at,
        payload,
    } = write
    else {
        return Ok(());
    };
    let received_at = int(*received_at)?;
    let audience: i64 = connection
        .prepare_cached("SELECT id FROM audiences WHERE sender = ?1 AND digest = ?2")?
        .query_row(params![sender.as_str(), digest.as_slice()], |row| {
            row.get(0)
        })
        .optional()?
        .ok_or(CommitError::Conflict)?;
    run(
        connection,
        "INSERT INTO messages (audience, except_position, received_at, payload)
         VALUES (?1, ?2, ?3, ?4)",
        params![audience, except, received_at, payload],
    )?;
    run(
        connection,
        "UPDATE audiences SET last_sequence = ?2, used_at = max(used_at, ?3) WHERE id = ?1",
        params![audience, connection.last_insert_rowid(), received_at],
    )
}

fn acknowledge(connection: &Connection, client_id: &ClientId, sequence: u64) -> Made {
    run(
        connection,
        "INSERT INTO acknowledged (client, sequence) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET sequence = excluded.sequence
         WHERE excluded.sequence > sequence",
        params![client_id.as_str(), int(sequence)?],
    )
}

fn delivered(connection: &Connection, write: &Write) -> Made {
    let Write::Delivered {
        sender,
        delivery_id,
        result,
        received_at,
    } = write
    else {
        return Ok(());
    };
    one(
        connection,
        "INSERT INTO delivered (sender, delivery_id, received_at, result)
         VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![
            sender.as_str(),
            delivery_id.as_slice(),
            int(*received_at)?,
            result
        ],
    )
}
