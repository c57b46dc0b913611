//! What of a configuration can be changed while the provider runs.

use std::path::PathBuf;

use super::{Config, FederationConfig, StartError};
use crate::node::Node;

/// The configuration that a provider runs with, and the file that it is from.
#[derive(Debug)]
pub struct Reload {
    path: PathBuf,
    running: Config,
}

/// What became of reading the file again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether it says now that other providers may be talked to; that holds from now on.
    pub policy_changed: bool,
    /// Settings that it says otherwise than at the start, and that hold from the next start.
    pub need_restart: Vec<&'static str>,
}

impl Reload {
    /// The provider runs with `running`, which was read from `path`.
    #[must_use]
    pub fn new(path: PathBuf, running: Config) -> Self {
        Self { path, running }
    }

    /// Reads the file again. `policy`, `allow` and `block` of `[federation]` hold from now on.
    ///
    /// # Errors
    /// As [`Config::read`]; then nothing is changed.
    pub async fn reload(&self, node: &Node) -> Result<Reloaded, StartError> {
        let config = Config::read(&self.path)?;
        let policy = config.federation.peer_policy();
        let policy_changed = policy != node.peer_policy();
        if policy_changed {
            node.set_peer_policy(policy).await;
        }
        Ok(Reloaded {
            policy_changed,
            need_restart: differences(&self.running, &config),
        })
    }
}

/// The settings that differ, but for those that can be changed. Who adds a setting has to say here
/// which it is.
fn differences(before: &Config, after: &Config) -> Vec<&'static str> {
    let Config {
        name,
        ds_domain,
        listen,
        store,
        keys,
        tls,
        registration,
        admin,
        federation,
        limits,
    } = before;
    let FederationConfig {
        policy: _,
        allow: _,
        block: _,
        extra_roots,
        allow_private_addresses,
        hosts,
        client_certificate,
        require_client_certificate,
    } = federation;
    let peers = &after.federation;
    let all = [
        ("name", *name != after.name),
        ("ds_domain", *ds_domain != after.ds_domain),
        ("listen", *listen != after.listen),
        ("store", *store != after.store),
        ("keys", *keys != after.keys),
        ("tls", *tls != after.tls),
        ("registration", *registration != after.registration),
        ("admin", *admin != after.admin),
        ("federation.extra_roots", *extra_roots != peers.extra_roots),
        (
            "federation.allow_private_addresses",
            *allow_private_addresses != peers.allow_private_addresses,
        ),
        ("federation.hosts", *hosts != peers.hosts),
        (
            "federation.client_certificate",
            *client_certificate != peers.client_certificate,
        ),
        (
            "federation.require_client_certificate",
            *require_client_certificate != peers.require_client_certificate,
        ),
        ("limits", *limits != after.limits),
    ];
    let differ = all.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        name = "a.example"
        listen = "127.0.0.1:8443"
        store = "moh.sqlite"
        keys = "keys.toml"
        tls = { certificate = "cert.pem", key = "key.pem" }
    "#;

    #[test]
    fn what_holds_from_the_next_start_is_named() {
        let read = |text: &str| toml::from_str::<Config>(text).unwrap();
        let before = read(TEXT);
        let changed = |text: String| differences(&before, &read(&text));
        assert!(changed(TEXT.to_owned()).is_empty());
        let policy = "[federation]\npolicy = \"allow-listed\"\nallow = [\"b.example\"]";
        assert!(changed(format!("{TEXT}\n{policy}")).is_empty());
        for (text, expected) in [
            (TEXT.replace("a.example", "b.example"), "name"),
            (format!("ds_domain = \"x.example\"\n{TEXT}"), "ds_domain"),
            (TEXT.replace("8443", "8444"), "listen"),
            (TEXT.replace("moh.sqlite", "other"), "store"),
            (TEXT.replace("keys.toml", "other"), "keys"),
            (TEXT.replace("cert.pem", "other"), "tls"),
            (format!("registration = \"open\"\n{TEXT}"), "registration"),
            (format!("{TEXT}\n[admin]\nsocket = \"admin\""), "admin"),
            (
                format!("{TEXT}\n[federation]\nextra_roots = [\"ca.pem\"]"),
                "federation.extra_roots",
            ),
            (
                format!("{TEXT}\n[federation]\nallow_private_addresses = true"),
                "federation.allow_private_addresses",
            ),
            (
                format!("{TEXT}\n[federation.hosts]\n\"b.example\" = \"192.0.2.7:443\""),
                "federation.hosts",
            ),
            (
                format!("{TEXT}\n[federation]\nclient_certificate = \"offer\""),
                "federation.client_certificate",
            ),
            (
                format!("{TEXT}\n[federation]\nrequire_client_certificate = true"),
                "federation.require_client_certificate",
            ),
            (format!("{TEXT}\n[limits]\nmax_members = 7"), "limits"),
        ] {
            assert_eq!(changed(text), [expected]);
        }
    }
}
