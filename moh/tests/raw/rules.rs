//! Commits that break a rule of the profile, or of RFC 9420.

use moh_messages::{
    AddMembers, DsRequestBody, Extension, GroupUpdate, KeyId, List, MlsBytes, MlsGroupUpdate,
    Opaque, Signature, SignedLast, label,
};
use openmls::prelude::KeyPackage;
use openmls_traits::OpenMlsProvider;

use crate::common::answer::Answer;
use crate::common::device::{Device, new_key, sign};
use crate::common::member::{decoded, key_package, send_message};
use crate::common::peer::Peer;
use crate::common::scene::{Scene, invite};

const RATCHET_TREE: u16 = 2;

/// What is done to an update before it is sent.
type Change = Box<dyn FnOnce(&mut MlsGroupUpdate)>;

#[tokio::test]
async fn a_group_info_of_another_epoch_or_by_another_key_is_refused() {
    let mut scene = Scene::set().await;
    let by_bob = scene.bob.update().partial_group_info;
    scene.bob.discard();
    let earlier = scene.alice.update().partial_group_info;
    scene.alice.discard();
    let forged = sign(&new_key(), label::GROUP_INFO, b"whatever");
    let tree = Extension {
        extension_type: RATCHET_TREE,
        extension_data: Opaque::new([0]).unwrap(),
    };
    let changes: Vec<Change> = vec![
        Box::new(|update| update.partial_group_info.signature = Signature::empty()),
        Box::new(|update| update.partial_group_info.signature = forged),
        Box::new(|update| update.partial_group_info = by_bob),
        Box::new(|update| update.partial_group_info = earlier),
        // Without `external_pub`, and with what it is not to have.
        Box::new(|update| update.partial_group_info.group_info_extensions = List::empty()),
        Box::new(|update| {
            let info = &mut update.partial_group_info;
            let mut extensions = info.group_info_extensions.clone().into_vec();
            extensions.push(tree);
            info.group_info_extensions = List::new(extensions).unwrap();
        }),
    ];
    for change in changes {
        let answer = scene.bad_update(change).await;
        answer.refused(422, "invalid_group_info");
    }
    scene.assert_unchanged().await;
    scene.update().await;
}

