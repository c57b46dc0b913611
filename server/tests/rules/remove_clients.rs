//! remove_clients.

use moh_messages::{DsErrorCode, DsRequestBody};

use crate::made::Made;
use crate::member::Plan;
use crate::parts;
use crate::proposals::{refused_besides, refused_instead};
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;

fn body(made: &Made) -> DsRequestBody {
    made.sent_as(DsRequestBody::RemoveClients)
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let mut scene = Scene::set().await;
    let made = scene.made(BOB, Plan::default());
    scene
        .refuses(BOB, "no Removes", VIOLATION, body(&made))
        .await;
    refused_instead(&scene, BOB, &made, "Remove", body).await;
    let laptop = scene.leaf(BOBS_LAPTOP);
    let made = scene.made(BOB, Plan::remove(&[laptop]));
    refused_besides(&scene, BOB, &made, "Remove", body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn of_the_senders_user() {
    let mut scene = Scene::set().await;
    let (laptop, carol) = (scene.leaf(BOBS_LAPTOP), scene.leaf(CAROL));
    for (what, leaves) in [
        ("another user's", &[carol][..]),
        ("one's own and another user's", &[laptop, carol]),
    ] {
        let made = scene.made(BOB, Plan::remove(leaves));
        assert!(made.is_valid(&scene.members[BOB]));
        scene.refuses(BOB, what, VIOLATION, body(&made)).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn not_the_sender() {
    let mut scene = Scene::set().await;
    let laptop = scene.leaf(BOBS_LAPTOP);
    let made = scene.made(BOB, Plan::remove(&[laptop]));
    let bob = &scene.members[BOB];
    let itself = parts::by_value(&parts::remove(bob.index()));
    // (RFC 9420 does not allow it either.)
    let mut besides = made.clone();
    besides.edit(&bob.device, bob, |commit| commit.also(&itself));
    let mut instead = made;
    instead.edit(&bob.device, bob, |commit| {
        commit.proposals = parts::bytes(itself.clone());
    });
    for (what, made) in [("besides", besides), ("instead", instead)] {
        scene.refuses(BOB, what, VIOLATION, body(&made)).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn for_everybody_where_there_are_admins() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let laptop = scene.leaf(BOBS_LAPTOP);
    scene.commits(BOB, Plan::remove(&[laptop]), body).await;
    scene.agree(&[ALICE, AMY, BOB, CAROL], 4).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn others_leave_by_the_same_commit() {
    let mut scene = Scene::set().await;
    scene.leaves(CAROL).await;
    let laptop = scene.leaf(BOBS_LAPTOP);
    scene.commits(BOB, Plan::remove(&[laptop]), body).await;
    scene.agree(&[ALICE, AMY, BOB], 3).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let before = scene.site.mail().await;
    let phone = scene.leaf(BOB);
    let made = scene
        .commits(BOBS_LAPTOP, Plan::remove(&[phone]), body)
        .await;
    let others = scene.devices(&[ALICE, AMY, BOB, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    scene.agree(&[ALICE, AMY, BOBS_LAPTOP, CAROL], 4).await;
    scene.goes_on().await;
}
