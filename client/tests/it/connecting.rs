//! Whatever is lost while two users get to know each other, and whenever a process dies.

use moh_client::{ConnectionState, DisconnectReason, DsError, DsErrorCode, Error, Event};

use crate::connections::{disconnected, has_asked, is_connected, states, strangers};
use crate::fake::Mishap;
use crate::scene::{Party, Scene, received};

const MISHAPS: [Mishap; 2] = [Mishap::LoseRequest, Mishap::LoseAnswer];

/// As after a crash, when everything can be reached again.
async fn anew(scene: &Scene, party: Party) -> Party {
    let party = scene.restart(party).await;
    scene.world.state.lock().unwrap().clear_mishaps();
    party
}

#[tokio::test]
async fn a_request_that_was_not_begun_leaves_nothing() {
    for name in [
        "connection_key_packages",
        "get_queue_configs",
        "request_group_id",
    ] {
        for mishap in MISHAPS {
            let scene = Scene::new();
            let (alice, bob) = strangers(&scene).await;
            scene.world.plan(name, mishap);
            alice
                .client
                .connect(bob.client.user_id())
                .await
                .unwrap_err();
            let alice = anew(&scene, alice).await;
            assert_eq!(received(&alice).await, []);
            assert_eq!(states(&alice).await, []);
            alice.client.connect(bob.client.user_id()).await.unwrap();
            assert!(has_asked(&received(&bob).await, &alice));
        }
    }
}

