//! add_users.

use std::collections::BTreeMap;

use moh_messages::{
    DsAuth, DsErrorCode, DsRequestBody, DsResponseBody, GroupType, KeyPackageRef, List, Message,
    MlsBytes, Opaque, ProviderAuth, QueuePayload, Rbac, Signature, extension_type,
};
use moh_server::Limits;
use moh_server::store::Store;

use crate::device::{Made, Member, Plan, now_ms};
use crate::parts;
use crate::site::Site;

/// Alice of a.example and Bob of b.example in a group at a.example.
struct Scene {
    site: Site,
    alice: Member,
    bob: Member,
}

impl Scene {
    async fn set() -> Self {
        Self::with_limits(Limits::default()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let site = Site::with_limits(limits).await;
        let alice = site.device("alice/phone@a.example");
        let alice = site.group_of(&alice).await;
        Self::with(site, alice).await
    }

    async fn with(site: Site, mut alice: Member) -> Self {
        let bob = site.device("bob/phone@b.example");
        let (mut added, _) = site.add(&mut alice, &[&bob]).await;
        let bob = added.remove(0);
        Self { site, alice, bob }
    }

    /// Builds a commit of Alice's, which is taken back at once.
    fn made(&mut self, plan: Plan) -> Made {
        let made = self.alice.commit(plan);
        self.alice.forget();
        made
    }

    /// A commit that adds these.
    fn adds(&mut self, names: &[&str]) -> Made {
        let add = names
            .iter()
            .map(|name| self.site.device(name).key_package());
        let add = add.collect();
        self.made(Plan {
            add,
            ..Plan::default()
        })
    }

    /// Alice's request is refused with this code, and nothing has changed.
    async fn refuses(&self, what: &str, code: DsErrorCode, body: DsRequestBody) {
        self.refuses_of(&self.alice, what, code, body).await;
    }

    async fn refuses_of(&self, by: &Member, what: &str, code: DsErrorCode, body: DsRequestBody) {
        let id = by.group.group_id().as_slice();
        let clients = [&self.alice.device.id, &self.bob.device.id];
        let before = self.site.state(id, &clients).await;
        let answer = self.site.ask(&by.ask(body)).await;
        assert_eq!(answer, Err(code), "{what}");
        assert_eq!(before, self.site.state(id, &clients).await, "{what}");
    }

    /// The group still takes what is right.
    async fn goes_on(mut self) {
        let carol = self.site.device("carol/phone@c.example");
        let (added, made) = self.site.add(&mut self.alice, &[&carol]).await;
        self.bob.hear(&made.commit);
        let stored = self.site.stored(&self.alice).await;
        assert_eq!(stored.epoch(), self.alice.epoch());
        assert_eq!(stored.roster().len(), 3);
        let tree = stored.ratchet_tree().unwrap();
        for member in [&self.alice, &self.bob, &added[0]] {
            assert_eq!(tree.as_slice(), member.tree());
        }
        self.site.end().await;
    }
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let code = DsErrorCode::POLICY_VIOLATION;
    let mut scene = Scene::set().await;
    let made = scene.made(Plan::default());
    scene.refuses("no Adds", code, made.as_add()).await;
    let remove = vec![scene.bob.index()];
    let made = scene.made(Plan {
        remove: remove.clone(),
        ..Plan::default()
    });
    scene.refuses("a Remove instead", code, made.as_add()).await;
    let add = vec![scene.site.device("carol/phone@c.example").key_package()];
    let made = scene.made(Plan { add, remove });
    scene.refuses("a Remove besides", code, made.as_add()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn whom_it_adds() {
    let code = DsErrorCode::POLICY_VIOLATION;
    let mut scene = Scene::set().await;
    for (what, names) in [
        ("a user with a leaf", &["bob/laptop@b.example"][..]),
        ("the sender's own user", &["alice/laptop@a.example"]),
        (
            "one user with a leaf, one without",
            &["carol/phone@c.example", "bob/laptop@b.example"],
        ),
        (
            "the same client twice",
            &["carol/phone@c.example", "carol/phone@c.example"],
        ),
    ] {
        let made = scene.adds(names);
        scene.refuses(what, code, made.as_add()).await;
    }
    // The same client once more is of a user with a leaf.
    let made = scene.adds(&["bob/phone@b.example"]);
    scene
        .refuses("a client that is in it", code, made.as_add())
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn leaves_that_are_added() {
    let mut scene = Scene::set().await;
    let carol = scene.site.device("carol/phone@c.example");
    let good = carol.says();
    let day_ms = 24 * 60 * 60 * 1000;
    let attest = |change: &dyn Fn(&mut moh_messages::Attestation)| {
        let mut says = good.clone();
        change(&mut says.attestation);
        says.attestation = carol.home.sign(says.attestation);
        says
    };
    let mut elsewhere = good.clone();
    elsewhere.queue.provider = "b.example".parse().unwrap();
    let mut for_connections = good.clone();
    for_connections.for_connections = true;
    let mut changed = good.clone();
    changed.attestation.not_after -= 1;
    let unauthenticated = DsErrorCode::UNAUTHENTICATED;
    for (what, code, says) in [
        (
            "a queue at another provider",
            DsErrorCode::POLICY_VIOLATION,
            elsewhere,
        ),
        (
            "a KeyPackage for connections",
            DsErrorCode::POLICY_VIOLATION,
            for_connections,
        ),
        ("an attestation that was changed", unauthenticated, changed),
        (
            "an attestation that has expired",
            unauthenticated,
            attest(&|a| {
                a.not_before -= day_ms;
                a.not_after = now_ms() - 1;
            }),
        ),
        (
            "an attestation for another client",
            unauthenticated,
            attest(&|a| a.client_id = "mimi://c.example/d/carol/laptop".parse().unwrap()),
        ),
        (
            "an attestation for too long",
            unauthenticated,
            attest(&|a| a.not_after = a.not_before + 90 * day_ms + 1),
        ),
    ] {
        let add = vec![carol.key_package_that_says(&says)];
        let made = scene.made(Plan {
            add,
            ..Plan::default()
        });
        scene.refuses(what, code, made.as_add()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn key_packages_that_are_none() {
    let code = DsErrorCode::INVALID_KEY_PACKAGE;
    let mut scene = Scene::set().await;
    let carol = scene.site.device("carol/phone@c.example");
    let now_s = now_ms() / 1000;
    let mut expired = carol.key_package_parts();
    expired.inner.leaf.source = parts::Source::KeyPackage {
        not_before: now_s - 1000,
        not_after: now_s - 10,
    };
    expired.sign(&carol.signer);
    let mut early = carol.key_package_parts();
    early.inner.leaf.source = parts::Source::KeyPackage {
        not_before: now_s + 1000,
        not_after: now_s + 2000,
    };
    early.sign(&carol.signer);
    let other_suite = scene
        .site
        .device_with("carol/phone@c.example", moh_messages::CipherSuite(3))
        .key_package_parts();
    let p256 = scene
        .site
        .device_with("carol/phone@c.example", moh_messages::CipherSuite(2))
        .key_package_parts();
    let mut relabelled = carol.key_package_parts();
    relabelled.inner.cipher_suite = 3;
    let mut incapable = carol.key_package_parts();
    incapable.inner.leaf.extension_types = List::new(extension_type::ALL[1..].to_vec()).unwrap();
    incapable.sign(&carol.signer);
    for (what, key_package) in [
        ("expired", expired),
        ("not yet valid", early),
        ("of another ciphersuite", other_suite),
        ("of another ciphersuite and scheme", p256),
        ("badly signed", relabelled),
        ("without a required capability", incapable),
    ] {
        let mut made = scene.adds(&["carol/phone@c.example"]);
        made.edit(&scene.alice.device, |commit| {
            commit.proposals = parts::bytes(parts::add(&key_package));
        });
        scene.refuses(what, code, made.as_add()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn too_many_members() {
    let limits = Limits {
        max_members: 3,
        ..Limits::default()
    };
    let mut scene = Scene::with_limits(limits).await;
    let made = scene.adds(&["carol/phone@c.example", "carol/laptop@c.example"]);
    let code = DsErrorCode::LIMIT_EXCEEDED;
    scene.refuses("four of three", code, made.as_add()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn welcomes_are_for_those_who_are_added() {
    let code = DsErrorCode::POLICY_VIOLATION;
    let mut scene = Scene::set().await;
    let made = scene.adds(&["carol/phone@c.example", "carol/laptop@c.example"]);
    let other = scene.adds(&["carol/phone@c.example", "carol/laptop@c.example"]);
    let welcome = made.welcome.clone().unwrap();
    let of = |secrets: &[usize]| {
        let mut parts = parts::Welcome::decode(welcome.as_slice()).unwrap();
        let chosen = secrets.iter().map(|&i| parts.secrets[i].clone());
        parts.secrets = List::new(chosen.collect()).unwrap();
        MlsBytes::new(parts.encode()).unwrap()
    };
    for (what, welcomes) in [
        ("none", vec![]),
        ("one is missing", vec![of(&[0])]),
        ("one twice", vec![of(&[0, 1, 1])]),
        ("all twice", vec![welcome.clone(), welcome.clone()]),
        ("of another commit", vec![other.welcome.clone().unwrap()]),
        (
            "others besides",
            vec![welcome.clone(), other.welcome.clone().unwrap()],
        ),
    ] {
        scene.refuses(what, code, made.as_add_with(welcomes)).await;
    }
    let mut other_suite = parts::Welcome::decode(welcome.as_slice()).unwrap();
    other_suite.cipher_suite = 3;
    let no_welcome = MlsBytes::new(made.commit.clone()).unwrap();
    let invalid = DsErrorCode::INVALID_MESSAGE;
    for (what, bytes) in [
        ("a commit", no_welcome),
        ("no message", Opaque::new([1]).unwrap()),
        (
            "of another ciphersuite",
            MlsBytes::new(other_suite.encode()).unwrap(),
        ),
    ] {
        let body = made.as_add_with(vec![welcome.clone(), bytes]);
        scene.refuses(what, invalid, body).await;
    }
    // In two parts they are the same.
    let body = made.as_add_with(vec![of(&[1]), of(&[0])]);
    let accepted = scene.site.ask(&scene.alice.ask(body)).await;
    assert!(matches!(accepted, Ok(DsResponseBody::Ok { epoch: 2, .. })));
    scene.site.end().await;
}

#[tokio::test]
async fn only_admins_where_there_are_some() {
    let site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    let admins = List::new(vec![alice.id.user_id()]).unwrap();
    let rbac = Some(Rbac { admins });
    let member = site.special_group(&alice, GroupType::Regular, rbac).await;
    let mut scene = Scene::with(site, member).await;
    let add = vec![scene.site.device("carol/phone@c.example").key_package()];
    let made = scene.bob.commit(Plan {
        add,
        ..Plan::default()
    });
    scene.bob.forget();
    let code = DsErrorCode::UNAUTHORIZED;
    scene
        .refuses_of(&scene.bob, "not an admin", code, made.as_add())
        .await;
    // To renew one's own keys is for everybody.
    let Scene { site, alice, bob } = &mut scene;
    site.update(bob, &mut [alice]).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_connection_group_holds_two_users() {
    let code = DsErrorCode::POLICY_VIOLATION;
    let site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    let connection = GroupType::Connection;
    let member = site.special_group(&alice, connection, None).await;
    let mut scene = Scene::with(site, member).await;
    let made = scene.adds(&["carol/phone@c.example"]);
    scene.refuses("a third user", code, made.as_add()).await;

    scene.alice = scene.site.special_group(&alice, connection, None).await;
    let made = scene.adds(&["bob/phone@b.example", "carol/phone@c.example"]);
    scene
        .refuses("two users at once", code, made.as_add())
        .await;
    // There, a KeyPackage for connections is right; and one user may have two clients.
    let devices = ["bob/phone@b.example", "bob/laptop@b.example"].map(|n| scene.site.device(n));
    let add = devices.iter().map(|device| {
        let mut says = device.says();
        says.for_connections = true;
        device.key_package_that_says(&says)
    });
    let plan = Plan {
        add: add.collect(),
        ..Plan::default()
    };
    let made = scene.made(plan);
    let accepted = scene.site.ask(&scene.alice.ask(made.as_add())).await;
    assert!(matches!(accepted, Ok(DsResponseBody::Ok { epoch: 1, .. })));
    scene.site.end().await;
}

#[tokio::test]
async fn who_signs() {
    let mut scene = Scene::set().await;
    let made = scene.adds(&["carol/phone@c.example"]);
    let group = scene.alice.group.group_id().as_slice().to_vec();
    let clients = [scene.alice.device.id.clone(), scene.bob.device.id.clone()];
    let clients: Vec<_> = clients.iter().collect();
    let before = scene.site.state(&group, &clients).await;
    let device = &scene.alice.device;
    let auth = |auth| device.request(made.as_add(), auth);
    let mut elsewhere = scene.alice.ask(made.as_add());
    elsewhere.sender = "b.example".parse().unwrap();
    let unauthenticated = DsErrorCode::UNAUTHENTICATED;
    let stranger = DsErrorCode::UNKNOWN_GROUP;
    let impostor = scene.site.device("alice/phone@a.example");
    let key_package_ref = KeyPackageRef::new([1; 32]).unwrap();
    let on_behalf_of = device.id.clone();
    let provider_auth = ProviderAuth::blank();
    let signature = Signature::empty();
    for (what, code, request) in [
        ("nobody", unauthenticated, auth(DsAuth::Anonymous)),
        (
            "a provider",
            unauthenticated,
            auth(DsAuth::Provider {
                on_behalf_of,
                provider_auth,
            }),
        ),
        (
            "a KeyPackage",
            unauthenticated,
            device.sign(auth(DsAuth::KeyPackage {
                key_package_ref,
                signature,
            })),
        ),
        ("another sender", unauthenticated, device.sign(elsewhere)),
        ("another key", stranger, impostor.as_leaf(0, made.as_add())),
        ("no such leaf", stranger, device.as_leaf(2, made.as_add())),
        ("another's leaf", stranger, device.as_leaf(1, made.as_add())),
    ] {
        assert_eq!(scene.site.ask(&request).await, Err(code), "{what}");
    }
    assert_eq!(before, scene.site.state(&group, &clients).await);
    scene.goes_on().await;
}

/// Whose secrets each Welcome in these payloads has: how many.
fn welcomes(payloads: &[Vec<u8>]) -> Vec<Vec<KeyPackageRef>> {
    let secrets = |payload: &Vec<u8>| {
        let QueuePayload::MlsMessage(bytes) = QueuePayload::decode(payload).unwrap() else {
            return None;
        };
        let parts = parts::Welcome::decode(bytes.as_slice()).ok()?;
        let members = parts.secrets.iter();
        let references = members.map(|s| KeyPackageRef::new(s.new_member.as_slice()).unwrap());
        Some(references.collect())
    };
    payloads.iter().filter_map(secrets).collect()
}

#[tokio::test]
async fn each_destination_gets_the_secrets_of_its_own_alone() {
    let mut scene = Scene::set().await;
    let names = [
        "carol/phone@c.example",
        "amy/phone@a.example",
        "ben/phone@b.example",
        "ben/laptop@b.example",
    ];
    let devices = names.map(|name| scene.site.device(name));
    let add: Vec<_> = devices.iter().map(|device| device.key_package()).collect();
    let references: BTreeMap<_, _> = devices
        .iter()
        .zip(&add)
        .map(|(device, key_package)| (device.id.to_string(), device.reference(key_package)))
        .collect();
    let of = |provider: &str| {
        let here = references.iter().filter(|(id, _)| id.contains(provider));
        let mut here: Vec<_> = here.map(|(_, reference)| reference.clone()).collect();
        here.sort();
        here
    };
    let made = scene.made(Plan {
        add,
        ..Plan::default()
    });
    let request = scene.alice.ask(made.as_add());
    let accepted = scene.site.ask(&request).await.unwrap();
    let store = &scene.site.store;
    for other in ["b.example", "c.example"] {
        let rows = store.outbox(&other.parse().unwrap(), 100, 1 << 30).await;
        let payloads: Vec<_> = rows
            .unwrap()
            .into_iter()
            .map(|r| r.delivery.payload)
            .collect();
        let mut found = welcomes(&payloads).pop().unwrap();
        found.sort();
        assert_eq!(found, of(other), "{other}");
    }
    let amy = &devices[1].id;
    let rows = store.queue(amy, 0, 100, 1 << 30).await.unwrap();
    let payloads: Vec<_> = rows.into_iter().map(|row| row.payload).collect();
    assert_eq!(payloads.len(), 1, "the Welcome, and not the commit");
    assert_eq!(welcomes(&payloads), [of("a.example")]);
    // Who sends a commit does not get it.
    let alice = &scene.alice.device.id;
    assert_eq!(store.queue(alice, 0, 100, 1 << 30).await.unwrap(), []);

    // The same bytes again get the first answer and deliver nothing.
    let group = scene.alice.group.group_id().as_slice().to_vec();
    let before = scene.site.state(&group, &[alice, amy]).await;
    assert_eq!(scene.site.ask(&request).await, Ok(accepted));
    assert_eq!(before, scene.site.state(&group, &[alice, amy]).await);
    scene.site.end().await;
}
