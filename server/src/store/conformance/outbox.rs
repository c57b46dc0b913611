//! Deliveries that wait for other providers.

use super::*;
use crate::store::{About, OutboxTotal, SetAsideRow};

fn recipients(number: u8) -> Write {
    Write::OutboxAudience {
        digest: digest(number),
        recipients: vec![number; 10],
    }
}

pub(crate) fn set_aside(id: u64, ending: Ending, at: u64) -> Write {
    Write::OutboxSetAside {
        id,
        ending,
        reason: "why".to_owned(),
        at,
    }
}

pub(crate) async fn the_outbox_is_in_order_for_each_destination(data: &impl Data) {
    let store = data.open();
    // Recipients are known first.
    let unknown = vec![Write::Outbox(delivery("b", 1, "x"))];
    conflicts(&*store, Vec::new(), unknown).await;
    write(&*store, vec![recipients(1)]).await;
    for number in 0..6_u8 {
        let destination = if number % 2 == 0 { "b" } else { "c" };
        let payload = format!("payload {number}");
        write(
            &*store,
            vec![Write::Outbox(delivery(destination, 1, &payload))],
        )
        .await;
    }
    let lane = outbox_lane(b"g");
    let waiting = async |rows, bytes| {
        store
            .outbox(&provider("b"), lane, &BTreeSet::new(), rows, bytes)
            .await
            .unwrap()
    };
    let all = waiting(usize::MAX, usize::MAX).await;
    assert_eq!(all.len(), 3);
    for (row, payload) in all.iter().zip(["payload 0", "payload 2", "payload 4"]) {
        assert_eq!(row.delivery(), Some(&delivery("b", 1, payload)));
    }
    assert!(all.is_sorted_by(|a, b| a.id < b.id));
    // At most so many; no further one when so many bytes are reached; but always one.
    assert_eq!(waiting(0, usize::MAX).await, []);
    assert_eq!(waiting(2, usize::MAX).await, all[..2]);
    assert_eq!(waiting(9, 9).await, all[..1]);
    assert_eq!(waiting(9, 10).await, all[..2]);
    assert_eq!(waiting(9, 0).await, all[..1]);
    let lanes = [(provider("b"), lane), (provider("c"), lane)];
    assert_eq!(store.outbox_lanes().await.unwrap(), lanes);
    // Done, and set aside; again changes nothing.
    for _ in 0..2 {
        let done = Write::OutboxDone { id: all[0].id };
        let aside = set_aside(all[1].id, Ending::Refused, 7);
        write(&*store, vec![done, aside]).await;
        assert_eq!(waiting(9, 999).await, all[2..]);
    }
    write(&*store, vec![Write::OutboxDone { id: all[2].id }]).await;
    assert_eq!(store.outbox_lanes().await.unwrap(), lanes[1..]);
    assert_eq!(waiting(9, 999).await, []);
}

/// Names of groups in the lane of client alice of here.
fn in_the_lane_of_alice() -> Vec<String> {
    let lane = outbox_lane(client("alice").as_str().as_bytes());
    let names = (0..).map(|number: u32| format!("group {number}"));
    let names = names.filter(|name| outbox_lane(name.as_bytes()) == lane);
    names.take(3).collect()
}

pub(crate) async fn the_outbox_without_some_groups(data: &impl Data) {
    let store = data.open();
    let names = in_the_lane_of_alice();
    let [g, h, i] = [0, 1, 2].map(|at| names[at].as_str());
    let of = |group: &str, payload: &str| {
        Write::Outbox(OutboxDelivery {
            group_id: group_id(group),
            ..delivery("b", 1, payload)
        })
    };
    let gone = vec![
        Write::ClientPeer {
            client_id: client("alice"),
            provider: provider("b"),
        },
        Write::CloseClient {
            client_id: client("alice"),
            at: 1,
        },
    ];
    let deliveries = [(g, "one"), (h, "two"), (g, "three"), (i, "four")];
    let mut writes = vec![recipients(1)];
    writes.extend(deliveries.map(|(group, payload)| of(group, payload)));
    write(&*store, [writes, gone].concat()).await;
    let waiting = async |but: &[&str], rows, bytes| {
        let but = but.iter().map(|group| group_id(group)).collect();
        let lane = outbox_lane(g.as_bytes());
        let rows = store.outbox(&provider("b"), lane, &but, rows, bytes).await;
        let rows = rows.unwrap().into_iter();
        let payload = |row: OutboxRow| match row.item {
            OutboxItem::Delivery(delivery) => String::from_utf8(delivery.payload).unwrap(),
            OutboxItem::ClientDeleted(_) => "gone".to_owned(),
        };
        rows.map(payload).collect::<Vec<_>>()
    };
    assert_eq!(waiting(&[g], 9, 999).await, ["two", "four", "gone"]);
    assert_eq!(waiting(&[h, g], 9, 999).await, ["four", "gone"]);
    // What is left out does not count.
    assert_eq!(waiting(&[g], 1, 999).await, ["two"]);
    assert_eq!(waiting(&[g, h], 9, 4).await, ["four"]);
    assert_eq!(waiting(&[g, h, i], 9, 0).await, ["gone"]);
}

