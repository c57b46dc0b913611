//! self_remove_client.

use moh_messages::{DsErrorCode, DsRequestBody};

use crate::member::{Heard, Plan, self_remove};
use crate::parts;
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;

/// The Remove of a member by itself, which its copy of the group does not know of.
fn of(scene: &Scene, member: usize) -> DsRequestBody {
    let member = &scene.members[member];
    self_remove(member.proposes(&parts::remove(member.index())))
}

#[tokio::test]
async fn one_remove_that_targets_the_sender() {
    let mut scene = Scene::set().await;
    let made = scene.made(CAROL, Plan::default());
    let carol = &scene.members[CAROL];
    let context = parts::group_context_extensions(&carol.context_extensions());
    let dave = scene.site.device("dave/phone@c.example");
    for (what, message) in [
        (
            "of another",
            carol.proposes(&parts::remove(scene.leaf(BOB))),
        ),
        ("of nobody", carol.proposes(&parts::remove(77))),
        (
            "an Add",
            carol.proposes(&parts::add(&dave.key_package_parts())),
        ),
        (
            "an Update",
            carol.proposes(&parts::update(&carol.own_leaf())),
        ),
        ("a PreSharedKey", carol.proposes(&parts::pre_shared_key())),
        ("GroupContextExtensions", carol.proposes(&context)),
        ("a commit", made.commit),
    ] {
        let body = self_remove(message);
        scene.refuses(CAROL, what, VIOLATION, body).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn messages_that_are_none() {
    let mut scene = Scene::set().await;
    let carol = &scene.members[CAROL];
    let remove = parts::remove(carol.index());
    let good = carol.proposes(&remove);
    let place = (carol.group.group_id().as_slice(), carol.epoch());
    let (key, others) = (&carol.device.signer, &scene.device(BOB).signer);
    let message =
        |sender, signer| parts::proposal_message(place, sender, &remove, signer, &carol.context());
    for (what, message) in [
        ("no bytes", Vec::new()),
        ("no message", vec![1; 40]),
        ("with a rest", [&good[..], &[0]].concat()),
        ("cut short", good[..good.len() - 1].to_vec()),
        (
            "signed by another",
            message(parts::Sender::Member(carol.index()), others),
        ),
        (
            "as an external sender",
            message(parts::Sender::External(0), key),
        ),
        (
            "as a new member",
            message(parts::Sender::NewMemberProposal, key),
        ),
    ] {
        let body = self_remove(message);
        scene.refuses(CAROL, what, INVALID, body).await;
    }
    let DsRequestBody::SendMessage(private) = scene.members[CAROL].message("private") else {
        unreachable!();
    };
    let body = self_remove(private.message.into_vec());
    let what = "a PrivateMessage";
    scene.refuses(CAROL, what, VIOLATION, body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn once() {
    let mut scene = Scene::set().await;
    scene.leaves(CAROL).await;
    // The same proposal in another message.
    let carol = &scene.members[CAROL];
    let (place, remove) = (carol.index(), parts::remove(carol.index()));
    let message = parts::proposal_message_with(
        (carol.group.group_id().as_slice(), carol.epoch()),
        parts::Sender::Member(place),
        b"again",
        &remove,
        &carol.device.signer,
        &carol.context(),
    );
    let body = self_remove(message);
    scene.refuses(CAROL, "a second one", VIOLATION, body).await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_long_one() {
    let scene = Scene::set().await;
    let with_data = |scene: &Scene, length| {
        let carol = &scene.members[CAROL];
        self_remove(parts::proposal_message_with(
            (carol.group.group_id().as_slice(), carol.epoch()),
            parts::Sender::Member(carol.index()),
            &vec![0; length],
            &parts::remove(carol.index()),
            &carol.device.signer,
            &carol.context(),
        ))
    };
    let code = DsErrorCode::LIMIT_EXCEEDED;
    let body = with_data(&scene, 1000);
    scene.refuses(CAROL, "over 1 KiB", code, body).await;
    let request = scene.members[CAROL].ask(with_data(&scene, 500));
    scene.accepts("under 1 KiB", 1, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn not_by_whom_the_provider_removes() {
    let mut scene = Scene::set().await;
    scene.is_deleted(CAROL).await;
    let body = of(&scene, CAROL);
    scene.refuses(CAROL, "targeted", VIOLATION, body).await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_leaf_has_to_stay() {
    let mut scene = Scene::of_these(&[ALL[ALICE]]).await;
    let body = of(&scene, ALICE);
    scene.refuses(ALICE, "the only one", VIOLATION, body).await;
    scene.updates(ALICE).await;
    scene.site.end().await;

    let mut scene = Scene::of_these(&ALL[..3]).await;
    scene.leaves(ALICE).await;
    scene.leaves(AMY).await;
    let body = of(&scene, BOB);
    scene.refuses(BOB, "the last one", VIOLATION, body).await;
    scene.updates(BOB).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_leaf_has_to_stay_of_those_that_the_provider_leaves() {
    let mut scene = Scene::of_these(&ALL[..2]).await;
    scene.is_deleted(AMY).await;
    let body = of(&scene, ALICE);
    scene.refuses(ALICE, "the last one", VIOLATION, body).await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn an_admins_leaf_has_to_stay() {
    let mut scene = Scene::with_admins(&[ALL[ALICE], ALL[BOB]]).await;
    scene.leaves(BOB).await;
    // Bob's laptop is an admin's leaf as well.
    scene.leaves(ALICE).await;
    let body = of(&scene, BOBS_LAPTOP);
    let what = "the last admin's";
    scene.refuses(BOBS_LAPTOP, what, VIOLATION, body).await;
    scene.leaves(CAROL).await;
    scene.updates(AMY).await;
    scene.agree(&[AMY, BOBS_LAPTOP], 2).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn it_stays_pending_until_the_next_commit() {
    let mut scene = Scene::set().await;
    let proposal = scene.leaves(CAROL).await;
    for member in [ALICE, AMY, BOB, BOBS_LAPTOP, CAROL] {
        let carol = scene.leaf(CAROL);
        assert_eq!(scene.members[member].pending(), [carol], "{member}");
    }
    let code = DsErrorCode::PENDING_PROPOSALS;
    let plan = Plan {
        leave_out: vec![scene.leaf(CAROL)],
        ..Plan::default()
    };
    let made = scene.made(BOB, plan);
    let error = scene.refuses(BOB, "without it", code, made.as_update());
    let error = error.await;
    assert_eq!(crate::pending_proposals::carried(&error), [proposal]);
    scene.updates(BOB).await;
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP], 4).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let before = scene.site.mail().await;
    let proposal = scene.members[CAROL].leave();
    let request = scene.members[CAROL].ask(self_remove(proposal.clone()));
    scene.accepts("a self-removal", 1, &request).await;
    let others = scene.devices(&[ALICE, AMY, BOB, BOBS_LAPTOP]);
    let expected = Mail::of(others, &[&proposal]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    for (member, heard) in scene.hear().await.into_iter().enumerate() {
        let expected = match member {
            CAROL => vec![],
            _ => vec![Heard::Proposal],
        };
        assert_eq!(heard, expected, "{member}");
    }
    // She is told when she is out.
    let before = scene.site.mail().await;
    let made = scene.updates(ALICE).await;
    let others = scene.devices(&[AMY, BOB, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP], 4).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn what_is_pending_survives_a_restart() {
    let mut scene = Scene::set().await;
    scene.leaves(CAROL).await;
    scene.site.restart().await;
    let plan = Plan {
        leave_out: vec![scene.leaf(CAROL)],
        ..Plan::default()
    };
    let made = scene.made(BOB, plan);
    let code = DsErrorCode::PENDING_PROPOSALS;
    scene
        .refuses(BOB, "without it", code, made.as_update())
        .await;
    scene.updates(BOB).await;
    scene.goes_on().await;
}
