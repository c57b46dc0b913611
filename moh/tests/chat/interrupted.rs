//! Chats that are killed, providers that are away, devices that come later.

use rustix::process::Signal;

use super::common::in_time;
use super::common::server::Server;
use super::person::{Person, connect, texts};

/// Alice at a.example and Bob at b.example, connected, and their providers.
async fn pair() -> (Server, Server, Person, Person) {
    let (a, b) = Server::start_two().await;
    let mut alice = Person::at(&a, "alice").await;
    let mut bob = Person::at(&b, "bob").await;
    connect(&mut alice, &mut bob).await;
    (a, b, alice, bob)
}

#[tokio::test]
async fn a_chat_that_is_killed_goes_on_where_it_was() {
    let (_a, _b, mut alice, mut bob) = pair().await;
    for round in 0..3 {
        for number in 0..8 {
            alice.types(&format!("{round}.{number}")).await;
        }
        // Somewhere in the middle.
        alice.until(&format!("sent 1 {round}.{round}")).await;
        alice.is_killed().await;
        let lines = alice.open().await;
        assert!(
            lines.contains(&"open 1 bob@b.example".to_owned()),
            "{lines:?}"
        );
    }
    alice.types("the end").await;
    alice.until("sent 1 the end").await;
    let wrote = alice.does("/history 100").await;
    let wrote: Vec<&str> = wrote
        .iter()
        .filter(|line| line.contains(" alice@a.example/terminal "))
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();

    // Bob is killed as well, and has seen everything once in the end, in order.
    bob.until("message 1 ").await;
    bob.is_killed().await;
    bob.open().await;
    let shown = texts(&bob.shown);
    if shown.last().map(String::as_str) != Some("the end") {
        while texts(&bob.until("message 1 ").await).last().unwrap() != "the end" {}
    }
    let history = bob.does("/history 100").await;
    let read: Vec<&str> = history
        .iter()
        .filter(|line| line.contains(" alice@a.example/terminal "))
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    assert_eq!(read, wrote);
    assert!(read.len() >= 7, "{read:?}");
    let mut once = read.clone();
    once.dedup();
    assert_eq!(once, read);
}

#[tokio::test]
async fn what_was_on_its_way_when_the_chat_was_killed_arrives_once() {
    let (a, _b, mut alice, mut bob) = pair().await;
    a.stop();
    alice.types("in the air").await;
    alice.until("sending 1 in the air").await;
    // The library has the request, and sends it after the restart; so does the chat itself, which
    // cannot know that.
    let stored = async {
        while !alice.has_pending() {
            tokio::task::yield_now().await;
        }
    };
    in_time("a stored request", stored).await;
    alice.is_killed().await;
    a.signal(Signal::CONT);
    let lines = alice.open().await;
    if !lines.contains(&"sent 1 in the air".to_owned()) {
        alice.until("sent 1 in the air").await;
    }
    alice.writes("landed").await;
    let lines = bob.until("message 1 ").await;
    assert_eq!(texts(&lines), ["in the air"]);
    let lines = bob.until("message 1 ").await;
    assert_eq!(texts(&lines), ["landed"]);
}

#[tokio::test]
async fn without_the_provider_messages_wait_and_go_out_when_it_is_back() {
    let (mut a, _b, mut alice, mut bob) = pair().await;
    a.kill().await;
    alice.until("offline ").await;
    alice.types("later").await;
    // Also over a restart of the chat, which does not wait for ever.
    let (status, lines) = alice.closes().await;
    assert!(status.success());
    let note = "note 1 not sent yet: that goes on next time".to_owned();
    assert_eq!(lines.last(), Some(&note), "{lines:?}");
    alice.open().await;
    a.restart().await;
    alice.until("sent 1 later").await;
    let lines = bob.until("message 1 ").await;
    assert_eq!(texts(&lines), ["later"]);
}

#[tokio::test]
async fn a_second_device_is_let_in_by_the_first_and_comes_into_the_conversations() {
    let (a, _b, mut alice, mut bob) = pair().await;
    let mut laptop = Person::on(&a, "alice", "laptop");
    laptop.start();
    let asked = laptop.until("ask and enter here").await;
    let link = asked
        .iter()
        .find_map(|line| line.strip_prefix("ask   "))
        .unwrap();
    let answer = alice.does(link).await;
    let authorization = answer
        .iter()
        .find_map(|line| line.strip_prefix("authorization "))
        .unwrap();
    laptop.types(authorization).await;
    laptop
        .until_all(&[
            "registered alice@a.example/laptop",
            "connected 1 bob@b.example",
        ])
        .await;
    bob.until("event 1 alice@a.example has a new device: laptop")
        .await;
    bob.writes("hello, both of you").await;
    for device in [&mut alice, &mut laptop] {
        device.until("message 1 bob@b.example/terminal ").await;
    }
    let devices = laptop.does("/devices").await;
    assert!(
        devices
            .iter()
            .any(|line| line.starts_with("device terminal "))
    );
    // What one device writes, the other one has.
    laptop.opens("bob").await;
    laptop.writes("from the laptop").await;
    alice.until("message 1 alice@a.example/laptop ").await;
    // What is made later has both of them too, and its name.
    alice.does("/new trip bob").await;
    laptop.until("conversation 2 trip").await;
    bob.until("conversation 2 trip").await;
    bob.opens("trip").await;
    bob.writes("to the trip").await;
    for device in [&mut alice, &mut laptop] {
        device.until("message 2 bob@b.example/terminal ").await;
    }
}

#[tokio::test]
async fn a_provider_of_others_that_is_away_holds_up_nothing_else() {
    let (mut a, _b, _alice, mut bob) = pair().await;
    // What Alice began is at her provider; Bob's own one is there.
    a.kill().await;
    bob.types("to nobody").await;
    bob.until("sending 1 to nobody").await;
    let people = bob.does("/people").await;
    assert!(people.contains(&"person alice@a.example connected".to_owned()));
    bob.does("/new notes").await;
    bob.writes("to myself").await;
    a.restart().await;
    bob.until("sent 1 to nobody").await;
}

#[tokio::test]
async fn a_device_that_lost_its_state_keeps_its_history_and_comes_back() {
    let (_a, _b, mut alice, mut bob) = pair().await;
    bob.writes("before").await;
    alice.until("message 1 ").await;
    let (status, _) = alice.closes().await;
    assert!(status.success());
    alice.loses_state();
    let lines = alice.open().await;
    assert!(
        lines.contains(&"open 1 bob@b.example".to_owned()),
        "{lines:?}"
    );
    let history = alice.does("/history").await;
    assert!(
        history.iter().any(|line| line.ends_with(" before")),
        "{history:?}"
    );
    bob.writes("is anybody there?").await;
    alice.until("event 1 joined again").await;
    bob.writes("after").await;
    let lines = alice.until("message 1 ").await;
    assert_eq!(texts(&lines), ["after"]);
    alice.writes("here I am").await;
    bob.until("message 1 ").await;
}
