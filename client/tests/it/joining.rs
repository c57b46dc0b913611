//! Joining without a Welcome, and joining again.

use moh_client::{
    Client, DsError, DsErrorCode, Error, Event, GroupId, Operation, Outcome, ProviderName, Reason,
};
use moh_messages::{DsAuth, DsRequest, DsRequestBody, DsResponseBody, Endpoint, Message};

use crate::fake::Mishap;
use crate::scene::{Party, Scene, received, texts};

fn owner() -> ProviderName {
    "a.example".parse().unwrap()
}

fn is_settled(event: &Event) -> bool {
    matches!(
        event,
        Event::Settled {
            operation: Operation::ExternalJoin,
            outcome: Outcome::Accepted,
            ..
        }
    )
}

/// Who signed the requests of this name, the client itself or its provider.
fn by_leaf(scene: &Scene, name: &str) -> Vec<bool> {
    let requests = scene.world.seen(name);
    let auth = |bytes: &Vec<u8>| DsRequest::decode(bytes).unwrap().auth;
    requests
        .iter()
        .map(|request| matches!(auth(request), DsAuth::Leaf { .. }))
        .collect()
}

async fn talk(one: &Party, other: &Party, group: &GroupId) {
    received(one).await;
    received(other).await;
    one.client.send(group, "to and").await.unwrap();
    assert_eq!(texts(&received(other).await), ["to and"]);
    other.client.send(group, "fro").await.unwrap();
    assert_eq!(texts(&received(one).await), ["fro"]);
}

#[tokio::test]
async fn a_further_device_joins_by_itself() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&bob, "tablet").await;
    received(&bob).await;
    let accepted = tablet.client.join_group(&group, &owner()).await.unwrap();
    assert_eq!(accepted.epoch, 2);
    assert_eq!(by_leaf(&scene, "external_join"), [false]);
    for party in [&alice, &bob] {
        let events = received(party).await;
        let id = tablet.client.client_id();
        assert!(
            matches!(&events[..], [Event::MembersChanged { added, by, .. }] if by == id && added == std::slice::from_ref(id)),
            "{events:?}"
        );
    }
    talk(&alice, &tablet, &group).await;
    tablet.client.update(&group).await.unwrap();
    talk(&bob, &tablet, &group).await;
    let again = tablet.client.join_group(&group, &owner()).await;
    assert!(matches!(again, Err(Error::AlreadyMember(_))));
    // It was no member when this was written, however late it comes.
    received(&alice).await;
    scene.world.take_older_messages(&group);
    let late = scene.device(&bob, "late").await;
    late.client.join_group(&group, &owner()).await.unwrap();
    alice.client.send(&group, "of old").await.unwrap();
    assert_eq!(received(&late).await, []);
}

#[tokio::test]
async fn a_join_whose_answer_is_lost_happens_once() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&bob, "tablet").await;
    scene.world.plan("external_join", Mishap::LoseAnswer);
    let error = tablet.client.join_group(&group, &owner()).await;
    assert!(matches!(error, Err(Error::Unsettled { .. })));
    assert_eq!(tablet.client.groups().await.unwrap(), []);
    received(&alice).await;
    alice.client.send(&group, "welcome").await.unwrap();
    let tablet = scene.restart(tablet).await;
    let events = received(&tablet).await;
    assert!(is_settled(&events[0]), "{events:?}");
    assert_eq!(texts(&events), ["welcome"]);
    let sent = scene.world.seen("external_join");
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    talk(&alice, &tablet, &group).await;
}

#[tokio::test]
async fn a_join_that_comes_second_is_made_anew() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&bob, "tablet").await;
    let wrong = DsError::new(DsErrorCode::WRONG_EPOCH, "").with_data(&2u64);
    scene.world.plan("external_join", Mishap::Refuse(wrong));
    tablet.client.join_group(&group, &owner()).await.unwrap();
    assert_eq!(scene.world.seen("external_commit_info").len(), 2);
    talk(&alice, &tablet, &group).await;
}

#[tokio::test]
async fn who_is_added_while_it_joins_is_in_once() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&bob, "tablet").await;
    let gate = scene.world.hold(Endpoint::ExternalCommitInformation);
    let (client, id) = (tablet.client.clone(), group.clone());
    let join = tokio::spawn(async move { client.join_group(&id, &owner()).await });
    gate.reached.notified().await;
    let device = tablet.client.client_id();
    bob.client.add_device(&group, device).await.unwrap();
    assert_eq!(received(&tablet).await, []);
    gate.open.notify_one();
    let error = join.await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Joining(_)) && error.is_temporary(),
        "{error}"
    );
    let events = received(&tablet).await;
    assert!(matches!(&events[..], [Event::Joined { .. }]), "{events:?}");
    talk(&alice, &tablet, &group).await;
}

#[tokio::test]
async fn a_stranger_does_not_join() {
    let scene = Scene::new();
    let (_alice, _bob, group) = scene.alice_and_bob().await;
    let carol = scene.party("c.example", "carol").await;
    let error = carol.client.join_group(&group, &owner()).await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.code, DsErrorCode::UNKNOWN_GROUP);
    assert_eq!(carol.client.groups().await.unwrap(), []);
}

