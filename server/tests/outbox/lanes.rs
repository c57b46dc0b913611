//! Lanes, batches and audiences, while all is well.

use std::time::Duration;

use moh_server::change::OUTBOX_LANES;

use crate::peer::{Mood, rate_limited};
use crate::world::{SOON, World, groups_in, pass};

const B: &str = "b.example";

#[tokio::test(start_paused = true)]
async fn a_group_that_has_to_wait_holds_up_no_other_and_keeps_its_order() {
    let world = World::new().await;
    let [g, h] = &groups_in(0, 2)[..] else {
        unreachable!()
    };
    world.peers.answer(B, "g", Some(rate_limited()));
    world.put(B, g, &["g1", "g2"]).await;
    world.put(B, h, &["h1", "h2"]).await;
    world.put(B, g, &["g3"]).await;
    pass(SOON).await;
    assert_eq!(world.peers.taken(B), ["h1", "h2"]);
    world.peers.answer(B, "g", None);
    world.empties(B, Duration::from_secs(600)).await;
    assert_eq!(world.peers.taken(B), ["h1", "h2", "g1", "g2", "g3"]);
}

#[tokio::test(start_paused = true)]
async fn lanes_do_not_wait_for_each_other() {
    let world = World::new().await;
    let groups: Vec<_> = (0..OUTBOX_LANES).flat_map(|l| groups_in(l, 1)).collect();
    world.peers.fail_on(B, "stuck", Some(Mood::Silent));
    world.put(B, &groups[0], &["stuck"]).await;
    for group in &groups[1..] {
        world.put(B, group, &["one", "two"]).await;
    }
    pass(Duration::from_secs(1)).await;
    assert_eq!(world.peers.taken(B).len(), 6);
    assert_eq!(world.waiting(B).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn batches_grow_with_every_success() {
    let world = World::new().await;
    let texts: Vec<_> = (0..1000).map(|number| format!("{number:04}")).collect();
    let all: Vec<_> = texts.iter().map(String::as_str).collect();
    world.put(B, &groups_in(1, 1)[0], &all).await;
    world.empties(B, SOON).await;
    let sizes: Vec<_> = world
        .peers
        .batches(B)
        .iter()
        .map(|b| b.texts.len())
        .collect();
    assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 233]);
    assert_eq!(world.peers.taken(B), texts);
}

#[tokio::test(start_paused = true)]
async fn an_audience_is_said_in_full_once_and_again_when_it_is_forgotten() {
    let world = World::new().await;
    let group = &groups_in(2, 1)[0];
    for text in ["one", "two", "three"] {
        world.put(B, group, &[text]).await;
        world.empties(B, SOON).await;
    }
    world.peers.forget_audiences(B);
    world.put(B, group, &["four", "five"]).await;
    world.empties(B, SOON).await;
    let batches = world.peers.batches(B);
    let sent = batches.iter().flat_map(|b| b.texts.iter().zip(&b.in_full));
    let sent: Vec<_> = sent.map(|(text, full)| (text.as_str(), *full)).collect();
    let expected = [
        ("one", true),
        ("two", false),
        ("three", false),
        ("four", false),
        ("five", false),
        ("four", true),
        ("five", false),
    ];
    assert_eq!(sent, expected);
    assert_eq!(
        world.peers.taken(B),
        ["one", "two", "three", "four", "five"]
    );
}

/// An idle lane ends; what comes afterwards, however soon, is delivered.
#[tokio::test(start_paused = true)]
async fn an_idle_lane_ends_and_begins_again() {
    let world = World::new().await;
    let group = &groups_in(3, 1)[0];
    world.put(B, group, &["one"]).await;
    world.empties(B, SOON).await;
    pass(Duration::from_secs(5 * 60)).await;
    world.put(B, group, &["and"]).await;
    world.empties(B, SOON).await;
    pass(Duration::from_secs(9 * 60)).await;
    assert!(world.status(B).await.is_some());
    pass(Duration::from_secs(2 * 60)).await;
    assert_eq!(world.status(B).await, None, "nothing is remembered");
    // Around the moment at which it ends again.
    world.put(B, group, &["two"]).await;
    world.empties(B, SOON).await;
    pass(Duration::from_millis(10 * 60 * 1000 - 5_100)).await;
    let mut expected = ["one", "and", "two"].map(str::to_owned).to_vec();
    for number in 0..200 {
        let text = format!("text {number}");
        pass(Duration::from_millis(10 * 60 * 1000 - 3)).await;
        world.put(B, group, &[&text]).await;
        pass(Duration::from_millis(number % 5)).await;
        world.empties(B, SOON).await;
        expected.push(text);
    }
    assert_eq!(world.peers.taken(B), expected);
}
