//! What a client does of its own accord.

use std::time::Duration;

use moh_client::{
    Client, ConnectionState, DsError, DsErrorCode, Error, Event, GroupId, Operation, Outcome,
    Reason,
};

use moh_messages::{DsRequest, DsRequestBody, Message};

use crate::connections::has_asked;
use crate::fake::Mishap;
use crate::scene::{Party, Scene, add, received, texts};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn key_packages(party: &Party) -> (u32, u32) {
    let devices = party.client.devices().await.unwrap();
    let this = |device: &&moh_client::Device| device.client == *party.client.client_id();
    let device = devices.iter().find(this).unwrap();
    (device.key_packages, device.connection_key_packages)
}

fn refilled(events: &[Event]) -> Vec<u32> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::KeyPackagesRefilled { count } => Some(*count),
            _ => None,
        })
        .collect()
}

async fn added_by(alice: &Party, bob: &Party) -> GroupId {
    let group = alice.client.create_group().await.unwrap();
    add(alice, &group, bob).await;
    group
}

#[tokio::test]
async fn key_packages_are_of_two_kinds() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    assert_eq!(key_packages(&bob).await, (2, 2));
    bob.client.refill_key_packages(3).await.unwrap();
    assert_eq!(key_packages(&bob).await, (3, 3));
    added_by(&alice, &bob).await;
    assert_eq!(key_packages(&bob).await, (2, 3));
    alice.client.connect(bob.client.user_id()).await.unwrap();
    assert_eq!(key_packages(&bob).await, (2, 2));
    // Those that were handed out are missing, also where nothing came of it.
    bob.client.refill_key_packages(3).await.unwrap();
    assert_eq!(key_packages(&bob).await, (3, 3));
}

#[tokio::test]
async fn when_key_packages_run_low_they_are_refilled() {
    let scene = Scene::new();
    scene.world.tell_low_key_packages(3);
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    bob.client.refill_key_packages(4).await.unwrap();
    added_by(&alice, &bob).await;
    assert!(refilled(&received(&bob).await).is_empty());
    added_by(&alice, &bob).await;
    assert_eq!(key_packages(&bob).await, (2, 4));
    assert_eq!(refilled(&received(&bob).await), [2]);
    assert_eq!(key_packages(&bob).await, (4, 4));
    for user in ["carol", "dave"] {
        let party = scene.party("c.example", user).await;
        party.client.connect(bob.client.user_id()).await.unwrap();
        let events = received(&bob).await;
        assert!(has_asked(&events, &party));
        let count: &[u32] = if user == "dave" { &[2] } else { &[] };
        assert_eq!(refilled(&events), count);
    }
    assert_eq!(key_packages(&bob).await, (4, 4));
}

#[tokio::test]
async fn a_refill_that_fails_is_made_after_a_restart() {
    for mishap in [Mishap::LoseRequest, Mishap::LoseAnswer] {
        let scene = Scene::new();
        scene.world.tell_low_key_packages(2);
        let alice = scene.party("a.example", "alice").await;
        let bob = scene.party("b.example", "bob").await;
        received(&bob).await;
        added_by(&alice, &bob).await;
        scene.world.plan("upload_key_packages", mishap);
        assert!(refilled(&received(&bob).await).is_empty());
        let bob = scene.restart(bob).await;
        assert_eq!(refilled(&received(&bob).await), [1]);
        assert!(key_packages(&bob).await.0 >= 2);
        added_by(&alice, &bob).await;
        assert!(matches!(&received(&bob).await[0], Event::Joined { .. }));
    }
}

#[tokio::test]
async fn who_was_away_for_long_looks_at_the_start() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    received(&bob).await;
    added_by(&alice, &bob).await;
    added_by(&alice, &bob).await;
    // Nobody has said anything.
    assert!(refilled(&received(&bob).await).is_empty());
    let bob = scene.restart(bob).await;
    assert_eq!(refilled(&received(&bob).await), [2]);
    assert_eq!(key_packages(&bob).await, (2, 2));
}

/// Bob misses the commit that leads to epoch 2, and sees what comes after that.
async fn locked_out(scene: &Scene) -> (Party, Party, GroupId) {
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.lose_deliveries(bob.client.client_id(), true);
    alice.client.update(&group).await.unwrap();
    scene.world.lose_deliveries(bob.client.client_id(), false);
    (alice, bob, group)
}

