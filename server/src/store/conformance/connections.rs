//! Who has asked, who is connected, who is blocked.

use moh_messages::client_api::{BlockTarget, ConnectionState};

use super::*;
use crate::change::Decided;
use crate::store::Relation;

fn peer(name: &str) -> UserId {
    let (name, at) = name.split_once('@').unwrap();
    UserId::new(&provider(at), name).unwrap()
}

fn consent(name: &str, peer_name: &str, allowed: bool, at: u64) -> Write {
    Write::Consent {
        user: user(name),
        peer: peer(peer_name),
        allowed,
        at,
    }
}

/// A peer asks by a group of its provider that delivers to these queues, of its first audience.
fn asked(name: &str, peer_name: &str, queues: &[u8], at: u64) -> Write {
    let peer = peer(peer_name);
    let sender = peer.provider();
    Write::Asked {
        user: user(name),
        peer,
        sender,
        audience: digest(1),
        queues: queues.iter().map(|queue| [*queue; 32]).collect(),
        at,
    }
}

fn decided(name: &str, peer_name: &str, decision: Decided) -> Write {
    Write::Decided {
        user: user(name),
        peer: peer(peer_name),
        decision,
    }
}

fn block(name: &str, target: BlockTarget, blocked: bool) -> Write {
    Write::Block {
        user: user(name),
        target,
        blocked,
    }
}

async fn relation(store: &dyn Store, name: &str, peer_name: &str) -> Relation {
    let relation = store.relation(&user(name), &peer(peer_name)).await;
    relation.unwrap()
}

/// What a user's list says, in short.
async fn listed(store: &dyn Store, name: &str) -> Vec<(String, ConnectionState, u64)> {
    let found = store.connections(&user(name), None, usize::MAX).await;
    let found = found.unwrap().into_iter();
    let line = |c: moh_messages::client_api::Connection| {
        let peer = format!("{}@{}", c.peer.user(), c.peer.provider());
        (peer.replace(".example", ""), c.state, c.since)
    };
    found.map(line).collect()
}

pub(crate) async fn consent_is_given_and_taken_back(data: &impl Data) {
    let store = data.open();
    let consents = async |name: &str, peer_name: &str| {
        let found = store.consent(&user(name), &peer(peer_name)).await;
        found.unwrap()
    };
    for at in [1, 2] {
        write(&*store, vec![consent("alice", "bob@there", true, at)]).await;
        assert!(consents("alice", "bob@there").await);
        assert!(!consents("bob", "alice@here").await);
        assert!(!consents("alice", "carol@there").await);
    }
    let expected = ("bob@there".to_owned(), ConnectionState::Consented, 1);
    assert_eq!(listed(&*store, "alice").await, [expected]);
    for at in [3, 4] {
        write(&*store, vec![consent("alice", "bob@there", false, at)]).await;
        assert!(!consents("alice", "bob@there").await);
        assert_eq!(listed(&*store, "alice").await, []);
    }
}

pub(crate) async fn a_peer_asks_and_is_let_in(data: &impl Data) {
    let store = data.open();
    let audience = bound("a", 1, &[Some(("alice", 1))]);
    write(&*store, vec![audience, asked("alice", "bob@a", &[1], 5)]).await;
    write(&*store, vec![asked("alice", "bob@a", &[1, 2], 6)]).await;
    write(&*store, vec![asked("alice", "carol@a", &[], 7)]).await;
    write(&*store, vec![asked("alice", "dave@a.example", &[], 7)]).await;
    let expected = Relation {
        state: Some(ConnectionState::Asked),
        requests: 2,
        blocked: false,
        asked: 3,
        asked_from_there: 2,
        connections: 3,
    };
    assert_eq!(relation(&*store, "alice", "bob@a").await, expected);
    assert!(!store.consent(&user("alice"), &peer("bob@a")).await.unwrap());
    let both = [
        ("bob@a".to_owned(), ConnectionState::Asked, 5),
        ("carol@a".to_owned(), ConnectionState::Asked, 7),
    ];
    assert_eq!(listed(&*store, "alice").await[1..], both);
    let accepted = vec![
        decided("alice", "bob@a", Decided::Accepted),
        consent("alice", "bob@a", true, 9),
    ];
    write(&*store, accepted).await;
    let expected = Relation {
        state: Some(ConnectionState::Consented),
        requests: 0,
        asked: 2,
        asked_from_there: 1,
        ..expected
    };
    assert_eq!(relation(&*store, "alice", "bob@a").await, expected);
    assert_eq!(listed(&*store, "alice").await[1].2, 9);
    // What was accepted cannot be declined any more: the queue goes on.
    write(&*store, vec![decided("alice", "bob@a", Decided::Declined)]).await;
    write(&*store, vec![message_by("a", 1, "on")]).await;
    assert_eq!(takes(&*store, "a", &[1]).await, [true]);
    assert_eq!(relation(&*store, "alice", "bob@a").await, expected);
}

