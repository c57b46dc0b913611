//! The provider's own users: their clients, who may become one, and who is gone.

use moh_messages::{ClientId, Nonce, SignatureScheme, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::apply::{Made, one, run};
use super::reads::{Found, number};
use super::{bound, int, name, opaque, time};
use crate::change::{Client, Expect, InvitationId, Write};
use crate::store::StoreError;

/// Whether an expectation holds that is about accounts.
pub(super) fn holds(connection: &Connection, expect: &Expect) -> Result<bool, StoreError> {
    match expect {
        Expect::NoClient(client_id) => {
            Ok(client(connection, client_id)?.is_none() && !is_deleted(connection, client_id)?)
        }
        Expect::NotDeleted(client_id) => Ok(!is_deleted(connection, client_id)?),
        Expect::Client(client_id) => Ok(client(connection, client_id)?.is_some()),
        Expect::ClientCount(user, count) => {
            let clients: i64 = connection
                .prepare_cached("SELECT count(*) FROM clients WHERE user_id = ?1")?
                .query_row([user.as_str()], |row| row.get(0))?;
            Ok(clients == i64::from(*count))
        }
        Expect::UnusedInvitation(invitation) => Ok(!invitation_is_used(connection, invitation)?),
        _ => Ok(true),
    }
}

/// Makes the writes that are about accounts.
pub(super) fn written(connection: &Connection, write: &Write) -> Made {
    match write {
        Write::Client {
            client_id,
            client: known,
        } => register(connection, client_id, known),
        Write::UseInvitation {
            invitation,
            expires_at,
        } => one(
            connection,
            "INSERT INTO used_invitations (invitation, expires_at) VALUES (?1, ?2)
             ON CONFLICT DO NOTHING",
            params![invitation, time(*expires_at)],
        ),
        Write::Nonce {
            who,
            nonce,
            until,
            now,
        } => take_nonce(connection, who, nonce, *until, *now),
        Write::DeleteClient { client_id, at } => delete_client(connection, client_id, *at),
        Write::DeleteUser { user, at } => never_again(connection, user.as_str(), *at),
        _ => Ok(()),
    }
}

/// For each that comes, two that have lived long enough go: so there are never many of these.
fn take_nonce(connection: &Connection, who: &str, nonce: &Nonce, until: u64, now: u64) -> Made {
    run(
        connection,
        "DELETE FROM nonces WHERE (who, nonce) IN
             (SELECT who, nonce FROM nonces WHERE until < ?1 LIMIT 2)",
        [bound(now)],
    )?;
    one(
        connection,
        "INSERT INTO nonces (who, nonce, until) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![who, nonce.as_slice(), time(until)],
    )
}

fn register(connection: &Connection, client_id: &ClientId, client: &Client) -> Made {
    run(
        connection,
        "INSERT INTO clients (client_id, user_id, scheme, signature_key, registered_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET scheme = excluded.scheme,
             signature_key = excluded.signature_key, registered_at = excluded.registered_at",
        params![
            client_id.as_str(),
            client_id.user_id().as_str(),
            client.scheme.0,
            client.signature_key.as_slice(),
            int(client.registered_at)?
        ],
    )
}

fn delete_client(connection: &Connection, client_id: &ClientId, at: u64) -> Made {
    one(
        connection,
        "DELETE FROM clients WHERE client_id = ?1",
        [client_id.as_str()],
    )?;
    for sql in [
        "DELETE FROM key_packages WHERE client_id = ?1",
        "DELETE FROM known_key_packages WHERE client_id = ?1",
        "DELETE FROM low_pools WHERE client_id = ?1",
    ] {
        run(connection, sql, [client_id.as_str()])?;
    }
    never_again(connection, client_id.as_str(), at)
}

/// A name is not given again.
fn never_again(connection: &Connection, name: &str, at: u64) -> Made {
    run(
        connection,
        "INSERT INTO deleted_names (name, deleted_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![name, int(at)?],
    )
}

pub(super) fn client(connection: &Connection, client_id: &ClientId) -> Found<Client> {
    let row = connection
        .prepare_cached(
            "SELECT scheme, signature_key, registered_at FROM clients WHERE client_id = ?1",
        )?
        .query_row([client_id.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?, number(row, 2)?))
        })
        .optional()?;
    row.map(|(scheme, key, registered_at)| {
        Ok(Client {
            scheme: SignatureScheme(scheme),
            signature_key: opaque(key)?,
            registered_at,
        })
    })
    .transpose()
}

pub(super) fn clients(connection: &Connection, user: &UserId) -> Result<Vec<ClientId>, StoreError> {
    connection
        .prepare_cached("SELECT client_id FROM clients WHERE user_id = ?1 ORDER BY client_id")?
        .query_and_then([user.as_str()], |row| name(&row.get::<_, String>(0)?))?
        .collect()
}

pub(super) fn is_deleted(
    connection: &Connection,
    client_id: &ClientId,
) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM deleted_names WHERE name IN (?1, ?2)")?
        .exists([client_id.as_str(), client_id.user_id().as_str()])?)
}

pub(super) fn deleted_clients(connection: &Connection, user: &UserId) -> Result<u64, StoreError> {
    // The names of all clients of a user begin in the same way, up to a slash; a zero comes next.
    let first = format!("mimi://{}/d/{}/", user.provider(), user.user());
    let after = format!("mimi://{}/d/{}0", user.provider(), user.user());
    Ok(connection
        .prepare_cached("SELECT count(*) FROM deleted_names WHERE name > ?1 AND name < ?2")?
        .query_row([first, after], |row| number(row, 0))?)
}

pub(super) fn invitation_is_used(
    connection: &Connection,
    invitation: &InvitationId,
) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM used_invitations WHERE invitation = ?1")?
        .exists([invitation])?)
}
