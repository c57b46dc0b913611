//! Many at once: what is handed out, who wins an epoch, and in which order messages stand.

use std::collections::BTreeSet;

use moh_client::{Client, Error, GroupId, UserId};
use moh_server::Limits;
use moh_server::group::Group;
use moh_server::store::Store;
use tokio::time::{Instant, timeout_at};

use crate::listen::{agree, hear_some, hear_until, queue, say, texts, until};
use crate::world::{PATIENCE, World};

/// Four users of two providers in one group, who have all joined.
async fn four(world: &World) -> (GroupId, [Client; 4]) {
    let alice = world.user("alice@a.example").await;
    let amy = world.user("amy@a.example").await;
    let bob = world.user("bob@b.example").await;
    let ben = world.user("ben@b.example").await;
    let group = world.group(&alice, &[&amy, &bob, &ben]).await;
    let clients = [alice, amy, bob, ben];
    for client in &clients[1..] {
        reach(client, &group, 3).await;
    }
    (group, clients)
}

/// Takes what comes until the client is in this epoch.
async fn reach(client: &Client, group: &GroupId, epoch: u64) {
    until("the epoch", async || {
        client
            .receive(std::time::Duration::from_millis(100))
            .await
            .unwrap();
        client.epoch(group).await.is_ok_and(|at| at >= epoch)
    })
    .await;
}

