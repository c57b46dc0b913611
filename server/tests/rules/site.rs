//! The provider a.example, without sockets, that knows the keys of b.example and c.example and
//! reaches nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moh_messages::client_api::QueueItemPayload;
use moh_messages::{
    CipherSuite, DsError, DsErrorCode, DsRequest, DsRequestBody, DsResponse, DsResponseBody,
    ExternalSender, GroupId, GroupType, Message, ProviderName, QueuePayload, Rbac, Recipients,
    RequestGroupId,
};
use moh_server::change::OutboxDelivery;
use moh_server::config::Registration;
use moh_server::federation::PeerRules;
use moh_server::group::Group;
use moh_server::observe::Unobserved;
use moh_server::store::{Embedded, EmbeddedOptions, OutboxRow, Store};
use moh_server::{Environment, Keys, Limits, Node, Parts, SecretKeys};
use openmls::prelude::KeyPackage;
use tempfile::TempDir;

use crate::clock::Clock;
use crate::device::{Device, Founding, create_group};
use crate::home::{Home, secret_keys};
use crate::made::Made;
use crate::member::{Member, Plan};
use crate::peers::{self, Peers};
use crate::state::State;

pub(crate) const OTHERS: [&str; 2] = ["b.example", "c.example"];
/// Nothing takes longer than this, however slow the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) store: Arc<Embedded>,
    pub(crate) homes: BTreeMap<&'static str, Arc<Home>>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) clock: Arc<Clock>,
    limits: Limits,
    registration: Registration,
    secret: SecretKeys,
    folder: TempDir,
    /// All devices that were ever made.
    devices: Mutex<Vec<Arc<Device>>>,
}

/// For each client, the messages that were delivered to it, or wait for it in an outbox.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Mail(BTreeMap<String, Vec<Vec<u8>>>);

