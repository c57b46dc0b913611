//! `moh chat --plain`, as people use it, over two `moh serve`.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod interrupted;
mod person;

use common::server::Server;
use person::{Person, connect, texts};

#[tokio::test]
async fn two_people_of_two_providers_connect_and_talk() {
    let (a, b) = Server::start_two().await;
    let mut alice = Person::at(&a, "alice").await;
    let mut bob = Person::at(&b, "bob").await;

    alice.does("/connect bob@b.example").await;
    // What is written before Bob has accepted is there when he does.
    alice.writes("Hello Bob").await;
    bob.until("request alice@a.example").await;
    let people = bob.does("/people").await;
    assert!(people.contains(&"person alice@a.example asks".to_owned()));
    bob.types("/accept").await;
    bob.until_all(&["message 1 alice@a.example/terminal ", "ok "])
        .await;
    alice.until("connected 1 bob@b.example").await;

    bob.writes("Hello Alice: \\o/ 日本 👋").await;
    let lines = alice.until("message 1 bob@b.example/terminal ").await;
    assert_eq!(texts(&lines), ["Hello Alice: \\\\o/ 日本 👋"]);
    let members = alice.does("/members").await;
    assert!(members.contains(&"member alice@a.example a.example terminal".to_owned()));
    assert!(members.contains(&"member bob@b.example b.example terminal".to_owned()));
    let again = alice.does("/connect bob@b.example").await;
    assert_eq!(
        again.last().unwrap(),
        "ok bob@b.example is connected already"
    );
}

#[tokio::test]
async fn a_group_has_a_name_and_people_who_come_and_go() {
    let (a, b) = Server::start_two().await;
    let mut alice = Person::at(&a, "alice").await;
    let mut bob = Person::at(&b, "bob").await;
    let mut carol = Person::at(&b, "carol").await;
    connect(&mut alice, &mut bob).await;
    connect(&mut alice, &mut carol).await;

    alice.does("/new \"our trip\" bob@b.example").await;
    bob.until("conversation 2 our trip").await;
    bob.opens("our trip").await;
    bob.writes("where to?").await;
    alice.until("message 3 bob@b.example/terminal ").await;

    // Whoever is added later learns the name too.
    alice.does("/invite carol").await;
    carol.until("conversation 2 our trip").await;
    bob.until("event 2 alice@a.example added carol@b.example")
        .await;
    carol.opens("our trip").await;
    carol.writes("to the sea").await;
    bob.until("message 2 carol@b.example/terminal ").await;
    alice.until("message 3 carol@b.example/terminal ").await;
    bob.types("/rename the sea").await;
    carol.until("conversation 2 the sea").await;
    alice.until("conversation 3 the sea").await;

    // Bob and Carol are not connected: neither could add the other.
    let reason = carol.fails("/invite dave@a.example").await;
    assert!(reason.contains("/connect dave@a.example"), "{reason}");

    carol.does("/leave").await;
    alice.writes("Carol leaves").await;
    carol.until("event 2 you left").await;
    bob.until("event 2 carol@b.example is not in the group any more")
        .await;
    let reason = carol.fails("hello?").await;
    assert_eq!(reason, "you are not in this conversation any more");

    alice.does("/remove bob").await;
    bob.until("event 2 alice@a.example removed you").await;
    let members = alice.does("/members").await;
    assert_eq!(members.len(), 2, "{members:?}");
    let left = alice.does("/leave").await;
    assert!(
        left.contains(&"event 3 you left; the group is gone".to_owned()),
        "{left:?}"
    );
}

#[tokio::test]
async fn what_was_not_read_and_what_was_said_is_there_after_a_restart() {
    let (a, b) = Server::start_two().await;
    let mut alice = Person::at(&a, "alice").await;
    let mut bob = Person::at(&b, "bob").await;
    connect(&mut alice, &mut bob).await;
    alice.writes("read").await;
    bob.until("message 1 ").await;
    bob.does("/new notes").await;
    alice.writes("not read").await;
    bob.until("message 1 ").await;
    let (status, _) = bob.closes().await;
    assert!(status.success());
    // This comes while Bob is not there.
    alice.writes("missed").await;

    let lines = bob.open().await;
    assert!(lines.contains(&"open 2 notes".to_owned()), "{lines:?}");
    assert!(
        lines.contains(&"unread 1 1 alice@a.example".to_owned()),
        "{lines:?}"
    );
    if texts(&lines).is_empty() {
        bob.until("message 1 ").await;
    }
    let groups = bob.does("/groups").await;
    assert!(
        groups.contains(&"conversation 1 in 2 alice@a.example".to_owned()),
        "{groups:?}"
    );
    bob.does("/open alice").await;
    let history = bob.does("/history").await;
    let said: Vec<&str> = history
        .iter()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    assert_eq!(
        said[said.len() - 3..],
        ["read", "not read", "missed"],
        "{history:?}"
    );
    let groups = bob.does("/groups").await;
    assert!(
        groups.contains(&"conversation 1 in 0 alice@a.example".to_owned()),
        "{groups:?}"
    );
}

#[tokio::test]
async fn a_connection_can_be_declined_ended_and_blocked() {
    let (a, b) = Server::start_two().await;
    let mut alice = Person::at(&a, "alice").await;
    let mut bob = Person::at(&b, "bob").await;

    alice.does("/connect bob@b.example").await;
    bob.until("request alice@a.example").await;
    bob.does("/decline").await;
    assert_eq!(bob.fails("/accept").await, "nobody asks");
    alice.types("are you there?").await;
    alice.until("disconnected bob@b.example ").await;

    // Bob may ask himself, though.
    bob.does("/connect alice@a.example").await;
    alice.until("request bob@b.example").await;
    alice.does("/accept").await;
    bob.until("connected ").await;
    bob.does("/disconnect alice").await;
    alice.until("disconnected bob@b.example ").await;
    alice.fails("still there?").await;

    bob.does("/block alice@a.example").await;
    let people = bob.does("/people").await;
    assert!(
        people.contains(&"person alice@a.example blocked".to_owned()),
        "{people:?}"
    );
    // Alice cannot tell this from somebody who is not there.
    let reason = alice.fails("/connect bob@b.example").await;
    let nobody = alice.fails("/connect nobody@b.example").await;
    assert_eq!(reason.replace("bob", "nobody"), nobody);
    bob.does("/unblock alice@a.example").await;
    alice.does("/connect bob@b.example").await;
    bob.until("request alice@a.example").await;
}

#[tokio::test]
async fn what_a_terminal_acts_upon_is_shown_by_its_number() {
    let (a, b) = Server::start_two().await;
    let mut alice = Person::at(&a, "alice").await;
    let mut bob = Person::at(&b, "bob").await;
    connect(&mut alice, &mut bob).await;
    // Each line that a person sees is checked for control characters.
    alice.writes("\x1b]0;title\x07\x1b[2Jclear\u{202e}").await;
    let lines = bob.until("message 1 ").await;
    assert_eq!(
        texts(&lines),
        ["\\u{1b}]0;title\\u{7}\\u{1b}[2Jclear\\u{202e}"]
    );
    alice.does("/new \x1b[31mred bob").await;
    bob.until("conversation 2 \\u{1b}[31mred").await;
}
