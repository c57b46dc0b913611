//! Real providers on real sockets of this machine, and what a test does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moh_client::{Client, ClientId, ConnectOptions, NewDevice, ProviderName, UserId};
use moh_server::clock::Clock;
use moh_server::config::Registration;
use moh_server::federation::{HttpsOptions, HttpsTransport, Override, PeerRules};
use moh_server::http::{Listener, tls_config};
use moh_server::observe::{Observer, RequestEvent};
use moh_server::store::{Embedded, EmbeddedOptions, OutboxRow, Store};
use moh_server::tls::{Certificates, Identity, Trust};
use moh_server::{Environment, Keys, Limits, Node, Parts, SecretKeys};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::wire::Wire;

/// Nothing takes longer than this, however slow the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How many KeyPackages each client has at its provider, besides the last resort.
const KEY_PACKAGES: usize = 4;

/// Providers, and the folder that everything of theirs and of their clients' is in.
pub(crate) struct World {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
    overrides: Vec<Override>,
    clock: Arc<dyn Clock>,
    providers: BTreeMap<&'static str, Provider>,
}

/// A provider, running or not.
pub(crate) struct Provider {
    name: &'static str,
    pub(crate) address: SocketAddr,
    certificate: Certificate,
    tls: Arc<ServerConfig>,
    peers: PeerRules,
    secret: SecretKeys,
    pub(crate) limits: Limits,
    environment: Environment,
    path: PathBuf,
    /// Between this provider and the others.
    pub(crate) wire: Arc<Wire>,
    /// What it has answered.
    pub(crate) answers: Arc<Answers>,
    listening: Option<Listening>,
    running: Option<Running>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Certificate {
    chain: String,
    key: String,
}

impl Certificate {
    /// Of these domains, by an authority.
    pub(crate) fn of(names: &[&str], ca: &CertifiedIssuer<'static, KeyPair>) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        Self {
            chain: params.signed_by(&key, ca).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }

    pub(crate) fn chain(&self) -> &str {
        &self.chain
    }

    /// Both in one.
    pub(crate) fn pem(&self) -> String {
        format!("{}{}", self.chain, self.key)
    }

