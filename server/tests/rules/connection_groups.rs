//! Connection groups: two users, one of whom the other has invited.

use moh_messages::client_api::{BlockTarget, ConnectionState};
use moh_messages::{
    ConnectionRequest, DsErrorCode, DsRequestBody, ExternalCommitInfo, GroupType, List, Message,
    MlsBytes, QueuePayload,
};
use moh_server::Limits;
use moh_server::change::{Change, Write};
use moh_server::store::Store as _;

use crate::device::{Founding, create_group};
use crate::made::Made;
use crate::member::Plan;
use crate::parts;
use crate::scene::{ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene, user_of};
use crate::site::{Site, waiting_for};

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const UNKNOWN: DsErrorCode = DsErrorCode::UNKNOWN_GROUP;
/// Places in the scene, which has Alice, Bob and Bob's laptop.
const ALICE: usize = 0;
const PHONE: usize = 1;

async fn alone() -> Scene {
    let names = &ALL[..1];
    Scene::of(Site::start().await, names, GroupType::Connection, None).await
}

fn removes(made: &Made) -> DsRequestBody {
    made.sent_as(DsRequestBody::RemoveUsers)
}

/// A commit of Alice's that adds these, with KeyPackages that are for this.
fn adds(scene: &mut Scene, names: &[&str]) -> Made {
    let key_packages = names
        .iter()
        .map(|name| scene.site.device(name).connection_key_package());
    let plan = Plan::add(key_packages.collect());
    scene.made(ALICE, plan)
}

