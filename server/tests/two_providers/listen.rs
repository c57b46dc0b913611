//! What clients hear, and what is in their queues.

use std::collections::BTreeSet;
use std::time::Duration;

use moh_client::{Client, ClientId, Event, GroupId};
use moh_messages::{Message as _, QueuePayload};
use moh_server::store::Store;
use tokio::time::Instant;

use crate::world::{PATIENCE, Provider};

/// What a client hears until it has heard enough.
pub(crate) async fn hear(client: &Client, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let deadline = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    while !enough(&heard) {
        assert!(
            Instant::now() < deadline,
            "{:?} has heard only {heard:?}",
            client.client_id()
        );
        heard.extend(receive(client, Duration::from_secs(5)).await);
    }
    heard
}

/// What a client hears of others: not what it does for its user's own devices and KeyPackages.
async fn receive(client: &Client, wait: Duration) -> Vec<Event> {
    let mut heard = client.receive(wait).await.unwrap();
    heard.retain(|event| {
        !matches!(
            event,
            Event::KeyPackagesRefilled { .. } | Event::DevicesChanged { .. }
        )
    });
    heard
}

/// The next so many events.
pub(crate) async fn hear_some(client: &Client, count: usize) -> Vec<Event> {
    let heard = hear(client, |heard| heard.len() >= count).await;
    assert_eq!(heard.len(), count, "{:?}: {heard:?}", client.client_id());
    heard
}

/// Everything up to a text.
pub(crate) async fn hear_until(client: &Client, text: &str) -> Vec<Event> {
    let is_it = |event: &Event| matches!(event, Event::Message { content, .. } if content == text.as_bytes());
    hear(client, |heard| heard.iter().any(is_it)).await
}

/// Nothing more has arrived.
pub(crate) async fn hears_nothing(client: &Client) {
    let heard = receive(client, Duration::ZERO).await;
    assert_eq!(heard, [], "{:?}", client.client_id());
}

/// The client has joined a group at this epoch.
pub(crate) fn joined(event: &Event, group: &GroupId, at: u64) -> bool {
    matches!(event, Event::Joined { group: joined, epoch, .. } if joined == group && *epoch == at)
}

/// Texts, with who wrote them.
pub(crate) fn texts(events: &[Event]) -> Vec<(ClientId, String)> {
    let text = |event: &Event| match event {
        Event::Message {
            sender, content, ..
        } => Some((sender.clone(), String::from_utf8(content.clone()).unwrap())),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

/// One writes, everybody else reads it, and nothing else.
pub(crate) async fn say(group: &GroupId, from: &Client, to: &[&Client], text: &str) {
    from.send(group, text).await.unwrap();
    for client in to {
        let heard = hear_some(client, 1).await;
        let expected = (from.client_id().clone(), text.to_owned());
        assert_eq!(texts(&heard), [expected], "{heard:?}");
    }
}

/// All are in the same epoch, with the same members; that epoch.
pub(crate) async fn agree(group: &GroupId, clients: &[&Client]) -> u64 {
    let mut seen = BTreeSet::new();
    for client in clients {
        let epoch = client.epoch(group).await.unwrap();
        seen.insert((epoch, client.members(group).await.unwrap()));
    }
    assert_eq!(seen.len(), 1, "they do not agree: {seen:?}");
    seen.into_iter().next().map(|(epoch, _)| epoch).unwrap()
}

/// What was delivered to a client's queue, as its provider has it.
pub(crate) async fn queue(provider: &Provider, client: &Client) -> Vec<Vec<u8>> {
    let rows = provider
        .store()
        .queue(client.client_id(), 0, 10_000, 1 << 30)
        .await
        .unwrap();
    let payloads = rows.into_iter().map(|row| row.payload);
    payloads
        .filter(|payload| QueuePayload::decode(payload).is_ok())
        .collect()
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
