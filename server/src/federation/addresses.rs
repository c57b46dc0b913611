//! From hosts to addresses that may be connected to.
//!
//! Other providers' names decide what is looked up here, so an answer may lead anywhere: to this
//! machine, or into its network. A host is looked up once for each connection, what may not be
//! connected to is left out, and the connection goes to one of the others: it is not looked up
//! again in between. No host is an address itself: a `ProviderName` is none, and a DS domain begins
//! with one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::transport::Unreachable;

/// Answers what the DNS is asked.
#[async_trait]
pub trait Dns: Send + Sync + 'static {
    /// All addresses of a host.
    ///
    /// # Errors
    /// When it has none, or nobody answers.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unreachable>;
}

/// The DNS, as the system is configured, with a cache.
pub(super) struct SystemDns(TokioResolver);

impl SystemDns {
    /// Reads the system's configuration.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn new() -> Result<Self, Unreachable> {
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let resolver = resolver.map_err(|error| Unreachable(error.to_string()))?;
        Ok(Self(resolver))
    }
}

#[async_trait]
impl Dns for SystemDns {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unreachable> {
        // With the dot, the system's search list is left out: it would make other names of it.
        let found = self.0.lookup_ip(format!("{host}.")).await;
        let found = found.map_err(|error| Unreachable(error.to_string()))?;
        Ok(found.iter().collect())
    }
}

/// The addresses that connections are made to.
pub(super) struct Addresses {
    pub(super) dns: Arc<dyn Dns>,
    /// Those that the operator says: they are not looked up, and not checked.
    pub(super) given: BTreeMap<String, SocketAddr>,
    pub(super) allow_private: bool,
}

impl Addresses {
    /// Where a host may be connected to; port 0 stands for that of the URL.
    ///
    /// # Errors
    /// When there is no such address.
    async fn of(&self, host: &str) -> Result<Vec<SocketAddr>, Unreachable> {
        if let Some(address) = self.given.get(host) {
            return Ok(vec![*address]);
        }
        let found = self.dns.addresses(host).await?;
        let allowed = |address: &IpAddr| self.allow_private || is_public(*address);
        let allowed: Vec<_> = found
            .into_iter()
            .filter(allowed)
            .map(|address| SocketAddr::new(address, 0))
            .collect();
        match allowed.is_empty() {
            true => Err(Unreachable(format!("{host} has no public address"))),
            false => Ok(allowed),
        }
    }
}

