//! The configuration of a provider: one TOML file. `moh init` writes one with comments.

mod reload;

pub use reload::{Reload, Reloaded};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moh_messages::ProviderName;
use serde::Deserialize;

use crate::clock::Environment;
use crate::federation::{
    Admission, DomainPattern, HttpsOptions, HttpsTransport, Override, PeerPolicy, PeerRules,
};
use crate::http::{Listener, ServeError, tls_config};
use crate::keys::{KeyFileError, Keys, SecretKeys};
use crate::limits::Limits;
use crate::node::{Node, Parts};
use crate::observe::Observer;
use crate::store::{Embedded, EmbeddedOptions, StoreError};
use crate::tls::{Certificates, Identity, Trust};

/// A provider's configuration. Paths are relative to the folder that the file is in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The provider's name: the domain that users' names end in.
    pub name: String,
    /// Where it can be reached, with `:port` where it is not 443. The name, when absent.
    pub ds_domain: Option<String>,
    /// The address that it listens on.
    pub listen: SocketAddr,
    /// The file with what is durable.
    pub store: PathBuf,
    /// The file with the secret keys.
    pub keys: PathBuf,
    /// The certificate.
    pub tls: TlsConfig,
    /// Who may become a user.
    #[serde(default)]
    pub registration: Registration,
    /// How other providers are reached.
    #[serde(default)]
    pub federation: FederationConfig,
    /// How its operator talks to it while it runs.
    #[serde(default)]
    pub admin: AdminConfig,
    /// What it takes.
    #[serde(default)]
    pub limits: Limits,
}

/// The certificate of a provider, valid for its name and its DS domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The chain, as PEM, the provider's own certificate first.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// Who may become a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Everybody.
    Open,
    /// Whoever shows an invitation, which `moh invite` makes.
    Invitation,
    /// Nobody. Users may add clients, as always.
    #[default]
    Off,
}

/// Which other providers are talked to, and how they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FederationConfig {
    /// Whether a provider that no list names is talked to.
    pub policy: Admission,
    /// Providers that are talked to, where the others are not.
    pub allow: BTreeSet<DomainPattern>,
    /// Providers that are not talked to, whatever else is said of them.
    pub block: BTreeSet<DomainPattern>,
    /// Files with certificate authorities that are trusted besides those of the system.
    pub extra_roots: Vec<PathBuf>,
    /// Whether private, loopback and link-local addresses may be connected to.
    pub allow_private_addresses: bool,
    /// Hosts whose addresses are not asked of the DNS.
    pub hosts: std::collections::BTreeMap<String, SocketAddr>,
    /// Whether our certificate is shown to providers that ask for it when we connect.
    pub client_certificate: ClientCertificate,
    /// Whether other providers have to show theirs when they connect.
    pub require_client_certificate: bool,
}

/// What is shown to providers that ask for a certificate when we connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// Nothing.
    #[default]
    None,
    /// The one of `[tls]`.
    Offer,
}

impl FederationConfig {
    /// Which providers are talked to.
    #[must_use]
    pub fn peer_policy(&self) -> PeerPolicy {
        PeerPolicy {
            admission: self.policy,
            allow: self.allow.clone(),
            block: self.block.clone(),
        }
    }
}

/// How an operator talks to the provider while it runs: [`crate::admin`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// The Unix socket. The store's path with `.sock` behind it, when absent; none, when empty.
    pub socket: Option<PathBuf>,
}

impl AdminConfig {
    /// Where the socket of a provider with this configuration is; none when it is off. The rest
    /// of the configuration may have mistakes.
    ///
    /// # Errors
    /// When there is no such file, or it is not TOML, or names no store.
    pub fn socket_named_in(path: &Path) -> Result<Option<PathBuf>, StartError> {
        #[derive(Deserialize)]
        struct Part {
            store: PathBuf,
            #[serde(default)]
            admin: AdminConfig,
        }
        let part: Part = toml::from_str(&read_text(path)?)
            .map_err(|error| StartError::Invalid(path.to_owned(), error.to_string()))?;
        let socket = part.admin.socket_beside(&part.store);
        Ok(socket.map(|socket| folder_of(path).join(socket)))
    }

    fn socket_beside(&self, store: &Path) -> Option<PathBuf> {
        match &self.socket {
            Some(socket) if socket.as_os_str().is_empty() => None,
            Some(socket) => Some(socket.clone()),
            None => {
                let mut socket = store.as_os_str().to_owned();
                socket.push(".sock");
                Some(socket.into())
            }
        }
    }
}

