//! Proposals that wait for the next commit.

use std::sync::Arc;

use moh_messages::{DsError, DsErrorCode, DsRequestBody, HandshakeBytes, List, Message};

use crate::device::Device;
use crate::made::Made;
use crate::member::{Plan, self_remove};
use crate::operations::{MEMBERS_COMMITS, Stage};
use crate::parts;
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Site;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;
const PENDING: DsErrorCode = DsErrorCode::PENDING_PROPOSALS;

/// The proposals that a refusal carries.
pub(crate) fn carried(error: &DsError) -> Vec<Vec<u8>> {
    let proposals = List::<HandshakeBytes, 256>::decode(error.data.as_slice()).unwrap();
    let proposals = proposals.iter().map(|p| p.as_slice().to_vec());
    proposals.collect()
}

#[tokio::test]
async fn the_next_commit_holds_them_whatever_it_is() {
    let mut stage = Stage::set().await;
    // Commits that are built before anybody has heard of the proposal.
    let mut operations = Vec::new();
    for name in MEMBERS_COMMITS {
        operations.push(stage.operation(name).await);
    }
    let proposal = stage.scene.leaves(AMY).await;
    for operation in operations {
        let request = operation.request();
        let what = operation.name;
        let error = stage.scene.refuses_request(what, PENDING, &request).await;
        assert_eq!(carried(&error), [proposal.as_slice()], "{what}");
    }
    stage.scene.updates(ALICE).await;
    stage.scene.goes_on_with(5).await;
}

