//! A client against providers that lose requests and answers, and groups that others change.

#![allow(clippy::unwrap_used)]

mod fake;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fake::{Mishap, World};
use moh_client::{
    Client, DsError, DsErrorCode, Error, Event, Fault, GroupId, NewDevice, Operation, Outcome,
    Reason, UserId,
};
use tempfile::TempDir;

struct Party {
    client: Client,
    path: PathBuf,
    provider: &'static str,
}

struct Scene {
    world: Arc<World>,
    dir: TempDir,
}

const SOON: Duration = Duration::from_millis(20);

impl Scene {
    fn new() -> Self {
        Self {
            world: World::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn party(&self, provider: &'static str, user: &str) -> Party {
        let id = user_id(provider, user);
        let path = self.dir.path().join(user);
        let options = self.world.options(provider);
        let client = Client::register(options, &path, &id, "phone")
            .await
            .unwrap();
        client.refill_key_packages(2).await.unwrap();
        Party {
            client,
            path,
            provider,
        }
    }

    /// As after a crash: what is not in the database is gone.
    async fn restart(&self, party: Party) -> Party {
        let Party {
            client,
            path,
            provider,
        } = party;
        drop(client);
        let client = Client::open(self.world.options(provider), &path)
            .await
            .unwrap();
        Party {
            client,
            path,
            provider,
        }
    }

    /// Alice of a.example with a group in which Bob of b.example is.
    async fn alice_and_bob(&self) -> (Party, Party, GroupId) {
        let alice = self.party("a.example", "alice").await;
        let bob = self.party("b.example", "bob").await;
        bob.client
            .set_consent(alice.client.user_id(), true)
            .await
            .unwrap();
        let group = alice.client.create_group().await.unwrap();
        let added = alice
            .client
            .add_user(&group, bob.client.user_id())
            .await
            .unwrap();
        assert_eq!(added.clients, [bob.client.client_id().clone()]);
        assert_eq!(added.accepted.epoch, 1);
        let events = bob.client.receive(SOON).await.unwrap();
        assert!(
            matches!(&events[..], [Event::Joined { epoch: 1, members, .. }] if members.len() == 2)
        );
        (alice, bob, group)
    }
}

fn user_id(provider: &str, user: &str) -> UserId {
    UserId::new(&provider.parse().unwrap(), user).unwrap()
}

fn texts(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Message { content, .. } => Some(String::from_utf8_lossy(content).into_owned()),
            _ => None,
        })
        .collect()
}

/// All that there is to receive.
async fn received(party: &Party) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let events = party.client.receive(SOON).await.unwrap();
        if events.is_empty() {
            return all;
        }
        all.extend(events);
    }
}

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

#[tokio::test]
async fn somebody_who_is_always_outrun_gives_up() {
    let scene = Scene::new();
    let (alice, _bob, group) = scene.alice_and_bob().await;
    for _ in 0..8 {
        let error = DsError::new(DsErrorCode::WRONG_EPOCH, "").with_data(&1u64);
        scene.world.plan("update_client", Mishap::Refuse(error));
    }
    let error = alice.client.update(&group).await.unwrap_err();
    assert!(matches!(error, Error::Outrun { tries: 8, .. }) && error.is_temporary());
    assert_eq!(alice.client.update(&group).await.unwrap().epoch, 2);
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
    assert_eq!(received(&alice).await, []);
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
    tablet_client.refill_key_packages(1).await.unwrap();
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
