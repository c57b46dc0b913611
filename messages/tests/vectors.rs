//! The vectors in `messages/vectors`, against values that are made here.
//!
//! Other implementations can use the same files; their README.md says how to read them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod vectors {
    pub(crate) mod client_api;
    pub(crate) mod common;
    pub(crate) mod delivery;
    pub(crate) mod file;
    pub(crate) mod identity;
    pub(crate) mod key_packages;
    pub(crate) mod keys;
    pub(crate) mod names;
    pub(crate) mod protocol;
    pub(crate) mod request;
    pub(crate) mod response;
    pub(crate) mod types;
}

use std::collections::{BTreeMap, BTreeSet};

use moh_messages::{provider_sign_content, sign_content};
use vectors::common::{Case, SignatureCase};
use vectors::file::{Field, Vector, header, minimal_size, value_matches};
use vectors::types::{NOT_DECODED, NOT_STRUCTS, TYPES, decoder};
use vectors::*;

fn cases() -> Vec<Case> {
    let mut cases = names::cases();
    cases.extend(keys::cases());
    cases.extend(request::cases());
    cases.extend(response::cases());
    cases.extend(delivery::cases());
    cases.extend(identity::cases());
    cases.extend(key_packages::cases());
    cases.extend(client_api::cases());
    cases
}

fn signature_cases() -> Vec<SignatureCase> {
    let mut cases = request::signatures();
    cases.extend(delivery::signatures());
    cases.extend(identity::signatures());
    cases.extend(key_packages::signatures());
    cases.extend(client_api::signatures());
    cases
}

/// Each vector with the value that it has to hold.
fn pairs() -> Vec<(Vector, Case)> {
    let mut cases = BTreeMap::new();
    for case in self::cases() {
        let name = case.name.clone();
        let before = cases.insert(name, case);
        assert!(before.is_none(), "{}: a value twice", before.unwrap().name);
    }
    let mut pairs = Vec::new();
    for vector in file::vectors() {
        let name = &vector.name;
        let case = cases
            .remove(name)
            .unwrap_or_else(|| panic!("{name}: a vector twice, or without a value in the tests"));
        assert_eq!(vector.type_name, case.type_name, "{name}: type");
        pairs.push((vector, case));
    }
    let left: Vec<_> = cases.keys().collect();
    assert!(left.is_empty(), "values without a vector: {left:?}");
    pairs
}

fn check_fields(name: &str, fields: &[Field], whole: &[u8]) {
    let mut at = 0;
    for field in fields {
        let rest = &whole[at..];
        assert!(
            rest.starts_with(&field.hex),
            "{name}: {} at byte {at} is {}, the whole has {}",
            field.name,
            hex::encode(&field.hex),
            hex::encode(&rest[..rest.len().min(field.hex.len())]),
        );
        assert!(
            value_matches(field),
            "{name}: {} is {} and cannot be {}",
            field.name,
            hex::encode(&field.hex),
            field.value,
        );
        at += field.hex.len();
    }
    assert_eq!(at, whole.len(), "{name}: fields end before the whole");
}

/// The field in which two encodings differ first.
fn first_difference<'a>(vector: &'a Vector, encoded: &[u8]) -> &'a str {
    let mut at = 0;
    for field in &vector.fields {
        let end = at + field.hex.len();
        if encoded.get(at..end) != Some(&field.hex) {
            return &field.name;
        }
        at = end;
    }
    "(what follows the last field)"
}

#[test]
fn vectors_are_what_their_fields_say() {
    for (vector, _) in pairs() {
        check_fields(&vector.name, &vector.fields, &vector.hex);
    }
}

#[test]
fn values_encode_to_vectors() {
    for (vector, case) in pairs() {
        let encoded = case.value.encoded();
        assert!(
            encoded == vector.hex,
            "{}: differs first in {}: encoded as {}",
            vector.name,
            first_difference(&vector, &encoded),
            hex::encode(&encoded),
        );
    }
}

#[test]
fn vectors_decode_to_values() {
    for (vector, case) in pairs() {
        if let Err(what) = case.value.is_decoded_from(&vector.hex) {
            panic!("{}: {what}", vector.name);
        }
        if let Err(error) = decoder(&vector.type_name)(&vector.hex) {
            panic!("{}: not a {}: {error}", vector.name, vector.type_name);
        }
    }
}

#[test]
fn what_is_cut_short_or_too_long_is_refused() {
    for (vector, case) in pairs() {
        for end in 0..vector.hex.len() {
            assert!(
                case.value.refusal(&vector.hex[..end]).is_some(),
                "{}: its first {end} bytes are taken",
                vector.name
            );
        }
        for trailing in [0, 1, 0xff] {
            let longer = [&vector.hex[..], &[trailing]].concat();
            assert!(
                case.value.refusal(&longer).is_some(),
                "{}: {trailing:02x} after its end is taken",
                vector.name
            );
        }
    }
}

