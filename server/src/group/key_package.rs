//! KeyPackages that a client wants to have handed out (RFC 9420 section 10.1).

use moh_messages::{CipherSuite, ClientId, ClientQueueInformation, KeyPackageRef};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, ProtocolVersion};
use tls_codec::DeserializeBytes as _;

use super::leaf::{self, Entering};
use super::{Checks, Undecided};
use crate::change::{KeyPackage, Seat, queue_digest};
use crate::crypto::Crypto;
use crate::error::Refusal;

/// Longer lives than this are not taken: 100 days, in seconds.
pub(super) const MAX_LIFE_SECONDS: u64 = 100 * 24 * 60 * 60;

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Refusal::InvalidKeyPackage(what.to_string())
}

fn read(bytes: &[u8]) -> Result<openmls::prelude::KeyPackage, Refusal> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes);
    let Ok(MlsMessageBodyIn::KeyPackage(key_package)) = message.map(MlsMessageIn::extract) else {
        return Err(invalid("not an MLSMessage with a KeyPackage"));
    };
    key_package
        .validate(&Crypto, ProtocolVersion::Mls10)
        .map_err(invalid)
}

/// The queue in a KeyPackage that was taken before; none where it cannot be read, or is not valid
/// any more.
pub(crate) fn queue_of_key_package(bytes: &[u8]) -> Option<ClientQueueInformation> {
    let key_package = read(bytes).ok()?;
    leaf::queue_config(key_package.leaf_node()).map(|queue| queue.client_queue_information)
}

/// Checks a KeyPackage of `client`, whose attestations have been signed by the key that
/// `checks` knows. `owner_of` tells whose queue is sealed in the leaf. With it comes that queue.
///
/// # Errors
/// `invalid_key_package`, or what is wrong with the leaf.
pub fn check_key_package(
    bytes: &[u8],
    client: &ClientId,
    owner_of: impl Fn(&ClientQueueInformation) -> Option<ClientId>,
    checks: &Checks<'_>,
) -> Result<(KeyPackage, Seat), Refusal> {
    let key_package = read(bytes)?;
    let suite = CipherSuite(key_package.ciphersuite().into());
    let scheme = suite
        .signature_scheme()
        .ok_or_else(|| invalid("the ciphersuite is none of 1, 2 and 3"))?;
    let node = key_package.leaf_node();
    let named = match leaf::check(
        &Entering {
            node,
            replaces: None,
        },
        scheme,
        checks,
    ) {
        Ok(named) => named,
        Err(Undecided::Refused(refusal)) => return Err(refusal),
        Err(Undecided::NeedsKeys(_)) => {
            return Err(Refusal::Unauthenticated(
                "the attestation is of another provider",
            ));
        }
    };
    if named != *client {
        return Err(invalid("the KeyPackage is of another client"));
    }
    let queue = leaf::queue_config(node).map(|queue| queue.client_queue_information);
    let queue = queue.filter(|sealed| owner_of(sealed).as_ref() == Some(client));
    let queue = queue
        .ok_or_else(|| invalid("the queue_config is not one that was made for this client"))?;
    let life = key_package.life_time();
    let now_seconds = checks.now / 1000;
    if !(life.not_before()..life.not_after()).contains(&now_seconds)
        || life.not_after() - life.not_before() > MAX_LIFE_SECONDS
    {
        return Err(invalid(
            "the lifetime is over, has not begun, or is longer than 100 days",
        ));
    }
    let attested_until = leaf::attested_until(node).unwrap_or(0);
    let reference = key_package.hash_ref(&Crypto).map_err(invalid)?;
    let seat = Seat {
        client_id: client.clone(),
        queue: queue_digest(&queue),
    };
    let key_package = KeyPackage {
        reference: KeyPackageRef::new(reference.as_slice()).map_err(invalid)?,
        client_id: client.clone(),
        cipher_suite: suite.0,
        for_connections: leaf::is_for_connections(node),
        last_resort: key_package.last_resort(),
        expires_at: attested_until.min(life.not_after().saturating_mul(1000)),
        bytes: bytes.to_vec(),
    };
    Ok((key_package, seat))
}
