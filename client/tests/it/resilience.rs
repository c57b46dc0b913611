//! Lost requests, lost answers, restarts, and groups that others change at the same time.

use moh_client::{DsError, DsErrorCode, Error, Event, Fault, Operation, Outcome, Reason};

use crate::fake::Mishap;
use crate::scene::{SOON, Scene, add, received, texts};

#[tokio::test]
async fn a_lost_answer_to_a_message_leads_to_the_same_bytes() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.plan("send_message", Mishap::LoseAnswer);
    let error = alice.client.send(&group, "once").await.unwrap_err();
    assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Network);
    let alice = scene.restart(alice).await;
    let events = received(&alice).await;
    assert!(matches!(
        &events[..],
        [Event::Settled {
            operation: Operation::Message,
            outcome: Outcome::Accepted,
            ..
        }]
    ));
    let sent = scene.world.seen("send_message");
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0], sent[1]);
    alice.client.send(&group, "twice").await.unwrap();
    assert_eq!(texts(&received(&bob).await), ["once", "twice"]);
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_does_not_fork_the_group() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.plan("update_client", Mishap::LoseAnswer);
    assert!(matches!(
        alice.client.update(&group).await,
        Err(Error::Unsettled { .. })
    ));
    assert_eq!(alice.client.epoch(&group).await.unwrap(), 1);
    // Bob is in the next epoch already, and writes there: Alice must not read that first.
    assert_eq!(received(&bob).await.len(), 1);
    bob.client.send(&group, "in epoch 2").await.unwrap();
    let alice = scene.restart(alice).await;
    let events = received(&alice).await;
    assert!(matches!(
        &events[0],
        Event::Settled {
            operation: Operation::Update,
            outcome: Outcome::Accepted,
            ..
        }
    ));
    assert_eq!(texts(&events), ["in epoch 2"]);
    assert_eq!(alice.client.epoch(&group).await.unwrap(), 2);
    let sent = scene.world.seen("update_client");
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
}

#[tokio::test]
async fn what_arrives_waits_until_a_commit_is_settled() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.plan("update_client", Mishap::LoseAnswer);
    assert!(alice.client.update(&group).await.is_err());
    received(&bob).await;
    bob.client.send(&group, "for epoch 2").await.unwrap();
    // The owner cannot be reached, the queue can: the message is taken, and waits.
    for _ in 0..3 {
        scene.world.plan("update_client", Mishap::LoseRequest);
    }
    assert_eq!(received(&alice).await, []);
    let alice = scene.restart(alice).await;
    scene.world.state.lock().unwrap().clear_mishaps();
    let events = received(&alice).await;
    assert_eq!(texts(&events), ["for epoch 2"]);
}

#[tokio::test]
async fn who_comes_second_is_rebased() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    bob.client.update(&group).await.unwrap();
    // Alice has not seen that yet.
    assert_eq!(alice.client.update(&group).await.unwrap().epoch, 3);
    assert_eq!(scene.world.seen("update_client").len(), 3);
    bob.client.update(&group).await.unwrap();
    alice.client.send(&group, "after all that").await.unwrap();
    let events = received(&bob).await;
    assert_eq!(texts(&events), ["after all that"]);
    let sent = scene.world.seen("send_message");
    assert_eq!(sent.len(), 2);
    assert_ne!(sent[0], sent[1]);
    // What she learned meanwhile is not lost.
    let events = received(&alice).await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events
            .iter()
            .all(|event| matches!(event, Event::Updated { .. }))
    );
}

#[tokio::test]
async fn a_message_that_lapsed_is_sent_after_a_restart() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.plan("send_message", Mishap::LoseRequest);
    assert!(matches!(
        alice.client.send(&group, "late").await,
        Err(Error::Unsettled { .. })
    ));
    bob.client.update(&group).await.unwrap();
    let alice = scene.restart(alice).await;
    let events = received(&alice).await;
    let settled = |event: &Event| {
        matches!(
            event,
            Event::Settled {
                outcome: Outcome::Accepted,
                ..
            }
        )
    };
    assert!(events.iter().any(settled), "{events:?}");
    assert_eq!(texts(&received(&bob).await), ["late"]);
}