/// The vector with the length at `rewritten` in a form of `size` bytes, and every length
/// around it grown accordingly.
fn with_longer_length(vector: &Vector, rewritten: usize, size: usize) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = vector.fields.iter().map(|f| f.hex.clone()).collect();
    let length = |i: usize| vector.fields[i].value.parse::<u64>().unwrap();
    parts[rewritten] = header(length(rewritten), size);
    let mut growth = size - vector.fields[rewritten].hex.len();
    for i in (0..rewritten).rev() {
        if vector.fields[i].type_name != "length" {
            continue;
        }
        let between = &vector.fields[i + 1..rewritten];
        let distance: usize = between.iter().map(|f| f.hex.len()).sum();
        if u64::try_from(distance).unwrap() >= length(i) {
            continue; // It ends before.
        }
        let grown = length(i) + u64::try_from(growth).unwrap();
        parts[i] = header(grown, minimal_size(grown));
        growth += parts[i].len() - vector.fields[i].hex.len();
    }
    parts.concat()
}

#[test]
fn lengths_that_are_not_minimal_are_refused() {
    let mut seen = BTreeSet::new();
    for (vector, case) in pairs() {
        for (i, field) in vector.fields.iter().enumerate() {
            if field.type_name != "length" {
                continue;
            }
            for size in [2, 4, 8].into_iter().filter(|&s| s > field.hex.len()) {
                let refusal = case.value.refusal(&with_longer_length(&vector, i, size));
                assert_eq!(
                    refusal.as_deref(),
                    Some("a length is over its limit or not minimal"),
                    "{}: {} in {size} bytes",
                    vector.name,
                    field.name,
                );
                seen.insert((field.hex.len(), size));
            }
        }
    }
    let all = [(1, 2), (1, 4), (1, 8), (2, 4), (2, 8), (4, 8)];
    assert_eq!(seen, BTreeSet::from(all), "forms of lengths that are tried");
}

#[test]
fn invalid_bytes_are_refused() {
    let mut kinds = BTreeSet::new();
    for invalid in file::invalid() {
        let shown = format!("{}, {}", invalid.type_name, invalid.why);
        let error = decoder(&invalid.type_name)(&invalid.hex)
            .err()
            .unwrap_or_else(|| panic!("{shown}: is taken"))
            .to_string();
        let expected: &[&str] = match invalid.kind.as_str() {
            "discriminant" => &["unknown type"],
            "presence" => &["Trying to decode Option"],
            "length" | "limit" => &["a length is over its limit or not minimal"],
            "name" => &["not a valid"],
            "trailing" => &["bytes are left over"],
            "truncated" => &["ends too early"],
            other => panic!("{shown}: unknown kind {other}"),
        };
        assert!(
            expected.iter().any(|text| error.contains(text)),
            "{shown}: refused for another reason: {error}"
        );
        kinds.insert(invalid.kind);
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

#[test]
fn signatures_are_over_these_bytes() {
    let mut cases: BTreeMap<_, _> = signature_cases().into_iter().map(|c| (c.of, c)).collect();
    let signed = pairs();
    for vector in file::signatures() {
        let name = &vector.name;
        check_fields(name, &vector.fields, &vector.hex);
        let case = cases
            .remove(vector.of.as_str())
            .unwrap_or_else(|| panic!("{name}: no value in the tests"));
        let of = signed.iter().find(|(v, _)| v.name == vector.of);
        let of = &of
            .unwrap_or_else(|| panic!("{name}: no vector {}", vector.of))
            .0;
        assert_eq!(of.type_name, vector.type_name, "{name}: type");
        assert_eq!(case.label, vector.label, "{name}: label");
        assert_eq!(case.path, vector.path.as_deref(), "{name}: path");
        let expected = hex::encode(&vector.to_be_signed);
        assert_eq!(hex::encode(&case.to_be_signed), expected, "{name}");
        assert_eq!(
            hex::encode(&case.to_be_signed_of_encoded),
            expected,
            "{name}"
        );
        let content = match case.path {
            Some(path) => provider_sign_content(path, &case.to_be_signed),
            None => sign_content(case.label, &case.to_be_signed),
        };
        assert_eq!(hex::encode(content), hex::encode(&vector.hex), "{name}");
    }
    assert!(cases.is_empty(), "not in the file: {:?}", cases.keys());
}

#[test]
fn every_type_has_a_vector() {
    let vectors = file::vectors();
    for (type_name, _) in TYPES {
        assert!(
            vectors.iter().any(|v| v.type_name == *type_name),
            "{type_name} has no vector"
        );
    }
    let declared = protocol::declarations();
    for name in &declared.structs {
        assert!(
            NOT_DECODED.contains(&name.as_str()) || TYPES.iter().any(|(t, _)| t == name),
            "{name} is in docs/protocol.md and not in TYPES"
        );
    }
    for (type_name, _) in TYPES {
        let is_enum = declared.values.iter().any(|(name, ..)| name == type_name);
        assert!(
            is_enum
                || NOT_STRUCTS.contains(type_name)
                || declared.structs.contains(&(*type_name).to_owned()),
            "{type_name} is in TYPES and not in docs/protocol.md"
        );
    }
}

#[test]
fn every_value_of_an_enum_is_in_a_vector() {
    let vectors = file::vectors();
    let mut written = BTreeSet::new();
    for field in vectors.iter().flat_map(|v| &v.fields) {
        written.insert((field.type_name.clone(), field.value.clone()));
    }
    for (enum_name, value_name, number) in protocol::declarations().values {
        assert!(
            written.contains(&(enum_name.clone(), format!("{value_name}({number})"))),
            "{enum_name} {value_name}({number}) is in docs/protocol.md and in no vector"
        );
    }
}
