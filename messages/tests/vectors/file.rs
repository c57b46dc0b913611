//! The files in `messages/vectors`.

use std::fs;
use std::path::Path;

use serde::Deserialize;

/// A message and its parts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vector {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    #[serde(with = "hex::serde")]
    pub(crate) hex: Vec<u8>,
    pub(crate) fields: Vec<Field>,
}

/// A part of a message: what stands at one place of it, for readers and for programs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Field {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    #[serde(with = "hex::serde")]
    pub(crate) hex: Vec<u8>,
    pub(crate) value: String,
}

/// The bytes that a signature algorithm is given for a vector.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignatureVector {
    pub(crate) name: String,
    pub(crate) of: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) label: String,
    pub(crate) path: Option<String>,
    #[serde(with = "hex::serde")]
    pub(crate) to_be_signed: Vec<u8>,
    #[serde(with = "hex::serde")]
    pub(crate) hex: Vec<u8>,
    pub(crate) fields: Vec<Field>,
}

/// Bytes that must be refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invalid {
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) kind: String,
    pub(crate) why: String,
    #[serde(with = "hex::serde")]
    pub(crate) hex: Vec<u8>,
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors"))
}

/// The vectors of all files but `signatures.json` and `invalid.json`.
pub(crate) fn vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        let other = name == "signatures.json" || name == "invalid.json";
        if !other
            && path
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            vectors.extend(read(&path));
        }
    }
    vectors
}

pub(crate) fn signatures() -> Vec<SignatureVector> {
    read(&directory().join("signatures.json"))
}

pub(crate) fn invalid() -> Vec<Invalid> {
    read(&directory().join("invalid.json"))
}

/// Whether the value that is written next to a field is what its bytes say.
///
/// Of opaque values only people can tell.
pub(crate) fn value_matches(field: &Field) -> bool {
    let number = || field.hex.iter().fold(0_u64, |n, &b| n << 8 | u64::from(b));
    match field.type_name.as_str() {
        "opaque" | "MLSBytes" | "TreeBytes" => !field.value.is_empty(),
        "text" | "ProviderName" | "UserID" | "ClientID" => field.hex == field.value.as_bytes(),
        "uint8" | "uint16" | "uint32" | "uint64" => {
            let bits = field.type_name.trim_start_matches("uint").parse::<usize>();
            let first = field.value.split(' ').next().unwrap_or_default();
            bits == Ok(field.hex.len() * 8) && first.parse() == Ok(number())
        }
        "length" | "inner length" => {
            let length = field.value.parse().unwrap_or(u64::MAX);
            field.hex == header(length, minimal_size(length))
        }
        _ => field.value.ends_with(&format!("({})", number())),
    }
}

/// The fewest bytes that say a length.
pub(crate) fn minimal_size(length: u64) -> usize {
    match length {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// A length in one of the forms of RFC 9000 section 16.
pub(crate) fn header(length: u64, size: usize) -> Vec<u8> {
    let form = match size {
        1 => 0x00,
        2 => 0x40,
        4 => 0x80,
        _ => 0xc0,
    };
    let mut bytes = length.to_be_bytes()[8 - size..].to_vec();
    bytes[0] |= form;
    bytes
}