impl Mail {
    /// What there is besides.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let news = self.0.iter().filter_map(|(client, all)| {
            let old = before.0.get(client).map_or(0, Vec::len);
            let new = &all[old..];
            (!new.is_empty()).then(|| (client.clone(), new.to_vec()))
        });
        Self(news.collect())
    }

    /// These messages for each of these clients.
    pub(crate) fn of<'a>(
        clients: impl IntoIterator<Item = &'a Arc<Device>>,
        messages: &[&[u8]],
    ) -> Self {
        let messages: Vec<_> = messages.iter().map(|message| message.to_vec()).collect();
        let all = clients.into_iter();
        Self(all.map(|d| (d.id.to_string(), messages.clone())).collect())
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        for (client, messages) in other.0 {
            self.0.entry(client).or_default().extend(messages);
        }
        self
    }

    pub(crate) fn to(&self, device: &Device) -> &[Vec<u8>] {
        self.0.get(device.id.as_str()).map_or(&[], Vec::as_slice)
    }
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with(limits, EmbeddedOptions::default()).await
    }

    pub(crate) async fn with(limits: Limits, options: EmbeddedOptions) -> Self {
        Self::with_registration(Registration::Open, limits, options).await
    }

    /// One that lets these become users.
    pub(crate) async fn of(registration: Registration) -> Self {
        let (limits, options) = (Limits::default(), EmbeddedOptions::default());
        Self::with_registration(registration, limits, options).await
    }

    async fn with_registration(
        registration: Registration,
        limits: Limits,
        options: EmbeddedOptions,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        let environment = Environment {
            clock: clock.clone(),
            ..Environment::system()
        };
        let secret = secret_keys();
        let home = |name: &'static str, secret: &SecretKeys| {
            let home = Home::of(name, secret, environment.clone());
            (name, Arc::new(home))
        };
        let mut homes: BTreeMap<_, _> = OTHERS.map(|name| home(name, &secret_keys())).into();
        let peers = Peers::of(&homes);
        homes.extend([home("a.example", &secret)]);
        let store = Arc::new(Embedded::open(folder.path().join("a.sqlite"), options).unwrap());
        let parts = Parts {
            registration,
            ..parts(&limits, &secret, &environment, &store, &peers)
        };
        Self {
            node: Node::start(parts).await.unwrap(),
            registration,
            store,
            homes,
            peers,
            clock,
            limits,
            secret,
            folder,
            devices: Mutex::default(),
        }
    }

    /// Another node of the same provider.
    pub(crate) async fn another_node(&self) -> Node {
        let environment = &self.homes["a.example"].environment;
        let (limits, secret) = (&self.limits, &self.secret);
        let parts = Parts {
            registration: self.registration,
            ..parts(limits, secret, environment, &self.store, &self.peers)
        };
        Node::start(parts).await.unwrap()
    }

    /// Ends, and starts with what is durable.
    pub(crate) async fn restart(&mut self) {
        self.node.stop().await;
        self.node = self.another_node().await;
    }

    /// The other providers take what is sent to them: what nobody takes is set aside one day.
    pub(crate) fn open_peers(&self) {
        for other in OTHERS {
            self.peers.open(other);
        }
    }

    /// Waits until the others have taken what is for them, if they do.
    pub(crate) async fn settle(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for other in OTHERS.into_iter().filter(|other| self.peers.is_open(other)) {
            let provider = other.parse().unwrap();
            while !waiting_for(&*self.store, &provider).await.is_empty() {
                assert!(tokio::time::Instant::now() < deadline, "{other}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Time passes, when everything has been delivered.
    pub(crate) async fn pass(&self, ms: u64) {
        self.settle().await;
        self.clock.pass(ms);
    }

    /// The keys that it has after the next start.
    pub(crate) fn set_secret_keys(&mut self, secret: SecretKeys) {
        let environment = self.homes["a.example"].environment.clone();
        let home = Home::of("a.example", &secret, environment);
        self.homes.insert("a.example", Arc::new(home));
        self.secret = secret;
    }

    pub(crate) fn secret_keys(&self) -> &SecretKeys {
        &self.secret
    }

    pub(crate) async fn end(self) {
        self.node.stop().await;
        drop(self.folder);
    }

    /// `user/device@provider`.
    pub(crate) fn device(&self, name: &str) -> Arc<Device> {
        self.device_with(name, CipherSuite::X25519_AES128GCM_ED25519)
    }

    pub(crate) fn device_with(&self, name: &str, suite: CipherSuite) -> Arc<Device> {
        let (client, provider) = name.split_once('@').unwrap();
        let id = format!("mimi://{provider}/d/{client}");
        let device = Device::with_suite(&id, &self.homes[provider], suite);
        let device = Arc::new(device);
        self.devices.lock().unwrap().push(device.clone());
        device
    }

    /// Asks; the answer, or the refusal.
    pub(crate) async fn answer(&self, request: &DsRequest) -> Result<DsResponseBody, DsError> {
        let endpoint = request.body.endpoint();
        let answer = self.node.answer(endpoint, request.encode().into()).await;
        let response = DsResponse::decode(&answer.body).unwrap();
        match response.body {
            DsResponseBody::Error(error) => {
                assert_eq!(Some(answer.status), error.code.http_status());
                Err(error)
            }
            body => {
                assert_eq!(answer.status, 200);
                Ok(body)
            }
        }
    }

    /// Asks; the answer, or the code of the refusal.
    pub(crate) async fn ask(&self, request: &DsRequest) -> Result<DsResponseBody, DsErrorCode> {
        self.answer(request).await.map_err(|error| error.code)
    }

    /// A request by the provider of a device, on its behalf.
    pub(crate) fn on_behalf_of(&self, device: &Device, body: DsRequestBody) -> DsRequest {
        device.home.request(&device.id, body)
    }

    /// A name for a group of a device.
    pub(crate) async fn group_id(&self, device: &Device) -> (GroupId, ExternalSender) {
        let body = DsRequestBody::RequestGroupId(RequestGroupId {
            cipher_suite: device.suite,
        });
        match self.ask(&self.on_behalf_of(device, body)).await.unwrap() {
            DsResponseBody::GroupId {
                group_id,
                ds_sender,
            } => (group_id, ds_sender),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn founding(&self, device: &Device) -> Founding {
        let (group_id, ds_sender) = self.group_id(device).await;
        Founding {
            group_id,
            group_type: GroupType::Regular,
            ds_sender,
            rbac: None,
        }
    }

    /// A group of one.
    pub(crate) async fn group_of(&self, device: &Arc<Device>) -> Member {
        let founding = self.founding(device).await;
        self.found(device, founding).await
    }

    pub(crate) async fn found(&self, device: &Arc<Device>, founding: Founding) -> Member {
        let (member, info) = device.found(&founding);
        let body = create_group(&founding, &member.own_leaf(), &info);
        self.ask(&device.as_leaf(0, body)).await.unwrap();
        member
    }

    /// A connection group, or one with admins.
    pub(crate) async fn special_group(
        &self,
        device: &Arc<Device>,
        group_type: GroupType,
        rbac: Option<Rbac>,
    ) -> Member {
        let founding = Founding {
            group_type,
            rbac,
            ..self.founding(device).await
        };
        self.found(device, founding).await
    }

    /// Adds devices of users who have no leaf in one commit; they join.
    pub(crate) async fn add(
        &self,
        by: &mut Member,
        devices: &[&Arc<Device>],
    ) -> (Vec<Member>, Made) {
        let key_packages: Vec<KeyPackage> = devices.iter().map(|d| d.key_package()).collect();
        let made = by.commit(Plan::add(key_packages.clone()));
        self.ask(&by.ask(made.as_add())).await.unwrap();
        by.accept();
        let mut members = Vec::new();
        for (device, key_package) in devices.iter().zip(&key_packages) {
            members.push(self.join(device, key_package, by, &made).await);
        }
        (members, made)
    }

    /// Joins by a commit that was accepted, with the tree that the provider has.
    pub(crate) async fn join(
        &self,
        device: &Arc<Device>,
        key_package: &KeyPackage,
        by: &Member,
        made: &Made,
    ) -> Member {
        let reference = device.reference(key_package);
        let request = device.welcome_info(&by.group_id(), by.epoch(), &reference);
        let DsResponseBody::WelcomeInfo { ratchet_tree, .. } = self.ask(&request).await.unwrap()
        else {
            panic!("not welcome_info");
        };
        let welcome = made.welcome.as_ref().unwrap();
        let mut member = device.join(welcome.as_slice(), ratchet_tree.as_slice());
        member.heard = self.mail().await.to(device).len();
        member
    }

    /// An update of a member, which the others hear of.
    pub(crate) async fn update(&self, by: &mut Member, others: &mut [&mut Member]) {
        let made = by.commit(Plan::default());
        self.ask(&by.ask(made.as_update())).await.unwrap();
        by.accept();
        for other in others {
            other.hear(&made.commit);
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.sqlite")
    }

    /// Everything that is durable.
    pub(crate) fn state(&self) -> State {
        State::read(&self.path())
    }

    /// What every client has got so far: at this provider; or what another one has taken for it,
    /// and then what still waits for that.
    pub(crate) async fn mail(&self) -> Mail {
        // In this order, nothing is seen before what was there first.
        let mut mail = self.own_mail().await;
        let mut waiting = Vec::new();
        for other in OTHERS {
            let provider = other.parse().unwrap();
            waiting.extend(waiting_for(&*self.store, &provider).await);
        }
        let (taken, deliveries) = self.peers.taken();
        for (client, messages) in taken {
            mail.0.insert(client.to_string(), messages);
        }
        for row in waiting {
            if !deliveries.contains(&row.delivery().unwrap().delivery_id) {
                self.add_waiting(row.delivery().unwrap(), &mut mail).await;
            }
        }
        mail
    }

    async fn own_mail(&self) -> Mail {
        let mut mail = Mail::default();
        let devices = self.devices.lock().unwrap().clone();
        let ids: BTreeSet<_> = devices.iter().map(|d| d.id.clone()).collect();
        for id in ids {
            let rows = self.store.queue(&id, 0, 100_000, 1 << 30).await.unwrap();
            let payloads = rows.into_iter().filter_map(|row| {
                match QueueItemPayload::decode(&row.payload).unwrap() {
                    QueueItemPayload::MlsMessage(message) => Some(message.into_vec()),
                    _ => None,
                }
            });
            mail.0.insert(id.to_string(), payloads.collect());
        }
        mail
    }

    async fn add_waiting(&self, delivery: &OutboxDelivery, mail: &mut Mail) {
        let home = &self.homes[delivery.destination.as_str()];
        let recipients = self.store.outbox_audience(&delivery.digest).await;
        let recipients = Recipients::decode(&recipients.unwrap().unwrap()).unwrap();
        let payload = QueuePayload::decode(&delivery.payload).unwrap();
        for (position, sealed) in (0..).zip(recipients.iter()) {
            let client = home.keys.open_queue(sealed).unwrap();
            if delivery.except != Some(position) {
                let all = mail.0.entry(client.to_string()).or_default();
                all.extend(peers::message(&payload));
            }
        }
    }

    /// Waits until mail has come that will do.
    pub(crate) async fn mail_when(&self, will_do: impl Fn(&Mail) -> bool) -> Mail {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mail = self.mail().await;
            if will_do(&mail) {
                return mail;
            }
            assert!(tokio::time::Instant::now() < deadline, "no such mail");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The group as it is stored.
    pub(crate) async fn stored(&self, member: &Member) -> Group {
        let stored = self.store.group(&member.group_id()).await.unwrap().unwrap();
        Group::restore(&stored).unwrap()
    }
}

fn parts(
    limits: &Limits,
    secret: &SecretKeys,
    environment: &Environment,
    store: &Arc<Embedded>,
    peers: &Arc<Peers>,
) -> Parts {
    Parts {
        name: "a.example".parse().unwrap(),
        ds_domain: "a.example".to_owned(),
        keys: Keys::new("a.example".parse().unwrap(), secret).unwrap(),
        limits: limits.clone(),
        registration: Registration::Open,
        peers: PeerRules::default(),
        environment: environment.clone(),
        store: store.clone(),
        transport: peers.clone(),
        observer: Arc::new(Unobserved),
    }
}

/// Everything that waits for a provider, oldest first.
pub(crate) async fn waiting_for(store: &dyn Store, provider: &ProviderName) -> Vec<OutboxRow> {
    let mut rows = Vec::new();
    for (destination, lane) in store.outbox_lanes().await.unwrap() {
        if destination == *provider {
            let but = BTreeSet::new();
            let lane = store.outbox(provider, lane, &but, 100_000, 1 << 30);
            rows.extend(lane.await.unwrap());
        }
    }
    rows.sort_by_key(|row| row.id);
    rows
}
