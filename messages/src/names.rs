//! Providers, users and clients, by name (wire profile, sections 1 and 3).

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use tls_codec::{DeserializeBytes, Error, Serialize, Size};

use crate::codec::Opaque;

/// The longest identifier, in bytes (section 11).
pub const MAX_IDENTIFIER_BYTES: usize = 512;

/// A string is not a name of the kind that it was read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a domain in lower-case ASCII without a trailing dot, or an IP address.
    #[error("not a provider name: a domain in lower-case ASCII, at most 253 bytes, no IP address")]
    Provider,
    /// Not `mimi://DOMAIN/u/USER`.
    #[error("not a user: mimi://DOMAIN/u/USER, where USER matches [a-z0-9][a-z0-9._~-]{{0,63}}")]
    User,
    /// Not `mimi://DOMAIN/d/USER/DEVICE`.
    #[error(
        "not a client: mimi://DOMAIN/d/USER/DEVICE, where USER and DEVICE match \
         [a-z0-9][a-z0-9._~-]{{0,63}}"
    )]
    Client,
}

/// ```text
/// opaque ProviderName<V>;
/// ```
/// The domain of a provider: lower-case ASCII (A-labels), no trailing dot, no IP literal,
/// at most 253 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderName(String);

/// ```text
/// opaque UserID<V>;
/// ```
/// A user, as the URI `mimi://DOMAIN/u/USER`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(String);

/// ```text
/// opaque ClientID<V>;
/// ```
/// A client of a user, as the URI `mimi://DOMAIN/d/USER/DEVICE`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(String);

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    // A number as the last label would make it an IPv4 address to URL parsers.
    let last = text.rsplit('.').next().unwrap_or(text);
    let digits = last.strip_prefix("0x").unwrap_or(last);
    let radix = if digits.len() == last.len() { 10 } else { 16 };
    let is_number = digits.chars().all(|c| c.is_digit(radix));
    text.len() <= 253 && text.split('.').all(label) && !is_number
}

fn is_local_part(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=64).contains(&text.len())
        && text.bytes().next().is_some_and(first)
        && text
            .bytes()
            .all(|b| first(b) || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

/// The domain and what follows `/KIND/` in `mimi://DOMAIN/KIND/...`.
fn split_uri<'a>(text: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let (domain, path) = text.strip_prefix("mimi://")?.split_once('/')?;
    let rest = path.strip_prefix(kind)?.strip_prefix('/')?;
    is_domain(domain).then_some((domain, rest))
}

impl UserId {
    /// The user `user` of `provider`.
    ///
    /// # Errors
    /// When `user` does not match `[a-z0-9][a-z0-9._~-]{0,63}`.
    pub fn new(provider: &ProviderName, user: &str) -> Result<Self, InvalidName> {
        format!("mimi://{provider}/u/{user}").parse()
    }

    /// The provider of this user.
    #[must_use]
    pub fn provider(&self) -> ProviderName {
        ProviderName(self.parts().0.to_owned())
    }

    /// The name of this user at the provider.
    #[must_use]
    pub fn user(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        split_uri(&self.0, "u").expect("checked when made")
    }
}

impl ClientId {
    /// The client `device` of `user`.
    ///
    /// # Errors
    /// When `device` does not match `[a-z0-9][a-z0-9._~-]{0,63}`.
    pub fn new(user: &UserId, device: &str) -> Result<Self, InvalidName> {
        let (domain, name) = user.parts();
        format!("mimi://{domain}/d/{name}/{device}").parse()
    }

    /// The provider of this client.
    #[must_use]
    pub fn provider(&self) -> ProviderName {
        ProviderName(self.parts().0.to_owned())
    }

    /// The user whose client this is.
    #[must_use]
    pub fn user_id(&self) -> UserId {
        let (domain, user, _) = self.parts();
        UserId(format!("mimi://{domain}/u/{user}"))
    }

    /// The name of this client among the clients of its user.
    #[must_use]
    pub fn device(&self) -> &str {
        self.parts().2
    }

    fn parts(&self) -> (&str, &str, &str) {
        let (domain, rest) = split_uri(&self.0, "d").expect("checked when made");
        let (user, device) = rest.split_once('/').expect("checked when made");
        (domain, user, device)
    }
}

