//! add_users.

use std::collections::BTreeMap;
use std::sync::Arc;

use moh_messages::{DsErrorCode, KeyPackageRef, List, Message, MlsBytes, Opaque, extension_type};
use moh_server::Limits;

use crate::clock::MINUTE_MS;
use crate::device::{Device, now_ms};
use crate::home::home_of;
use crate::leaves;
use crate::made::Made;
use crate::member::Plan;
use crate::parts;
use crate::proposals::{refused_besides, refused_instead};
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const DAVE: &str = "dave/phone@c.example";
const DAVES_LAPTOP: &str = "dave/laptop@c.example";

/// A commit of Alice's that adds these.
fn adds(scene: &mut Scene, names: &[&str]) -> Made {
    let key_packages = names
        .iter()
        .map(|name| scene.site.device(name).key_package());
    let plan = Plan::add(key_packages.collect());
    scene.made(ALICE, plan)
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let mut scene = Scene::set().await;
    let made = scene.made(ALICE, Plan::default());
    scene
        .refuses(ALICE, "no Adds", VIOLATION, made.as_add())
        .await;
    let without_welcomes = |made: &Made| made.as_add_with(Vec::new());
    refused_instead(&scene, ALICE, &made, "Add", without_welcomes).await;
    let made = adds(&mut scene, &[DAVE]);
    refused_besides(&scene, ALICE, &made, "Add", Made::as_add).await;
    let dave = scene.site.device(DAVE).key_package();
    let made = scene.made(
        ALICE,
        Plan {
            add: vec![dave],
            ..Plan::remove(&[scene.leaf(CAROL)])
        },
    );
    assert!(made.is_valid(&scene.members[ALICE]));
    let what = "a Remove besides, in a commit that does both";
    scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn of_users_without_a_leaf() {
    let mut scene = Scene::set().await;
    for (what, names) in [
        ("a user with a leaf", &["bob/tablet@b.example"][..]),
        ("the sender's own user", &["alice/laptop@a.example"]),
        (
            "one user with a leaf, one without",
            &[DAVE, "bob/tablet@b.example"],
        ),
    ] {
        let made = adds(&mut scene, names);
        assert!(made.is_valid(&scene.members[ALICE]));
        scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn clients_that_no_other_leaf_has() {
    let mut scene = Scene::set().await;
    for (what, names) in [
        ("the same client twice", &[DAVE, DAVE][..]),
        ("a client that is in it", &[ALL[BOB]]),
    ] {
        let made = adds(&mut scene, names);
        assert!(made.is_valid(&scene.members[ALICE]));
        scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn queues_that_no_other_leaf_has() {
    let mut scene = Scene::set().await;
    // Bob's is at another provider; Carol's is at this one.
    let dave = scene.site.device(DAVE);
    let bobs = scene.members[BOB].own_leaf().queue();
    let carols = scene.members[CAROL].own_leaf().queue();
    for (what, queue, is_good) in [("Carol's", &carols, false), ("Bob's", &bobs, true)] {
        let made = scene.adds_edited(ALICE, &dave, |key_package| {
            let mut queue = queue.clone();
            queue.provider = dave.id.provider();
            let leaf = &mut key_package.inner.leaf;
            leaf.set(extension_type::QUEUE_CONFIG, &queue);
            key_package.sign(&dave.signer);
        });
        assert!(made.is_valid(&scene.members[ALICE]), "{what}");
        if is_good {
            let request = scene.members[ALICE].ask(made.as_add());
            scene.accepts(what, 2, &request).await;
        } else {
            scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
        }
    }
    scene.site.end().await;
}

#[tokio::test]
async fn leaves_that_are_added() {
    let mut scene = Scene::set().await;
    let dave = scene.site.device(DAVE);
    for (what, code, edit) in leaves::broken() {
        scene.site.clock.pass(MINUTE_MS);
        let made = scene.adds_edited(ALICE, &dave, |key_package| {
            edit(&mut key_package.inner.leaf, &dave);
            key_package.sign(&dave.signer);
        });
        assert!(made.is_valid(&scene.members[ALICE]), "{what}");
        scene.refuses(ALICE, what, code, made.as_add()).await;
    }
    let made = scene.adds_edited(ALICE, &dave, |key_package| {
        key_package.sign(&dave.signer);
    });
    scene
        .accepts("as it is", 2, &scene.members[ALICE].ask(made.as_add()))
        .await;
    scene.site.end().await;
}

#[tokio::test]
async fn leaves_that_are_not_valid() {
    let code = DsErrorCode::INVALID_KEY_PACKAGE;
    let mut scene = Scene::set().await;
    let dave = scene.site.device(DAVE);
    for (what, edit) in leaves::INVALID {
        let made = scene.adds_edited(ALICE, &dave, |key_package| {
            edit(&mut key_package.inner.leaf, &dave);
            key_package.sign(&dave.signer);
        });
        scene.refuses(ALICE, what, code, made.as_add()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn an_attestation_by_a_key_that_is_past_its_time() {
    let mut scene = Scene::of_these(&ALL[..2]).await;
    scene.site.peers.expire_keys("c.example");
    let made = adds(&mut scene, &[DAVE]);
    let code = DsErrorCode::UNAUTHENTICATED;
    scene
        .refuses(ALICE, "an old key", code, made.as_add())
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn an_attestation_by_a_provider_that_cannot_be_asked() {
    let mut scene = Scene::set().await;
    let home = home_of("d.example");
    let dan = Arc::new(Device::of("mimi://d.example/d/dan/phone", &home));
    let made = scene.made(ALICE, Plan::add(vec![dan.key_package()]));
    let code = DsErrorCode::UNAVAILABLE;
    let error = scene.refuses(ALICE, "nobody there", code, made.as_add());
    assert!(u32::decode(error.await.data.as_slice()).is_ok());
    scene.goes_on().await;
}

#[tokio::test]
async fn key_packages_for_connections() {
    let mut scene = Scene::set().await;
    let key_package = scene.site.device(DAVE).connection_key_package();
    let made = scene.made(ALICE, Plan::add(vec![key_package]));
    let what = "a KeyPackage for connections";
    scene.refuses(ALICE, what, VIOLATION, made.as_add()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn key_packages_that_are_none() {
    let code = DsErrorCode::INVALID_KEY_PACKAGE;
    let mut scene = Scene::set().await;
    let dave = scene.site.device(DAVE);
    let now_s = now_ms() / 1000;
    let lifetime = |not_before, not_after| {
        let mut key_package = dave.key_package_parts();
        key_package.inner.leaf.source = parts::Source::KeyPackage {
            not_before,
            not_after,
        };
        key_package.sign(&dave.signer);
        key_package
    };
    let of_suite = |suite| {
        let suite = moh_messages::CipherSuite(suite);
        scene.site.device_with(DAVE, suite).key_package_parts()
    };
    let mut relabelled = dave.key_package_parts();
    relabelled.inner.cipher_suite = 3;
    let mut badly_signed_leaf = dave.key_package_parts();
    badly_signed_leaf.inner.leaf.identity = parts::bytes(b"mimi://c.example/d/eve/phone".to_vec());
    badly_signed_leaf.sign_but_not_the_leaf(&dave.signer);
    let mut a_members_key = scene.device(CAROL).key_package_parts();
    let carols_other = scene
        .device(CAROL)
        .with_same_key("mimi://c.example/d/dave/phone");
    a_members_key.inner.leaf = carols_other.key_package_parts().inner.leaf;
    a_members_key.sign(&carols_other.signer);
    for (what, key_package) in [
        ("expired", lifetime(now_s - 1000, now_s - 10)),
        ("not yet valid", lifetime(now_s + 1000, now_s + 2000)),
        ("of another ciphersuite", of_suite(3)),
        ("of another ciphersuite and scheme", of_suite(2)),
        ("badly signed", relabelled),
        ("with a badly signed leaf", badly_signed_leaf),
        ("with the key of a member", a_members_key),
    ] {
        let made = scene.adds_edited(ALICE, &dave, |parts| *parts = key_package);
        scene.refuses(ALICE, what, code, made.as_add()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn a_key_that_the_committer_takes_as_well() {
    let mut scene = Scene::set().await;
    let dave = scene.site.device(DAVE);
    let mut made = scene.made(ALICE, Plan::add(vec![dave.key_package()]));
    let alice = &scene.members[ALICE];
    let (id, home) = (&alice.device.id, &alice.device.home);
    let (key, now) = (dave.public_key(), home.now_ms());
    let attestation = home.keys.attest(id, dave.scheme(), &key, now);
    made.edit(&alice.device, alice, |commit| {
        let leaf = &mut commit.path.as_mut().unwrap().leaf;
        leaf.signature_key = parts::bytes(key.as_slice());
        leaf.set(extension_type::ATTESTATION, &attestation);
    });
    made.sign_leaf_by(&dave.signer, alice);
    let code = DsErrorCode::INVALID_MESSAGE;
    let what = "the key of who is added";
    scene.refuses(ALICE, what, code, made.as_add()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn too_many_members() {
    let limits = Limits {
        max_members: 6,
        ..Limits::default()
    };
    let mut scene = Scene::with_limits(limits).await;
    let made = adds(&mut scene, &[DAVE, DAVES_LAPTOP]);
    let code = DsErrorCode::LIMIT_EXCEEDED;
    scene
        .refuses(ALICE, "seven of six", code, made.as_add())
        .await;
    let made = adds(&mut scene, &[DAVE]);
    let request = scene.members[ALICE].ask(made.as_add());
    scene.accepts("six of six", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn welcomes_are_for_those_who_are_added() {
    let mut scene = Scene::set().await;
    let made = adds(&mut scene, &[DAVE, DAVES_LAPTOP]);
    let other = adds(&mut scene, &[DAVE, DAVES_LAPTOP]);
    let welcome = made.welcome.clone().unwrap();
    let of = |secrets: &[usize]| {
        let mut parts = parts::Welcome::decode(welcome.as_slice()).unwrap();
        let chosen = secrets.iter().map(|&i| parts.secrets[i].clone());
        parts.secrets = List::new(chosen.collect()).unwrap();
        MlsBytes::new(parts.encode()).unwrap()
    };
    for (what, welcomes) in [
        ("none", vec![]),
        ("one is missing", vec![of(&[0])]),
        ("one twice", vec![of(&[0, 1, 1])]),
        ("all twice", vec![welcome.clone(), welcome.clone()]),
        ("of another commit", vec![other.welcome.clone().unwrap()]),
        (
            "others besides",
            vec![welcome.clone(), other.welcome.clone().unwrap()],
        ),
    ] {
        let body = made.as_add_with(welcomes);
        scene.refuses(ALICE, what, VIOLATION, body).await;
    }
    // In two parts they are the same.
    let request = scene.members[ALICE].ask(made.as_add_with(vec![of(&[1]), of(&[0])]));
    scene.accepts("two parts", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn welcomes_that_are_none() {
    let code = DsErrorCode::INVALID_MESSAGE;
    let mut scene = Scene::set().await;
    let made = adds(&mut scene, &[DAVE]);
    let welcome = made.welcome.clone().unwrap();
    let mut other_suite = parts::Welcome::decode(welcome.as_slice()).unwrap();
    other_suite.cipher_suite = 3;
    let no_welcome = MlsBytes::new(made.commit.clone()).unwrap();
    let mut large = parts::Welcome::decode(welcome.as_slice()).unwrap();
    large.encrypted_group_info = parts::bytes(vec![0; (256 << 10) + 1]);
    let with_a_rest = Opaque::new([welcome.as_slice(), &[0]].concat()).unwrap();
    for (what, bytes) in [
        ("a commit", no_welcome),
        ("no message", Opaque::new([1]).unwrap()),
        ("with a rest", with_a_rest),
        ("large", MlsBytes::new(large.encode()).unwrap()),
        (
            "of another ciphersuite",
            MlsBytes::new(other_suite.encode()).unwrap(),
        ),
    ] {
        let body = made.as_add_with(vec![bytes]);
        scene.refuses(ALICE, what, code, body).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn only_admins_where_there_are_some() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let dave = scene.site.device(DAVE).key_package();
    for (what, by) in [("a member", BOB), ("another user", AMY)] {
        let made = scene.made(by, Plan::add(vec![dave.clone()]));
        let code = DsErrorCode::UNAUTHORIZED;
        scene.refuses(by, what, code, made.as_add()).await;
    }
    scene
        .commits(ALICE, Plan::add(vec![dave]), Made::as_add)
        .await;
    scene.goes_on_with(6).await;
}

/// Whose secrets the Welcomes among these messages have.
fn welcomed(messages: &[Vec<u8>]) -> Vec<Vec<KeyPackageRef>> {
    let secrets = |message: &Vec<u8>| {
        let parts = parts::Welcome::decode(message).ok()?;
        let members = parts.secrets.iter();
        let references = members.map(|s| KeyPackageRef::new(s.new_member.as_slice()).unwrap());
        Some(references.collect())
    };
    messages.iter().filter_map(secrets).collect()
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let names = [
        DAVE,
        "ann/phone@a.example",
        "ben/phone@b.example",
        "ben/laptop@b.example",
    ];
    let devices = names.map(|name| scene.site.device(name));
    let add: Vec<_> = devices.iter().map(|device| device.key_package()).collect();
    let references: BTreeMap<_, _> = devices
        .iter()
        .zip(&add)
        .map(|(device, key_package)| (device.id.clone(), device.reference(key_package)))
        .collect();
    let before = scene.site.mail().await;
    let made = scene.commits(ALICE, Plan::add(add), Made::as_add).await;
    let news = scene.site.mail().await.since(&before);
    // Who was in it before gets the commit, but for the sender.
    let others = scene.devices(&[AMY, BOB, BOBS_LAPTOP, CAROL]);
    let mut expected = Mail::of(others, &[&made.commit]);
    // Who is added gets the Welcome, with the secrets of those at the same provider alone.
    for device in &devices {
        let [welcome] = news.to(device) else {
            panic!("{}", device.id);
        };
        let mut found = welcomed(std::slice::from_ref(welcome));
        found[0].sort();
        let here = references
            .iter()
            .filter(|(id, _)| id.provider() == device.id.provider());
        let mut here: Vec<_> = here.map(|(_, reference)| reference.clone()).collect();
        here.sort();
        assert_eq!(found, [here], "{}", device.id);
        expected = expected.and(Mail::of([device], &[welcome]));
    }
    assert_eq!(news, expected);
    scene.goes_on_with(9).await;
}

#[tokio::test]
async fn all_in_it_have_the_same_tree() {
    let mut scene = Scene::of_these(&ALL[..3]).await;
    let dave = scene.site.device(DAVE);
    let (added, _) = scene.site.add(&mut scene.members[ALICE], &[&dave]).await;
    scene.members.extend(added);
    scene.hear().await;
    scene.agree(&[0, 1, 2, 3], 4).await;
    // Those who were added can commit.
    scene.updates(3).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_path_is_not_needed() {
    let mut scene = Scene::set().await;
    let plan = Plan {
        without_path: true,
        ..Plan::add(vec![scene.site.device(DAVE).key_package()])
    };
    let made = scene.commits(ALICE, plan, Made::as_add).await;
    assert!(made.parts().path.is_none());
    scene.goes_on_with(6).await;
}