fn rejoined(events: &[Event]) -> usize {
    let is_it = |event: &&Event| matches!(event, Event::Rejoined { .. });
    events.iter().filter(is_it).count()
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
async fn who_cannot_follow_is_back_by_itself() {
    let scene = Scene::new();
    let (alice, bob, group) = locked_out(&scene).await;
    alice.client.send(&group, "lost to Bob").await.unwrap();
    alice.client.update(&group).await.unwrap();
    let events = received(&bob).await;
    assert!(
        matches!(
            &events[..],
            [
                Event::GroupLost { .. },
                Event::Undecodable {
                    reason: Reason::Refused,
                    ..
                },
                Event::Rejoined { epoch: 4, .. }
            ]
        ),
        "{events:?}"
    );
    talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn who_cannot_follow_is_back_after_a_restart() {
    for (name, mishap) in [
        ("external_commit_info", Mishap::LoseRequest),
        ("external_join", Mishap::LoseRequest),
        ("external_join", Mishap::LoseAnswer),
    ] {
        let scene = Scene::new();
        let (alice, bob, group) = locked_out(&scene).await;
        alice.client.update(&group).await.unwrap();
        for _ in 0..3 {
            scene.world.plan(name, mishap.clone());
        }
        assert_eq!(rejoined(&received(&bob).await), 0);
        let bob = scene.restart(bob).await;
        scene.world.state.lock().unwrap().clear_mishaps();
        assert_eq!(rejoined(&received(&bob).await), 1, "{name} {mishap:?}");
        talk(&alice, &bob, &group).await;
    }
}

#[tokio::test]
async fn a_commit_that_cannot_be_processed_locks_nobody_out() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    alice.client.update(&group).await.unwrap();
    // What Bob gets is another one.
    let mut item = scene
        .world
        .state
        .lock()
        .unwrap()
        .take_last_item(bob.client.client_id());
    let last = item.len() - 1;
    item[last] ^= 1;
    scene
        .world
        .deliver(bob.client.client_id(), "a.example", item);
    assert_eq!(rejoined(&received(&bob).await), 1);
    talk(&alice, &bob, &group).await;
    // What comes a second time does not count.
    let again = scene
        .world
        .state
        .lock()
        .unwrap()
        .last_item(bob.client.client_id());
    scene
        .world
        .deliver(bob.client.client_id(), "a.example", again);
    let events = received(&bob).await;
    assert!(
        matches!(&events[..], [Event::Undecodable { .. }]),
        "{events:?}"
    );
}

#[tokio::test]
async fn nobody_joins_again_all_the_time() {
    let scene = Scene::new();
    let (alice, bob, group) = locked_out(&scene).await;
    let forge = async || {
        alice.client.update(&group).await.unwrap();
        let to = bob.client.client_id();
        let mut item = scene.world.state.lock().unwrap().take_last_item(to);
        let last = item.len() - 1;
        item[last] ^= 1;
        scene
            .world
            .deliver(bob.client.client_id(), "a.example", item);
        rejoined(&received(&bob).await)
    };
    assert_eq!(forge().await, 1);
    // The second time it waits for a little, and then for longer.
    assert_eq!(forge().await, 0);
    scene.world.advance(Duration::from_secs(121));
    assert_eq!(rejoined(&received(&bob).await), 1);
    assert_eq!(forge().await, 0);
    scene.world.advance(Duration::from_secs(121));
    assert_eq!(rejoined(&received(&bob).await), 0);
    scene.world.advance(Duration::from_secs(121));
    assert_eq!(rejoined(&received(&bob).await), 1);
    talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_group_of_others_is_not_joined() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&bob, "tablet").await;
    alice.client.send(&group, "x").await.unwrap();
    let item = scene
        .world
        .state
        .lock()
        .unwrap()
        .last_item(bob.client.client_id());
    // Her user is in the group, and she is not.
    for _ in 0..3 {
        scene
            .world
            .deliver(tablet.client.client_id(), "a.example", item.clone());
        let events = received(&tablet).await;
        assert!(
            matches!(
                &events[..],
                [Event::Undecodable {
                    reason: Reason::UnknownGroup,
                    ..
                }]
            ),
            "{events:?}"
        );
    }
    assert_eq!(scene.world.seen("external_commit_info").len(), 0);
    bob.client
        .add_device(&group, tablet.client.client_id())
        .await
        .unwrap();
    assert!(matches!(
        &received(&tablet).await[..],
        [Event::Joined { .. }]
    ));
}