pub(crate) async fn who_is_declined_finds_no_queues(data: &impl Data) {
    let store = data.open();
    let writes = vec![
        Write::SharedQueue(seat("alice", 9)),
        bound(
            "a",
            1,
            &[Some(("alice", 1)), Some(("bob", 4)), Some(("alice", 9))],
        ),
        bound("a", 2, &[Some(("alice", 2))]),
        bound("b", 1, &[Some(("alice", 3))]),
        message_by("a", 1, "asks"),
        asked("alice", "bob@a", &[1, 2, 9], 5),
        asked("alice", "carol@b", &[3], 6),
    ];
    write(&*store, writes).await;
    for _ in 0..2 {
        write(&*store, vec![decided("alice", "bob@a", Decided::Declined)]).await;
        assert_eq!(relation(&*store, "alice", "bob@a").await.state, None);
        // But the shared one, which others use as well.
        assert_eq!(takes(&*store, "a", &[1, 2, 9]).await, [false, false, true]);
        for number in [1, 2] {
            assert_eq!(members(&*store, "a", number).await, None);
            let late = vec![message_by("a", number, "late")];
            conflicts(&*store, Vec::new(), late).await;
        }
        let again = vec![bound("a", 1, &[Some(("alice", 1))])];
        conflicts(&*store, Vec::new(), again).await;
    }
    // Others are not concerned.
    assert_eq!(takes(&*store, "b", &[3]).await, [true]);
    write(&*store, vec![message_by("b", 1, "by another")]).await;
    let seen = queue(&*store, "alice", 0).await;
    assert_eq!(payloads(&seen), ["asks", "by another"]);
    let expected = ("carol@b".to_owned(), ConnectionState::Asked, 6);
    assert_eq!(listed(&*store, "alice").await, [expected]);
}

pub(crate) async fn to_withdraw_leaves_what_is_undecided(data: &impl Data) {
    let store = data.open();
    // Both ask.
    let writes = vec![
        bound("a", 1, &[Some(("alice", 1))]),
        consent("alice", "bob@a", true, 4),
        asked("alice", "bob@a", &[1], 5),
    ];
    write(&*store, writes).await;
    let expected = Relation {
        state: Some(ConnectionState::Consented),
        requests: 1,
        blocked: false,
        asked: 0,
        asked_from_there: 0,
        connections: 1,
    };
    assert_eq!(relation(&*store, "alice", "bob@a").await, expected);
    write(&*store, vec![consent("alice", "bob@a", false, 6)]).await;
    let withdrawn = Relation {
        state: Some(ConnectionState::Asked),
        asked: 1,
        asked_from_there: 1,
        ..expected
    };
    assert_eq!(relation(&*store, "alice", "bob@a").await, withdrawn);
    // To withdraw once more is not to decline.
    write(&*store, vec![consent("alice", "bob@a", false, 7)]).await;
    assert_eq!(relation(&*store, "alice", "bob@a").await, withdrawn);
    // To decline what is asked leaves the consent.
    let writes = vec![
        consent("alice", "bob@a", true, 8),
        decided("alice", "bob@a", Decided::Declined),
    ];
    write(&*store, writes).await;
    let expected = Relation {
        requests: 0,
        ..expected
    };
    assert_eq!(relation(&*store, "alice", "bob@a").await, expected);
    assert_eq!(takes(&*store, "a", &[1]).await, [false]);
}

