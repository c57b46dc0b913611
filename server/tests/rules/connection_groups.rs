//! Connection groups: two users, one of whom the other has invited.

use moh_messages::{DsErrorCode, DsRequestBody, ExternalCommitInfo, GroupType};

use crate::made::Made;
use crate::member::Plan;
use crate::scene::{ALL, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Site;

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