/// Why a provider does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// The configuration says something that it cannot.
    #[error("{0}: {1}")]
    Invalid(PathBuf, String),
    /// The keys.
    #[error("{0}: {1}")]
    Keys(PathBuf, KeyFileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate, or the address.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The operator's socket.
    #[error(transparent)]
    Admin(#[from] crate::admin::SocketError),
    /// What is needed to reach other providers.
    #[error("federation: {0}")]
    Federation(String),
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When there is no such file, or it holds anything that is not a setting, with the line.
    pub fn read(path: &Path) -> Result<Self, StartError> {
        let text = read_text(path)?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| StartError::Invalid(path.to_owned(), error.to_string()))?;
        let folder = folder_of(path);
        let is_set = |socket: &&mut PathBuf| !socket.as_os_str().is_empty();
        let paths = [&mut config.store, &mut config.keys]
            .into_iter()
            .chain([&mut config.tls.certificate, &mut config.tls.key])
            .chain(&mut config.federation.extra_roots)
            .chain(config.admin.socket.as_mut().filter(is_set));
        for relative in paths {
            *relative = folder.join(&*relative);
        }
        if let Err(error) = config.name.parse::<ProviderName>() {
            return Err(StartError::Invalid(
                path.to_owned(),
                format!("name: {error}"),
            ));
        }
        if let Some(domain) = &config.ds_domain
            && crate::federation::read_ds_domain(domain).as_ref() != Some(domain)
        {
            let what = "ds_domain: not a domain, with :port where it is not 443".to_owned();
            return Err(StartError::Invalid(path.to_owned(), what));
        }
        let mut hosts = config.federation.hosts.keys();
        if let Some(host) = hosts.find(|host| host.parse::<ProviderName>().is_err()) {
            let what = format!("federation.hosts: {host:?} is not a domain in lower case");
            return Err(StartError::Invalid(path.to_owned(), what));
        }
        Ok(config)
    }

    /// Where the operator's socket is; none when it is off.
    #[must_use]
    pub fn admin_socket(&self) -> Option<PathBuf> {
        self.admin.socket_beside(&self.store)
    }

    /// Takes the address, with the certificate. Connections wait until the listener serves.
    ///
    /// # Errors
    /// When the certificate or the address cannot be used.
    pub async fn listen(&self) -> Result<Listener, StartError> {
        let certificates = match self.federation.require_client_certificate {
            true => Certificates::Asked,
            false => Certificates::NotAsked,
        };
        let (chain, key) = (read(&self.tls.certificate)?, read(&self.tls.key)?);
        let tls = tls_config(&chain, &key, certificates)?;
        Ok(Listener::bind(self.listen, tls).await?)
    }

    /// Opens the store and starts the provider that `listener` is to serve.
    ///
    /// # Errors
    /// When a file or the store cannot be used.
    pub async fn start(
        &self,
        listener: &Listener,
        environment: Environment,
        observer: Arc<dyn Observer>,
    ) -> Result<Node, StartError> {
        let invalid =
            |e: &dyn std::fmt::Display| StartError::Invalid(PathBuf::from("name"), e.to_string());
        let name: ProviderName = self.name.parse().map_err(|e| invalid(&e))?;
        let in_keys = |error| StartError::Keys(self.keys.clone(), error);
        let secret = SecretKeys::read(&self.keys).map_err(in_keys)?;
        let keys = Keys::new(name.clone(), &secret).map_err(in_keys)?;
        let in_federation =
            |error: &dyn std::fmt::Display| StartError::Federation(error.to_string());
        let roots = self.federation.extra_roots.iter().map(|path| read(path));
        let roots = roots.collect::<Result<Vec<_>, _>>()?;
        let trust = Trust::new(&roots).map_err(|error| in_federation(&error))?;
        let certificates = self.federation.require_client_certificate;
        let peers = PeerRules {
            policy: self.federation.peer_policy(),
            certificates: certificates.then(|| trust.clone()),
        };
        let options = self.https_options(trust)?;
        let transport = HttpsTransport::new(&options).map_err(|error| in_federation(&error))?;
        let store = Embedded::open(&self.store, EmbeddedOptions::default())?;
        let ds_domain = match &self.ds_domain {
            Some(domain) => domain.clone(),
            None if listener.address().port() == 443 => self.name.clone(),
            None => format!("{}:{}", self.name, listener.address().port()),
        };
        let node = Node::start(Parts {
            name,
            ds_domain,
            keys,
            limits: self.limits.clone(),
            registration: self.registration,
            peers,
            environment,
            store: Arc::new(store),
            transport: Arc::new(transport),
            observer,
        });
        Ok(node.await?)
    }

    fn https_options(&self, trust: Trust) -> Result<HttpsOptions, StartError> {
        let federation = &self.federation;
        let identity = match federation.client_certificate {
            ClientCertificate::None => None,
            ClientCertificate::Offer => {
                let (chain, key) = (read(&self.tls.certificate)?, read(&self.tls.key)?);
                let identity = Identity::from_pem(&chain, &key);
                Some(identity.map_err(|error| StartError::Federation(error.to_string()))?)
            }
        };
        let hosts = federation.hosts.iter();
        Ok(HttpsOptions {
            trust,
            identity,
            overrides: hosts
                .map(|(host, &address)| Override {
                    host: host.clone(),
                    address,
                })
                .collect(),
            allow_private_addresses: federation.allow_private_addresses,
            timeout: Duration::from_millis(self.limits.peer_request_ms),
            connect_timeout: Duration::from_millis(self.limits.peer_connect_ms),
        })
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|error| StartError::File(path.to_owned(), error))
}

