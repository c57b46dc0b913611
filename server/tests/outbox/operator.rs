//! What an operator sees and does.

use std::time::Duration;

use moh_messages::ClientId;
use moh_server::change::{Change, Ending, Write};
use moh_server::federation::{Admission, PeerPolicy};
use moh_server::outbox::{Chosen, PeerState};
use moh_server::store::{About, Store as _};

use crate::peer::{Mood, refused};
use crate::world::{SOON, START_MS, World, pass};

const B: &str = "b.example";
const C: &str = "c.example";

#[tokio::test(start_paused = true)]
async fn what_is_done_about_what_waits() {
    let world = World::new().await;
    assert_eq!(world.status(B).await, None);
    world.peers.fail_on(B, "slow", Some(Mood::Silent));
    world.put(B, "g", &["slow"]).await;
    pass(Duration::from_millis(10)).await;
    let status = world.status(B).await.unwrap();
    assert_eq!(status.state, PeerState::Sending);
    assert_eq!((status.waiting, status.waiting_bytes), (1, 6));
    assert_eq!(status.oldest_at, Some(START_MS));
    assert_eq!(status.last_alive_at, None);
    world.peers.are(C, Mood::Away);
    world.put(C, "g", &["one"]).await;
    pass(Duration::from_secs(60)).await;
    match world.state(C).await {
        PeerState::Waiting {
            until_ms,
            since_ms,
            failures,
            reason,
        } => {
            assert!(until_ms > world.now_ms() && until_ms < world.now_ms() + 300_000);
            assert!(since_ms < START_MS + 100);
            assert!(failures > 2, "{failures}");
            assert_eq!(reason, "nobody is there");
        }
        other => panic!("{other:?}"),
    }
    world.peers.are(C, Mood::Well);
    world.empties(C, Duration::from_secs(600)).await;
    let status = world.status(C).await.unwrap();
    assert_eq!((status.state, status.waiting), (PeerState::Idle, 0));
    assert!(status.last_alive_at.unwrap() + 10 > world.now_ms());
    // By name, some at a time.
    let names = async |after: Option<&str>, max| {
        let after = after.map(|name| name.parse().unwrap());
        let all = world.node.peers(after.as_ref(), max).await.unwrap();
        let names = all.into_iter().map(|status| status.provider.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(None, 9).await, [B, C]);
    assert_eq!(names(None, 1).await, [B]);
    assert_eq!(names(Some(B), 9).await, [C]);
    assert!(names(Some(C), 9).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_is_listed_tried_again_and_dropped() {
    let world = World::new().await;
    world.peers.answer(B, "bad", Some(refused()));
    world
        .put(B, "g", &["bad 1", "good 1", "bad 2", "bad 3"])
        .await;
    world.put(C, "g", &["good"]).await;
    world.empties(B, SOON).await;
    let listed = async |after, max| {
        let peer = B.parse().unwrap();
        let rows = world.node.set_aside(Some(&peer), after, max).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let ids = listed(0, 9).await;
    assert_eq!(ids.len(), 3);
    assert_eq!(listed(ids[0], 1).await, [ids[1]]);
    let row = world.node.set_aside(None, 0, 1).await.unwrap().remove(0);
    assert_eq!((row.destination.as_str(), row.created_at), (B, START_MS));
    assert_eq!((row.ending, row.can_be_retried), (Ending::Refused, true));
    assert!(matches!(row.about, About::Message(group) if group.as_slice() == b"g"));
    assert!(row.reason.contains("never"), "{}", row.reason);
    // It is refused again: a new record, and the others are as they were.
    let some = Chosen::Ids(vec![ids[1], 999, ids[1]]);
    assert_eq!(world.node.retry_set_aside(&some).await.unwrap(), 1);
    world.empties(B, SOON).await;
    let again = listed(0, 9).await;
    assert_eq!(again[..2], [ids[0], ids[2]]);
    assert!(again[2] > ids[2]);
    // All of a destination, which has come to reason: with ids that it does not know.
    let before: Vec<_> = world
        .peers
        .batches(B)
        .into_iter()
        .flat_map(|b| b.ids)
        .collect();
    world.peers.answer(B, "bad", None);
    world.peers.forget_batches(B);
    let all = Chosen::Peer(B.parse().unwrap());
    assert_eq!(world.node.retry_set_aside(&all).await.unwrap(), 3);
    world.empties(B, SOON).await;
    assert_eq!(world.peers.taken(B), ["good 1", "bad 1", "bad 3", "bad 2"]);
    let since: Vec<_> = world
        .peers
        .batches(B)
        .into_iter()
        .flat_map(|b| b.ids)
        .collect();
    assert_eq!(since.len(), 3);
    assert!(since.iter().all(|id| !before.contains(id)));
    assert_eq!(world.node.retry_set_aside(&all).await.unwrap(), 0);
    // Dropped.
    world.peers.answer(B, "bad", Some(refused()));
    world.put(B, "g", &["bad 4", "bad 5"]).await;
    world.empties(B, SOON).await;
    let ids = listed(0, 9).await;
    let some = Chosen::Ids(vec![ids[0], 1]);
    assert_eq!(world.node.drop_set_aside(&some).await.unwrap(), 1);
    assert_eq!(listed(0, 9).await, ids[1..]);
    assert_eq!(world.node.drop_set_aside(&all).await.unwrap(), 1);
    assert_eq!(world.status(B).await.unwrap().set_aside, 0);
}

/// A destination that refuses everything at once does not have it tried for ever.
#[tokio::test(start_paused = true)]
async fn all_of_a_destination_is_tried_again_once() {
    let world = World::new().await;
    world.peers.answer(B, "bad", Some(refused()));
    let texts: Vec<_> = (0..600).map(|number| format!("bad {number}")).collect();
    let all: Vec<_> = texts.iter().map(String::as_str).collect();
    for portion in all.chunks(50) {
        world.put(B, "g", portion).await;
    }
    world.empties(B, SOON).await;
    let all = Chosen::Peer(B.parse().unwrap());
    let aside = world.status(B).await.unwrap().set_aside;
    assert_eq!(world.node.retry_set_aside(&all).await.unwrap(), aside);
    world.empties(B, SOON).await;
    assert_eq!(world.status(B).await.unwrap().set_aside, aside);
}

/// It may have been taken, and its answer lost: the id says so.
#[tokio::test(start_paused = true)]
async fn what_has_expired_keeps_its_id() {
    let world = World::new().await;
    world.peers.are(B, Mood::Away);
    world.put(B, "g", &["one"]).await;
    pass(Duration::from_secs(170 * 3600)).await;
    assert_eq!(world.waiting(B).await.len(), 0);
    let before = world.peers.batches(B)[0].ids.clone();
    world.peers.are(B, Mood::Well);
    world.peers.forget_batches(B);
    world.put(B, "g", &["two"]).await;
    let all = Chosen::Peer(B.parse().unwrap());
    assert_eq!(world.node.retry_set_aside(&all).await.unwrap(), 1);
    world.empties(B, Duration::from_secs(600)).await;
    assert_eq!(world.peers.taken(B), ["two", "one"]);
    let batches = world.peers.batches(B);
    let ids = batches.iter().flat_map(|b| b.texts.iter().zip(&b.ids));
    let mut ids = ids.filter(|(text, _)| *text == "one").map(|(_, id)| id);
    assert_eq!(ids.next(), before.first());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_whom_we_do_not_talk_to_is_paused() {
    let world = World::new().await;
    let nobody = PeerPolicy {
        admission: Admission::AllowListed,
        ..PeerPolicy::default()
    };
    world.node.set_peer_policy(nobody.clone()).await;
    world.put_unseen(B, "g", &["one"]).await;
    world.node.set_peer_policy(nobody.clone()).await;
    pass(Duration::from_secs(24 * 3600)).await;
    assert!(world.peers.batches(B).is_empty());
    assert_eq!(world.state(B).await, PeerState::Paused);
    world.wake().await;
    world.empties(B, SOON).await;
    // Not for ever.
    world.node.set_peer_policy(nobody.clone()).await;
    world.put_unseen(B, "g", &["two"]).await;
    world.node.set_peer_policy(nobody).await;
    pass(Duration::from_secs(170 * 3600)).await;
    assert_eq!(world.waiting(B).await.len(), 0);
    let aside = world.node.set_aside(None, 0, 9).await.unwrap();
    assert_eq!(aside[0].ending, Ending::Expired);
}

/// A block by mistake loses nothing: who is not let in for now tells it again later.
#[tokio::test(start_paused = true)]
async fn that_a_client_is_gone_is_told_until_it_is_heard() {
    let world = World::new().await;
    let client_id: ClientId = "mimi://a.example/d/alice/phone".parse().unwrap();
    let gone = |at| {
        let peer = Write::ClientPeer {
            client_id: client_id.clone(),
            provider: B.parse().unwrap(),
        };
        let client_id = client_id.clone();
        Change {
            expect: Vec::new(),
            writes: vec![peer, Write::CloseClient { client_id, at }],
        }
    };
    world.peers.are(B, Mood::Status(403, None));
    world.store.commit(gone(world.now_ms())).await.unwrap();
    world.wake().await;
    pass(Duration::from_secs(3600)).await;
    assert_eq!(world.waiting(B).await.len(), 1);
    world.peers.are(B, Mood::Well);
    world.hears_of(B).await;
    world.empties(B, SOON).await;
    assert_eq!(world.status(B).await.unwrap().set_aside, 0);
    // It can expire, and is listed and tried again as anything else.
    world.peers.are(B, Mood::Status(403, None));
    world.store.commit(gone(world.now_ms())).await.unwrap();
    world.wake().await;
    pass(Duration::from_secs(170 * 3600)).await;
    let aside = world.node.set_aside(None, 0, 9).await.unwrap();
    assert_eq!(aside[0].about, About::ClientDeleted(client_id));
    world.peers.are(B, Mood::Well);
    let all = Chosen::Peer(B.parse().unwrap());
    assert_eq!(world.node.retry_set_aside(&all).await.unwrap(), 1);
    world.empties(B, Duration::from_secs(600)).await;
    assert_eq!(world.status(B).await.unwrap().set_aside, 0);
}