#[tokio::test]
async fn all_of_them() {
    let mut scene = Scene::set().await;
    let amy = scene.leaves(AMY).await;
    let carol = scene.leaves(CAROL).await;
    let both = [scene.leaf(AMY), scene.leaf(CAROL)];
    for leave_out in [vec![both[0]], vec![both[1]], both.to_vec()] {
        let plan = Plan {
            leave_out,
            ..Plan::default()
        };
        let made = scene.made(BOB, plan);
        let what = "not all";
        let error = scene.refuses(BOB, what, PENDING, made.as_update()).await;
        assert_eq!(carried(&error), [amy.as_slice(), &carol]);
    }
    scene.updates(BOB).await;
    scene.agree(&[ALICE, BOB, BOBS_LAPTOP], 3).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn every_operation_takes_them() {
    use DsRequestBody as B;
    let mut scene = Scene::with_admins(&[ALL[ALICE], ALL[BOB]]).await;
    scene.leaves(CAROL).await;
    let dave = scene.site.device("dave/phone@c.example").key_package();
    scene
        .commits(ALICE, Plan::add(vec![dave]), Made::as_add)
        .await;
    scene.leaves(BOBS_LAPTOP).await;
    let tablet = scene.site.device("bob/tablet@b.example");
    let plan = Plan::add(vec![tablet.key_package()]);
    scene
        .commits(BOB, plan, |made| made.adds_as(B::AddClients))
        .await;
    scene.leaves(AMY).await;
    let context = scene.members[ALICE].context_with_rbac(&crate::scene::admins(&[ALL[ALICE]]));
    let set = |made: &Made| made.sent_as(B::SetRoles);
    scene.commits(ALICE, Plan::context(context), set).await;
    scene.agree(&[ALICE, BOB], 4).await;
    scene.goes_on_with(4).await;
}

#[tokio::test]
async fn references_to_nothing() {
    let mut scene = Scene::set().await;
    scene.leaves(CAROL).await;
    let mut made = scene.made(BOB, Plan::default());
    let bob = &scene.members[BOB];
    made.edit(&bob.device, bob, |commit| {
        commit.also(&parts::by_reference([7; 32]));
    });
    let what = "one too many";
    scene.refuses(BOB, what, INVALID, made.as_update()).await;
    let mut made = scene.made(BOB, Plan::default());
    let bob = &scene.members[BOB];
    let reference = bob.pending_reference(scene.leaf(CAROL));
    made.edit(&bob.device, bob, |commit| {
        commit.also(&parts::by_reference(reference));
    });
    let what = "the same one twice";
    scene.refuses(BOB, what, INVALID, made.as_update()).await;
    scene.updates(BOB).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn no_leaf_is_removed_twice() {
    let mut scene = Scene::set().await;
    scene.leaves(BOBS_LAPTOP).await;
    let (phone, laptop) = (scene.leaf(BOB), scene.leaf(BOBS_LAPTOP));
    let mut made = scene.made(ALICE, Plan::remove(&[phone]));
    let alice = &scene.members[ALICE];
    made.edit(&alice.device, alice, |commit| {
        commit.also(&parts::by_value(&parts::remove(laptop)));
    });
    let body = made.sent_as(DsRequestBody::RemoveUsers);
    let what = "by reference and by value";
    scene.refuses(ALICE, what, VIOLATION, body).await;
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn who_is_to_be_removed_does_not_commit() {
    for by_the_provider in [false, true] {
        let mut stage = Stage::set().await;
        // With nothing of what is pending, and with all of it.
        let mut operations = vec![];
        for name in ["update_client", "remove_clients", "add_clients"] {
            operations.push(stage.operation(name).await);
        }
        if by_the_provider {
            stage.scene.is_deleted(BOB).await;
        } else {
            stage.scene.leaves(BOB).await;
        }
        for operation in operations {
            let request = operation.request();
            let what = operation.name;
            stage.scene.refuses_request(what, VIOLATION, &request).await;
        }
        let bob = stage.scene.leaf(BOB);
        let plan = Plan {
            leave_out: vec![bob],
            ..Plan::default()
        };
        let mut made = stage.scene.made(BOB, plan);
        let member = &stage.scene.members[BOB];
        let reference = member.pending_reference(bob);
        made.edit(&member.device, member, |commit| {
            commit.also(&parts::by_reference(reference));
        });
        let what = "with the reference";
        let body = made.as_update();
        stage.scene.refuses(BOB, what, VIOLATION, body).await;
        stage.scene.updates(ALICE).await;
        stage.scene.goes_on_with(5).await;
    }
}

#[tokio::test]
async fn external_commits_are_exempt() {
    let mut scene = Scene::set().await;
    scene.leaves(CAROL).await;
    let tablet = scene.site.device("bob/tablet@b.example");
    scene.joins(&tablet).await;
    // What has lapsed is proposed anew by the provider, at once.
    let (tablet, carol) = (5, scene.leaf(CAROL));
    scene.hear().await;
    for member in [ALICE, AMY, BOB, BOBS_LAPTOP, CAROL, tablet] {
        assert_eq!(scene.members[member].pending(), [carol], "{member}");
    }
    let device = scene.device(ALICE).clone();
    let mail = scene.site.mail().await;
    let last = mail.to(&device).last().unwrap();
    let remove = parts::Remove::of(last).unwrap();
    assert_eq!(remove.sender, parts::Sender::External(0));
    scene.updates(tablet).await;
    scene
        .agree(&[ALICE, AMY, BOB, BOBS_LAPTOP, tablet], 5)
        .await;
    scene.goes_on().await;
}

/// Clients by the hundred, 16 of a user.
fn crowd(site: &Site, count: usize) -> Vec<Arc<Device>> {
    let names = (0..count).map(|i| format!("user{}/{i}@c.example", i / 16));
    names.map(|name| site.device(&name)).collect()
}

#[tokio::test]
async fn at_most_256_at_a_time() {
    let site = Site::start().await;
    let alice = site.device(ALL[ALICE]);
    let mut alice = site.group_of(&alice).await;
    let crowd = crowd(&site, 257);
    let key_packages = crowd.iter().map(|device| device.key_package());
    let made = alice.commit(Plan::add(key_packages.collect()));
    site.ask(&alice.ask(made.as_add())).await.unwrap();
    alice.accept();
    let context = alice.context();
    let group_id = alice.group_id();
    for (leaf, device) in (1..).zip(&crowd) {
        let proposal = parts::proposal_message(
            (group_id.as_slice(), 1),
            parts::Sender::Member(leaf),
            &parts::remove(leaf),
            &device.signer,
            &context,
        );
        let answer = site.ask(&device.as_leaf(leaf, self_remove(proposal))).await;
        match leaf {
            257 => assert_eq!(answer, Err(DsErrorCode::LIMIT_EXCEEDED)),
            _ => assert!(answer.is_ok(), "{leaf}"),
        }
    }
    site.end().await;
}
