//! Those who leave, and what is pending until they have left.

use moh_client::{DsError, DsErrorCode, Error, Event, Operation, Outcome, Reason};

use crate::fake::Mishap;
use crate::scene::{Scene, add, received, texts};

fn is_leaving<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Leaving(_)))
}

#[tokio::test]
async fn who_leaves_is_gone_with_the_next_commit() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    assert!(!bob.client.is_leaving(&group).await.unwrap());
    assert_eq!(bob.client.leave(&group).await.unwrap().epoch, 2);
    for party in [&alice, &carol] {
        assert_eq!(received(party).await, []);
        assert!(!party.client.is_leaving(&group).await.unwrap());
    }
    assert!(bob.client.is_leaving(&group).await.unwrap());
    // Until then he reads, and that is all.
    carol.client.send(&group, "bye").await.unwrap();
    assert!(is_leaving(bob.client.send(&group, "x").await));
    assert!(is_leaving(bob.client.update(&group).await));
    assert!(is_leaving(bob.client.leave(&group).await));
    let events = received(&bob).await;
    assert!(
        matches!(&events[..], [Event::Removed { by, .. }] if by == carol.client.client_id()),
        "{events:?}"
    );
    assert_eq!(bob.client.groups().await.unwrap(), []);
    let events = received(&alice).await;
    assert!(
        matches!(&events[0], Event::MembersChanged { removed, .. } if removed == std::slice::from_ref(bob.client.client_id()))
    );
    assert_eq!(texts(&events), ["bye"]);
}

#[tokio::test]
async fn a_proposal_to_leave_whose_answer_is_lost_is_made_once() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    scene.world.plan("self_remove_client", Mishap::LoseAnswer);
    let error = bob.client.leave(&group).await.unwrap_err();
    assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    let bob = scene.restart(bob).await;
    let events = received(&bob).await;
    assert!(matches!(
        events.last(),
        Some(Event::Settled {
            operation: Operation::Leave,
            outcome: Outcome::Accepted,
            ..
        })
    ));
    let sent = scene.world.seen("self_remove_client");
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    alice.client.update(&group).await.unwrap();
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 1);
    assert!(matches!(&received(&bob).await[..], [Event::Removed { .. }]));
}

#[tokio::test]
async fn who_has_left_before_the_answer_came_learns_it_from_the_commit() {
    let scene = Scene::new();
    for code in [DsErrorCode::WRONG_EPOCH, DsErrorCode::UNKNOWN_GROUP] {
        let alice = scene.party("a.example", &format!("alice{}", code.0)).await;
        let bob = scene.party("b.example", &format!("bob{}", code.0)).await;
        let group = alice.client.create_group().await.unwrap();
        add(&alice, &group, &bob).await;
        received(&bob).await;
        scene.world.plan("self_remove_client", Mishap::LoseAnswer);
        let error = bob.client.leave(&group).await.unwrap_err();
        assert!(matches!(error, Error::Unsettled { .. }), "{error}");
        alice.client.update(&group).await.unwrap();
        let refusal = DsError::new(code, "").with_data(&2u64);
        let refusal = Mishap::Refuse(refusal);
        scene.world.plan("self_remove_client", refusal);
        let events = received(&bob).await;
        assert!(
            matches!(
                &events[..],
                [
                    Event::Settled {
                        operation: Operation::Leave,
                        outcome: Outcome::Refused(_),
                        ..
                    },
                    Event::Removed { .. }
                ]
            ),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn a_proposal_that_comes_second_is_made_anew() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    alice.client.update(&group).await.unwrap();
    assert_eq!(bob.client.leave(&group).await.unwrap().epoch, 2);
    assert_eq!(scene.world.seen("self_remove_client").len(), 2);
    received(&alice).await;
    alice.client.send(&group, "bye").await.unwrap();
    let events = received(&bob).await;
    assert!(matches!(
        &events[..],
        [Event::Updated { .. }, Event::Removed { .. }]
    ));
}

#[tokio::test]
async fn the_last_one_cannot_leave_and_stays() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let group = alice.client.create_group().await.unwrap();
    let error = alice.client.leave(&group).await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.code, DsErrorCode::POLICY_VIOLATION);
    assert_eq!(alice.client.update(&group).await.unwrap().epoch, 1);
    alice.client.delete_group(&group).await.unwrap();
}

