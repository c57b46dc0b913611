//! Whether a member is who it says to be: its provider vouches for its key. What a leaf shows is
//! looked at when it enters a group, or this client does; the signature is verified later, when
//! the provider's keys are there.

use moh_messages::{
    Attestation, DsProtocolVersion, DsResponse, DsResponseBody, Endpoint, GroupId, KeyId,
    MAX_ATTESTATION_LIFE_MS, Message, ProviderName, SignatureScheme, SignedLast, VerificationKey,
    VerificationKeyRequest, VerificationKeyResponse, extension_type, label, sign_content,
};
use openmls::group::{MlsGroup, StagedCommit};
use openmls::prelude::LeafNode;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;

use crate::client::Client;
use crate::error::Error;
use crate::events::{Event, NotAttestedReason};
use crate::mls;
use crate::store::{StoreError, Tx, UnverifiedRow};

/// How long a provider's keys are taken from the cache, in milliseconds.
const KEYS_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// How soon keys are fetched again because one is missing, at the earliest, in milliseconds.
const REFETCH_AFTER_MS: u64 = 60 * 1000;
/// How far clocks may be apart, in milliseconds.
const CLOCK_SKEW_MS: u64 = 5 * 60 * 1000;
/// How long a commit may be on its way, in milliseconds: as long as its owner tries to deliver it.
const DELIVERY_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How many attestations are verified at once.
const BATCH: u32 = 256;

/// What a leaf shows, where that is of the client and the key in it.
pub(crate) fn shown(
    leaf: &LeafNode,
    scheme: Option<SignatureScheme>,
) -> Result<Attestation, NotAttestedReason> {
    let attestation: Option<Attestation> = mls::leaf_extension(leaf, extension_type::ATTESTATION);
    attestation
        .filter(|attestation| {
            mls::client_of(leaf.credential()).as_ref() == Some(&attestation.client_id)
                && attestation.signature_key.as_slice() == leaf.signature_key().as_slice()
                && Some(attestation.scheme) == scheme
        })
        .ok_or(NotAttestedReason::Missing)
}

/// Whether it was good for entering a group at some time between these.
fn is_timely(attestation: &Attestation, from_ms: u64, until_ms: u64) -> bool {
    let life = attestation.not_after.checked_sub(attestation.not_before);
    life.is_some_and(|life| life <= MAX_ATTESTATION_LIFE_MS)
        && attestation.not_before <= until_ms
        && from_ms <= attestation.not_after
}

/// Whether the signature is by this key, while it counted.
fn is_signed_by(attestation: &Attestation, key: &VerificationKey) -> bool {
    if attestation.not_before > key.not_after {
        return false;
    }
    let Ok(scheme) = openmls_traits::types::SignatureScheme::try_from(key.scheme.0) else {
        return false;
    };
    let content = sign_content(label::ATTESTATION, &attestation.to_be_signed());
    let (key, signature) = (&key.public_key, &attestation.signature);
    RustCrypto::default()
        .verify_signature(scheme, &content, key.as_slice(), signature.as_slice())
        .is_ok()
}

/// Looks at a leaf, and has its signature verified later.
fn look_at(
    tx: &Tx<'_>,
    id: &GroupId,
    leaf: &LeafNode,
    scheme: Option<SignatureScheme>,
    entered_ms: Option<u64>,
    now_ms: u64,
) -> Result<(), StoreError> {
    let reason = match shown(leaf, scheme) {
        Ok(attestation) => {
            let is_good = entered_ms.is_none_or(|at| {
                let from_ms = at.saturating_sub(DELIVERY_MS);
                is_timely(&attestation, from_ms, at.saturating_add(CLOCK_SKEW_MS))
            });
            if is_good {
                return tx.insert_unverified(id, &attestation, now_ms);
            }
            NotAttestedReason::Times
        }
        Err(reason) => reason,
    };
    match mls::client_of(leaf.credential()) {
        Some(client) => tx.insert_event(&Event::NotAttested {
            group: id.clone(),
            client,
            reason,
        }),
        // It is no member that anybody gets to see.
        None => Ok(()),
    }
}

/// The leaves that a commit of another member brings in, where what they show is new.
pub(crate) fn brought_in(group: &MlsGroup, commit: &StagedCommit) -> Vec<LeafNode> {
    let added = commit
        .add_proposals()
        .map(|add| add.add_proposal().key_package().leaf_node().clone());
    let number = extension_type::ATTESTATION;
    let is_known = |leaf: &LeafNode| {
        group.members().any(|member| {
            let before = group.public_group().leaf(member.index);
            before.is_some_and(|before| {
                before.signature_key() == leaf.signature_key()
                    && before.credential() == leaf.credential()
                    && before.extensions().unknown(number) == leaf.extensions().unknown(number)
            })
        })
    };
    added
        .chain(commit.update_path_leaf_node().cloned())
        .filter(|leaf| !is_known(leaf))
        .collect()
}

/// Looks at leaves that a commit has brought into a group.
pub(crate) fn look_at_new(
    tx: &Tx<'_>,
    id: &GroupId,
    group: &MlsGroup,
    leaves: &[LeafNode],
    entered_ms: u64,
    now_ms: u64,
) -> Result<(), StoreError> {
    let scheme = mls::suite_of(group.ciphersuite()).signature_scheme();
    leaves
        .iter()
        .try_for_each(|leaf| look_at(tx, id, leaf, scheme, Some(entered_ms), now_ms))
}