pub(crate) async fn who_is_blocked_notices_nothing(data: &impl Data) {
    let store = data.open();
    let bob = BlockTarget::User(peer("bob@a"));
    let both = [Some(("alice", 1)), Some(("carol", 4)), Some(("alice", 9))];
    let writes = vec![
        Write::SharedQueue(seat("alice", 9)),
        bound("a", 1, &both),
        bound("a", 7, &[Some(("alice", 7))]),
        message_by("a", 1, "asks"),
        asked("alice", "bob@a", &[1, 9], 5),
        block("alice", bob.clone(), true),
        block("alice", bob.clone(), true),
    ];
    write(&*store, writes).await;
    let expected = Relation {
        blocked: true,
        ..Relation::default()
    };
    assert_eq!(relation(&*store, "alice", "bob@a").await, expected);
    // What was asked by takes and throws away, and need not be said anew; also in new audiences.
    let alice = Some(client("alice"));
    let expected = Some(vec![alice.clone(), Some(client("carol")), alice]);
    assert_eq!(members(&*store, "a", 1).await, expected);
    let mute = |sender, queue| Write::Mute {
        sender: provider(sender),
        seats: vec![seat("alice", queue)],
    };
    let writes = vec![
        mute("a", 2),
        bound("a", 2, &[Some(("alice", 2)), Some(("alice", 1))]),
        bound("a", 3, &[Some(("alice", 9))]),
        message_by("a", 1, "one"),
        message_by("a", 2, "two"),
        message_by("a", 3, "to a shared one"),
        message_by("a", 7, "of another group"),
    ];
    write(&*store, writes).await;
    assert_eq!(takes(&*store, "a", &[1, 2, 9]).await, [true; 3]);
    assert_eq!(takes(&*store, "b", &[1, 2, 9]).await, [false, false, true]);
    let seen = queue(&*store, "alice", 0).await;
    assert_eq!(payloads(&seen), ["to a shared one", "of another group"]);
    assert_eq!(payloads(&queue(&*store, "carol", 0).await), ["asks", "one"]);
    // Only what is new is thrown away from the beginning.
    for (sender, queue) in [("a", 1), ("a", 2), ("b", 1), ("a", 9), ("a", 7)] {
        conflicts(&*store, Vec::new(), vec![mute(sender, queue)]).await;
    }
    // No consent counts while they are blocked.
    write(&*store, vec![consent("alice", "bob@a", true, 6)]).await;
    let consents = async || store.consent(&user("alice"), &peer("bob@a")).await.unwrap();
    assert!(!consents().await);
    for (blocked, holds) in [(true, true), (false, false)] {
        let expect = Expect::Blocked {
            user: user("alice"),
            peer: peer("bob@a"),
            blocked,
        };
        let result = store.commit(change(vec![expect], Vec::new())).await;
        assert_eq!(result.is_ok(), holds);
    }
    write(&*store, vec![block("alice", bob, false)]).await;
    assert!(consents().await);
    assert!(!store.blocked(&user("alice"), &peer("bob@a")).await.unwrap());
}

pub(crate) async fn a_provider_is_blocked_with_all_its_users(data: &impl Data) {
    let store = data.open();
    let of = |name: &str| BlockTarget::Provider(provider(name));
    let writes = vec![
        bound("a", 1, &[Some(("alice", 1))]),
        asked("alice", "bob@a", &[1], 5),
        consent("alice", "carol@a", true, 5),
        // Its name begins with the other's.
        consent("alice", "dave@a.example", true, 5),
        consent("alice", "erin@b", true, 5),
        block("alice", of("a"), true),
    ];
    write(&*store, writes).await;
    let left = listed(&*store, "alice").await;
    let left: Vec<_> = left.iter().map(|(peer, ..)| peer.as_str()).collect();
    assert_eq!(left, ["dave@a", "erin@b"]);
    let blocked = async |peer_name| {
        let found = store.blocked(&user("alice"), &peer(peer_name)).await;
        found.unwrap()
    };
    assert!(blocked("bob@a").await && blocked("nobody@a").await);
    assert!(!blocked("dave@a.example").await && !blocked("erin@b").await);
    assert!(!store.blocked(&user("bob"), &peer("bob@a")).await.unwrap());
    // The queue of what was asked is muted, not closed.
    assert_eq!(takes(&*store, "a", &[1]).await, [true]);
    assert_eq!(
        members(&*store, "a", 1).await,
        Some(vec![Some(client("alice"))])
    );
    write(&*store, vec![message_by("a", 1, "to nobody")]).await;
    assert_eq!(queue(&*store, "alice", 0).await, []);
    write(&*store, vec![block("alice", of("a"), false)]).await;
    assert!(!blocked("bob@a").await);
}

