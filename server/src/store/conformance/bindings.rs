//! Who may deliver to which queue, and who is told that a client is gone.

use super::*;
use crate::store::Takes;

pub(super) fn seat(name: &str, queue: u8) -> Seat {
    Seat {
        client_id: client(name),
        queue: [queue; 32],
    }
}

/// An audience that a provider names, of queues.
pub(super) fn bound(sender: &str, number: u8, seats: &[Option<(&str, u8)>]) -> Write {
    let seats = seats
        .iter()
        .map(|s| s.map(|(name, queue)| seat(name, queue)));
    Write::BoundAudience {
        sender: provider(sender),
        digest: digest(number),
        seats: seats.collect(),
    }
}

pub(super) fn message_by(sender: &str, audience: u8, payload: &str) -> Write {
    Write::Message {
        sender: provider(sender),
        digest: digest(audience),
        except: None,
        received_at: 1_000,
        payload: payload.as_bytes().to_vec(),
    }
}

/// Which of these queues of Alice take from a provider.
pub(super) async fn takes(store: &dyn Store, sender: &str, queues: &[u8]) -> Vec<bool> {
    let all = how(store, sender, queues).await.into_iter();
    all.map(|takes| takes != Takes::Nothing).collect()
}

/// What these queues of Alice do with what a provider delivers.
async fn how(store: &dyn Store, sender: &str, queues: &[u8]) -> Vec<Takes> {
    let queues = queues.iter().map(|queue| seat("alice", *queue)).collect();
    store.queues_take(&provider(sender), queues).await.unwrap()
}

pub(super) async fn members(
    store: &dyn Store,
    sender: &str,
    number: u8,
) -> Option<Vec<Option<ClientId>>> {
    let found = store.audience(&provider(sender), &digest(number)).await;
    found.unwrap()
}

pub(crate) async fn a_queue_is_bound_to_whoever_delivers_first(data: &impl Data) {
    let store = data.open();
    assert_eq!(takes(&*store, "a", &[1, 2]).await, [true, true]);
    let first = bound("a", 1, &[Some(("alice", 1)), None, Some(("bob", 3))]);
    write(&*store, vec![first.clone(), message_by("a", 1, "one")]).await;
    let expected = Some(vec![Some(client("alice")), None, Some(client("bob"))]);
    assert_eq!(members(&*store, "a", 1).await, expected);
    for _ in 0..2 {
        assert_eq!(takes(&*store, "a", &[1, 2]).await, [true, true]);
        assert_eq!(takes(&*store, "b", &[1, 2]).await, [false, true]);
    }
    drop(store);
    let store = data.open();
    let by_a = [Takes::Bound, Takes::First];
    assert_eq!(how(&*store, "a", &[1, 2]).await, by_a);
    let by_b = [Takes::Nothing, Takes::First];
    assert_eq!(how(&*store, "b", &[1, 2]).await, by_b);
    // Another audience of the same provider holds it too; nobody else's does.
    write(&*store, vec![bound("a", 2, &[Some(("alice", 1))])]).await;
    let by_another = bound("b", 1, &[Some(("alice", 2)), Some(("alice", 1))]);
    conflicts(&*store, Vec::new(), vec![by_another]).await;
    assert_eq!(
        takes(&*store, "c", &[2]).await,
        [true],
        "nothing of it is left"
    );
    // An audience is made once.
    conflicts(&*store, Vec::new(), vec![first]).await;
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["one"]);
    assert_eq!(payloads(&queue(&*store, "bob", 0).await), ["one"]);
}

pub(crate) async fn one_of_many_who_deliver_first_is_bound(data: &impl Data) {
    const MANY: usize = 20;
    let store = data.open();
    let tasks: Vec<_> = (0..MANY)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let sender = format!("p{number}");
                let writes = vec![
                    bound(&sender, 1, &[Some(("alice", 1))]),
                    message_by(&sender, 1, &sender),
                ];
                let result = store.commit(change(Vec::new(), writes)).await;
                assert!(matches!(result, Ok(()) | Err(CommitError::Conflict)));
                result.is_ok()
            })
        })
        .collect();
    let mut won = Vec::new();
    for (number, task) in tasks.into_iter().enumerate() {
        if task.await.unwrap() {
            won.push(format!("p{number}"));
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), [&won[0]]);
    for number in 0..MANY {
        let sender = format!("p{number}");
        assert_eq!(takes(&*store, &sender, &[1]).await, [sender == won[0]]);
    }
}

pub(crate) async fn a_shared_queue_takes_from_everybody(data: &impl Data) {
    let store = data.open();
    write(&*store, vec![Write::SharedQueue(seat("alice", 1))]).await;
    for sender in ["a", "b", "a"] {
        assert_eq!(how(&*store, sender, &[1]).await, [Takes::Shared]);
    }
    write(&*store, vec![bound("a", 1, &[Some(("alice", 1))])]).await;
    write(&*store, vec![bound("b", 1, &[Some(("alice", 1))])]).await;
    write(
        &*store,
        vec![message_by("b", 1, "by b"), message_by("a", 1, "by a")],
    )
    .await;
    assert_eq!(
        payloads(&queue(&*store, "alice", 0).await),
        ["by b", "by a"]
    );
    // One that is bound stays so.
    write(&*store, vec![bound("a", 2, &[Some(("alice", 2))])]).await;
    write(&*store, vec![Write::SharedQueue(seat("alice", 2))]).await;
    assert_eq!(takes(&*store, "b", &[1, 2]).await, [true, false]);
}

