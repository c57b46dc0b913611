//! Devices and accounts that end, while they are in groups of another provider.

use std::time::Duration;

use moh_client::{Client, Error, Event, GroupId};
use moh_messages::DsErrorCode;
use moh_server::Limits;
use moh_server::clock::{HOUR_MS, MINUTE_MS};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::listen::{agree, hear_some, hear_until, joined, texts, until};
use crate::world::{PATIENCE, World};

/// Alice at the owner of a group, and Bob with two devices at another provider.
async fn three(world: &World) -> (GroupId, Client, Client, Client) {
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let laptop = world.device(&bob, "laptop").await;
    let group = world.group(&alice, &[&bob]).await;
    for device in [&bob, &laptop] {
        assert!(joined(&hear_some(device, 1).await[0], &group, 1));
    }
    (group, alice, bob, laptop)
}

/// Alice commits until these alone are members.
async fn until_members(group: &GroupId, alice: &Client, expected: &[&Client]) {
    until("those who are gone are removed", async || {
        alice.receive(Duration::ZERO).await.unwrap();
        alice.update(group).await.unwrap();
        alice.members(group).await.unwrap().len() == expected.len()
    })
    .await;
    let members = alice.members(group).await.unwrap();
    for client in expected {
        assert!(members.contains(client.client_id()));
    }
}

fn is_unauthenticated<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Refused { error, .. }) if error.code == DsErrorCode::UNAUTHENTICATED)
}

#[tokio::test]
async fn a_device_that_is_deleted_is_removed_and_hears_nothing_more() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (group, alice, bob, laptop) = three(&world).await;
    let mut events = laptop.events();
    alice.send(&group, "over the WebSocket").await.unwrap();
    let heard = timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    assert_eq!(texts(&[heard])[0].1, "over the WebSocket");
    bob.delete_device(laptop.client_id()).await.unwrap();
    // The connection that there is ends, and there is no other.
    let ended = timeout(PATIENCE, async {
        loop {
            if let Err(error) = events.next().await {
                break error;
            }
        }
    });
    let ended: Result<Event, _> = Err(ended.await.unwrap());
    assert!(is_unauthenticated(&ended), "{ended:?}");
    assert!(is_unauthenticated(&laptop.receive(Duration::ZERO).await));
    assert!(is_unauthenticated(
        &laptop.set_consent(alice.user_id(), true).await
    ));
    until_members(&group, &alice, &[&alice, &bob]).await;
    alice.send(&group, "just us").await.unwrap();
    let heard = hear_until(&bob, "just us").await;
    assert!(heard.iter().any(
        |event| matches!(event, Event::MembersChanged { removed, .. } if removed == &[laptop.client_id().clone()])
    ));
    agree(&group, &[&alice, &bob]).await;
    world.end().await;
}

/// That somebody is gone is said, however long it takes until it is heard, and also by a provider
/// that has been started anew since.
#[tokio::test]
async fn the_owner_of_a_group_is_away_while_an_account_ends() {
    let clock = Clock::start(HOUR_MS);
    let names = ["a.example", "b.example"];
    let mut world = World::with_clock(&names, Limits::default(), clock.clone()).await;
    let (group, alice, bob, laptop) = three(&world).await;
    let ben = world.user("ben@b.example").await;
    ben.set_consent(alice.user_id(), true).await.unwrap();
    alice.add_user(&group, ben.user_id()).await.unwrap();
    for device in [&bob, &laptop, &ben] {
        hear_some(device, 1).await;
    }
    world.provider_mut("a.example").unplug().await;
    laptop.delete_account().await.unwrap();
    assert!(is_unauthenticated(&bob.receive(Duration::ZERO).await));
    world.provider_mut("b.example").stop().await;
    world.provider_mut("b.example").start().await;
    world.provider_mut("a.example").plug_in().await;
    // The owner removes those that it hears of first, and the rest a minute later.
    until("some are removed", async || {
        alice.receive(Duration::ZERO).await.unwrap();
        alice.update(&group).await.unwrap();
        alice.members(&group).await.unwrap().len() < 4
    })
    .await;
    clock.pass(MINUTE_MS);
    world.provider_mut("a.example").stop().await;
    world.provider_mut("a.example").start().await;
    until_members(&group, &alice, &[&alice, &ben]).await;
    alice.send(&group, "two are left").await.unwrap();
    hear_until(&ben, "two are left").await;
    ben.send(&group, "so we are").await.unwrap();
    hear_until(&alice, "so we are").await;
    agree(&group, &[&alice, &ben]).await;
    world.end().await;
}
