//! Deliveries to another provider, when something goes wrong on the way.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use moh_client::{Client, Event, GroupId};
use moh_messages::{Audience, Delivery};
use tokio::time::{Instant, timeout};

use crate::listen::{hear_some, hear_until, hears_nothing, joined, queue, say, texts, until};
use crate::world::{PATIENCE, World};

/// What comes at once comes within this, on a slow machine.
const PROMPTLY: Duration = Duration::from_secs(15);

/// Alice of a.example and Bob of b.example, who has joined her group.
async fn pair(world: &World) -> (GroupId, Client, Client) {
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let group = world.group(&alice, &[&bob]).await;
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    (group, alice, bob)
}

async fn send(group: &GroupId, from: &Client, texts: &[&str]) {
    for text in texts {
        from.send(group, *text).await.unwrap();
    }
}

/// The client hears exactly these, in this order.
async fn hears(client: &Client, expected: &[&str]) {
    let heard = hear_until(client, expected.last().unwrap()).await;
    let heard: Vec<_> = texts(&heard).into_iter().map(|(_, text)| text).collect();
    assert_eq!(heard, expected);
    hears_nothing(client).await;
}

fn ids(deliveries: &[Delivery]) -> (usize, usize) {
    let ids: BTreeSet<_> = deliveries
        .iter()
        .map(|d| d.delivery_id.as_slice())
        .collect();
    (deliveries.len(), ids.len())
}

#[tokio::test]
async fn lost_answers() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (group, alice, bob) = pair(&world).await;
    let wire = &world.provider("a.example").wire;
    for round in 0..3 {
        wire.lose_answers.store(2, Ordering::SeqCst);
        let texts = ["one", "two", "three", "four"].map(|text| format!("{text} {round}"));
        let texts = texts.each_ref().map(String::as_str);
        send(&group, &alice, &texts).await;
        hears(&bob, &texts).await;
    }
    let (attempts, different) = ids(&wire.deliveries("b.example"));
    assert!(attempts >= different + 6, "{attempts} of {different}");
    assert_eq!(queue(world.provider("b.example"), &bob).await.len(), 13);
    world.end().await;
}

#[tokio::test]
async fn deliveries_that_come_twice() {
    let world = World::of(&["a.example", "b.example"]).await;
    let wire = &world.provider("a.example").wire;
    wire.twice.store(true, Ordering::SeqCst);
    let (group, alice, bob) = pair(&world).await;
    let texts = ["one", "two", "three", "four", "five"];
    send(&group, &alice, &texts).await;
    hears(&bob, &texts).await;
    alice.update(&group).await.unwrap();
    hear_some(&bob, 1).await;
    say(&group, &bob, &[&alice], "each once").await;
    assert_eq!(queue(world.provider("b.example"), &bob).await.len(), 7);
    world.end().await;
}

