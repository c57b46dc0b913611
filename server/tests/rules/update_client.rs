//! update_client, and what all commits have in common.

use moh_messages::{
    ClientId, DsErrorCode, DsRequestBody, HandshakeBytes, List, Message, extension_type,
};

use crate::clock::MINUTE_MS;
use crate::leaves;
use crate::made::Made;
use crate::member::Plan;
use crate::parts::{self, set};
use crate::proposals::refused_instead;
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;

/// An update of Bob's, with a leaf that was changed.
fn with_leaf(scene: &mut Scene, edit: impl FnOnce(&mut parts::Leaf)) -> Made {
    let mut made = scene.made(BOB, Plan::default());
    let bob = &scene.members[BOB];
    made.edit(&bob.device, bob, |commit| {
        edit(&mut commit.path.as_mut().unwrap().leaf);
    });
    made
}

#[tokio::test]
async fn what_is_in_the_commit() {
    let mut scene = Scene::set().await;
    let made = scene.made(BOB, Plan::default());
    refused_instead(&scene, BOB, &made, "", Made::as_update).await;
    let dave = scene.site.device("dave/phone@c.example").key_package();
    for (what, plan) in [
        ("an Add", Plan::add(vec![dave])),
        ("a Remove", Plan::remove(&[scene.leaf(CAROL)])),
    ] {
        let made = scene.made(BOB, plan);
        assert!(made.is_valid(&scene.members[BOB]));
        scene.refuses(BOB, what, VIOLATION, made.as_update()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn a_path_is_needed() {
    let mut scene = Scene::set().await;
    let mut made = scene.made(BOB, Plan::default());
    let bob = &scene.members[BOB];
    made.edit(&bob.device, bob, |commit| commit.path = None);
    scene
        .refuses(BOB, "no path", VIOLATION, made.as_update())
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn the_leaf_in_the_path() {
    let mut scene = Scene::set().await;
    let bob = scene.device(BOB).clone();
    for (what, code, edit) in leaves::broken() {
        scene.site.clock.pass(MINUTE_MS);
        let made = with_leaf(&mut scene, |leaf| edit(leaf, &bob));
        assert!(made.is_valid(&scene.members[BOB]), "{what}");
        scene.refuses(BOB, what, code, made.as_update()).await;
    }
    let made = with_leaf(&mut scene, |_| {});
    let request = scene.members[BOB].ask(made.as_update());
    scene.accepts("as it is", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn a_leaf_in_the_path_that_is_not_valid() {
    let mut scene = Scene::set().await;
    let bob = scene.device(BOB).clone();
    for (what, edit) in leaves::INVALID {
        let made = with_leaf(&mut scene, |leaf| edit(leaf, &bob));
        scene.refuses(BOB, what, INVALID, made.as_update()).await;
    }
    let made = with_leaf(&mut scene, |leaf| leaf.source = parts::Source::Update);
    let what = "a leaf that is not of a commit";
    scene.refuses(BOB, what, INVALID, made.as_update()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_key_that_another_leaf_has() {
    let mut scene = Scene::set().await;
    // Bob's phone takes the key of his laptop, which he has as well.
    let laptop = scene.device(BOBS_LAPTOP).clone();
    let bob = scene.device(BOB).id.clone();
    let mut made = with_leaf(&mut scene, |leaf| {
        leaf.signature_key = parts::bytes(laptop.signer.public());
        leaf.set(extension_type::ATTESTATION, &laptop.attestation_for(&bob));
    });
    made.sign_leaf_by(&laptop.signer, &scene.members[BOB]);
    let what = "the signature key of another leaf";
    scene.refuses(BOB, what, INVALID, made.as_update()).await;
    let key = scene.members[CAROL].own_leaf().encryption_key;
    let made = with_leaf(&mut scene, |leaf| leaf.encryption_key = key);
    let what = "the encryption key of another leaf";
    scene.refuses(BOB, what, INVALID, made.as_update()).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_queue_that_another_leaf_has() {
    let mut scene = Scene::set().await;
    let laptops = scene.members[BOBS_LAPTOP].own_leaf().queue();
    let made = with_leaf(&mut scene, |leaf| {
        leaf.set(extension_type::QUEUE_CONFIG, &laptops);
    });
    assert!(made.is_valid(&scene.members[ALICE]));
    let what = "the queue of another leaf";
    scene.refuses(BOB, what, VIOLATION, made.as_update()).await;
    // Its own stays, or is another one.
    for queue in [
        scene.members[BOB].own_leaf().queue(),
        scene.device(BOB).says().queue,
    ] {
        let made = with_leaf(&mut scene, |leaf| {
            leaf.set(extension_type::QUEUE_CONFIG, &queue);
        });
        assert!(made.is_valid(&scene.members[ALICE]));
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn a_new_signature_key() {
    let mut scene = Scene::set().await;
    let new = scene.site.device(ALL[BOB]);
    let mut made = with_leaf(&mut scene, |leaf| {
        leaf.signature_key = parts::bytes(new.signer.public());
        leaf.set(extension_type::ATTESTATION, &new.says().attestation);
    });
    made.sign_leaf_by(&new.signer, &scene.members[BOB]);
    assert!(made.is_valid(&scene.members[BOB]));
    // The GroupInfo is signed by the new leaf.
    let mut by_the_old_one = made.clone();
    by_the_old_one.info.sign(&scene.device(BOB).signer);
    let code = DsErrorCode::INVALID_GROUP_INFO;
    let body = by_the_old_one.as_update();
    scene.refuses(BOB, "by the old key", code, body).await;
    let request = scene.members[BOB].ask(made.as_update());
    scene.accepts("by the new key", 2, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn the_client_stays_the_same() {
    let mut scene = Scene::set().await;
    let bob = scene.device(BOB).clone();
    for (what, id) in [
        ("another client of the user", "mimi://b.example/d/bob/watch"),
        ("another user", "mimi://b.example/d/ben/phone"),
    ] {
        let id: ClientId = id.parse().unwrap();
        let made = with_leaf(&mut scene, |leaf| {
            leaf.identity = parts::bytes(id.as_str().as_bytes());
            leaf.set(extension_type::ATTESTATION, &bob.attestation_for(&id));
        });
        assert!(made.is_valid(&scene.members[BOB]), "{what}");
        scene.refuses(BOB, what, VIOLATION, made.as_update()).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn group_infos_that_are_not_of_the_new_epoch() {
    let code = DsErrorCode::INVALID_GROUP_INFO;
    let mut scene = Scene::set().await;
    let made = scene.made(BOB, Plan::default());
    let other = scene.made(BOB, Plan::default());
    let refused = async |what: &str, edit: &dyn Fn(&mut Made)| {
        let mut made = made.clone();
        edit(&mut made);
        scene.refuses(BOB, what, code, made.as_update()).await;
    };
    let (bob, alice) = (&scene.device(BOB).signer, &scene.device(ALICE).signer);
    refused("of another commit", &|made| made.info = other.info.clone()).await;
    refused("with ratchet_tree", &|made| {
        let tree = Some(scene.members[BOB].tree());
        set(&mut made.info.extensions, 2, tree);
        made.info.sign(bob);
    })
    .await;
    refused("without external_pub", &|made| {
        set(&mut made.info.extensions, 4, None);
        made.info.sign(bob);
    })
    .await;
    refused("signed by another", &|made| made.info.sign(alice)).await;
    refused("in another's name", &|made| {
        made.info.signer = 0;
        made.info.sign(bob);
    })
    .await;
    refused("of the epoch before", &|made| {
        made.info.context.epoch -= 1;
        made.info.sign(bob);
    })
    .await;
    refused("with another confirmation tag", &|made| {
        made.info.confirmation_tag = parts::bytes([1; 32]);
        made.info.sign(bob);
    })
    .await;
    refused("with an extension twice", &|made| {
        let mut twice = made.info.extensions.clone().into_vec();
        twice.push(twice[0].clone());
        made.info.extensions = List::new(twice).unwrap();
        made.info.sign(bob);
    })
    .await;
    refused("with extensions that were not signed", &|made| {
        set(&mut made.info.extensions, 0xF4FD, Some(vec![1]));
    })
    .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn messages_that_are_no_commits() {
    let mut scene = Scene::set().await;
    let made = scene.made(BOB, Plan::default());
    let update = |commit: Vec<u8>| {
        let mut body = made.as_update();
        if let DsRequestBody::UpdateClient(update) = &mut body {
            update.group_update.commit = HandshakeBytes::new(commit).unwrap();
        }
        body
    };
    let mut changed = made.parts();
    changed.path.as_mut().unwrap().leaf.identity =
        parts::bytes(b"mimi://b.example/d/eve/x".to_vec());
    let proposal = scene.members[BOB].proposes(&parts::remove(scene.leaf(BOB)));
    for (what, bytes) in [
        ("no bytes", Vec::new()),
        ("no message", vec![1; 40]),
        ("with a rest", [&made.commit[..], &[0]].concat()),
        ("cut short", made.commit[..made.commit.len() - 1].to_vec()),
        ("changed after it was signed", changed.encode()),
        ("a proposal", proposal),
    ] {
        scene.refuses(BOB, what, INVALID, update(bytes)).await;
    }
    let DsRequestBody::SendMessage(message) = scene.members[BOB].message("private") else {
        unreachable!();
    };
    let private = update(message.message.into_vec());
    scene
        .refuses(BOB, "a PrivateMessage", VIOLATION, private)
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let before = scene.site.mail().await;
    let made = scene.updates(BOB).await;
    let others = scene.devices(&[ALICE, AMY, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    scene.goes_on().await;
}
