//! add_clients.

use moh_messages::{AddMembers, DsErrorCode, DsRequestBody, List};
use moh_server::Limits;

use crate::clock::MINUTE_MS;
use crate::leaves;
use crate::made::Made;
use crate::member::Plan;
use crate::proposals::{refused_besides, refused_instead};
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const TABLET: &str = "bob/tablet@b.example";
const WATCH: &str = "bob/watch@b.example";

fn body(made: &Made) -> DsRequestBody {
    made.adds_as(DsRequestBody::AddClients)
}

fn without_welcomes(made: &Made) -> DsRequestBody {
    DsRequestBody::AddClients(AddMembers {
        group_update: made.group_update(),
        welcomes: List::new(Vec::new()).unwrap(),
    })
}

/// A commit of Bob's that adds these.
fn adds(scene: &mut Scene, names: &[&str]) -> Made {
    let key_packages = names
        .iter()
        .map(|name| scene.site.device(name).key_package());
    let plan = Plan::add(key_packages.collect());
    scene.made(BOB, plan)
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let mut scene = Scene::set().await;
    let made = scene.made(BOB, Plan::default());
    scene.refuses(BOB, "no Adds", VIOLATION, body(&made)).await;
    refused_instead(&scene, BOB, &made, "Add", without_welcomes).await;
    let made = adds(&mut scene, &[TABLET]);
    refused_besides(&scene, BOB, &made, "Add", body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn of_users_who_have_a_leaf() {
    let mut scene = Scene::set().await;
    let dave = "dave/phone@c.example";
    for (what, names) in [
        ("a user without a leaf", &[dave][..]),
        ("one user with a leaf, one without", &[TABLET, dave]),
    ] {
        let made = adds(&mut scene, names);
        assert!(made.is_valid(&scene.members[BOB]));
        scene.refuses(BOB, what, VIOLATION, body(&made)).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn clients_that_no_other_leaf_has() {
    let mut scene = Scene::set().await;
    for (what, names) in [
        ("the same client twice", &[TABLET, TABLET][..]),
        ("a client that is in it", &[ALL[BOBS_LAPTOP]]),
        ("the sender", &[ALL[BOB]]),
    ] {
        let made = adds(&mut scene, names);
        assert!(made.is_valid(&scene.members[BOB]));
        scene.refuses(BOB, what, VIOLATION, body(&made)).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn a_client_whose_leaf_goes_by_the_same_commit() {
    let mut scene = Scene::set().await;
    scene.leaves(BOBS_LAPTOP).await;
    let laptop = scene.site.device(ALL[BOBS_LAPTOP]);
    let key_package = laptop.key_package();
    let plan = Plan::add(vec![key_package.clone()]);
    let made = scene.commits(BOB, plan, body).await;
    let bob = &scene.members[BOB];
    let joined = scene.site.join(&laptop, &key_package, bob, &made).await;
    assert_eq!(joined.tree(), bob.tree());
    scene.agree(&[ALICE, AMY, BOB, CAROL], 5).await;
    scene.goes_on_with(5).await;
}

#[tokio::test]
async fn leaves_that_are_added() {
    let mut scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let all = leaves::broken().chain(leaves::INVALID.map(|(what, edit)| {
        let code = DsErrorCode::INVALID_KEY_PACKAGE;
        (what, code, edit)
    }));
    for (what, code, edit) in all {
        scene.site.clock.pass(MINUTE_MS);
        let made = scene.adds_edited(BOB, &tablet, |key_package| {
            edit(&mut key_package.inner.leaf, &tablet);
            key_package.sign(&tablet.signer);
        });
        scene.refuses(BOB, what, code, body(&made)).await;
    }
    let made = scene.adds_edited(BOB, &tablet, |key_package| {
        key_package.sign(&tablet.signer);
    });
    let request = scene.members[BOB].ask(body(&made));
    scene.accepts("as it is", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn key_packages_for_connections() {
    let mut scene = Scene::set().await;
    let key_package = scene.site.device(TABLET).connection_key_package();
    let made = scene.made(BOB, Plan::add(vec![key_package]));
    let what = "a KeyPackage for connections";
    scene.refuses(BOB, what, VIOLATION, body(&made)).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn welcomes_are_for_those_who_are_added() {
    let mut scene = Scene::set().await;
    let made = adds(&mut scene, &[TABLET, WATCH]);
    let other = adds(&mut scene, &[TABLET, WATCH]);
    let mut of_another = made.clone();
    of_another.welcome = other.welcome;
    for (what, body) in [
        ("none", without_welcomes(&made)),
        ("of another commit", body(&of_another)),
    ] {
        scene.refuses(BOB, what, VIOLATION, body).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn too_many_members() {
    let limits = Limits {
        max_members: 6,
        ..Limits::default()
    };
    let mut scene = Scene::with_limits(limits).await;
    let made = adds(&mut scene, &[TABLET, WATCH]);
    let code = DsErrorCode::LIMIT_EXCEEDED;
    scene.refuses(BOB, "seven of six", code, body(&made)).await;
    // Who leaves by the same commit makes room.
    scene.leaves(CAROL).await;
    let made = adds(&mut scene, &[TABLET, WATCH]);
    let request = scene.members[BOB].ask(body(&made));
    scene.accepts("six of six", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn too_many_of_one_user() {
    let limits = Limits {
        max_clients_per_user: 3,
        ..Limits::default()
    };
    let mut scene = Scene::with_limits(limits).await;
    let code = DsErrorCode::LIMIT_EXCEEDED;
    let made = adds(&mut scene, &[TABLET, WATCH]);
    scene.refuses(BOB, "four of three", code, body(&made)).await;
    let daves = ["1", "2", "3", "4"].map(|name| format!("dave/{name}@c.example"));
    let daves: Vec<_> = daves.iter().map(String::as_str).collect();
    let made = adds(&mut scene, &daves);
    let what = "a new user with four";
    scene.refuses(BOB, what, code, made.as_add()).await;
    let plan = Plan::add(vec![scene.site.device(TABLET).key_package()]);
    scene.commits(BOB, plan, body).await;
    let watch = scene.site.device(WATCH);
    let (made, _) = scene.entering(&watch);
    let request = scene.join_request(&watch, &made);
    let what = "who joins as the fourth";
    scene.refuses_request(what, code, &request).await;
    // Who joins again takes no further place; who leaves makes room.
    let again = scene.device(BOB).again();
    scene.joins(&again).await;
    let laptop = scene
        .members
        .iter()
        .position(|m| m.device.id.device() == "laptop");
    scene.leaves(laptop.unwrap()).await;
    let phone = scene.members.len() - 1;
    let plan = Plan::add(vec![scene.site.device(WATCH).key_package()]);
    scene.commits(phone, plan, body).await;
    scene.goes_on_with(6).await;
}

#[tokio::test]
async fn for_everybody_where_there_are_admins() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let key_package = scene.site.device(TABLET).key_package();
    scene.commits(BOB, Plan::add(vec![key_package]), body).await;
    // Also those of others.
    let key_package = scene.site.device(WATCH).key_package();
    scene
        .commits(CAROL, Plan::add(vec![key_package]), body)
        .await;
    scene.goes_on_with(7).await;
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let tablet = scene.site.device(TABLET);
    let key_package = tablet.key_package();
    let before = scene.site.mail().await;
    let plan = Plan::add(vec![key_package.clone()]);
    let made = scene.commits(BOB, plan, body).await;
    let others = scene.devices(&[ALICE, AMY, BOBS_LAPTOP, CAROL]);
    let welcome = made.welcome.as_ref().unwrap().as_slice();
    let expected = Mail::of(others, &[&made.commit]).and(Mail::of([&tablet], &[welcome]));
    assert_eq!(scene.site.mail().await.since(&before), expected);
    let bob = &scene.members[BOB];
    let joined = scene.site.join(&tablet, &key_package, bob, &made).await;
    scene.members.push(joined);
    scene
        .agree(&[ALICE, AMY, BOB, BOBS_LAPTOP, CAROL, 5], 6)
        .await;
    scene.updates(5).await;
    scene.goes_on().await;
}