/// reqwest asks for each new connection, and connects to exactly these.
pub(super) struct Resolver(pub(super) Arc<Addresses>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = Arc::clone(&self.0);
        Box::pin(async move {
            let found = addresses.of(name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public Internet: none that IANA's registries of special-purpose
/// addresses have as not globally reachable, none that leads to one of those by translation, and
/// no multicast.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>
fn is_public_v4(v4: Ipv4Addr) -> bool {
    !matches!(
        v4.octets(),
        // This network; private; loopback.
        [0 | 10 | 127, ..]
        // Shared, for CGNAT.
        | [100, 64..=127, ..]
        // Link-local, where clouds tell machines their secrets.
        | [169, 254, ..]
        // Private.
        | [172, 16..=31, ..]
        | [192, 168, ..]
        // For protocols; documentation; relays of 6to4.
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        // Benchmarks.
        | [198, 18 | 19, ..]
        // Documentation.
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        // Multicast; reserved; broadcast.
        | [224..=255, ..]
    )
}

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>
fn is_public_v6(v6: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // v4-mapped.
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        // NAT64 by its well-known prefix. (That of a local one is not public.)
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // For protocols: Teredo, benchmarks, ORCHID and others.
        [0x2001, 0..=0x1ff, ..] => false,
        // Documentation.
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // 6to4.
        [0x2002, ..] => false,
        // All that is not global unicast: unspecified, loopback, v4-compatible, discard-only,
        // unique local, link-local, site-local, segment routing, multicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const PUBLIC: &str = "
        9.9.9.9 1.0.0.0 11.0.0.0 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.0
        169.253.0.1 172.15.0.1 172.32.0.1 192.0.1.1 192.167.0.1 198.17.0.1 198.20.0.1
        223.255.255.255 2620:fe::fe 2001:200::1 2001:4860::1 2003::1 3ffe::1 2000::1
        ::ffff:9.9.9.9 64:ff9b::9.9.9.9
    ";
    const NOT_PUBLIC: &str = "
        0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255
        169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.2.1
        192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
        224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::10.0.0.1 ::9.9.9.9
        ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:0:9.9.9.9 64:ff9b::10.0.0.1
        64:ff9b::127.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::1 64:ff9b:1::9.9.9.9 100::1
        100:0:0:1::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:1ff::1 2001:db8::1
        2002:7f00:1:: 2002:909:909:: 3fff::1 3fff:fff::1 5f00::1 fc00::1 fdff::1 fe80::1
        fec0::1 ff02::1
    ";

    #[test]
    fn only_public_addresses_are_connected_to() {
        for (addresses, expected) in [(PUBLIC, true), (NOT_PUBLIC, false)] {
            for address in addresses.split_whitespace() {
                assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
            }
        }
    }

    /// Answers each question by the next of its answers.
    struct Scripted(Mutex<Vec<Vec<&'static str>>>);

    #[async_trait]
    impl Dns for Scripted {
        async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unreachable> {
            assert_eq!(host, "b.example");
            let answer = self.0.lock().unwrap().remove(0);
            Ok(answer
                .iter()
                .map(|address| address.parse().unwrap())
                .collect())
        }
    }

    fn addresses(answers: &[&[&'static str]]) -> Addresses {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        Addresses {
            dns: Arc::new(Scripted(Mutex::new(answers))),
            given: BTreeMap::new(),
            allow_private: false,
        }
    }

    fn at(addresses: &[&str]) -> Vec<SocketAddr> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        addresses
            .map(|address| SocketAddr::new(address, 0))
            .collect()
    }

    #[tokio::test]
    async fn of_several_addresses_the_private_ones_are_left_out() {
        let mixed = [
            "10.0.0.1",
            "9.9.9.9",
            "::ffff:127.0.0.1",
            "2620:fe::fe",
            "64:ff9b::10.0.0.1",
        ];
        let found = addresses(&[&mixed]).of("b.example").await;
        assert_eq!(found.unwrap(), at(&["9.9.9.9", "2620:fe::fe"]));
        let allowing = Addresses {
            allow_private: true,
            ..addresses(&[&mixed])
        };
        assert_eq!(allowing.of("b.example").await.unwrap(), at(&mixed));
        for private in [
            "127.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::192.168.0.1",
        ] {
            let refused = addresses(&[&[private]]).of("b.example").await.unwrap_err();
            assert!(
                refused.0.contains("no public address"),
                "{private}: {refused}"
            );
        }
        assert!(addresses(&[&[]]).of("b.example").await.is_err());
    }

    /// Who says something else the next time is not believed because of the first time.
    #[tokio::test]
    async fn each_answer_is_checked() {
        let rebinding = addresses(&[&["9.9.9.9"], &["127.0.0.1"], &["9.9.9.9"]]);
        assert_eq!(rebinding.of("b.example").await.unwrap(), at(&["9.9.9.9"]));
        assert!(rebinding.of("b.example").await.is_err());
        assert_eq!(rebinding.of("b.example").await.unwrap(), at(&["9.9.9.9"]));
    }

    #[tokio::test]
    async fn what_the_operator_says_is_not_looked_up() {
        let mut given = addresses(&[]);
        let address: SocketAddr = "127.0.0.1:8443".parse().unwrap();
        given.given.insert("b.example".to_owned(), address);
        assert_eq!(given.of("b.example").await.unwrap(), [address]);
    }
}
