//! welcome_info.

use std::sync::Arc;

use moh_messages::{
    DsAuth, DsErrorCode, DsRequest, DsResponseBody, Endpoint, GroupId, KeyPackageRef, Message,
    Signature,
};

use crate::device::{Device, Member, Plan};
use crate::site::Site;

/// Bob was added in epoch 1, and has not asked for the tree.
struct Scene {
    site: Site,
    alice: Member,
    bob: Arc<Device>,
    group_id: GroupId,
    reference: KeyPackageRef,
    welcome: Vec<u8>,
    tree: Vec<u8>,
}

impl Scene {
    async fn set() -> Self {
        let site = Site::start().await;
        let alice = site.device("alice/phone@a.example");
        let mut alice = site.group_of(&alice).await;
        let bob = site.device("bob/phone@b.example");
        let key_package = bob.key_package();
        let reference = bob.reference(&key_package);
        let made = alice.commit(Plan {
            add: vec![key_package],
            ..Plan::default()
        });
        site.ask(&alice.ask(made.as_add())).await.unwrap();
        alice.accept();
        Self {
            group_id: GroupId::new(alice.group.group_id().as_slice()).unwrap(),
            welcome: made.welcome.unwrap().into_vec(),
            tree: alice.tree(),
            site,
            alice,
            bob,
            reference,
        }
    }

    fn request(&self) -> DsRequest {
        self.bob.welcome_info(&self.group_id, 1, &self.reference)
    }

    async fn tree(&self) -> Vec<u8> {
        match self.site.ask(&self.request()).await.unwrap() {
            DsResponseBody::WelcomeInfo {
                ratchet_tree,
                provider_keys,
            } => {
                let names: Vec<_> = provider_keys.iter().map(|k| k.provider.as_str()).collect();
                assert!(names.contains(&"a.example") && names.contains(&"b.example"));
                ratchet_tree.into_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn refuses(&self, what: &str, code: DsErrorCode, request: &DsRequest) {
        assert_eq!(self.site.ask(request).await, Err(code), "{what}");
    }
}

#[tokio::test]
async fn the_tree_of_a_past_epoch_is_the_right_one() {
    let mut scene = Scene::set().await;
    assert_eq!(scene.tree().await, scene.tree);
    let mut heard = Vec::new();
    for _ in 0..7 {
        let made = scene.alice.commit(Plan::default());
        let request = scene.alice.ask(made.as_update());
        scene.site.ask(&request).await.unwrap();
        scene.alice.accept();
        heard.push(made.commit);
        assert_eq!(scene.tree().await, scene.tree);
    }
    // It is what Bob joins by, and what he has heard since leads to the same tree.
    let mut bob = scene.bob.join(&scene.welcome, &scene.tree().await);
    for commit in heard {
        bob.hear(&commit);
    }
    assert_eq!((bob.epoch(), bob.tree()), (8, scene.alice.tree()));
    let Scene { site, alice, .. } = &mut scene;
    site.update(&mut bob, &mut [alice]).await;
    // Who has committed has joined.
    let request = scene.request();
    let code = DsErrorCode::UNKNOWN_GROUP;
    scene.refuses("after a commit", code, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn who_asks_for_what() {
    let scene = Scene::set().await;
    let (bob, group_id) = (&scene.bob, &scene.group_id);
    let stranger = DsErrorCode::UNKNOWN_GROUP;
    for epoch in [0, 2, u64::MAX] {
        let request = bob.welcome_info(group_id, epoch, &scene.reference);
        scene.refuses("another epoch", stranger, &request).await;
    }
    let other = bob.reference(&bob.key_package());
    let request = bob.welcome_info(group_id, 1, &other);
    scene
        .refuses("another KeyPackage", stranger, &request)
        .await;
    let impostor = scene.site.device("bob/phone@b.example");
    let request = impostor.welcome_info(group_id, 1, &scene.reference);
    scene.refuses("another key", stranger, &request).await;
    let request = bob.welcome_info(&GroupId::new([1; 32]).unwrap(), 1, &scene.reference);
    scene.refuses("no such group", stranger, &request).await;

    let unauthenticated = DsErrorCode::UNAUTHENTICATED;
    let mut request = scene.request();
    request.sender = "a.example".parse().unwrap();
    let request = bob.sign(request);
    scene
        .refuses("another sender", unauthenticated, &request)
        .await;
    let body = scene.request().body;
    let request = bob.request(body.clone(), DsAuth::Anonymous);
    scene.refuses("nobody", unauthenticated, &request).await;
    let leaf = DsAuth::Leaf {
        leaf_index: 1,
        signature: Signature::empty(),
    };
    let request = bob.sign(bob.request(body, leaf));
    scene.refuses("a leaf", unauthenticated, &request).await;

    let request = scene.request().encode();
    for endpoint in [
        Endpoint::GroupOperation,
        Endpoint::ExternalCommitInformation,
    ] {
        let answer = scene
            .site
            .node
            .answer(endpoint, request.clone().into())
            .await;
        assert_eq!(
            (answer.status, answer.result.as_str()),
            (400, "wrong_endpoint")
        );
    }
    assert_eq!(scene.tree().await, scene.tree);
    scene.site.end().await;
}