impl FromStr for ProviderName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        is_domain(text)
            .then(|| Self(text.to_owned()))
            .ok_or(InvalidName::Provider)
    }
}

impl FromStr for UserId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = split_uri(text, "u").is_some_and(|(_, user)| is_local_part(user));
        (valid && text.len() <= MAX_IDENTIFIER_BYTES)
            .then(|| Self(text.to_owned()))
            .ok_or(InvalidName::User)
    }
}

impl FromStr for ClientId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = split_uri(text, "d")
            .and_then(|(_, rest)| rest.split_once('/'))
            .is_some_and(|(user, device)| is_local_part(user) && is_local_part(device));
        (valid && text.len() <= MAX_IDENTIFIER_BYTES)
            .then(|| Self(text.to_owned()))
            .ok_or(InvalidName::Client)
    }
}

macro_rules! name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Size for $name {
            fn tls_serialized_len(&self) -> usize {
                let length = self.0.len();
                length + if length < 64 { 1 } else { 2 }
            }
        }

        impl Serialize for $name {
            fn tls_serialize<W: Write>(&self, writer: &mut W) -> Result<usize, Error> {
                Opaque::<MAX_IDENTIFIER_BYTES>::new(self.0.as_bytes())
                    .map_err(|_| Error::InvalidVectorLength)?
                    .tls_serialize(writer)
            }
        }

        impl DeserializeBytes for $name {
            fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
                let (value, rest) = Opaque::<MAX_IDENTIFIER_BYTES>::tls_deserialize_bytes(bytes)?;
                let name = std::str::from_utf8(value.as_slice())
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| {
                        Error::DecodingError(concat!("not a valid ", stringify!($name)).to_owned())
                    })?;
                Ok((name, rest))
            }
        }
    };
}

name!(ProviderName);
name!(UserId);
name!(ClientId);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Message;

    #[test]
    fn provider_names() {
        for good in ["a.example", "xn--bcher-kva.example", "localhost", "1.a"] {
            assert_eq!(good.parse::<ProviderName>().unwrap().as_str(), good);
        }
        let long = format!("{}.example", "a.".repeat(130));
        for bad in [
            "",
            "A.example",
            "a.example.",
            ".a",
            "a..b",
            "-a.b",
            "a-.b",
            "127.0.0.1",
            "0x7f000001",
            "a.0x1",
            "a.0x",
            "a.12",
            "[::1]",
            "a b",
            "a_b.c",
            "bücher.example",
            "a.example:443",
            &long,
        ] {
            assert_eq!(
                bad.parse::<ProviderName>(),
                Err(InvalidName::Provider),
                "{bad}"
            );
        }
    }

    #[test]
    fn users_and_clients() {
        let user: UserId = "mimi://a.example/u/alice".parse().unwrap();
        let client = ClientId::new(&user, "phone-1").unwrap();
        assert_eq!(client.as_str(), "mimi://a.example/d/alice/phone-1");
        assert_eq!(client.user_id(), user);
        assert_eq!(client.provider().as_str(), "a.example");
        assert_eq!((user.user(), client.device()), ("alice", "phone-1"));
        for bad in [
            "mimi://a.example/u/",
            "mimi://a.example/u/Alice",
            "mimi://a.example/u/.a",
            "mimi://a.example/d/alice",
            "mimi://A/u/alice",
            "http://a.example/u/alice",
            "mimi://a.example/u/alice/x",
            "mimi:///u/alice",
        ] {
            assert_eq!(bad.parse::<UserId>(), Err(InvalidName::User), "{bad}");
        }
        for bad in ["mimi://a.example/d/alice/", "mimi://a.example/d/alice/a/b"] {
            assert_eq!(bad.parse::<ClientId>(), Err(InvalidName::Client), "{bad}");
        }
    }

    #[test]
    fn what_is_no_name_does_not_decode() {
        let bytes = Opaque::<64>::new(&b"A.example"[..]).unwrap().encode();
        assert!(ProviderName::decode(&bytes).is_err());
        let bytes = Opaque::<64>::new(&[0xff, 0xfe][..]).unwrap().encode();
        assert!(ProviderName::decode(&bytes).is_err());
    }
}
