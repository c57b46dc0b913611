//! How long something is tried, and how much is kept.

use std::time::Duration;

use moh_server::Limits;
use moh_server::change::Ending;
use moh_server::store::About;

use crate::peer::{Mood, rate_limited, refused};
use crate::world::{SOON, World, groups_in, pass};

const B: &str = "b.example";
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn what_was_tried_for_a_week_is_set_aside() {
    let world = World::new().await;
    world.peers.are(B, Mood::Away);
    // In every lane, also those that are not the one that tries.
    for lane in 0..4 {
        world
            .put(B, &groups_in(lane, 1)[0], &["old 1", "old 2"])
            .await;
    }
    pass(24 * HOUR).await;
    for lane in 0..4 {
        world.put(B, &groups_in(lane, 1)[0], &["new"]).await;
    }
    pass(144 * HOUR - SOON).await;
    assert_eq!(world.waiting(B).await.len(), 12);
    pass(HOUR + 2 * SOON).await;
    assert_eq!(world.waiting(B).await.len(), 4);
    let aside = world.node.set_aside(None, 0, 100).await.unwrap();
    assert_eq!(aside.len(), 8);
    assert!(
        aside
            .iter()
            .all(|row| row.ending == Ending::Expired && row.can_be_retried)
    );
    // A group that was held back expires as well.
    world.peers.are(B, Mood::Well);
    world.peers.answer(B, "new", Some(rate_limited()));
    pass(24 * HOUR).await;
    assert_eq!(world.waiting(B).await.len(), 0);
    assert_eq!(world.node.set_aside(None, 0, 100).await.unwrap().len(), 12);
    assert_eq!(world.peers.taken(B).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn how_long_something_is_tried_is_a_setting() {
    for (hours, expected) in [(2, 2), (0, 0), (100_000, 168)] {
        let limits = Limits {
            outbox_expiry_hours: hours,
            ..Limits::default()
        };
        let world = World::with(limits).await;
        world.peers.are(B, Mood::Away);
        world.put(B, "g", &["one"]).await;
        if expected > 0 {
            pass(expected * HOUR - SOON).await;
            assert_eq!(world.waiting(B).await.len(), 1);
        }
        pass(HOUR + 2 * SOON).await;
        assert_eq!(world.waiting(B).await.len(), 0, "{hours}");
    }
}

/// A destination that does not take anything neither fills the disk nor keeps us from accepting.
#[tokio::test(start_paused = true)]
async fn the_oldest_ends_where_too_much_waits() {
    let limits = Limits {
        max_outbox_bytes_per_peer: 10_000,
        ..Limits::default()
    };
    let world = World::with(limits).await;
    world.peers.are(B, Mood::Away);
    let text = |number: usize| format!("{number:04} {}", "x".repeat(739));
    for number in 0..50 {
        let group = &groups_in(u8::try_from(number % 4).unwrap(), 1)[0];
        world.put(B, group, &[&text(number)]).await;
    }
    let status = world.status(B).await.unwrap();
    // 744 bytes of text, 3 around it, and 256 for each.
    assert_eq!((status.waiting, status.waiting_bytes), (9, 9 * 747));
    assert_eq!((status.set_aside, status.set_aside_bytes), (41, 0));
    let aside = world.node.set_aside(None, 0, 100).await.unwrap();
    let first = &aside[0];
    assert!(matches!(first.about, About::Message(_)));
    assert_eq!((first.ending, first.bytes), (Ending::Crowded, 747));
    assert!(aside.iter().all(|row| !row.can_be_retried));
    // The newest is there, and comes, in order.
    world.peers.are(B, Mood::Well);
    world.empties(B, HOUR).await;
    let mut taken = world.peers.taken(B);
    taken.sort();
    let last: Vec<_> = (41..50).map(text).collect();
    assert_eq!(taken, last);
    // One that is larger than all that may wait is sent all the same.
    world.put(B, "g", &[&"y".repeat(20_000)]).await;
    world.empties(B, SOON).await;
}

#[tokio::test(start_paused = true)]
async fn payloads_that_are_set_aside_are_given_up_beyond_a_bound() {
    let limits = Limits {
        max_set_aside_bytes_per_peer: 1_000,
        ..Limits::default()
    };
    let world = World::with(limits).await;
    world.peers.answer(B, "bad", Some(refused()));
    let texts: Vec<_> = (0..7)
        .map(|n| format!("bad {n} {}", "x".repeat(294)))
        .collect();
    let all: Vec<_> = texts.iter().map(String::as_str).collect();
    world.put(B, "g", &all).await;
    world.empties(B, SOON).await;
    let status = world.status(B).await.unwrap();
    assert_eq!((status.set_aside, status.set_aside_bytes), (7, 3 * 303));
    let aside = world.node.set_aside(None, 0, 100).await.unwrap();
    let kept: Vec<_> = aside.iter().map(|row| row.can_be_retried).collect();
    assert_eq!(kept, [false, false, false, false, true, true, true]);
    assert!(aside.iter().all(|row| row.bytes == 303));
}
