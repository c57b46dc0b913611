//! Two users get to know each other.

use moh_client::{
    BlockTarget, ConnectionState, DisconnectReason, DsError, DsErrorCode, Error, Event, GroupId,
    GroupType, Reason,
};

use crate::fake::Mishap;
use crate::scene::{Party, Scene, add, received, texts, user_id};

pub(crate) fn has_asked(events: &[Event], by: &Party) -> bool {
    let asked = |event: &&Event| matches!(event, Event::ConnectionRequested { peer, .. } if peer == by.client.user_id());
    events.iter().filter(asked).count() == 1
}

pub(crate) fn is_connected(events: &[Event], with: &Party, id: &GroupId) -> bool {
    let connected = |event: &&Event| matches!(event, Event::Connected { peer, group } if peer == with.client.user_id() && group == id);
    events.iter().filter(connected).count() == 1
}

pub(crate) fn disconnected(events: &[Event]) -> Vec<DisconnectReason> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect()
}

pub(crate) async fn states(party: &Party) -> Vec<(String, ConnectionState)> {
    let connections = party.client.connections().await.unwrap();
    connections
        .into_iter()
        .map(|connection| (connection.peer.user().to_owned(), connection.state))
        .collect()
}

pub(crate) async fn strangers(scene: &Scene) -> (Party, Party) {
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    (alice, bob)
}

/// Alice has asked, and Bob has accepted.
async fn connected(scene: &Scene) -> (Party, Party, GroupId) {
    let (alice, bob) = strangers(scene).await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    assert!(has_asked(&received(&bob).await, &alice));
    let joined = bob.client.accept(alice.client.user_id()).await.unwrap();
    assert_eq!(joined, group);
    assert!(is_connected(&received(&bob).await, &alice, &group));
    assert!(is_connected(&received(&alice).await, &bob, &group));
    (alice, bob, group)
}

#[tokio::test]
async fn who_is_accepted_is_connected() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    let sent = alice.client.connections().await.unwrap();
    assert_eq!((sent.len(), sent[0].state), (1, ConnectionState::Sent));
    assert_eq!(
        (&sent[0].peer, sent[0].group.as_ref()),
        (bob.client.user_id(), Some(&group))
    );
    // It can be asked once more, and is not.
    assert_eq!(
        alice.client.connect(bob.client.user_id()).await.unwrap(),
        group
    );
    assert_eq!(scene.world.seen("add_users").len(), 1);
    alice
        .client
        .send(&group, "do you remember me?")
        .await
        .unwrap();

    let events = received(&bob).await;
    assert_eq!(
        (events.len(), has_asked(&events, &alice)),
        (1, true),
        "{events:?}"
    );
    assert_eq!(
        states(&bob).await,
        [("alice".to_owned(), ConnectionState::Received)]
    );
    assert!(matches!(
        bob.client.members(&group).await,
        Err(Error::UnknownGroup(_))
    ));
    assert_eq!(scene.world.seen("welcome_info").len(), 0);

    let bob = scene.restart(bob).await;
    assert_eq!(
        bob.client.accept(alice.client.user_id()).await.unwrap(),
        group
    );
    let events = received(&bob).await;
    assert!(is_connected(&events, &alice, &group), "{events:?}");
    // First of all.
    assert!(matches!(events[0], Event::Connected { .. }));
    assert_eq!(texts(&events), ["do you remember me?"]);
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::Joined { .. }))
    );
    assert!(is_connected(&received(&alice).await, &bob, &group));
    for (party, peer) in [(&alice, "bob"), (&bob, "alice")] {
        assert_eq!(
            states(party).await,
            [(peer.to_owned(), ConnectionState::Connected)]
        );
        assert_eq!(party.client.groups().await.unwrap(), []);
        let kind = party.client.group_kind(&group).await.unwrap();
        assert_eq!(kind, GroupType::Connection);
        assert_eq!(party.client.members(&group).await.unwrap().len(), 2);
    }
    bob.client.send(&group, "of course").await.unwrap();
    assert_eq!(texts(&received(&alice).await), ["of course"]);
    // Accepted again, nothing happens.
    assert_eq!(
        bob.client.accept(alice.client.user_id()).await.unwrap(),
        group
    );
    assert_eq!(scene.world.seen("set_consent").len(), 1);
}

