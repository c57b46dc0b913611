//! re_initialize_group.

use moh_messages::{DsErrorCode, DsRequestBody, GroupId};

use crate::device::create_group;
use crate::made::Made;
use crate::member::Plan;
use crate::parts::{self, by_value, re_init};
use crate::proposals::{refused_besides, refused_instead};
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const DELETED: DsErrorCode = DsErrorCode::GROUP_DELETED;

fn body(made: &Made) -> DsRequestBody {
    made.sent_as(DsRequestBody::ReInitializeGroup)
}

impl Scene {
    /// A commit of a member's with a ReInit alone.
    fn re_inits(&mut self, by: usize, to: &[u8], version: u16, suite: u16) -> Made {
        let mut made = self.made(by, Plan::default());
        let member = &self.members[by];
        made.edit(&member.device, member, |commit| {
            commit.proposals = parts::bytes(by_value(&re_init(to, version, suite)));
        });
        made
    }

    async fn new_name(&self) -> GroupId {
        self.site.group_id(self.device(ALICE)).await.0
    }
}

#[tokio::test]
async fn one_re_init_alone() {
    let mut scene = Scene::set().await;
    let name = scene.new_name().await;
    let made = scene.re_inits(ALICE, name.as_slice(), 1, 1);
    assert!(made.is_valid(&scene.members[ALICE]));
    refused_besides(&scene, ALICE, &made, "", body).await;
    let made = scene.made(ALICE, Plan::default());
    scene.refuses(ALICE, "none", VIOLATION, body(&made)).await;
    refused_instead(&scene, ALICE, &made, "ReInit", body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn to_a_name_that_was_issued_here() {
    let mut scene = Scene::set().await;
    let other = Scene::of_these(&[ALL[ALICE]]).await;
    let mut changed = scene.new_name().await.into_vec();
    changed[0] ^= 1;
    let own = scene.group_id().into_vec();
    for (what, name) in [
        ("its own", own),
        ("another provider's", other.new_name().await.into_vec()),
        ("one that was changed", changed),
        ("an empty one", Vec::new()),
    ] {
        let made = scene.re_inits(ALICE, &name, 1, 1);
        assert!(made.is_valid(&scene.members[ALICE]));
        scene.refuses(ALICE, what, VIOLATION, body(&made)).await;
    }
    other.site.end().await;
    scene.goes_on().await;
}

#[tokio::test]
async fn no_lower_version_and_a_ciphersuite_of_ours() {
    let mut scene = Scene::set().await;
    let name = scene.new_name().await;
    for (what, version, suite) in [
        ("version 0", 0, 1),
        ("ciphersuite 4", 1, 4),
        ("ciphersuite 7", 1, 7),
    ] {
        let made = scene.re_inits(ALICE, name.as_slice(), version, suite);
        scene.refuses(ALICE, what, VIOLATION, body(&made)).await;
    }
    let made = scene.re_inits(ALICE, name.as_slice(), 1, 3);
    let request = scene.members[ALICE].ask(body(&made));
    scene.accepts("another ciphersuite", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn not_while_anything_is_pending() {
    let mut scene = Scene::set().await;
    let name = scene.new_name().await;
    let proposal = scene.leaves(CAROL).await;
    let code = DsErrorCode::PENDING_PROPOSALS;
    // With the reference, and without it.
    let mut with = scene.made(ALICE, Plan::default());
    let alice = &scene.members[ALICE];
    let re_init = by_value(&re_init(name.as_slice(), 1, 1));
    with.edit(&alice.device, alice, |commit| commit.also(&re_init));
    let without = scene.re_inits(ALICE, name.as_slice(), 1, 1);
    for made in [with, without] {
        let error = scene.refuses(ALICE, "pending", code, body(&made)).await;
        let carried = crate::pending_proposals::carried(&error);
        assert_eq!(carried, std::slice::from_ref(&proposal));
    }
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn for_everybody_where_there_are_admins() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let name = scene.new_name().await;
    let made = scene.re_inits(CAROL, name.as_slice(), 1, 1);
    let request = scene.members[CAROL].ask(body(&made));
    scene.accepts("a member", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn a_path_is_not_needed() {
    let mut scene = Scene::set().await;
    let name = scene.new_name().await;
    let mut made = scene.re_inits(BOB, name.as_slice(), 1, 1);
    let bob = &scene.members[BOB];
    made.edit(&bob.device, bob, |commit| commit.path = None);
    let request = scene.members[BOB].ask(body(&made));
    scene.accepts("without a path", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn who_receives_what_and_afterwards() {
    let mut scene = Scene::set().await;
    let name = scene.new_name().await;
    let before = scene.site.mail().await;
    let made = scene.re_inits(ALICE, name.as_slice(), 1, 1);
    let request = scene.members[ALICE].ask(body(&made));
    scene.accepts("a ReInit", 2, &request).await;
    let others = scene.devices(&[AMY, BOB, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    for member in [ALICE, CAROL] {
        let message = scene.members[member].message("hello");
        let what = "afterwards";
        scene.refuses(member, what, DELETED, message).await;
    }
    // The successor is a group like any other.
    let alice = scene.device(ALICE);
    let mut founding = scene.site.founding(alice).await;
    founding.group_id = name;
    let (successor, info) = alice.again().found(&founding);
    let body = create_group(&founding, &successor.own_leaf(), &info);
    let request = successor.ask(body);
    scene.accepts("the successor", 0, &request).await;
    scene.site.end().await;
}
