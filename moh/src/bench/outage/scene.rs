//! The two providers, and everything that connects them with each other and with their clients.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::Kind;
use super::dice::Outage;
use super::people::{Place, Way};
use super::provider::Provider;
use super::wire::Wire;
use crate::authority::Authority;

/// A provider, and the ways to it.
struct Site {
    provider: Provider,
    /// By which its clients reach it; it is never cut.
    for_clients: Wire,
    /// By which the other provider reaches it.
    for_peer: Wire,
}

impl Site {
    /// Starts the provider.
    async fn start(&mut self) -> Result<()> {
        let address = self.provider.start().await?;
        self.for_clients.lead_to(address);
        self.for_peer.lead_to(address);
        Ok(())
    }
}

/// Both.
pub(super) struct Scene {
    folder: PathBuf,
    a: Site,
    b: Site,
}

impl Scene {
    /// Everything but the processes.
    pub(super) async fn new(folder: &Path) -> Result<Self> {
        let (to_a, to_b) = (Wire::new().await?, Wire::new().await?);
        let (a, b) = (Place::A.name(), Place::B.name());
        let authority = Authority::of(folder)?;
        let provider_a = Provider::new(folder, &authority, a, (b, to_b.address()))?;
        let provider_b = Provider::new(folder, &authority, b, (a, to_a.address()))?;
        Ok(Self {
            folder: folder.to_owned(),
            a: Site {
                provider: provider_a,
                for_clients: Wire::new().await?,
                for_peer: to_a,
            },
            b: Site {
                provider: provider_b,
                for_clients: Wire::new().await?,
                for_peer: to_b,
            },
        })
    }

    /// Starts both providers.
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.a.start().await?;
        self.b.start().await
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How clients reach a provider that has begun.
    pub(super) fn way(&self, place: Place) -> Result<Way> {
        let site = match place {
            Place::A => &self.a,
            Place::B => &self.b,
        };
        let ca_pem = std::fs::read(self.folder.join("ca.pem")).context("ca.pem")?;
        Ok(Way {
            address: site.for_clients.address(),
            ca_pem,
        })
    }

    /// An outage begins.
    pub(super) async fn strike(&mut self, outage: &Outage) -> Result<()> {
        let wires = [&self.a.for_peer, &self.b.for_peer];
        match outage.kind {
            Kind::Stop => self.b.provider.stop()?,
            Kind::Cut if outage.is_stuck => wires.iter().for_each(|wire| wire.get_stuck()),
            Kind::Cut => wires.iter().for_each(|wire| wire.refuse()),
            Kind::Kill => self.b.provider.kill().await?,
        }
        Ok(())
    }

    /// Does what takes its time, as to start a process; then the provider is as good as there,
    /// though nobody reaches it: since when.
    pub(super) async fn prepare_return(&mut self, outage: &Outage) -> Result<Instant> {
        if outage.kind == Kind::Kill {
            let address = self.b.provider.start().await?;
            let now = Instant::now();
            self.b.for_clients.lead_to(address);
            self.b.for_peer.lead_to(address);
            return Ok(now);
        }
        Ok(Instant::now())
    }

    /// The outage is over.
    pub(super) fn return_from(&self, outage: &Outage) -> Result<()> {
        match outage.kind {
            Kind::Stop => self.b.provider.resume()?,
            Kind::Cut => {
                let is_forgotten = outage.is_stuck && outage.is_forgotten;
                for wire in [&self.a.for_peer, &self.b.for_peer] {
                    wire.mend(is_forgotten);
                }
            }
            Kind::Kill => {}
        }
        Ok(())
    }

    /// Ends both processes, in whatever state they are.
    pub(super) async fn end(&mut self) {
        for site in [&mut self.a, &mut self.b] {
            if let Err(error) = site.provider.kill().await {
                tracing::warn!(%error, "a provider was not ended");
            }
        }
    }
}
