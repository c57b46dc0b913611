//! external_commit_info.

use std::sync::Arc;

use moh_messages::{
    DsErrorCode, DsRequestBody, DsResponseBody, ExternalCommitInfo, GroupId, Message,
};
use moh_server::Limits;

use crate::device::{Device, Door};
use crate::made::Made;
use crate::member::Plan;
use crate::parts;
use crate::scene::{ALICE, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};

const UNKNOWN: DsErrorCode = DsErrorCode::UNKNOWN_GROUP;
const UNAUTHENTICATED: DsErrorCode = DsErrorCode::UNAUTHENTICATED;
const TABLET: &str = "carol/tablet@c.example";

fn info(group_id: GroupId) -> DsRequestBody {
    DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id })
}

fn door(answer: DsResponseBody) -> Door {
    let DsResponseBody::ExternalCommitInfo {
        group_info,
        ratchet_tree,
        provider_keys,
    } = answer
    else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = provider_keys.iter().map(|k| k.provider.as_str()).collect();
    assert_eq!(names, ["a.example", "b.example", "c.example"]);
    Door {
        group_info: group_info.into_vec(),
        tree: ratchet_tree.into_vec(),
    }
}

impl Scene {
    /// What a device's provider is told for it.
    async fn told(&self, device: &Arc<Device>) -> Door {
        let request = self.site.on_behalf_of(device, info(self.group_id()));
        door(self.site.ask(&request).await.unwrap())
    }
}

#[tokio::test]
async fn for_clients_whose_user_has_a_leaf() {
    let scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let told = scene.told(&tablet).await;
    assert_eq!(told.tree, scene.members[ALICE].tree());
    for what in ["dave/phone@c.example", "bob/phone@c.example"] {
        let stranger = scene.site.device(what);
        let request = scene.site.on_behalf_of(&stranger, info(scene.group_id()));
        scene.refuses_request(what, UNKNOWN, &request).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn for_members() {
    let scene = Scene::set().await;
    for member in [ALICE, AMY, BOB, BOBS_LAPTOP, CAROL] {
        let told = door(scene.ask(member, info(scene.group_id())).await.unwrap());
        assert_eq!(told.tree, scene.members[ALICE].tree());
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn groups_that_there_are_not() {
    let scene = Scene::set().await;
    let nowhere = GroupId::new([5; 32]).unwrap();
    let by_leaf = scene.members[CAROL].ask(info(nowhere.clone()));
    let by_provider = scene.site.on_behalf_of(scene.device(CAROL), info(nowhere));
    for request in [by_leaf, by_provider] {
        scene.refuses_request("none", UNKNOWN, &request).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn providers_speak_for_their_own_clients() {
    let scene = Scene::set().await;
    let mut request = scene
        .site
        .on_behalf_of(scene.device(CAROL), info(scene.group_id()));
    request.sender = "b.example".parse().unwrap();
    scene.site.homes["b.example"].sign_request(&mut request);
    let what = "another provider";
    scene.refuses_request(what, UNAUTHENTICATED, &request).await;
    scene.goes_on().await;
}

/// What is told is of the current epoch, after each kind of change, and a client can join by it.
#[tokio::test]
async fn it_is_what_an_external_commit_needs() {
    let mut scene = Scene::set().await;
    let dave = scene.site.device("dave/phone@c.example").key_package();
    let changes = [
        (Plan::default(), Made::as_update as fn(&Made) -> _),
        (
            Plan {
                without_path: true,
                ..Plan::add(vec![dave])
            },
            Made::as_add,
        ),
        (
            Plan::remove(&[scene.leaf(BOB), scene.leaf(BOBS_LAPTOP)]),
            |made| made.sent_as(DsRequestBody::RemoveUsers),
        ),
    ];
    enters_as_told(&mut scene, 0).await;
    for (number, (plan, body)) in (1..).zip(changes) {
        scene.commits(ALICE, plan, body).await;
        enters_as_told(&mut scene, number).await;
    }
    scene.site.restart().await;
    enters_as_told(&mut scene, 9).await;
    scene.leaves(AMY).await;
    enters_as_told(&mut scene, 10).await;
    scene.site.end().await;
}

/// A new client of Carol's joins by what its provider is told.
async fn enters_as_told(scene: &mut Scene, number: usize) {
    let device = scene.site.device(&format!("carol/{number}@c.example"));
    let request = scene
        .site
        .on_behalf_of(scene.device(CAROL), info(scene.group_id()));
    let answer = scene.site.ask(&request).await.unwrap();
    let DsResponseBody::ExternalCommitInfo {
        group_info,
        ratchet_tree,
        ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    let epoch = scene.members[ALICE].epoch();
    let parts = parts::GroupInfo::decode(group_info.as_slice()).unwrap();
    assert_eq!(parts.context.epoch, epoch);
    let told = Door {
        group_info: group_info.into_vec(),
        tree: ratchet_tree.into_vec(),
    };
    assert_eq!(told.tree, scene.members[ALICE].tree(), "{number}");
    let (made, joined) = device.enter(&told);
    let body = made.sent_as(DsRequestBody::ExternalJoin);
    let request = scene.site.on_behalf_of(&device, body);
    scene.accepts("an external join", epoch + 1, &request).await;
    scene.hear().await;
    assert_eq!(joined.tree(), scene.members[ALICE].tree(), "{number}");
}

#[tokio::test]
async fn the_tree_of_a_group_of_one() {
    let scene = Scene::of_these(&["alice/phone@a.example"]).await;
    let answer = scene.ask(ALICE, info(scene.group_id())).await.unwrap();
    let DsResponseBody::ExternalCommitInfo {
        group_info,
        ratchet_tree,
        ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(
        group_info.into_vec(),
        scene.members[ALICE].door().group_info
    );
    assert_eq!(ratchet_tree.into_vec(), scene.members[ALICE].tree());
    scene.site.end().await;
}

#[tokio::test]
async fn a_tree_that_is_too_large() {
    let limits = Limits {
        max_tree_bytes: 500,
        ..Limits::default()
    };
    let site = crate::site::Site::with_limits(limits).await;
    let alice = site.device("alice/phone@a.example");
    let mut member = site.group_of(&alice).await;
    let dave = site.device("dave/phone@c.example");
    let key_package = dave.key_package();
    let made = member.commit(Plan::add(vec![key_package.clone()]));
    site.ask(&member.ask(made.as_add())).await.unwrap();
    member.accept();
    let code = DsErrorCode::LIMIT_EXCEEDED;
    let request = member.ask(info(member.group_id()));
    assert_eq!(site.ask(&request).await, Err(code));
    let request = dave.welcome_info(&member.group_id(), 1, &dave.reference(&key_package));
    assert_eq!(site.ask(&request).await, Err(code));
    site.end().await;
}
