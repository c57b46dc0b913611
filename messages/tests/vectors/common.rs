//! The values that the vectors have in common.

use std::fmt::Debug;

use moh_messages::{
    ClientId, ClientQueueInformation, DsProtocolVersion, Extension, GroupUpdate, KeyId, List,
    Message, MlsGroupUpdate, Nonce, Opaque, PartialGroupInfo, ProviderAuth, ProviderName,
    PublicKey, Signature, SignatureScheme, SignedLast, UserId, VerificationKey,
};
use sha2::Digest;

/// 2026-09-21T14:13:20Z.
pub(crate) const NOW: u64 = 1_790_000_000_000;
pub(crate) const DAY: u64 = 24 * 60 * 60 * 1000;
pub(crate) const MOH1: DsProtocolVersion = DsProtocolVersion(1);

// Stand-ins for MLSMessages: version mls10, wire format, and bytes that mean nothing.
pub(crate) const COMMIT: &[u8] = &[0, 1, 0, 1, 0xc0, 0xc1, 0xc2];
pub(crate) const PROPOSAL: &[u8] = &[0, 1, 0, 1, 0xb0, 0xb1];
pub(crate) const APPLICATION: &[u8] = &[0, 1, 0, 2, 0xa0, 0xa1, 0xa2, 0xa3];
pub(crate) const WELCOME: &[u8] = &[0, 1, 0, 3, 0xe0, 0xe1];
pub(crate) const GROUP_INFO: &[u8] = &[0, 1, 0, 4, 0xd0, 0xd1];
pub(crate) const KEY_PACKAGE: &[u8] = &[0, 1, 0, 5, 0xf0, 0xf1];

/// What a test does with a value, whatever its type.
pub(crate) trait Subject {
    fn encoded(&self) -> Vec<u8>;
    /// Whether `bytes` decode to this very value; otherwise what happened instead.
    fn is_decoded_from(&self, bytes: &[u8]) -> Result<(), String>;
    /// Why `bytes` do not decode as this value's type; nothing where they do.
    fn refusal(&self, bytes: &[u8]) -> Option<String>;
}

impl<T: Message + PartialEq + Debug> Subject for T {
    fn encoded(&self) -> Vec<u8> {
        self.encode()
    }

    fn is_decoded_from(&self, bytes: &[u8]) -> Result<(), String> {
        match T::decode(bytes) {
            Ok(value) if value == *self => Ok(()),
            Ok(value) => Err(format!("decodes to {value:?} instead of {self:?}")),
            Err(error) => Err(format!("is refused: {error}")),
        }
    }

    fn refusal(&self, bytes: &[u8]) -> Option<String> {
        T::decode(bytes).err().map(|error| error.to_string())
    }
}

/// A value, and the vector that has to hold it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) type_name: &'static str,
    pub(crate) value: Box<dyn Subject>,
}

pub(crate) fn case(
    name: impl Into<String>,
    type_name: &'static str,
    value: impl Message + PartialEq + Debug + 'static,
) -> Case {
    Case {
        name: name.into(),
        type_name,
        value: Box::new(value),
    }
}

/// What is signed in a vector, and how.
pub(crate) struct SignatureCase {
    pub(crate) of: &'static str,
    pub(crate) label: &'static str,
    pub(crate) path: Option<&'static str>,
    pub(crate) to_be_signed: Vec<u8>,
    pub(crate) to_be_signed_of_encoded: Vec<u8>,
}

pub(crate) fn signed(
    of: &'static str,
    label: &'static str,
    path: Option<&'static str>,
    value: &impl SignedLast,
) -> SignatureCase {
    SignatureCase {
        of,
        label,
        path,
        to_be_signed: value.to_be_signed(),
        to_be_signed_of_encoded: value.to_be_signed_of(&value.encode()),
    }
}

pub(crate) fn provider(text: &str) -> ProviderName {
    text.parse().unwrap()
}

pub(crate) fn a() -> ProviderName {
    provider("a.example")
}

pub(crate) fn b() -> ProviderName {
    provider("b.example")
}

pub(crate) fn alice() -> UserId {
    UserId::new(&a(), "alice").unwrap()
}

pub(crate) fn bob() -> UserId {
    UserId::new(&b(), "bob").unwrap()
}

pub(crate) fn phone() -> ClientId {
    ClientId::new(&alice(), "phone").unwrap()
}

pub(crate) fn laptop() -> ClientId {
    ClientId::new(&bob(), "laptop").unwrap()
}

pub(crate) fn desk() -> ClientId {
    ClientId::new(&bob(), "desk").unwrap()
}

pub(crate) fn opaque<const MAX: usize, const MIN: usize>(
    bytes: impl Into<Vec<u8>>,
) -> Opaque<MAX, MIN> {
    Opaque::new(bytes).unwrap()
}

pub(crate) fn list<T, const MAX: usize>(items: impl Into<Vec<T>>) -> List<T, MAX> {
    List::new(items.into()).unwrap()
}

pub(crate) fn ed25519_key() -> PublicKey {
    opaque((32..64).collect::<Vec<u8>>())
}

pub(crate) fn p256_key() -> PublicKey {
    opaque([&[4][..], &[0x41; 32], &[0x42; 32]].concat())
}

pub(crate) fn key_id(key: &PublicKey) -> KeyId {
    opaque(sha2::Sha256::digest(key.as_slice()).to_vec())
}

pub(crate) fn ed25519_signature() -> Signature {
    opaque([0x51; 64])
}

/// Of the form that DER gives to an ECDSA signature.
pub(crate) fn ecdsa_signature() -> Signature {
    let r = [&[0x02, 33, 0][..], &[0xa1; 32]].concat();
    let s = [&[0x02, 32][..], &[0x22; 32]].concat();
    opaque([&[0x30, 69][..], &r, &s].concat())
}

pub(crate) fn nonce() -> Nonce {
    opaque((0..16).collect::<Vec<u8>>())
}

pub(crate) fn provider_auth() -> ProviderAuth {
    ProviderAuth {
        timestamp: NOW,
        nonce: nonce(),
        key_id: key_id(&ed25519_key()),
        signature: ed25519_signature(),
    }
}

pub(crate) fn verification_key(scheme: SignatureScheme) -> VerificationKey {
    let public_key = match scheme {
        SignatureScheme::ED25519 => ed25519_key(),
        _ => p256_key(),
    };
    VerificationKey {
        key_id: key_id(&public_key),
        scheme,
        public_key,
        not_before: NOW,
        not_after: NOW + 8 * DAY,
    }
}

pub(crate) fn client_queue_information(byte: u8) -> ClientQueueInformation {
    opaque([byte; 20])
}

pub(crate) fn external_pub() -> Extension {
    Extension {
        extension_type: 4,
        extension_data: opaque([&[32][..], &[0x33; 32]].concat()),
    }
}

pub(crate) fn partial_group_info() -> PartialGroupInfo {
    PartialGroupInfo {
        group_info_extensions: list([external_pub()]),
        signature: ed25519_signature(),
    }
}

pub(crate) fn group_update() -> GroupUpdate {
    GroupUpdate {
        group_update: MlsGroupUpdate {
            commit: opaque(COMMIT),
            partial_group_info: partial_group_info(),
        },
    }
}

/// A domain of 253 bytes.
pub(crate) fn longest_domain() -> String {
    format!("{}xyz", format!("{}.", "x".repeat(49)).repeat(5))
}
