//! People connect, decline, block, and lose devices: with real clients of real providers.

use std::time::Duration;

use moh_client::{Client, ClientId, ConnectionState, Error, Event, GroupId};
use moh_messages::Endpoint;
use moh_server::Limits;
use moh_server::group::Group;
use moh_server::store::Store;

use crate::listen::{agree, hear, hear_until, say, until};
use crate::world::{Provider, World};

/// The clients in a group, as its owner has them, and how many are about to be removed.
async fn members(owner: &Provider, group: &GroupId) -> Vec<ClientId> {
    let stored = owner.store().group(group).await.unwrap().unwrap();
    let group = Group::restore(&stored).unwrap();
    let members = group.roster().members().map(|(_, m)| m.client_id.clone());
    members.collect()
}

/// The states of a client's connections.
async fn states(client: &Client) -> Vec<ConnectionState> {
    let all = client.connections().await.unwrap();
    all.into_iter().map(|connection| connection.state).collect()
}

async fn is_asked(client: &Client) -> Vec<Event> {
    let is_it = |event: &Event| matches!(event, Event::ConnectionRequested { .. });
    hear(client, |heard| heard.iter().any(is_it)).await
}

async fn is_connected(client: &Client) -> Vec<Event> {
    let is_it = |event: &Event| matches!(event, Event::Connected { .. });
    hear(client, |heard| heard.iter().any(is_it)).await
}

async fn two(world: &World) -> (Client, Client) {
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    (alice, bob)
}

#[tokio::test]
async fn the_whole_way() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (alice, bob) = two(&world).await;
    let (her, his) = (alice.user_id(), bob.user_id());
    // Strangers cannot add each other.
    let other = alice.create_group().await.unwrap();
    let added = alice.add_user(&other, his).await;
    assert!(matches!(added, Err(Error::NoConsent(_))), "{added:?}");

    let group = alice.connect(his).await.unwrap();
    is_asked(&bob).await;
    // Whoever asks consents, whoever is asked has not decided.
    let (a, b) = (world.provider("a.example"), world.provider("b.example"));
    assert!(a.node().consents(her, his).await.unwrap());
    assert!(!b.node().consents(his, her).await.unwrap());
    assert!(alice.add_user(&other, his).await.is_err());

    assert_eq!(bob.accept(her).await.unwrap(), group);
    for client in [&alice, &bob] {
        is_connected(client).await;
    }
    assert!(b.node().consents(his, her).await.unwrap());
    for client in [&alice, &bob] {
        assert_eq!(states(client).await, [ConnectionState::Connected]);
    }
    agree(&group, &[&alice, &bob]).await;
    say(&group, &alice, &[&bob], "hello").await;
    say(&group, &bob, &[&alice], "hello you").await;

    // Both may add the other from now on.
    alice.add_user(&other, his).await.unwrap();
    let bobs = bob.create_group().await.unwrap();
    bob.add_user(&bobs, her).await.unwrap();
    alice.send(&other, "in another group").await.unwrap();
    hear_until(&bob, "in another group").await;
    bob.send(&bobs, "and in a third").await.unwrap();
    hear_until(&alice, "and in a third").await;
    world.end().await;
}

#[tokio::test]
async fn who_is_declined_is_left_alone_in_the_group() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (alice, bob) = two(&world).await;
    let laptop = world.device(&bob, "laptop").await;
    let group = alice.connect(bob.user_id()).await.unwrap();
    for device in [&bob, &laptop] {
        is_asked(device).await;
    }
    let a = world.provider("a.example");
    assert_eq!(members(a, &group).await.len(), 3);
    bob.decline(alice.user_id()).await.unwrap();
    // What she sends next is for nobody: her provider removes those who are not there.
    alice.send(&group, "is anybody there?").await.unwrap();
    until("they are removed", async || {
        alice.receive(Duration::from_millis(50)).await.unwrap();
        let _ = alice.update(&group).await;
        members(a, &group).await == [alice.client_id().clone()]
    })
    .await;
    for device in [&bob, &laptop] {
        device.receive(Duration::ZERO).await.unwrap();
        assert_eq!(states(device).await, []);
        assert!(device.members(&group).await.is_err());
    }
    let b = world.provider("b.example");
    let consents = b.node().consents(bob.user_id(), alice.user_id()).await;
    assert!(!consents.unwrap());
    world.end().await;
}

