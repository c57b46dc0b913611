//! update_client, and what all commits have in common.

use moh_messages::{
    DsErrorCode, DsRequest, DsRequestBody, DsResponseBody, HandshakeBytes, Message, extension_type,
};

use crate::device::{Made, Member, Plan, now_ms};
use crate::parts::{self, set};
use crate::site::Site;

struct Scene {
    site: Site,
    alice: Member,
    bob: Member,
}

impl Scene {
    /// Bob of b.example, in a group at a.example with Alice.
    async fn set() -> Self {
        let site = Site::start().await;
        let alice = site.device("alice/phone@a.example");
        let mut alice = site.group_of(&alice).await;
        let bob = site.device("bob/phone@b.example");
        let (mut added, _) = site.add(&mut alice, &[&bob]).await;
        let bob = added.remove(0);
        Self { site, alice, bob }
    }

    /// An update of Bob's, which is taken back at once.
    fn made(&mut self) -> Made {
        let made = self.bob.commit(Plan::default());
        self.bob.forget();
        made
    }

    async fn refuses(&self, what: &str, code: DsErrorCode, body: DsRequestBody) {
        self.refuses_request(what, code, &self.bob.ask(body)).await;
    }

    async fn refuses_request(&self, what: &str, code: DsErrorCode, request: &DsRequest) {
        let id = self.bob.group.group_id().as_slice();
        let clients = [&self.alice.device.id, &self.bob.device.id];
        let before = self.site.state(id, &clients).await;
        assert_eq!(self.site.ask(request).await, Err(code), "{what}");
        assert_eq!(before, self.site.state(id, &clients).await, "{what}");
    }

    async fn goes_on(mut self) {
        let Self { site, alice, bob } = &mut self;
        site.update(bob, &mut [alice]).await;
        let stored = site.stored(bob).await;
        assert_eq!((stored.epoch(), stored.roster().len()), (bob.epoch(), 2));
        for member in [&*alice, &*bob] {
            assert_eq!(stored.ratchet_tree().unwrap().as_slice(), member.tree());
        }
        self.site.end().await;
    }
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let code = DsErrorCode::POLICY_VIOLATION;
    let mut scene = Scene::set().await;
    let add = vec![scene.site.device("carol/phone@c.example").key_package()];
    let made = scene.bob.commit(Plan {
        add,
        ..Plan::default()
    });
    scene.bob.forget();
    scene.refuses("an Add", code, made.as_update()).await;
    let made = scene.bob.commit(Plan {
        remove: vec![0],
        ..Plan::default()
    });
    scene.bob.forget();
    scene.refuses("a Remove", code, made.as_update()).await;
    let mut made = scene.made();
    made.edit(&scene.bob.device, |commit| commit.path = None);
    scene.refuses("no path", code, made.as_update()).await;
    scene.goes_on().await;
}

type Edit = fn(&mut parts::Leaf, &crate::device::Device);

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const UNAUTHENTICATED: DsErrorCode = DsErrorCode::UNAUTHENTICATED;

