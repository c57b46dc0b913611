//! Changes as a whole: atomic, conditional, ordered, durable.

use super::*;

pub(crate) async fn a_change_is_made_whole_or_not_at_all(data: &impl Data) {
    let store = data.open();
    write(&*store, vec![audience(1, &[Some("alice")])]).await;
    let writes = || {
        vec![
            create("g"),
            message(1, None, "one"),
            Write::OutboxAudience {
                digest: digest(9),
                recipients: vec![9],
            },
            Write::Outbox(delivery("b", 9, "two")),
            Write::Client {
                client_id: client("alice"),
                client: known_client("k"),
            },
            Write::KeyPackage(key_package(1, 1, false, 100)),
        ]
    };
    let nothing_is_there = async || {
        assert_eq!(store.group(&group_id("g")).await.unwrap(), None);
        assert_eq!(queue(&*store, "alice", 0).await, []);
        assert_eq!(store.outbox_lanes().await.unwrap(), []);
        assert_eq!(store.outbox_audience(&digest(9)).await.unwrap(), None);
        assert_eq!(store.client(&client("alice")).await.unwrap(), None);
        assert_eq!(count_key_packages(&*store, 0).await, 0);
    };
    // The last expectation does not hold.
    let expect = vec![
        Expect::Group(group_id("g"), None),
        Expect::Group(group_id("other"), Some(3)),
    ];
    conflicts(&*store, expect, writes()).await;
    nothing_is_there().await;
    // The last write presumes an audience that is not there.
    let lost = [writes(), vec![message(2, None, "lost")]].concat();
    conflicts(&*store, Vec::new(), lost).await;
    nothing_is_there().await;
    // The last write cannot be made at all.
    let impossible = [writes(), vec![append("other", 7, 0, None, 0)]].concat();
    let result = store.commit(change(Vec::new(), impossible)).await;
    assert!(matches!(result, Err(CommitError::Failed(_))), "{result:?}");
    nothing_is_there().await;

    write(&*store, writes()).await;
    assert_eq!(store.group_version(&group_id("g")).await.unwrap(), Some(0));
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["one"]);
    assert_eq!(
        store.outbox_lanes().await.unwrap(),
        [(provider("b"), outbox_lane(b"g"))]
    );
    assert!(store.client(&client("alice")).await.unwrap().is_some());
    assert_eq!(count_key_packages(&*store, 0).await, 1);
}

fn what_is_expected_later() -> Vec<Write> {
    vec![
        create("g"),
        Write::Client {
            client_id: client("alice"),
            client: known_client("k"),
        },
        Write::KeyPackage(key_package(1, 1, false, 100)),
        Write::Answer {
            group_id: group_id("g"),
            message_hash: [1; 32],
            answer: an_answer(1),
        },
        Write::Delivered {
            sender: provider("a"),
            delivery_id: delivery_id(1),
            result: vec![0],
            received_at: 1,
        },
        Write::UseInvitation {
            invitation: [1; 12],
            expires_at: 100,
        },
        Write::Client {
            client_id: client("carol"),
            client: known_client("k"),
        },
        Write::DeleteClient {
            client_id: client("carol"),
            at: 1,
        },
    ]
}

pub(crate) async fn each_expectation_can_hold_or_not(data: &impl Data) {
    let store = data.open();
    let reference = key_package(1, 1, false, 100).reference;
    let left = |now, left| Expect::KeyPackagesLeft {
        pool: pool("alice"),
        now,
        left,
    };
    // What holds of a store with nothing in it, and what then holds instead.
    let at_first = [
        Expect::Group(group_id("g"), None),
        Expect::NoClient(client("alice")),
        Expect::ClientCount(user("alice"), 0),
        Expect::UnusedInvitation([1; 12]),
        Expect::NotDeleted(client("carol")),
        left(0, 0),
        Expect::NewMessage(group_id("g"), [1; 32]),
        Expect::NewDelivery(provider("a"), delivery_id(1)),
    ];
    let later = [
        Expect::Group(group_id("g"), Some(0)),
        Expect::ClientCount(user("alice"), 1),
        Expect::Client(client("alice")),
        left(99, 1),
        Expect::KeyPackage(reference.clone()),
    ];
    let never = [
        Expect::Group(group_id("g"), Some(1)),
        Expect::Group(group_id("g"), Some(u64::MAX)),
        Expect::ClientCount(user("alice"), 2),
        Expect::Client(client("bob")),
        Expect::Client(client("carol")),
        left(0, 2),
    ];
    let holds = async |expect: &Expect| match store
        .commit(change(vec![expect.clone()], Vec::new()))
        .await
    {
        Ok(()) => true,
        Err(CommitError::Conflict) => false,
        Err(error) => panic!("{error}"),
    };
    for expect in &at_first {
        assert!(holds(expect).await, "{expect:?}");
    }
    for expect in later.iter().chain(&never) {
        assert!(!holds(expect).await, "{expect:?}");
    }
    let writes = what_is_expected_later();
    store
        .commit(change(at_first.to_vec(), writes))
        .await
        .unwrap();
    for expect in at_first.iter().chain(&never) {
        assert!(!holds(expect).await, "{expect:?}");
    }
    assert!(holds(&left(100, 0)).await);
    assert!(holds(&Expect::UnusedInvitation([2; 12])).await);
    assert!(holds(&Expect::NewDelivery(provider("b"), delivery_id(1))).await);
    assert!(holds(&Expect::NewMessage(group_id("h"), [1; 32])).await);
    store
        .commit(change(later.to_vec(), Vec::new()))
        .await
        .unwrap();
    write(&*store, vec![Write::RemoveKeyPackage(reference.clone())]).await;
    assert!(!holds(&Expect::KeyPackage(reference)).await);
}