pub(crate) async fn recipients_stay_while_deliveries_wait(data: &impl Data) {
    let store = data.open();
    let known = async |number| store.outbox_audience(&digest(number)).await.unwrap();
    assert_eq!(known(1).await, None);
    write(&*store, vec![recipients(1), recipients(2)]).await;
    let other = Write::OutboxAudience {
        digest: digest(1),
        recipients: vec![0],
    };
    let waits = Write::Outbox(delivery("b", 1, "x"));
    let answered = Write::Outbox(delivery("c", 2, "x"));
    write(&*store, vec![other, waits, answered]).await;
    assert_eq!(known(1).await, Some(vec![1; 10]));
    let row = waiting_for(&*store, "c").await.remove(0);
    write(&*store, vec![Write::OutboxDone { id: row.id }]).await;
    // Used at 1000: not old yet, then old.
    store.sweep(1_000).await.unwrap();
    assert!(known(2).await.is_some());
    store.sweep(1_001).await.unwrap();
    assert!(known(1).await.is_some());
    assert_eq!(waiting_for(&*store, "b").await.len(), 1);
    // What was forgotten can be said again.
    let writes = vec![recipients(2), Write::Outbox(delivery("c", 2, "y"))];
    write(&*store, writes).await;
    assert!(known(2).await.is_some());
}

pub(crate) async fn the_lanes_of_a_destination(data: &impl Data) {
    let store = data.open();
    let mut expected = std::collections::BTreeMap::new();
    let mut writes = vec![recipients(1)];
    for number in 0..40 {
        let (group, peer) = (format!("group {number}"), ["b", "c"][number % 2]);
        expected
            .entry((provider(peer), outbox_lane(group.as_bytes())))
            .or_insert_with(Vec::new)
            .push(group.clone());
        writes.push(Write::Outbox(OutboxDelivery {
            group_id: group_id(&group),
            ..delivery(peer, 1, &group)
        }));
    }
    write(&*store, writes).await;
    assert_eq!(expected.len(), 2 * usize::from(OUTBOX_LANES));
    let lanes: Vec<_> = expected.keys().cloned().collect();
    assert_eq!(store.outbox_lanes().await.unwrap(), lanes);
    for ((peer, lane), groups) in expected {
        let nothing = BTreeSet::new();
        let rows = store.outbox(&peer, lane, &nothing, 99, 9_999);
        let rows = rows.await.unwrap();
        let payloads = rows.iter().map(|row| &row.delivery().unwrap().payload);
        assert!(payloads.eq(groups.iter().map(String::as_bytes)));
        for row in rows {
            write(&*store, vec![Write::OutboxDone { id: row.id }]).await;
        }
        let left = store.outbox_lanes().await.unwrap();
        assert!(!left.contains(&(peer, lane)));
    }
}

/// What is kept for a provider: waiting, its bytes, set aside, its bytes, and when the oldest was
/// made.
async fn total(store: &dyn Store, name: &str) -> (u64, u64, u64, u64, Option<u64>) {
    let all = store.outbox_totals(None, 99).await.unwrap();
    let total = all.into_iter().find(|t| t.destination == provider(name));
    total.map_or((0, 0, 0, 0, None), |t| {
        let OutboxTotal {
            waiting,
            waiting_bytes,
            set_aside,
            set_aside_bytes,
            oldest_at,
            ..
        } = t;
        (
            waiting,
            waiting_bytes,
            set_aside,
            set_aside_bytes,
            oldest_at,
        )
    })
}

/// A message for b that was set aside.
fn a_row(id: u64, ending: Ending, set_aside_at: u64, bytes: u64) -> SetAsideRow {
    SetAsideRow {
        id,
        destination: provider("b"),
        about: About::Message(group_id("g")),
        created_at: 1_000,
        set_aside_at,
        ending,
        reason: "why".to_owned(),
        bytes,
        can_be_retried: true,
    }
}

