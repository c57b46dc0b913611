//! Connections, requests and blocks.

use moh_client::DisconnectReason;

use super::*;

fn requested(from: &str) -> Event {
    Event::ConnectionRequested {
        peer: user(from),
        group: group(9),
        received_at: NOW_MS,
    }
}

fn connected(with: &str, number: u8) -> Event {
    Event::Connected {
        peer: user(with),
        group: group(number),
    }
}

#[test]
fn who_asks_is_shown_and_can_be_accepted_without_a_name() {
    let mut chat = Chat::new();
    chat.typed("/accept");
    assert_eq!(chat.said(), ["error: nobody asks"]);
    chat.event(requested("bob@b.example"));
    assert_eq!(chat.said(), ["request bob@b.example"]);
    chat.typed("/accept");
    let call = chat.answer(Ok(Answer::Group(group(9))));
    assert_eq!(call, Call::Accept(user("bob@b.example")));
    assert_eq!(
        chat.said(),
        [
            "conversation 1 bob@b.example",
            "connected 1 bob@b.example",
            "ok bob@b.example is connected",
        ]
    );
    assert_eq!(chat.model.open, Some(1));
    // The library may tell the same.
    chat.event(connected("bob@b.example", 9));
    assert_eq!(chat.shown(), Vec::<String>::new());
}

#[test]
fn one_of_several_who_ask_has_to_be_named() {
    let mut chat = Chat::new();
    chat.event(requested("bob@b.example"));
    chat.event(requested("carol@b.example"));
    chat.shown();
    chat.typed("/decline");
    assert_eq!(
        chat.said(),
        ["error: which one? bob@b.example and carol@b.example"]
    );
    // Known people are named without their provider.
    chat.typed("/decline carol");
    let call = chat.answer(Ok(Answer::Done));
    assert_eq!(call, Call::Decline(user("carol@b.example")));
    assert_eq!(chat.said(), ["ok declined what carol@b.example asked"]);
    assert_eq!(chat.model.people.len(), 1);
}

#[test]
fn who_is_asked_can_be_written_to_before_they_accept() {
    let mut chat = Chat::new();
    chat.typed("/connect bob@b.example");
    assert_eq!(
        chat.answer(Ok(Answer::Group(group(1)))),
        Call::Connect(user("bob@b.example"))
    );
    assert_eq!(
        chat.said(),
        [
            "conversation 1 bob@b.example",
            "ok bob@b.example is asked to connect",
        ]
    );
    chat.typed("hello");
    assert_eq!(chat.sends().len(), 1);
    chat.sent(SendResult::Sent);
    assert_eq!(chat.said(), ["sent 1 hello"]);
    chat.typed("/connect bob@b.example");
    assert_eq!(chat.said(), ["error: bob@b.example was asked already"]);
    chat.event(connected("bob@b.example", 1));
    assert_eq!(chat.said(), ["connected 1 bob@b.example"]);
}

#[test]
fn to_connect_with_somebody_who_asks_is_to_accept() {
    let mut chat = Chat::new();
    chat.event(requested("bob@b.example"));
    chat.typed("/connect bob@b.example");
    let call = chat.answer(Ok(Answer::Group(group(9))));
    assert_eq!(call, Call::Accept(user("bob@b.example")));
}

#[test]
fn a_connection_that_the_other_one_ends_is_over() {
    let mut chat = Chat::new();
    chat.event(connected("bob@b.example", 1));
    chat.members(1, &["alice@a.example/phone", "bob@b.example/phone"]);
    chat.typed("/open 1");
    chat.shown();
    chat.event(Event::Disconnected {
        peer: user("bob@b.example"),
        reason: DisconnectReason::Ended,
    });
    assert_eq!(
        chat.said(),
        ["disconnected bob@b.example ended by the peer"]
    );
    assert_eq!(chat.model.conversation(1).unwrap().standing, Standing::Out);
    chat.typed("hello");
    assert_eq!(
        chat.said(),
        ["error: you are not in this conversation any more"]
    );
    // They may begin again, in another group.
    chat.event(connected("bob@b.example", 2));
    assert_eq!(chat.model.with(&user("bob@b.example")).unwrap().number, 2);
}

