//! The limits of `docs/protocol.md` that are too large for a file of vectors.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moh_messages::client_api::{ClientResponse, UploadKeyPackages};
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

/// `before`, and then a list of as many `item`s as there may be; and of one more.
fn check_list<T: Message>(what: &str, before: &[u8], item: &[u8], most: usize) {
    let of = |count: usize| {
        let items = item.repeat(count);
        let length = u16::try_from(items.len()).unwrap() | 0x4000;
        [before, &length.to_be_bytes(), &items].concat()
    };
    let longest = of(most);
    let value = T::decode(&longest).unwrap_or_else(|e| panic!("{most} {what}: {e}"));
    assert!(value.encode() == longest, "{most} {what}");
    assert!(T::decode(&of(most + 1)).is_err(), "{} {what}", most + 1);
}

#[test]
fn lists_of_the_client_api() {
    let peer = b"\x10mimi://a.b/u/bob";
    let client = [&b"\x12mimi://a.b/d/bob/d"[..], &[8, 7, 0], &[0; 16]].concat();
    let connection = [&peer[..], &[1], &[0; 8]].concat();
    let item = [&[0; 9][..], b"\x03a.b", b"\x00\x00"].concat();
    check_list::<UploadKeyPackages>("KeyPackages", b"\x00", b"\x01x", 256);
    check_list::<ClientResponse>("queue configs", b"\x00\x01\x02", b"\x03a.b\x00", 255);
    check_list::<ClientResponse>("items", b"\x00\x01\x03", &item, 256);
    check_list::<ClientResponse>("clients", b"\x00\x01\x05", &client, 256);
    check_list::<ClientResponse>("connections", b"\x00\x01\x06", &connection, 256);
    check_list::<ClientResponse>("blocks", b"\x00\x01\x07", b"\x01\x03a.b", 256);
}