#[tokio::test]
async fn who_is_connected_may_be_added_to_groups() {
    let scene = Scene::new();
    let (alice, bob, _group) = connected(&scene).await;
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        let group = one.client.create_group().await.unwrap();
        one.client
            .add_user(&group, other.client.user_id())
            .await
            .unwrap();
        assert!(matches!(&received(other).await[..], [Event::Joined { .. }]));
        assert_eq!(
            one.client.group_kind(&group).await.unwrap(),
            GroupType::Regular
        );
    }
    assert_eq!(alice.client.groups().await.unwrap().len(), 2);
}

#[tokio::test]
async fn all_devices_are_asked_and_one_answers() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let tablet = scene.device(&bob, "tablet").await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    for device in [&bob, &tablet] {
        assert!(has_asked(&received(device).await, &alice));
    }
    bob.client.accept(alice.client.user_id()).await.unwrap();
    for device in [&bob, &tablet] {
        assert!(is_connected(&received(device).await, &alice, &group));
    }
    assert_eq!(scene.world.seen("update_client").len(), 1);
    assert!(is_connected(&received(&alice).await, &bob, &group));
    received(&bob).await;
    tablet.client.send(&group, "from the sofa").await.unwrap();
    assert_eq!(texts(&received(&alice).await), ["from the sofa"]);
    assert_eq!(texts(&received(&bob).await), ["from the sofa"]);

    // A further device is added to it as to any group.
    let desktop = scene.device(&alice, "desktop").await;
    let id = desktop.client.client_id();
    alice.client.add_device(&group, id).await.unwrap();
    assert!(is_connected(&received(&desktop).await, &bob, &group));

    // What one device ends is over for all of them.
    tablet
        .client
        .disconnect(alice.client.user_id())
        .await
        .unwrap();
    let events = received(&bob).await;
    assert_eq!(disconnected(&events).len(), 1, "{events:?}");
    for device in [&alice, &desktop] {
        assert_eq!(
            disconnected(&received(device).await),
            [DisconnectReason::Ended]
        );
    }
    for device in [&alice, &desktop, &bob, &tablet] {
        assert_eq!(states(device).await, []);
        assert!(device.client.members(&group).await.is_err());
    }
}

#[tokio::test]
async fn who_is_declined_hears_of_it_in_the_end() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let tablet = scene.device(&bob, "tablet").await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    received(&tablet).await;
    bob.client.decline(alice.client.user_id()).await.unwrap();
    assert_eq!(states(&bob).await, []);
    assert_eq!(
        disconnected(&received(&tablet).await),
        [DisconnectReason::Declined]
    );
    assert_eq!(received(&alice).await, []);
    assert!(matches!(
        bob.client.accept(alice.client.user_id()).await,
        Err(Error::NoRequest(_))
    ));
    // The next message does not get through, and that ends it.
    alice.client.send(&group, "hello?").await.unwrap();
    assert_eq!(
        disconnected(&received(&alice).await),
        [DisconnectReason::Declined]
    );
    assert_eq!(states(&alice).await, []);
    assert_eq!(scene.world.seen("delete_group").len(), 1);
    assert_eq!(received(&bob).await, []);
    // She may ask again, and Bob think better of it.
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    assert!(has_asked(&received(&bob).await, &alice));
    assert!(has_asked(&received(&tablet).await, &alice));
    tablet.client.accept(alice.client.user_id()).await.unwrap();
    assert!(is_connected(&received(&bob).await, &alice, &group));
}

#[tokio::test]
async fn both_may_ask_at_once() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let (her, his) = (alice.client.user_id(), bob.client.user_id());
    let (of_alice, of_bob) = tokio::join!(alice.client.connect(his), bob.client.connect(her));
    let (of_alice, of_bob) = (of_alice.unwrap(), of_bob.unwrap());
    assert_ne!(of_alice, of_bob);
    for _ in 0..2 {
        received(&alice).await;
        received(&bob).await;
    }
    // Hers has the smaller name, and stays.
    assert_eq!(alice.client.connect(his).await.unwrap(), of_alice);
    assert_eq!(bob.client.connect(her).await.unwrap(), of_alice);
    for (party, peer) in [(&alice, "bob"), (&bob, "alice")] {
        assert_eq!(
            states(party).await,
            [(peer.to_owned(), ConnectionState::Connected)]
        );
        assert!(party.client.members(&of_bob).await.is_err());
    }
    assert_eq!(scene.world.seen("delete_group").len(), 1);
    bob.client.send(&of_alice, "snap").await.unwrap();
    let events = received(&alice).await;
    assert_eq!((texts(&events), events.len()), (vec!["snap".to_owned()], 1));
}

