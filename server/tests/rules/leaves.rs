//! What is wrong with a leaf, and with nothing else. It is tried at each of the four ways into a
//! tree: the creation of a group, an Add, an UpdatePath, an external commit.

use moh_messages::{
    Attestation, DsErrorCode, DsProtocolVersion, List, MohLeafNode, Opaque, SignatureScheme,
    extension_type,
};

use crate::clock::DAY_MS;
use crate::device::Device;
use crate::home::home_of;
use crate::parts::{self, Leaf, set};

pub(crate) type Edit = fn(&mut Leaf, &Device);
pub(crate) type Broken = (&'static str, DsErrorCode, Edit);

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const UNAUTHENTICATED: DsErrorCode = DsErrorCode::UNAUTHENTICATED;
const TOO_MUCH: DsErrorCode = DsErrorCode::LIMIT_EXCEEDED;

/// Against the profile.
pub(crate) const CONTENT: [Broken; 6] = [
    ("a credential that names no client", VIOLATION, |leaf, _| {
        leaf.identity = parts::bytes(b"mimi://b.example/u/bob".to_vec());
    }),
    ("no queue_config", VIOLATION, |leaf, _| {
        leaf.without(extension_type::QUEUE_CONFIG);
    }),
    ("a queue_config that is none", VIOLATION, |leaf, _| {
        let number = extension_type::QUEUE_CONFIG;
        set(&mut leaf.extensions, number, Some(vec![1, 2, 3]));
    }),
    ("a queue at another provider", VIOLATION, |leaf, device| {
        let mut queue = device.says().queue;
        queue.provider = "d.example".parse().unwrap();
        leaf.set(extension_type::QUEUE_CONFIG, &queue);
    }),
    ("no moh", VIOLATION, |leaf, _| {
        leaf.without(extension_type::MOH);
    }),
    ("moh with other versions", VIOLATION, |leaf, _| {
        let versions = List::new(vec![DsProtocolVersion(2)]).unwrap();
        leaf.set(extension_type::MOH, &MohLeafNode { versions });
    }),
];

fn attest(leaf: &mut Leaf, device: &Device, change: impl FnOnce(&mut Attestation)) {
    let mut attestation = leaf.attestation();
    change(&mut attestation);
    let attestation = device.home.sign(attestation);
    leaf.set(extension_type::ATTESTATION, &attestation);
}

/// No word of the provider that the key is this client's.
pub(crate) const ATTESTATION: [Broken; 11] = [
    ("none", UNAUTHENTICATED, |leaf, _| {
        leaf.without(extension_type::ATTESTATION);
    }),
    ("one that does not decode", UNAUTHENTICATED, |leaf, _| {
        let number = extension_type::ATTESTATION;
        set(&mut leaf.extensions, number, Some(vec![1, 2, 3]));
    }),
    ("one that has expired", UNAUTHENTICATED, |leaf, device| {
        attest(leaf, device, |a| {
            a.not_before = device.home.now_ms() - 50 * DAY_MS;
            a.not_after = device.home.now_ms() - 1;
        });
    }),
    (
        "one that is not valid yet",
        UNAUTHENTICATED,
        |leaf, device| {
            attest(leaf, device, |a| a.not_before = device.home.now_ms() + 1);
        },
    ),
    (
        "one for more than 90 days",
        UNAUTHENTICATED,
        |leaf, device| {
            attest(leaf, device, |a| {
                a.not_after = a.not_before + 90 * DAY_MS + 1
            });
        },
    ),
    ("one for another key", UNAUTHENTICATED, |leaf, device| {
        attest(leaf, device, |a| {
            let mut key = a.signature_key.as_slice().to_vec();
            key[3] ^= 1;
            a.signature_key = Opaque::new(key).unwrap();
        });
    }),
    ("one for another scheme", UNAUTHENTICATED, |leaf, device| {
        attest(leaf, device, |a| {
            a.scheme = match a.scheme {
                SignatureScheme::ED25519 => SignatureScheme::ECDSA_SECP256R1_SHA256,
                _ => SignatureScheme::ED25519,
            };
        });
    }),
    ("one for another client", UNAUTHENTICATED, |leaf, device| {
        let other = format!("{}x", device.id).parse().unwrap();
        attest(leaf, device, |a| a.client_id = other);
    }),
    (
        "one by a key that the provider does not have",
        UNAUTHENTICATED,
        |leaf, device| attest(leaf, device, |a| a.key_id = Opaque::new([3; 32]).unwrap()),
    ),
    ("one by another provider", UNAUTHENTICATED, |leaf, _| {
        let attestation = home_of("e.example").sign(leaf.attestation());
        leaf.set(extension_type::ATTESTATION, &attestation);
    }),
    ("one that was changed", UNAUTHENTICATED, |leaf, _| {
        let mut attestation = leaf.attestation();
        attestation.not_after -= 1;
        leaf.set(extension_type::ATTESTATION, &attestation);
    }),
];

/// Too much of it.
const EXTENSIONS: Broken = ("17 extensions", TOO_MUCH, |leaf, _| {
    more(leaf, 17 - leaf.extensions.len(), 0);
});
const BYTES: Broken = ("more than 4 KiB", TOO_MUCH, |leaf, _| {
    more(leaf, 1, 4000);
});

fn more(leaf: &mut Leaf, extensions: usize, length: usize) {
    let numbers: Vec<u16> = (0xF500..).take(extensions).collect();
    let types = [&leaf.extension_types[..], &numbers].concat();
    leaf.extension_types = List::new(types).unwrap();
    for number in numbers {
        set(&mut leaf.extensions, number, Some(vec![0; length]));
    }
}

/// Against RFC 9420 section 7.3: the code is that of where the leaf is.
pub(crate) const INVALID: [(&str, Edit); 9] = [
    ("no capability moh", |leaf, _| incapable(leaf, 0)),
    ("no capability queue_config", |leaf, _| incapable(leaf, 1)),
    ("no capability attestation", |leaf, _| incapable(leaf, 2)),
    ("no capability connection_key_package", |leaf, _| {
        incapable(leaf, 3);
    }),
    ("no capability rbac", |leaf, _| incapable(leaf, 4)),
    ("not capable of MLS 1.0", |leaf, _| {
        leaf.versions = List::new(vec![2]).unwrap();
    }),
    ("not capable of the ciphersuite", |leaf, _| {
        leaf.cipher_suites = List::new(vec![2]).unwrap();
    }),
    ("not capable of its own credential", |leaf, _| {
        leaf.credential_types = List::new(vec![2]).unwrap();
    }),
    ("an extension that it is not capable of", |leaf, _| {
        set(&mut leaf.extensions, 0xF4FF, Some(vec![1]));
    }),
];

fn incapable(leaf: &mut Leaf, missing: usize) {
    let missing = extension_type::ALL[missing];
    // Where the extension itself is not there, its capability is all that is missing.
    let types = leaf.extension_types.iter().copied();
    leaf.extension_types = List::new(types.filter(|t| *t != missing).collect()).unwrap();
}

/// All that the profile refuses by a code of its own.
pub(crate) fn broken() -> impl Iterator<Item = Broken> {
    broken_at_creation().chain([BYTES])
}

/// The same, but for what does not fit into the request there.
pub(crate) fn broken_at_creation() -> impl Iterator<Item = Broken> {
    CONTENT.into_iter().chain(ATTESTATION).chain([EXTENSIONS])
}
