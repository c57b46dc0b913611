//! Audiences: all leaves at one destination, in their order, and who of them gets nothing.

use moh_messages::{Message, QueuePayload, Recipients};
use moh_server::store::Store as _;

use crate::scene::{ALICE, ALL, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::waiting_for;

/// What waits for a provider: whom each delivery is for, by name, who gets nothing, and the
/// audience's digest.
async fn waiting(scene: &Scene, provider: &str) -> Vec<(Vec<String>, Option<u32>, Vec<u8>)> {
    let (store, home) = (&scene.site.store, &scene.site.homes[provider]);
    let rows = waiting_for(&**store, &provider.parse().unwrap()).await;
    let mut all = Vec::new();
    for row in rows {
        let delivery = row.delivery().unwrap();
        let payload = QueuePayload::decode(&delivery.payload).unwrap();
        assert!(matches!(payload, QueuePayload::MlsMessage(_)));
        let digest = delivery.digest.clone();
        let recipients = store.outbox_audience(&digest).await.unwrap().unwrap();
        let recipients = Recipients::decode(&recipients).unwrap();
        assert_eq!(moh_messages::audience_digest(&recipients), digest);
        let names = recipients.iter().map(|sealed| home.keys.open_queue(sealed));
        let names = names.map(|client| client.unwrap().to_string());
        all.push((names.collect(), delivery.except, digest.as_slice().to_vec()));
    }
    all
}

#[tokio::test]
async fn the_same_whoever_sends() {
    let mut scene = Scene::set().await;
    let before = waiting(&scene, "b.example").await.len();
    for by in [ALICE, BOB, BOBS_LAPTOP, CAROL] {
        let message = scene.members[by].message("hello");
        let request = scene.members[by].ask(message);
        scene.accepts("a message", 1, &request).await;
    }
    let rows = waiting(&scene, "b.example").await.split_off(before);
    let ids = scene.devices(&[BOB, BOBS_LAPTOP]);
    let ids: Vec<_> = ids.iter().map(|device| device.id.to_string()).collect();
    let excepted: Vec<_> = rows.iter().map(|row| row.1).collect();
    assert_eq!(excepted, [None, Some(0), Some(1), None]);
    for (names, _, digest) in &rows {
        assert_eq!((names, digest), (&ids, &rows[0].2));
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn in_the_order_of_the_leaves() {
    // Bob's laptop comes into the place of who has left, before his phone.
    let mut scene = Scene::of_these(&[ALL[ALICE], ALL[CAROL], ALL[BOB]]).await;
    scene.leaves(1).await;
    scene.updates(ALICE).await;
    let laptop = scene.site.device(ALL[BOBS_LAPTOP]);
    scene.joins(&laptop).await;
    let phone = scene.device(2).id.to_string();
    let before = waiting(&scene, "b.example").await.len();
    scene.updates(ALICE).await;
    let rows = waiting(&scene, "b.example").await.split_off(before);
    assert_eq!(rows[0].0, [laptop.id.to_string(), phone]);
    scene.goes_on().await;
}
