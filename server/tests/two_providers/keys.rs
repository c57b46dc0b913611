//! Keys that change while messages flow.

use std::sync::Arc;

use moh_messages::{
    DsErrorCode, DsResponse, DsResponseBody, Endpoint, KeyPackageResponse, Message,
};
use moh_server::Limits;
use moh_server::clock::{DAY_MS, HOUR_MS, MINUTE_MS};

use crate::claims::for_group;
use crate::clock::Clock;
use crate::listen::{agree, hear_some, joined, say};
use crate::world::{World, user_id};

async fn world(clock: &Arc<Clock>) -> World {
    let clock: Arc<Clock> = Arc::clone(clock);
    World::with_clock(&["a.example", "b.example"], Limits::default(), clock).await
}

/// Keys that a provider is told to use from now on; it starts again.
async fn rotate(world: &mut World, provider: &str, at: u64) {
    let provider = world.provider_mut(provider);
    provider.stop().await;
    provider.rotate_keys(at);
    provider.start().await;
}

/// How many keys a provider publishes, and which of them signs.
fn keys_of(world: &World, provider: &str) -> (usize, usize) {
    let provider = world.provider(provider);
    let (keys, now) = (provider.keys(), provider.environment().now_ms());
    let published = keys.verification_keys(now);
    let client = "mimi://a.example/d/alice/phone".parse().unwrap();
    let scheme = moh_messages::SignatureScheme::ED25519;
    let attestation = keys.attest(&client, scheme, &published[0].public_key, now);
    let mut places = published.iter();
    let signs = places.position(|key| key.key_id == attestation.key_id);
    (published.len(), signs.unwrap())
}

/// Both providers change their keys. Before, in between and after it, messages and commits go
/// both ways, and clients are added with attestations of before and after.
#[tokio::test]
async fn messages_flow_before_during_and_after_a_change() {
    let clock = Clock::start(3 * DAY_MS);
    let mut world = world(&clock).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    // Their KeyPackages have attestations by the old keys.
    let [ben, bea] = [
        world.user("ben@b.example").await,
        world.user("bea@b.example").await,
    ];
    let group = world.group(&alice, &[&bob]).await;
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    say(&group, &alice, &[&bob], "before").await;
    for provider in ["a.example", "b.example"] {
        rotate(&mut world, provider, clock.now()).await;
        assert_eq!(keys_of(&world, provider), (2, 0));
    }
    let mut epoch = 1;
    // In the overlap, the old keys sign up to the end, and then the new ones.
    for (pass, signs) in [
        (0, 0),
        (25 * HOUR_MS - 1, 0),
        (1, 1),
        (MINUTE_MS, 1),
        (DAY_MS, 1),
    ] {
        clock.pass(pass);
        for provider in ["a.example", "b.example"] {
            assert_eq!(keys_of(&world, provider), (2, signs));
        }
        say(&group, &alice, &[&bob], "there").await;
        say(&group, &bob, &[&alice], "and back").await;
        bob.update(&group).await.unwrap();
        hear_some(&alice, 1).await;
        alice.update(&group).await.unwrap();
        hear_some(&bob, 1).await;
        epoch += 2;
        assert_eq!(agree(&group, &[&alice, &bob]).await, epoch);
    }
    // Attestations by the old key, by a user of before, and by the new key.
    let zoe = world.user("zoe@b.example").await;
    let mut members = vec![&alice, &bob];
    for new in [&ben, &bea, &zoe] {
        new.set_consent(alice.user_id(), true).await.unwrap();
        alice.add_user(&group, new.user_id()).await.unwrap();
        epoch += 1;
        for member in &members[1..] {
            hear_some(member, 1).await;
        }
        assert!(joined(&hear_some(new, 1).await[0], &group, epoch));
        members.push(new);
        say(&group, new, &members[..members.len() - 1], "hello").await;
    }
    assert_eq!(agree(&group, &members).await, epoch);
    world.end().await;
}

/// A key that signs before others have heard of it: they ask, once, however much comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_knows_older_keys_asks_once() {
    let clock = Clock::start(DAY_MS);
    let mut world = world(&clock).await;
    let bob = world.user("bob@b.example").await;
    let alice = user_id("alice@a.example");
    bob.set_consent(&alice, true).await.unwrap();
    let ask = |world: &World| {
        let body = for_group(world.provider("a.example"), &alice, bob.user_id());
        let node = world.provider("b.example").node().clone();
        tokio::spawn(async move { node.answer(Endpoint::GroupKeyPackages, body.into()).await })
    };
    let asked = |world: &World| {
        let wire = &world.provider("b.example").wire;
        wire.asked("a.example", Endpoint::VerificationKey)
    };
    for _ in 0..3 {
        assert_eq!(ask(&world).await.unwrap().status, 200);
    }
    assert_eq!(asked(&world), 1, "they are kept");
    // Made a day and an hour ago, as it were, and not said to anybody.
    rotate(&mut world, "a.example", clock.now() - 25 * HOUR_MS).await;
    assert_eq!(keys_of(&world, "a.example"), (2, 1));
    clock.pass(MINUTE_MS);
    let all: Vec<_> = (0..32).map(|_| ask(&world)).collect();
    for answer in all {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(asked(&world), 2);
    world.end().await;
}

/// While a provider cannot be asked for its keys, what a new one of them signs has to wait; it is
/// not refused for good.
#[tokio::test]
async fn a_key_that_cannot_be_asked_for_is_unavailable() {
    let clock = Clock::start(DAY_MS);
    let mut world = world(&clock).await;
    let bob = world.user("bob@b.example").await;
    let alice = user_id("alice@a.example");
    bob.set_consent(&alice, true).await.unwrap();
    let ask = async |world: &World| {
        let body = for_group(world.provider("a.example"), &alice, bob.user_id());
        let node = world.provider("b.example").node();
        let answer = node.answer(Endpoint::GroupKeyPackages, body.into()).await;
        match DsResponse::decode(&answer.body).map(|response| response.body) {
            Ok(DsResponseBody::Error(error)) => {
                let later = answer.retry_after_seconds;
                let is_later = later.is_some_and(|later| (1..=10).contains(&later));
                assert_eq!(is_later, error.code == DsErrorCode::UNAVAILABLE);
                Err(error.code)
            }
            _ => Ok(KeyPackageResponse::decode(&answer.body).unwrap()),
        }
    };
    assert!(ask(&world).await.is_ok());
    rotate(&mut world, "a.example", clock.now() - 25 * HOUR_MS).await;
    world.provider_mut("a.example").unplug().await;
    for _ in 0..2 {
        clock.pass(MINUTE_MS);
        assert_eq!(ask(&world).await, Err(DsErrorCode::UNAVAILABLE));
    }
    world.provider_mut("a.example").plug_in().await;
    clock.pass(MINUTE_MS);
    assert!(ask(&world).await.is_ok());
    // A key that its provider does not say is none of its keys.
    clock.pass(MINUTE_MS);
    world
        .provider_mut("a.example")
        .rotate_keys(clock.now() - 25 * HOUR_MS);
    assert_eq!(ask(&world).await, Err(DsErrorCode::UNAUTHENTICATED));
    world.end().await;
}
