//! Destinations that do not answer, or not as they should.

use std::time::Duration;

use moh_server::outbox::PeerState;
use tokio::time::Instant;

use crate::peer::{Mood, refused};
use crate::world::{SOON, World, groups_in, pass};

const B: &str = "b.example";
const C: &str = "c.example";
const D: &str = "d.example";

/// One group in each lane.
fn one_in_each_lane() -> Vec<String> {
    (0..4).flat_map(|lane| groups_in(lane, 1)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_lane_at_a_time_tries_with_one_delivery() {
    let world = World::new().await;
    let groups = one_in_each_lane();
    // However much was sent at once before.
    for group in &groups {
        world.put(B, group, &["x"; 20]).await;
    }
    world.empties(B, SOON).await;
    world.peers.are(B, Mood::Away);
    for group in &groups {
        world.put(B, group, &["one", "two", "three", "four"]).await;
    }
    pass(SOON).await;
    world.peers.forget_batches(B);
    let began = Instant::now();
    pass(Duration::from_secs(24 * 3600)).await;
    let batches = world.peers.batches(B);
    assert_eq!(world.peers.most_at_once(B), 1);
    assert!(batches.iter().all(|batch| batch.texts.len() == 1));
    // A random wait of up to 5 minutes in between: some 576 in a day.
    assert!((450..720).contains(&batches.len()), "{}", batches.len());
    let mut before = began;
    for batch in &batches {
        let longest = Duration::from_secs(5 * 60 + 1);
        assert!(batch.at - before < longest, "{:?}", batch.at - before);
        before = batch.at;
    }
    // It comes back: the first is alone, and then all go at once.
    world.peers.forget_batches(B);
    world.peers.are(B, Mood::Well);
    world.empties(B, Duration::from_secs(5 * 60 + 1)).await;
    let batches = world.peers.batches(B);
    assert_eq!(batches[0].texts.len(), 1);
    assert!(batches[1].at > batches[0].at);
    assert_eq!(world.peers.most_at_once(B), 4);
    assert_eq!(world.peers.taken(B).len(), 80 + 16);
    assert!(batches.last().unwrap().at - batches[0].at < SOON);
}

/// What was under way to it at the same time has failed once, and not four times.
#[tokio::test(start_paused = true)]
async fn what_fails_together_is_one_failure() {
    let world = World::new().await;
    world.peers.are(B, Mood::Away);
    for group in one_in_each_lane() {
        world.put_unseen(B, &group, &["one"]).await;
    }
    world.wake().await;
    while world.peers.batches(B).len() < 4 {
        pass(Duration::from_millis(1)).await;
    }
    pass(Duration::from_millis(2)).await;
    assert_eq!(world.peers.most_at_once(B), 4);
    let state = world.state(B).await;
    assert!(
        matches!(state, PeerState::Waiting { failures: 1, .. }),
        "{state:?}"
    );
}

/// Who has failed lets the others go first.
#[tokio::test(start_paused = true)]
async fn another_lane_tries_next() {
    let world = World::new().await;
    let groups = one_in_each_lane();
    world
        .peers
        .fail_on(B, "poison", Some(Mood::Status(500, None)));
    world.put(B, &groups[0], &["poison"]).await;
    while !matches!(world.state(B).await, PeerState::Waiting { .. }) {
        pass(Duration::from_millis(1)).await;
    }
    world.put(B, &groups[1], &["other"]).await;
    pass(SOON).await;
    let batches = world.peers.batches(B);
    assert_eq!(batches[1].texts, ["other"]);
}

/// A group that was suspected is not held back longer than anything else when the destination was
/// away after all.
#[tokio::test(start_paused = true)]
async fn what_was_suspected_comes_with_a_sign_of_life() {
    let world = World::new().await;
    let groups = one_in_each_lane();
    world.peers.fail_on(B, "suspect", Some(Mood::Away));
    world.put(B, &groups[0], &["suspect"]).await;
    for number in 0..5 {
        world
            .put(B, &groups[1], &[&format!("other {number}")])
            .await;
        pass(Duration::from_millis(300)).await;
    }
    world.peers.are(B, Mood::Away);
    pass(Duration::from_secs(3600)).await;
    world.peers.fail_on(B, "suspect", None);
    world.peers.are(B, Mood::Well);
    world.hears_of(B).await;
    world.empties(B, Duration::from_secs(1)).await;
}

/// The first failure is tried again soon, and it takes longer each time, on average.
#[tokio::test(start_paused = true)]
async fn waits_grow_from_a_quarter_of_a_second() {
    let world = World::new().await;
    world.peers.are(B, Mood::Status(500, None));
    let began = Instant::now();
    world.put(B, "g", &["one"]).await;
    pass(Duration::from_secs(3600)).await;
    let at: Vec<_> = world
        .peers
        .batches(B)
        .iter()
        .map(|b| b.at - began)
        .collect();
    let mut limit = Duration::from_millis(250);
    for pair in at.windows(2) {
        assert!(
            pair[1] - pair[0] <= limit + Duration::from_millis(5),
            "{at:?}"
        );
        limit = (limit * 2).min(Duration::from_secs(300));
    }
    // The limit of the wait after the n-th is 2^n quarters of a second.
    assert!((20..60).contains(&at.len()), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_cuts_a_wait_short() {
    let world = World::new().await;
    world.peers.are(B, Mood::Away);
    world.put(B, "g", &["one"]).await;
    pass(Duration::from_secs(3600)).await;
    world.peers.are(B, Mood::Well);
    world.hears_of(B).await;
    world.empties(B, Duration::from_millis(300)).await;
    let last_alive_at = world.status(B).await.unwrap().last_alive_at.unwrap();
    assert!(last_alive_at + 300 >= world.now_ms());
}

/// Who asks much and cannot be reached is tried in measure.
#[tokio::test(start_paused = true)]
async fn many_signs_of_life_lead_to_few_attempts() {
    let world = World::new().await;
    world.peers.are(B, Mood::Away);
    world.put(B, "g", &["one"]).await;
    pass(Duration::from_secs(3600)).await;
    world.peers.forget_batches(B);
    for _ in 0..1000 {
        world.hears_of(B).await;
        pass(Duration::from_millis(10)).await;
    }
    let attempts = world.peers.batches(B).len();
    assert!((20..=80).contains(&attempts), "{attempts} in 10 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_a_sign_of_life() {
    let mut world = World::new().await;
    world.peers.are(B, Mood::Away);
    world.put(B, "g", &["one"]).await;
    pass(Duration::from_secs(3600)).await;
    // And what was committed is sent, even if nobody was told of it any more.
    world.put_unseen(B, "h", &["two"]).await;
    world.peers.are(B, Mood::Well);
    world.restart().await;
    world.empties(B, Duration::from_millis(100)).await;
    assert_eq!(world.peers.taken(B).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_wants_to_be_left_alone_is() {
    let world = World::new().await;
    let groups = one_in_each_lane();
    world.peers.are(B, Mood::Status(503, Some(120)));
    world.put(B, &groups[0], &["one"]).await;
    pass(Duration::from_secs(1)).await;
    world.peers.are(B, Mood::Well);
    assert_eq!(world.peers.batches(B).len(), 1);
    for group in &groups {
        world.put(B, group, &["two"]).await;
    }
    world.hears_of(B).await;
    pass(Duration::from_secs(118)).await;
    assert_eq!(
        world.peers.batches(B).len(),
        1,
        "whatever else is heard of it"
    );
    let state = world.state(B).await;
    assert!(
        matches!(state, PeerState::Waiting { failures: 0, .. }),
        "{state:?}"
    );
    world.empties(B, SOON).await;
    assert_eq!(world.peers.taken(B).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_alone_for_more_than_an_hour() {
    let world = World::new().await;
    world.peers.are(B, Mood::Status(429, Some(u32::MAX)));
    world.put(B, "g", &["one"]).await;
    pass(Duration::from_secs(3599)).await;
    assert_eq!(world.peers.batches(B).len(), 1);
    pass(SOON).await;
    assert_eq!(world.peers.batches(B).len(), 2);
    // The operator has the last word.
    world.peers.are(B, Mood::Well);
    assert!(
        world
            .node
            .retry_peer_now(&B.parse().unwrap())
            .await
            .unwrap()
    );
    world.empties(B, Duration::from_millis(100)).await;
}

/// Whoever is slow, or never answers, delays nobody else.
#[tokio::test(start_paused = true)]
async fn a_slow_destination_delays_no_other() {
    let world = World::new().await;
    world.peers.are(B, Mood::Silent);
    world.peers.are(C, Mood::Away);
    let began = Instant::now();
    for number in 0..50 {
        let group = format!("group {number}");
        for peer in [B, C, D] {
            world.put(peer, &group, &["one", "two"]).await;
        }
    }
    world.empties(D, Duration::from_secs(1)).await;
    // To accept all of it took no time either.
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.peers.taken(D).len(), 100);
    assert!(world.peers.most_at_once(B) <= 4);
    // What has been given up on is tried again, one at a time.
    pass(Duration::from_secs(3600)).await;
    world.peers.are(B, Mood::Well);
    world.empties(B, Duration::from_secs(600)).await;
}

/// One delivery that makes every request with it fail holds up its group alone, wherever it is.
#[tokio::test(start_paused = true)]
async fn what_fails_alone_is_held_back() {
    for others_are_in in [0, 1] {
        let world = World::new().await;
        let poisoned = &groups_in(0, 1)[0];
        let other = &groups_in(others_are_in, 2)[1];
        world
            .peers
            .fail_on(B, "poison", Some(Mood::Status(500, None)));
        world.put(B, other, &["other 1"]).await;
        world.put(B, poisoned, &["before", "poison", "after"]).await;
        for number in 2..40 {
            world.put(B, other, &[&format!("other {number}")]).await;
        }
        pass(Duration::from_secs(60)).await;
        let taken = world.peers.taken(B);
        assert_eq!(taken.len(), 40, "{others_are_in}: {taken:?}");
        // From now on the others do not even notice.
        for number in 40..80 {
            world.put(B, other, &[&format!("other {number}")]).await;
            pass(Duration::from_millis(600)).await;
            assert_eq!(world.peers.taken(B).len(), number + 1, "{others_are_in}");
        }
        world.peers.fail_on(B, "poison", None);
        world.empties(B, Duration::from_secs(600)).await;
        let taken = world.peers.taken(B);
        assert_eq!(taken[taken.len() - 2..], ["poison", "after"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_good_is_set_aside() {
    let world = World::new().await;
    world.peers.answer(B, "bad", Some(refused()));
    world.put(B, "g", &["one", "bad", "two"]).await;
    world.empties(B, SOON).await;
    assert_eq!(world.peers.taken(B), ["one", "two"]);
    assert_eq!(world.status(B).await.unwrap().set_aside, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_is_halved_and_one_alone_set_aside() {
    let world = World::new().await;
    let texts: Vec<_> = (0..20).map(|number| format!("{number:02}")).collect();
    let all: Vec<_> = texts.iter().map(String::as_str).collect();
    world.peers.are(B, Mood::Small(3));
    world.put(B, "g", &all).await;
    world.empties(B, SOON).await;
    assert_eq!(world.peers.taken(B), texts);
    world
        .peers
        .fail_on(B, "huge", Some(Mood::Status(413, None)));
    world.put(B, "g", &["before", "huge", "after"]).await;
    world.empties(B, SOON).await;
    assert_eq!(world.peers.taken(B)[20..], ["before", "after"]);
    assert_eq!(world.status(B).await.unwrap().set_aside, 1);
}
