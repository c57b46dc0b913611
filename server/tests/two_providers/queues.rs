//! Who may deliver to whose queue, over the wire.

use moh_messages::client_api::QueueItemPayload;
use moh_messages::{ClientQueueInformation, DeliveryResult};

use crate::raw::{Raw, full, invalid, message, named};
use crate::world::World;

const PROVIDERS: [&str; 3] = ["a.example", "b.example", "c.example"];

/// The texts in a client's queue.
async fn texts(world: &World, raw: &Raw) -> Vec<String> {
    let items = raw.reads(world.provider("b.example")).await;
    let text = |item: QueueItemPayload| match item {
        QueueItemPayload::MlsMessage(message) => {
            Some(String::from_utf8(message.into_vec()).unwrap())
        }
        _ => None,
    };
    items.into_iter().filter_map(text).collect()
}

#[tokio::test]
async fn a_queue_takes_from_whoever_delivers_first() {
    let mut world = World::of(&PROVIDERS).await;
    let [a, b, c] = PROVIDERS.map(|name| world.provider(name));
    let bob = Raw::user(b, "bob@b.example").await;
    let ben = Raw::user(b, "ben@b.example").await;
    let (one, other) = (bob.queue(b).await, bob.queue(b).await);
    let bens = ben.queue(b).await;
    let first = a.sends(b, &message(full(&[&one]), "by a")).await;
    assert_eq!(first, DeliveryResult::Ok);
    // Another provider finds it invalid, wherever it stands; the rest of its audience is not.
    let second = c
        .sends(b, &message(full(&[&bens, &one, &other]), "by c"))
        .await;
    assert_eq!(second, invalid(&[1]));
    assert_eq!(texts(&world, &bob).await, ["by a", "by c"]);
    assert_eq!(texts(&world, &ben).await, ["by c"]);
    // It stays so, also by the name of the audience, and after a restart.
    for round in 0..2 {
        let [a, b, c] = PROVIDERS.map(|name| world.provider(name));
        let by_name = message(named(&[&bens, &one, &other]), "by name");
        assert_eq!(c.sends(b, &by_name).await, invalid(&[1]), "{round}");
        let alone = message(full(&[&one]), "by c alone");
        assert_eq!(c.sends(b, &alone).await, invalid(&[0]), "{round}");
        let by_name = message(named(&[&one]), "by a again");
        assert_eq!(a.sends(b, &by_name).await, DeliveryResult::Ok, "{round}");
        let together = message(full(&[&one, &other]), "of both");
        assert_eq!(a.sends(b, &together).await, invalid(&[1]), "{round}");
        let b = world.provider_mut("b.example");
        b.stop().await;
        b.start().await;
    }
    let expected = ["by a", "by c", "by name", "by a again", "of both"];
    assert_eq!(texts(&world, &bob).await[..5], expected);
    world.end().await;
}

/// Both deliver to a new queue at once: one of them is bound, and stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_providers_deliver_first_at_once() {
    let mut world = World::of(&PROVIDERS).await;
    let bob = Raw::user(world.provider("b.example"), "bob@b.example").await;
    let mut queues = Vec::new();
    for _ in 0..20 {
        queues.push(bob.queue(world.provider("b.example")).await);
    }
    let result = async |world: &World, by: &str, queue: &ClientQueueInformation| {
        let (by, b) = (world.provider(by), world.provider("b.example"));
        by.sends(b, &message(full(&[queue]), "x")).await
    };
    let mut won = Vec::new();
    for queue in &queues {
        let both = tokio::join!(
            result(&world, "a.example", queue),
            result(&world, "c.example", queue)
        );
        match both {
            (DeliveryResult::Ok, lost) if lost == invalid(&[0]) => won.push("a.example"),
            (lost, DeliveryResult::Ok) if lost == invalid(&[0]) => won.push("c.example"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(texts(&world, &bob).await.len(), queues.len());
    let b = world.provider_mut("b.example");
    b.stop().await;
    b.start().await;
    for (queue, won) in queues.iter().zip(won) {
        for by in ["a.example", "c.example"] {
            let expected = match by == won {
                true => DeliveryResult::Ok,
                false => invalid(&[0]),
            };
            assert_eq!(result(&world, by, queue).await, expected);
        }
    }
    world.end().await;
}

/// Who was added by a last-resort KeyPackage, by two owners, hears of both.
#[tokio::test]
async fn the_last_resort_in_groups_of_two_owners() {
    let world = World::of(&PROVIDERS).await;
    let bob = world.user("bob@b.example").await;
    let alice = world.user("alice@a.example").await;
    let carol = world.user("carol@c.example").await;
    // Four KeyPackages, and the last resort.
    let mut groups = Vec::new();
    for owner in [&alice, &carol] {
        bob.set_consent(owner.user_id(), true).await.unwrap();
        for _ in 0..3 {
            let group = owner.create_group().await.unwrap();
            owner.add_user(&group, bob.user_id()).await.unwrap();
            groups.push(group);
        }
    }
    let last = groups.split_off(3);
    let more = alice.create_group().await.unwrap();
    alice.add_user(&more, bob.user_id()).await.unwrap();
    crate::listen::until("bob is in all of them", async || {
        bob.receive(std::time::Duration::ZERO).await.unwrap();
        let mut all = true;
        for group in groups.iter().chain(&last).chain([&more]) {
            all &= bob.epoch(group).await.is_ok();
        }
        all
    })
    .await;
    world.end().await;
}
