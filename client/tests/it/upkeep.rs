//! What a client does of its own accord.

use moh_client::{Event, GroupId};

use crate::connections::has_asked;
use crate::fake::Mishap;
use crate::scene::{Party, Scene, add, received};

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