#[tokio::test]
async fn a_provider_that_is_away_for_a_while() {
    let mut world = World::of(&["a.example", "b.example"]).await;
    let (group, alice, bob) = pair(&world).await;
    world.provider_mut("b.example").unplug().await;
    let before = queue(world.provider("b.example"), &bob).await.len();
    let texts = ["one", "two", "three"];
    send(&group, &alice, &texts).await;
    alice.update(&group).await.unwrap();
    send(&group, &alice, &["after the update"]).await;
    let waiting = async || {
        let a = world.provider("a.example");
        a.waiting_for("b.example").await.len()
    };
    assert_eq!(waiting().await, 5);
    let requests = || world.provider("a.example").wire.requests("b.example");
    let attempted = requests();
    until("it was tried in vain", async || requests() > attempted).await;
    assert_eq!(waiting().await, 5);
    assert_eq!(queue(world.provider("b.example"), &bob).await.len(), before);
    world.provider_mut("b.example").plug_in().await;
    hears(&bob, &["one", "two", "three", "after the update"]).await;
    assert_eq!(
        queue(world.provider("b.example"), &bob).await.len(),
        before + 5
    );
    until("the outbox is empty", async || {
        let a = world.provider("a.example");
        a.waiting_for("b.example").await.is_empty()
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn an_audience_that_the_other_side_has_forgotten() {
    let mut world = World::of(&["a.example", "b.example"]).await;
    let (group, alice, bob) = pair(&world).await;
    say(&group, &alice, &[&bob], "in full").await;
    say(&group, &alice, &[&bob], "by its name").await;
    let b = world.provider_mut("b.example");
    b.stop().await;
    let forgotten = rusqlite::Connection::open(b.path()).unwrap().execute_batch(
        "DELETE FROM audiences; DELETE FROM audience_lists; DELETE FROM audience_members;
         DELETE FROM messages;",
    );
    forgotten.unwrap();
    b.start().await;
    let before = world
        .provider("a.example")
        .wire
        .deliveries("b.example")
        .len();
    say(&group, &alice, &[&bob], "by its name, and then in full").await;
    say(&group, &alice, &[&bob], "by its name again").await;
    let since = &world.provider("a.example").wire.deliveries("b.example")[before..];
    let full: Vec<_> = since
        .iter()
        .map(|delivery| matches!(delivery.audience, Audience::Full { .. }))
        .collect();
    let place = full.iter().position(|full| *full).unwrap();
    assert!(place > 0, "the name was tried first: {full:?}");
    assert_eq!(since[place - 1].delivery_id, since[place].delivery_id);
    assert_eq!(full.last(), Some(&false), "{full:?}");
    world.end().await;
}

#[tokio::test]
async fn batches_that_are_too_large_are_halved() {
    let mut world = World::of(&["a.example", "b.example"]).await;
    let (group, alice, bob) = pair(&world).await;
    world.provider_mut("b.example").unplug().await;
    let texts: Vec<_> = (0..9).map(|number| number.to_string()).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    send(&group, &alice, &texts).await;
    let wire = &world.provider("a.example").wire;
    wire.max_batch.store(2, Ordering::SeqCst);
    let before = wire.batches("b.example").len();
    world.provider_mut("b.example").plug_in().await;
    hears(&bob, &texts).await;
    let batches = world.provider("a.example").wire.batches("b.example");
    let sizes: Vec<_> = batches[before..]
        .iter()
        .map(|b| b.deliveries.len())
        .collect();
    // They grow until one is refused.
    assert!(sizes.windows(2).any(|pair| pair == [4, 2]), "{sizes:?}");
    world.end().await;
}

#[tokio::test]
async fn a_provider_that_knows_no_audience_is_not_asked_all_the_time() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (group, alice, bob) = pair(&world).await;
    let wire = &world.provider("a.example").wire;
    wire.no_audience.store(true, Ordering::SeqCst);
    let before = wire.batches("b.example").len();
    alice.send(&group, "not taken yet").await.unwrap();
    let tried = || wire.batches("b.example").len() - before;
    until("it was tried three times", async || tried() >= 3).await;
    // Backing off, there are only a few attempts in a second.
    assert!(
        bob.receive(Duration::from_secs(1))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(tried() < 12, "{} times", tried());
    wire.no_audience.store(false, Ordering::SeqCst);
    hears(&bob, &["not taken yet"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_provider_that_does_not_answer_holds_up_nobody_else() {
    let world = World::of(&["a.example", "b.example", "c.example"]).await;
    let (group, alice, bob) = pair(&world).await;
    let carol = world.user("carol@c.example").await;
    carol.set_consent(alice.user_id(), true).await.unwrap();
    alice.add_user(&group, carol.user_id()).await.unwrap();
    assert!(joined(&hear_some(&carol, 1).await[0], &group, 2));
    hear_some(&bob, 1).await;
    world.provider("a.example").wire.silence("c.example");
    let began = Instant::now();
    let texts = ["one", "two", "three", "four", "five"];
    send(&group, &alice, &texts).await;
    hears(&bob, &texts).await;
    alice.update(&group).await.unwrap();
    hear_some(&bob, 1).await;
    say(&group, &bob, &[&alice], "still here").await;
    assert!(began.elapsed() < PROMPTLY, "{:?}", began.elapsed());
    let a = world.provider("a.example");
    assert_eq!(a.waiting_for("c.example").await.len(), 7);
    // Nor does it keep the owner from ending.
    timeout(PROMPTLY, world.end()).await.unwrap();
}

/// What waits for a client comes as soon as it is there.
#[tokio::test]
async fn who_waits_is_woken() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (group, alice, bob) = pair(&world).await;
    let nothing = Duration::from_millis(300);
    for text in ["by long poll", "by long poll again"] {
        let mut waits = Box::pin(bob.receive(PATIENCE));
        assert!(timeout(nothing, &mut waits).await.is_err(), "nothing yet");
        alice.send(&group, text).await.unwrap();
        let heard = timeout(PROMPTLY, waits).await.expect("promptly").unwrap();
        assert_eq!(texts(&heard)[0].1, text);
    }
    let mut events = bob.events();
    for text in ["over the WebSocket", "over the WebSocket again"] {
        let mut waits = Box::pin(events.next());
        assert!(timeout(nothing, &mut waits).await.is_err(), "nothing yet");
        alice.send(&group, text).await.unwrap();
        let heard = timeout(PROMPTLY, waits).await.expect("promptly").unwrap();
        assert_eq!(texts(&[heard])[0].1, text);
    }
    // At the sender's own provider too.
    let mut waits = Box::pin(alice.receive(PATIENCE));
    assert!(timeout(nothing, &mut waits).await.is_err(), "nothing yet");
    bob.update(&group).await.unwrap();
    let heard = timeout(PROMPTLY, waits).await.expect("promptly").unwrap();
    assert!(matches!(heard[0], Event::Updated { .. }));
    drop(events);
    world.end().await;
}
