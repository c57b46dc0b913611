//! What a client is for.

use std::time::Duration;

use moh_client::{CipherSuite, Client, Error, Event, NewDevice, Reason};

use moh_messages::{
    DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, DsResponseBody, Endpoint,
    ExternalCommitInfo, Opaque, Signature,
};

use crate::scene::{Party, SOON, Scene, add, received, texts, user_id};

#[tokio::test]
async fn two_users_talk_in_both_directions() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    alice.client.send(&group, "hello").await.unwrap();
    let events = received(&bob).await;
    assert_eq!(texts(&events), ["hello"]);
    let Event::Message { sender, epoch, .. } = &events[0] else {
        panic!()
    };
    assert_eq!((sender, *epoch), (alice.client.client_id(), 1));
    bob.client.send(&group, "hello yourself").await.unwrap();
    assert_eq!(texts(&received(&alice).await), ["hello yourself"]);

    assert_eq!(bob.client.update(&group).await.unwrap().epoch, 2);
    let events = received(&alice).await;
    assert!(
        matches!(&events[..], [Event::Updated { epoch: 2, by, .. }] if by == bob.client.client_id())
    );
    assert_eq!(alice.client.epoch(&group).await.unwrap(), 2);
    assert_eq!(
        bob.client.owner(&group).await.unwrap().as_str(),
        "a.example"
    );
    assert_eq!(bob.client.groups().await.unwrap(), [group]);
}

#[tokio::test]
async fn state_survives_a_restart() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let (alice, bob) = (scene.restart(alice).await, scene.restart(bob).await);
    alice.client.send(&group, "one").await.unwrap();
    let alice = scene.restart(alice).await;
    alice.client.send(&group, "two").await.unwrap();
    // Joined was handed out before the restart, and not known to be taken.
    let events = received(&bob).await;
    assert!(matches!(&events[0], Event::Joined { .. }));
    assert_eq!(texts(&events), ["one", "two"]);
}

#[tokio::test]
async fn what_cannot_be_read_does_not_block_the_queue() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let bobs = bob.client.client_id();
    scene.world.deliver(bobs, "a.example", b"garbage".to_vec());
    alice.client.send(&group, "readable").await.unwrap();
    let again = last_item_of(&scene, bobs);
    scene.world.deliver(bobs, "a.example", again.clone());
    scene.world.deliver(bobs, "c.example", again);
    alice.client.send(&group, "also").await.unwrap();
    let events = received(&bob).await;
    assert_eq!(texts(&events), ["readable", "also"]);
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Undecodable { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(
        reasons,
        [Reason::Malformed, Reason::Refused, Reason::NotFromOwner]
    );
}

fn last_item_of(scene: &Scene, client: &moh_client::ClientId) -> Vec<u8> {
    scene.world.state.lock().unwrap().last_item(client)
}

#[tokio::test]
async fn items_are_not_processed_twice_when_acknowledgements_are_lost() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    alice.client.send(&group, "one").await.unwrap();
    assert_eq!(texts(&received(&bob).await), ["one"]);
    scene.world.lose_acknowledgements(bob.client.client_id());
    alice.client.send(&group, "two").await.unwrap();
    let events = received(&bob).await;
    assert_eq!((texts(&events), events.len()), (vec!["two".to_owned()], 1));
}

#[tokio::test]
async fn a_second_device_is_linked_and_added() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = moh_client::ClientId::new(alice.client.user_id(), "tablet").unwrap();
    let path = scene.dir.path().join("tablet");
    let options = || scene.world.options("a.example");
    let device = NewDevice::prepare(options(), &path, tablet.clone())
        .await
        .unwrap();
    let request = device.request();
    assert!(matches!(
        bob.client.authorize(&request),
        Err(Error::WrongAuthorization)
    ));
    drop(device);
    // Taken up again, with the same key.
    let device = NewDevice::prepare(options(), &path, tablet.clone())
        .await
        .unwrap();
    assert_eq!(device.request(), request);
    let authorization = alice.client.authorize(&request).unwrap();
    let tablet_client = device.register(authorization).await.unwrap();
    tablet_client.refill_key_packages(2).await.unwrap();
    alice.client.add_device(&group, &tablet).await.unwrap();
    let events = tablet_client.receive(SOON).await.unwrap();
    assert!(matches!(&events[..], [Event::Joined { members, .. }] if members.len() == 3));
    let events = received(&bob).await;
    assert!(matches!(&events[..], [Event::MembersChanged { added, .. }] if *added == [tablet]));
    tablet_client.send(&group, "from the sofa").await.unwrap();
    assert_eq!(texts(&received(&alice).await), ["from the sofa"]);
}

#[tokio::test]
async fn a_last_resort_queue_is_replaced() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    bob.client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    for round in 0..4 {
        let group = alice.client.create_group().await.unwrap();
        alice
            .client
            .add_user(&group, bob.client.user_id())
            .await
            .unwrap();
        let events = received(&bob).await;
        assert!(matches!(&events[..], [Event::Joined { .. }]), "{events:?}");
        // Two ordinary KeyPackages, then that of last resort.
        let epoch = bob.client.epoch(&group).await.unwrap();
        assert_eq!(epoch, if round < 2 { 1 } else { 2 });
        alice.client.send(&group, "x").await.unwrap();
        assert_eq!(texts(&received(&bob).await), ["x"]);
    }
    assert_eq!(scene.world.seen("update_client").len(), 2);
    // Refilled, the next one is ordinary again.
    bob.client.refill_key_packages(1).await.unwrap();
    let group = alice.client.create_group().await.unwrap();
    alice
        .client
        .add_user(&group, bob.client.user_id())
        .await
        .unwrap();
    received(&bob).await;
    assert_eq!(bob.client.epoch(&group).await.unwrap(), 1);
}