#[tokio::test]
async fn one_user_is_added() {
    let mut scene = alone().await;
    let made = adds(&mut scene, &[ALL[BOB], ALL[CAROL]]);
    assert!(made.is_valid(&scene.members[ALICE]));
    scene
        .refuses(ALICE, "two users", VIOLATION, made.as_add())
        .await;
    // Who may have several clients.
    let made = adds(&mut scene, &[ALL[BOB], ALL[BOBS_LAPTOP]]);
    let request = scene.members[ALICE].ask(made.as_add());
    scene.accepts("one user", 1, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn once() {
    let mut scene = Scene::connection().await;
    let made = adds(&mut scene, &[ALL[CAROL]]);
    assert!(made.is_valid(&scene.members[ALICE]));
    scene
        .refuses(ALICE, "a third user", VIOLATION, made.as_add())
        .await;
    // Also when who was invited has gone.
    let leaves = [1, 2];
    scene.commits(ALICE, Plan::remove(&leaves), removes).await;
    for (what, name) in [("another user", ALL[CAROL]), ("the same user", ALL[BOB])] {
        let made = adds(&mut scene, &[name]);
        scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
    }
    scene.site.restart().await;
    let made = adds(&mut scene, &[ALL[CAROL]]);
    let what = "after a restart";
    scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn further_clients_of_the_two() {
    let mut scene = Scene::connection().await;
    let adds_clients = |made: &Made| made.adds_as(DsRequestBody::AddClients);
    let tablet = scene.site.device("bob/tablet@b.example");
    let plan = Plan::add(vec![tablet.connection_key_package()]);
    scene.commits(PHONE, plan, adds_clients).await;
    let laptop = scene.site.device("alice/laptop@a.example");
    let plan = Plan::add(vec![laptop.key_package()]);
    scene.commits(PHONE, plan, adds_clients).await;
    let carol = scene.site.device(ALL[CAROL]);
    let made = scene.made(PHONE, Plan::add(vec![carol.key_package()]));
    let what = "a third user's";
    scene
        .refuses(PHONE, what, VIOLATION, adds_clients(&made))
        .await;
    scene.goes_on_with(5).await;
}

#[tokio::test]
async fn the_invited_one_may_join_without_a_leaf() {
    let mut scene = Scene::connection().await;
    let leaves = [1, 2];
    scene.commits(ALICE, Plan::remove(&leaves), removes).await;
    let tablet = scene.site.device("bob/tablet@b.example");
    let carol = scene.site.device(ALL[CAROL]);
    let info = DsRequestBody::ExternalCommitInfo(ExternalCommitInfo {
        group_id: scene.group_id(),
    });
    let request = scene.site.on_behalf_of(&tablet, info.clone());
    assert!(scene.site.ask(&request).await.is_ok());
    let request = scene.site.on_behalf_of(&carol, info);
    let what = "another user asks";
    scene.refuses_request(what, UNKNOWN, &request).await;
    let (made, _) = scene.entering(&carol);
    let request = scene.join_request(&carol, &made);
    let what = "another user joins";
    scene.refuses_request(what, UNKNOWN, &request).await;
    scene.joins(&tablet).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn nobody_is_invited_into_a_regular_group() {
    let mut scene = Scene::of_these(&[ALL[0], ALL[BOB]]).await;
    scene.commits(ALICE, Plan::remove(&[1]), removes).await;
    let tablet = scene.site.device("bob/tablet@b.example");
    let (made, _) = scene.entering(&tablet);
    let request = scene.join_request(&tablet, &made);
    let what = "who was in it";
    scene.refuses_request(what, UNKNOWN, &request).await;
    // There, whoever has gone can be added again.
    let bob = scene.site.device(ALL[BOB]).key_package();
    scene
        .commits(ALICE, Plan::add(vec![bob]), Made::as_add)
        .await;
    scene.goes_on_with(2).await;
}

#[tokio::test]
async fn made_by_a_client_of_its_owner() {
    let scene = Scene::of_these(&ALL[..1]).await;
    let bob = scene.site.device(ALL[BOB]);
    // A name that was given to Alice, and used by Bob.
    for group_type in [GroupType::Connection, GroupType::Regular] {
        let founding = Founding {
            group_type,
            ..scene.site.founding(scene.device(ALICE)).await
        };
        let (member, info) = bob.found(&founding);
        let body = create_group(&founding, &member.own_leaf(), &info);
        let request = bob.as_leaf(0, body);
        match group_type {
            GroupType::Connection => {
                let what = "by a client of another provider";
                scene.refuses_request(what, VIOLATION, &request).await;
            }
            GroupType::Regular => scene.accepts("a regular one", 0, &request).await,
        }
    }
    scene.site.end().await;
}

/// What waits for Bob's provider.
async fn waiting(scene: &Scene) -> Vec<QueuePayload> {
    let provider = "b.example".parse().unwrap();
    let rows = waiting_for(&*scene.site.store, &provider).await;
    let rows = rows.into_iter();
    let payloads = rows.map(|row| QueuePayload::decode(&row.delivery().unwrap().payload).unwrap());
    payloads.collect()
}

#[tokio::test]
async fn a_welcome_is_a_connection_request() {
    let mut scene = alone().await;
    let made = adds(&mut scene, &[ALL[BOB], ALL[BOBS_LAPTOP]]);
    let request = scene.members[ALICE].ask(made.as_add());
    scene.accepts("an invitation", 1, &request).await;
    let (alice, bob) = (user_of(ALL[ALICE]), user_of(ALL[BOB]));
    let waiting = waiting(&scene).await;
    let [QueuePayload::ConnectionRequest(sent)] = waiting.as_slice() else {
        panic!("{waiting:?}");
    };
    let expected = ConnectionRequest {
        requester: alice.clone(),
        responder: bob.clone(),
        welcome: made.welcome.clone().unwrap(),
    };
    assert_eq!(*sent, expected);
    // Whoever asks consents; whoever is asked is at another provider, which knows what they say.
    let store = &scene.site.store;
    assert!(store.consent(&alice, &bob).await.unwrap());
    assert!(!store.consent(&bob, &alice).await.unwrap());
    scene.site.end().await;
}

#[tokio::test]
async fn by_one_welcome() {
    let mut scene = alone().await;
    let made = adds(&mut scene, &[ALL[BOB], ALL[BOBS_LAPTOP]]);
    let welcome = made.welcome.clone().unwrap();
    let part = |place: usize| {
        let mut part = parts::Welcome::decode(welcome.as_slice()).unwrap();
        let secret = part.secrets[place].clone();
        part.secrets = List::new(vec![secret]).unwrap();
        MlsBytes::new(part.encode()).unwrap()
    };
    let parts = vec![part(0), part(1)];
    let what = "two Welcomes";
    scene
        .refuses(ALICE, what, VIOLATION, made.as_add_with(parts))
        .await;
    let request = scene.members[ALICE].ask(made.as_add());
    scene.accepts("one", 1, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn other_welcomes_are_none() {
    let mut scene = Scene::connection().await;
    let before = waiting(&scene).await.len();
    let tablet = scene.site.device("bob/tablet@b.example");
    let plan = Plan::add(vec![tablet.connection_key_package()]);
    let adds_clients = |made: &Made| made.adds_as(DsRequestBody::AddClients);
    scene.commits(PHONE, plan, adds_clients).await;
    let since = waiting(&scene).await.split_off(before);
    let is_message = |payload: &QueuePayload| matches!(payload, QueuePayload::MlsMessage(_));
    assert_eq!((since.len(), since.iter().all(is_message)), (2, true));
    // Nor are those of regular groups, and nobody consents by them.
    let regular = Scene::of_these(&[ALL[ALICE], ALL[BOB]]).await;
    assert!(waiting(&regular).await.iter().all(is_message));
    let (alice, bob) = (user_of(ALL[ALICE]), user_of(ALL[BOB]));
    assert!(!regular.site.store.consent(&alice, &bob).await.unwrap());
    regular.site.end().await;
    scene.site.end().await;
}

#[tokio::test]
async fn a_user_of_the_same_provider() {
    let mut scene = alone().await;
    let amy = scene.site.device(ALL[AMY]);
    let made = scene.made(ALICE, Plan::add(vec![amy.connection_key_package()]));
    let request = scene.members[ALICE].ask(made.as_add());
    scene.accepts("an invitation", 1, &request).await;
    let store = &scene.site.store;
    let rows = store.queue(&amy.id, 0, 9, 1 << 20).await.unwrap();
    let payloads: Vec<_> = rows
        .iter()
        .map(|row| QueuePayload::decode(&row.payload).unwrap())
        .collect();
    let [QueuePayload::ConnectionRequest(sent)] = payloads.as_slice() else {
        panic!("{payloads:?}");
    };
    assert_eq!(Some(&sent.welcome), made.welcome.as_ref());
    let (alice, amy) = (user_of(ALL[ALICE]), user_of(ALL[AMY]));
    let relation = store.relation(&amy, &alice).await.unwrap();
    let expected = (Some(ConnectionState::Asked), 1);
    assert_eq!((relation.state, relation.requests), expected);
    assert!(store.consent(&alice, &amy).await.unwrap());
    scene.site.end().await;
}

#[tokio::test]
async fn not_whom_the_requester_blocks() {
    let mut scene = alone().await;
    let bob = user_of(ALL[BOB]);
    let targets = [
        BlockTarget::User(bob.clone()),
        BlockTarget::Provider(bob.provider()),
    ];
    let made = adds(&mut scene, &[ALL[BOB]]);
    for target in targets {
        for blocked in [true, false] {
            let user = user_of(ALL[ALICE]);
            let target = target.clone();
            let change = Change {
                expect: Vec::new(),
                writes: vec![Write::Block {
                    user,
                    target,
                    blocked,
                }],
            };
            scene.site.store.commit(change).await.unwrap();
            if blocked {
                let what = "blocked by the requester";
                scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
            }
        }
    }
    let request = scene.members[ALICE].ask(made.as_add());
    scene.accepts("not blocked any more", 1, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn who_has_too_many_connections() {
    let limits = Limits {
        max_connections_per_user: 0,
        ..Limits::default()
    };
    let site = Site::with_limits(limits).await;
    let mut scene = Scene::of(site, &ALL[..1], GroupType::Connection, None).await;
    let made = adds(&mut scene, &[ALL[BOB]]);
    let code = DsErrorCode::LIMIT_EXCEEDED;
    let what = "one more connection";
    scene.refuses(ALICE, what, code, made.as_add()).await;
    scene.site.end().await;
}

#[tokio::test]
async fn who_is_asked_too_much() {
    let limits = Limits {
        max_pending_connection_requests: 0,
        ..Limits::default()
    };
    let site = Site::with_limits(limits).await;
    let mut scene = Scene::of(site, &ALL[..1], GroupType::Connection, None).await;
    let made = adds(&mut scene, &[ALL[AMY]]);
    let code = DsErrorCode::RATE_LIMITED;
    let what = "one more request";
    scene.refuses(ALICE, what, code, made.as_add()).await;
    // Of users of other providers, their provider says that.
    let made = adds(&mut scene, &[ALL[BOB]]);
    let request = scene.members[ALICE].ask(made.as_add());
    scene.accepts("of another provider", 1, &request).await;
    scene.site.end().await;
}
