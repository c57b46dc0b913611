//! welcome_info.

use std::sync::Arc;

use moh_messages::{
    DsErrorCode, DsRequest, DsRequestBody, DsResponseBody, GroupId, GroupType, KeyPackageRef,
};
use moh_server::Limits;
use openmls::prelude::KeyPackage;

use crate::clock::{DAY_MS, HOUR_MS};
use crate::device::Device;
use crate::made::Made;
use crate::member::{Member, Plan};
use crate::scene::{ALICE, ALL, Scene};
use crate::site::Site;

const DAVE: &str = "dave/phone@c.example";
const UNKNOWN: DsErrorCode = DsErrorCode::UNKNOWN_GROUP;
const NOT_KEPT: DsErrorCode = DsErrorCode::EPOCH_NOT_KEPT;

/// Dave was added in epoch 2, and has not asked for the tree.
struct Added {
    scene: Scene,
    dave: Arc<Device>,
    key_package: KeyPackage,
    reference: KeyPackageRef,
    made: Made,
    tree: Vec<u8>,
}

impl Added {
    async fn set() -> Self {
        let site = Site::start().await;
        site.open_peers();
        Self::to(Scene::of(site, &ALL[..3], GroupType::Regular, None).await).await
    }

    async fn to(mut scene: Scene) -> Self {
        let dave = scene.site.device(DAVE);
        let key_package = dave.key_package();
        let reference = dave.reference(&key_package);
        let plan = Plan::add(vec![key_package.clone()]);
        let made = scene.commits(ALICE, plan, Made::as_add).await;
        let tree = scene.members[ALICE].tree();
        Self {
            scene,
            dave,
            key_package,
            reference,
            made,
            tree,
        }
    }

    fn request(&self) -> DsRequest {
        let group_id = self.scene.group_id();
        self.dave.welcome_info(&group_id, 2, &self.reference)
    }