#[test]
fn a_failure_is_said_and_changes_nothing() {
    let mut chat = Chat::new();
    chat.typed("/connect bob@b.example");
    chat.answer(Err("b.example cannot be reached".to_owned()));
    assert_eq!(chat.said(), ["error: b.example cannot be reached"]);
    assert!(chat.model.people.is_empty() && chat.model.conversations.is_empty());
    assert!(chat.model.is_idle());
}

#[test]
fn whoever_is_blocked_is_not_connected_any_more() {
    let mut chat = Chat::new();
    chat.event(connected("bob@b.example", 1));
    chat.event(requested("carol@b.example"));
    chat.event(connected("dave@d.example", 2));
    chat.shown();
    chat.typed("/block b.example");
    let call = chat.answer(Ok(Answer::Done));
    let provider = Target::Provider("b.example".parse().unwrap());
    assert_eq!(call, Call::Block(provider));
    assert_eq!(
        chat.said(),
        [
            "disconnected bob@b.example you blocked them",
            "disconnected carol@b.example you blocked them",
            "ok b.example is blocked",
        ]
    );
    chat.typed("/people");
    assert_eq!(
        chat.said(),
        [
            "person dave@d.example connected",
            "person b.example blocked",
            "ok"
        ]
    );
    chat.typed("/unblock c.example");
    assert_eq!(chat.said(), ["error: c.example is not blocked"]);
    chat.typed("/unblock b.example");
    chat.answer(Ok(Answer::Done));
    assert_eq!(chat.model.blocked, Some(Vec::new()));
}

#[test]
fn nobody_is_meant_who_cannot_be() {
    let mut chat = Chat::new();
    chat.event(connected("bob@b.example", 1));
    chat.event(connected("bob@c.example", 2));
    chat.shown();
    chat.typed("/connect bob");
    assert_eq!(
        chat.said(),
        ["error: which bob? bob@b.example and bob@c.example"]
    );
    chat.typed("/connect alice@a.example");
    assert_eq!(chat.said(), ["error: that is you"]);
    chat.typed("/connect b@b@b");
    assert!(chat.said()[0].starts_with("error: b@b@b is not a user"));
    chat.typed("/disconnect carol@b.example");
    assert_eq!(chat.said(), ["error: carol@b.example is not connected"]);
    // A name alone is a user of the own provider, where nobody else is known by it.
    chat.typed("/connect carol");
    let call = chat.answer(Err("no".to_owned()));
    assert_eq!(call, Call::Connect(user("carol@a.example")));
}

/// A chat that has kept groups 1 and 2, 2 of which is over.
fn kept() -> Kept {
    let mut kept = Kept::default();
    for number in [1, 2] {
        let id = group(u8::try_from(number).unwrap());
        kept.conversations.push(Conversation::new(number, id));
    }
    kept.conversations[1].standing = Standing::Out;
    kept
}

#[test]
fn what_the_library_knows_at_the_beginning_goes_before_what_was_kept() {
    let me = client("alice@a.example/phone");
    let mut model = Model::new(me, kept(), "run".to_owned());
    let effects = model.start(Known {
        people: vec![
            (user("bob@b.example"), Person::Connected, Some(group(3))),
            (user("carol@b.example"), Person::Asks, Some(group(4))),
        ],
        groups: vec![group(2), group(3)],
    });
    let standing = |number| model.conversation(number).map(|c| c.standing);
    // The state of the library may be lost, and group 1 come back.
    assert_eq!(standing(1), Some(Standing::In));
    assert_eq!(standing(2), Some(Standing::In));
    assert!(effects.contains(&Effect::Write(Write::Conversation(2))));
    assert_eq!(standing(3), Some(Standing::In));
    assert_eq!(standing(4), None);
    let peer = model.conversation(3).unwrap().peer.clone();
    assert_eq!(peer, Some(user("bob@b.example")));
    assert_eq!(model.people[&user("carol@b.example")], Person::Asks);
}