#[tokio::test(start_paused = true)]
async fn who_is_left_behind_joins_again_in_the_end() {
    let scene = Scene::new();
    let (alice, bob, group) = locked_out(&scene).await;
    let error = bob.client.send(&group, "late").await.unwrap_err();
    assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    // The next one is not stored, and that is said.
    let error = bob.client.send(&group, "later").await.unwrap_err();
    assert!(
        matches!(error, Error::Busy { .. }) && error.is_temporary(),
        "{error}"
    );
    assert_eq!(rejoined(&received(&bob).await), 0);
    scene.world.advance(Duration::from_secs(61));
    let mut events = received(&bob).await;
    assert_eq!(rejoined(&events), 1, "{events:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    events.extend(received(&bob).await);
    assert!(
        events.iter().any(|event| matches!(
            event,
            Event::Settled {
                operation: Operation::Message,
                outcome: Outcome::Accepted,
                ..
            }
        )),
        "{events:?}"
    );
    assert_eq!(texts(&received(&alice).await), ["late"]);
}

#[tokio::test]
async fn a_welcome_leads_out_of_a_state_of_no_use() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    // Bob hears neither of the removal nor of anything else, but of the Welcome.
    scene.world.lose_deliveries(bob.client.client_id(), true);
    alice
        .client
        .remove_user(&group, bob.client.user_id())
        .await
        .unwrap();
    scene.world.lose_deliveries(bob.client.client_id(), false);
    add(&alice, &group, &bob).await;
    let events = received(&bob).await;
    assert!(
        matches!(
            &events[..],
            [Event::GroupLost { .. }, Event::Rejoined { epoch: 4, .. }]
        ),
        "{events:?}"
    );
    talk(&alice, &bob, &group).await;
    // One by another provider does not.
    let welcome = scene.world.welcome(&group, bob.client.client_id());
    scene
        .world
        .deliver(bob.client.client_id(), "c.example", welcome);
    let events = received(&bob).await;
    assert!(
        matches!(&events[..], [Event::Undecodable { .. }]),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_group_that_its_owner_has_forgotten_can_be_forgotten() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.plan("update_client", Mishap::LoseRequest);
    bob.client.update(&group).await.unwrap_err();
    bob.client.forget_group(&group).await.unwrap();
    assert!(matches!(
        bob.client.forget_group(&group).await,
        Err(Error::UnknownGroup(_))
    ));
    alice.client.send(&group, "anybody?").await.unwrap();
    let bob = scene.restart(bob).await;
    let events = received(&bob).await;
    // Joined was not taken before the restart.
    assert!(matches!(&events[..], [Event::Joined { .. }]), "{events:?}");
    assert_eq!(bob.client.groups().await.unwrap(), []);
    assert_eq!(scene.world.seen("external_commit_info").len(), 0);
}

#[tokio::test]
async fn attestations_are_renewed_and_shown_in_every_group() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let other = alice.client.create_group().await.unwrap();
    let connection = alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    bob.client.accept(alice.client.user_id()).await.unwrap();
    received(&alice).await;
    received(&bob).await;
    let epochs = async || {
        let mut epochs = Vec::new();
        for group in [&group, &other, &connection] {
            epochs.push(alice.client.epoch(group).await.unwrap());
        }
        epochs
    };
    let before = epochs().await;
    scene.world.advance(DAY * 29);
    received(&alice).await;
    assert_eq!(epochs().await, before);
    // Keys are changed after a month, the attestation after half of its life.
    scene.world.advance(DAY * 2);
    let events = received(&alice).await;
    assert!(events.is_empty(), "{events:?}");
    let after: Vec<_> = before.iter().map(|epoch| epoch + 1).collect();
    assert_eq!(epochs().await, after);
    scene.world.advance(DAY * 15);
    scene.world.plan("register", Mishap::LoseAnswer);
    scene.world.plan("update_client", Mishap::LoseAnswer);
    let mut events = received(&alice).await;
    let alice = scene.restart(alice).await;
    scene.world.state.lock().unwrap().clear_mishaps();
    events.extend(received(&alice).await);
    let renewed = |event: &&Event| matches!(event, Event::AttestationRenewed { .. });
    assert_eq!(events.iter().filter(renewed).count(), 1, "{events:?}");
    for (group, before) in [&group, &other, &connection].into_iter().zip(after) {
        assert_eq!(alice.client.epoch(group).await.unwrap(), before + 1);
    }
    let events = received(&bob).await;
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::NotAttested { .. })),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_renewal_that_is_refused_is_made_later() {
    let scene = Scene::new();
    let (alice, _bob, group) = scene.alice_and_bob().await;
    received(&alice).await;
    scene.world.advance(DAY * 31);
    let busy = DsError::new(DsErrorCode::RATE_LIMITED, "later");
    scene.world.plan("update_client", Mishap::Refuse(busy));
    received(&alice).await;
    let alice = scene.restart(alice).await;
    received(&alice).await;
    assert_eq!(alice.client.epoch(&group).await.unwrap(), 2);
}

