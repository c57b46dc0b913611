//! Whether members are who they say to be.

use std::time::Duration;

use moh_client::{ClientId, Error, Event, NotAttestedReason, ProviderName};

use crate::fake::{Forgery, Mishap};
use crate::scene::{Party, SOON, Scene, add, received};

const FORGERIES: [(Forgery, NotAttestedReason); 3] = [
    (Forgery::Signature, NotAttestedReason::Signature),
    (Forgery::Key, NotAttestedReason::UnknownKey),
    (Forgery::Expired, NotAttestedReason::Times),
];

/// As long as keys are not asked for again.
const MINUTE: Duration = Duration::from_secs(61);

fn not_attested(events: &[Event]) -> Vec<(ClientId, NotAttestedReason)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::NotAttested { client, reason, .. } => Some((client.clone(), *reason)),
            _ => None,
        })
        .collect()
}

fn owner() -> ProviderName {
    "a.example".parse().unwrap()
}

/// As after a crash, when all is done that was put off.
async fn restarted(scene: &Scene, party: Party) -> Party {
    scene.restart(party).await
}

#[tokio::test]
async fn who_is_attested_is_nothing_to_talk_about() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    let tablet = scene.device(&bob, "tablet").await;
    tablet.client.join_group(&group, &owner()).await.unwrap();
    bob.client.update(&group).await.unwrap();
    for party in [&alice, &bob, &carol, &tablet] {
        assert!(not_attested(&received(party).await).is_empty());
    }
    // The keys of each provider were asked for by each client once, and not for those whose
    // leaves did not change.
    let asked = scene.world.seen("verification_key").len();
    assert!(asked <= 4 * 3, "{asked}");
    alice.client.update(&group).await.unwrap();
    for party in [&bob, &carol, &tablet] {
        received(party).await;
    }
    assert_eq!(scene.world.seen("verification_key").len(), asked);
}