#[test]
fn what_the_library_knew_a_moment_ago_undoes_nothing() {
    let mut chat = Chat::of(kept());
    chat.event(Event::Connected {
        peer: user("bob@b.example"),
        group: group(3),
    });
    let by = client("bob@b.example/phone");
    chat.event(Event::Removed {
        group: group(1),
        by,
    });
    chat.event(Event::Settled {
        group: group(7),
        operation: moh_client::Operation::Join,
        outcome: moh_client::Outcome::Accepted,
    });
    let answer = Answer::Known(Known {
        people: vec![(user("bob@b.example"), Person::Asked, Some(group(3)))],
        groups: vec![group(1), group(7)],
    });
    chat.answer_call(|call| *call == Call::LookAgain, Ok(answer));
    let standing = |number| chat.model.conversation(number).map(|c| c.standing);
    assert_eq!(standing(1), Some(Standing::Out));
    assert_eq!(standing(3), Some(Standing::In));
    assert_eq!(standing(4), Some(Standing::In));
    assert_eq!(chat.model.people[&user("bob@b.example")], Person::Connected);
}

#[test]
fn a_group_that_is_joined_again_is_kept() {
    let mut chat = Chat::of(kept());
    chat.effects.clear();
    let group = group(1);
    chat.event(Event::Rejoined { group, epoch: 3 });
    assert!(
        chat.effects
            .contains(&Effect::Write(Write::Conversation(1)))
    );
}

#[test]
fn what_goes_on_by_itself_is_as_good_as_asked() {
    let later = |number: u8| {
        Ok(Answer::Later {
            group: group(number),
            reason: "not answered yet".to_owned(),
        })
    };
    let mut chat = Chat::new();
    chat.typed("/connect bob@b.example");
    chat.answer(later(1));
    assert_eq!(chat.said()[0], "note not answered yet");
    assert_eq!(chat.model.people[&user("bob@b.example")], Person::Asked);
    chat.event(Event::Disconnected {
        peer: user("bob@b.example"),
        reason: DisconnectReason::NotSent,
    });
    assert_eq!(
        chat.said(),
        ["disconnected bob@b.example could not be asked"]
    );
    // Also of one who is not known any more.
    chat.event(Event::Disconnected {
        peer: user("bob@b.example"),
        reason: DisconnectReason::Ended,
    });
    assert_eq!(chat.said(), ["note bob@b.example: ended by the peer"]);

    // A group keeps its name, and those who are to be added wait until it is there.
    chat.typed("/new trip carol@c.example");
    chat.answer(later(2));
    assert_eq!(
        chat.model.conversation(2).unwrap().name.as_deref(),
        Some("trip")
    );
    chat.event(Event::Settled {
        group: group(2),
        operation: moh_client::Operation::CreateGroup,
        outcome: moh_client::Outcome::Accepted,
    });
    let call = chat.answer(Err("no".to_owned()));
    assert!(matches!(call, Call::Invite { users, .. } if users == [user("carol@c.example")]));
}

#[test]
fn who_is_blocked_is_asked_again_where_the_provider_was_not_reached() {
    let mut model = Model::new(
        client("alice@a.example/phone"),
        Kept::default(),
        "run".to_owned(),
    );
    let effects = model.start(Known::default());
    let mut chat = Chat { model, effects };
    chat.answer_call(|call| *call == Call::Blocked, Err("no route".to_owned()));
    // What nobody asked for fails in silence.
    assert_eq!(chat.shown(), Vec::<String>::new());
    chat.input(Input::Link(Link::Online));
    let blocked = vec![Target::User(user("eve@e.example"))];
    chat.answer_call(|call| *call == Call::Blocked, Ok(Answer::Blocked(blocked)));
    chat.shown();
    chat.typed("/people");
    assert_eq!(chat.shown(), ["person eve@e.example blocked", "ok"]);
}
