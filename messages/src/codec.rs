//! The presentation language: bounded vectors over `tls_codec`, and whole messages.
//!
//! RFC 8446 section 3 with the variable-size vector headers of RFC 9420 section 2.1.2.
//! A length is written in the fewest bytes, of the 1-, 2- and 4-byte forms only. What does
//! not fit a type's bound cannot be constructed, and is refused when it is decoded, before
//! anything of its size is allocated.

use std::fmt;
use std::io::Write;

use tls_codec::{DeserializeBytes, Error, Serialize, Size};

/// The longest vector that a 4-byte length can announce.
const MAX_VECTOR_BYTES: usize = (1 << 30) - 1;

/// Why bytes are not a message of the type that they were read as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub(crate) String);

impl From<Error> for DecodeError {
    fn from(error: Error) -> Self {
        Self(match error {
            Error::EndOfStream => "ends too early".to_owned(),
            Error::TrailingData => "bytes are left over".to_owned(),
            Error::InvalidVectorLength => "a length is over its limit or not minimal".to_owned(),
            Error::UnknownValue(value) => format!("unknown type {value}"),
            Error::DecodingError(text) => text,
            other => other.to_string(),
        })
    }
}

/// A value is longer than its type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} is outside of the limits {min}..={max}")]
pub struct OutOfBounds {
    /// The length that was refused: bytes of an opaque value, or items of a list.
    pub length: usize,
    /// The least that the type takes.
    pub min: usize,
    /// The most that the type takes.
    pub max: usize,
}

/// A struct that travels whole: in a body, an extension, or under a signature.
pub trait Message: Size + Serialize + DeserializeBytes + Sized {
    /// The bytes of this message.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.tls_serialized_len());
        self.tls_serialize(&mut bytes)
            .expect("bounded types always have an encoding");
        bytes
    }

    /// Reads a message that is exactly `bytes`.
    ///
    /// # Errors
    /// When `bytes` are cut short, have a rest, hold an unknown type, a value over its limit
    /// or a length that is not minimal.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::tls_deserialize_exact_bytes(bytes)?)
    }
}

impl<T: Size + Serialize + DeserializeBytes> Message for T {}

fn length_header(length: usize) -> ([u8; 4], usize) {
    let l = u32::try_from(length).unwrap_or(u32::MAX);
    if l < 1 << 6 {
        ([l.to_be_bytes()[3], 0, 0, 0], 1)
    } else if l < 1 << 14 {
        let [.., a, b] = l.to_be_bytes();
        ([a | 0x40, b, 0, 0], 2)
    } else {
        let [a, b, c, d] = l.to_be_bytes();
        ([a | 0x80, b, c, d], 4)
    }
}

fn write_length<W: Write>(length: usize, writer: &mut W) -> Result<usize, Error> {
    if length > MAX_VECTOR_BYTES {
        return Err(Error::InvalidVectorLength);
    }
    let (header, used) = length_header(length);
    writer.write_all(&header[..used])?;
    Ok(used)
}

fn read_length(bytes: &[u8]) -> Result<(usize, &[u8]), Error> {
    let (&first, _) = bytes.split_first().ok_or(Error::EndOfStream)?;
    let size = match first >> 6 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => return Err(Error::InvalidVectorLength),
    };
    let (header, rest) = bytes.split_at_checked(size).ok_or(Error::EndOfStream)?;
    let value = header.iter().enumerate().fold(0usize, |v, (i, &b)| {
        v << 8 | usize::from(if i == 0 { b & 0x3f } else { b })
    });
    if length_header(value).1 != size {
        return Err(Error::InvalidVectorLength);
    }
    Ok((value, rest))
}

/// `opaque name<V>`: between `MIN` and `MAX` bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opaque<const MAX: usize, const MIN: usize = 0>(Vec<u8>);

impl<const MAX: usize, const MIN: usize> Opaque<MAX, MIN> {
    /// The most bytes that this type holds.
    pub const MAX_BYTES: usize = MAX;

