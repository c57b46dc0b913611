//! A provider, what waits in its outbox, and virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moh_messages::{
    ClientQueueInformation, DeliveryId, DsProtocolVersion, Endpoint, GroupId, List, Message,
    MlsBytes, ProviderAuth, ProviderName, QueuePayload, QueueingServiceRequest, Recipients,
    audience_digest,
};
use moh_server::change::{Change, OutboxBounds, OutboxDelivery, Write, outbox_lane};
use moh_server::clock::{Clock, Random, Work};
use moh_server::config::Registration;
use moh_server::federation::PeerPolicy;
use moh_server::observe::Unobserved;
use moh_server::outbox::{PeerState, PeerStatus};
use moh_server::store::{Embedded, EmbeddedOptions, OutboxRow, Store};
use moh_server::{Environment, Keys, Limits, Node, Parts, SecretKeys};
use tokio::time::{Instant, sleep};

use crate::peer::Peers;

/// When everything begins.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// What every test can wait for: without any failure, it is less than a second.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Time as tokio has it.
struct Virtual(Instant);

impl Clock for Virtual {
    fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// What is random, from a seed.
struct Seeded(Mutex<u64>);

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in bytes {
            // SplitMix64.
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z ^ (z >> 31)).to_le_bytes()[0];
        }
    }
}

pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) store: Arc<Embedded>,
    pub(crate) peers: Arc<Peers>,
    limits: Limits,
    environment: Environment,
    secret: SecretKeys,
    theirs: BTreeMap<&'static str, Arc<Keys>>,
    last_id: Mutex<u128>,
}

/// The others.
const PEERS: [&str; 3] = ["b.example", "c.example", "d.example"];

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let environment = Environment {
            clock: Arc::new(Virtual(Instant::now())),
            random: Arc::new(Seeded(Mutex::new(1))),
            work: Work::Inline,
        };
        let secret = SecretKeys::generate(&*environment.random);
        let keys = |name: &str| {
            let secret = SecretKeys::generate(&*environment.random);
            Arc::new(Keys::new(name.parse().unwrap(), &secret).unwrap())
        };
        let theirs: BTreeMap<_, _> = PEERS.map(|name| (name, keys(name))).into();
        let store = Embedded::open_in_memory(EmbeddedOptions::default()).unwrap();
        let (store, peers) = (Arc::new(store), Peers::of(theirs.clone()));
        let node = start(&limits, &environment, &secret, &store, &peers).await;
        Self {
            node,
            store,
            peers,
            limits,
            environment,
            secret,
            theirs,
            last_id: Mutex::new(0),
        }
    }

    /// The provider ends and starts again.
    pub(crate) async fn restart(&mut self) {
        self.node.stop().await;
        let (limits, environment) = (&self.limits, &self.environment);
        self.node = start(limits, environment, &self.secret, &self.store, &self.peers).await;
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.environment.now_ms()
    }

    /// Texts for a group's audience at another provider wait in the outbox, as by a request.
    pub(crate) async fn put(&self, peer: &str, group: &str, texts: &[&str]) {
        self.put_unseen(peer, group, texts).await;
        self.wake().await;
    }

    /// The same, as if the provider had died before it could say so to anybody.
    pub(crate) async fn put_unseen(&self, peer: &str, group: &str, texts: &[&str]) {
        let queue = ClientQueueInformation::new(group.as_bytes()).unwrap();
        let recipients = Recipients::new(vec![queue]).unwrap();
        let digest = audience_digest(&recipients);
        let destination: ProviderName = peer.parse().unwrap();
        let mut writes = vec![Write::OutboxAudience {
            digest: digest.clone(),
            recipients: recipients.encode(),
        }];
        for text in texts {
            let id = {
                let mut last = self.last_id.lock().unwrap();
                *last += 1;
                *last
            };
            let message = MlsBytes::new(text.as_bytes()).unwrap();
            writes.push(Write::Outbox(OutboxDelivery {
                destination: destination.clone(),
                group_id: GroupId::new(group.as_bytes()).unwrap(),
                delivery_id: DeliveryId::new(id.to_be_bytes()).unwrap(),
                digest: digest.clone(),
                except: None,
                created_at: self.now_ms(),
                payload: QueuePayload::MlsMessage(message).encode(),
            }));
            writes.push(Write::OutboxBounds {
                destination: destination.clone(),
                bounds: OutboxBounds {
                    waiting_bytes: self.limits.max_outbox_bytes_per_peer,
                    set_aside_bytes: self.limits.max_set_aside_bytes_per_peer,
                    set_aside: 100,
                },
                at: self.now_ms(),
            });
        }
        let expect = Vec::new();
        self.store.commit(Change { expect, writes }).await.unwrap();
    }

    /// The lanes look again, as after every change.
    pub(crate) async fn wake(&self) {
        self.node.set_peer_policy(PeerPolicy::default()).await;
    }

    /// Everything that waits for another provider, oldest first.
    pub(crate) async fn waiting(&self, peer: &str) -> Vec<OutboxRow> {
        let mut rows = Vec::new();
        for (destination, lane) in self.store.outbox_lanes().await.unwrap() {
            if destination.as_str() == peer {
                let but = [].into();
                let lane = self
                    .store
                    .outbox(&destination, lane, &but, 100_000, 1 << 30);
                rows.extend(lane.await.unwrap());
            }
        }
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// Nothing waits for another provider within a time.
    pub(crate) async fn empties(&self, peer: &str, within: Duration) {
        let deadline = Instant::now() + within;
        while !self.waiting(peer).await.is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.status(peer).await);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What an operator is told of another provider.
    pub(crate) async fn status(&self, peer: &str) -> Option<PeerStatus> {
        let all = self.node.peers(None, 100).await.unwrap();
        all.into_iter().find(|s| s.provider.as_str() == peer)
    }

    /// What is done about it.
    pub(crate) async fn state(&self, peer: &str) -> PeerState {
        self.status(peer).await.unwrap().state
    }

    /// Another provider makes a request.
    pub(crate) async fn hears_of(&self, peer: &str) {
        let mut request = QueueingServiceRequest {
            version: DsProtocolVersion::MOH1,
            sender: peer.parse().unwrap(),
            recipient: self.node.name().clone(),
            deliveries: List::empty(),
            provider_auth: ProviderAuth::blank(),
        };
        let endpoint = Endpoint::DeliverMessage;
        self.theirs[peer].sign_request(&self.environment, endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
        let answer = self.node.answer(endpoint, request.encode().into()).await;
        assert_eq!(answer.status, 200);
    }
}

async fn start(
    limits: &Limits,
    environment: &Environment,
    secret: &SecretKeys,
    store: &Arc<Embedded>,
    peers: &Arc<Peers>,
) -> Node {
    let name: ProviderName = "a.example".parse().unwrap();
    let parts = Parts {
        ds_domain: name.to_string(),
        keys: Keys::new(name.clone(), secret).unwrap(),
        name,
        limits: limits.clone(),
        registration: Registration::Open,
        peers: Default::default(),
        environment: environment.clone(),
        store: store.clone(),
        transport: peers.clone(),
        observer: Arc::new(Unobserved),
    };
    Node::start(parts).await.unwrap()
}

/// The names of so many groups in a lane.
pub(crate) fn groups_in(lane: u8, many: usize) -> Vec<String> {
    let names = (0..).map(|number: u32| format!("group {number}"));
    let names = names.filter(|name| outbox_lane(name.as_bytes()) == lane);
    names.take(many).collect()
}

/// Time passes.
pub(crate) async fn pass(time: Duration) {
    sleep(time).await;
}
