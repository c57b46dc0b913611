//! Groups, their members and their names.

use moh_client::NotAttestedReason;

use super::*;

fn changed(by: &str, added: &[&str], removed: &[&str]) -> Event {
    Event::MembersChanged {
        group: group(1),
        by: client(by),
        added: added.iter().map(|name| client(name)).collect(),
        removed: removed.iter().map(|name| client(name)).collect(),
        epoch: 2,
    }
}

#[test]
fn a_group_is_made_and_its_name_is_told_to_those_who_are_added() {
    let mut chat = Chat::new();
    chat.typed("/new trip bob@b.example carol@b.example");
    chat.answer(Ok(Answer::Group(group(1))));
    assert_eq!(chat.said(), ["conversation 1 trip"]);
    let call = chat.answer(Ok(Answer::Invited {
        added: vec![user("bob@b.example")],
        failed: vec![(user("carol@b.example"), "no consent".to_owned())],
    }));
    assert!(matches!(call, Call::Invite { users, .. } if users.len() == 2));
    assert_eq!(
        chat.said(),
        ["error: carol@b.example is not added: no consent"]
    );
    assert_eq!(
        chat.events(1),
        ["you made the group “trip”", "you added bob@b.example"]
    );
    let sends = chat.sends();
    let names: Vec<_> = sends
        .iter()
        .map(|bytes| Content::decode(bytes).body)
        .collect();
    assert_eq!(names, [crate::chat::content::Body::Name("trip".to_owned())]);
}

#[test]
fn a_group_that_nobody_else_is_in_sends_nothing() {
    let mut chat = Chat::new();
    chat.typed("/new \"our trip\"");
    chat.answer(Ok(Answer::Group(group(1))));
    assert_eq!(
        chat.said(),
        ["conversation 1 our trip", "ok 1 is called our trip"]
    );
    assert!(chat.sends().is_empty());
    chat.typed("/open our trip");
    assert_eq!(chat.said(), ["ok 1 is open: our trip"]);
}

#[test]
fn a_name_that_is_told_again_is_no_news() {
    let mut chat = Chat::new();
    chat.event(Event::Joined {
        group: group(1),
        owner: provider(),
        epoch: 1,
        members: vec![
            client("bob@b.example/phone"),
            client("alice@a.example/phone"),
        ],
    });
    assert_eq!(chat.said(), ["conversation 1 bob"]);
    let named = |name: &str| Event::Message {
        group: group(1),
        sender: client("bob@b.example/phone"),
        content: Content::name("id", name).encode(),
        epoch: 1,
        received_at: NOW_MS,
    };
    chat.event(named("trip"));
    chat.event(named("trip"));
    assert_eq!(chat.said(), ["conversation 1 trip"]);
    assert_eq!(
        chat.events(1),
        ["you were added", "bob@b.example named it “trip”"]
    );
    assert_eq!(chat.model.conversation(1).unwrap().unread, 0);
}

#[test]
fn members_who_come_and_go_are_told_with_their_devices() {
    let mut chat = Chat::with_group();
    let bob = "bob@b.example/phone";
    chat.event(changed(
        bob,
        &["carol@c.example/phone", "carol@c.example/pc"],
        &[],
    ));
    chat.event(changed(bob, &["bob@b.example/pc"], &[]));
    chat.event(changed(bob, &["alice@a.example/pc"], &[]));
    chat.event(changed(bob, &["bob@b.example/pc"], &["bob@b.example/pc"]));
    chat.event(changed(bob, &[], &["carol@c.example/pc"]));
    chat.event(changed(
        "alice@a.example/pc",
        &[],
        &["carol@c.example/phone"],
    ));
    assert_eq!(
        chat.events(1)[2..],
        [
            "bob@b.example added carol@c.example",
            "bob@b.example has a new device: pc",
            "you have a new device: pc",
            "bob@b.example’s device pc has another key now",
            "carol@c.example’s device pc is gone",
            "carol@c.example is not in the group any more",
        ]
    );
    let members = &chat.model.conversation(1).unwrap().members;
    let names: Vec<_> = members
        .iter()
        .map(crate::chat::names::short_client)
        .collect();
    assert_eq!(
        names,
        [
            "alice@a.example/phone",
            "bob@b.example/phone",
            "alice@a.example/pc",
            "bob@b.example/pc",
        ]
    );
    chat.shown();
    chat.typed("/members");
    assert_eq!(
        chat.said(),
        [
            "member alice@a.example a.example phone, pc",
            "member bob@b.example b.example phone, pc",
            "ok",
        ]
    );
}

