//! Three providers in one process, which reach each other without sockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use moh_messages::client_api::{Acknowledge, QueueItem, ReadQueue};
use moh_messages::{
    CONTENT_TYPE, ClientId, DsAuth, DsError, DsErrorCode, DsRequest, DsResponse, DsResponseBody,
    Endpoint, GroupId, Message, Opaque, ProviderName, WELL_KNOWN_PATH,
};
use moh_server::clock::{Clock, SystemClock};
use moh_server::federation::{PeerRequest, PeerResponse, Transport, Unreachable};
use moh_server::group::Group;
use moh_server::observe::Unobserved;
use moh_server::store::{Embedded, EmbeddedOptions, Store as _, StoredGroup, WriterEvent};
use moh_server::{Environment, Keys, Limits, Node, Parts, SecretKeys};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::Check;

pub(crate) const PROVIDERS: [&str; 3] = ["a.example", "b.example", "c.example"];

/// Nothing takes longer than this, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where files are kept in memory, on systems that have such a place.
const IN_MEMORY: &str = "/dev/shm";

/// The time of the machine, and what has been added to it.
#[derive(Default)]
struct ShiftedClock(AtomicU64);

impl Clock for ShiftedClock {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() + self.0.load(Ordering::Relaxed)
    }
}

/// The nodes that run, by name.
#[derive(Default)]
struct Wires(RwLock<BTreeMap<String, Node>>);

#[async_trait]
impl Transport for Wires {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let node = self.0.read().unwrap().get(&request.host).cloned();
        let node = node.ok_or_else(|| Unreachable("nobody there".to_owned()))?;
        let answer = |status, body: Vec<u8>| PeerResponse {
            status,
            content_type: Some(CONTENT_TYPE.to_owned()),
            max_age_seconds: None,
            body: body.into(),
        };
        if request.path == WELL_KNOWN_PATH {
            return Ok(answer(404, Vec::new()));
        }
        let endpoint = Endpoint::ALL.into_iter().find(|e| e.path() == request.path);
        let body = request.body.unwrap_or_default();
        let answered = node.answer(endpoint.unwrap(), body).await;
        Ok(answer(answered.status, answered.body))
    }
}

/// A provider, and what it keeps when it is started anew.
pub(crate) struct Provider {
    pub(crate) name: ProviderName,
    pub(crate) keys: Keys,
    secret: SecretKeys,
    store: Arc<Embedded>,
    node: Node,
    /// Counts what has become durable.
    changed: watch::Receiver<u64>,
}

pub(crate) struct World {
    providers: BTreeMap<&'static str, Provider>,
    wires: Arc<Wires>,
    clock: Arc<ShiftedClock>,
    pub(crate) environment: Environment,
    _folder: TempDir,
}

