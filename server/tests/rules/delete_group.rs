//! delete_group, and groups that have ended.

use moh_messages::{DsErrorCode, DsRequestBody};

use crate::clock::DAY_MS;
use crate::device::create_group;
use crate::made::Made;
use crate::member::Plan;
use crate::operations::{By, Stage, all};
use crate::parts;
use crate::proposals::{refused_besides, refused_instead};
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const DELETED: DsErrorCode = DsErrorCode::GROUP_DELETED;
const UNKNOWN: DsErrorCode = DsErrorCode::UNKNOWN_GROUP;

pub(crate) fn body(made: &Made) -> DsRequestBody {
    made.sent_as(DsRequestBody::DeleteGroup)
}

impl Scene {
    /// Alice deletes the group.
    pub(crate) async fn ends(&mut self) -> Made {
        let all = 1..u32::try_from(self.members.len()).unwrap();
        let all: Vec<_> = all.collect();
        self.commits(ALICE, Plan::remove(&all), body).await
    }
}

#[tokio::test]
async fn removes_of_all_others() {
    let mut scene = Scene::set().await;
    let leaves: Vec<u32> = (1..5).collect();
    for missing in 0..4 {
        let mut removed = leaves.clone();
        let missing = removed.remove(missing);
        let made = scene.made(ALICE, Plan::remove(&removed));
        assert!(made.is_valid(&scene.members[ALICE]));
        let what = format!("without {missing}");
        scene.refuses(ALICE, &what, VIOLATION, body(&made)).await;
    }
    let made = scene.made(ALICE, Plan::default());
    scene.refuses(ALICE, "empty", VIOLATION, body(&made)).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let mut scene = Scene::set().await;
    let made = scene.made(ALICE, Plan::remove(&[1, 2, 3, 4]));
    refused_besides(&scene, ALICE, &made, "Remove", body).await;
    let made = scene.made(ALICE, Plan::default());
    refused_instead(&scene, ALICE, &made, "Remove", body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn in_a_group_of_one() {
    let mut scene = Scene::of_these(&[ALL[ALICE]]).await;
    let made = scene.made(ALICE, Plan::default());
    let alice = &scene.members[ALICE];
    let mut without_path = made.clone();
    without_path.edit(&alice.device, alice, |commit| commit.path = None);
    // (RFC 9420 wants a path in an empty commit as well.)
    let refused = scene.refuses(ALICE, "no path", VIOLATION, body(&without_path));
    refused.await;
    let dave = scene.site.device("dave/phone@c.example");
    let mut adds = made.clone();
    adds.edit(&alice.device, alice, |commit| {
        let add = parts::add(&dave.key_package_parts());
        commit.also(&parts::by_value(&add));
    });
    scene.refuses(ALICE, "an Add", VIOLATION, body(&adds)).await;
    let request = scene.members[ALICE].ask(body(&made));
    scene.accepts("with a path", 1, &request).await;
    let message = scene.members[ALICE].message("hello");
    scene.refuses(ALICE, "afterwards", DELETED, message).await;
    scene.site.end().await;
}

#[tokio::test]
async fn those_by_reference_count() {
    let mut scene = Scene::set().await;
    scene.leaves(CAROL).await;
    scene.commits(ALICE, Plan::remove(&[1, 2, 3]), body).await;
    let update = scene.made(ALICE, Plan::default());
    let refused = scene.refuses(ALICE, "afterwards", DELETED, update.as_update());
    refused.await;
    scene.site.end().await;
}

#[tokio::test]
async fn only_admins_where_there_are_some() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let made = scene.made(BOB, Plan::remove(&[0, 1, 3, 4]));
    let code = DsErrorCode::UNAUTHORIZED;
    scene.refuses(BOB, "a member", code, body(&made)).await;
    scene.ends().await;
    scene.site.end().await;
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let before = scene.site.mail().await;
    let made = scene.ends().await;
    let others = scene.devices(&[AMY, BOB, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    for member in [AMY, BOB, BOBS_LAPTOP, CAROL] {
        assert!(!scene.members[member].group.is_active(), "{member}");
    }
    scene.site.end().await;
}

/// Whoever was in it is told that it has ended, whatever they ask; and nobody else is.
#[tokio::test]
async fn afterwards() {
    let mut stage = Stage::set().await;
    let mut operations = Vec::new();
    for name in all() {
        // What is not of this group.
        if !["request_group_id", "create_group", "client_deleted"].contains(&name) {
            operations.push(stage.operation(name).await);
        }
    }
    let end = stage.operation("delete_group").await;
    let scene = &stage.scene;
    scene.accepts("the end", 3, &end.request()).await;
    let zoe = scene.site.device("zoe/phone@c.example");
    for operation in operations {
        let name = operation.name;
        let request = operation.request();
        if name != "delete_group" {
            scene.refuses_request(name, DELETED, &request).await;
        }
        let stranger = match &operation.by {
            By::Leaf(_, leaf) => zoe.as_leaf(*leaf, operation.body),
            By::KeyPackage(_, reference) => zoe.as_joiner(reference, operation.body),
            By::Provider(_) if name.starts_with("external_commit_info") => {
                scene.site.on_behalf_of(&zoe, operation.body)
            }
            By::Provider(_) => continue,
        };
        let what = format!("{name}, by a stranger");
        scene.refuses_request(&what, UNKNOWN, &stranger).await;
    }
    // Also when it has to be read again.
    stage.scene.site.restart().await;
    let message = stage.scene.members[CAROL].message("hello");
    let what = "after a restart";
    stage.scene.refuses(CAROL, what, DELETED, message).await;
    stage.scene.site.end().await;
}

#[tokio::test]
async fn the_name_is_not_used_again() {
    let mut scene = Scene::of_these(&[ALL[ALICE]]).await;
    let alice = scene.device(ALICE).clone();
    let mut founding = scene.site.founding(&alice).await;
    founding.group_id = scene.group_id();
    let (again, info) = alice.again().found(&founding);
    let request = alice.as_leaf(0, create_group(&founding, &again.own_leaf(), &info));
    let code = DsErrorCode::GROUP_ID_IN_USE;
    scene.refuses_request("in use", code, &request).await;
    scene.ends().await;
    scene.refuses_request("deleted", code, &request).await;
    scene.site.clock.pass(31 * DAY_MS);
    scene.site.restart().await;
    let message = scene.members[ALICE].message("hello");
    scene.forgets(ALICE, &message).await;
    let (again, info) = alice.again().found(&founding);
    let request = alice.as_leaf(0, create_group(&founding, &again.own_leaf(), &info));
    scene.refuses_request("forgotten", code, &request).await;
    scene.site.end().await;
}

impl Scene {
    /// Waits until a group that has ended is forgotten.
    async fn forgets(&self, member: usize, body: &DsRequestBody) {
        let deadline = tokio::time::Instant::now() + crate::site::PATIENCE;
        while self.ask(member, body.clone()).await == Err(DELETED) {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(self.ask(member, body.clone()).await, Err(UNKNOWN));
    }
}

#[tokio::test]
async fn forgotten_after_thirty_days() {
    let mut scene = Scene::with_open_peers().await;
    let message = scene.members[CAROL].message("hello");
    scene.ends().await;
    scene.site.pass(30 * DAY_MS - 1).await;
    scene.site.restart().await;
    scene.another_is_tended().await;
    let what = "a millisecond before";
    scene.refuses(CAROL, what, DELETED, message.clone()).await;
    scene.site.clock.pass(1);
    scene.site.restart().await;
    scene.forgets(CAROL, &message).await;
    scene.site.end().await;
}
