//! Providers that end and start again, with what is on their disk.

use moh_client::Error;

use crate::listen::{agree, hear_some, hear_until, hears_nothing, joined, say, texts};
use crate::world::World;

#[tokio::test]
async fn the_owner_and_then_the_other() {
    let mut world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let group = world.group(&alice, &[&bob]).await;
    world.provider_mut("a.example").stop().await;
    world.provider_mut("a.example").start().await;
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    say(&group, &alice, &[&bob], "the owner was away").await;
    bob.update(&group).await.unwrap();
    hear_some(&alice, 1).await;
    world.provider_mut("b.example").stop().await;
    world.provider_mut("b.example").start().await;
    say(&group, &alice, &[&bob], "the other was away").await;
    say(&group, &bob, &[&alice], "and is back").await;
    assert_eq!(agree(&group, &[&alice, &bob]).await, 2);
    world.end().await;
}

#[tokio::test]
async fn what_waited_when_the_owner_ended_is_delivered_after_its_start() {
    let mut world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let group = world.group(&alice, &[&bob]).await;
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    world.provider_mut("b.example").stop().await;
    for text in ["one", "two"] {
        alice.send(&group, text).await.unwrap();
    }
    world.provider_mut("a.example").stop().await;
    let refused = alice.send(&group, "nobody is there").await.unwrap_err();
    assert!(matches!(refused, Error::Unsettled { .. }), "{refused}");
    world.provider_mut("a.example").start().await;
    alice.send(&group, "three").await.unwrap();
    world.provider_mut("b.example").start().await;
    let heard = hear_until(&bob, "three").await;
    let heard: Vec<_> = texts(&heard).into_iter().map(|(_, text)| text).collect();
    // What was not settled is stored, and goes out before the next.
    assert_eq!(heard, ["one", "two", "nobody is there", "three"]);
    hears_nothing(&bob).await;
    world.end().await;
}