pub(crate) async fn connections_and_blocks_are_listed_by_name(data: &impl Data) {
    let store = data.open();
    let names = ["b@y", "a@y", "c@x"];
    let mut writes: Vec<_> = names.map(|n| consent("alice", n, true, 1)).into();
    writes.push(consent("bob", "d@x", true, 1));
    write(&*store, writes).await;
    let alice = user("alice");
    let after = async |after: Option<&str>, max| {
        let after = after.map(peer);
        let found = store.connections(&alice, after.as_ref(), max).await;
        let found = found.unwrap().into_iter();
        found.map(|c| c.peer).collect::<Vec<_>>()
    };
    let sorted = ["c@x", "a@y", "b@y"].map(peer);
    assert_eq!(after(None, 9).await, sorted);
    assert_eq!(after(None, 2).await, sorted[..2]);
    assert_eq!(after(Some("c@x"), 9).await, sorted[1..]);
    assert_eq!(after(Some("b@y"), 9).await, []);
    assert_eq!(after(None, 0).await, []);

    let sorted = [
        BlockTarget::User(peer("z@x")),
        BlockTarget::User(peer("a@y")),
        BlockTarget::Provider(provider("a")),
        BlockTarget::Provider(provider("b")),
    ];
    for target in sorted.iter().rev() {
        write(&*store, vec![block("alice", target.clone(), true)]).await;
    }
    let after = async |after: Option<&BlockTarget>, max| {
        let found = store.blocks(&alice, after, max).await;
        found.unwrap()
    };
    assert_eq!(after(None, 9).await, sorted);
    assert_eq!(after(None, 3).await, sorted[..3]);
    for (place, target) in sorted.iter().enumerate() {
        assert_eq!(after(Some(target), 9).await, sorted[place + 1..]);
    }
}

pub(crate) async fn a_user_that_is_forgotten(data: &impl Data) {
    let store = data.open();
    let writes = vec![
        consent("alice", "bob@a", true, 1),
        asked("alice", "carol@a", &[1], 1),
        block("alice", BlockTarget::Provider(provider("b")), true),
        consent("bob", "bob@a", true, 1),
        Write::ForgetUser {
            user: user("alice"),
        },
    ];
    write(&*store, writes).await;
    let nothing = Relation::default();
    for peer_name in ["bob@a", "carol@a", "dave@b"] {
        assert_eq!(relation(&*store, "alice", peer_name).await, nothing);
    }
    assert_eq!(listed(&*store, "bob").await.len(), 1);
}

/// A KeyPackage of Alice's with the queue of its number, and who got it.
fn handed_out(number: u8, peer_name: &str, for_connections: bool) -> Vec<Write> {
    let reference = KeyPackageRef::new([number; 32]).unwrap();
    let queue = Write::KeyPackageQueue {
        reference: reference.clone(),
        seat: seat("alice", number),
        for_connections,
        expires_at: 10_000,
    };
    let peer = peer(peer_name);
    vec![queue, Write::HandedOut { reference, peer }]
}

/// What is delivered to queues that were handed out, and not by a request: who has not asked, was
/// declined or is blocked gets around nothing.
pub(crate) async fn what_was_handed_out_is_for_who_asked(data: &impl Data) {
    let store = data.open();
    let mut writes = vec![
        asked("alice", "asks@a", &[], 1),
        consent("alice", "friend@a", true, 1),
        block("alice", BlockTarget::User(peer("blocked@a")), true),
        consent("alice", "blocked@a", true, 1),
        asked("alice", "declined@a", &[], 1),
        decided("alice", "declined@a", Decided::Declined),
    ];
    for (number, name, for_connections) in [
        (1, "asks@a", true),
        (2, "friend@a", true),
        (3, "friend@a", false),
        (4, "stranger@a", true),
        (5, "stranger@a", false),
        (6, "blocked@a", true),
        (7, "blocked@a", false),
        (8, "declined@a", true),
        (9, "alice@here", true),
    ] {
        writes.extend(handed_out(number, name, for_connections));
    }
    write(&*store, writes).await;
    for number in 1..=10 {
        let text = number.to_string();
        let writes = vec![
            bound("a", 100 + number, &[Some(("alice", number))]),
            message_by("a", 100 + number, &text),
        ];
        write(&*store, writes).await;
        assert_eq!(takes(&*store, "a", &[number]).await, [true]);
    }
    let seen = queue(&*store, "alice", 0).await;
    assert_eq!(payloads(&seen), ["1", "2", "3", "5", "9", "10"]);
    // What was used while it was asked goes with the decision.
    let declined = decided("alice", "asks@a", Decided::Declined);
    write(&*store, vec![declined]).await;
    let accepted = decided("alice", "friend@a", Decided::Accepted);
    let again = decided("alice", "friend@a", Decided::Declined);
    write(&*store, vec![accepted, again]).await;
    let expected = [false, true, true, true];
    assert_eq!(takes(&*store, "a", &[1, 2, 3, 5]).await, expected);
}
