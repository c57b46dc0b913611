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
pub(crate) async fn connected(scene: &Scene) -> (Party, Party, GroupId) {
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