fn read_text(path: &Path) -> Result<String, StartError> {
    std::fs::read_to_string(path).map_err(|error| StartError::File(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
        name = "a.example"
        listen = "127.0.0.1:8443"
        store = "moh.sqlite"
        keys = "keys.toml"
        tls = { certificate = "cert.pem", key = "key.pem" }
    "#;

    fn read_config(text: &str) -> Result<Config, StartError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moh.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = read_config(SMALLEST).unwrap();
        assert!(config.store.is_absolute() && config.store.ends_with("moh.sqlite"));
        assert_eq!(config.registration, Registration::Off);
        for (name, registration) in [
            ("open", Registration::Open),
            ("invitation", Registration::Invitation),
            ("off", Registration::Off),
        ] {
            let text = format!("registration = \"{name}\"\n{SMALLEST}");
            assert_eq!(read_config(&text).unwrap().registration, registration);
        }
        assert_eq!(config.limits, Limits::default());
        let certificates = |federation: &str| {
            let config = read_config(&format!("{SMALLEST}\n[federation]\n{federation}"));
            let federation = config.unwrap().federation;
            (
                federation.client_certificate,
                federation.require_client_certificate,
            )
        };
        assert_eq!(certificates(""), (ClientCertificate::None, false));
        for (text, expected) in [
            (
                "client_certificate = \"offer\"",
                (ClientCertificate::Offer, false),
            ),
            (
                "client_certificate = \"none\"\nrequire_client_certificate = true",
                (ClientCertificate::None, true),
            ),
        ] {
            assert_eq!(certificates(text), expected);
        }
    }

    #[test]
    fn who_is_talked_to() {
        let allows = |config: &Config, name: &str| {
            let policy = config.federation.peer_policy();
            policy.allows(&name.parse().unwrap())
        };
        let open = read_config(SMALLEST).unwrap();
        assert_eq!(open.federation.peer_policy(), PeerPolicy::default());
        assert!(allows(&open, "b.example"));
        let text = r#"
            [federation]
            policy = "allow-listed"
            allow = ["b.example", "*.c.example"]
            block = ["x.c.example"]
        "#;
        let listed = read_config(&format!("{SMALLEST}{text}")).unwrap();
        assert!(allows(&listed, "b.example") && allows(&listed, "y.c.example"));
        assert!(!allows(&listed, "c.example") && !allows(&listed, "x.c.example"));
        let text = text.replace("allow-listed", "open");
        let blocking = read_config(&format!("{SMALLEST}{text}")).unwrap();
        assert!(allows(&blocking, "c.example") && !allows(&blocking, "x.c.example"));
    }

    #[test]
    fn the_admin_socket_is_beside_the_store_unless_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moh.toml");
        for (setting, expected) in [
            ("", Some("moh.sqlite.sock")),
            ("[admin]\nsocket = \"run/admin\"", Some("run/admin")),
            ("[admin]\nsocket = \"/run/moh.sock\"", Some("/run/moh.sock")),
            ("[admin]\nsocket = \"\"", None),
        ] {
            std::fs::write(&path, format!("{SMALLEST}\n{setting}")).unwrap();
            let expected = expected.map(|socket| folder.path().join(socket));
            assert_eq!(Config::read(&path).unwrap().admin_socket(), expected);
            // Whoever only looks for it does not mind a mistake elsewhere.
            std::fs::write(&path, format!("max = 1\n{SMALLEST}\n{setting}")).unwrap();
            assert!(Config::read(&path).is_err());
            assert_eq!(AdminConfig::socket_named_in(&path).unwrap(), expected);
        }
        let missing = folder.path().join("nowhere.toml");
        assert!(AdminConfig::socket_named_in(&missing).is_err());
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_line() {
        for (text, expected) in [
            (format!("{SMALLEST}\nmax = 1"), "unknown field `max`"),
            (SMALLEST.replace("a.example", "A"), "not a provider name"),
            (
                format!("ds_domain = \"a.example:0\"\n{SMALLEST}"),
                "ds_domain",
            ),
            (
                format!("{SMALLEST}\n[limits]\nmax_members = -1"),
                "max_members",
            ),
            (SMALLEST.replace("listen", "listne"), "line 3"),
            (
                format!("{SMALLEST}\n[federation]\npolicy = \"closed\""),
                "line 9",
            ),
            (
                format!("{SMALLEST}\n[federation]\nallow = [\"b.example\", \"B\"]"),
                "line 9",
            ),
            (
                format!("{SMALLEST}\n[federation.hosts]\n\"b.example:1\" = \"192.0.2.7:443\""),
                "\"b.example:1\" is not a domain",
            ),
            (
                format!("{SMALLEST}\n[federation]\nblock = [\"*b.example\"]"),
                "\"*b.example\" is neither a domain",
            ),
        ] {
            let error = read_config(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