#[tokio::test]
async fn who_is_not_attested_is_not_added() {
    for (forgery, reason) in FORGERIES.into_iter().take(2) {
        let scene = Scene::new();
        let alice = scene.party("a.example", "alice").await;
        scene.world.forge_attestations(Some(forgery));
        let bob = scene.party("b.example", "bob").await;
        let him = bob.client.user_id();
        bob.client
            .set_consent(alice.client.user_id(), true)
            .await
            .unwrap();
        let group = alice.client.create_group().await.unwrap();
        let added = alice.client.add_user(&group, him).await.map(|_| ());
        scene.world.advance(MINUTE);
        let asked = alice.client.connect(him).await.map(|_| ());
        for refused in [added, asked] {
            assert!(
                matches!(&refused, Err(Error::BadKeyPackage { detail, .. }) if *detail == reason.to_string()),
                "{refused:?}"
            );
        }
        assert_eq!(alice.client.members(&group).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn who_cannot_be_verified_is_not_added_either() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    let him = bob.client.user_id();
    bob.client
        .set_consent(alice.client.user_id(), true)
        .await
        .unwrap();
    let group = alice.client.create_group().await.unwrap();
    scene.world.plan("verification_key", Mishap::LoseRequest);
    let error = alice.client.add_user(&group, him).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    alice.client.add_user(&group, him).await.unwrap();
}

#[tokio::test]
async fn who_enters_without_attestation_is_told() {
    for (forgery, reason) in FORGERIES {
        let scene = Scene::new();
        let (alice, bob, group) = scene.alice_and_bob().await;
        received(&alice).await;
        received(&bob).await;
        scene.world.advance(MINUTE);
        scene.world.forge_attestations(Some(forgery));
        let tablet = scene.device_without_key_packages(&bob, "tablet").await;
        received(&bob).await;
        tablet.client.join_group(&group, &owner()).await.unwrap();
        let wrong = [(tablet.client.client_id().clone(), reason)];
        for party in [&alice, &bob] {
            let events = received(party).await;
            assert!(matches!(&events[0], Event::MembersChanged { .. }));
            assert_eq!(not_attested(&events), wrong);
            // Once.
            assert!(not_attested(&received(party).await).is_empty());
        }
        alice.client.update(&group).await.unwrap();
        assert!(not_attested(&received(&bob).await).is_empty());
    }
}

#[tokio::test]
async fn who_joins_looks_at_those_who_are_there() {
    for (forgery, reason) in FORGERIES {
        let scene = Scene::new();
        scene.world.forge_attestations(Some(forgery));
        let alice = match forgery {
            // Without KeyPackages, which would have ended before they begin.
            Forgery::Expired => {
                let id = crate::scene::user_id("a.example", "alice");
                let path = scene.dir.path().join("alice");
                let options = scene.world.options("a.example");
                let client = moh_client::Client::register(options, &path, &id, "phone");
                Party {
                    client: client.await.unwrap(),
                    path,
                    provider: "a.example",
                }
            }
            _ => scene.party("a.example", "alice").await,
        };
        scene.world.forge_attestations(None);
        let bob = scene.party("b.example", "bob").await;
        let group = alice.client.create_group().await;
        let Ok(group) = group else {
            assert_eq!(forgery, Forgery::Expired);
            continue;
        };
        add(&alice, &group, &bob).await;
        let expected = match forgery {
            // When she entered it is not known.
            Forgery::Expired => Vec::new(),
            _ => vec![(alice.client.client_id().clone(), reason)],
        };
        let events = received(&bob).await;
        assert_eq!(not_attested(&events), expected, "{events:?}");
        // What is put off is not forgotten.
        let tablet = scene.device(&bob, "tablet").await;
        scene.world.plan("verification_key", Mishap::LoseRequest);
        tablet.client.join_group(&group, &owner()).await.unwrap();
        assert!(not_attested(&received(&tablet).await).is_empty());
        let tablet = restarted(&scene, tablet).await;
        assert_eq!(not_attested(&received(&tablet).await), expected);
    }
}

#[tokio::test]
async fn a_key_that_is_new_is_asked_for() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    received(&alice).await;
    received(&bob).await;
    scene.world.rotate_attestation_key("b.example");
    let tablet = scene.device(&bob, "tablet").await;
    tablet.client.join_group(&group, &owner()).await.unwrap();
    // Not at once, and until then it is not known.
    let asked = scene.world.seen("verification_key").len();
    assert!(not_attested(&received(&alice).await).is_empty());
    assert_eq!(scene.world.seen("verification_key").len(), asked);
    let added = alice.client.add_user(&group, tablet.client.user_id()).await;
    assert!(matches!(added, Err(Error::AlreadyMember(_))));
    scene.world.advance(MINUTE);
    let alice = restarted(&scene, alice).await;
    assert!(not_attested(&received(&alice).await).is_empty());
    assert_eq!(scene.world.seen("verification_key").len(), asked + 1);
    // And is kept for a day.
    scene.world.advance(Duration::from_secs(24 * 60 * 60));
    let desktop = scene.device_without_key_packages(&bob, "desktop").await;
    desktop.client.join_group(&group, &owner()).await.unwrap();
    assert!(not_attested(&received(&alice).await).is_empty());
    assert_eq!(scene.world.seen("verification_key").len(), asked + 2);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_holds_up_no_events() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    received(&bob).await;
    let carol = scene.party("c.example", "carol").await;
    add(&alice, &group, &carol).await;
    let gate = scene.world.hold(moh_messages::Endpoint::VerificationKey);
    let receive = bob.client.receive(SOON);
    let events = tokio::time::timeout(Duration::from_secs(20), receive).await;
    let events = events.expect("nobody waits for keys").unwrap();
    assert!(
        matches!(&events[..], [Event::MembersChanged { .. }]),
        "{events:?}"
    );
    gate.open.notify_one();
    assert_eq!(received(&bob).await, []);
}