fn close(name: &str) -> Write {
    Write::CloseClient {
        client_id: client(name),
        at: 2_000,
    }
}

pub(crate) async fn a_client_that_is_gone_takes_nothing(data: &impl Data) {
    let store = data.open();
    let both = [Some(("alice", 1)), Some(("bob", 2))];
    let audiences = vec![
        Write::SharedQueue(seat("alice", 9)),
        bound("a", 1, &both),
        bound("a", 2, &[Some(("bob", 3))]),
        bound("b", 1, &[Some(("bob", 4)), Some(("alice", 5))]),
        audience(7, &[Some("alice")]),
    ];
    write(&*store, audiences).await;
    write(&*store, vec![message_by("a", 1, "before")]).await;
    write(&*store, vec![close("alice")]).await;
    // Whatever queue it is, and whoever it is bound to.
    assert_eq!(takes(&*store, "a", &[1, 5, 8, 9]).await, [false; 4]);
    // What was said before has to be said anew.
    for (sender, number, known) in [("a", 1, false), ("a", 2, true), ("b", 1, false)] {
        let found = members(&*store, sender, number).await;
        assert_eq!(found.is_some(), known, "{sender} {number}");
        if !known {
            let late = vec![message_by(sender, number, "late")];
            conflicts(&*store, Vec::new(), late).await;
        }
    }
    conflicts(&*store, Vec::new(), vec![bound("a", 1, &both)]).await;
    let rest = bound("a", 1, &[None, both[1]]);
    write(&*store, vec![rest, message_by("a", 1, "after")]).await;
    let expected = Some(vec![None, Some(client("bob"))]);
    assert_eq!(members(&*store, "a", 1).await, expected);
    // The others keep what they have; nobody waits for her to acknowledge it.
    assert_eq!(
        payloads(&queue(&*store, "bob", 0).await),
        ["before", "after"]
    );
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["before"]);
    let last = queue(&*store, "bob", 0).await.pop().unwrap().sequence;
    let acknowledge = Write::Acknowledge {
        client_id: client("bob"),
        sequence: last,
    };
    write(&*store, vec![acknowledge]).await;
    store.sweep(0).await.unwrap();
    assert_eq!(queue(&*store, "bob", 0).await, []);
    assert_eq!(queue(&*store, "alice", 0).await, []);
    // Again changes nothing.
    write(&*store, vec![close("alice")]).await;
    assert_eq!(members(&*store, "a", 1).await, expected);
}

pub(crate) async fn peers_are_told_of_a_client_that_is_gone(data: &impl Data) {
    let store = data.open();
    let peer = |name, at: &str| Write::ClientPeer {
        client_id: client(name),
        provider: provider(at),
    };
    // Who delivers is one, but not its own provider.
    let writes = vec![
        bound("a", 1, &[Some(("alice", 1)), Some(("bob", 2))]),
        bound("here", 1, &[Some(("alice", 3))]),
        peer("alice", "b"),
        peer("alice", "a"),
        peer("bob", "c"),
        Write::OutboxAudience {
            digest: digest(1),
            recipients: vec![1],
        },
        Write::Outbox(delivery("b", 1, "first")),
        close("alice"),
        Write::Outbox(delivery("b", 1, "last")),
    ];
    write(&*store, writes).await;
    let told = async |at| {
        let rows = waiting_for(&*store, at).await.into_iter();
        let items = rows.map(|row| (row.created_at, row.item));
        items.collect::<Vec<_>>()
    };
    let alice = (2_000, OutboxItem::ClientDeleted(client("alice")));
    let around = |payload| (1_000, OutboxItem::Delivery(delivery("b", 1, payload)));
    for _ in 0..2 {
        assert_eq!(told("a").await, std::slice::from_ref(&alice));
        let expected = [around("first"), alice.clone(), around("last")];
        assert_eq!(told("b").await, expected);
        assert_eq!(told("c").await, []);
        assert_eq!(told("here").await, []);
        let lane = outbox_lane(client("alice").as_str().as_bytes());
        let mut lanes = vec![
            (provider("a"), lane),
            (provider("b"), lane),
            (provider("b"), outbox_lane(b"g")),
        ];
        lanes.sort();
        lanes.dedup();
        assert_eq!(store.outbox_lanes().await.unwrap(), lanes);
        // They are told once.
        write(&*store, vec![close("alice")]).await;
    }
    let id = waiting_for(&*store, "a").await[0].id;
    write(&*store, vec![Write::OutboxDone { id }, close("bob")]).await;
    let bob = (2_000, OutboxItem::ClientDeleted(client("bob")));
    assert_eq!(told("a").await, std::slice::from_ref(&bob));
    assert_eq!(told("c").await, [bob]);
}