fn folder() -> TempDir {
    if Path::new(IN_MEMORY).is_dir() {
        tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir())
    } else {
        tempfile::tempdir()
    }
    .unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = folder();
        let clock = Arc::<ShiftedClock>::default();
        let environment = Environment {
            clock: clock.clone(),
            ..Environment::system()
        };
        let wires = Arc::<Wires>::default();
        let mut providers = BTreeMap::new();
        for name in PROVIDERS {
            let (count, changed) = watch::channel(0);
            let options = EmbeddedOptions {
                max_readers: 2,
                observer: Some(Arc::new(move |event| {
                    if event == WriterEvent::BeforeReply {
                        count.send_modify(|n| *n += 1);
                    }
                })),
                ..EmbeddedOptions::default()
            };
            let path = folder.path().join(format!("{name}.sqlite"));
            let store = Arc::new(Embedded::open(path, options).unwrap());
            let secret = SecretKeys::generate(&*environment.random);
            let name_: ProviderName = name.parse().unwrap();
            let node = start(name, &secret, &store, &wires, &environment).await;
            let provider = Provider {
                keys: Keys::new(name_.clone(), &secret).unwrap(),
                name: name_,
                secret,
                store,
                node,
                changed,
            };
            providers.insert(name, provider);
        }
        Self {
            providers,
            wires,
            clock,
            environment,
            _folder: folder,
        }
    }

    pub(crate) fn provider(&self, name: &ProviderName) -> &Provider {
        &self.providers[name.as_str()]
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.environment.now_ms()
    }

    /// Lets time pass, for all.
    pub(crate) fn pass(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Ends a provider, and starts it again on the same store.
    pub(crate) async fn restart(&mut self, name: &ProviderName) {
        let provider = self.providers.get_mut(name.as_str()).unwrap();
        self.wires.0.write().unwrap().remove(name.as_str());
        provider.node.stop().await;
        let Provider { secret, store, .. } = &*provider;
        provider.node = start(name.as_str(), secret, store, &self.wires, &self.environment).await;
    }

    pub(crate) async fn end(self) {
        for provider in self.providers.values() {
            provider.node.stop().await;
        }
        self.wires.0.write().unwrap().clear();
    }

    /// Waits until nothing is on its way from a provider to another.
    pub(crate) async fn settle(&mut self) -> Check {
        for provider in self.providers.values_mut() {
            loop {
                provider.changed.mark_unchanged();
                let waiting = provider.store.outbox_destinations().await.unwrap();
                if waiting.is_empty() {
                    break;
                }
                let changed = tokio::time::timeout(PATIENCE, provider.changed.changed()).await;
                if changed.is_err() {
                    return Err(format!("{} does not deliver to {waiting:?}", provider.name));
                }
            }
        }
        Ok(())
    }

    /// Waits until something that is looked for in a store is there.
    pub(crate) async fn wait_for(
        &mut self,
        name: &ProviderName,
        what: &str,
        mut is_there: impl AsyncFnMut(&Embedded) -> bool,
    ) -> Check {
        let provider = self.providers.get_mut(name.as_str()).unwrap();
        loop {
            provider.changed.mark_unchanged();
            if is_there(&provider.store).await {
                return Ok(());
            }
            let changed = tokio::time::timeout(PATIENCE, provider.changed.changed()).await;
            if changed.is_err() {
                return Err(format!("{name}: {what} does not happen"));
            }
        }
    }

    /// Has a request, which is signed, answered by its recipient.
    pub(crate) async fn ask(&self, request: &DsRequest) -> Result<DsResponseBody, DsError> {
        let node = &self.provider(&request.recipient).node;
        let endpoint = request.body.endpoint();
        let answer = node.answer(endpoint, request.encode().into()).await;
        match DsResponse::decode(&answer.body).unwrap().body {
            DsResponseBody::Error(error) => Err(error),
            body => Ok(body),
        }
    }

    /// Signs a request by its sender's provider.
    pub(crate) fn sign_as_provider(&self, request: &mut DsRequest) {
        let keys = &self.provider(&request.sender).keys;
        let endpoint = request.body.endpoint();
        keys.sign_request(&self.environment, endpoint, request, |r| {
            match &mut r.auth {
                DsAuth::Provider { provider_auth, .. } => Some(provider_auth),
                DsAuth::Anonymous | DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => None,
            }
        });
    }

    /// What is in a client's queue after a cursor.
    pub(crate) async fn queue(&self, client: &ClientId, cursor: &Opaque<64>) -> Vec<QueueItem> {
        let read = ReadQueue {
            cursor: cursor.clone(),
            wait_ms: 0,
        };
        let node = &self.provider(&client.provider()).node;
        node.read_queue(client, &read).await.unwrap().into_vec()
    }

    pub(crate) async fn acknowledge(&self, client: &ClientId, cursor: &Opaque<64>) {
        let cursor = cursor.clone();
        let node = &self.provider(&client.provider()).node;
        node.acknowledge(client, &Acknowledge { cursor })
            .await
            .unwrap();
    }

    /// A group as its owner has stored it.
    pub(crate) async fn stored(&self, owner: &ProviderName, id: &GroupId) -> Option<StoredGroup> {
        self.provider(owner).store.group(id).await.unwrap()
    }

    /// A group, read from the store as after a start.
    pub(crate) async fn restored(&self, owner: &ProviderName, id: &GroupId) -> Check<Group> {
        let stored = self.stored(owner, id).await.ok_or("no group is stored")?;
        Group::restore(&stored).map_err(|error| error.to_string())
    }
}

async fn start(
    name: &str,
    secret: &SecretKeys,
    store: &Arc<Embedded>,
    wires: &Arc<Wires>,
    environment: &Environment,
) -> Node {
    let provider: ProviderName = name.parse().unwrap();
    let node = Node::start(Parts {
        ds_domain: name.to_owned(),
        keys: Keys::new(provider.clone(), secret).unwrap(),
        name: provider,
        limits: Limits::default(),
        open_registration: true,
        environment: environment.clone(),
        store: store.clone(),
        transport: wires.clone(),
        observer: Arc::new(Unobserved),
    });
    let node = node.await.unwrap();
    wires
        .0
        .write()
        .unwrap()
        .insert(name.to_owned(), node.clone());
    node
}

/// What a refusal says.
pub(crate) fn code_of<T>(answer: &Result<T, DsError>) -> Option<DsErrorCode> {
    answer.as_ref().err().map(|error| error.code)
}