    /// Takes bytes that are within the limits.
    ///
    /// # Errors
    /// When there are fewer than `MIN` or more than `MAX` bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, OutOfBounds> {
        let bytes = bytes.into();
        if bytes.len() < MIN || bytes.len() > MAX {
            return Err(OutOfBounds {
                length: bytes.len(),
                min: MIN,
                max: MAX,
            });
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, owned.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const MAX: usize> Opaque<MAX> {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }
}

impl<const MAX: usize> Default for Opaque<MAX> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<const MAX: usize, const MIN: usize> AsRef<[u8]> for Opaque<MAX, MIN> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize, const MIN: usize> TryFrom<Vec<u8>> for Opaque<MAX, MIN> {
    type Error = OutOfBounds;
    fn try_from(bytes: Vec<u8>) -> Result<Self, OutOfBounds> {
        Self::new(bytes)
    }
}

impl<const MAX: usize, const MIN: usize> fmt::Debug for Opaque<MAX, MIN> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        for byte in self.0.iter().take(SHOWN) {
            write!(f, "{byte:02x}")?;
        }
        if self.0.len() > SHOWN {
            write!(f, "..({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

impl<const MAX: usize, const MIN: usize> Size for Opaque<MAX, MIN> {
    fn tls_serialized_len(&self) -> usize {
        length_header(self.0.len()).1 + self.0.len()
    }
}

impl<const MAX: usize, const MIN: usize> Serialize for Opaque<MAX, MIN> {
    fn tls_serialize<W: Write>(&self, writer: &mut W) -> Result<usize, Error> {
        let header = write_length(self.0.len(), writer)?;
        writer.write_all(&self.0)?;
        Ok(header + self.0.len())
    }
}

impl<const MAX: usize, const MIN: usize> DeserializeBytes for Opaque<MAX, MIN> {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (length, rest) = read_length(bytes)?;
        if !(MIN..=MAX).contains(&length) {
            return Err(Error::InvalidVectorLength);
        }
        let (value, rest) = rest.split_at_checked(length).ok_or(Error::EndOfStream)?;
        Ok((Self(value.to_vec()), rest))
    }
}

/// `T name<V>`: at most `MAX` items.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// The most items that this type holds.
    pub const MAX_ITEMS: usize = MAX;

    /// Takes items that are within the limit.
    ///
    /// # Errors
    /// When there are more than `MAX` items.
    pub fn new(items: Vec<T>) -> Result<Self, OutOfBounds> {
        if items.len() > MAX {
            return Err(OutOfBounds {
                length: items.len(),
                min: 0,
                max: MAX,
            });
        }
        Ok(Self(items))
    }

    /// No items.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// The items, owned.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T, const MAX: usize> std::ops::Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = OutOfBounds;
    fn try_from(items: Vec<T>) -> Result<Self, OutOfBounds> {
        Self::new(items)
    }
}

impl<T, const MAX: usize> IntoIterator for List<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Size, const MAX: usize> List<T, MAX> {
    fn content_bytes(&self) -> usize {
        self.0.iter().map(Size::tls_serialized_len).sum()
    }
}

impl<T: Size, const MAX: usize> Size for List<T, MAX> {
    fn tls_serialized_len(&self) -> usize {
        let content = self.content_bytes();
        length_header(content).1 + content
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn tls_serialize<W: Write>(&self, writer: &mut W) -> Result<usize, Error> {
        let mut written = write_length(self.content_bytes(), writer)?;
        for item in &self.0 {
            written += item.tls_serialize(writer)?;
        }
        Ok(written)
    }
}

impl<T: DeserializeBytes, const MAX: usize> DeserializeBytes for List<T, MAX> {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (length, rest) = read_length(bytes)?;
        let (mut content, rest) = rest.split_at_checked(length).ok_or(Error::EndOfStream)?;
        let mut items = Vec::new();
        while !content.is_empty() {
            if items.len() == MAX {
                return Err(Error::InvalidVectorLength);
            }
            let (item, left) = T::tls_deserialize_bytes(content)?;
            if left.len() == content.len() {
                return Err(Error::DecodingError(
                    "an item of no bytes in a list".to_owned(),
                ));
            }
            items.push(item);
            content = left;
        }
        Ok((Self(items), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_fewest_bytes() {
        for (length, header) in [
            (0, vec![0x00]),
            (63, vec![0x3f]),
            (64, vec![0x40, 0x40]),
            (16_383, vec![0x7f, 0xff]),
            (16_384, vec![0x80, 0x00, 0x40, 0x00]),
            (MAX_VECTOR_BYTES, vec![0xbf, 0xff, 0xff, 0xff]),
        ] {
            let mut written = Vec::new();
            write_length(length, &mut written).unwrap();
            assert_eq!(written, header);
            assert_eq!(read_length(&header).unwrap(), (length, &[][..]));
        }
        assert!(write_length(MAX_VECTOR_BYTES + 1, &mut Vec::new()).is_err());
    }

    #[test]
    fn longer_forms_and_eight_bytes_are_refused() {
        for header in [
            &[0x40, 0x01][..],
            &[0x80, 0, 0, 1],
            &[0x80, 0, 0x3f, 0xff],
            &[0xc0; 8],
        ] {
            assert_eq!(
                read_length(header),
                Err(Error::InvalidVectorLength),
                "{header:02x?}"
            );
        }
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let bytes = [0xbf, 0xff, 0xff, 0xff, 1, 2, 3];
        assert!(Opaque::<8>::decode(&bytes).is_err());
        assert!(Opaque::<MAX_VECTOR_BYTES>::decode(&bytes).is_err());
        assert!(List::<u8, 8>::decode(&bytes).is_err());
    }

    #[test]
    fn bounds_hold_both_ways() {
        assert!(Opaque::<4, 2>::new(vec![1]).is_err());
        assert!(Opaque::<4, 2>::new(vec![1; 5]).is_err());
        assert!(Opaque::<4, 2>::decode(&[1, 7]).is_err());
        assert!(Opaque::<4, 2>::decode(&[5, 1, 2, 3, 4, 5]).is_err());
        assert_eq!(
            Opaque::<4, 2>::decode(&[2, 1, 2]).unwrap().as_slice(),
            [1, 2]
        );
        assert!(List::<u8, 2>::new(vec![1, 2, 3]).is_err());
        assert!(List::<u8, 2>::decode(&[3, 1, 2, 3]).is_err());
    }
}
