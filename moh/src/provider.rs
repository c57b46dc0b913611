//! A provider that runs in this process: what `serve` and `demo` have in common.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use moh_server::admin::{Admin, AdminListener};
use moh_server::config::{AdminConfig, FederationConfig, Registration, Reload, TlsConfig};
use moh_server::http::Listener;
use moh_server::observe::Observer;
use moh_server::{Config, Environment, Limits, Node, SecretKeys};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;

/// A provider that takes requests.
pub(crate) struct Running {
    node: Node,
    stop: CancellationToken,
    served: JoinHandle<()>,
    /// Whoever listens to the operator.
    admin: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts the provider of a configuration behind its listener.
    pub(crate) async fn start(
        config: &Config,
        listener: Listener,
        environment: Environment,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        let node = config.start(&listener, environment, observer).await?;
        let stop = CancellationToken::new();
        let served = tokio::spawn(listener.serve(node.clone(), stop.clone()));
        Ok(Self {
            node,
            stop,
            served,
            admin: None,
        })
    }

    /// Takes requests of its operator, too.
    pub(crate) async fn listen_to_operator(
        &mut self,
        socket: &Path,
        reload: Option<Arc<Reload>>,
    ) -> Result<()> {
        let listener = AdminListener::bind(socket).await?;
        let admin = Admin::new(self.node.clone(), reload);
        let served = listener.serve(admin, self.stop.clone());
        self.admin = Some(tokio::spawn(served));
        Ok(())
    }

    /// The provider.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Takes no further request, finishes those that are there, and ends.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // Clients that wait for their queue are answered by the node, so that they do not hold
        // up the listener.
        let (_, served) = tokio::join!(self.node.stop(), self.served);
        let admin = match self.admin {
            Some(admin) => admin.await,
            None => Ok(()),
        };
        if let Err(error) = served.and(admin) {
            tracing::error!(%error, "the listener broke off");
        }
    }
}

/// What a provider for development needs, in a folder: keys and certificates are made where they
/// are not there.
pub(crate) fn for_development(
    folder: &Path,
    authority: &Authority,
    name: &str,
    listen: SocketAddr,
    hosts: BTreeMap<String, SocketAddr>,
    extra_roots: Vec<PathBuf>,
) -> Result<Config> {
    authority.certify(folder, name)?;
    let keys = folder.join("keys.toml");
    if !keys.exists() {
        SecretKeys::generate(&*Environment::system().random)
            .write(&keys)
            .with_context(|| format!("{} cannot be written", keys.display()))?;
    }
    Ok(Config {
        name: name.to_owned(),
        ds_domain: None,
        listen,
        store: folder.join("moh.sqlite"),
        keys,
        tls: TlsConfig {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        },
        registration: Registration::Open,
        federation: FederationConfig {
            extra_roots,
            allow_private_addresses: true,
            hosts,
            ..FederationConfig::default()
        },
        admin: AdminConfig::default(),
        limits: Limits::default(),
    })
}
