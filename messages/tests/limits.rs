//! The limits of `docs/protocol.md` that are too large for a file of vectors.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moh_messages::{
    ApplicationBytes, Endpoint, HandshakeBytes, KeyPackageBytes, Message, MlsBytes, TreeBytes,
};

const KI: usize = 1 << 10;
const MI: usize = 1 << 20;

/// A vector of `length` zero bytes, of which there are enough for a 4-byte header.
fn vector_of(length: usize) -> Vec<u8> {
    let header = u32::try_from(length).unwrap() | 0x8000_0000;
    let mut bytes = header.to_be_bytes().to_vec();
    bytes.resize(bytes.len() + length, 0);
    bytes
}

fn check<T: Message>(what: &str, most: usize) {
    let longest = vector_of(most);
    let value = T::decode(&longest).unwrap_or_else(|e| panic!("{what} of {most} bytes: {e}"));
    assert!(value.encode() == longest, "{what} of {most} bytes");
    let refused = T::decode(&vector_of(most + 1)).is_err();
    assert!(refused, "{what} of {} bytes is taken", most + 1);
}

#[test]
fn mls_messages_and_trees() {
    check::<ApplicationBytes>("an application message", 256 * KI);
    check::<HandshakeBytes>("a handshake message", 2 * MI);
    check::<MlsBytes>("a Welcome", 4 * MI);
    check::<TreeBytes>("a tree", 128 * MI);
    check::<KeyPackageBytes>("a KeyPackage", 16 * KI);
}

#[test]
fn bodies() {
    for endpoint in Endpoint::ALL {
        let most = match endpoint.path() {
            "/group_operation" | "/deliver_message" | "/connection_request" => 8 * MI,
            _ => 64 * KI,
        };
        assert_eq!(endpoint.max_body_bytes(), most, "{}", endpoint.path());
    }
}
