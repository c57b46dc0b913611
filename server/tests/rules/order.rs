//! The first rule that fails decides on the answer: commits that break two of them.

use moh_messages::{DsErrorCode, DsRequestBody, extension_type};
use moh_server::Limits;

use crate::made::Made;
use crate::member::Plan;
use crate::operations::Stage;
use crate::parts::{self, by_value};
use crate::scene::{ALICE, ALL, AMY, BOB, CAROL, Scene, admins};

const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;
const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const UNAUTHORIZED: DsErrorCode = DsErrorCode::UNAUTHORIZED;
const UNAUTHENTICATED: DsErrorCode = DsErrorCode::UNAUTHENTICATED;

#[tokio::test]
async fn who_asks_then_the_epoch_then_the_sender_of_the_message() {
    let mut scene = Scene::set().await;
    let old = scene.made(BOB, Plan::default()).as_update();
    scene.updates(ALICE).await;
    let zoe = scene.site.device("zoe/phone@c.example");
    let stranger = zoe.as_leaf(scene.leaf(BOB), old.clone());
    let code = DsErrorCode::UNKNOWN_GROUP;
    let what = "a stranger, of an old epoch";
    scene.refuses_request(what, code, &stranger).await;
    let code = DsErrorCode::WRONG_EPOCH;
    let what = "another's, of an old epoch";
    scene.refuses(CAROL, what, code, old).await;
    let made = scene.made(BOB, Plan::default());
    scene.leaves(CAROL).await;
    let what = "another's, by whom a Remove targets";
    let body = made.as_update();
    scene.refuses(CAROL, what, INVALID, body).await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn what_is_pending_then_roles_then_the_operation() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let dave = scene.site.device("dave/phone@c.example").key_package();
    let adds = scene.made(CAROL, Plan::add(vec![dave]));
    let empty = scene.made(CAROL, Plan::default());
    let what = "no admin, and no Adds";
    scene
        .refuses(CAROL, what, UNAUTHORIZED, empty.as_add())
        .await;
    scene.leaves(AMY).await;
    let code = DsErrorCode::PENDING_PROPOSALS;
    let what = "no admin, and not what is pending";
    scene.refuses(CAROL, what, code, adds.as_add()).await;
    let what = "no admin, no Adds, and not what is pending";
    scene.refuses(CAROL, what, code, empty.as_add()).await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn the_operation_then_rfc_9420_then_the_leaves() {
    let mut scene = Scene::set().await;
    let mut part_of_a_user = scene.made(ALICE, Plan::remove(&[scene.leaf(BOB)]));
    let alice = &scene.members[ALICE];
    part_of_a_user.edit(&alice.device, alice, |commit| commit.path = None);
    let body = part_of_a_user.sent_as(DsRequestBody::RemoveUsers);
    let what = "one client of two, without a path";
    scene.refuses(ALICE, what, VIOLATION, body).await;
    let mut made = scene.made(ALICE, Plan::default());
    let alice = &scene.members[ALICE];
    made.edit(&alice.device, alice, |commit| {
        let leaf = &mut commit.path.as_mut().unwrap().leaf;
        leaf.versions = moh_messages::List::new(vec![2]).unwrap();
        leaf.without(extension_type::ATTESTATION);
    });
    let what = "not capable, and without an attestation";
    let body = made.as_update();
    scene.refuses(ALICE, what, INVALID, body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn the_leaves_then_the_admins_that_are_left() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let mut made = scene.made(ALICE, Plan::default());
    let alice = &scene.members[ALICE];
    let context = alice.context_with_rbac(&admins(&[]));
    let proposal = by_value(&parts::group_context_extensions(&context));
    made.edit(&alice.device, alice, |commit| {
        commit.proposals = parts::bytes(proposal);
        let leaf = &mut commit.path.as_mut().unwrap().leaf;
        leaf.without(extension_type::ATTESTATION);
    });
    let body = made.sent_as(DsRequestBody::SetRoles);
    let what = "no attestation, and no admins";
    scene.refuses(ALICE, what, UNAUTHENTICATED, body).await;
    scene.goes_on().await;
}

/// With another GroupInfo, and without Welcomes.
fn spoilt(scene: &Scene, made: &Made) -> DsRequestBody {
    let mut made = made.clone();
    made.info.context.epoch += 1;
    made.info.sign(&scene.device(ALICE).signer);
    made.as_add_with(Vec::new())
}

#[tokio::test]
async fn the_leaves_then_the_limit_then_the_group_info_then_the_welcomes() {
    let limits = Limits {
        max_members: 5,
        ..Limits::default()
    };
    let mut scene = Scene::with_limits(limits).await;
    let dave = scene.site.device("dave/phone@c.example");
    let unattested = scene.adds_edited(ALICE, &dave, |key_package| {
        key_package.inner.leaf.without(extension_type::ATTESTATION);
        key_package.sign(&dave.signer);
    });
    let what = "one too many, without an attestation";
    let body = unattested.as_add();
    scene.refuses(ALICE, what, UNAUTHENTICATED, body).await;
    let made = scene.made(ALICE, Plan::add(vec![dave.key_package()]));
    let body = spoilt(&scene, &made);
    let code = DsErrorCode::LIMIT_EXCEEDED;
    let what = "one too many, with another GroupInfo";
    scene.refuses(ALICE, what, code, body).await;
    // There is room for one.
    scene.leaves(CAROL).await;
    let made = scene.made(ALICE, Plan::add(vec![dave.key_package()]));
    let body = spoilt(&scene, &made);
    let code = DsErrorCode::INVALID_GROUP_INFO;
    let what = "another GroupInfo, no Welcomes";
    scene.refuses(ALICE, what, code, body).await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

/// Of the same kind, for who joins.
#[tokio::test]
async fn joining() {
    let mut stage = Stage::set().await;
    let operation = stage.operation("external_join by the provider").await;
    let scene = &stage.scene;
    let zoe = scene.site.device("zoe/phone@c.example");
    let request = zoe.home.request(&zoe.id, operation.body.clone());
    let code = DsErrorCode::UNKNOWN_GROUP;
    let what = "a user without a leaf, for another client";
    scene.refuses_request(what, code, &request).await;
    stage.scene.updates(AMY).await;
    let code = DsErrorCode::UNKNOWN_GROUP;
    let request = zoe.home.request(&zoe.id, operation.body.clone());
    let what = "a user without a leaf, of an old epoch";
    stage.scene.refuses_request(what, code, &request).await;
    let code = DsErrorCode::WRONG_EPOCH;
    let carol = stage.scene.device(CAROL);
    let request = carol.home.request(&carol.id, operation.body);
    let what = "for another client, of an old epoch";
    stage.scene.refuses_request(what, code, &request).await;
    stage.scene.goes_on_with(6).await;
}