    fn tls(&self, certificates: Certificates) -> Arc<ServerConfig> {
        tls_config(self.chain.as_bytes(), self.key.as_bytes(), certificates).unwrap()
    }
}

/// A certificate authority.
pub(crate) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Counts the answers of a provider, by operation and result.
#[derive(Default)]
pub(crate) struct Answers(Mutex<BTreeMap<(&'static str, String), usize>>);

impl Answers {
    /// All that were not `ok` so far, in words.
    pub(crate) fn refusals(&self) -> BTreeMap<(&'static str, String), usize> {
        let mut answers = self.0.lock().unwrap().clone();
        answers.retain(|(_, result), _| result != "ok");
        answers
    }
}

impl Observer for Answers {
    fn answered(&self, event: &RequestEvent) {
        let mut answers = self.0.lock().unwrap();
        let key = (event.operation, event.result.clone());
        *answers.entry(key).or_default() += 1;
    }
}

struct Listening {
    stop: CancellationToken,
    served: JoinHandle<()>,
}

struct Running {
    node: Node,
    store: Arc<Embedded>,
}

/// An address of this machine that no other test has, so that a port can be taken again.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    if cfg!(target_os = "linux") {
        let [_, low] = u16::try_from(std::process::id() % 0x7fff)
            .expect("less")
            .to_be_bytes();
        Ipv4Addr::new(127, 77, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

impl World {
    /// Starts providers of these names.
    pub(crate) async fn of(names: &[&'static str]) -> Self {
        let limits = Limits {
            // Nobody is told to upload KeyPackages.
            low_key_packages: 0,
            ..Limits::default()
        };
        Self::with_limits(names, limits).await
    }

    /// Starts providers that take only so much.
    pub(crate) async fn with_limits(names: &[&'static str], limits: Limits) -> Self {
        Self::with_clock(names, limits, Environment::system().clock).await
    }

    /// Starts providers for whom, and for whose clients, it is what time this clock says.
    pub(crate) async fn with_clock(
        names: &[&'static str],
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority();
        let trust = Trust::new(&[ca.pem().into_bytes()]).unwrap();
        let ip = own_address();
        let mut listeners = Vec::new();
        for &name in names {
            let certificate = Certificate::of(&[name], &ca);
            let tls = certificate.tls(Certificates::NotAsked);
            let listener = Listener::bind(SocketAddr::new(ip, 0), tls.clone()).await;
            listeners.push((name, certificate, tls, listener.unwrap()));
        }
        let overrides: Vec<_> = listeners
            .iter()
            .map(|(name, _, _, listener)| Override {
                host: (*name).to_owned(),
                address: listener.address(),
            })
            .collect();
        let mut providers = BTreeMap::new();
        for (name, certificate, tls, listener) in listeners {
            let options = HttpsOptions {
                trust: trust.clone(),
                identity: Some(certificate.identity()),
                overrides: overrides.clone(),
                allow_private_addresses: true,
                timeout: Duration::from_millis(limits.peer_request_ms),
                connect_timeout: Duration::from_millis(limits.peer_connect_ms),
            };
            let mut provider = Provider {
                name,
                address: listener.address(),
                certificate,
                tls,
                peers: PeerRules::default(),
                secret: SecretKeys::generate(&*Environment::system().random),
                limits: limits.clone(),
                environment: Environment {
                    clock: Arc::clone(&clock),
                    ..Environment::system()
                },
                path: folder.path().join(format!("{name}.sqlite")),
                wire: Arc::new(Wire::over(HttpsTransport::new(&options).unwrap())),
                answers: Arc::default(),
                listening: None,
                running: None,
            };
            provider.run().await;
            provider.serve(listener);
            providers.insert(name, provider);
        }
        Self {
            folder,
            ca,
            overrides,
            clock,
            providers,
        }
    }

    pub(crate) fn provider(&self, name: &str) -> &Provider {
        &self.providers[name]
    }

    pub(crate) fn provider_mut(&mut self, name: &str) -> &mut Provider {
        self.providers.get_mut(name).unwrap()
    }

    /// Whom the providers trust.
    pub(crate) fn trust(&self) -> Trust {
        Trust::new(&[self.ca.pem().into_bytes()]).unwrap()
    }

    /// The authority that has certified the providers, as PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// A certificate by the authority of the providers.
    pub(crate) fn certificate(&self, names: &[&str]) -> Certificate {
        Certificate::of(names, &self.ca)
    }

    /// How the providers are reached, by somebody without a certificate.
    pub(crate) fn https(&self) -> HttpsOptions {
        HttpsOptions {
            overrides: self.overrides.clone(),
            ..HttpsOptions::new(self.trust())
        }
    }

    fn options(&self, provider: &ProviderName) -> ConnectOptions {
        let address = self.provider(provider.as_str()).address;
        ConnectOptions::new(provider.clone())
            .root_certificate_pem(self.ca.pem())
            .resolve(provider.as_str(), address)
            .timeout(PATIENCE)
            .clock(OfProviders(Arc::clone(&self.clock)))
    }

    /// The first client of a new user, as `user@provider`, with KeyPackages at its provider.
    pub(crate) async fn user(&self, name: &str) -> Client {
        let user = user_id(name);
        let path = self.folder.path().join(format!("{name}-phone"));
        let options = self.options(&user.provider());
        let client = Client::register(options, path, &user, "phone").await;
        let client = client.unwrap();
        client.refill_key_packages(KEY_PACKAGES).await.unwrap();
        client
    }

    /// A further client of a user.
    pub(crate) async fn device(&self, of: &Client, device: &str) -> Client {
        let user = of.user_id();
        let path = self.folder.path().join(format!("{}-{device}", user.user()));
        let id = ClientId::new(user, device).unwrap();
        let new = NewDevice::prepare(self.options(&user.provider()), path, id);
        let new = new.await.unwrap();
        let authorization = of.authorize(&new.request()).unwrap();
        let client = new.register(authorization).await.unwrap();
        client.refill_key_packages(KEY_PACKAGES).await.unwrap();
        client
    }

    /// A group of `creator` with all of these users, who have not fetched their Welcomes yet.
    pub(crate) async fn group(&self, creator: &Client, others: &[&Client]) -> moh_client::GroupId {
        let group = creator.create_group().await.unwrap();
        for other in others {
            let consented = other.set_consent(creator.user_id(), true).await;
            consented.unwrap();
            let added = creator.add_user(&group, other.user_id()).await;
            added.unwrap();
        }
        group
    }

    /// Ends everything.
    pub(crate) async fn end(mut self) {
        for provider in self.providers.values_mut() {
            provider.stop().await;
        }
    }
}

/// The clock of the providers, for clients.
struct OfProviders(Arc<dyn Clock>);

impl moh_client::Clock for OfProviders {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }
}

impl Provider {
    /// The keys that it has after the next start: one more than before, made at that time.
    pub(crate) fn rotate_keys(&mut self, at: u64) {
        let random = &*self.environment.random;
        (self.secret, _) = self.secret.with_new_request_key(random, at).unwrap();
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(crate) fn node(&self) -> &Node {
        &self.running.as_ref().expect("it runs").node
    }

    pub(crate) fn store(&self) -> &Embedded {
        &self.running.as_ref().expect("it runs").store
    }

    /// Its keys, for requests in its name.
    pub(crate) fn keys(&self) -> Keys {
        Keys::new(self.name.parse().unwrap(), &self.secret).unwrap()
    }

    /// Everything that waits for another provider, oldest first.
    pub(crate) async fn waiting_for(&self, other: &str) -> Vec<OutboxRow> {
        let mut rows = Vec::new();
        for (destination, lane) in self.store().outbox_lanes().await.unwrap() {
            if destination.as_str() == other {
                let but = BTreeSet::new();
                let lane = self
                    .store()
                    .outbox(&destination, lane, &but, 10_000, 1 << 30);
                rows.extend(lane.await.unwrap());
            }
        }
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// The file with what is durable.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    async fn run(&mut self) {
        // The connections of its last life may take a moment to let go of the file.
        let deadline = Instant::now() + PATIENCE;
        let store = loop {
            match Embedded::open(&self.path, EmbeddedOptions::default()) {
                Ok(store) => break Arc::new(store),
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let name: ProviderName = self.name.parse().unwrap();
        let node = Node::start(Parts {
            ds_domain: format!("{name}:{}", self.address.port()),
            keys: self.keys(),
            name,
            limits: self.limits.clone(),
            registration: Registration::Open,
            peers: self.peers.clone(),
            environment: self.environment.clone(),
            store: store.clone(),
            transport: self.wire.clone(),
            observer: self.answers.clone(),
        });
        let node = node.await.unwrap();
        self.running = Some(Running { node, store });
    }

    fn serve(&mut self, listener: Listener) {
        let stop = CancellationToken::new();
        let served = tokio::spawn(listener.serve(self.node().clone(), stop.clone()));
        self.listening = Some(Listening { stop, served });
    }

    /// From now on, other providers have to show certificates; it starts again.
    pub(crate) async fn demand_certificates(&mut self, trust: Trust) {
        self.stop().await;
        self.peers.certificates = Some(trust);
        self.tls = self.certificate.tls(Certificates::Asked);
        self.start().await;
    }

    /// Takes no connections any more, and ends those that there are.
    pub(crate) async fn unplug(&mut self) {
        if let Some(Listening { stop, served }) = self.listening.take() {
            stop.cancel();
            served.await.unwrap();
        }
    }

    /// Takes connections again, at the same address.
    pub(crate) async fn plug_in(&mut self) {
        let listener = Listener::bind(self.address, self.tls.clone()).await;
        self.serve(listener.unwrap());
    }

    /// Ends.
    pub(crate) async fn stop(&mut self) {
        if let Some(Running { node, store }) = self.running.take() {
            tokio::join!(node.stop(), self.unplug());
            drop((node, store));
        }
    }

    /// Starts again, with the same store, keys and address.
    pub(crate) async fn start(&mut self) {
        self.run().await;
        self.plug_in().await;
    }
}

/// `user@provider`.
pub(crate) fn user_id(name: &str) -> UserId {
    let (user, provider) = name.split_once('@').unwrap();
    UserId::new(&provider.parse().unwrap(), user).unwrap()
}
