//! A provider: what it keeps, and the processes that run it, one after the other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use moh_messages::{Endpoint, ProviderName, WELL_KNOWN_PATH};
use moh_server::clock::Work;
use moh_server::config::Registration;
use moh_server::federation::{PeerRequest, PeerResponse, PeerRules, Transport, Unreachable};
use moh_server::observe::Unobserved;
use moh_server::{Environment, Keys, Limits, Node, Parts, SecretKeys};

use crate::dice::Dice;
use crate::disk::{Crash, Disk, Mounted};
use crate::life::Life;
use crate::network::{Listening, Lost, Network};
use crate::time::{Clock, Watch};
use crate::wire::{Call, Reply};

/// A provider, whether it runs or not.
pub(crate) struct Provider {
    pub(crate) name: ProviderName,
    pub(crate) disk: Arc<Disk>,
    pub(crate) watch: Arc<Watch>,
    network: Arc<Network>,
    dice: Dice,
    secret: SecretKeys,
    running: Mutex<Option<Listening>>,
    /// Held by whoever starts a process.
    starting: tokio::sync::Mutex<()>,
}

impl Provider {
    pub(crate) fn new(
        disk: Arc<Disk>,
        watch: Arc<Watch>,
        network: &Arc<Network>,
        dice: Dice,
    ) -> Self {
        Self {
            name: disk.provider.clone(),
            disk,
            watch,
            network: Arc::clone(network),
            secret: SecretKeys::generate(&dice),
            dice,
            running: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
        }
    }

    fn environment(&self) -> Environment {
        Environment {
            clock: Arc::new(Clock(Arc::clone(&self.watch))),
            random: Arc::new(self.dice.clone()),
            work: Work::Inline,
        }
    }

    /// Starts a process where none runs, which may be to die at one of its first writes.
    pub(crate) async fn start(&self, crash: Option<Crash>) {
        let _starting = self.starting.lock().await;
        if self.is_running() {
            return;
        }
        *self.disk.crash.lock().unwrap() = crash;
        let life = Life::default();
        let node = Node::start(Parts {
            name: self.name.clone(),
            ds_domain: self.name.to_string(),
            keys: Keys::new(self.name.clone(), &self.secret).unwrap(),
            limits: limits(),
            peers: PeerRules::default(),
            registration: Registration::Open,
            environment: self.environment(),
            store: Arc::new(Mounted {
                disk: Arc::clone(&self.disk),
                life: life.clone(),
            }),
            transport: Arc::new(Wire {
                from: self.name.clone(),
                life: life.clone(),
                network: Arc::clone(&self.network),
            }),
            observer: Arc::new(Unobserved),
        });
        let node = node.await.unwrap();
        let process = Listening { node, life };
        *self.running.lock().unwrap() = Some(process.clone());
        self.network.listen(&self.name, Some(process));
    }

    /// Whether a process runs.
    pub(crate) fn is_running(&self) -> bool {
        let running = self.running.lock().unwrap();
        running
            .as_ref()
            .is_some_and(|process| !process.life.is_over())
    }

    /// Stops the process in order: it takes no further requests, and ends what it is at.
    pub(crate) async fn stop(&self) {
        self.network.listen(&self.name, None);
        let Some(process) = self.running.lock().unwrap().take() else {
            return;
        };
        tokio::select! {
            biased;
            () = process.life.over() => {}
            () = process.node.stop() => {}
        }
        process.life.end();
    }
}

impl Provider {
    /// Lets go of the process, at the end of a run.
    pub(crate) fn forget(&self) {
        if let Some(process) = self.running.lock().unwrap().take() {
            process.life.end();
        }
    }
}

fn limits() -> Limits {
    Limits {
        low_key_packages: 2,
        max_queue_wait_ms: 600_000,
        ..Limits::default()
    }
}

/// How a process reaches other providers.
struct Wire {
    from: ProviderName,
    life: Life,
    network: Arc<Network>,
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        self.life.go_on().await;
        let to: ProviderName = request.host.parse().expect("hosts are names here");
        let call = if request.path == WELL_KNOWN_PATH {
            Call::Discovery
        } else {
            let mut endpoints = Endpoint::ALL.into_iter();
            let endpoint = endpoints.find(|endpoint| endpoint.path() == request.path);
            let body = request.body.unwrap_or_default();
            Call::Peer(endpoint.expect("there is no other"), body)
        };
        let patience = Duration::from_millis(limits().peer_request_ms);
        let asked = self
            .network
            .ask(self.from.as_str(), &to, call, patience)
            .await;
        self.life.go_on().await;
        asked.map(response).map_err(unreachable)
    }
}

fn response(reply: Reply) -> PeerResponse {
    PeerResponse {
        status: reply.status,
        content_type: reply.content_type.map(str::to_owned),
        max_age_seconds: reply.max_age_seconds,
        retry_after_seconds: reply.retry_after_seconds,
        body: reply.body,
    }
}

fn unreachable(lost: Lost) -> Unreachable {
    Unreachable(format!("{lost:?}"))
}