pub(crate) async fn one_of_many_changes_of_a_version_wins(data: &impl Data) {
    const TASKS: u64 = 32;
    const ROUNDS: u64 = 10;
    let store = data.open();
    write(&*store, vec![create("g"), audience(1, &[Some("alice")])]).await;
    for version in 1..=ROUNDS {
        let attempts: Vec<_> = (0..TASKS)
            .map(|task| {
                let store = Arc::clone(&store);
                let attempt = change(
                    vec![Expect::Group(group_id("g"), Some(version - 1))],
                    vec![
                        append("g", version, version, None, 0),
                        message(1, None, &format!("{version} by {task}")),
                    ],
                );
                tokio::spawn(async move { store.commit(attempt).await })
            })
            .collect();
        let mut won = 0;
        for attempt in attempts {
            match attempt.await.unwrap() {
                Ok(()) => won += 1,
                Err(CommitError::Conflict) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1, "version {version}");
    }
    assert_eq!(
        store.group_version(&group_id("g")).await.unwrap(),
        Some(ROUNDS)
    );
    let messages = queue(&*store, "alice", 0).await;
    for (version, payload) in (1..=ROUNDS).zip(payloads(&messages)) {
        assert!(payload.starts_with(&format!("{version} by ")), "{payload}");
    }
    assert_eq!(messages.len() as u64, ROUNDS);
}

pub(crate) async fn what_is_committed_is_still_there_when_opened_again(data: &impl Data) {
    let store = data.open();
    write(
        &*store,
        vec![create("g"), audience(1, &[Some("alice"), None])],
    )
    .await;
    for version in 1..=20 {
        let writes = vec![
            append("g", version, version / 2, None, 0),
            message(1, None, &version.to_string()),
        ];
        write(&*store, writes).await;
    }
    let group = store.group(&group_id("g")).await.unwrap();
    let messages = queue(&*store, "alice", 0).await;
    drop(store);

    let store = data.open();
    assert_eq!(store.group(&group_id("g")).await.unwrap(), group);
    assert_eq!(group.unwrap().log.len(), 20);
    assert_eq!(queue(&*store, "alice", 0).await, messages);
    assert_eq!(messages.len(), 20);
    let members = store.audience(&provider("a"), &digest(1)).await.unwrap();
    assert_eq!(members, Some(vec![Some(client("alice")), None]));
}

pub(crate) async fn numbers_are_never_given_twice(data: &impl Data) {
    let store = data.open();
    let recipients = Write::OutboxAudience {
        digest: digest(1),
        recipients: vec![1],
    };
    write(&*store, vec![recipients, audience(1, &[Some("alice")])]).await;
    let (mut last_sequence, mut last_id) = (0, 0);
    for _ in 0..3 {
        let writes = vec![message(1, None, "x"), Write::Outbox(delivery("b", 1, "y"))];
        write(&*store, writes).await;
        let row = queue(&*store, "alice", last_sequence).await.remove(0);
        assert!(row.sequence > last_sequence);
        last_sequence = row.sequence;
        let waiting = waiting_for(&*store, "b").await.remove(0);
        assert!(waiting.id > last_id);
        last_id = waiting.id;
        // Everything is gone again; the numbers go on, also when opened again.
        let acknowledge = Write::Acknowledge {
            client_id: client("alice"),
            sequence: last_sequence,
        };
        write(
            &*store,
            vec![acknowledge, Write::OutboxDone { id: last_id }],
        )
        .await;
        store.sweep(0).await.unwrap();
    }
    drop(store);
    let store = data.open();
    write(&*store, vec![message(1, None, "x")]).await;
    assert_eq!(queue(&*store, "alice", last_sequence).await.len(), 1);
}
