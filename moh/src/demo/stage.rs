//! The providers of the demonstration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use moh_client::{ConnectOptions, ProviderName};
use moh_server::Environment;
use moh_server::observe::{Observer, RequestEvent};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock::StageClock;
use crate::authority::Authority;
use crate::provider::{Running, for_development};

/// The providers' names.
pub(super) const NAMES: [&str; 2] = ["a.example", "b.example"];

/// Providers that run, and everything that they have.
pub(super) struct Stage {
    folder: TempDir,
    providers: Vec<Running>,
    addresses: BTreeMap<String, SocketAddr>,
    ca_pem: Vec<u8>,
    clock: StageClock,
}

/// A request that a provider answered, and when it came.
pub(super) struct Answered {
    pub(super) began: Instant,
    pub(super) event: RequestEvent,
}

/// Hands on what a provider answered.
struct Reporter(mpsc::UnboundedSender<Answered>);

impl Observer for Reporter {
    fn answered(&self, event: &RequestEvent) {
        let now = Instant::now();
        let took = Duration::from_micros(event.duration_us);
        let began = now.checked_sub(took).unwrap_or(now);
        // Nobody listens any more when the demonstration is over.
        let _ = self.0.send(Answered {
            began,
            event: event.clone(),
        });
    }
}

impl Stage {
    /// Starts the providers; every request that they answer is reported.
    pub(super) async fn set() -> Result<(Self, mpsc::UnboundedReceiver<Answered>)> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::of(folder.path())?;
        let ca = folder.path().join("ca.pem");
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));

        let mut prepared = Vec::new();
        for name in NAMES {
            let home = folder.path().join(name);
            std::fs::create_dir(&home)?;
            let hosts = BTreeMap::new();
            let roots = vec![ca.clone()];
            let config = for_development(&home, &authority, name, anywhere, hosts, roots)?;
            let listener = config.listen().await?;
            prepared.push((config, listener));
        }
        let address = |(config, listener): &(moh_server::Config, _)| {
            let listener: &moh_server::http::Listener = listener;
            (config.name.clone(), listener.address())
        };
        let addresses: BTreeMap<_, _> = prepared.iter().map(address).collect();

        let (sender, events) = mpsc::unbounded_channel();
        let clock = StageClock::yesterday();
        let mut providers = Vec::new();
        for (mut config, listener) in prepared {
            config.federation.hosts.clone_from(&addresses);
            let reporter = Arc::new(Reporter(sender.clone()));
            let environment = Environment {
                clock: Arc::new(clock.clone()),
                ..Environment::system()
            };
            providers.push(Running::start(&config, listener, environment, reporter).await?);
        }
        let ca_pem = std::fs::read(&ca)?;
        Ok((
            Self {
                folder,
                providers,
                addresses,
                ca_pem,
                clock,
            },
            events,
        ))
    }

    /// Where each provider listens.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&str, &SocketAddr)> {
        self.addresses
            .iter()
            .map(|(name, address)| (name.as_str(), address))
    }

    /// How a client reaches its provider.
    pub(super) fn connect(&self, provider: &ProviderName) -> ConnectOptions {
        let options = ConnectOptions::new(provider.clone());
        let options = options
            .root_certificate_pem(self.ca_pem.clone())
            .clock(self.clock.clone());
        match self.addresses.get(provider.as_str()) {
            Some(address) => options.resolve(provider.as_str(), *address),
            None => options,
        }
    }

    /// What time it is for everybody.
    pub(super) fn clock(&self) -> &StageClock {
        &self.clock
    }

    /// Where a client keeps its state.
    pub(super) fn state_of(&self, who: &str) -> std::path::PathBuf {
        self.folder
            .path()
            .join(format!("{}.sqlite", who.replace('/', "-")))
    }

    /// Ends the providers.
    pub(super) async fn strike(self) {
        for provider in self.providers {
            provider.stop().await;
        }
    }
}
