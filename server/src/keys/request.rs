//! The keys that sign requests and attestations: one after the other, each known before it signs,
//! and for as long as what it signed is shown to anybody.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use moh_messages::{KeyId, Signature, SignatureScheme, VerificationKey, VerificationKeys};

use super::public;
use super::secret::{KeyFileError, RequestKey};
use crate::clock::DAY_MS;
use crate::crypto::sha256;

/// How long a published key counts before and after now, as other providers are told.
const KEY_LIFE_BEFORE_MS: u64 = 150 * DAY_MS;
const KEY_LIFE_AFTER_MS: u64 = 150 * DAY_MS;
/// How long a key is published after its last signature.
const KEY_AFTERLIFE_MS: u64 = 150 * DAY_MS;
/// The most keys that a provider may publish (section 12).
pub(super) const MAX_PUBLISHED_KEYS: usize = 16;

/// When keys that begin to sign at these times, in order, are not published any more; none for
/// the last one.
pub(super) fn ends(
    signs_from: impl Iterator<Item = u64> + Clone,
) -> impl Iterator<Item = Option<u64>> {
    let superseded = signs_from.skip(1);
    superseded
        .map(|at| Some(at.saturating_add(KEY_AFTERLIFE_MS)))
        .chain([None])
}

/// A key that signs requests and attestations, ready for use.
pub(super) struct RequestPair {
    pair: Ed25519KeyPair,
    pub(super) key_id: KeyId,
    published_from: u64,
    signs_from: u64,
    /// The last millisecond at which it is published; none while nothing comes after it.
    published_until: Option<u64>,
}

impl RequestPair {
    pub(super) fn sign(&self, content: &[u8]) -> Signature {
        Signature::new(self.pair.sign(content).as_ref()).expect("64 bytes")
    }
}

/// All of them, ready for use.
pub(super) struct RequestKeys(
    /// In the order in which they sign; not empty.
    Vec<RequestPair>,
);

impl RequestKeys {
    /// Prepares keys.
    pub(super) fn new(secret: &[RequestKey]) -> Result<Self, KeyFileError> {
        let invalid = |what: &str| KeyFileError::Invalid(what.to_owned());
        let mut all: Vec<_> = secret.iter().collect();
        all.sort_by_key(|key| key.signs_from);
        let ends = ends(all.iter().map(|key| key.signs_from));
        let pairs = all.iter().zip(ends).map(|(key, published_until)| {
            let seed = hex::decode(&key.seed).unwrap_or_default();
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
                .map_err(|_| invalid("the seed of a request key"))?;
            let key_id = KeyId::new(sha256(pair.public_key().as_ref())).expect("32 bytes");
            Ok(RequestPair {
                pair,
                key_id,
                published_from: key.published_from,
                signs_from: key.signs_from,
                published_until,
            })
        });
        let pairs: Vec<_> = pairs.collect::<Result<_, KeyFileError>>()?;
        if pairs.is_empty() {
            return Err(invalid("there is no request key"));
        }
        Ok(Self(pairs))
    }

    /// The key that signs at a time: the one that began last.
    pub(super) fn signing(&self, now: u64) -> &RequestPair {
        let began = self.0.iter().rev().find(|key| key.signs_from <= now);
        began.unwrap_or(&self.0[0])
    }

