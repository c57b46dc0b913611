//! Requests to connect, and groups, that are not what they seem.

use moh_client::{ConnectionState, DisconnectReason, DsError, DsErrorCode, Error, Event, Reason};

use crate::connections::{connected, disconnected, has_asked, states, strangers};
use crate::fake::Mishap;
use crate::scene::{Party, Scene, add, received, texts};

/// Why items could not be read.
async fn reasons(party: &Party) -> Vec<Reason> {
    received(party)
        .await
        .iter()
        .filter_map(|event| match event {
            Event::Undecodable { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_request_for_a_group_that_is_about_to_be_joined_is_none() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    bob.client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    let group = alice.client.create_group().await.unwrap();
    for _ in 0..8 {
        scene.world.plan("welcome_info", Mishap::LoseAnswer);
    }
    add(&alice, &group, &bob).await;
    received(&bob).await;
    // Made by hand: his connection KeyPackages are for connection groups, so it is refused anyway;
    // what counts is that the queue goes on.
    alice.client.connect(bob.client.user_id()).await.unwrap();
    let mut request = scene.world.last_request(bob.client.client_id());
    let welcome = scene.world.welcome(&group, bob.client.client_id());
    request.welcome = moh_messages::MlsBytes::new(welcome).unwrap();
    scene
        .world
        .deliver_request(bob.client.client_id(), "a.example", request);
    assert_eq!(reasons(&bob).await, [Reason::Refused]);
    let bob = scene.restart(bob).await;
    scene.world.state.lock().unwrap().clear_mishaps();
    let events = received(&bob).await;
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Joined { .. })),
        "{events:?}"
    );
}

#[tokio::test]
async fn what_is_asked_while_an_end_is_owed_waits_for_it() {
    let scene = Scene::new();
    let (alice, bob, _group) = connected(&scene).await;
    for _ in 0..4 {
        scene.world.plan("set_consent", Mishap::LoseRequest);
    }
    bob.client
        .disconnect(alice.client.user_id())
        .await
        .unwrap_err();
    received(&bob).await;
    received(&alice).await;
    alice
        .client
        .disconnect(bob.client.user_id())
        .await
        .unwrap_err();
    let alice = scene.restart(alice).await;
    scene.world.state.lock().unwrap().clear_mishaps();
    received(&alice).await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    let bob = scene.restart(bob).await;
    let events = received(&bob).await;
    assert!(has_asked(&events, &alice), "{events:?}");
    // The consent of before is withdrawn, whatever is asked now.
    let other = alice.client.create_group().await.unwrap();
    let added = alice.client.add_user(&other, bob.client.user_id()).await;
    assert!(matches!(added, Err(Error::NoConsent(_))), "{added:?}");
    let joined = bob.client.accept(alice.client.user_id()).await.unwrap();
    assert_eq!(joined, group);
}

#[tokio::test]
async fn a_connection_group_is_of_two() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let carol = scene.party("c.example", "carol").await;
    // Somebody whose provider lets a third one in.
    alice.client.connect(bob.client.user_id()).await.unwrap();
    let group = alice.client.connections().await.unwrap()[0]
        .group
        .clone()
        .unwrap();
    received(&bob).await;
    carol
        .client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    scene.world.allow_more_invitations(&group);
    alice
        .client
        .add_user(&group, carol.client.user_id())
        .await
        .unwrap();
    // It is over for her, too.
    let events = received(&alice).await;
    assert_eq!(disconnected(&events), [DisconnectReason::Ended]);
    let accepted = bob.client.accept(alice.client.user_id()).await;
    assert!(accepted.is_err(), "{accepted:?}");
    assert!(
        received(&bob)
            .await
            .iter()
            .all(|event| !matches!(event, Event::Message { .. }))
    );
    assert_eq!(states(&bob).await, []);
    // Carol was not asked, and is not connected with anybody.
    assert_eq!(states(&carol).await, []);
    assert!(
        received(&carol)
            .await
            .iter()
            .all(|event| !matches!(event, Event::Connected { .. }))
    );
}

#[tokio::test]
async fn a_provider_that_refuses_an_acceptance_is_not_asked_all_the_time() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    let no = || DsError::new(DsErrorCode::POLICY_VIOLATION, "no");
    for _ in 0..2 {
        scene.world.plan("set_consent", Mishap::Refuse(no()));
    }
    let error = bob.client.accept(alice.client.user_id()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(&no()));
    let events = received(&bob).await;
    assert_eq!(disconnected(&events), [DisconnectReason::Withdrawn]);
    assert_eq!(states(&bob).await, []);
    assert!(scene.world.seen("set_consent").len() <= 3);
    assert_eq!(
        disconnected(&received(&alice).await),
        [DisconnectReason::Ended]
    );
}

