//! remove_users.

use moh_messages::{DsErrorCode, DsRequestBody};

use crate::made::Made;
use crate::member::Plan;
use crate::parts;
use crate::proposals::{refused_besides, refused_instead};
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;

fn body(made: &Made) -> DsRequestBody {
    made.sent_as(DsRequestBody::RemoveUsers)
}

/// A commit of Alice's that removes these.
fn removes(scene: &mut Scene, members: &[usize]) -> Made {
    let leaves: Vec<_> = members.iter().map(|&member| scene.leaf(member)).collect();
    scene.made(ALICE, Plan::remove(&leaves))
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let mut scene = Scene::set().await;
    let made = scene.made(ALICE, Plan::default());
    scene
        .refuses(ALICE, "no Removes", VIOLATION, body(&made))
        .await;
    refused_instead(&scene, ALICE, &made, "Remove", body).await;
    let made = removes(&mut scene, &[CAROL]);
    refused_besides(&scene, ALICE, &made, "Remove", body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn all_clients_of_each_user() {
    let mut scene = Scene::set().await;
    for (what, members) in [
        ("one of two clients", &[BOB][..]),
        ("the other one", &[BOBS_LAPTOP]),
        ("one user whole, another not", &[CAROL, BOBS_LAPTOP]),
    ] {
        let made = removes(&mut scene, members);
        assert!(made.is_valid(&scene.members[ALICE]));
        scene.refuses(ALICE, what, VIOLATION, body(&made)).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn not_the_senders_own() {
    let mut scene = Scene::set().await;
    let laptop = scene.leaf(BOBS_LAPTOP);
    let made = scene.made(BOB, Plan::remove(&[laptop, scene.leaf(CAROL)]));
    assert!(made.is_valid(&scene.members[BOB]));
    let what = "a client of one's own besides";
    scene.refuses(BOB, what, VIOLATION, body(&made)).await;
    let made = scene.made(BOB, Plan::remove(&[laptop]));
    let what = "a client of one's own";
    scene.refuses(BOB, what, VIOLATION, body(&made)).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_leaf_is_removed_once() {
    let mut scene = Scene::set().await;
    let mut made = removes(&mut scene, &[CAROL]);
    let (alice, carol) = (&scene.members[ALICE], scene.leaf(CAROL));
    made.edit(&alice.device, alice, |commit| {
        commit.also(&parts::by_value(&parts::remove(carol)));
    });
    scene.refuses(ALICE, "twice", VIOLATION, body(&made)).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn removes_that_are_not_valid() {
    let mut scene = Scene::set().await;
    let made = removes(&mut scene, &[CAROL]);
    let alice = &scene.members[ALICE];
    let mut nobody = made.clone();
    nobody.edit(&alice.device, alice, |commit| {
        commit.also(&parts::by_value(&parts::remove(77)));
    });
    let mut blank = made.clone();
    blank.edit(&alice.device, alice, |commit| {
        commit.also(&parts::by_value(&parts::remove(6)));
    });
    let mut without_path = made;
    without_path.edit(&alice.device, alice, |commit| commit.path = None);
    for (what, made) in [
        ("of a leaf that is not in the tree", nobody),
        ("of a blank leaf", blank),
        ("without a path", without_path),
    ] {
        scene.refuses(ALICE, what, INVALID, body(&made)).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn only_admins_where_there_are_some() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let carol = scene.leaf(CAROL);
    let made = scene.made(BOB, Plan::remove(&[carol]));
    let code = DsErrorCode::UNAUTHORIZED;
    scene.refuses(BOB, "a member", code, body(&made)).await;
    scene.commits(ALICE, Plan::remove(&[carol]), body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn those_by_reference_count() {
    let mut scene = Scene::set().await;
    scene.leaves(BOBS_LAPTOP).await;
    let phone = scene.leaf(BOB);
    // One of Bob's clients by value, the other one by reference.
    scene.commits(ALICE, Plan::remove(&[phone]), body).await;
    scene.agree(&[ALICE, AMY, CAROL], 3).await;
    // What is by reference needs no company of its own user's.
    scene.leaves(AMY).await;
    let carol = scene.leaf(CAROL);
    scene.commits(ALICE, Plan::remove(&[carol]), body).await;
    scene.agree(&[ALICE], 1).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn those_by_reference_are_not_enough() {
    let mut scene = Scene::set().await;
    scene.leaves(CAROL).await;
    let made = scene.made(ALICE, Plan::default());
    scene
        .refuses(ALICE, "none by value", VIOLATION, body(&made))
        .await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let before = scene.site.mail().await;
    let leaves = [scene.leaf(BOB), scene.leaf(BOBS_LAPTOP)];
    let made = scene.commits(ALICE, Plan::remove(&leaves), body).await;
    // Those who are removed see it as well.
    let others = scene.devices(&[AMY, BOB, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    scene.agree(&[ALICE, AMY, CAROL], 3).await;
    // And nothing after that.
    let before = scene.site.mail().await;
    let made = scene.updates(CAROL).await;
    let expected = Mail::of(scene.devices(&[ALICE, AMY]), &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    scene.goes_on().await;
}

#[tokio::test]
async fn who_was_removed_is_a_stranger() {
    let mut scene = Scene::set().await;
    let request = scene.members[CAROL].message("hello");
    let carol = scene.leaf(CAROL);
    scene.commits(ALICE, Plan::remove(&[carol]), body).await;
    let code = DsErrorCode::UNKNOWN_GROUP;
    scene.refuses(CAROL, "a message", code, request).await;
    scene.goes_on().await;
}