/// As after a crash of the disk: nothing is left but the key.
async fn without_database(scene: &Scene, party: Party) -> (Result<Client, Error>, Party) {
    let Party {
        client,
        path,
        provider,
    } = party;
    let user = client.user_id().clone();
    drop(client);
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    let opened = Client::open(scene.world.options(provider), &path).await;
    let other = scene
        .party(provider, &format!("{}-spare", user.user()))
        .await;
    (
        opened,
        Party {
            client: other.client,
            path,
            provider,
        },
    )
}

#[tokio::test]
async fn who_has_lost_all_but_the_key_is_back() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let friend = scene.party("c.example", "carol").await;
    let connection = friend.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    bob.client.accept(friend.client.user_id()).await.unwrap();
    received(&friend).await;
    received(&bob).await;
    let quiet = alice.client.create_group().await.unwrap();
    add(&alice, &quiet, &bob).await;

    // It is not there while the provider is not.
    scene.world.plan("upload_key_packages", Mishap::LoseAnswer);
    let (opened, lost) = without_database(&scene, bob).await;
    assert!(
        matches!(opened, Err(Error::Unreachable { .. })),
        "{opened:?}"
    );
    let client = Client::open(scene.world.options(lost.provider), &lost.path);
    let bob = Party {
        client: client.await.unwrap(),
        ..lost
    };
    // Whoever adds him does so with KeyPackages whose keys he has.
    let fresh = alice.client.create_group().await.unwrap();
    alice
        .client
        .add_user(&fresh, bob.client.user_id())
        .await
        .unwrap();
    alice.client.send(&group, "lost").await.unwrap();
    friend.client.send(&connection, "lost too").await.unwrap();
    let events = received(&bob).await;
    assert_eq!(events[0], Event::StateLost, "{events:?}");
    assert_eq!(rejoined(&events), 2, "{events:?}");
    let joined = |event: &Event| matches!(event, Event::Joined { group, .. } if *group == fresh);
    assert!(events.iter().any(joined), "{events:?}");
    assert!(!refilled(&events).is_empty());
    let of = bob.client.connections().await.unwrap();
    assert_eq!(of.len(), 2, "{of:?}");
    let with_friend = of
        .iter()
        .find(|c| c.peer == *friend.client.user_id())
        .unwrap();
    assert_eq!(with_friend.group.as_ref(), Some(&connection));
    assert_eq!(with_friend.state, ConnectionState::Connected);
    talk(&alice, &bob, &group).await;
    talk(&friend, &bob, &connection).await;
    assert_eq!(bob.client.groups().await.unwrap().len(), 2);
    // Once.
    let bob = scene.restart(bob).await;
    assert!(!received(&bob).await.contains(&Event::StateLost));
}

#[tokio::test]
async fn the_key_is_that_of_one_client() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let Party { client, path, .. } = alice;
    let key = path.with_extension("key");
    assert!(key.exists());
    drop(client);
    // Where only the file with the key is lost, it is written again.
    std::fs::remove_file(&key).unwrap();
    let options = || scene.world.options("a.example");
    drop(Client::open(options(), &path).await.unwrap());
    assert!(key.exists());
    // So is one that does not read; what was there is not thrown away.
    std::fs::write(&key, b"x").unwrap();
    drop(Client::open(options(), &path).await.unwrap());
    assert!(std::fs::read(&key).unwrap().len() > 1);
    assert_eq!(std::fs::read(path.with_extension("key.old")).unwrap(), b"x");
    std::fs::remove_file(&path).unwrap();
    let mallory = crate::scene::user_id("a.example", "mallory");
    let other = Client::register(options(), &path, &mallory, "phone").await;
    assert!(matches!(other, Err(Error::OtherClient(_))));
    // To register again is to be back, too.
    let user = crate::scene::user_id("a.example", "alice");
    let client = Client::register(options(), &path, &user, "phone")
        .await
        .unwrap();
    let events = client.receive(Duration::from_millis(20)).await.unwrap();
    assert!(events.contains(&Event::StateLost));
    client.delete_account().await.unwrap();
    assert!(!key.exists());
}

