//! external_join.

use std::sync::Arc;

use moh_messages::{DsErrorCode, DsRequest, DsRequestBody, Message, extension_type};
use moh_server::Limits;

use crate::clock::{HOUR_MS, MINUTE_MS};
use crate::device::Device;
use crate::leaves;
use crate::made::Made;
use crate::member::{Member, Plan};
use crate::parts;
use crate::proposals::kinds;
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const UNAUTHENTICATED: DsErrorCode = DsErrorCode::UNAUTHENTICATED;
const UNKNOWN: DsErrorCode = DsErrorCode::UNKNOWN_GROUP;
const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;
const TABLET: &str = "carol/tablet@c.example";

fn body(made: &Made) -> DsRequestBody {
    made.sent_as(DsRequestBody::ExternalJoin)
}

impl Scene {
    /// A device's external commit; what its own copy of the group is then.
    pub(crate) fn entering(&self, device: &Arc<Device>) -> (Made, Member) {
        device.enter(&self.members[ALICE].door())
    }

    /// One that removes another client's leaf, or that of a lost key.
    fn entering_in_place_of(&self, device: &Arc<Device>, member: usize) -> Made {
        let key = self.device(member).public_key();
        let alice = &self.members[ALICE];
        device.enter_in_place_of(&alice.door(), &key, alice)
    }

    /// A request by a device's provider to let it join.
    pub(crate) fn join_request(&self, device: &Device, made: &Made) -> DsRequest {
        self.site.on_behalf_of(device, body(made))
    }

    /// A device joins; everybody hears of it.
    pub(crate) async fn joins(&mut self, device: &Arc<Device>) -> Made {
        self.hear().await;
        let (made, mut joined) = self.entering(device);
        let request = self.join_request(device, &made);
        joined.heard = self.site.mail().await.to(device).len();
        let epoch = joined.epoch();
        self.accepts("an external join", epoch, &request).await;
        // Whose leaf it was before has gone.
        self.members.retain(|member| member.device.id != device.id);
        self.members.push(joined);
        self.hear().await;
        made
    }
}