#[tokio::test]
async fn who_cannot_follow_joins_again() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.lose_deliveries(bob.client.client_id(), true);
    alice.client.update(&group).await.unwrap();
    scene.world.lose_deliveries(bob.client.client_id(), false);
    alice.client.update(&group).await.unwrap();
    alice.client.send(&group, "lost to Bob").await.unwrap();
    assert_eq!(bob.client.epoch(&group).await.unwrap(), 1);
    assert_eq!(bob.client.rejoin(&group).await.unwrap().epoch, 4);
    let events = received(&bob).await;
    assert!(
        matches!(
            &events[..],
            [
                Event::GroupLost { .. },
                Event::Undecodable { .. },
                Event::Rejoined { epoch: 4, .. }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(by_leaf(&scene, "external_commit_info"), [true]);
    assert_eq!(by_leaf(&scene, "external_join"), [true]);
    let events = received(&alice).await;
    assert!(
        matches!(&events[..], [Event::Updated { by, .. }] if by == bob.client.client_id()),
        "{events:?}"
    );
    talk(&alice, &bob, &group).await;
    // What changed the group before that is nothing to talk about, however late it comes.
    for request in scene.world.seen("update_client") {
        let DsRequestBody::UpdateClient(update) = DsRequest::decode(&request).unwrap().body else {
            panic!()
        };
        let commit = update.group_update.commit.into_vec();
        let to = bob.client.client_id();
        scene.world.deliver(to, "a.example", commit);
    }
    assert_eq!(received(&bob).await, []);
    let bob = scene.restart(bob).await;
    talk(&bob, &alice, &group).await;
    assert_eq!(bob.client.members(&group).await.unwrap().len(), 2);
    assert_eq!(bob.client.groups().await.unwrap(), [group]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_go_out_does_so_after_joining_again() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.lose_deliveries(bob.client.client_id(), true);
    alice.client.update(&group).await.unwrap();
    scene.world.lose_deliveries(bob.client.client_id(), false);
    let error = bob.client.send(&group, "late").await;
    assert!(matches!(error, Err(Error::Unsettled { .. })));
    bob.client.rejoin(&group).await.unwrap();
    received(&bob).await;
    assert_eq!(texts(&received(&alice).await), ["late"]);
}

#[tokio::test]
async fn what_was_missed_is_told_as_far_as_it_was_for_people() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.take_older_messages(&group);
    scene.world.lose_deliveries(bob.client.client_id(), true);
    alice.client.update(&group).await.unwrap();
    scene.world.lose_deliveries(bob.client.client_id(), false);
    scene.world.plan("external_join", Mishap::LoseAnswer);
    let error = bob.client.rejoin(&group).await;
    assert!(matches!(error, Err(Error::Unsettled { .. })));
    // Alice has not heard of it.
    alice.client.send(&group, "in epoch 2").await.unwrap();
    let bob = scene.restart(bob).await;
    let events = received(&bob).await;
    assert!(events.iter().any(is_settled), "{events:?}");
    let unread: Vec<_> = events
        .iter()
        .filter(|event| matches!(event, Event::Undecodable { .. }))
        .collect();
    assert!(
        matches!(
            unread[..],
            [Event::Undecodable {
                reason: Reason::Refused,
                ..
            }]
        ),
        "{events:?}"
    );
    talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_refused_join_leaves_the_old_state_as_it_was() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let no = DsError::new(DsErrorCode::POLICY_VIOLATION, "no");
    scene.world.plan("external_join", Mishap::Refuse(no));
    let error = bob.client.rejoin(&group).await;
    assert!(matches!(error, Err(Error::Refused { .. })));
    talk(&alice, &bob, &group).await;
    assert_eq!(bob.client.epoch(&group).await.unwrap(), 1);
    // And nothing of the secrets that it would have led to.
    let Party {
        client,
        path,
        provider,
    } = bob;
    drop(client);
    let left: u32 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM staged", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
    let client = Client::open(scene.world.options(provider), &path)
        .await
        .unwrap();
    let bob = Party {
        client,
        path,
        provider,
    };
    // The same where the old state has something to say while the request is under way.
    scene.world.plan("external_join", Mishap::LoseRequest);
    let error = bob.client.rejoin(&group).await;
    assert!(matches!(error, Err(Error::Unsettled { .. })));
    alice.client.update(&group).await.unwrap();
    let bob = scene.restart(bob).await;
    let events = received(&bob).await;
    assert!(
        matches!(
            &events[..],
            [
                Event::Settled {
                    outcome: Outcome::Refused(_),
                    ..
                },
                Event::Updated { .. }
            ]
        ),
        "{events:?}"
    );
    talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_device_that_lost_its_state_joins_again() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    let Party {
        client,
        path,
        provider,
    } = bob;
    drop(client);
    let backup = scene.dir.path().join("backup");
    std::fs::copy(&path, &backup).unwrap();
    let options = || scene.world.options(provider);
    let client = Client::open(options(), &path).await.unwrap();
    let bob = Party {
        client,
        path,
        provider,
    };
    let group = alice.client.create_group().await.unwrap();
    crate::scene::add(&alice, &group, &bob).await;
    received(&bob).await;
    // From here on there is only the backup.
    let Party { path, .. } = bob;
    std::fs::remove_file(&path).unwrap();
    let client = Client::open(options(), &backup).await.unwrap();
    let bob = Party {
        client,
        path: backup,
        provider,
    };
    bob.client.join_group(&group, &owner()).await.unwrap();
    assert_eq!(by_leaf(&scene, "external_join"), [false]);
    assert_eq!(bob.client.members(&group).await.unwrap().len(), 2);
    talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_name_with_another_key_has_to_be_removed_first() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.forget_client(bob.client.client_id());
    let path = scene.dir.path().join("anew");
    let options = scene.world.options("b.example");
    let user = bob.client.user_id();
    let anew = Client::register(options, &path, user, "phone")
        .await
        .unwrap();
    let error = anew.join_group(&group, &owner()).await.unwrap_err();
    assert!(matches!(error, Error::OtherKey(_)), "{error}");
    alice.client.remove_user(&group, user).await.unwrap();
}

#[tokio::test]
async fn what_a_join_lets_lapse_is_proposed_again() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    bob.client.leave(&group).await.unwrap();
    let tablet = scene.device(&alice, "tablet").await;
    tablet.client.join_group(&group, &owner()).await.unwrap();
    received(&bob).await;
    assert!(matches!(
        bob.client.update(&group).await,
        Err(Error::Leaving(_))
    ));
    received(&carol).await;
    carol.client.send(&group, "bye").await.unwrap();
    let events = received(&bob).await;
    assert!(matches!(&events[..], [Event::Removed { .. }]), "{events:?}");
    assert_eq!(carol.client.members(&group).await.unwrap().len(), 3);
}

#[tokio::test]
async fn who_joins_again_into_what_was_deleted_is_told() {
    let scene = Scene::new();
    let (_alice, bob, group) = scene.alice_and_bob().await;
    let gone = DsError::new(DsErrorCode::GROUP_DELETED, "");
    scene
        .world
        .plan("external_commit_info", Mishap::Refuse(gone));
    assert!(bob.client.rejoin(&group).await.is_err());
    assert_eq!(received(&bob).await, [Event::Deleted { group }]);
}

#[tokio::test]
async fn another_groups_state_is_not_joined() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let other = alice.client.create_group().await.unwrap();
    let tablet = scene.device(&alice, "tablet").await;
    tablet.client.join_group(&other, &owner()).await.unwrap();
    let answer = scene.world.external_commit_info(&other);
    scene
        .world
        .plan("external_commit_info", Mishap::Answer(answer));
    let error = tablet.client.join_group(&group, &owner()).await;
    assert!(matches!(error, Err(Error::BadAnswer { .. })));
    // A tree that is not the one of the GroupInfo.
    let DsResponseBody::ExternalCommitInfo { ratchet_tree, .. } =
        scene.world.external_commit_info(&other)
    else {
        panic!()
    };
    let DsResponseBody::ExternalCommitInfo {
        group_info,
        provider_keys,
        ..
    } = scene.world.external_commit_info(&group)
    else {
        panic!()
    };
    let mixed = DsResponseBody::ExternalCommitInfo {
        group_info,
        ratchet_tree,
        provider_keys,
    };
    scene
        .world
        .plan("external_commit_info", Mishap::Answer(mixed));
    let error = tablet.client.join_group(&group, &owner()).await;
    assert!(matches!(error, Err(Error::BadAnswer { .. })));
    tablet.client.join_group(&group, &owner()).await.unwrap();
    talk(&bob, &tablet, &group).await;
}

#[tokio::test]
async fn a_tree_inside_of_the_group_info_is_not_taken() {
    let scene = Scene::new();
    let (_alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&bob, "tablet").await;
    let answer = scene.world.external_commit_info_with_tree(&group);
    let answer = Mishap::Answer(answer);
    scene.world.plan("external_commit_info", answer);
    let error = tablet.client.join_group(&group, &owner()).await;
    assert!(
        matches!(&error, Err(Error::BadAnswer { detail, .. }) if detail.contains("a tree in it")),
        "{error:?}"
    );
}

#[tokio::test]
async fn nobody_is_led_back_to_an_earlier_epoch() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let earlier = scene.world.external_commit_info(&group);
    alice.client.update(&group).await.unwrap();
    received(&bob).await;
    let answer = Mishap::Answer(earlier);
    scene.world.plan("external_commit_info", answer);
    let error = bob.client.rejoin(&group).await;
    assert!(matches!(error, Err(Error::BadAnswer { .. })), "{error:?}");
    assert_eq!(scene.world.seen("external_join").len(), 0);
    bob.client.rejoin(&group).await.unwrap();
    talk(&alice, &bob, &group).await;
}