#[tokio::test]
async fn a_request_goes_on_where_it_was_interrupted() {
    for name in ["create_group", "add_users"] {
        for mishap in MISHAPS {
            let scene = Scene::new();
            let (alice, bob) = strangers(&scene).await;
            scene.world.plan(name, mishap.clone());
            let error = alice
                .client
                .connect(bob.client.user_id())
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Unsettled { .. }), "{error}");
            let alice = anew(&scene, alice).await;
            received(&alice).await;
            let sent = [("bob".to_owned(), ConnectionState::Sent)];
            assert_eq!(states(&alice).await, sent, "{name} {mishap:?}");
            let events = received(&bob).await;
            assert!(has_asked(&events, &alice), "{name} {mishap:?} {events:?}");
            let group = bob.client.accept(alice.client.user_id()).await.unwrap();
            assert!(is_connected(&received(&alice).await, &bob, &group));
            assert_eq!(scene.world.state.lock().unwrap().groups.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_request_goes_on_with_other_key_packages() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    scene.world.plan("create_group", Mishap::LoseAnswer);
    alice
        .client
        .connect(bob.client.user_id())
        .await
        .unwrap_err();
    // Also where these cannot be fetched at first.
    let alice = anew(&scene, alice).await;
    scene
        .world
        .plan("connection_key_packages", Mishap::LoseRequest);
    received(&alice).await;
    assert_eq!(received(&bob).await, []);
    let alice = anew(&scene, alice).await;
    received(&alice).await;
    assert!(has_asked(&received(&bob).await, &alice));
}

#[tokio::test]
async fn a_request_that_cannot_go_on_is_given_up() {
    let no = || DsError::new(DsErrorCode::POLICY_VIOLATION, "no");
    for name in ["create_group", "add_users"] {
        let scene = Scene::new();
        let (alice, bob) = strangers(&scene).await;
        // While the caller waits, it is the caller's error.
        scene.world.plan(name, Mishap::Refuse(no()));
        let error = alice
            .client
            .connect(bob.client.user_id())
            .await
            .unwrap_err();
        assert_eq!(error.refusal(), Some(&no()), "{error}");
        let events = received(&alice).await;
        assert_eq!(disconnected(&events), []);
        assert_eq!(states(&alice).await, []);
        assert_eq!(received(&bob).await, []);
        let groups = if name == "add_users" { 1 } else { 0 };
        assert_eq!(scene.world.seen("delete_group").len(), groups);
        alice.client.connect(bob.client.user_id()).await.unwrap();
        assert!(has_asked(&received(&bob).await, &alice));
    }
    // When nobody waits any more, it is an event.
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    scene.world.plan("add_users", Mishap::LoseRequest);
    alice
        .client
        .connect(bob.client.user_id())
        .await
        .unwrap_err();
    let alice = anew(&scene, alice).await;
    scene.world.plan("add_users", Mishap::Refuse(no()));
    scene.world.plan("add_users", Mishap::Refuse(no()));
    let events = received(&alice).await;
    assert_eq!(
        disconnected(&events),
        [DisconnectReason::NotSent],
        "{events:?}"
    );
    assert_eq!(states(&alice).await, []);
    assert_eq!(scene.world.seen("delete_group").len(), 1);
}

#[tokio::test]
async fn an_acceptance_goes_on_where_it_was_interrupted() {
    let names = ["welcome_info", "update_client", "set_consent"];
    for name in names {
        for mishap in MISHAPS {
            let scene = Scene::new();
            let (alice, bob) = strangers(&scene).await;
            let group = alice.client.connect(bob.client.user_id()).await.unwrap();
            assert!(has_asked(&received(&bob).await, &alice));
            scene.world.plan(name, mishap.clone());
            let error = bob.client.accept(alice.client.user_id()).await.unwrap_err();
            assert!(matches!(error, Error::Unsettled { .. }), "{name} {error}");
            let bob = anew(&scene, bob).await;
            let events = received(&bob).await;
            assert!(
                is_connected(&events, &alice, &group),
                "{name} {mishap:?} {events:?}"
            );
            assert!(is_connected(&received(&alice).await, &bob, &group));
            let connected = [("alice".to_owned(), ConnectionState::Connected)];
            assert_eq!(states(&bob).await, connected);
            let other = alice.client.create_group().await.unwrap();
            alice
                .client
                .add_user(&other, bob.client.user_id())
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_decision_of_another_device_is_followed_later() {
    for mishap in MISHAPS {
        let scene = Scene::new();
        let (alice, bob) = strangers(&scene).await;
        let tablet = scene.device(&bob, "tablet").await;
        let group = alice.client.connect(bob.client.user_id()).await.unwrap();
        received(&bob).await;
        received(&tablet).await;
        bob.client.accept(alice.client.user_id()).await.unwrap();
        for _ in 0..4 {
            scene.world.plan("welcome_info", mishap.clone());
        }
        assert_eq!(received(&tablet).await, []);
        let tablet = anew(&scene, tablet).await;
        assert!(is_connected(&received(&tablet).await, &alice, &group));
    }
}

#[tokio::test]
async fn an_end_goes_on_where_it_was_interrupted() {
    for name in ["set_consent", "delete_group"] {
        for mishap in MISHAPS {
            let scene = Scene::new();
            let (alice, bob) = strangers(&scene).await;
            alice.client.connect(bob.client.user_id()).await.unwrap();
            received(&bob).await;
            let group = bob.client.accept(alice.client.user_id()).await.unwrap();
            received(&bob).await;
            received(&alice).await;
            scene.world.plan(name, mishap.clone());
            bob.client
                .disconnect(alice.client.user_id())
                .await
                .unwrap_err();
            assert_eq!(states(&bob).await, []);
            let bob = anew(&scene, bob).await;
            let events = received(&bob).await;
            assert!(disconnected(&events).is_empty(), "{events:?}");
            assert!(bob.client.members(&group).await.is_err());
            let events = received(&alice).await;
            assert_eq!(
                disconnected(&events),
                [DisconnectReason::Ended],
                "{name} {mishap:?}"
            );
            let other = alice.client.create_group().await.unwrap();
            let added = alice.client.add_user(&other, bob.client.user_id()).await;
            assert!(matches!(added, Err(Error::NoConsent(_))));
        }
    }
}

#[tokio::test]
async fn both_may_ask_at_once_and_be_interrupted() {
    for name in ["add_users", "welcome_info", "update_client", "delete_group"] {
        for mishap in MISHAPS {
            let scene = Scene::new();
            let (alice, bob) = strangers(&scene).await;
            let (her, his) = (alice.client.user_id().clone(), bob.client.user_id().clone());
            let group = alice.client.connect(&his).await.unwrap();
            // Bob has not heard of it.
            scene.world.plan(name, mishap.clone());
            let _ = bob.client.connect(&her).await;
            received(&bob).await;
            let bob = anew(&scene, bob).await;
            for _ in 0..2 {
                received(&bob).await;
                received(&alice).await;
            }
            for (party, peer) in [(&alice, "bob"), (&bob, "alice")] {
                let connected = [(peer.to_owned(), ConnectionState::Connected)];
                assert_eq!(states(party).await, connected, "{name} {mishap:?}");
                let of = party.client.connections().await.unwrap();
                assert_eq!(of[0].group.as_ref(), Some(&group));
                assert_eq!(party.client.members(&group).await.unwrap().len(), 2);
            }
            bob.client.send(&group, "snap").await.unwrap();
            let events = received(&alice).await;
            assert!(matches!(&events[..], [Event::Message { .. }]), "{events:?}");
        }
    }
}