#[tokio::test]
async fn a_refusal_leaves_the_group_usable() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let no = DsError::new(DsErrorCode::POLICY_VIOLATION, "no");
    scene
        .world
        .plan("update_client", Mishap::Refuse(no.clone()));
    let error = alice.client.update(&group).await.unwrap_err();
    assert_eq!(error.refusal(), Some(&no));
    scene.world.plan("send_message", Mishap::Refuse(no.clone()));
    assert!(matches!(
        alice.client.send(&group, "x").await,
        Err(Error::Refused { .. })
    ));
    scene.world.plan("create_group", Mishap::Refuse(no));
    assert!(matches!(
        alice.client.create_group().await,
        Err(Error::Refused { .. })
    ));
    alice.client.update(&group).await.unwrap();
    alice.client.send(&group, "still here").await.unwrap();
    assert_eq!(texts(&received(&bob).await), ["still here"]);
    assert_eq!(alice.client.groups().await.unwrap(), [group]);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_is_always_outrun_gives_up() {
    let scene = Scene::new();
    let (alice, _bob, group) = scene.alice_and_bob().await;
    for _ in 0..64 {
        let error = DsError::new(DsErrorCode::WRONG_EPOCH, "").with_data(&1u64);
        scene.world.plan("update_client", Mishap::Refuse(error));
    }
    let error = alice.client.update(&group).await.unwrap_err();
    assert!(matches!(error, Error::Outrun { tries: 64, .. }) && error.is_temporary());
    assert_eq!(alice.client.update(&group).await.unwrap().epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_left_behind_is_told() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let error = || DsError::new(DsErrorCode::WRONG_EPOCH, "").with_data(&7u64);
    scene.world.plan("update_client", Mishap::Refuse(error()));
    let behind = alice.client.update(&group).await.unwrap_err();
    assert!(
        matches!(
            behind,
            Error::LeftBehind {
                known: 1,
                current: 7,
                ..
            }
        ) && behind.is_temporary(),
        "{behind}"
    );
    // A message is not lost by that.
    scene.world.plan("send_message", Mishap::Refuse(error()));
    let later = alice.client.send(&group, "later").await.unwrap_err();
    assert!(matches!(later, Error::Unsettled { .. }), "{later}");
    received(&alice).await;
    assert_eq!(texts(&received(&bob).await), ["later"]);
}

#[tokio::test(start_paused = true)]
async fn twenty_who_commit_at_once_all_get_through() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let id = alice.client.create_group().await.unwrap();
    let mut all = vec![alice];
    for number in 0..19 {
        let name: &'static str = format!("user{number}").leak();
        let party = scene.party("b.example", name).await;
        add(&all[0], &id, &party).await;
        all.push(party);
    }
    for party in &all {
        received(party).await;
    }
    let updates: Vec<_> = all
        .iter()
        .map(|party| {
            let (client, id) = (party.client.clone(), id.clone());
            tokio::spawn(async move { client.update(&id).await })
        })
        .collect();
    for update in updates {
        update.await.unwrap().unwrap();
    }
    received(&all[0]).await;
    assert_eq!(all[0].client.epoch(&id).await.unwrap(), 39);
    let attempts = scene.world.seen("update_client").len();
    assert!(attempts < 20 * 20, "{attempts}");
}