#[tokio::test]
async fn whom_the_owner_is_about_to_remove_waits_for_it() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    scene
        .world
        .propose_removal(&group, carol.client.client_id());
    bob.client.leave(&group).await.unwrap();
    received(&carol).await;
    assert!(is_leaving(carol.client.send(&group, "x").await));
    assert!(is_leaving(carol.client.update(&group).await));
    assert!(is_leaving(carol.client.leave(&group).await));
    // One commit takes both, whatever else it does; its sender need not have heard of either.
    let dave = scene.party("b.example", "dave").await;
    add(&alice, &group, &dave).await;
    for party in [&bob, &carol] {
        assert!(matches!(
            &received(party).await[..],
            [Event::Removed { .. }]
        ));
    }
    let members = alice.client.members(&group).await.unwrap();
    let (her, his) = (alice.client.client_id(), dave.client.client_id());
    assert!(members.len() == 2 && members.contains(her) && members.contains(his));
}

#[tokio::test]
async fn who_was_proposed_is_not_removed_twice() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    bob.client.leave(&group).await.unwrap();
    received(&alice).await;
    let him = bob.client.user_id();
    alice.client.remove_user(&group, him).await.unwrap();
    assert_eq!(scene.world.seen("remove_users").len(), 0);
    carol.client.leave(&group).await.unwrap();
    received(&alice).await;
    alice.client.delete_group(&group).await.unwrap();
    for party in [&bob, &carol] {
        let events = received(party).await;
        assert!(matches!(events.last(), Some(Event::Removed { .. })));
    }
}

#[tokio::test]
async fn proposals_of_an_epoch_that_is_not_known_yet_are_awaited() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    scene.world.take_older_messages(&group);
    bob.client.update(&group).await.unwrap();
    scene
        .world
        .propose_removal(&group, carol.client.client_id());
    // Alice is an epoch behind, in which her message would have been taken.
    alice.client.send(&group, "at last").await.unwrap();
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 2);
    assert_eq!(texts(&received(&bob).await), ["at last"]);
}

#[tokio::test]
async fn what_others_have_committed_meanwhile_is_not_committed_again() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    scene
        .world
        .propose_removal(&group, carol.client.client_id());
    received(&alice).await;
    received(&bob).await;
    bob.client.send(&group, "one").await.unwrap();
    alice.client.send(&group, "two").await.unwrap();
    assert_eq!(alice.client.epoch(&group).await.unwrap(), 3);
    assert_eq!(texts(&received(&alice).await), ["one"]);
    assert_eq!(texts(&received(&bob).await), ["two"]);
}

#[tokio::test]
async fn a_proposal_that_is_none_is_the_owners_fault() {
    let scene = Scene::new();
    let (alice, _bob, group) = scene.alice_and_bob().await;
    let garbage = moh_messages::HandshakeBytes::new(b"garbage".to_vec()).unwrap();
    let proposals = moh_messages::List::<_, 256>::new(vec![garbage]).unwrap();
    let error = DsError::new(DsErrorCode::PENDING_PROPOSALS, "").with_data(&proposals);
    scene.world.plan("update_client", Mishap::Refuse(error));
    let error = alice.client.update(&group).await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
    alice.client.update(&group).await.unwrap();
}

#[tokio::test]
async fn an_owner_proposes_nothing_but_removals() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let spy = scene.party("a.example", "spy").await;
    let add = scene.world.signed_add(&group, spy.client.client_id());
    let context = scene.world.signed_context(&group);
    let to = alice.client.client_id();
    for proposal in [add, context] {
        scene.world.deliver(to, "a.example", proposal.clone());
        let events = received(&alice).await;
        assert!(
            matches!(
                &events[..],
                [Event::Undecodable {
                    group: Some(_),
                    reason: Reason::Refused,
                    ..
                }]
            ),
            "{events:?}"
        );
        // Nor is it taken up where the owner says that it has to be.
        let proposal = moh_messages::HandshakeBytes::new(proposal).unwrap();
        let proposals = moh_messages::List::<_, 256>::new(vec![proposal]).unwrap();
        let error = DsError::new(DsErrorCode::PENDING_PROPOSALS, "").with_data(&proposals);
        scene.world.plan("update_client", Mishap::Refuse(error));
        let error = alice.client.update(&group).await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
    }
    alice.client.update(&group).await.unwrap();
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 2);
    alice.client.send(&group, "to Bob").await.unwrap();
    assert_eq!(texts(&received(&bob).await), ["to Bob"]);
}
