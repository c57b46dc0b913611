//! Three providers in one process, which reach each other without sockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use moh_messages::client_api::{Acknowledge, QueueItem, ReadQueue};
use moh_messages::{
    CONTENT_TYPE, ClientId, DsAuth, DsError, DsErrorCode, DsRequest, DsResponse, DsResponseBody,
    Endpoint, GroupId, Message, Opaque, ProviderName, UserId, WELL_KNOWN_PATH,
};
use moh_server::clock::{Clock, SystemClock};
use moh_server::config::Registration;
use moh_server::federation::{PeerRequest, PeerResponse, PeerRules, Transport, Unreachable};
use moh_server::group::Group;
use moh_server::observe::Unobserved;
use moh_server::store::{Embedded, EmbeddedOptions, Store as _, StoredGroup, WriterEvent};
use moh_server::{Environment, Keys, Limits, Node, Parts, SecretKeys};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::Check;
use crate::device::as_provider;
use crate::requests;

pub(crate) const PROVIDERS: [&str; 3] = ["a.example", "b.example", "c.example"];

/// Nothing takes longer than this, however slow the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
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

/// The nodes that run, by the name of their provider, and how often one was asked for.
#[derive(Default)]
struct Wires {
    nodes: RwLock<BTreeMap<String, Vec<Node>>>,
    asked: AtomicUsize,
}

impl Wires {
    /// One of a provider's nodes, in turn.
    fn node(&self, name: &str) -> Option<Node> {
        let nodes = self.nodes.read().unwrap();
        let nodes = nodes.get(name).filter(|nodes| !nodes.is_empty())?;
        let at = self.asked.fetch_add(1, Ordering::Relaxed) % nodes.len();
        nodes.get(at).cloned()
    }
}

#[async_trait]
impl Transport for Wires {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let node = self.node(&request.host);
        let node = node.ok_or_else(|| Unreachable("nobody there".to_owned()))?;
        let answer = |status, body: Vec<u8>| PeerResponse {
            status,
            content_type: Some(CONTENT_TYPE.to_owned()),
            max_age_seconds: None,
            retry_after_seconds: None,
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
    /// Counts what has become durable.
    changed: watch::Receiver<u64>,
}

/// How the providers are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Nodes of each provider, which share its store.
    pub(crate) nodes: usize,
    /// There is no room for groups in memory.
    pub(crate) tiny_cache: bool,
}

pub(crate) struct World {
    setting: Setting,
    providers: BTreeMap<ProviderName, Provider>,
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
    pub(crate) async fn new(setting: Setting) -> Self {
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
            let name: ProviderName = name.parse().unwrap();
            let provider = Provider {
                keys: Keys::new(name.clone(), &secret).unwrap(),
                name: name.clone(),
                secret,
                store,
                changed,
            };
            providers.insert(name, provider);
        }
        let mut world = Self {
            setting,
            providers,
            wires,
            clock,
            environment,
            _folder: folder,
        };
        for name in PROVIDERS {
            world.start(&name.parse().unwrap()).await;
        }
        world
    }

    pub(crate) fn provider(&self, name: &ProviderName) -> &Provider {
        &self.providers[name]
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.environment.now_ms()
    }

    /// Lets time pass, for all.
    pub(crate) fn pass(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Starts the nodes of a provider.
    pub(crate) async fn start(&mut self, name: &ProviderName) {
        let provider = &self.providers[name];
        let mut nodes = Vec::new();
        for _ in 0..self.setting.nodes {
            let mut limits = Limits::default();
            if self.setting.tiny_cache {
                limits.max_cached_groups_bytes = 1;
            }
            let node = Node::start(Parts {
                ds_domain: name.to_string(),
                keys: Keys::new(name.clone(), &provider.secret).unwrap(),
                name: name.clone(),
                limits,
                registration: Registration::Open,
                peers: PeerRules::default(),
                environment: self.environment.clone(),
                store: provider.store.clone(),
                transport: self.wires.clone(),
                observer: Arc::new(Unobserved),
            });
            nodes.push(node.await.unwrap());
        }
        let mut all = self.wires.nodes.write().unwrap();
        all.insert(name.to_string(), nodes);
    }

    /// Ends the nodes of a provider.
    pub(crate) async fn stop(&mut self, name: &ProviderName) {
        let nodes = self.wires.nodes.write().unwrap().remove(name.as_str());
        for node in nodes.unwrap_or_default() {
            node.stop().await;
        }
    }

    pub(crate) fn is_running(&self, name: &ProviderName) -> bool {
        self.wires.node(name.as_str()).is_some()
    }

    /// Gives a provider a new key that groups know; it has to be started again.
    pub(crate) fn renew_group_keys(&mut self, name: &ProviderName) {
        let provider = self.providers.get_mut(name).unwrap();
        let random = &*self.environment.random;
        provider.secret = provider.secret.with_new_group_keys(random);
        provider.keys = Keys::new(name.clone(), &provider.secret).unwrap();
    }

    pub(crate) async fn end(mut self) {
        for name in PROVIDERS {
            self.stop(&name.parse().unwrap()).await;
        }
    }

    /// A provider is heard of by all nodes of the others, which try at once what they have for it.
    pub(crate) async fn sign_of_life(&self, name: &ProviderName) {
        let nodes = self.wires.nodes.read().unwrap().clone();
        for (other, nodes) in nodes.iter().filter(|(other, _)| *other != name.as_str()) {
            for node in nodes {
                let client = UserId::new(name, "nobody").and_then(|u| ClientId::new(&u, "d0"));
                let owner = other.parse().unwrap();
                let body = requests::external_commit_info(&GroupId::empty());
                let request = as_provider(self, &client.unwrap(), &owner, body);
                node.answer(request.body.endpoint(), request.encode().into())
                    .await;
            }
        }
    }

    /// Waits until nothing is on its way from a provider to another.
    pub(crate) async fn settle(&mut self) -> Check {
        for provider in self.providers.values_mut() {
            loop {
                provider.changed.mark_unchanged();
                let mut waiting = provider.store.outbox_lanes().await.unwrap();
                waiting.retain(|(name, _)| self.wires.node(name.as_str()).is_some());
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
        let provider = self.providers.get_mut(name).unwrap();
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

    fn node(&self, name: &ProviderName) -> Node {
        self.wires.node(name.as_str()).expect("it runs")
    }

    /// Has a request, which is signed, answered by its recipient.
    pub(crate) async fn ask(&self, request: &DsRequest) -> Result<DsResponseBody, DsError> {
        let node = self.node(&request.recipient);
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
        let node = self.node(&client.provider());
        node.read_queue(client, &read).await.unwrap().into_vec()
    }

    pub(crate) async fn acknowledge(&self, client: &ClientId, cursor: &Opaque<64>) {
        let cursor = cursor.clone();
        let node = self.node(&client.provider());
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

/// What a refusal says.
pub(crate) fn code_of<T>(answer: &Result<T, DsError>) -> Option<DsErrorCode> {
    answer.as_ref().err().map(|error| error.code)
}
