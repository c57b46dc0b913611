//! Queues of the provider's own clients.

use super::*;

pub(crate) async fn an_audience_is_what_it_was_first(data: &impl Data) {
    let store = data.open();
    let members = async |sender: &str, number| {
        let found = store.audience(&provider(sender), &digest(number)).await;
        found.unwrap()
    };
    assert_eq!(members("a", 1).await, None);
    conflicts(&*store, Vec::new(), vec![message(1, None, "lost")]).await;
    let first = [None, Some("alice"), None, Some("bob"), None];
    write(&*store, vec![audience(1, &first), audience(2, &[])]).await;
    let expected: Vec<_> = first.iter().map(|name| name.map(client)).collect();
    assert_eq!(members("a", 1).await, Some(expected.clone()));
    assert_eq!(members("a", 2).await, Some(Vec::new()));
    assert_eq!(members("b", 1).await, None);
    let again = audience(1, &[Some("carol")]);
    write(&*store, vec![again, message(1, None, "x")]).await;
    assert_eq!(members("a", 1).await, Some(expected));
    assert_eq!(queue(&*store, "carol", 0).await, []);
    // The same digest of another sender is another audience.
    let other = Write::Audience {
        sender: provider("b"),
        digest: digest(1),
        members: vec![Some(client("carol"))],
    };
    let to_other = Write::Message {
        sender: provider("b"),
        digest: digest(1),
        except: None,
        received_at: 7,
        payload: b"y".to_vec(),
    };
    write(&*store, vec![other, to_other]).await;
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["x"]);
    let rows = queue(&*store, "carol", 0).await;
    assert_eq!(payloads(&rows), ["y"]);
    assert_eq!((&rows[0].sender, rows[0].received_at), (&provider("b"), 7));
}

pub(crate) async fn a_queue_is_in_order_and_without_what_is_excepted(data: &impl Data) {
    let store = data.open();
    let writes = vec![
        audience(1, &[Some("alice"), Some("bob")]),
        audience(2, &[Some("bob"), None, Some("carol")]),
        message(1, Some(0), "1 not for alice"),
        message(2, None, "2"),
        message(1, Some(1), "3 not for bob"),
        message(2, Some(2), "4 not for carol"),
        message(2, Some(1), "5"),
        message(2, Some(99), "6"),
    ];
    write(&*store, writes).await;
    write(&*store, vec![message(1, None, "7")]).await;
    assert_eq!(
        payloads(&queue(&*store, "alice", 0).await),
        ["3 not for bob", "7"]
    );
    let bob = queue(&*store, "bob", 0).await;
    assert_eq!(
        payloads(&bob),
        ["1 not for alice", "2", "4 not for carol", "5", "6", "7"]
    );
    assert!(bob.is_sorted_by(|a, b| a.sequence < b.sequence));
    assert_eq!(payloads(&queue(&*store, "carol", 0).await), ["2", "5", "6"]);
    assert_eq!(queue(&*store, "dave", 0).await, []);
    for (index, row) in bob.iter().enumerate() {
        assert_eq!(queue(&*store, "bob", row.sequence).await, bob[index + 1..]);
    }
    assert_eq!(queue(&*store, "bob", u64::MAX).await, []);
}

pub(crate) async fn a_queue_is_read_in_portions(data: &impl Data) {
    let store = data.open();
    let mut expected = Vec::new();
    let members = [Some("alice"), Some("bob")];
    write(&*store, (0..5).map(|n| audience(n, &members)).collect()).await;
    // Long runs of one audience, and of what is excepted.
    for round in 0..40_u8 {
        let run = (0..10_u32).map(|n| {
            let except = (round % 3 == 0).then_some(0);
            let payload = format!("{round} {n}");
            if except.is_none() {
                expected.push(payload.clone());
            }
            message(round / 2 % 5, except, &payload)
        });
        write(&*store, run.collect()).await;
    }
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), expected);
    assert_eq!(queue(&*store, "bob", 0).await.len(), 400);
    for (max_rows, max_bytes) in [(1, 999), (7, 999), (64, 999), (999, 0), (999, 1), (999, 40)] {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let portion = store
                .queue(&client("alice"), after, max_rows, max_bytes)
                .await;
            let portion = portion.unwrap();
            let Some(last) = portion.last() else { break };
            assert!(portion.len() <= max_rows);
            let bytes: usize = portion.iter().map(|row| row.payload.len()).sum();
            assert!(portion.len() == 1 || bytes - last.payload.len() < max_bytes);
            after = last.sequence;
            seen.extend(payloads(&portion).into_iter().map(str::to_owned));
        }
        assert_eq!(seen, expected, "{max_rows} rows, {max_bytes} bytes");
    }
    assert_eq!(store.queue(&client("alice"), 0, 0, 999).await.unwrap(), []);
}