    /// What other providers are told at a time.
    pub(super) fn published(&self, now: u64) -> VerificationKeys {
        let signing = &self.signing(now).key_id;
        // What signs is published, whatever the clock says.
        let is_published = |key: &&RequestPair| {
            key.key_id == *signing
                || key.published_from <= now && key.published_until.is_none_or(|end| now <= end)
        };
        let published = self.0.iter().filter(is_published);
        let keys = published.map(|key| VerificationKey {
            key_id: key.key_id.clone(),
            scheme: SignatureScheme::ED25519,
            public_key: public(key.pair.public_key().as_ref()),
            not_before: now
                .saturating_sub(KEY_LIFE_BEFORE_MS)
                .max(key.published_from.min(now)),
            not_after: key.published_until.unwrap_or(now + KEY_LIFE_AFTER_MS),
        });
        // The newest, where somebody has put more into a key file than can be told.
        let mut keys: Vec<_> = keys.collect();
        keys.drain(..keys.len().saturating_sub(MAX_PUBLISHED_KEYS));
        VerificationKeys::new(keys).expect("not more than fit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that signs from one day on, and is published from another.
    fn key(number: u8, published_from: u64, signs_from: u64) -> RequestKey {
        RequestKey {
            seed: hex::encode([number; 32]),
            published_from: published_from * DAY_MS,
            signs_from: signs_from * DAY_MS,
        }
    }

    fn id(number: u8) -> KeyId {
        RequestKeys::new(&[key(number, 0, 0)]).unwrap().0[0]
            .key_id
            .clone()
    }

    fn published(keys: &RequestKeys, now: u64) -> Vec<KeyId> {
        let published = keys.published(now);
        published.iter().map(|key| key.key_id.clone()).collect()
    }

    /// Each key signs until the next one does, and is published before and after.
    #[test]
    fn who_signs_and_who_is_published() {
        // In whatever order they stand in the file.
        let all = [key(3, 500, 502), key(1, 0, 0), key(2, 100, 101)];
        let keys = RequestKeys::new(&all).unwrap();
        for (days, after, signs, expected) in [
            (0, 0, 1, &[1][..]),
            (100, -1, 1, &[1]),
            (100, 0, 1, &[1, 2]),
            (101, -1, 1, &[1, 2]),
            (101, 0, 2, &[1, 2]),
            (101 + 150, 0, 2, &[1, 2]),
            (101 + 150, 1, 2, &[2]),
            (500, 0, 2, &[2, 3]),
            (502, -1, 2, &[2, 3]),
            (502, 0, 3, &[2, 3]),
            (502 + 150, 0, 3, &[2, 3]),
            (502 + 150, 1, 3, &[3]),
            (50_000, 0, 3, &[3]),
        ] {
            let now = (days * DAY_MS).saturating_add_signed(after);
            assert_eq!(keys.signing(now).key_id, id(signs), "day {days} {after:+}");
            let expected: Vec<_> = expected.iter().map(|number| id(*number)).collect();
            assert_eq!(published(&keys, now), expected, "day {days} {after:+}");
        }
    }

    /// Whoever verifies at the same time, or with a clock that is 5 minutes off, finds the key
    /// that signs good, and what it attested as long as it is shown.
    #[test]
    fn a_key_is_good_while_what_it_signed_is_shown() {
        const SKEW_MS: u64 = 5 * crate::clock::MINUTE_MS;
        let keys = RequestKeys::new(&[key(1, 0, 0), key(2, 100, 101)]).unwrap();
        let step = DAY_MS / 4;
        for now in (0..400 * 4).map(|quarter| 200 * DAY_MS / 4 + quarter * step) {
            let signing = keys.signing(now).key_id.clone();
            for seen_at in [now, now + DAY_MS, now + 90 * DAY_MS] {
                let published = keys.published(seen_at);
                let known = published.iter().find(|key| key.key_id == signing);
                let known = known.expect("it is published");
                for at in [seen_at, seen_at + SKEW_MS] {
                    assert!((known.not_before..=known.not_after).contains(&at));
                }
            }
            let known = keys.published(now - SKEW_MS);
            let known = known.iter().find(|key| key.key_id == signing);
            let known = known.expect("it was published before");
            assert!((known.not_before..=known.not_after).contains(&(now - SKEW_MS)));
        }
    }

    /// A clock that is behind all keys still signs with one that is published.
    #[test]
    fn the_first_key_signs_before_its_time() {
        let keys = RequestKeys::new(&[key(1, 10, 11), key(2, 20, 21)]).unwrap();
        assert_eq!(keys.signing(DAY_MS).key_id, id(1));
        assert_eq!(published(&keys, DAY_MS), [id(1)]);
        let published = keys.published(DAY_MS);
        assert!((published[0].not_before..=published[0].not_after).contains(&DAY_MS));
    }
}