#[tokio::test]
async fn what_the_owner_proposes_is_committed_before_anything_else() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let carol = scene.party("c.example", "carol").await;
    let carols = carol.client.client_id();
    let alices = alice.client.user_id();
    carol.client.set_consent(alices, true).await.unwrap();
    alice
        .client
        .add_user(&group, carol.client.user_id())
        .await
        .unwrap();
    received(&carol).await;
    received(&bob).await;

    // Alice hears of it from the owner's refusal, and then once more from her queue.
    scene.world.propose_removal(&group, carols);
    alice.client.send(&group, "without carol").await.unwrap();
    let events = received(&bob).await;
    assert!(
        matches!(&events[0], Event::MembersChanged { removed, .. } if removed == std::slice::from_ref(carols))
    );
    assert_eq!(texts(&events), ["without carol"]);
    // It was her commit, but not her wish: she is told as well.
    let events = received(&alice).await;
    assert!(
        matches!(&events[..], [Event::MembersChanged { removed, .. }] if removed == std::slice::from_ref(carols))
    );
    let events = received(&carol).await;
    assert!(matches!(&events[..], [Event::Removed { by, .. }] if by == alice.client.client_id()));
    assert_eq!(carol.client.groups().await.unwrap(), []);
    assert!(matches!(
        carol.client.send(&group, "x").await,
        Err(Error::UnknownGroup(_))
    ));

    // She may be added again, and then Bob hears of a proposal from his queue.
    alice
        .client
        .add_user(&group, carol.client.user_id())
        .await
        .unwrap();
    let events = received(&carol).await;
    assert!(matches!(&events[..], [Event::Joined { .. }]), "{events:?}");
    scene.world.propose_removal(&group, carols);
    received(&bob).await;
    bob.client.send(&group, "again without").await.unwrap();
    assert_eq!(bob.client.members(&group).await.unwrap().len(), 2);
    assert_eq!(texts(&received(&alice).await), ["again without"]);
}

#[tokio::test]
async fn a_message_outlives_a_commit_that_has_to_come_first() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let carol = scene.party("c.example", "carol").await;
    carol
        .client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    alice
        .client
        .add_user(&group, carol.client.user_id())
        .await
        .unwrap();
    received(&bob).await;
    scene
        .world
        .propose_removal(&group, carol.client.client_id());
    scene.world.plan("update_client", Mishap::LoseAnswer);
    let error = alice.client.send(&group, "patience").await.unwrap_err();
    assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    let alice = scene.restart(alice).await;
    let outcomes: Vec<_> = received(&alice)
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::Settled {
                operation, outcome, ..
            } => Some((operation, outcome)),
            _ => None,
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            (Operation::Update, Outcome::Accepted),
            (Operation::Message, Outcome::Accepted)
        ]
    );
    assert_eq!(texts(&received(&bob).await), ["patience"]);
}

#[tokio::test]
async fn a_group_whose_creation_got_no_answer_is_there_later() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    scene.world.plan("create_group", Mishap::LoseAnswer);
    assert!(matches!(
        alice.client.create_group().await,
        Err(Error::Unsettled { .. })
    ));
    assert_eq!(alice.client.groups().await.unwrap(), []);
    let alice = scene.restart(alice).await;
    assert_eq!(received(&alice).await.len(), 1);
    let groups = alice.client.groups().await.unwrap();
    assert_eq!(groups.len(), 1);
    alice.client.update(&groups[0]).await.unwrap();
}

#[tokio::test]
async fn a_join_waits_for_an_owner_that_does_not_answer() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    bob.client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    let group = alice.client.create_group().await.unwrap();
    alice
        .client
        .add_user(&group, bob.client.user_id())
        .await
        .unwrap();
    alice.client.send(&group, "welcome").await.unwrap();
    for _ in 0..3 {
        scene.world.plan("welcome_info", Mishap::LoseAnswer);
    }
    assert_eq!(received(&bob).await, []);
    let bob = scene.restart(bob).await;
    scene.world.state.lock().unwrap().clear_mishaps();
    let events = received(&bob).await;
    assert!(matches!(&events[0], Event::Joined { .. }));
    assert_eq!(texts(&events), ["welcome"]);
}

#[tokio::test]
async fn a_refused_join_is_told_and_blocks_nothing() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    bob.client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    received(&bob).await;
    for _ in 0..2 {
        let group = alice.client.create_group().await.unwrap();
        alice
            .client
            .add_user(&group, bob.client.user_id())
            .await
            .unwrap();
    }
    let gone = DsError::new(DsErrorCode::EPOCH_NOT_KEPT, "gone");
    scene.world.plan("welcome_info", Mishap::Refuse(gone));
    let events = received(&bob).await;
    assert!(matches!(
        &events[0],
        Event::Undecodable {
            reason: Reason::JoinRefused,
            ..
        }
    ));
    assert!(matches!(&events[1], Event::Joined { .. }));
}