/// Looks at all members of a group that this client has joined. When they entered it is not known:
/// the owner has looked at the time.
pub(crate) fn look_at_all(
    tx: &Tx<'_>,
    id: &GroupId,
    group: &MlsGroup,
    now_ms: u64,
) -> Result<(), StoreError> {
    let scheme = mls::suite_of(group.ciphersuite()).signature_scheme();
    let own = group.own_leaf_index();
    let others = group.members().filter(|member| member.index != own);
    others
        .filter_map(|member| group.public_group().leaf(member.index))
        .try_for_each(|leaf| look_at(tx, id, leaf, scheme, None, now_ms))
}

impl Client {
    /// Verifies what members show, by the keys of one provider.
    pub(crate) async fn look_after_attestations(
        &self,
        provider: &ProviderName,
    ) -> Result<(), Error> {
        loop {
            let of = provider.clone();
            let rows = self
                .store()
                .run(move |tx| Ok::<_, Error>(tx.unverified(&of, BATCH)?))
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut verdicts = Vec::new();
            for row in rows {
                let verdict = self.verify(&row.attestation, row.seen_ms).await?;
                verdicts.push((row, verdict));
            }
            self.store().run(|tx| keep_verdicts(tx, verdicts)).await?;
            self.new_events().notify_one();
        }
    }

    /// Whether a KeyPackage may be used that shows this.
    pub(crate) async fn verify_now(
        &self,
        attestation: &Attestation,
    ) -> Result<Result<(), NotAttestedReason>, Error> {
        let now_ms = self.api().now_ms();
        let from_ms = now_ms.saturating_sub(CLOCK_SKEW_MS);
        if !is_timely(attestation, from_ms, now_ms.saturating_add(CLOCK_SKEW_MS)) {
            return Ok(Err(NotAttestedReason::Times));
        }
        self.verify(attestation, now_ms).await
    }

    /// Whether the signature is the provider's. That it has no such key is believed of what it
    /// says after `seen_ms`.
    pub(crate) async fn verify(
        &self,
        attestation: &Attestation,
        seen_ms: u64,
    ) -> Result<Result<(), NotAttestedReason>, Error> {
        let provider = attestation.client_id.provider();
        let key = self.provider_key(&provider, &attestation.key_id, seen_ms);
        Ok(match key.await? {
            None => Err(NotAttestedReason::UnknownKey),
            Some(key) if is_signed_by(attestation, &key) => Ok(()),
            Some(_) => Err(NotAttestedReason::Signature),
        })
    }

    async fn provider_key(
        &self,
        provider: &ProviderName,
        key_id: &KeyId,
        seen_ms: u64,
    ) -> Result<Option<VerificationKey>, Error> {
        let find = |known: VerificationKeyResponse| {
            known.keys.into_iter().find(|key| key.key_id == *key_id)
        };
        let of = provider.clone();
        let cached = self
            .store()
            .run(move |tx| Ok::<_, Error>(tx.provider_keys(&of)?))
            .await?;
        let now_ms = self.api().now_ms();
        if let Some((known, fetched_ms)) = cached
            && now_ms.abs_diff(fetched_ms) < KEYS_LIFE_MS
        {
            let found = find(known);
            if found.is_some() || fetched_ms > seen_ms {
                return Ok(found);
            }
            if now_ms.abs_diff(fetched_ms) < REFETCH_AFTER_MS {
                return Err(Error::Unverified(provider.clone()));
            }
        }
        let fetched = self.fetch_provider_keys(provider).await?;
        let row = fetched.clone();
        self.store()
            .run(move |tx| Ok::<_, Error>(tx.put_provider_keys(&row, now_ms)?))
            .await?;
        Ok(find(fetched))
    }

    /// The keys that a provider says it has.
    async fn fetch_provider_keys(
        &self,
        provider: &ProviderName,
    ) -> Result<VerificationKeyResponse, Error> {
        let request = VerificationKeyRequest {
            version: DsProtocolVersion::MOH1,
            recipient: provider.clone(),
        };
        let endpoint = Endpoint::VerificationKey;
        let answer = self.api().forward(provider, endpoint, request.encode());
        let (status, body) = answer.await?;
        let bad_answer = |detail: String| Error::BadAnswer {
            by: provider.clone(),
            detail,
        };
        if !(200..300).contains(&status) {
            return Err(
                match DsResponse::decode(&body).map(|response| response.body) {
                    Ok(DsResponseBody::Error(error)) => Error::Refused {
                        by: provider.clone(),
                        error,
                    },
                    _ => bad_answer(format!("HTTP status {status}")),
                },
            );
        }
        let keys = VerificationKeyResponse::decode(&body)
            .map_err(|error| bad_answer(error.to_string()))?;
        if keys.provider != *provider {
            return Err(bad_answer(format!("the keys of {}", keys.provider)));
        }
        Ok(keys)
    }
}

fn keep_verdicts(
    tx: &Tx<'_>,
    verdicts: Vec<(UnverifiedRow, Result<(), NotAttestedReason>)>,
) -> Result<(), Error> {
    for (row, verdict) in verdicts {
        tx.delete_unverified(row.id)?;
        if let Err(reason) = verdict {
            tx.insert_event(&Event::NotAttested {
                group: row.group,
                client: row.attestation.client_id,
                reason,
            })?;
        }
    }
    Ok(())
}