#[tokio::test]
async fn who_lost_all_joins_nothing_that_was_only_offered() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    let (opened, _) = without_database(&scene, bob).await;
    let client = opened.unwrap();
    alice.client.send(&group, "are you there?").await.unwrap();
    // His provider has declined for him, and takes nothing more of it; but another one might.
    let sent = scene.world.seen("send_message").pop().unwrap();
    let DsRequestBody::SendMessage(message) = DsRequest::decode(&sent).unwrap().body else {
        panic!()
    };
    let message = message.message.into_vec();
    scene
        .world
        .deliver(client.client_id(), "a.example", message);
    let events = client.receive(Duration::from_millis(20)).await.unwrap();
    assert!(events.contains(&Event::StateLost), "{events:?}");
    for _ in 0..3 {
        let events = client.receive(Duration::from_millis(20)).await.unwrap();
        assert_eq!(rejoined(&events), 0, "{events:?}");
    }
    assert_eq!(scene.world.seen("external_commit_info").len(), 1);
    assert_eq!(scene.world.seen("external_join").len(), 0);
    assert_eq!(client.connections().await.unwrap(), []);
}

#[tokio::test]
async fn who_is_back_is_told_who_came_meanwhile() {
    let scene = Scene::new();
    let (alice, bob, group) = locked_out(&scene).await;
    let carol = scene.party("c.example", "carol").await;
    add(&alice, &group, &carol).await;
    let events = received(&bob).await;
    let added = |event: &Event| {
        matches!(event, Event::MembersChanged { added, removed, .. }
            if *added == [carol.client.client_id().clone()] && removed.is_empty())
    };
    assert_eq!(rejoined(&events), 1);
    assert!(events.iter().any(added), "{events:?}");
}

#[tokio::test]
async fn a_key_that_was_never_registered_is_no_client() {
    let scene = Scene::new();
    scene.world.invite(&["a code"]);
    let path = scene.dir.path().join("alice");
    let user = crate::scene::user_id("a.example", "alice");
    let options = || scene.world.options("a.example");
    Client::register(options(), &path, &user, "phone")
        .await
        .unwrap_err();
    std::fs::remove_file(&path).unwrap();
    for _ in 0..2 {
        let opened = Client::open(options(), &path).await;
        assert!(matches!(opened, Err(Error::NotRegistered)), "{opened:?}");
    }
    let options = options().invitation("a code");
    Client::register(options, &path, &user, "phone")
        .await
        .unwrap();
}

#[tokio::test]
async fn nobody_is_led_among_strangers_by_the_owner() {
    let scene = Scene::new();
    let (alice, bob, group) = locked_out(&scene).await;
    // Whoever is new there is not attested.
    scene.world.advance(Duration::from_secs(61));
    scene
        .world
        .forge_attestations(Some(crate::fake::Forgery::Signature));
    let tablet = scene.device_without_key_packages(&alice, "tablet").await;
    let owner = "a.example".parse().unwrap();
    tablet.client.join_group(&group, &owner).await.unwrap();
    let events = received(&bob).await;
    assert_eq!(rejoined(&events), 0, "{events:?}");
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::GroupLost { .. }))
    );
    assert_eq!(bob.client.epoch(&group).await.unwrap(), 1);
    assert_eq!(scene.world.seen("external_join").len(), 1);
}

#[tokio::test]
async fn who_lost_all_is_connected_anew_by_the_peer() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    bob.client.accept(alice.client.user_id()).await.unwrap();
    received(&alice).await;
    received(&bob).await;
    let (opened, lost) = without_database(&scene, bob).await;
    let bob = Party {
        client: opened.unwrap(),
        ..lost
    };
    // She ends what he does not know any more, and asks again.
    let user = bob.client.user_id().clone();
    alice.client.disconnect(&user).await.unwrap();
    let group = alice.client.connect(&user).await.unwrap();
    received(&bob).await;
    received(&alice).await;
    for party in [&alice, &bob] {
        let of = party.client.connections().await.unwrap();
        assert_eq!(of.len(), 1, "{of:?}");
        assert_eq!(of[0].state, ConnectionState::Connected);
        assert_eq!(of[0].group.as_ref(), Some(&group));
    }
    talk(&alice, &bob, &group).await;
}
