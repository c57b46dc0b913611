//! Users, and their devices.

use moh_client::{Client, DsErrorCode, Error, Event};

use crate::fake::Mishap;
use crate::scene::{Party, Scene, received, user_id};

fn code(error: &Error) -> Option<DsErrorCode> {
    error.refusal().map(|refusal| refusal.code)
}

#[tokio::test]
async fn an_invitation_lets_one_user_in() {
    let scene = Scene::new();
    scene.world.invite(&["a code"]);
    let register = async |user: &str, code: &str| {
        let path = scene.dir.path().join(user);
        let options = scene.world.options("a.example").invitation(code);
        Client::register(options, &path, &user_id("a.example", user), "phone").await
    };
    for wrong in ["", "another"] {
        let error = register("alice", wrong).await.unwrap_err();
        assert_eq!(code(&error), Some(DsErrorCode::UNAUTHORIZED), "{error}");
    }
    let too_long = register("alice", &"x".repeat(65)).await;
    assert!(matches!(too_long, Err(Error::TooLong(_))));
    let alice = register("alice", "a code").await.unwrap();
    let again = register("bob", "a code").await.unwrap_err();
    assert_eq!(code(&again), Some(DsErrorCode::UNAUTHORIZED));
    // Her further devices need her word, and no invitation.
    let party = Party {
        client: alice,
        path: scene.dir.path().join("alice"),
        provider: "a.example",
    };
    scene.device(&party, "tablet").await;
}

#[tokio::test]
async fn devices_are_listed_and_deleted() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&alice, "tablet").await;
    let her = tablet.client.client_id().clone();
    let added = Event::DevicesChanged {
        client: her.clone(),
        added: true,
    };
    assert_eq!(received(&alice).await, [added]);
    let devices = tablet.client.devices().await.unwrap();
    let names: Vec<_> = devices.iter().map(|device| &device.client).collect();
    assert_eq!(names, [alice.client.client_id(), &her]);
    assert!(devices.iter().all(|device| device.registered_at_ms > 0));
    assert_ne!(devices[0].signature_key, devices[1].signature_key);

    alice.client.add_device(&group, &her).await.unwrap();
    received(&tablet).await;
    received(&bob).await;
    let not_hers = bob.client.delete_device(&her).await.unwrap_err();
    assert_eq!(code(&not_hers), Some(DsErrorCode::UNAUTHORIZED));
    alice.client.delete_device(&her).await.unwrap();
    assert_eq!(alice.client.devices().await.unwrap().len(), 1);
    // It is out of the group with the next commit, and is asked nothing any more.
    bob.client.send(&group, "without the tablet").await.unwrap();
    assert_eq!(bob.client.members(&group).await.unwrap().len(), 2);
    let refused = tablet.client.devices().await.unwrap_err();
    assert_eq!(code(&refused), Some(DsErrorCode::UNAUTHENTICATED));
    // Its name is not given again.
    let device = moh_client::NewDevice::prepare(
        scene.world.options("a.example"),
        scene.dir.path().join("again"),
        her,
    )
    .await
    .unwrap();
    let word = alice.client.authorize(&device.request()).unwrap();
    let error = device.register(word).await.unwrap_err();
    assert_eq!(code(&error), Some(DsErrorCode::UNAUTHORIZED));
}

async fn is_over(scene: &Scene, party: Party) {
    let Party { client, path, .. } = party;
    let over = |result: Result<(), Error>| matches!(result, Err(Error::AccountDeleted));
    assert!(over(client.groups().await.map(|_| ())));
    assert!(over(client.devices().await.map(|_| ())));
    assert!(over(client.create_group().await.map(|_| ())));
    assert!(over(client.events().next().await.map(|_| ())));
    let (user, options) = (client.user_id().clone(), scene.world.options("a.example"));
    drop(client);
    let opened = Client::open(options.clone(), &path).await;
    assert!(over(opened.map(|_| ())));
    let anew = Client::register(options, &path, &user, "phone").await;
    assert!(over(anew.map(|_| ())));
    // Nothing is left of the secrets.
    let conn = rusqlite::Connection::open(&path).unwrap();
    for table in ["kv", "key_packages", "groups"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let count: u32 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{table}");
    }
}

#[tokio::test]
async fn who_deletes_the_account_is_gone() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    alice.client.delete_account().await.unwrap();
    bob.client.send(&group, "alone").await.unwrap();
    assert_eq!(bob.client.members(&group).await.unwrap().len(), 1);
    is_over(&scene, alice).await;
}

#[tokio::test]
async fn a_device_may_delete_itself() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let tablet = scene.device(&alice, "tablet").await;
    received(&alice).await;
    let id = alice.client.client_id().clone();
    alice.client.delete_device(&id).await.unwrap();
    let gone = Event::DevicesChanged {
        client: id,
        added: false,
    };
    assert_eq!(received(&tablet).await, [gone]);
    is_over(&scene, alice).await;
}

#[tokio::test]
async fn a_deletion_whose_answer_is_lost_is_asked_for_again() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    scene.world.plan("delete_account", Mishap::LoseRequest);
    let error = alice.client.delete_account().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // Nothing has happened, also as far as this client knows.
    let alice = scene.restart(alice).await;
    alice.client.create_group().await.unwrap();
    scene.world.plan("delete_account", Mishap::LoseAnswer);
    assert!(alice.client.delete_account().await.is_err());
    let alice = scene.restart(alice).await;
    alice.client.delete_account().await.unwrap();
    is_over(&scene, alice).await;
}

#[tokio::test]
async fn somebody_unknown_is_not_taken_for_deleted() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    scene.world.forget_client(alice.client.client_id());
    let error = alice.client.delete_account().await.unwrap_err();
    assert_eq!(code(&error), Some(DsErrorCode::UNAUTHENTICATED));
    assert_eq!(alice.client.groups().await.unwrap(), []);
}