#[tokio::test]
async fn a_further_client_of_a_user() {
    let mut scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let before = scene.site.mail().await;
    let made = scene.joins(&tablet).await;
    let others = scene.devices(&[ALICE, AMY, BOB, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    scene
        .agree(&[ALICE, AMY, BOB, BOBS_LAPTOP, CAROL, 5], 6)
        .await;
    scene.updates(5).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn again_with_the_old_key_by_the_leaf() {
    let mut scene = Scene::set().await;
    let carol = scene.device(CAROL).again();
    let before = scene.site.mail().await;
    let (made, mut joined) = scene.entering(&carol);
    joined.heard = before.to(&carol).len();
    let request = scene.members[CAROL].ask(body(&made));
    scene.accepts("again", 2, &request).await;
    // The client itself gets nothing, also not for its old leaf.
    let others = scene.devices(&[ALICE, AMY, BOB, BOBS_LAPTOP]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    scene.members.truncate(CAROL);
    scene.hear().await;
    scene.members.push(joined);
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP, CAROL], 5).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn again_by_the_provider() {
    let mut scene = Scene::set().await;
    let carol = scene.device(CAROL).again();
    scene.joins(&carol).await;
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP, CAROL], 5).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn again_with_a_new_key() {
    let scene = Scene::set().await;
    // Everything is lost.
    let carol = scene.site.device(ALL[CAROL]);
    let made = scene.entering_in_place_of(&carol, CAROL);
    assert!(made.is_valid(&scene.members[ALICE]));
    let request = scene.join_request(&carol, &made);
    scene.accepts("by the provider", 2, &request).await;
    let stored = scene.site.stored(&scene.members[ALICE]).await;
    let leaf = stored.roster().leaf_of(&carol.id).unwrap();
    let member = stored.roster().member(leaf).unwrap();
    assert_eq!(member.signature_key, carol.public_key());
    assert_eq!(stored.roster().len(), 5);
    scene.site.end().await;

    // The old key signs the request, the new one everything else.
    let scene = Scene::set().await;
    let carol = scene.site.device(ALL[CAROL]);
    let made = scene.entering_in_place_of(&carol, CAROL);
    let request = scene.members[CAROL].ask(body(&made));
    scene.accepts("by the leaf", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn users_who_have_a_leaf() {
    let mut scene = Scene::set().await;
    let dave = scene.site.device("dave/phone@c.example");
    let (made, _) = scene.entering(&dave);
    let request = scene.join_request(&dave, &made);
    let what = "a user without a leaf";
    scene.refuses_request(what, UNKNOWN, &request).await;
    // Nor one who had one.
    let carol = scene.leaf(CAROL);
    let remove = |made: &Made| made.sent_as(DsRequestBody::RemoveUsers);
    scene.commits(ALICE, Plan::remove(&[carol]), remove).await;
    let tablet = scene.site.device(TABLET);
    let (made, _) = scene.entering(&tablet);
    let request = scene.join_request(&tablet, &made);
    let what = "a user who was removed";
    scene.refuses_request(what, UNKNOWN, &request).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn no_such_group() {
    let (scene, elsewhere) = (Scene::set().await, Scene::set().await);
    let tablet = scene.site.device(TABLET);
    let (made, _) = elsewhere.entering(&tablet);
    let request = scene.join_request(&tablet, &made);
    let what = "of another provider";
    scene.refuses_request(what, UNKNOWN, &request).await;
    elsewhere.site.end().await;
    scene.goes_on().await;
}

#[tokio::test]
async fn on_behalf_of_the_new_leafs_client() {
    let scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let (made, _) = scene.entering(&tablet);
    let carol = scene.device(CAROL);
    for (what, id) in [
        ("another client of the user", carol.id.clone()),
        (
            "a client that there is not",
            format!("{}x", tablet.id).parse().unwrap(),
        ),
    ] {
        let request = tablet.home.request(&id, body(&made));
        scene.refuses_request(what, UNAUTHENTICATED, &request).await;
    }
    // Bob's provider speaks for Carol's client.
    let mut request = scene.join_request(&tablet, &made);
    request.sender = "b.example".parse().unwrap();
    scene.site.homes["b.example"].sign_request(&mut request);
    let what = "a client of another provider";
    scene.refuses_request(what, UNAUTHENTICATED, &request).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_leaf_signs_for_a_client_that_joins_again_alone() {
    let scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let (made, _) = scene.entering(&tablet);
    let request = scene.members[CAROL].ask(body(&made));
    scene
        .refuses_request("for another client", INVALID, &request)
        .await;
    // The leaf that is removed is another one than the one that signs.
    let carol = scene.device(CAROL).again();
    let (made, _) = scene.entering(&carol);
    let request = scene.members[BOB].ask(body(&made));
    scene
        .refuses_request("another member", INVALID, &request)
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn who_joins_again_stays_the_same_client() {
    let scene = Scene::set().await;
    // Carol's leaf becomes one of her tablet, and she signs that.
    let tablet = scene.site.device(TABLET);
    let made = scene.entering_in_place_of(&tablet, CAROL);
    assert!(made.is_valid(&scene.members[ALICE]));
    let request = scene.members[CAROL].ask(body(&made));
    let what = "another client in its place";
    scene.refuses_request(what, VIOLATION, &request).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn one_remove_of_the_same_clients_leaf() {
    let scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let carol = scene.site.device(ALL[CAROL]);
    let (without, _) = scene.entering(&carol);
    for (what, device, made) in [
        ("none", &carol, without),
        (
            "of another client",
            &carol,
            scene.entering_in_place_of(&carol, BOB),
        ),
        (
            "of another user's, by a new client",
            &tablet,
            scene.entering_in_place_of(&tablet, BOB),
        ),
        (
            "of the user's own, by a new client",
            &tablet,
            scene.entering_in_place_of(&tablet, CAROL),
        ),
    ] {
        assert!(made.is_valid(&scene.members[ALICE]), "{what}");
        let request = scene.join_request(device, &made);
        scene.refuses_request(what, VIOLATION, &request).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let scene = Scene::set().await;
    let alice = &scene.members[ALICE];
    let tablet = scene.site.device(TABLET);
    let again = scene.device(CAROL).again();
    for device in [&tablet, &again] {
        let (made, _) = scene.entering(device);
        for (kind, proposal) in kinds(&scene, ALICE) {
            let mut made = made.clone();
            made.edit(device, alice, |commit| {
                commit.also(&parts::by_value(&proposal));
            });
            let request = scene.join_request(device, &made);
            let what = format!("{} with {kind} besides", device.id);
            scene.refuses_request(&what, VIOLATION, &request).await;
        }
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn against_rfc_9420() {
    let mut scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let (made, _) = scene.entering(&tablet);
    let alice = &scene.members[ALICE];
    let edited = |edit: &dyn Fn(&mut parts::Commit)| {
        let mut made = made.clone();
        made.edit(&tablet, alice, edit);
        made
    };
    let reference = parts::by_reference([7; 32]);
    let with_reference = edited(&|commit| commit.also(&reference));
    let request = scene.join_request(&tablet, &with_reference);
    let what = "with a reference";
    scene.refuses_request(what, INVALID, &request).await;
    // Where there is no new leaf, the provider speaks for nobody.
    let without_path = edited(&|commit| commit.path = None);
    let request = scene.join_request(&tablet, &without_path);
    let what = "without a path";
    scene.refuses_request(what, UNAUTHENTICATED, &request).await;
    let (mut again, _) = scene.entering(&scene.device(CAROL).again());
    again.edit(scene.device(CAROL), alice, |commit| commit.path = None);
    let request = scene.members[CAROL].ask(body(&again));
    scene.refuses_request(what, INVALID, &request).await;
    let update = scene.made(CAROL, Plan::default());
    let request = scene.members[CAROL].ask(body(&update));
    let what = "a member's commit";
    scene.refuses_request(what, INVALID, &request).await;
    let request = scene.members[CAROL].ask(made.as_update());
    let what = "a new member's as an update";
    scene.refuses_request(what, INVALID, &request).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn the_leaf() {
    let scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let (made, _) = scene.entering(&tablet);
    let with_leaf = |edit: &dyn Fn(&mut parts::Leaf)| {
        let mut made = made.clone();
        made.edit(&tablet, &scene.members[ALICE], |commit| {
            edit(&mut commit.path.as_mut().unwrap().leaf);
        });
        made
    };
    for (what, code, edit) in leaves::broken() {
        scene.site.clock.pass(MINUTE_MS);
        // Whom a leaf without a ClientID is of, its provider cannot say.
        let code = match what {
            "a credential that names no client" => UNAUTHENTICATED,
            _ => code,
        };
        let made = with_leaf(&|leaf| edit(leaf, &tablet));
        assert!(made.is_valid(&scene.members[ALICE]), "{what}");
        let request = scene.join_request(&tablet, &made);
        scene.refuses_request(what, code, &request).await;
    }
    for (what, edit) in leaves::INVALID {
        let made = with_leaf(&|leaf| edit(leaf, &tablet));
        let request = scene.join_request(&tablet, &made);
        scene.refuses_request(what, INVALID, &request).await;
    }
    let made = with_leaf(&|_| {});
    let request = scene.join_request(&tablet, &made);
    scene.accepts("as it is", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn a_key_that_another_leaf_has() {
    let scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let (mut made, _) = scene.entering(&tablet);
    // The tablet uses the key of the phone.
    let same_key = scene.device(CAROL).with_same_key(tablet.id.as_str());
    made.edit(&same_key, &scene.members[ALICE], |commit| {
        let leaf = &mut commit.path.as_mut().unwrap().leaf;
        leaf.signature_key = parts::bytes(same_key.signer.public());
        let attestation = same_key.attestation_for(&tablet.id);
        leaf.set(extension_type::ATTESTATION, &attestation);
    });
    let request = scene.join_request(&tablet, &made);
    let what = "the signature key of another leaf";
    scene.refuses_request(what, INVALID, &request).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn too_many_members() {
    let limits = Limits {
        max_members: 5,
        ..Limits::default()
    };
    let mut scene = Scene::with_limits(limits).await;
    let tablet = scene.site.device(TABLET);
    let (made, _) = scene.entering(&tablet);
    let code = DsErrorCode::LIMIT_EXCEEDED;
    let request = scene.join_request(&tablet, &made);
    scene.refuses_request("six of five", code, &request).await;
    // Who joins again takes no further place.
    let carol = scene.device(CAROL).again();
    scene.joins(&carol).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn not_who_is_about_to_be_removed() {
    let mut scene = Scene::set().await;
    scene.is_deleted(CAROL).await;
    let carol = scene.device(CAROL).again();
    let (made, _) = scene.entering(&carol);
    for (what, request) in [
        ("by the provider", scene.join_request(&carol, &made)),
        ("by the leaf", scene.members[CAROL].ask(body(&made))),
    ] {
        scene.refuses_request(what, VIOLATION, &request).await;
    }
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn so_often_in_an_hour() {
    let limits = Limits {
        max_rejoins_per_hour: 2,
        ..Limits::default()
    };
    let mut scene = Scene::with_limits(limits).await;
    let carol = scene.device(CAROL).clone();
    for _ in 0..2 {
        scene.site.clock.pass(10 * MINUTE_MS);
        scene.joins(&carol.again()).await;
    }
    let third = carol.again();
    let (made, _) = scene.entering(&third);
    let request = scene.join_request(&third, &made);
    let code = DsErrorCode::RATE_LIMITED;
    let error = scene.refuses_request("a third time", code, &request).await;
    // The first one was ten minutes ago.
    assert_eq!(u32::decode(error.data.as_slice()), Ok(50 * 60));
    let request = scene.members[CAROL].ask(body(&made));
    scene.refuses_request("by the leaf", code, &request).await;
    // It is remembered, and counts for each client alone.
    scene.site.restart().await;
    let request = scene.join_request(&third, &made);
    scene.refuses_request("later", code, &request).await;
    let bob = scene.device(BOB).clone();
    scene.joins(&bob.again()).await;
    scene.site.clock.pass(50 * MINUTE_MS);
    scene.joins(&carol.again()).await;
    scene.site.clock.pass(HOUR_MS);
    scene.goes_on().await;
}

#[tokio::test]
async fn in_groups_of_other_ciphersuites() {
    for suite in [2, 3] {
        let suite = moh_messages::CipherSuite(suite);
        let scene = Scene::of_suite(suite, &ALL).await;
        let tablet = scene.site.device_with(TABLET, suite);
        let mut scene = scene;
        scene.joins(&tablet).await;
        scene.goes_on().await;
    }
}