pub(crate) async fn what_is_set_aside_can_wait_again(data: &impl Data) {
    let store = data.open();
    let mut writes = vec![recipients(1)];
    for payload in ["one", "two and", "three"] {
        writes.push(Write::Outbox(delivery("b", 1, payload)));
    }
    writes.push(Write::Outbox(delivery("c", 1, "other")));
    write(&*store, writes).await;
    assert_eq!(total(&*store, "b").await, (3, 15, 0, 0, Some(1_000)));
    let rows = waiting_for(&*store, "b").await;
    // In another order than they were made in; twice changes nothing.
    for _ in 0..2 {
        let aside = vec![
            set_aside(rows[1].id, Ending::Refused, 7),
            set_aside(rows[0].id, Ending::Expired, 8),
            set_aside(999, Ending::Expired, 8),
        ];
        write(&*store, aside).await;
    }
    let store = {
        drop(store);
        data.open()
    };
    assert_eq!(total(&*store, "b").await, (1, 5, 2, 10, Some(1_000)));
    let of_b = store.set_aside(Some(&provider("b")), 0, 9).await.unwrap();
    let (first, second) = (of_b[0].id, of_b[1].id);
    assert!(first < second);
    let two = a_row(first, Ending::Refused, 7, 7);
    let one = a_row(second, Ending::Expired, 8, 3);
    assert_eq!(of_b, [two, one]);
    let listed = async |peer: Option<&str>, after, max| {
        let peer = peer.map(provider);
        let rows = store.set_aside(peer.as_ref(), after, max).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, 0, 9).await, [first, second]);
    assert_eq!(listed(None, first, 9).await, [second]);
    assert_eq!(listed(Some("b"), 0, 1).await, [first]);
    assert!(listed(Some("c"), 0, 9).await.is_empty());
    // Behind what waits; once.
    for _ in 0..2 {
        let retry = |id, delivery_id| Write::OutboxRetry {
            id,
            delivery_id,
            at: 50,
        };
        let again = vec![retry(first, Some(delivery_id(77))), retry(second, None)];
        write(&*store, again).await;
    }
    let rows = waiting_for(&*store, "b").await;
    let rows: Vec<_> = rows.iter().map(|row| row.delivery().unwrap()).collect();
    let again = |payload, id| OutboxDelivery {
        delivery_id: id,
        created_at: 50,
        ..delivery("b", 1, payload)
    };
    let three = delivery("b", 1, "three");
    let (two, one) = (
        again("two and", delivery_id(77)),
        again("one", delivery_id(1)),
    );
    assert_eq!(rows, [&three, &two, &one]);
    assert_eq!(total(&*store, "b").await, (3, 15, 0, 0, Some(1_000)));
}