#[tokio::test]
async fn who_asks_whoever_has_asked_accepts() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    assert_eq!(
        bob.client.connect(alice.client.user_id()).await.unwrap(),
        group
    );
    assert!(is_connected(&received(&bob).await, &alice, &group));
    assert_eq!(scene.world.seen("create_group").len(), 1);
}

#[tokio::test]
async fn a_connection_is_ended_by_either_side() {
    for by_alice in [true, false] {
        let scene = Scene::new();
        let (alice, bob, group) = connected(&scene).await;
        let (one, other) = if by_alice {
            (&alice, &bob)
        } else {
            (&bob, &alice)
        };
        one.client.disconnect(other.client.user_id()).await.unwrap();
        assert_eq!(received(one).await, []);
        let events = received(other).await;
        assert_eq!(disconnected(&events), [DisconnectReason::Ended]);
        assert_eq!(events.len(), 1, "{events:?}");
        for party in [one, other] {
            assert_eq!(states(party).await, []);
            assert!(party.client.members(&group).await.is_err());
        }
        // The other one may add nobody to groups any more.
        let group = other.client.create_group().await.unwrap();
        assert!(matches!(
            other.client.add_user(&group, one.client.user_id()).await,
            Err(Error::NoConsent(_))
        ));
        // And they may be connected anew.
        let group = other.client.connect(one.client.user_id()).await.unwrap();
        assert!(has_asked(&received(one).await, other));
        assert_eq!(
            one.client.accept(other.client.user_id()).await.unwrap(),
            group
        );
        // To end what there is not is no error.
        let carol = user_id("c.example", "carol");
        one.client.disconnect(&carol).await.unwrap();
        one.client.decline(&carol).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_asked_is_taken_back() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    alice.client.disconnect(bob.client.user_id()).await.unwrap();
    let error = bob.client.accept(alice.client.user_id()).await.unwrap_err();
    assert!(matches!(error, Error::NoRequest(_)), "{error}");
    assert_eq!(
        disconnected(&received(&bob).await),
        [DisconnectReason::Ended]
    );
    assert_eq!(states(&bob).await, []);
}

#[tokio::test]
async fn who_is_blocked_does_not_get_through() {
    let scene = Scene::new();
    let (alice, bob, _group) = connected(&scene).await;
    let carol = scene.party("c.example", "carol").await;
    carol.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    bob.client.block_user(alice.client.user_id()).await.unwrap();
    let provider = "c.example".parse().unwrap();
    bob.client.block_provider(&provider).await.unwrap();
    assert_eq!(states(&bob).await, []);
    assert_eq!(received(&bob).await, []);
    assert_eq!(
        disconnected(&received(&alice).await),
        [DisconnectReason::Ended]
    );
    let blocks = bob.client.blocks().await.unwrap();
    let user = BlockTarget::User(alice.client.user_id().clone());
    assert_eq!(blocks, [user, BlockTarget::Provider(provider.clone())]);
    for party in [&alice, &carol] {
        let dave = scene
            .party("c.example", &format!("dave{}", party.provider))
            .await;
        let him = bob.client.user_id();
        let asked = if party.client.connections().await.unwrap().is_empty() {
            party.client.connect(him).await
        } else {
            dave.client.connect(him).await
        };
        assert!(matches!(asked, Err(Error::NoSuchUser(_))), "{asked:?}");
    }
    assert_eq!(received(&bob).await, []);
    bob.client
        .unblock_user(alice.client.user_id())
        .await
        .unwrap();
    bob.client.unblock_provider(&provider).await.unwrap();
    assert_eq!(bob.client.blocks().await.unwrap(), []);
    alice.client.connect(bob.client.user_id()).await.unwrap();
    assert!(has_asked(&received(&bob).await, &alice));
}

#[tokio::test]
async fn who_is_not_there_cannot_be_asked() {
    let scene = Scene::new();
    let (alice, _) = strangers(&scene).await;
    let nobody = user_id("b.example", "nobody");
    let asked = alice.client.connect(&nobody).await;
    assert!(matches!(asked, Err(Error::NoSuchUser(_))));
    let herself = alice.client.user_id().clone();
    assert!(matches!(
        alice.client.connect(&herself).await,
        Err(Error::OwnUser(_))
    ));
    assert!(matches!(
        alice.client.accept(&nobody).await,
        Err(Error::NoRequest(_))
    ));
    assert_eq!(scene.world.seen("create_group").len(), 0);
    assert_eq!(states(&alice).await, []);
}

#[tokio::test]
async fn a_request_is_nobody_elses() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let carol = scene.party("c.example", "carol").await;
    alice.client.connect(bob.client.user_id()).await.unwrap();
    let request = scene.world.last_request(bob.client.client_id());
    let welcome = request.welcome.as_slice().to_vec();
    // From a provider that is not the requester's, for somebody else, by another user.
    let wrong = |change: fn(&mut moh_messages::ConnectionRequest)| {
        let mut request = request.clone();
        change(&mut request);
        request
    };
    let him = bob.client.client_id();
    let forged = [
        ("c.example", request.clone()),
        (
            "a.example",
            wrong(|r| r.responder = user_id("b.example", "bill")),
        ),
        (
            "b.example",
            wrong(|r| r.requester = user_id("b.example", "bob")),
        ),
        (
            "a.example",
            wrong(|r| r.welcome = moh_messages::MlsBytes::new(b"x").unwrap()),
        ),
    ];
    for (sender, request) in forged {
        scene.world.deliver_request(him, sender, request);
    }
    let events = received(&bob).await;
    assert!(has_asked(&events, &alice));
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Undecodable { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    let refused = Reason::Refused;
    assert_eq!(reasons, [refused, refused, refused, Reason::Malformed]);
    // The Welcome alone does not lead into the group.
    bob.client.decline(alice.client.user_id()).await.unwrap();
    alice.client.connect(carol.client.user_id()).await.unwrap();
    let request = scene.world.last_request(carol.client.client_id());
    received(&carol).await;
    let her = carol.client.client_id();
    scene
        .world
        .deliver(her, "a.example", request.welcome.as_slice().to_vec());
    scene.world.deliver(him, "a.example", welcome);
    let events = received(&bob).await;
    assert!(
        matches!(&events[..], [Event::Undecodable { .. }]),
        "{events:?}"
    );
    // Carol has not decided, and until then it waits.
    assert_eq!(received(&carol).await, []);
    assert_eq!(scene.world.seen("welcome_info").len(), 0);
}

#[tokio::test]
async fn who_accepts_late_joins_all_the_same() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    let group = alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    let gone = DsError::new(DsErrorCode::EPOCH_NOT_KEPT, "too late");
    scene.world.plan("welcome_info", Mishap::Refuse(gone));
    assert_eq!(
        bob.client.accept(alice.client.user_id()).await.unwrap(),
        group
    );
    assert!(is_connected(&received(&bob).await, &alice, &group));
    assert!(is_connected(&received(&alice).await, &bob, &group));
    bob.client.send(&group, "sorry").await.unwrap();
    assert_eq!(texts(&received(&alice).await), ["sorry"]);
}

