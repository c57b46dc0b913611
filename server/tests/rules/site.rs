//! The provider a.example, without sockets, that knows the keys of b.example and c.example and
//! reaches nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use moh_messages::{
    CONTENT_TYPE, CipherSuite, ClientId, DsAuth, DsErrorCode, DsRequest, DsRequestBody, DsResponse,
    DsResponseBody, Endpoint, ExternalSender, GroupId, GroupType, Message, ProviderAuth, Rbac,
    RequestGroupId, VerificationKeyResponse, WELL_KNOWN_PATH,
};
use moh_server::federation::{PeerRequest, PeerResponse, Transport, Unreachable};
use moh_server::group::Group;
use moh_server::observe::Unobserved;
use moh_server::store::{Embedded, EmbeddedOptions, OutboxRow, QueueRow, Store as _, StoredGroup};
use moh_server::{Environment, Keys, Limits, Node, Parts, SecretKeys};
use openmls::prelude::KeyPackage;
use tempfile::TempDir;

use crate::device::{Device, Founding, Made, Member, Plan, create_group, now_ms};
use crate::home::{Home, home_of, secret_keys};

pub(crate) const OTHERS: [&str; 2] = ["b.example", "c.example"];

pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) store: Arc<Embedded>,
    pub(crate) homes: BTreeMap<&'static str, Arc<Home>>,
    secret: SecretKeys,
    folder: TempDir,
}

/// Everything that a refused request must leave as it was.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct State {
    group: Option<StoredGroup>,
    outbox: Vec<Vec<OutboxRow>>,
    queues: Vec<Vec<QueueRow>>,
}

struct Peers(BTreeMap<&'static str, Arc<Home>>);

#[async_trait]
impl Transport for Peers {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let answer = |status, body: Vec<u8>| PeerResponse {
            status,
            content_type: Some(CONTENT_TYPE.to_owned()),
            max_age_seconds: None,
            body: body.into(),
        };
        let Some((&name, home)) = self.0.get_key_value(request.host.as_str()) else {
            return Err(Unreachable("nobody there".to_owned()));
        };
        if request.path == WELL_KNOWN_PATH {
            return Ok(answer(404, Vec::new()));
        }
        if request.path != Endpoint::VerificationKey.path() {
            return Err(Unreachable("not reached".to_owned()));
        }
        let response = VerificationKeyResponse {
            version: moh_messages::DsProtocolVersion::MOH1,
            provider: name.parse().unwrap(),
            keys: home.keys.verification_keys(now_ms()),
        };
        Ok(answer(200, response.encode()))
    }
}

