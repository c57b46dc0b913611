//! Every operation, as a request that would be accepted: for the rules that they have in common.

use std::sync::Arc;

use moh_messages::{
    CipherSuite, DsAuth, DsRequest, DsRequestBody, ExternalCommitInfo, KeyPackageRef,
    RequestGroupId, Signature, WelcomeInfo,
};

use crate::device::{Device, create_group};
use crate::made::Made;
use crate::member::{Plan, self_remove};
use crate::parts;
use crate::scene::{ALICE, ALL, BOB, BOBS_LAPTOP, CAROL, Scene, admins};

/// A group in which every operation can be tried: Alice is its admin, and Dave was added to it
/// and has not joined yet.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) dave: Arc<Device>,
    pub(crate) reference: KeyPackageRef,
}

/// How a request is signed.
#[derive(Clone)]
pub(crate) enum By {
    /// As a leaf.
    Leaf(Arc<Device>, u32),
    /// As who was added with a KeyPackage.
    KeyPackage(Arc<Device>, KeyPackageRef),
    /// By the client's provider.
    Provider(Arc<Device>),
}

/// A request that would be accepted.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) by: By,
    pub(crate) body: DsRequestBody,
    pub(crate) commit: Option<Commit>,
}

/// The commit in one.
pub(crate) struct Commit {
    pub(crate) made: Made,
    /// Who commits.
    pub(crate) device: Arc<Device>,
    /// How it is made a body.
    pub(crate) body: fn(&Made) -> DsRequestBody,
}

/// The operations whose commits members send.
pub(crate) const MEMBERS_COMMITS: [&str; 8] = [
    "add_users",
    "add_clients",
    "remove_users",
    "remove_clients",
    "update_client",
    "set_roles",
    "re_initialize_group",
    "delete_group",
];
/// Those whose commits join.
pub(crate) const JOINS: [&str; 3] = [
    "external_join by the provider",
    "external_join again by the provider",
    "external_join again by the leaf",
];
/// The others that have a message of the group.
pub(crate) const OTHER_MESSAGES: [&str; 2] = ["self_remove_client", "send_message"];
/// And those that have none.
pub(crate) const WITHOUT_MESSAGES: [&str; 6] = [
    "request_group_id",
    "create_group",
    "welcome_info",
    "external_commit_info by the leaf",
    "external_commit_info by the provider",
    "client_deleted",
];

/// All operations that hold a commit.
pub(crate) fn commits() -> impl Iterator<Item = &'static str> {
    MEMBERS_COMMITS.into_iter().chain(JOINS)
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    commits().chain(OTHER_MESSAGES).chain(WITHOUT_MESSAGES)
}

impl By {
    pub(crate) fn device(&self) -> &Arc<Device> {
        match self {
            Self::Leaf(device, _) | Self::KeyPackage(device, _) | Self::Provider(device) => device,
        }
    }

    /// A request, signed so.
    pub(crate) fn ask(&self, body: DsRequestBody) -> DsRequest {
        match self {
            Self::Leaf(device, leaf) => device.as_leaf(*leaf, body),
            Self::KeyPackage(device, reference) => device.as_joiner(reference, body),
            Self::Provider(device) => device.home.request(&device.id, body),
        }
    }

    /// Signs a request anew.
    pub(crate) fn sign(&self, mut request: DsRequest) -> DsRequest {
        match self {
            Self::Leaf(device, _) | Self::KeyPackage(device, _) => device.sign(request),
            Self::Provider(device) => {
                device.home.sign_request(&mut request);
                request
            }
        }
    }
}

impl Operation {
    pub(crate) fn request(&self) -> DsRequest {
        self.by.ask(self.body.clone())
    }