pub(crate) async fn a_client_that_is_in_an_audience_twice(data: &impl Data) {
    let store = data.open();
    let writes = vec![
        audience(1, &[Some("alice"), Some("bob"), Some("alice")]),
        message(1, None, "1"),
        message(1, Some(0), "2"),
        message(1, Some(1), "3"),
    ];
    write(&*store, writes).await;
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["1", "2", "3"]);
    assert_eq!(payloads(&queue(&*store, "bob", 0).await), ["1", "2"]);
}

pub(crate) async fn a_queue_across_many_old_audiences(data: &impl Data) {
    let store = data.open();
    let members = [Some("alice"), Some("bob")];
    let others = [Some("carol")];
    let mut cursors = vec![0];
    let mut expected = Vec::new();
    for number in 0..=255_u8 {
        let payload = number.to_string();
        let writes = if number % 2 == 0 {
            expected.push(payload.clone());
            vec![audience(number, &members), message(number, None, &payload)]
        } else {
            vec![audience(number, &others), message(number, None, &payload)]
        };
        write(&*store, writes).await;
    }
    let rows = queue(&*store, "alice", 0).await;
    assert_eq!(payloads(&rows), expected);
    cursors.extend(rows.iter().map(|row| row.sequence));
    // From far behind, from near, and from the end.
    for (index, cursor) in cursors.into_iter().enumerate() {
        let rest = queue(&*store, "alice", cursor).await;
        assert_eq!(payloads(&rest), expected[index..]);
    }
}

pub(crate) async fn acknowledging_goes_forward_only(data: &impl Data) {
    let store = data.open();
    let acknowledged = async |name: &str| store.acknowledged(&client(name)).await.unwrap();
    assert_eq!(acknowledged("alice").await, 0);
    for (sequence, then) in [(5, 5), (3, 5), (5, 5), (9, 9), (0, 9)] {
        let acknowledge = Write::Acknowledge {
            client_id: client("alice"),
            sequence,
        };
        write(&*store, vec![acknowledge]).await;
        assert_eq!(acknowledged("alice").await, then);
    }
    assert_eq!(acknowledged("bob").await, 0);
}

