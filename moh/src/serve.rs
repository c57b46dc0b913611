//! `moh serve`: run a provider until SIGTERM or SIGINT; SIGHUP has it read its configuration again.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use moh_messages::ProviderName;
use moh_server::config::Reload;
use moh_server::observe::Unobserved;
use moh_server::{Config, Environment, Node};
use tokio::signal::unix::{SignalKind, signal};

use crate::authority::Authority;
use crate::provider::{Running, for_development};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  moh serve --config /etc/moh/moh.toml
  moh serve --dev
  moh serve --dev --name a.example --listen 127.0.0.1:8441 --data dev/a \\
      --authority dev --peer b.example=127.0.0.1:8442

When the provider takes requests it prints one line, `ready https://ADDRESS name=DOMAIN`.
MOH_LOG=info logs more to stderr. On SIGHUP it reads the configuration again: which other providers
it talks to can be changed while it runs.")]
pub(crate) struct Arguments {
    /// The configuration, as `moh init` writes it
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "dev",
        conflicts_with_all = ["dev", "listen", "data", "authority", "name", "peer", "trust"]
    )]
    config: Option<PathBuf>,
    /// Run without a configuration: everything that is needed is made in DIR
    #[arg(long)]
    dev: bool,
    /// Where to listen; port 0 takes any
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8443",
        requires = "dev"
    )]
    listen: SocketAddr,
    /// Where keys, the certificate and the store are, and DIR/ca.pem, which is to be trusted
    #[arg(long, value_name = "DIR", default_value = "moh-dev", requires = "dev")]
    data: PathBuf,
    /// Where ca.pem is instead, for providers that share one certificate authority
    #[arg(long, value_name = "DIR", requires = "dev")]
    authority: Option<PathBuf>,
    /// The provider's name
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "localhost",
        requires = "dev"
    )]
    name: ProviderName,
    /// Where another provider listens, instead of asking the DNS; may be repeated
    #[arg(long, value_name = "DOMAIN=ADDR", value_parser = peer, requires = "dev")]
    peer: Vec<(String, SocketAddr)>,
    /// A certificate authority to trust, such as another provider's DIR/ca.pem; may be repeated
    #[arg(long, value_name = "FILE", requires = "dev")]
    trust: Vec<PathBuf>,
}

fn peer(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("not DOMAIN=ADDR")?;
    let name: ProviderName = name.parse().map_err(|e| format!("{e}"))?;
    let address = address.parse().map_err(|e| format!("{address}: {e}"))?;
    Ok((name.to_string(), address))
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => development(&arguments)?,
    };
    let listener = config.listen().await?;
    let address = listener.address();
    let environment = Environment::system();
    let mut running = Running::start(&config, listener, environment, Arc::new(Unobserved)).await?;
    let socket = config.admin_socket();
    let name = config.name.clone();
    let reload = arguments.config.map(|path| Reload::new(path, config));
    let reload = reload.map(Arc::new);
    if let Some(socket) = socket {
        running.listen_to_operator(&socket, reload.clone()).await?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "ready https://{address} name={name}")?;
    out.flush()?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => if let Some(reload) = &reload {
                read_again(reload, running.node()).await;
            },
        }
    }
    running.stop().await;
    Ok(())
}

/// Reads the configuration again, and says what came of it.
async fn read_again(reload: &Reload, node: &Node) {
    let reloaded = match reload.reload(node).await {
        Ok(reloaded) => reloaded,
        Err(error) => {
            tracing::error!(%error, "the configuration was read again, and nothing was changed");
            return;
        }
    };
    let policy_changed = reloaded.policy_changed;
    tracing::info!(policy_changed, "the configuration was read again");
    for setting in reloaded.need_restart {
        tracing::warn!(
            setting,
            "a setting has changed; it holds from the next start"
        );
    }
}

fn development(arguments: &Arguments) -> Result<Config> {
    let folder: &Path = &arguments.data;
    let above = arguments.authority.as_deref().unwrap_or(folder);
    for folder in [folder, above] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    }
    let authority = Authority::of(above)?;
    let mut roots = vec![above.join("ca.pem")];
    roots.extend(arguments.trust.iter().cloned());
    let hosts: BTreeMap<_, _> = arguments.peer.iter().cloned().collect();
    let name = arguments.name.as_str();
    for_development(folder, &authority, name, arguments.listen, hosts, roots)
}
