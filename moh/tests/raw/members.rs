//! Members of a group, those who are none, and epochs.

use moh_messages::{
    DsAuth, DsRequest, DsRequestBody, Endpoint, GroupId, GroupUpdate, KeyPackageRef, Message,
    Opaque, ProviderName, Signature, SignedLast, WelcomeInfo,
};

use crate::common::answer::Answer;
use crate::common::device::{Device, message_of, new_key};
use crate::common::member::{Member, Received, request_group_id, send_message};
use crate::common::random;
use crate::common::scene::{Scene, changed, invite};

/// The epoch that a `wrong_epoch` tells.
#[track_caller]
fn current_epoch(answer: &Answer) -> u64 {
    let error = answer.refused(409, "wrong_epoch");
    u64::decode(error.data.as_slice()).unwrap()
}

/// Requests of all kinds for groups, by somebody who is at leaf 0 of a group.
fn operations(member: &mut Member) -> Vec<DsRequestBody> {
    let message = member.encrypt("not to be seen");
    let group_update = member.update();
    member.discard();
    vec![
        send_message(&message),
        DsRequestBody::UpdateClient(GroupUpdate { group_update }),
    ]
}

#[tokio::test]
async fn a_bad_member_signature_is_as_if_there_were_no_such_group() {
    let mut scene = Scene::set().await;
    let mallory = Device::register(&scene.server, "mallory/phone").await;
    // What somebody gets for a group that does not exist: this one was never created.
    let (_, ds_sender) = request_group_id(&mallory).await;
    let us = scene.server.name.clone();
    let no_such = GroupId::new(random::<32>()).unwrap();
    let nowhere = Member::create_as(mallory, us, &no_such, &ds_sender).await;
    let (mut nowhere, _) = nowhere;
    let mut expected = Vec::new();
    for body in operations(&mut nowhere) {
        let answer = scene.operate(&nowhere.signed(body)).await;
        answer.refused(404, "unknown_group");
        expected.push(answer);
    }

    for (body, expected) in operations(&mut scene.alice).into_iter().zip(expected) {
        let alice = &scene.alice;
        let good = alice.signed(body.clone());
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let unsigned = changed(&good, |request: &mut DsRequest| {
            *request.signature_mut().unwrap() = Signature::empty();
        });
        let for_another = changed(&good, |request: &mut DsRequest| {
            request.sender = "b.example".parse().unwrap();
        });
        let mut bad = vec![flipped, unsigned, for_another];
        // Of a member, at the leaf of another, and at none.
        bad.extend([1, 2, 3, 100, u32::MAX].map(|leaf| alice.signed_at(leaf, body.clone())));
        // Of nobody who is a member.
        bad.push(nowhere.signed(body));
        for request in bad {
            let answer = scene.operate(&request).await;
            answer.refused(404, "unknown_group");
            assert_eq!(answer.everything(), expected.everything());
        }
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn who_was_not_added_learns_nothing_of_a_group() {
    let mut scene = Scene::set().await;
    let ask = |group_id: GroupId, epoch, reference: KeyPackageRef| {
        let body = DsRequestBody::WelcomeInfo(WelcomeInfo { group_id, epoch });
        let auth = DsAuth::KeyPackage {
            key_package_ref: reference,
            signature: Signature::empty(),
        };
        let device = &scene.bob.device;
        device.signed(device.ds_request(&scene.server.name, body, auth))
    };
    let reference = KeyPackageRef::new([7; 32]).unwrap();
    let no_such = GroupId::new(random::<32>()).unwrap();
    let nowhere = ask(no_such, 1, reference.clone());
    let here = [
        ask(scene.group_id(), 1, reference.clone()),
        ask(scene.group_id(), 0, reference.clone()),
        ask(scene.group_id(), 9, reference),
    ];
    let endpoint = Endpoint::WelcomeInformation;
    let expected = scene.post(endpoint, &nowhere).await;
    expected.refused(404, "unknown_group");
    for request in here {
        let answer = scene.post(endpoint, &request).await;
        assert_eq!(answer.everything(), expected.everything());
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn the_kind_of_authentication_is_the_operations() {
    let mut scene = Scene::set().await;
    let message = scene.alice.encrypt("not to be seen");
    let device = &scene.alice.device;
    let reference = Opaque::new([7; 32]).unwrap();
    let kinds = [
        DsAuth::Anonymous,
        DsAuth::KeyPackage {
            key_package_ref: reference,
            signature: Signature::empty(),
        },
    ];
    for auth in kinds {
        let body = send_message(&message);
        let request = device.ds_request(&scene.server.name, body, auth);
        let answer = scene.operate(&request.encode()).await;
        answer.refused(403, "unauthenticated");
    }
    let welcome_info = DsRequestBody::WelcomeInfo(WelcomeInfo {
        group_id: scene.group_id(),
        epoch: 1,
    });
    let request = scene.alice.signed(welcome_info);
    let answer = scene.post(Endpoint::WelcomeInformation, &request).await;
    answer.refused(403, "unauthenticated");
    // A member's own key, and another provider's name: the signature is right.
    let body = send_message(&message);
    let auth = DsAuth::Leaf {
        leaf_index: 0,
        signature: Signature::empty(),
    };
    let mut request = device.ds_request(&scene.server.name, body, auth);
    request.sender = "b.example".parse().unwrap();
    let answer = scene.operate(&device.signed(request)).await;
    answer.refused(403, "unauthenticated");
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_commit_for_another_epoch_is_told_the_current_one() {
    let mut scene = Scene::set().await;
    let mut carol = invite(&scene.server, "carol/phone", &scene.alice.device).await;
    let fetched = scene.alice.device.key_packages_of(&carol.user()).await;
    let carols = crate::common::member::decoded(&scene.alice.device, &fetched[0]);
    // Prepared at epoch 1, sent at epoch 2.
    let late_add = scene.alice.add(vec![carols]);
    scene.alice.discard();
    let late_update = scene.alice.update_client();
    scene.alice.discard();
    let request = scene.bob.update_client();
    scene.operate(&request).await.ok();
    scene.bob.merge();
    let late_add = scene.alice.signed(DsRequestBody::AddUsers(late_add));
    for late in [late_add, late_update] {
        assert_eq!(current_epoch(&scene.operate(&late).await), 2);
    }
    assert_eq!(carol.read(0).await, [], "she was not welcomed");
    let item = scene.alice.device.next_one().await;
    assert_eq!(scene.alice.receive(&item), Received::Commit(2));
    scene.assert_unchanged().await;

    // Now she is ahead, by a commit that she did not send.
    scene.alice.update();
    scene.alice.merge();
    let early = scene.alice.update_client();
    assert_eq!(current_epoch(&scene.operate(&early).await), 2);
    let (early, _) = scene.alice.message("too early");
    assert_eq!(current_epoch(&scene.operate(&early).await), 2);
    assert_eq!(scene.bob.device.read(0).await, []);
    carol.cursor = Opaque::empty();
    assert_eq!(carol.read(0).await, []);
}

#[tokio::test]
async fn messages_of_the_last_five_epochs_are_taken() {
    let mut scene = Scene::set().await;
    let late: Vec<_> = (0..3).map(|_| scene.alice.message("late")).collect();
    for _ in 0..5 {
        scene.update().await;
    }
    let (request, message) = &late[0];
    assert_eq!(scene.operate(request).await.ok().0, 6);
    assert_eq!(message_of(&scene.bob.device.next_one().await), *message);
    scene.update().await;
    let (request, _) = &late[1];
    assert_eq!(current_epoch(&scene.operate(request).await), 7);
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn of_two_commits_at_once_exactly_one_wins() {
    const ROUNDS: u64 = 25;
    let mut scene = Scene::set().await;
    let mut wins = [0, 0];
    for round in 0..ROUNDS {
        let epoch = 1 + round;
        let (by_alice, by_bob) = (scene.alice.update_client(), scene.bob.update_client());
        // Neither has the advantage of being the first to connect.
        let (alice, bob) = if round % 2 == 0 {
            tokio::join!(scene.operate(&by_alice), scene.operate(&by_bob))
        } else {
            let (bob, alice) = tokio::join!(scene.operate(&by_bob), scene.operate(&by_alice));
            (alice, bob)
        };
        let alice_wins = alice.status == 200;
        let (won, lost) = if alice_wins {
            (&alice, &bob)
        } else {
            (&bob, &alice)
        };
        assert_eq!(won.ok().0, epoch + 1);
        assert_eq!(current_epoch(lost), epoch + 1);
        let Scene { alice, bob, .. } = &mut scene;
        let (winner, loser) = if alice_wins {
            (alice, bob)
        } else {
            (bob, alice)
        };
        winner.merge();
        loser.discard();
        let item = loser.device.next_one().await;
        assert_eq!(loser.receive(&item), Received::Commit(epoch + 1));
        assert_eq!(winner.device.read(0).await, []);
        wins[usize::from(alice_wins)] += 1;
    }
    println!("Bob won {} times, Alice {}", wins[0], wins[1]);
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn messages_beside_a_commit_are_all_delivered_once() {
    const ROUNDS: u64 = 10;
    let mut scene = Scene::set().await;
    for _ in 0..ROUNDS {
        let messages: Vec<_> = (0..4).map(|_| scene.alice.message("beside")).collect();
        let commit = scene.bob.update_client();
        let scene_ref = &scene;
        let sent = messages
            .iter()
            .map(|(request, _)| scene_ref.operate(request));
        let sending = futures_util::future::join_all(sent);
        let (answers, committed) = tokio::join!(sending, scene_ref.operate(&commit));
        scene.bob.merge();
        let epoch = committed.ok().0;
        assert_eq!(epoch, scene.bob.epoch());
        for answer in &answers {
            assert!([epoch - 1, epoch].contains(&answer.ok().0));
        }
        let items = scene.bob.device.next(messages.len()).await;
        let mut got: Vec<_> = items.iter().map(message_of).collect();
        let mut expected: Vec<_> = messages.iter().map(|(_, message)| &message[..]).collect();
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected);
        // To Alice, only the commit goes.
        let item = scene.alice.device.next_one().await;
        assert_eq!(scene.alice.receive(&item), Received::Commit(epoch));
    }
    scene.assert_unchanged().await;
}

/// A name that this provider did not give out, and one that it did, twice.
#[tokio::test]
async fn a_group_has_a_name_of_the_providers_and_has_it_alone() {
    let mut scene = Scene::set().await;
    let mallory = Device::register(&scene.server, "mallory/phone").await;
    let (_, ds_sender) = request_group_id(&mallory).await;
    let us: ProviderName = scene.server.name.clone();
    let own_choice = GroupId::new(random::<32>()).unwrap();
    let created = Member::create_as(mallory, us.clone(), &own_choice, &ds_sender).await;
    let (mallory, request) = created;
    let answer = scene.operate(&request).await;
    answer.refused(422, "policy_violation");
    // The name of Alice's group is taken, for whoever knows it.
    let taken = scene.group_id();
    let created = Member::create_as(mallory.device, us, &taken, &ds_sender).await;
    let (mut mallory, request) = created;
    let answer = scene.operate(&request).await;
    answer.refused(409, "group_id_in_use");
    mallory.device.signer = new_key();
    let body = operations(&mut mallory).remove(0);
    let answer = scene.operate(&mallory.signed(body)).await;
    answer.refused(404, "unknown_group");
    scene.assert_unchanged().await;
}
