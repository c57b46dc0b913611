//! Deliveries that wait for other providers.

use super::*;

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