pub(crate) async fn what_is_set_aside_is_dropped_or_swept(data: &impl Data) {
    let store = data.open();
    let mut writes = vec![recipients(1), Write::Outbox(delivery("c", 1, "other"))];
    for payload in ["one", "two", "three"] {
        writes.push(Write::Outbox(delivery("b", 1, payload)));
    }
    write(&*store, writes).await;
    let listed = async || {
        let rows = store.set_aside(None, 0, 9).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let rows = waiting_for(&*store, "b").await;
    for (row, at) in rows.iter().zip([10, 20, 30]) {
        let aside = set_aside(row.id, Ending::Unreadable, at);
        write(&*store, vec![aside]).await;
    }
    let ids = listed().await;
    write(&*store, vec![Write::OutboxDrop { id: ids[1] }]).await;
    assert_eq!(listed().await, [ids[0], ids[2]]);
    store.sweep(30).await.unwrap();
    assert_eq!(listed().await, [ids[2]]);
    assert_eq!(total(&*store, "b").await, (0, 0, 1, 5, None));
    store.sweep(31).await.unwrap();
    assert!(listed().await.is_empty());
    // Numbers are not given twice.
    write(&*store, vec![Write::Outbox(delivery("b", 1, "four"))]).await;
    let id = waiting_for(&*store, "b").await[0].id;
    write(&*store, vec![set_aside(id, Ending::Expired, 40)]).await;
    assert!(listed().await[0] > ids[2]);
    write(
        &*store,
        vec![Write::OutboxDrop {
            id: listed().await[0],
        }],
    )
    .await;
    // Of whom nothing is kept, there is no total.
    let totals = store.outbox_totals(None, 9).await.unwrap();
    assert!(totals.iter().map(|t| &t.destination).eq([&provider("c")]));
    let after_c = store.outbox_totals(Some(&provider("c")), 9).await;
    assert!(after_c.unwrap().is_empty());
    assert!(store.outbox_totals(None, 0).await.unwrap().is_empty());
}

pub(crate) async fn recipients_stay_while_something_is_set_aside(data: &impl Data) {
    let store = data.open();
    let known = async || store.outbox_audience(&digest(1)).await.unwrap().is_some();
    let writes = vec![recipients(1), Write::Outbox(delivery("b", 1, "x"))];
    write(&*store, writes).await;
    let id = waiting_for(&*store, "b").await[0].id;
    write(&*store, vec![set_aside(id, Ending::Expired, 5_000)]).await;
    store.sweep(4_000).await.unwrap();
    assert!(known().await);
    // Not where its payload is given up.
    let bounds = bounds("b", u64::MAX, 0, 9);
    write(&*store, vec![bounds]).await;
    store.sweep(4_000).await.unwrap();
    assert!(!known().await);
}

fn bounds(destination: &str, waiting_bytes: u64, set_aside_bytes: u64, set_aside: u64) -> Write {
    Write::OutboxBounds {
        destination: provider(destination),
        bounds: OutboxBounds {
            waiting_bytes,
            set_aside_bytes,
            set_aside,
        },
        at: 9,
    }
}

pub(crate) async fn the_outbox_is_brought_within_bounds(data: &impl Data) {
    let store = data.open();
    let mut writes = vec![recipients(1)];
    // In several lanes.
    for number in 0..8 {
        writes.push(Write::Outbox(OutboxDelivery {
            group_id: group_id(&format!("group {number}")),
            ..delivery("b", 1, &format!("payload {number}"))
        }));
    }
    writes.push(Write::Outbox(delivery("c", 1, "other")));
    write(&*store, writes).await;
    // 9 bytes and 256 each: exactly what there is.
    write(&*store, vec![bounds("b", 8 * 265, 0, 99)]).await;
    assert_eq!(total(&*store, "b").await, (8, 72, 0, 0, Some(1_000)));
    write(&*store, vec![bounds("b", 8 * 265 - 1, 0, 99)]).await;
    assert_eq!(total(&*store, "b").await, (7, 63, 1, 0, Some(1_000)));
    write(&*store, vec![bounds("b", 3 * 265, 0, 99)]).await;
    let left = waiting_for(&*store, "b").await;
    let left = left
        .iter()
        .map(|row| row.delivery().unwrap().payload.clone());
    let newest: Vec<_> = (5..8)
        .map(|n| format!("payload {n}").into_bytes())
        .collect();
    assert_eq!(left.collect::<Vec<_>>(), newest);
    let rows = store.set_aside(None, 0, 99).await.unwrap();
    let is_crowded = |row: &SetAsideRow| {
        let named = (row.ending, row.bytes, row.set_aside_at, row.can_be_retried);
        named == (Ending::Crowded, 9, 9, false)
    };
    assert!(rows.len() == 5 && rows.iter().all(is_crowded), "{rows:?}");
    // Nothing is made of a record without its payload.
    let again = Write::OutboxRetry {
        id: rows[0].id,
        delivery_id: None,
        at: 1,
    };
    write(&*store, vec![again]).await;
    assert_eq!(total(&*store, "b").await.0, 3);
    // The newest stays, whatever the bound is.
    write(&*store, vec![bounds("b", 0, 0, 99)]).await;
    assert_eq!(total(&*store, "b").await, (1, 9, 7, 0, Some(1_000)));
    // Records beyond a bound are forgotten, the oldest first, and counted.
    write(&*store, vec![bounds("b", 0, 0, 3)]).await;
    let kept = store.set_aside(None, 0, 99).await.unwrap();
    assert!(kept.len() == 3 && kept[0].id > rows[3].id);
    let totals = store.outbox_totals(None, 9).await.unwrap();
    assert_eq!((totals[0].set_aside, totals[0].forgotten), (3, 4));
    assert_eq!(total(&*store, "c").await, (1, 5, 0, 0, Some(1_000)));
    // Payloads that are set aside are given up, the oldest first; that a client is gone is not.
    let mut writes = vec![
        Write::ClientPeer {
            client_id: client("alice"),
            provider: provider("d"),
        },
        Write::CloseClient {
            client_id: client("alice"),
            at: 1,
        },
    ];
    for payload in ["12345", "67", "8"] {
        writes.push(Write::Outbox(delivery("d", 1, payload)));
    }
    write(&*store, writes).await;
    for row in waiting_for(&*store, "d").await {
        write(&*store, vec![set_aside(row.id, Ending::Refused, 1)]).await;
    }
    write(&*store, vec![bounds("d", 0, 3, 9)]).await;
    let rows = store.set_aside(Some(&provider("d")), 0, 9).await.unwrap();
    let kept: Vec<_> = rows.iter().map(|row| row.can_be_retried).collect();
    assert_eq!(rows[0].about, About::ClientDeleted(client("alice")));
    assert_eq!(kept, [true, false, true, true]);
    assert_eq!(total(&*store, "d").await, (0, 0, 4, 3, None));
}