#[tokio::test]
async fn consent_is_needed() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    let group = alice.client.create_group().await.unwrap();
    let bobs = bob.client.user_id();
    assert!(matches!(
        alice.client.add_user(&group, bobs).await,
        Err(Error::NoConsent(_))
    ));
    bob.client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    alice.client.add_user(&group, bobs).await.unwrap();
    assert!(matches!(
        alice.client.add_user(&group, bobs).await,
        Err(Error::AlreadyMember(_))
    ));
}

#[tokio::test]
async fn every_ciphersuite_serves_for_everything() {
    for number in 1..=3 {
        let scene = Scene::new();
        let suite = CipherSuite(number);
        let alice = scene.party_of("a.example", "alice", suite).await;
        let bob = scene.party_of("b.example", "bob", suite).await;
        let carol = scene.party_of("c.example", "carol", suite).await;
        let group = alice.client.create_group().await.unwrap();
        add(&alice, &group, &bob).await;
        add(&alice, &group, &carol).await;
        received(&bob).await;
        scene
            .world
            .propose_removal(&group, carol.client.client_id());
        bob.client.send(&group, "two of us").await.unwrap();
        assert_eq!(texts(&received(&alice).await), ["two of us"]);
        let alice = scene.restart(alice).await;
        bob.client.rejoin(&group).await.unwrap();
        received(&alice).await;
        alice.client.leave(&group).await.unwrap();
        received(&bob).await;
        bob.client.update(&group).await.unwrap();
        assert_eq!(bob.client.members(&group).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_ciphersuite_that_the_protocol_lacks_is_an_error() {
    let scene = Scene::new();
    let options = scene
        .world
        .options("a.example")
        .cipher_suite(CipherSuite(7));
    let path = scene.dir.path().join("alice");
    let user = user_id("a.example", "alice");
    let result = Client::register(options, &path, &user, "phone").await;
    assert!(matches!(result, Err(Error::CipherSuite(CipherSuite(7)))));
    // Who has another kind of key cannot join, and is not asked.
    let alice = scene.party("a.example", "alice").await;
    let group = alice.client.create_group().await.unwrap();
    let bob = scene.party_of("b.example", "bob", CipherSuite(2)).await;
    bob.client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    let him = bob.client.user_id();
    let added = alice.client.add_user(&group, him).await;
    assert!(matches!(added, Err(Error::NoKeyPackage(_))), "{added:?}");
}

#[tokio::test]
async fn an_application_may_ask_for_itself() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let request = |auth| DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: bob.client.user_id().provider(),
        recipient: alice.client.user_id().provider(),
        group_state_key: Opaque::empty(),
        body: DsRequestBody::ExternalCommitInfo(ExternalCommitInfo {
            group_id: group.clone(),
        }),
        auth,
    };
    let leaf = |leaf_index, signature| DsAuth::Leaf {
        leaf_index,
        signature,
    };
    let endpoint = Endpoint::ExternalCommitInformation;
    let unsigned = request(leaf(1, Signature::empty()));
    let answer = bob.client.ask(endpoint, unsigned).await;
    assert!(matches!(
        answer,
        Ok(DsResponseBody::ExternalCommitInfo { .. })
    ));
    for auth in [
        leaf(0, Signature::empty()),
        leaf(1, Signature::new([7; 64]).unwrap()),
        DsAuth::Anonymous,
    ] {
        let answer = bob.client.ask(endpoint, request(auth)).await;
        assert!(matches!(answer, Err(Error::Refused { .. })));
    }
}

#[tokio::test]
async fn events_come_over_the_websocket() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let mut events = bob.client.events();
    alice.client.send(&group, "one").await.unwrap();
    alice.client.send(&group, "two").await.unwrap();
    assert_eq!(texts(&[events.next().await.unwrap()]), ["one"]);
    assert_eq!(texts(&[events.next().await.unwrap()]), ["two"]);
    let next = tokio::spawn(async move { events.next().await });
    tokio::time::sleep(SOON).await;
    // Bob's own catching up reads the same queue, and the stream goes on behind it.
    alice.client.update(&group).await.unwrap();
    bob.client.send(&group, "hi").await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(5), next)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(event, Ok(Event::Updated { .. })));
}

#[tokio::test]
async fn a_wrong_clock_is_corrected() {
    struct Wrong;
    impl moh_client::Clock for Wrong {
        fn now_ms(&self) -> u64 {
            moh_client::SystemClock.now_ms() + 3_600_000
        }
    }
    let scene = Scene::new();
    let options = scene.world.options("a.example").clock(Wrong);
    let path = scene.dir.path().join("late");
    let late = user_id("a.example", "late");
    let client = Client::register(options, &path, &late, "phone")
        .await
        .unwrap();
    client.refill_key_packages(1).await.unwrap();
}

#[tokio::test]
async fn a_state_database_belongs_to_one_client() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let options = || scene.world.options("a.example");
    let missing = Client::open(options(), scene.dir.path().join("nothing")).await;
    assert!(matches!(missing, Err(Error::NotRegistered)));
    // Open twice at the same time would mean to use keys twice.
    assert!(matches!(
        Client::open(options(), &alice.path).await,
        Err(Error::Store(_))
    ));
    let Party { client, path, .. } = alice;
    drop(client);
    let mallory = user_id("a.example", "mallory");
    let other = Client::register(options(), &path, &mallory, "phone").await;
    assert!(matches!(other, Err(Error::OtherClient(_))));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
