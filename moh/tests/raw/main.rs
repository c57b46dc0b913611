//! `moh serve --dev` as a process, spoken to with HTTP requests and the types of the protocol
//! alone: what it does, and what bad input gets.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod bodies;
mod certificates;
mod connecting;
mod http;
mod members;
mod people;
mod policy;
mod providers;
mod repeats;
mod rules;

use common::device::{Device, message_of};
use common::member::Received;
use common::scene::Scene;
use common::server::Server;

#[tokio::test]
async fn two_clients_talk_in_a_group() {
    let mut scene = Scene::set().await;
    let (request, message) = scene.alice.message("hello");
    assert_eq!(scene.operate(&request).await.ok().0, 1);
    let item = scene.bob.device.next_one().await;
    assert_eq!(message_of(&item), message);
    assert_eq!(scene.bob.receive(&item), Received::Text("hello".to_owned()));

    // Bob's way is through the provider's `forward`.
    let request = scene.bob.update_client();
    let owner = scene.bob.owner.clone();
    let endpoint = moh_messages::Endpoint::GroupOperation;
    let (status, _) = scene.bob.device.forward(&owner, endpoint, request).await;
    assert_eq!(status, 200);
    scene.bob.merge();
    let item = scene.alice.device.next_one().await;
    assert_eq!(scene.alice.receive(&item), Received::Commit(2));
    let (request, _) = scene.bob.message("hello to you");
    let (status, _) = scene.bob.device.forward(&owner, endpoint, request).await;
    assert_eq!(status, 200);
    let item = scene.alice.device.next_one().await;
    let received = scene.alice.receive(&item);
    assert_eq!(received, Received::Text("hello to you".to_owned()));
    scene.update().await;
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_queue_is_kept_until_it_is_acknowledged() {
    let mut scene = Scene::set().await;
    let before = scene.bob.device.cursor.clone();
    for text in ["one", "two"] {
        let (request, _) = scene.alice.message(text);
        scene.operate(&request).await.ok();
    }
    let items = scene.bob.device.next(2).await;
    let again = scene.bob.device.read_after(before.clone(), 0).await;
    assert_eq!(again, items, "reading takes nothing away");
    scene.bob.device.cursor = items[0].cursor.clone();
    scene.bob.device.acknowledge().await;
    let empty = moh_messages::client_api::Cursor::empty();
    let left = scene.bob.device.read_after(empty, 0).await;
    assert_eq!(left, items[1..]);
}

#[tokio::test]
async fn queue_configs_cannot_be_told_from_anybody_elses() {
    let server = Server::start("a.example").await;
    let alice = Device::register(&server, "alice/phone").await;
    let bob = Device::register(&server, "bob/laptop-with-a-long-name").await;
    let mut configs = alice.queue_configs(20).await;
    configs.extend(bob.queue_configs(20).await);
    let sealed = configs.iter().map(|c| c.client_queue_information.clone());
    let mut sealed: Vec<_> = sealed.collect();
    let lengths: std::collections::BTreeSet<_> =
        sealed.iter().map(|s| s.as_slice().len()).collect();
    assert_eq!(lengths.len(), 1);
    sealed.sort();
    sealed.dedup();
    assert_eq!(sealed.len(), 40, "no two are alike");
    assert!(configs.iter().all(|c| c.provider == server.name));
}