#[tokio::test]
async fn a_commit_that_is_none_or_is_damaged_is_invalid() {
    let mut scene = Scene::set().await;
    let message = scene.alice.encrypt("not a commit");
    for (commit, name) in [
        (Vec::new(), "invalid_message"),
        (b"nothing of the kind".to_vec(), "invalid_message"),
        // Handshakes are PublicMessages: that is the profile's rule.
        (message, "policy_violation"),
    ] {
        let commit = Opaque::new(commit).unwrap();
        let answer = scene.bad_update(|update| update.commit = commit).await;
        answer.refused(422, name);
    }
    // A bit of the signature. Behind it stand the confirmation_tag, which the GroupInfo has to
    // agree with, and the membership_tag, which only members can check.
    let tag = 1 + 32;
    for (back, name) in [
        (2 * tag + 1, "invalid_message"),
        (tag + 1, "invalid_group_info"),
    ] {
        let answer = scene.bad_update(|update| {
            let mut commit = update.commit.as_slice().to_vec();
            let at = commit.len() - back;
            commit[at] ^= 1;
            update.commit = Opaque::new(commit).unwrap();
        });
        answer.await.refused(422, name);
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn leaf_index_is_the_sender_of_the_commit() {
    let mut scene = Scene::set().await;
    let group_update = scene.alice.update();
    scene.alice.discard();
    // Bob, who is a member, sends what Alice has committed.
    let body = DsRequestBody::UpdateClient(GroupUpdate { group_update });
    let answer = scene.operate(&scene.bob.signed(body)).await;
    answer.refused(422, "invalid_message");
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn only_application_data_is_sent_as_a_message() {
    let mut scene = Scene::set().await;
    let commit = scene.alice.update().commit;
    scene.alice.discard();
    let mut cut = scene.alice.encrypt("cut off");
    cut.pop();
    // RFC 9420 6.3: version, wire format, group_id<V>, epoch, content_type.
    let mut proposal = scene.alice.encrypt("says to be a proposal");
    let at = 2 + 2 + 1 + scene.group_id().as_slice().len() + 8;
    assert_eq!(proposal[at], 1);
    proposal[at] = 2;
    for (message, name) in [
        (commit.as_slice(), "policy_violation"),
        (&cut, "invalid_message"),
        (b"nothing of the kind", "invalid_message"),
        (&proposal, "policy_violation"),
    ] {
        let request = scene.alice.signed(send_message(message));
        scene.operate(&request).await.refused(422, name);
    }
    scene.assert_unchanged().await;
}

/// Carol, who is in no group, and a KeyPackage of hers.
async fn carol(scene: &Scene) -> (Device, KeyPackage) {
    let carol = invite(&scene.server, "carol/phone", &scene.alice.device).await;
    let fetched = scene.alice.device.key_packages_of(&carol.user()).await;
    let key_package = decoded(&scene.alice.device, &fetched[0]);
    (carol, key_package)
}

/// The answer to Alice's `add_users`, whatever became of it.
async fn add(
    scene: &mut Scene,
    key_package: &KeyPackage,
    change: impl FnOnce(&mut AddMembers),
) -> Answer {
    let mut add = scene.alice.add(vec![key_package.clone()]);
    change(&mut add);
    scene.alice.discard();
    let request = scene.alice.signed(DsRequestBody::AddUsers(add));
    scene.operate(&request).await
}

#[tokio::test]
async fn an_attestation_is_the_providers_word_for_that_client_and_key() {
    let mut scene = Scene::set().await;
    let (mut carol, _) = carol(&scene).await;
    let queue = carol.queue_configs(1).await.remove(0);
    let mut peer = Peer::of(&scene.server).await;
    let resigned = |peer: &Peer, mut attestation: moh_messages::Attestation| {
        let tbs = attestation.to_be_signed();
        attestation.signature = sign(&peer.signer, label::ATTESTATION, &tbs);
        attestation
    };
    let good = carol.attestation.clone();
    let mut for_another_client = good.clone();
    for_another_client.client_id = "mimi://a.example/d/carol/laptop".parse().unwrap();
    let mut too_long = good.clone();
    too_long.not_after += 1;
    let mut over = good.clone();
    over.not_after = over.not_before + 1;
    let mut bad = vec![
        resigned(&peer, for_another_client),
        resigned(&peer, too_long),
        resigned(&peer, over),
        scene.bob.device.attestation.clone(),
    ];
    // By a key that is not the provider's, under the provider's key_id and under its own.
    peer.signer = new_key();
    bad.push(resigned(&peer, good.clone()));
    let mut unknown = good.clone();
    unknown.key_id = KeyId::new([1; 32]).unwrap();
    bad.push(resigned(&peer, unknown));
    for attestation in bad {
        let key_package = key_package(&carol, &attestation, &queue);
        let answer = add(&mut scene, &key_package, |_| {}).await;
        answer.refused(403, "unauthenticated");
    }
    assert_eq!(carol.read(0).await, []);
    scene.assert_unchanged().await;
    // It is for nothing else that they were refused.
    let key_package = key_package(&carol, &good, &queue);
    add(&mut scene, &key_package, |_| {}).await.ok();
    carol.next_one().await;
}

#[tokio::test]
async fn a_queue_is_at_the_clients_own_provider() {
    let mut scene = Scene::set().await;
    let (carol, _) = carol(&scene).await;
    let mut queue = carol.queue_configs(1).await.remove(0);
    queue.provider = "b.example".parse().unwrap();
    let key_package = key_package(&carol, &carol.attestation, &queue);
    let answer = add(&mut scene, &key_package, |_| {}).await;
    answer.refused(422, "policy_violation");
    assert_eq!(carol.read(0).await, []);
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn welcomes_are_for_exactly_those_who_are_added() {
    let mut scene = Scene::set().await;
    let (carol, key_package) = carol(&scene).await;
    let reference = key_package.hash_ref(carol.mls.crypto()).unwrap();
    let reference = reference.as_slice().to_vec();
    let for_another = |add: &mut AddMembers| {
        let mut welcome = add.welcomes[0].as_slice().to_vec();
        let found = welcome
            .windows(reference.len())
            .position(|w| w == reference);
        welcome[found.unwrap()] ^= 1;
        add.welcomes = List::new(vec![MlsBytes::new(welcome).unwrap()]).unwrap();
    };
    let answer = add(&mut scene, &key_package, for_another).await;
    answer.refused(422, "policy_violation");
    let none = |add: &mut AddMembers| add.welcomes = List::empty();
    let answer = add(&mut scene, &key_package, none).await;
    answer.refused(422, "policy_violation");
    let twice = |add: &mut AddMembers| {
        let one = add.welcomes[0].clone();
        add.welcomes = List::new(vec![one.clone(), one]).unwrap();
    };
    let answer = add(&mut scene, &key_package, twice).await;
    answer.refused(422, "policy_violation");
    let no_welcome = |add: &mut AddMembers| {
        let commit = MlsBytes::new(add.group_update.commit.as_slice()).unwrap();
        add.welcomes = List::new(vec![commit]).unwrap();
    };
    let answer = add(&mut scene, &key_package, no_welcome).await;
    answer.refused(422, "invalid_message");
    assert_eq!(carol.read(0).await, []);
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn users_who_are_members_are_not_added_again() {
    let mut scene = Scene::set().await;
    let bob = &scene.bob.device;
    let laptop = Device::register_beside(&scene.server, "bob/laptop", bob).await;
    let queue = laptop.queue_configs(1).await.remove(0);
    let key_package = key_package(&laptop, &laptop.attestation, &queue);
    let answer = add(&mut scene, &key_package, |_| {}).await;
    answer.refused(422, "policy_violation");
    assert_eq!(laptop.read(0).await, []);
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn an_operation_is_what_its_commit_holds() {
    let mut scene = Scene::set().await;
    let (carol, key_package) = carol(&scene).await;
    // Adds, sent as an update, and an update, sent as Adds.
    let adding = scene.alice.add(vec![key_package]);
    scene.alice.discard();
    let group_update = adding.group_update.clone();
    let body = DsRequestBody::UpdateClient(GroupUpdate { group_update });
    let answer = scene.operate(&scene.alice.signed(body)).await;
    answer.refused(422, "policy_violation");
    let group_update = scene.alice.update();
    scene.alice.discard();
    let welcomes = adding.welcomes;
    let body = DsRequestBody::AddUsers(AddMembers {
        group_update,
        welcomes,
    });
    let answer = scene.operate(&scene.alice.signed(body)).await;
    answer.refused(422, "policy_violation");
    assert_eq!(carol.read(0).await, []);
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_key_package_is_handed_out_once_and_to_those_who_may() {
    let scene = Scene::set().await;
    let carol = invite(&scene.server, "carol/phone", &scene.alice.device).await;
    let (alice, bob) = (&scene.alice.device, &scene.bob.device);
    let status = async |device: &Device| device.key_package_status_of(&carol.user()).await;
    use moh_messages::UserKeyPackageStatus as Status;
    assert_eq!(status(bob).await, (Status::NoConsent, Vec::new()));
    let (fetched, clients) = status(alice).await;
    assert_eq!((fetched, clients.len()), (Status::Success, 1));
    let (fetched, clients) = status(alice).await;
    assert_eq!(fetched, Status::NothingCompatible);
    let exhausted = moh_messages::ClientKeyPackageStatus::Exhausted;
    assert_eq!(clients, [exhausted]);
}