#[tokio::test]
async fn who_is_removed_and_added_again_meanwhile_joins() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    alice
        .client
        .remove_user(&group, bob.client.user_id())
        .await
        .unwrap();
    add(&alice, &group, &bob).await;
    // Of both he learns because this comes too late.
    let error = bob.client.update(&group).await.unwrap_err();
    assert!(matches!(error, Error::UnknownGroup(_)), "{error}");
    let events = received(&bob).await;
    assert!(
        matches!(&events[..], [Event::Removed { .. }, Event::Joined { .. }]),
        "{events:?}"
    );
    bob.client.send(&group, "back").await.unwrap();
    assert_eq!(texts(&received(&alice).await), ["back"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_before_a_removal_is_never_sent() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    for _ in 0..2 {
        let error = DsError::new(DsErrorCode::WRONG_EPOCH, "").with_data(&7u64);
        scene.world.plan("send_message", Mishap::Refuse(error));
    }
    let error = bob.client.send(&group, "for those of old").await;
    assert!(matches!(error, Err(Error::Unsettled { .. })));
    assert_eq!(received(&bob).await, []);
    // It is not tried again at once: first he is out, and in again.
    let him = bob.client.user_id();
    alice.client.remove_user(&group, him).await.unwrap();
    add(&alice, &group, &bob).await;
    let mut events = received(&bob).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    events.extend(received(&bob).await);
    assert!(
        matches!(
            &events[..],
            [
                Event::Settled {
                    operation: Operation::Message,
                    outcome: Outcome::Refused(_),
                    ..
                },
                Event::Removed { .. },
                Event::Joined { .. }
            ]
        ),
        "{events:?}"
    );
    assert!(texts(&received(&alice).await).is_empty());
}

#[tokio::test]
async fn a_message_that_a_removal_overtakes_is_refused_once() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.plan("send_message", Mishap::LoseRequest);
    let error = bob.client.send(&group, "for those of old").await;
    assert!(matches!(error, Err(Error::Unsettled { .. })));
    let him = bob.client.user_id();
    alice.client.remove_user(&group, him).await.unwrap();
    add(&alice, &group, &bob).await;
    let events = received(&bob).await;
    assert!(
        matches!(
            &events[..],
            [
                Event::Settled {
                    outcome: Outcome::Refused(_),
                    ..
                },
                Event::Removed { .. },
                Event::Joined { .. }
            ]
        ),
        "{events:?}"
    );
    assert!(texts(&received(&alice).await).is_empty());
}

#[tokio::test]
async fn what_waits_goes_out_when_the_provider_is_back() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    received(&alice).await;
    for _ in 0..2 {
        scene.world.plan("send_message", Mishap::LoseRequest);
    }
    scene.world.plan("read_queue", Mishap::LoseRequest);
    alice.client.send(&group, "hello").await.unwrap_err();
    // The second attempt fails, too, and then the queue cannot be read.
    let read = alice.client.receive(SOON).await;
    assert!(matches!(read, Err(Error::Unreachable { .. })), "{read:?}");
    alice.client.receive(SOON).await.unwrap();
    assert_eq!(texts(&received(&bob).await), ["hello"]);
}

#[tokio::test]
async fn what_waits_goes_out_when_the_owner_is_back() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    received(&bob).await;
    for _ in 0..2 {
        scene.world.plan("send_message", Mishap::LoseRequest);
    }
    bob.client.send(&group, "hello").await.unwrap_err();
    assert_eq!(bob.client.receive(SOON).await.unwrap(), []);
    assert_eq!(texts(&received(&alice).await), [""; 0]);
    alice.client.send(&group, "are you there?").await.unwrap();
    let events = bob.client.receive(SOON).await.unwrap();
    assert_eq!(texts(&events), ["are you there?"]);
    assert_eq!(texts(&received(&alice).await), ["hello"]);
}
