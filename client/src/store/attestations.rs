//! What members show, and the keys to verify it with, as typed reads and writes.

use moh_messages::{Attestation, GroupId, Message, ProviderName, VerificationKeyResponse};
use rusqlite::OptionalExtension;

use super::tables::{decoded, opaque};
use super::{StoreError, Tx};

/// A row of `unverified`.
#[derive(Clone, Debug)]
pub(crate) struct UnverifiedRow {
    pub(crate) id: i64,
    pub(crate) group: GroupId,
    pub(crate) attestation: Attestation,
    /// When this client saw it first, in milliseconds since the Unix epoch.
    pub(crate) seen_ms: u64,
}

impl Tx<'_> {
    /// The keys of a provider, and when they were fetched.
    pub(crate) fn provider_keys(
        &self,
        provider: &ProviderName,
    ) -> Result<Option<(VerificationKeyResponse, u64)>, StoreError> {
        let sql = "SELECT keys, fetched_ms FROM provider_keys WHERE provider = ?1";
        Ok(self
            .conn
            .prepare_cached(sql)?
            .query_row([provider.as_str()], |row| {
                let fetched_ms = row.get::<_, i64>(1)?.try_into().unwrap_or(0);
                Ok((decoded(row, 0)?, fetched_ms))
            })
            .optional()?)
    }

    pub(crate) fn put_provider_keys(
        &self,
        keys: &VerificationKeyResponse,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT OR REPLACE INTO provider_keys VALUES (?1, ?2, ?3)",
            (
                keys.provider.as_str(),
                keys.encode(),
                i64::try_from(now_ms).unwrap_or(i64::MAX),
            ),
        )?;
        Ok(())
    }

    pub(crate) fn insert_unverified(
        &self,
        group: &GroupId,
        attestation: &Attestation,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let sql = "INSERT OR IGNORE INTO unverified (provider, group_id, attestation, seen_ms)
                   VALUES (?1, ?2, ?3, ?4)";
        self.conn.prepare_cached(sql)?.execute((
            attestation.client_id.provider().as_str(),
            group.as_slice(),
            attestation.encode(),
            i64::try_from(now_ms).unwrap_or(i64::MAX),
        ))?;
        Ok(())
    }

    /// The providers by whom something is not verified yet.
    pub(crate) fn unverified_providers(&self) -> Result<Vec<ProviderName>, StoreError> {
        let sql = "SELECT DISTINCT provider FROM unverified";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| super::tables::named(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The oldest attestations by a provider that are not verified yet.
    pub(crate) fn unverified(
        &self,
        provider: &ProviderName,
        limit: u32,
    ) -> Result<Vec<UnverifiedRow>, StoreError> {
        let sql = "SELECT id, group_id, attestation, seen_ms FROM unverified
                   WHERE provider = ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map((provider.as_str(), limit), |row| {
            Ok(UnverifiedRow {
                id: row.get(0)?,
                group: opaque(row, 1)?,
                attestation: decoded(row, 2)?,
                seen_ms: row.get::<_, i64>(3)?.try_into().unwrap_or(0),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn delete_unverified(&self, id: i64) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("DELETE FROM unverified WHERE id = ?1")?
            .execute([id])?;
        Ok(())
    }

    /// Nobody in a group is to be verified any more.
    pub(crate) fn forget_unverified(&self, group: &GroupId) -> Result<(), StoreError> {
        self.conn.execute(
            "DELETE FROM unverified WHERE group_id = ?1",
            [group.as_slice()],
        )?;
        Ok(())
    }
}