#[tokio::test]
async fn a_peer_that_is_gone_is_a_connection_less() {
    let scene = Scene::new();
    let (alice, bob, group) = connected(&scene).await;
    let dave = scene.party("c.example", "dave").await;
    let other = alice.client.create_group().await.unwrap();
    add(&alice, &other, &dave).await;
    bob.client.delete_account().await.unwrap();
    assert_eq!(
        disconnected(&received(&alice).await),
        [DisconnectReason::Ended]
    );
    assert_eq!(states(&alice).await, []);
    assert!(alice.client.members(&group).await.is_err());
    assert_eq!(alice.client.groups().await.unwrap(), [other]);
}

#[tokio::test]
async fn who_has_declined_may_ask() {
    let scene = Scene::new();
    let (alice, bob) = strangers(&scene).await;
    alice.client.connect(bob.client.user_id()).await.unwrap();
    received(&bob).await;
    bob.client.decline(alice.client.user_id()).await.unwrap();
    // She has not heard of it.
    let group = bob.client.connect(alice.client.user_id()).await.unwrap();
    let events = received(&alice).await;
    assert!(is_connected(&events, &bob, &group), "{events:?}");
    assert!(disconnected(&events).is_empty(), "{events:?}");
    assert!(is_connected(&received(&bob).await, &alice, &group));
    for party in [&alice, &bob] {
        let of = party.client.connections().await.unwrap();
        assert_eq!((of.len(), of[0].state), (1, ConnectionState::Connected));
    }
    alice.client.send(&group, "all the same").await.unwrap();
    assert_eq!(texts(&received(&bob).await), ["all the same"]);
}

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