/// Writers that commit beside each other, and readers that poll: each reader sees each message
/// of its audiences once, in the same order as all others, and the moment it is committed.
pub(crate) async fn readers_miss_nothing_while_others_write(data: &impl Data) {
    const WRITERS: u32 = 8;
    const EACH: u32 = 60;
    let store = data.open();
    let members = [Some("alice"), Some("bob"), None];
    let writes = (0..3).map(|number| audience(number, &members));
    write(&*store, writes.collect()).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for number in 0..EACH {
                    let to = u8::try_from((writer + number) % 3).unwrap();
                    let payload = format!("{writer} {number}");
                    let except = (number % 5 == 0).then_some(1);
                    write(&*store, vec![message(to, except, &payload)]).await;
                    // What is committed is seen, by whoever looks.
                    if number % 10 == 0 {
                        let rows = queue(&*store, "alice", 0).await;
                        assert!(payloads(&rows).contains(&payload.as_str()));
                    }
                }
            })
        })
        .collect();
    let excepted = WRITERS * EACH.div_ceil(5);
    let readers: Vec<_> = ["alice", "bob", "alice", "bob"]
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            let store = Arc::clone(&store);
            let expected = WRITERS * EACH - if name == "bob" { excepted } else { 0 };
            tokio::spawn(async move {
                let (mut after, mut seen) = (0, Vec::new());
                while seen.len() < expected as usize {
                    let rows = store.queue(&client(name), after, 1 + index * 9, 500).await;
                    for row in rows.unwrap() {
                        assert!(row.sequence > after);
                        after = row.sequence;
                        seen.push(row);
                    }
                    tokio::task::yield_now().await;
                }
                seen
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for (reader, name) in readers.into_iter().zip(["alice", "bob", "alice", "bob"]) {
        let seen = tokio::time::timeout(std::time::Duration::from_secs(60), reader).await;
        let seen = seen.expect("a reader missed something").unwrap();
        assert_eq!(seen, queue(&*store, name, 0).await);
        for writer in 0..WRITERS {
            let own = payloads(&seen).into_iter().filter_map(|payload| {
                let (by, number) = payload.split_once(' ')?;
                (by == writer.to_string()).then(|| number.parse::<u32>().unwrap())
            });
            assert!(
                own.is_sorted(),
                "the messages of one writer keep their order"
            );
        }
    }
}

pub(crate) async fn deliveries_are_taken_once(data: &impl Data) {
    let store = data.open();
    write(&*store, vec![audience(1, &[Some("alice")])]).await;
    let take = |sender: &str, result: u8| {
        let delivered = Write::Delivered {
            sender: provider(sender),
            delivery_id: delivery_id(1),
            result: vec![result],
            received_at: 1_000,
        };
        change(
            vec![Expect::NewDelivery(provider(sender), delivery_id(1))],
            vec![message(1, None, "x"), delivered],
        )
    };
    let attempts: Vec<_> = (0..16_u8)
        .map(|number| {
            let (store, take) = (Arc::clone(&store), take("a", number));
            tokio::spawn(async move { store.commit(take).await.is_ok().then_some(number) })
        })
        .collect();
    let mut taken = Vec::new();
    for attempt in attempts {
        taken.extend(attempt.await.unwrap());
    }
    assert_eq!(taken.len(), 1);
    assert_eq!(queue(&*store, "alice", 0).await.len(), 1);
    let result = async |sender: &str| {
        let result = store.delivered(&provider(sender), &delivery_id(1)).await;
        result.unwrap()
    };
    assert_eq!(result("a").await, Some(taken));
    assert_eq!(result("b").await, None);
    // Also for who did not say that it is to be new.
    let unsaid = change(Vec::new(), take("a", 0).writes);
    assert!(store.commit(unsaid).await.is_err());
    store.commit(take("b", 3)).await.unwrap();
    assert_eq!(queue(&*store, "alice", 0).await.len(), 2);
    // It is forgotten when it is old, not before.
    store.sweep(1_000).await.unwrap();
    assert_eq!(result("b").await, Some(vec![3]));
    store.sweep(1_001).await.unwrap();
    assert_eq!(result("b").await, None);
}

pub(crate) async fn a_sweep_forgets_what_nobody_needs(data: &impl Data) {
    let store = data.open();
    let writes = vec![
        audience(1, &[Some("alice"), None, Some("bob")]),
        audience(2, &[Some("alice")]),
        message(1, None, "1"),
        message(2, None, "2"),
        message(1, None, "3"),
        message(1, None, "4"),
    ];
    write(&*store, writes).await;
    let sequences: Vec<_> = queue(&*store, "alice", 0).await;
    let acknowledge = |name: &str, index: usize| Write::Acknowledge {
        client_id: client(name),
        sequence: sequences[index].sequence,
    };
    store.sweep(0).await.unwrap();
    assert_eq!(queue(&*store, "alice", 0).await.len(), 4);
    write(&*store, vec![acknowledge("alice", 3)]).await;
    store.sweep(0).await.unwrap();
    // Nobody has acknowledged for bob.
    assert_eq!(payloads(&queue(&*store, "bob", 0).await), ["1", "3", "4"]);
    write(&*store, vec![acknowledge("bob", 2)]).await;
    store.sweep(0).await.unwrap();
    assert_eq!(payloads(&queue(&*store, "bob", 0).await), ["4"]);
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["4"]);
    // The audiences are still known.
    write(&*store, vec![message(2, None, "5")]).await;
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["4", "5"]);
}

pub(crate) async fn a_sweep_forgets_what_is_old(data: &impl Data) {
    let store = data.open();
    let at = |received_at: u64, audience: u8| Write::Message {
        sender: provider("a"),
        digest: digest(audience),
        except: None,
        received_at,
        payload: received_at.to_string().into_bytes(),
    };
    let known = async |number| {
        let found = store.audience(&provider("a"), &digest(number)).await;
        found.unwrap().is_some()
    };
    let mut writes = vec![
        audience(1, &[Some("alice")]),
        audience(2, &[Some("alice")]),
        audience(3, &[Some("alice")]),
    ];
    // Times need not be in order.
    writes.extend([at(30, 1), at(10, 1), at(20, 2), at(15, 2)]);
    write(&*store, writes).await;
    store.sweep(20).await.unwrap();
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["30", "20"]);
    assert!(known(1).await && known(2).await && known(3).await);
    store.sweep(30).await.unwrap();
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["30"]);
    assert!(known(1).await);
    // More than one step is needed for these.
    for _ in 0..30 {
        write(&*store, (0..100).map(|_| at(40, 1)).collect()).await;
    }
    assert_eq!(queue(&*store, "alice", 0).await.len(), 3_001);
    store.sweep(41).await.unwrap();
    assert_eq!(queue(&*store, "alice", 0).await, []);
    // A forgotten audience can be said again.
    write(&*store, vec![audience(2, &[Some("alice")]), at(50, 2)]).await;
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["50"]);
}
