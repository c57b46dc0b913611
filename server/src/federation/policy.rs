//! Which providers we talk to, both ways: everybody but those who are blocked, or those who are
//! listed.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use moh_messages::ProviderName;
use serde::Deserialize;

use crate::tls::Trust;

/// What holds for a provider that no list names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// It may talk to us.
    #[default]
    Open,
    /// It may not.
    AllowListed,
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::AllowListed => "allow-listed",
        })
    }
}

/// Providers, by their names: `b.example`, or `*.b.example` for all below it, which `b.example`
/// itself is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum DomainPattern {
    /// This one.
    Exactly(ProviderName),
    /// All below this one, however far.
    Below(ProviderName),
}

/// What is neither a domain nor `*.` and a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a domain in lower case, like b.example, nor like *.b.example")]
pub struct InvalidPattern(String);

impl FromStr for DomainPattern {
    type Err = InvalidPattern;
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let (domain, kind): (_, fn(ProviderName) -> Self) = match text.strip_prefix("*.") {
            Some(domain) => (domain, Self::Below),
            None => (text, Self::Exactly),
        };
        let domain = domain
            .parse()
            .map_err(|_| InvalidPattern(text.to_owned()))?;
        Ok(kind(domain))
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = InvalidPattern;
    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        text.parse()
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(domain) => write!(f, "{domain}"),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// Which providers we talk to. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicy {
    /// What holds for those that no list names.
    pub admission: Admission,
    /// Those that may talk to us; of use where the others may not.
    pub allow: BTreeSet<DomainPattern>,
    /// Those that may not, whatever else is said of them.
    pub block: BTreeSet<DomainPattern>,
}

impl PeerPolicy {
    /// Whether we talk to this provider.
    #[must_use]
    pub fn allows(&self, provider: &ProviderName) -> bool {
        !names(&self.block, provider)
            && (self.admission == Admission::Open || names(&self.allow, provider))
    }
}

fn names(patterns: &BTreeSet<DomainPattern>, provider: &ProviderName) -> bool {
    if patterns.contains(&DomainPattern::Exactly(provider.clone())) {
        return true;
    }
    let mut rest = provider.as_str();
    while let Some((_, above)) = rest.split_once('.') {
        rest = above;
        let above = above.parse().map(DomainPattern::Below);
        if above.is_ok_and(|pattern| patterns.contains(&pattern)) {
            return true;
        }
    }
    false
}

/// What a provider demands of others.
#[derive(Clone, Debug, Default)]
pub struct PeerRules {
    /// Which of them it talks to, at the start.
    pub policy: PeerPolicy,
    /// Where it is set, they show a certificate when they connect, and this says which are trusted.
    pub certificates: Option<Trust>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> BTreeSet<DomainPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn allowed(policy: &PeerPolicy, providers: &[&'static str]) -> Vec<&'static str> {
        let all = providers.iter().copied();
        all.filter(|name| policy.allows(&name.parse().unwrap()))
            .collect()
    }

    const PROVIDERS: [&str; 7] = [
        "b.example",
        "x.b.example",
        "y.x.b.example",
        "xb.example",
        "c.example",
        "example",
        "b.example.org",
    ];

    #[test]
    fn a_wildcard_is_for_all_below_and_not_for_the_domain_itself() {
        let below = PeerPolicy {
            admission: Admission::AllowListed,
            allow: patterns(&["*.b.example"]),
            ..PeerPolicy::default()
        };
        assert_eq!(
            allowed(&below, &PROVIDERS),
            ["x.b.example", "y.x.b.example"]
        );
        let both = PeerPolicy {
            allow: patterns(&["*.b.example", "b.example"]),
            ..below
        };
        let expected = ["b.example", "x.b.example", "y.x.b.example"];
        assert_eq!(allowed(&both, &PROVIDERS), expected);
        let top = PeerPolicy {
            allow: patterns(&["*.example"]),
            ..both
        };
        let expected = [
            "b.example",
            "x.b.example",
            "y.x.b.example",
            "xb.example",
            "c.example",
        ];
        assert_eq!(allowed(&top, &PROVIDERS), expected);
    }

    #[test]
    fn who_is_blocked_is_blocked_whatever_else_is_said() {
        let open = PeerPolicy::default();
        assert_eq!(allowed(&open, &PROVIDERS), PROVIDERS);
        let blocking = PeerPolicy {
            allow: patterns(&["x.b.example", "*.example"]),
            block: patterns(&["*.b.example", "c.example"]),
            ..open
        };
        let expected = ["b.example", "xb.example", "example", "b.example.org"];
        assert_eq!(allowed(&blocking, &PROVIDERS), expected);
        let listed = PeerPolicy {
            admission: Admission::AllowListed,
            ..blocking
        };
        assert_eq!(allowed(&listed, &PROVIDERS), ["b.example", "xb.example"]);
        let nobody = PeerPolicy {
            allow: BTreeSet::new(),
            ..listed
        };
        assert!(allowed(&nobody, &PROVIDERS).is_empty());
    }

    #[test]
    fn patterns_are_domains() {
        for good in ["b.example", "*.b.example", "*.example"] {
            let pattern: DomainPattern = good.parse().unwrap();
            assert_eq!(pattern.to_string(), good);
        }
        for bad in [
            "",
            "*",
            "*.",
            "b.*",
            "*.*.b",
            "*b.example",
            "B.example",
            "192.0.2.1",
            "b.example:8443",
            ".b.example",
            "b.example.",
        ] {
            assert!(bad.parse::<DomainPattern>().is_err(), "{bad}");
        }
    }
}