    /// The same with its commit changed.
    pub(crate) fn edited(&self, scene: &Scene, edit: impl FnOnce(&mut parts::Commit)) -> DsRequest {
        let commit = self.commit.as_ref().unwrap();
        let mut made = commit.made.clone();
        let view = scene
            .members
            .iter()
            .find(|m| m.device.id == commit.device.id);
        let view = view.unwrap_or(&scene.members[ALICE]);
        made.edit(&commit.device, view, edit);
        self.by.ask((commit.body)(&made))
    }

    /// The auth types that are not the one of this request; each well signed.
    pub(crate) fn other_auths(&self) -> Vec<(&'static str, DsRequest)> {
        let device = self.by.device();
        let body = || self.body.clone();
        let reference = KeyPackageRef::new([1; 32]).unwrap();
        let leaf = match &self.by {
            By::Leaf(_, leaf) => *leaf,
            _ => 0,
        };
        let all = [
            ("nobody", device.request(body(), DsAuth::Anonymous)),
            ("a leaf", device.as_leaf(leaf, body())),
            ("a KeyPackage", device.as_joiner(&reference, body())),
            ("a provider", device.home.request(&device.id, body())),
        ];
        let is_own = |request: &DsRequest| {
            matches!(
                (&request.auth, &self.by),
                (DsAuth::Leaf { .. }, By::Leaf(..))
                    | (DsAuth::KeyPackage { .. }, By::KeyPackage(..))
                    | (DsAuth::Provider { .. }, By::Provider(_))
            )
        };
        let all = all.into_iter();
        all.filter(|(_, request)| !is_own(request)).collect()
    }
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
        let dave = scene.site.device("dave/phone@c.example");
        let key_package = dave.key_package();
        let reference = dave.reference(&key_package);
        let plan = Plan::add(vec![key_package]);
        scene.commits(ALICE, plan, Made::as_add).await;
        Self {
            scene,
            dave,
            reference,
        }
    }

    /// An operation that is accepted in this group as it is now.
    pub(crate) async fn operation(&mut self, name: &'static str) -> Operation {
        match name {
            "request_group_id" => {
                let cipher_suite = CipherSuite::X25519_AES128GCM_ED25519;
                let body = DsRequestBody::RequestGroupId(RequestGroupId { cipher_suite });
                self.without_commit(name, self.provider_of(ALICE), body)
            }
            "create_group" => self.creation(name).await,
            "welcome_info" => {
                let body = DsRequestBody::WelcomeInfo(WelcomeInfo {
                    group_id: self.scene.group_id(),
                    epoch: 2,
                });
                let by = By::KeyPackage(self.dave.clone(), self.reference.clone());
                self.without_commit(name, by, body)
            }
            "external_commit_info by the leaf" => {
                self.without_commit(name, self.leaf_of(CAROL), self.info())
            }
            "external_commit_info by the provider" => {
                self.without_commit(name, self.provider_of(CAROL), self.info())
            }
            "client_deleted" => {
                let body = DsRequestBody::ClientDeleted;
                self.without_commit(name, self.provider_of(CAROL), body)
            }
            "self_remove_client" => {
                let carol = &self.scene.members[CAROL];
                let proposal = carol.proposes(&parts::remove(carol.index()));
                self.without_commit(name, self.leaf_of(CAROL), self_remove(proposal))
            }
            "send_message" => {
                let body = self.scene.members[CAROL].message("hello");
                self.without_commit(name, self.leaf_of(CAROL), body)
            }
            _ if name.starts_with("external_join") => self.join(name),
            _ => self.commit(name).await,
        }
    }

    fn leaf_of(&self, member: usize) -> By {
        By::Leaf(
            self.scene.device(member).clone(),
            self.scene.members[member].index(),
        )
    }

    fn provider_of(&self, member: usize) -> By {
        By::Provider(self.scene.device(member).clone())
    }

    fn info(&self) -> DsRequestBody {
        let group_id = self.scene.group_id();
        DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id })
    }

    fn without_commit(&self, name: &'static str, by: By, body: DsRequestBody) -> Operation {
        Operation {
            name,
            by,
            body,
            commit: None,
        }
    }

    async fn creation(&self, name: &'static str) -> Operation {
        let alice = self.scene.device(ALICE);
        let founding = self.scene.site.founding(alice).await;
        let (member, info) = alice.again().found(&founding);
        let body = create_group(&founding, &member.own_leaf(), &info);
        self.without_commit(name, By::Leaf(alice.clone(), 0), body)
    }

    fn join(&mut self, name: &'static str) -> Operation {
        let carol = self.scene.device(CAROL);
        let device = match name {
            "external_join by the provider" => self.scene.site.device("carol/laptop@c.example"),
            _ => carol.again(),
        };
        let (made, _) = device.enter(&self.scene.members[ALICE].door());
        let by = match name {
            "external_join again by the leaf" => self.leaf_of(CAROL),
            _ => By::Provider(device.clone()),
        };
        let body: fn(&Made) -> DsRequestBody = |made| made.sent_as(DsRequestBody::ExternalJoin);
        Operation {
            name,
            by,
            body: body(&made),
            commit: Some(Commit { made, device, body }),
        }
    }

    async fn commit(&mut self, name: &'static str) -> Operation {
        use DsRequestBody as B;
        let scene = &mut self.scene;
        let (by, plan, body): (_, _, fn(&Made) -> B) = match name {
            "add_users" => {
                let erin = scene.site.device("erin/phone@c.example").key_package();
                (ALICE, Plan::add(vec![erin]), Made::as_add)
            }
            "add_clients" => {
                let tablet = scene.site.device("bob/tablet@b.example").key_package();
                let body: fn(&Made) -> B = |made| made.adds_as(B::AddClients);
                (BOB, Plan::add(vec![tablet]), body)
            }
            "remove_users" => (ALICE, Plan::remove(&[scene.leaf(CAROL)]), |made| {
                made.sent_as(B::RemoveUsers)
            }),
            "remove_clients" => (BOB, Plan::remove(&[scene.leaf(BOBS_LAPTOP)]), |made| {
                made.sent_as(B::RemoveClients)
            }),
            "update_client" => (BOB, Plan::default(), Made::as_update),
            "set_roles" => {
                let rbac = admins(&[ALL[ALICE], ALL[BOB]]);
                let context = scene.members[ALICE].context_with_rbac(&rbac);
                (ALICE, Plan::context(context), |made| {
                    made.sent_as(B::SetRoles)
                })
            }
            "re_initialize_group" => (ALICE, Plan::default(), |made| {
                made.sent_as(B::ReInitializeGroup)
            }),
            "delete_group" => (ALICE, Plan::remove(&[1, 2, 3, 4, 5]), |made| {
                made.sent_as(B::DeleteGroup)
            }),
            _ => panic!("{name}"),
        };
        let mut made = scene.made(by, plan);
        let member = &scene.members[by];
        if name == "re_initialize_group" {
            let (new, _) = scene.site.group_id(&member.device).await;
            made.edit(&member.device, member, |commit| {
                let re_init = parts::re_init(new.as_slice(), 1, 1);
                commit.proposals = parts::bytes(parts::by_value(&re_init));
            });
        }
        let device = member.device.clone();
        Operation {
            name,
            by: self.leaf_of(by),
            body: body(&made),
            commit: Some(Commit { made, device, body }),
        }
    }
}

/// A request without a signature that counts.
pub(crate) fn unsigned(mut request: DsRequest) -> DsRequest {
    match &mut request.auth {
        DsAuth::Leaf { signature, .. } | DsAuth::KeyPackage { signature, .. } => {
            *signature = Signature::new([1; 64]).unwrap();
        }
        DsAuth::Provider { provider_auth, .. } => {
            provider_auth.signature = Signature::new([1; 64]).unwrap();
        }
        DsAuth::Anonymous => {}
    }
    request
}