    /// The tree of epoch 2.
    async fn fetch(&self) -> Vec<u8> {
        match self.scene.site.ask(&self.request()).await.unwrap() {
            DsResponseBody::WelcomeInfo {
                ratchet_tree,
                provider_keys,
            } => {
                let names: Vec<_> = provider_keys.iter().map(|k| k.provider.as_str()).collect();
                assert_eq!(names, ["a.example", "b.example", "c.example"]);
                ratchet_tree.into_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, what: &str, code: DsErrorCode) {
        self.scene
            .refuses_request(what, code, &self.request())
            .await;
    }

    fn join(&self, tree: &[u8]) -> Member {
        let welcome = self.made.welcome.as_ref().unwrap();
        self.dave.join(welcome.as_slice(), tree)
    }
}

#[tokio::test]
async fn a_tree_may_be_as_large_as_the_limit() {
    let with = async |limits| {
        let site = Site::with_limits(limits).await;
        Added::to(Scene::of(site, &ALL[..3], GroupType::Regular, None).await).await
    };
    let bytes = Added::set().await.tree.len();
    for (max_tree_bytes, taken) in [(bytes, true), (bytes - 1, false)] {
        let limits = Limits {
            max_tree_bytes,
            ..Limits::default()
        };
        let added = with(limits).await;
        assert_eq!(added.tree.len(), bytes);
        if taken {
            assert_eq!(added.fetch().await, added.tree);
        } else {
            let code = DsErrorCode::LIMIT_EXCEEDED;
            added.refused("too large", code).await;
        }
        added.scene.site.end().await;
    }
}

#[tokio::test]
async fn the_tree_of_a_past_epoch_is_the_right_one() {
    let mut added = Added::set().await;
    assert_eq!(added.fetch().await, added.tree);
    let mut heard = Vec::new();
    for _ in 0..7 {
        heard.push(added.scene.updates(ALICE).await.commit);
        assert_eq!(added.fetch().await, added.tree);
    }
    // It is what Dave joins by, and what he has heard since leads to the same tree.
    let mut dave = added.join(&added.fetch().await);
    for commit in heard {
        dave.hear(&commit);
    }
    assert_eq!(dave.tree(), added.scene.members[ALICE].tree());
    assert_eq!(dave.epoch(), 9);
    added.scene.site.end().await;
}

#[tokio::test]
async fn the_key_package_was_added_in_that_epoch() {
    let added = Added::set().await;
    let (dave, group_id) = (&added.dave, added.scene.group_id());
    let reference = &added.reference;
    for epoch in [0, 1, 3, u64::MAX] {
        let request = dave.welcome_info(&group_id, epoch, reference);
        let refused = added
            .scene
            .refuses_request("another epoch", UNKNOWN, &request);
        refused.await;
    }
    let other = dave.reference(&dave.key_package());
    let nowhere = GroupId::new([1; 32]).unwrap();
    for (what, request) in [
        (
            "another KeyPackage",
            dave.welcome_info(&group_id, 2, &other),
        ),
        ("no such group", dave.welcome_info(&nowhere, 2, reference)),
    ] {
        added.scene.refuses_request(what, UNKNOWN, &request).await;
    }
    assert_eq!(added.fetch().await, added.tree);
    added.scene.site.end().await;
}

#[tokio::test]
async fn who_holds_the_key_of_the_key_package() {
    let added = Added::set().await;
    let impostor = added.scene.site.device(DAVE);
    let group_id = added.scene.group_id();
    for (what, device) in [
        ("another key", &impostor),
        ("a member", added.scene.device(ALICE)),
    ] {
        let request = device.welcome_info(&group_id, 2, &added.reference);
        added.scene.refuses_request(what, UNKNOWN, &request).await;
    }
    assert_eq!(added.fetch().await, added.tree);
    added.scene.site.end().await;
}

#[tokio::test]
async fn who_has_acted_with_the_leaf_has_joined() {
    let mut added = Added::set().await;
    let dave = added.join(&added.fetch().await);
    added.scene.members.push(dave);
    added.scene.updates(3).await;
    added.refused("after a commit", UNKNOWN).await;
    added.scene.goes_on().await;
}

#[tokio::test]
async fn kept_for_a_day_after_it_was_fetched() {
    let mut added = Added::set().await;
    added.scene.updates(ALICE).await;
    // It waits for as long as the KeyPackage lives.
    added.scene.site.pass(20 * DAY_MS).await;
    assert_eq!(added.fetch().await, added.tree);
    added.scene.site.pass(23 * HOUR_MS).await;
    assert_eq!(added.fetch().await, added.tree);
    // The first fetch counts, also when the provider has ended since.
    added.scene.site.restart().await;
    added.scene.site.pass(HOUR_MS - 1).await;
    assert_eq!(added.fetch().await, added.tree);
    added.scene.site.pass(1).await;
    added.refused("a day after the first fetch", NOT_KEPT).await;
    added.scene.goes_on_with(4).await;
}

#[tokio::test]
async fn kept_until_the_key_package_has_expired() {
    let mut added = Added::set().await;
    added.scene.site.pass(29 * DAY_MS).await;
    added.scene.updates(ALICE).await;
    added.scene.site.pass(DAY_MS + 1000).await;
    added.refused("after its end", NOT_KEPT).await;
    added.scene.updates(ALICE).await;
    added.refused("an epoch after its end", NOT_KEPT).await;
    added.scene.goes_on_with(4).await;
}

#[tokio::test]
async fn who_comes_too_late_and_is_not_the_one_gets_what_strangers_get() {
    let added = Added::set().await;
    added.scene.site.pass(31 * DAY_MS).await;
    let group_id = added.scene.group_id();
    let impostor = added.scene.site.device(DAVE);
    let request = impostor.welcome_info(&group_id, 2, &added.reference);
    added
        .scene
        .refuses_request("another key", UNKNOWN, &request)
        .await;
    added.refused("the one", NOT_KEPT).await;
    added.scene.site.end().await;
}

#[tokio::test]
async fn a_key_package_that_was_used_twice() {
    let mut added = Added::set().await;
    let key_package = added.key_package.clone();
    let removes = |made: &Made| made.sent_as(DsRequestBody::RemoveUsers);
    added
        .scene
        .commits(ALICE, Plan::remove(&[3]), removes)
        .await;
    let plan = Plan::add(vec![key_package]);
    added.scene.commits(ALICE, plan, Made::as_add).await;
    added.fetch().await;
    added.scene.site.pass(DAY_MS).await;
    added.refused("for its first epoch", NOT_KEPT).await;
    // For the other one the time has not begun.
    let group_id = added.scene.group_id();
    let request = added.dave.welcome_info(&group_id, 4, &added.reference);
    assert!(added.scene.site.ask(&request).await.is_ok());
    added.scene.goes_on_with(4).await;
}