#[tokio::test]
async fn a_name_of_a_group_in_a_request_keeps_nobody_out() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    // Mallory's request has the name of the group that Bob is about to be added to.
    let mallory = scene.party("c.example", "mallory").await;
    scene.world.next_group_id(b"the same name");
    mallory.client.connect(bob.client.user_id()).await.unwrap();
    assert!(has_asked(&received(&bob).await, &mallory));
    scene.world.end_quietly(b"the same name");
    scene.world.next_group_id(b"the same name");
    let group = alice.client.create_group().await.unwrap();
    add(&alice, &group, &bob).await;
    alice.client.send(&group, "hello").await.unwrap();
    let events = received(&bob).await;
    assert_eq!(texts(&events), ["hello"], "{events:?}");
    assert_eq!(disconnected(&events), [DisconnectReason::Ended]);
    assert_eq!(bob.client.groups().await.unwrap(), [group]);
}

#[tokio::test]
async fn who_accepts_late_does_not_end_up_among_strangers() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    scene.world.next_group_id(b"the same name");
    alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    // Her provider shows another group in the place of theirs.
    scene.world.end_quietly(b"the same name");
    let mallory = scene.party("a.example", "mallory").await;
    scene.world.next_group_id(b"the same name");
    let group = mallory.client.create_group().await.unwrap();
    add(&mallory, &group, &bob).await;
    let gone = DsError::new(DsErrorCode::EPOCH_NOT_KEPT, "too late");
    scene.world.plan("welcome_info", Mishap::Refuse(gone));
    let accepted = bob.client.accept(alice.client.user_id()).await;
    assert!(matches!(accepted, Err(Error::NoRequest(_))), "{accepted:?}");
    // Not even for a moment.
    assert_eq!(scene.world.seen("external_join").len(), 1);
    assert_eq!(scene.world.seen("update_client").len(), 0);
    let events = received(&bob).await;
    assert_eq!(disconnected(&events), [DisconnectReason::Ended]);
    assert!(
        events
            .iter()
            .all(|event| !matches!(event, Event::Connected { .. })),
        "{events:?}"
    );
    assert_eq!(states(&bob).await, []);
    // Nor may she add him to groups.
    let other = alice.client.create_group().await.unwrap();
    let added = alice.client.add_user(&other, bob.client.user_id()).await;
    assert!(matches!(added, Err(Error::NoConsent(_))), "{added:?}");
}

#[tokio::test]
async fn who_deletes_or_forgets_a_connection_group_consents_no_longer() {
    let scene = Scene::new();
    for forgets in [false, true] {
        let alice = scene.party("a.example", &format!("alice{forgets}")).await;
        let bob = scene.party("b.example", &format!("bob{forgets}")).await;
        let group = alice.client.connect(bob.client.user_id()).await.unwrap();
        received(&bob).await;
        bob.client.accept(alice.client.user_id()).await.unwrap();
        received(&bob).await;
        received(&alice).await;
        if forgets {
            bob.client.forget_group(&group).await.unwrap();
        } else {
            bob.client.delete_group(&group).await.unwrap();
        }
        received(&bob).await;
        assert_eq!(states(&bob).await, []);
        let other = alice.client.create_group().await.unwrap();
        let added = alice.client.add_user(&other, bob.client.user_id()).await;
        assert!(matches!(added, Err(Error::NoConsent(_))), "{added:?}");
    }
}

#[tokio::test]
async fn nothing_is_lost_of_what_waits_in_the_group_of_a_connection() {
    let scene = Scene::new();
    let (alice, bob, group) = connected(&scene).await;
    for _ in 0..64 {
        scene.world.plan("update_client", Mishap::LoseRequest);
    }
    bob.client.update(&group).await.unwrap_err();
    // More than what is kept of a group that nobody has accepted.
    let written: Vec<_> = (0..260).map(|number| number.to_string()).collect();
    for text in &written {
        alice.client.send(&group, text.as_str()).await.unwrap();
    }
    assert_eq!(texts(&received(&bob).await), [""; 0]);
    scene.world.state.lock().unwrap().clear_mishaps();
    let bob = scene.restart(bob).await;
    assert_eq!(texts(&received(&bob).await), written);
}

#[tokio::test]
async fn of_what_is_asked_again_meanwhile_the_last_counts() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    for _ in 0..16 {
        scene.world.plan("welcome_info", Mishap::LoseAnswer);
    }
    let him = bob.client.client_id().clone();
    bob.client.accept(alice.client.user_id()).await.unwrap_err();
    for _ in 0..3 {
        let request = scene.world.last_request(&him);
        scene.world.deliver_request(&him, "a.example", request);
    }
    assert_eq!(received(&bob).await, []);
    scene.world.state.lock().unwrap().clear_mishaps();
    let bob = scene.restart(bob).await;
    assert_eq!(reasons(&bob).await, [Reason::NoKeyPackage]);
    assert_eq!(
        states(&bob).await,
        [("alice".to_owned(), ConnectionState::Connected)]
    );
}