#[tokio::test]
async fn both_ask_at_once() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (alice, bob) = two(&world).await;
    let asked = tokio::join!(alice.connect(bob.user_id()), bob.connect(alice.user_id()));
    asked.0.unwrap();
    asked.1.unwrap();
    until("they are connected", async || {
        for client in [&alice, &bob] {
            client.receive(Duration::from_millis(50)).await.unwrap();
        }
        let connected = [ConnectionState::Connected];
        states(&alice).await == connected && states(&bob).await == connected
    })
    .await;
    let groups = |client: &Client| {
        let client = client.clone();
        async move { client.connections().await.unwrap().pop().unwrap().group }
    };
    let group = groups(&alice).await.unwrap();
    assert_eq!(groups(&bob).await.unwrap(), group);
    assert_eq!(alice.owner(&group).await.unwrap().as_str(), "a.example");
    let (her, his) = (alice.user_id(), bob.user_id());
    let a = world.provider("a.example").node();
    let b = world.provider("b.example").node();
    assert!(a.consents(her, his).await.unwrap() && b.consents(his, her).await.unwrap());
    alice.send(&group, "one group").await.unwrap();
    hear_until(&bob, "one group").await;
    world.end().await;
}

/// Bob's phone asks, and takes up what Alice has asked meanwhile; his tablet follows.
#[tokio::test]
async fn both_ask_at_once_and_one_has_another_device() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (alice, bob) = two(&world).await;
    let tablet = world.device(&bob, "tablet").await;
    let asked = tokio::join!(alice.connect(bob.user_id()), bob.connect(alice.user_id()));
    asked.0.unwrap();
    asked.1.unwrap();
    let all = [&alice, &bob, &tablet];
    until("all are connected", async || {
        let mut connected = true;
        for client in all {
            client.receive(Duration::from_millis(50)).await.unwrap();
            connected &= states(client).await == [ConnectionState::Connected];
        }
        connected
    })
    .await;
    let group = alice.connections().await.unwrap().pop().unwrap().group;
    let group = group.unwrap();
    alice.send(&group, "to both of you").await.unwrap();
    for client in [&bob, &tablet] {
        hear_until(client, "to both of you").await;
    }
    world.end().await;
}

/// What Alice, and her provider, see of Bob is what they see of somebody who does not answer.
#[tokio::test]
async fn who_is_blocked_waits_for_ever() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (alice, bob) = two(&world).await;
    let silent = world.user("ben@b.example").await;
    let late = world.user("bea@b.example").await;
    // Before it comes to it, KeyPackages are not handed out: he does not exist.
    bob.block_user(alice.user_id()).await.unwrap();
    let nobody = "mimi://b.example/u/nobody".parse().unwrap();
    let asked = [
        alice.connect(bob.user_id()).await.unwrap_err(),
        alice.connect(&nobody).await.unwrap_err(),
    ];
    assert!(asked.iter().all(|e| matches!(e, Error::NoSuchUser(_))));
    // And after she has asked.
    let mut groups = Vec::new();
    for client in [&silent, &late] {
        groups.push(alice.connect(client.user_id()).await.unwrap());
        is_asked(client).await;
    }
    late.block_provider(&alice.user_id().provider())
        .await
        .unwrap();
    let a = world.provider("a.example");
    for group in &groups {
        for _ in 0..3 {
            alice.send(group, "hello?").await.unwrap();
            alice.update(group).await.unwrap();
        }
    }
    until("everything is delivered", async || {
        a.waiting_for("b.example").await.is_empty()
    })
    .await;
    for group in &groups {
        assert_eq!(members(a, group).await.len(), 2);
        assert_eq!(alice.epoch(group).await.unwrap(), 4);
    }
    let sent = [ConnectionState::Sent, ConnectionState::Sent];
    assert_eq!(states(&alice).await, sent);
    late.receive(Duration::ZERO).await.unwrap();
    assert_eq!(states(&late).await, []);
    assert!(late.members(&groups[1]).await.is_err());
    world.end().await;
}