/// What is wrong with a leaf, and with nothing else.
const LEAVES: [(&str, DsErrorCode, Edit); 9] = [
    ("another client of the user", VIOLATION, |leaf, device| {
        let id: moh_messages::ClientId = "mimi://b.example/d/bob/laptop".parse().unwrap();
        let key = device.public_key();
        let attestation = device
            .home
            .keys
            .attest(&id, device.scheme(), &key, now_ms());
        leaf.identity = parts::bytes(id.as_str().as_bytes());
        leaf.set(extension_type::ATTESTATION, &attestation);
    }),
    ("no queue_config", VIOLATION, |leaf, _| {
        leaf.without(extension_type::QUEUE_CONFIG);
    }),
    ("a queue at another provider", VIOLATION, |leaf, device| {
        let mut queue = device.says().queue;
        queue.provider = "a.example".parse().unwrap();
        leaf.set(extension_type::QUEUE_CONFIG, &queue);
    }),
    ("no moh", VIOLATION, |leaf, _| {
        leaf.without(extension_type::MOH);
    }),
    ("no attestation", UNAUTHENTICATED, |leaf, _| {
        leaf.without(extension_type::ATTESTATION);
    }),
    (
        "an attestation that was changed",
        UNAUTHENTICATED,
        |leaf, _| {
            let mut attestation = leaf.attestation();
            attestation.not_after -= 1;
            leaf.set(extension_type::ATTESTATION, &attestation);
        },
    ),
    (
        "an attestation that has expired",
        UNAUTHENTICATED,
        |leaf, device| {
            let mut attestation = leaf.attestation();
            attestation.not_after = now_ms() - 1;
            attestation.not_before -= 1000;
            let attestation = device.home.sign(attestation);
            leaf.set(extension_type::ATTESTATION, &attestation);
        },
    ),
    (
        "an attestation for another client",
        UNAUTHENTICATED,
        |leaf, device| {
            let mut attestation = leaf.attestation();
            attestation.client_id = "mimi://b.example/d/bob/laptop".parse().unwrap();
            let attestation = device.home.sign(attestation);
            leaf.set(extension_type::ATTESTATION, &attestation);
        },
    ),
    ("more than 4 KiB", DsErrorCode::LIMIT_EXCEEDED, |leaf, _| {
        let types = [&leaf.extension_types[..], &[0xF4FF]].concat();
        leaf.extension_types = moh_messages::List::new(types).unwrap();
        set(&mut leaf.extensions, 0xF4FF, Some(vec![0; 4000]));
    }),
];