#[test]
fn keys_that_are_not_attested_are_told_in_the_conversation() {
    let mut chat = Chat::with_group();
    let reason = NotAttestedReason::Missing;
    chat.event(Event::NotAttested {
        group: group(1),
        client: client("bob@b.example/phone"),
        reason,
    });
    let text = format!("the keys of bob@b.example/phone could not be verified: {reason}");
    assert_eq!(chat.events(1).last(), Some(&text));
}

#[test]
fn what_comes_while_another_conversation_is_open_is_unread() {
    let mut chat = Chat::with_group();
    chat.typed("/new other");
    chat.answer(Ok(Answer::Group(group(2))));
    assert_eq!(chat.model.open, Some(2));
    chat.message("bob@b.example/phone", 1, "one");
    chat.message("bob@b.example/phone", 1, "two");
    chat.message("alice@a.example/pc", 1, "mine, from elsewhere");
    assert_eq!(chat.model.unread(), 2);
    chat.shown();
    chat.typed("/groups");
    assert_eq!(
        chat.said(),
        [
            "conversation 1 in 2 trip",
            "conversation 2 in 0 other",
            "ok"
        ]
    );
    chat.typed("/open trip");
    let trip = chat.model.conversation(1).unwrap();
    assert_eq!((trip.unread, trip.divider.is_some()), (0, true));
    chat.message("bob@b.example/phone", 1, "three");
    assert_eq!(chat.model.unread(), 0);
    chat.typed("/open 2");
    assert_eq!(chat.model.conversation(1).unwrap().divider, None);
    chat.typed("/open bob@b.example");
    assert_eq!(
        chat.said(),
        [
            "ok 1 is open: trip",
            "ok 2 is open: other",
            "error: there is no conversation bob@b.example; /groups shows them",
        ]
    );
}

#[test]
fn leaving_is_over_when_somebody_has_carried_it_out() {
    let mut chat = Chat::with_group();
    chat.typed("/leave");
    chat.answer(Ok(Answer::Done));
    assert_eq!(chat.said(), ["ok you leave 1"]);
    chat.typed("hello");
    assert_eq!(chat.said(), ["error: you are leaving this group"]);
    chat.event(Event::Removed {
        group: group(1),
        by: client("bob@b.example/phone"),
    });
    assert_eq!(chat.events(1).last().unwrap(), "you left");
    assert_eq!(chat.model.conversation(1).unwrap().standing, Standing::Out);
}

#[test]
fn whoever_is_removed_is_told_by_whom_and_the_lines_stay() {
    let mut chat = Chat::with_group();
    chat.message("bob@b.example/phone", 1, "bye");
    let lines = chat.model.conversation(1).unwrap().lines.len();
    let by = client("bob@b.example/phone");
    let group = group(1);
    chat.event(Event::Removed { group, by });
    assert_eq!(chat.events(1).last().unwrap(), "bob@b.example removed you");
    assert_eq!(chat.model.conversation(1).unwrap().lines.len(), lines + 1);
}

#[test]
fn what_is_for_groups_is_not_done_between_two() {
    let mut chat = Chat::new();
    let group = group(1);
    chat.event(Event::Connected {
        peer: user("bob@b.example"),
        group,
    });
    chat.shown();
    for line in ["/invite carol@b.example", "/remove bob", "/rename x"] {
        chat.typed(line);
        let said = chat.said();
        assert!(
            said[0].starts_with("error: ") && said[0].contains("/new"),
            "{said:?}"
        );
    }
    chat.typed("/leave");
    assert_eq!(chat.said(), ["error: to end it: /disconnect bob@b.example"]);
}