/// Somebody who is asked too much holds up nobody else at their provider.
#[tokio::test]
async fn a_request_that_has_to_wait() {
    let limits = Limits {
        max_pending_connection_requests: 0,
        ..Limits::default()
    };
    let world = World::with_limits(&["a.example", "b.example"], limits).await;
    let (alice, bob) = two(&world).await;
    let ben = world.user("ben@b.example").await;
    let asked = alice.connect(bob.user_id()).await.unwrap();
    alice.send(&asked, "later").await.unwrap();
    let wire = &world.provider("a.example").wire;
    let tried = || wire.asked("b.example", Endpoint::ConnectionRequest);
    until("it was tried", async || tried() > 0).await;
    let group = world.group(&alice, &[&ben]).await;
    alice.send(&group, "at once").await.unwrap();
    hear_until(&ben, "at once").await;
    // What waits is in order, and is tried again.
    let waiting = world.provider("a.example").waiting_for("b.example").await;
    let groups: Vec<_> = waiting
        .iter()
        .map(|row| &row.delivery().unwrap().group_id)
        .collect();
    assert_eq!(groups, [&asked, &asked]);
    assert_eq!(states(&bob).await, []);
    world.end().await;
}

/// Bob's phone is gone while one owner cannot be reached, and his own provider starts again.
#[tokio::test]
async fn owners_hear_of_a_lost_device() {
    let mut world = World::of(&["a.example", "b.example", "c.example"]).await;
    let alice = world.user("alice@a.example").await;
    let carol = world.user("carol@c.example").await;
    let bob = world.user("bob@b.example").await;
    let laptop = world.device(&bob, "laptop").await;
    let hers = world.group(&alice, &[&bob]).await;
    let carols = world.group(&carol, &[&bob]).await;
    for device in [&bob, &laptop] {
        until("the device is in both", async || {
            device.receive(Duration::from_millis(50)).await.unwrap();
            device.epoch(&hers).await.is_ok() && device.epoch(&carols).await.is_ok()
        })
        .await;
    }
    world.provider_mut("a.example").unplug().await;
    laptop.delete_device(bob.client_id()).await.unwrap();
    let b = world.provider_mut("b.example");
    b.stop().await;
    b.start().await;
    // One owner hears of it, the other one later.
    let phone = bob.client_id();
    let is_gone = async |world: &World, by: &Client, owner: &str, group: &GroupId| {
        by.receive(Duration::from_millis(50)).await.unwrap();
        let _ = by.update(group).await;
        let members = members(world.provider(owner), group).await;
        !members.contains(phone)
    };
    until("Carol's group is without it", async || {
        is_gone(&world, &carol, "c.example", &carols).await
    })
    .await;
    let still = members(world.provider("a.example"), &hers).await;
    assert!(still.contains(phone));
    world.provider_mut("a.example").plug_in().await;
    until("Alice's group is without it", async || {
        is_gone(&world, &alice, "a.example", &hers).await
    })
    .await;
    until("nothing waits any more", async || {
        let store = world.provider("b.example").store();
        store.outbox_lanes().await.unwrap().is_empty()
    })
    .await;
    // The laptop is still there.
    alice.send(&hers, "to the laptop").await.unwrap();
    hear_until(&laptop, "to the laptop").await;
    carol.send(&carols, "here too").await.unwrap();
    hear_until(&laptop, "here too").await;
    // The phone is nobody any more.
    assert!(bob.receive(Duration::ZERO).await.is_err());
    world.end().await;
}