async fn update(client: &Client, group: &GroupId) -> u64 {
    loop {
        match client.update(group).await {
            Ok(accepted) => return accepted.epoch,
            Err(Error::Outrun { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_one_commit_wins_each_epoch() {
    const EACH: usize = 3;
    let world = World::of(&["a.example", "b.example"]).await;
    let (group, clients) = four(&world).await;
    let before = agree(&group, &clients.each_ref()).await;
    let tasks = clients.clone().map(|client| {
        let group = group.clone();
        tokio::spawn(async move {
            let mut won = Vec::new();
            for _ in 0..EACH {
                won.push(update(&client, &group).await);
            }
            won
        })
    });
    let mut won = Vec::new();
    for task in tasks {
        won.extend(task.await.unwrap());
    }
    won.sort_unstable();
    let last = before + 4 * EACH as u64;
    assert_eq!(won, (before + 1..=last).collect::<Vec<_>>());
    for client in &clients {
        reach(client, &group, last).await;
    }
    assert_eq!(agree(&group, &clients.each_ref()).await, last);
    for from in &clients {
        let others: Vec<_> = clients
            .iter()
            .filter(|client| client.client_id() != from.client_id())
            .collect();
        say(&group, from, &others, "after all of it").await;
    }
    world.end().await;
}

/// One client's share of what twenty do to a group: it updates, again and again; or adds somebody
/// and removes them again. The epochs that it has led to.
async fn work(client: &Client, group: &GroupId, guest: Option<&UserId>) -> Vec<u64> {
    let mut won = Vec::new();
    if let Some(guest) = guest {
        let added = client.add_user(group, guest).await.unwrap();
        won.push(added.accepted.epoch);
        won.push(client.remove_user(group, guest).await.unwrap().epoch);
    }
    while won.len() < 3 {
        won.push(client.update(group).await.unwrap().epoch);
    }
    won
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_that_commit_at_once_all_get_their_turn() {
    const CLIENTS: usize = 20;
    let world = World::of(&["a.example", "b.example"]).await;
    let place = |number: usize| ["a.example", "b.example"][number % 2];
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(world.user(&format!("u{number}@{}", place(number))).await);
    }
    let all: Vec<&Client> = clients.iter().collect();
    let group = world.group(all[0], &all[1..]).await;
    for client in &clients[1..] {
        reach(client, &group, CLIENTS as u64 - 1).await;
    }
    let before = agree(&group, &all).await;
    let mut guests = Vec::new();
    for number in 0..4 {
        let guest = world.user(&format!("g{number}@{}", place(number))).await;
        let host = clients[number * 5].user_id();
        guest.set_consent(host, true).await.unwrap();
        guests.push(guest.user_id().clone());
    }

    let a = world.provider("a.example");
    let refused_before = a.answers.refusals();
    let tasks: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(number, client)| {
            let (client, group) = (client.clone(), group.clone());
            let guest = (number % 5 == 0).then(|| guests[number / 5].clone());
            tokio::spawn(async move { work(&client, &group, guest.as_ref()).await })
        })
        .collect();
    let mut won = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    for task in tasks {
        let done = timeout_at(deadline, task).await;
        won.extend(done.expect("nobody is left to the end for ever").unwrap());
    }
    // Each epoch is somebody's, and whoever came too late for it was told so, and nothing else.
    won.sort_unstable();
    let last = before + 3 * CLIENTS as u64;
    assert_eq!(won, (before + 1..=last).collect::<Vec<_>>());
    let mut refused = a.answers.refusals();
    refused.retain(|what, count| refused_before.get(what) != Some(count));
    assert!(!refused.is_empty(), "there was nothing to be won");
    let too_late = refused.keys().all(|(_, result)| result == "wrong_epoch");
    assert!(too_late, "{refused:?}");

    for client in &clients {
        reach(client, &group, last).await;
    }
    assert_eq!(agree(&group, &all).await, last);
    let members = all[0].members(&group).await.unwrap();
    assert_eq!(members.len(), CLIENTS);
    assert!(
        all.iter()
            .all(|client| members.contains(client.client_id()))
    );
    let stored = a.store().group(&group).await.unwrap().unwrap();
    let stored = Group::restore(&stored).unwrap();
    let at_owner = stored.roster().members();
    let at_owner: Vec<_> = at_owner.map(|(_, m)| m.client_id.clone()).collect();
    assert_eq!((stored.epoch(), at_owner), (last, members));
    for from in [0, 1] {
        all[from].send(&group, "after all of it").await.unwrap();
        for client in all
            .iter()
            .filter(|c| c.client_id() != all[from].client_id())
        {
            hear_until(client, "after all of it").await;
        }
    }
    world.end().await;
}

/// What two queues have in common, in the order of each.
fn common(one: &[Vec<u8>], other: &[Vec<u8>]) -> [Vec<Vec<u8>>; 2] {
    let in_both = |queue: &[Vec<u8>], other: &[Vec<u8>]| {
        let payloads = queue.iter().filter(|payload| other.contains(payload));
        payloads.cloned().collect()
    };
    [in_both(one, other), in_both(other, one)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_members_see_the_same_order() {
    const EACH: usize = 8;
    let world = World::of(&["a.example", "b.example"]).await;
    let (group, clients) = four(&world).await;
    let places = ["a.example", "a.example", "b.example", "b.example"];
    let mut before = Vec::new();
    for (client, place) in clients.iter().zip(places) {
        before.push(queue(world.provider(place), client).await.len());
    }
    let tasks = clients.clone().map(|client| {
        let group = group.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                client.send(&group, number.to_string()).await.unwrap();
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    let mut queues = Vec::new();
    for ((client, place), before) in clients.iter().zip(places).zip(before) {
        let provider = world.provider(place);
        let arrived = async || queue(provider, client).await.len() >= before + 3 * EACH;
        until("all messages are in the queue", arrived).await;
        queues.push(queue(provider, client).await.split_off(before));
    }
    for one in 0..4 {
        for other in one + 1..4 {
            let [one, other] = common(&queues[one], &queues[other]);
            assert_eq!(one.len(), 2 * EACH);
            assert!(one == other, "the same messages, in another order");
        }
    }
    let mut heard = Vec::new();
    for client in &clients {
        let events = hear_some(client, 3 * EACH).await;
        let texts = texts(&events);
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 3 * EACH);
        heard.push(texts);
    }
    let by_others = |of: usize, not: [usize; 2]| {
        let not = not.map(|place| clients[place].client_id().clone());
        let texts = heard[of].iter().filter(move |text| !not.contains(&text.0));
        texts.cloned().collect::<Vec<_>>()
    };
    assert_eq!(by_others(0, [0, 2]), by_others(2, [0, 2]));
    assert_eq!(by_others(1, [1, 3]), by_others(3, [1, 3]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn groups_that_do_not_stay_in_memory() {
    const ROUNDS: usize = 12;
    let limits = Limits {
        max_cached_groups_bytes: 1,
        ..Limits::default()
    };
    let world = World::with_limits(&["a.example", "b.example"], limits).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let carol = world.user("carol@b.example").await;
    let groups = [
        world.group(&alice, &[&bob]).await,
        world.group(&alice, &[&bob]).await,
        world.group(&alice, &[&bob]).await,
    ];
    for group in &groups {
        reach(&bob, group, 1).await;
    }
    let tasks = groups.clone().map(|group| {
        let (alice, bob) = (alice.clone(), bob.clone());
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let by = if round % 2 == 0 { &alice } else { &bob };
                update(by, &group).await;
                by.send(&group, round.to_string()).await.unwrap();
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    carol.set_consent(bob.user_id(), true).await.unwrap();
    for group in &groups {
        let last = 1 + ROUNDS as u64;
        reach(&bob, group, last).await;
        bob.add_user(group, carol.user_id()).await.unwrap();
        reach(&alice, group, last + 1).await;
        reach(&carol, group, last + 1).await;
        agree(group, &[&alice, &bob, &carol]).await;
    }
    for group in &groups {
        // They have heard all of each other meanwhile, in whatever group.
        carol.send(group, "I have the tree").await.unwrap();
        for client in [&alice, &bob] {
            let heard = hear_until(client, "I have the tree").await;
            assert_eq!(texts(&heard).last().unwrap().0, *carol.client_id());
            assert!(heard.iter().all(|event| event.group() == Some(group)));
        }
    }
    world.end().await;
}
