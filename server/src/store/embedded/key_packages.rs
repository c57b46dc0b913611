//! KeyPackages: what is there to be handed out, and what was.

use moh_messages::{ClientId, KeyPackageRef};
use rusqlite::{Connection, OptionalExtension, params};

use super::apply::{Made, one, run};
use super::reads::{self, Found};
use super::{bound, opaque, time};
use crate::change::{KeyPackage, Pool, PoolState, Uploads, Write};
use crate::store::StoreError;

/// Makes the writes that are about KeyPackages.
pub(super) fn written(connection: &Connection, write: &Write) -> Made {
    match write {
        Write::KeyPackage(package) => add(connection, package),
        Write::DropExpired { client_id, now } => run(
            connection,
            "DELETE FROM key_packages WHERE client_id = ?1 AND expires_at <= ?2",
            params![client_id.as_str(), bound(*now)],
        ),
        Write::RemoveKeyPackage(reference) => run(
            connection,
            "DELETE FROM key_packages WHERE reference = ?1",
            [reference.as_slice()],
        ),
        Write::KeepKeyPackages { client_id, only } => keep(connection, client_id, only),
        Write::ToldLow { pool, told } => {
            let params = params![pool.client_id.as_str(), pool.for_connections];
            if *told {
                let sql = "INSERT INTO low_pools (client_id, for_connections) VALUES (?1, ?2)
                           ON CONFLICT DO NOTHING";
                one(connection, sql, params)
            } else {
                let sql = "DELETE FROM low_pools WHERE client_id = ?1 AND for_connections = ?2";
                run(connection, sql, params)
            }
        }
        _ => Ok(()),
    }
}

fn add(connection: &Connection, package: &KeyPackage) -> Made {
    one(
        connection,
        "INSERT INTO known_key_packages (reference, client_id, last_resort, expires_at)
         VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![
            package.reference.as_slice(),
            package.client_id.as_str(),
            package.last_resort,
            time(package.expires_at)
        ],
    )?;
    run(
        connection,
        "INSERT INTO key_packages
             (reference, client_id, cipher_suite, for_connections, last_resort, expires_at, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            package.reference.as_slice(),
            package.client_id.as_str(),
            package.cipher_suite,
            package.for_connections,
            package.last_resort,
            time(package.expires_at),
            package.bytes
        ],
    )
}

fn keep(connection: &Connection, client_id: &ClientId, only: &[KeyPackageRef]) -> Made {
    let all: Vec<(i64, Vec<u8>)> = connection
        .prepare_cached("SELECT number, reference FROM key_packages WHERE client_id = ?1")?
        .query_map([client_id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (number, reference) in all {
        if !only.iter().any(|kept| kept.as_slice() == reference) {
            run(
                connection,
                "DELETE FROM key_packages WHERE number = ?1",
                [number],
            )?;
        }
    }
    Ok(())
}

pub(super) fn next(
    connection: &Connection,
    pool: &Pool,
    cipher_suites: &[u16],
    now: u64,
) -> Found<KeyPackage> {
    let mut candidates = connection.prepare_cached(
        "SELECT number, cipher_suite FROM key_packages WHERE client_id = ?1 AND for_connections = ?2
             AND expires_at > ?3
         ORDER BY last_resort, number",
    )?;
    let mut rows = candidates.query(params![
        pool.client_id.as_str(),
        pool.for_connections,
        bound(now)
    ])?;
    let number = loop {
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        if cipher_suites.contains(&row.get(1)?) {
            break row.get::<_, i64>(0)?;
        }
    };
    let (reference, cipher_suite, last_resort, expires_at, bytes) = connection
        .prepare_cached(
            "SELECT reference, cipher_suite, last_resort, expires_at, bytes
             FROM key_packages WHERE number = ?1",
        )?
        .query_row([number], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                reads::number(row, 3)?,
                row.get(4)?,
            ))
        })?;
    Ok(Some(KeyPackage {
        reference: opaque(reference)?,
        client_id: pool.client_id.clone(),
        cipher_suite,
        for_connections: pool.for_connections,
        last_resort,
        expires_at: super::time_of(expires_at),
        bytes,
    }))
}

pub(super) fn state(
    connection: &Connection,
    pool: &Pool,
    now: u64,
) -> Result<PoolState, StoreError> {
    let (left, last_resort) = connection
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE NOT last_resort), count(*) FILTER (WHERE last_resort)
             FROM key_packages
             WHERE client_id = ?1 AND for_connections = ?2 AND expires_at > ?3",
        )?
        .query_row(
            params![pool.client_id.as_str(), pool.for_connections, bound(now)],
            |row| Ok((reads::number(row, 0)?, reads::number(row, 1)?)),
        )?;
    let told_low = connection
        .prepare_cached("SELECT 1 FROM low_pools WHERE client_id = ?1 AND for_connections = ?2")?
        .exists(params![pool.client_id.as_str(), pool.for_connections])?;
    Ok(PoolState {
        left,
        last_resort,
        told_low,
    })
}

pub(super) fn uploads(
    connection: &Connection,
    client_id: &ClientId,
) -> Result<Uploads, StoreError> {
    Ok(connection
        .prepare_cached(
            "SELECT count(*), count(*) FILTER (WHERE last_resort)
             FROM known_key_packages WHERE client_id = ?1",
        )?
        .query_row([client_id.as_str()], |row| {
            Ok(Uploads {
                all: reads::number(row, 0)?,
                last_resort: reads::number(row, 1)?,
            })
        })?)
}

pub(super) fn known(
    connection: &Connection,
    references: &[KeyPackageRef],
) -> Result<Vec<(KeyPackageRef, bool)>, StoreError> {
    let mut known = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM key_packages p WHERE p.reference = k.reference)
         FROM known_key_packages k WHERE k.reference = ?1",
    )?;
    let mut found = Vec::new();
    for reference in references {
        let is_there = known
            .query_row([reference.as_slice()], |row| row.get(0))
            .optional()?;
        found.extend(is_there.map(|is_there| (reference.clone(), is_there)));
    }
    Ok(found)
}