#[test]
fn a_device_that_nobody_knows_is_not_taken_along() {
    let mut chat = Chat::with_group();
    let added = |added| Event::DevicesChanged {
        client: client("alice@a.example/pc"),
        added,
    };
    chat.event(added(true));
    assert_eq!(
        chat.said(),
        [
            "note a device pc was registered in your name; if it is yours: /trust pc, if not: /unlink pc"
        ]
    );
    assert_eq!(chat.effects, []);
    // By the word of the user, it is.
    chat.typed("/trust pc");
    let device = (client("alice@a.example/pc"), vec![1]);
    let call = chat.answer(Ok(Answer::Trusted(device.clone())));
    assert_eq!(call, Call::Trust(device.0.clone()));
    assert_eq!(chat.said(), ["ok pc comes into your conversations"]);
    let kept = Effect::Write(Write::Trust(device.clone()));
    assert!(chat.effects.contains(&kept));
    let call = chat.answer(Err("no route".to_owned()));
    assert_eq!(call, Call::TakeAlong(vec![device]));
    chat.event(added(false));
    assert_eq!(chat.said(), ["note your device pc was deleted"]);
}

#[test]
fn a_device_that_is_let_in_is_taken_along_as_soon_as_it_can_be() {
    let mut chat = Chat::with_group();
    let device = (client("alice@a.example/pc"), vec![1]);
    chat.typed("/link pc:01");
    chat.answer(Ok(Answer::Authorization {
        code: "code".to_owned(),
        device: device.clone(),
    }));
    assert_eq!(chat.said(), ["authorization code", "ok"]);
    chat.effects.clear();
    chat.event(Event::DevicesChanged {
        client: device.0.clone(),
        added: true,
    });
    assert_eq!(
        chat.said(),
        ["note your device pc comes into your conversations"]
    );
    for failures in 1..=10 {
        let call = chat.answer(Err("no route".to_owned()));
        assert_eq!(call, Call::TakeAlong(vec![device.clone()]));
        assert!(chat.effects.contains(&Effect::TakeAlongLater { failures }));
        chat.effects.clear();
        chat.input(Input::TakeAlong);
    }
    // Not for ever.
    chat.answer(Ok(Answer::TakenAlong {
        added: vec![group(1)],
        missing: true,
    }));
    let members = ["alice@a.example/phone", "alice@a.example/pc"];
    chat.members(1, &members);
    assert_eq!(chat.model.conversation(1).unwrap().members.len(), 2);
    // It does not know yet what the group is called.
    let name = Content::name("run-4", "trip").encode();
    assert_eq!(chat.sends(), [name]);
    let is_later = |effect: &Effect| matches!(effect, Effect::TakeAlongLater { .. });
    assert!(!chat.effects.iter().any(is_later));
}

#[test]
fn a_group_is_not_taken_for_somebody_by_its_name() {
    let mut chat = Chat::new();
    chat.event(Event::Connected {
        peer: user("bob@b.example"),
        group: group(1),
    });
    chat.event(Event::Joined {
        group: group(2),
        owner: provider(),
        epoch: 1,
        members: vec![client("eve@e.example/pc"), client("alice@a.example/phone")],
    });
    chat.event(Event::Message {
        group: group(2),
        sender: client("eve@e.example/pc"),
        content: Content::name("id", "bob@b.example").encode(),
        epoch: 1,
        received_at: NOW_MS,
    });
    assert_eq!(
        chat.said().last().unwrap(),
        "conversation 2 “bob@b.example”"
    );
    for (what, number) in [
        ("bob@b.example", 1),
        ("bob", 1),
        ("“bob@b.example”", 2),
        ("2", 2),
    ] {
        chat.typed(&format!("/open {what}"));
        assert_eq!(chat.model.open, Some(number), "{what}");
    }
}