#[tokio::test]
async fn the_leaf_in_the_path() {
    let mut scene = Scene::set().await;
    for (what, code, edit) in LEAVES {
        let mut made = scene.made();
        let device = scene.bob.device.clone();
        made.edit(&device, |commit| {
            edit(&mut commit.path.as_mut().unwrap().leaf, &device);
        });
        scene.refuses(what, code, made.as_update()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn epochs_that_are_not_the_current_one() {
    let mut scene = Scene::set().await;
    let code = DsErrorCode::WRONG_EPOCH;
    let past = scene.made();
    let Scene { site, alice, bob } = &mut scene;
    site.update(alice, &mut [bob]).await;
    scene
        .refuses("of the epoch before", code, past.as_update())
        .await;
    let request = scene.bob.ask(past.as_update());
    let body = request.encode();
    let answer = scene
        .site
        .node
        .answer(request.body.endpoint(), body.into())
        .await;
    let response = moh_messages::DsResponse::decode(&answer.body).unwrap();
    let DsResponseBody::Error(error) = response.body else {
        panic!("{response:?}");
    };
    assert_eq!(u64::decode(error.data.as_slice()), Ok(2));
    let mut future = scene.made();
    future.edit(&scene.bob.device, |commit| commit.epoch += 1);
    scene
        .refuses("of an epoch to come", code, future.as_update())
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn who_sends_it() {
    let mut scene = Scene::set().await;
    let made = scene.made();
    let body = made.as_update();
    let stranger = DsErrorCode::UNKNOWN_GROUP;
    let request = scene.bob.device.as_leaf(0, body.clone());
    scene
        .refuses_request("at another's leaf", stranger, &request)
        .await;
    let carol = scene.site.device("carol/phone@c.example");
    let request = carol.as_leaf(1, body.clone());
    scene
        .refuses_request("not a member", stranger, &request)
        .await;
    let request = carol.as_leaf(7, body.clone());
    scene
        .refuses_request("at no leaf", stranger, &request)
        .await;
    let invalid = DsErrorCode::INVALID_MESSAGE;
    let request = scene.alice.ask(body);
    scene
        .refuses_request("another's commit", invalid, &request)
        .await;
    let mut made = scene.made();
    made.edit(&scene.bob.device, |commit| commit.leaf = 0);
    let request = scene.bob.ask(made.as_update());
    scene
        .refuses_request("in another's name", invalid, &request)
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn group_infos_that_are_not_of_the_new_epoch() {
    let code = DsErrorCode::INVALID_GROUP_INFO;
    let mut scene = Scene::set().await;
    let (made, mut other) = (scene.made(), scene.made());
    other.commit.clone_from(&made.commit);
    scene
        .refuses("of another commit", code, other.as_update())
        .await;
    for (what, extension, content) in [
        ("with ratchet_tree", 2, Some(scene.bob.tree())),
        ("without external_pub", 4, None),
    ] {
        let mut made = scene.made();
        set(&mut made.info.extensions, extension, content);
        made.info.sign(&scene.bob.device.signer);
        scene.refuses(what, code, made.as_update()).await;
    }
    let mut made = scene.made();
    made.info.sign(&scene.alice.device.signer);
    scene
        .refuses("signed by another", code, made.as_update())
        .await;
    let mut made = scene.made();
    made.info.signer = 0;
    made.info.sign(&scene.bob.device.signer);
    scene
        .refuses("in another's name", code, made.as_update())
        .await;
    let mut made = scene.made();
    made.info.context.epoch -= 1;
    made.info.sign(&scene.bob.device.signer);
    scene
        .refuses("of the epoch before", code, made.as_update())
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn messages_that_are_no_commits() {
    let mut scene = Scene::set().await;
    let made = scene.made();
    let update = |commit: Vec<u8>| {
        let mut body = made.as_update();
        if let DsRequestBody::UpdateClient(update) = &mut body {
            update.group_update.commit = HandshakeBytes::new(commit).unwrap();
        }
        body
    };
    let invalid = DsErrorCode::INVALID_MESSAGE;
    scene.refuses("no bytes", invalid, update(Vec::new())).await;
    scene
        .refuses("no message", invalid, update(vec![1; 40]))
        .await;
    let mut long = made.commit.clone();
    long.push(0);
    scene.refuses("with a rest", invalid, update(long)).await;
    let short = made.commit[..made.commit.len() - 1].to_vec();
    scene.refuses("cut short", invalid, update(short)).await;
    let mut parts = made.parts();
    parts.path.as_mut().unwrap().leaf.identity = parts::bytes(b"mimi://b.example/d/eve/x".to_vec());
    scene
        .refuses("changed", invalid, update(parts.encode()))
        .await;
    let mut elsewhere = made.parts();
    elsewhere.group_id = parts::bytes([5; 32]);
    let unknown = DsErrorCode::UNKNOWN_GROUP;
    scene
        .refuses("another group", unknown, update(elsewhere.encode()))
        .await;
    let DsRequestBody::SendMessage(message) = scene.bob.message("private") else {
        unreachable!();
    };
    let private = update(message.message.into_vec());
    let code = DsErrorCode::POLICY_VIOLATION;
    scene.refuses("a PrivateMessage", code, private).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn the_same_bytes_get_the_first_answer() {
    let mut scene = Scene::set().await;
    let made = scene.bob.commit(Plan::default());
    let request = scene.bob.ask(made.as_update());
    let first = scene.site.ask(&request).await.unwrap();
    scene.bob.accept();
    scene.alice.hear(&made.commit);
    let Scene { site, alice, bob } = &mut scene;
    for _ in 0..4 {
        site.update(alice, &mut [bob]).await;
    }
    let id = scene.bob.group.group_id().as_slice();
    let clients = [&scene.alice.device.id, &scene.bob.device.id];
    let before = scene.site.state(id, &clients).await;
    assert_eq!(scene.site.ask(&request).await, Ok(first));
    assert_eq!(before, scene.site.state(id, &clients).await);
    // For nobody else.
    let stolen = scene.alice.ask(made.as_update());
    scene
        .refuses_request("by another member", DsErrorCode::UNKNOWN_GROUP, &stolen)
        .await;
    let carol = scene.site.device("carol/phone@c.example");
    let stolen = carol.as_leaf(1, made.as_update());
    let stranger = DsErrorCode::UNKNOWN_GROUP;
    scene
        .refuses_request("by a stranger", stranger, &stolen)
        .await;
    // Nor when the epoch is forgotten.
    let Scene { site, alice, bob } = &mut scene;
    for _ in 0..3 {
        site.update(alice, &mut [bob]).await;
    }
    let code = DsErrorCode::WRONG_EPOCH;
    scene.refuses_request("too late", code, &request).await;
    scene.goes_on().await;
}