async fn node(
    store: &Arc<Embedded>,
    secret: &SecretKeys,
    homes: &BTreeMap<&'static str, Arc<Home>>,
    limits: Limits,
) -> Node {
    let node = Node::start(Parts {
        name: "a.example".parse().unwrap(),
        ds_domain: "a.example".to_owned(),
        keys: Keys::new("a.example".parse().unwrap(), secret).unwrap(),
        limits,
        open_registration: true,
        environment: Environment::system(),
        store: store.clone(),
        transport: Arc::new(Peers(homes.clone())),
        observer: Arc::new(Unobserved),
    });
    node.await.unwrap()
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with(limits, EmbeddedOptions::default()).await
    }

    pub(crate) async fn with(limits: Limits, options: EmbeddedOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = secret_keys();
        let path = folder.path().join("a.sqlite");
        let store = Arc::new(Embedded::open(path, options).unwrap());
        let mut homes: BTreeMap<_, _> = OTHERS.map(|name| (name, home_of(name))).into();
        let node = node(&store, &secret, &homes, limits).await;
        homes.insert("a.example", Arc::new(Home::of("a.example", &secret)));
        Self {
            node,
            store,
            homes,
            secret,
            folder,
        }
    }

    /// Another node of the same provider.
    pub(crate) async fn another_node(&self) -> Node {
        node(&self.store, &self.secret, &self.homes, Limits::default()).await
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
        Arc::new(Device::with_suite(&id, &self.homes[provider], suite))
    }

    /// Asks; the answer, or the code of the refusal.
    pub(crate) async fn ask(&self, request: &DsRequest) -> Result<DsResponseBody, DsErrorCode> {
        let endpoint = request.body.endpoint();
        let answer = self.node.answer(endpoint, request.encode().into()).await;
        let response = DsResponse::decode(&answer.body).unwrap();
        match response.body {
            DsResponseBody::Error(error) => {
                assert_eq!(Some(answer.status), error.code.http_status());
                Err(error.code)
            }
            body => {
                assert_eq!(answer.status, 200);
                Ok(body)
            }
        }
    }

    /// A name for a group of a device.
    pub(crate) async fn group_id(&self, device: &Device) -> (GroupId, ExternalSender) {
        let body = DsRequestBody::RequestGroupId(RequestGroupId {
            cipher_suite: device.suite,
        });
        let auth = DsAuth::Provider {
            on_behalf_of: device.id.clone(),
            provider_auth: ProviderAuth::blank(),
        };
        let mut request = device.request(body, auth);
        let environment = Environment::system();
        let endpoint = Endpoint::GroupOperation;
        let own = &self.homes["a.example"].keys;
        own.sign_request(&environment, endpoint, &mut request, |r| {
            match &mut r.auth {
                DsAuth::Provider { provider_auth, .. } => Some(provider_auth),
                _ => None,
            }
        });
        match self.ask(&request).await.unwrap() {
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
        let founding = self.founding(device).await;
        self.found(
            device,
            Founding {
                group_type,
                rbac,
                ..founding
            },
        )
        .await
    }

    /// Adds devices in one commit; they join.
    pub(crate) async fn add(
        &self,
        by: &mut Member,
        devices: &[&Arc<Device>],
    ) -> (Vec<Member>, Made) {
        let key_packages: Vec<KeyPackage> = devices.iter().map(|d| d.key_package()).collect();
        let references: Vec<_> = devices
            .iter()
            .zip(&key_packages)
            .map(|(device, key_package)| device.reference(key_package))
            .collect();
        let made = by.commit(Plan {
            add: key_packages,
            ..Plan::default()
        });
        self.ask(&by.ask(made.as_add())).await.unwrap();
        by.accept();
        let group_id = GroupId::new(by.group.group_id().as_slice()).unwrap();
        let mut members = Vec::new();
        for (device, reference) in devices.iter().zip(references) {
            let request = device.welcome_info(&group_id, by.epoch(), &reference);
            let DsResponseBody::WelcomeInfo { ratchet_tree, .. } =
                self.ask(&request).await.unwrap()
            else {
                panic!("not welcome_info");
            };
            let welcome = made.welcome.as_ref().unwrap();
            members.push(device.join(welcome.as_slice(), ratchet_tree.as_slice()));
        }
        (members, made)
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

    /// What is durable of a group, of these clients' queues, and on its way to other providers.
    pub(crate) async fn state(&self, group: &[u8], clients: &[&ClientId]) -> State {
        let group_id = GroupId::new(group).unwrap();
        let mut outbox = Vec::new();
        for other in OTHERS {
            let destination = other.parse().unwrap();
            outbox.push(
                self.store
                    .outbox(&destination, 1000, 1 << 30)
                    .await
                    .unwrap(),
            );
        }
        let mut queues = Vec::new();
        for client in clients {
            queues.push(self.store.queue(client, 0, 1000, 1 << 30).await.unwrap());
        }
        State {
            group: self.store.group(&group_id).await.unwrap(),
            outbox,
            queues,
        }
    }

    /// The group as it is stored.
    pub(crate) async fn stored(&self, member: &Member) -> Group {
        let group_id = GroupId::new(member.group.group_id().as_slice()).unwrap();
        let stored = self.store.group(&group_id).await.unwrap().unwrap();
        Group::restore(&stored).unwrap()
    }
}
