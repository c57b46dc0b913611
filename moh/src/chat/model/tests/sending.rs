//! What becomes of messages.

use moh_client::{Operation, Outcome};
use moh_messages::{DsError, DsErrorCode};

use super::*;

fn settled(outcome: Outcome) -> Input {
    Input::Library(Event::Settled {
        group: group(1),
        operation: Operation::Message,
        outcome,
    })
}

fn texts(sends: &[Vec<u8>]) -> Vec<String> {
    let text = |bytes: &Vec<u8>| match Content::decode(bytes).body {
        crate::chat::content::Body::Text(text) => text,
        other => panic!("{other:?}"),
    };
    sends.iter().map(text).collect()
}

#[test]
fn one_message_goes_out_after_the_other() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    chat.typed("two");
    assert_eq!(texts(&chat.sends()), ["one"]);
    assert_eq!(chat.shown(), Vec::<String>::new());
    assert!(!chat.model.is_idle());
    chat.sent(SendResult::Sent);
    assert_eq!(chat.shown(), ["sent 1 one"]);
    assert_eq!(texts(&chat.sends()), ["two"]);
    chat.sent(SendResult::Failed("too long".to_owned()));
    assert_eq!(chat.shown(), ["failed 1 two", "error: not sent: too long"]);
    assert!(chat.model.is_idle() && chat.model.unsent() == 0);
}

#[test]
fn what_is_to_be_sent_is_kept_until_its_end_is_known() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    let id = chat.model.last_id();
    let kept = |chat: &Chat, wanted: &Write| {
        chat.effects
            .iter()
            .any(|effect| matches!(effect, Effect::Write(w) if w == wanted))
    };
    let content = chat.sends().remove(0);
    let outgoing = Write::Outgoing {
        number: 1,
        id,
        content,
    };
    assert!(kept(&chat, &outgoing));
    chat.sent(SendResult::NotNow("no answer".to_owned()));
    chat.input(Input::TryAgain(1));
    chat.sent(SendResult::Stored);
    assert!(!kept(&chat, &Write::Gone(id)));
    chat.input(settled(Outcome::Accepted));
    assert!(kept(&chat, &Write::Gone(id)));
}

#[test]
fn what_the_library_keeps_is_sent_when_it_says_so() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    chat.sent(SendResult::Stored);
    assert_eq!(chat.shown(), Vec::<String>::new());
    chat.input(settled(Outcome::Accepted));
    assert_eq!(chat.shown(), ["sent 1 one"]);

    // It may say so first.
    chat.typed("two");
    chat.input(settled(Outcome::Accepted));
    assert_eq!(chat.shown(), Vec::<String>::new());
    chat.sent(SendResult::Stored);
    assert_eq!(chat.shown(), ["sent 1 two"]);

    chat.typed("three");
    chat.sent(SendResult::Stored);
    let error = DsError::new(DsErrorCode::UNKNOWN_GROUP, "gone");
    chat.input(settled(Outcome::Refused(error)));
    assert!(chat.shown()[0].starts_with("failed 1 three"));
}

#[test]
fn without_a_connection_a_message_waits_and_goes_out_when_it_is_back() {
    let mut chat = Chat::with_group();
    chat.input(Input::Link(Link::Offline("no route".to_owned())));
    chat.input(Input::Link(Link::Offline("no route at all".to_owned())));
    assert_eq!(chat.shown(), ["offline no route"]);
    chat.typed("one");
    chat.sends();
    chat.sent(SendResult::NotNow("no route".to_owned()));
    // Nothing ends by itself: whoever waits for that need not wait.
    assert!(chat.model.is_idle());
    assert_eq!(chat.model.unsent(), 1);
    assert_eq!(chat.shown(), Vec::<String>::new());
    chat.input(Input::Link(Link::Online));
    assert_eq!(texts(&chat.sends()), ["one"]);
    assert_eq!(chat.shown(), ["online"]);
    assert!(!chat.model.is_idle());
}

#[test]
fn after_a_restart_the_same_message_goes_out_again_with_the_same_id() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    let content = chat.sends().remove(0);
    let conversation = chat.model.conversation(1).unwrap();
    let mut conversations = vec![conversation.clone()];
    conversations[0].outbox = [Outgoing::new(chat.model.last_id(), content.clone())].into();
    let kept = Kept {
        conversations,
        open: Some(1),
        next_id: chat.model.last_id(),
        trusted: Vec::new(),
    };
    let mut again = Chat::of(kept);
    assert_eq!(again.sends(), [content]);
    // The library tells of what it kept from before: that is not the answer to this one.
    again.sent(SendResult::NotNow("no answer".to_owned()));
    again.input(settled(Outcome::Accepted));
    assert_eq!(again.model.unsent(), 1);
    again.input(Input::TryAgain(1));
    again.sent(SendResult::Sent);
    assert!(again.shown().contains(&"sent 1 one".to_owned()));
}

#[test]
fn what_failed_is_sent_again_when_that_is_wanted() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    let first = chat.sends();
    chat.sent(SendResult::Failed("no".to_owned()));
    chat.shown();
    chat.typed("/retry");
    assert_eq!(chat.shown(), ["ok one message goes out again"]);
    assert_eq!(chat.sends(), first);
    chat.sent(SendResult::Sent);
    assert_eq!(chat.shown(), ["sent 1 one"]);
    chat.typed("/retry");
    assert_eq!(chat.shown(), ["ok nothing failed here"]);
}

#[test]
fn what_waits_in_a_group_that_is_over_fails() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    chat.typed("two");
    let late = chat.model.last_id() - 1;
    chat.event(Event::Deleted { group: group(1) });
    let shown = chat.shown();
    assert!(shown.contains(&"failed 1 one".to_owned()), "{shown:?}");
    assert!(shown.contains(&"failed 1 two".to_owned()), "{shown:?}");
    assert_eq!(chat.model.unsent(), 0);
    // The answer to the first one comes late: not for what is sent by then.
    let epoch = 9;
    let group = group(1);
    chat.event(Event::Rejoined { group, epoch });
    chat.typed("three");
    chat.shown();
    chat.input(Input::Sent {
        number: 1,
        id: late,
        result: SendResult::Sent,
    });
    assert_eq!(chat.shown(), Vec::<String>::new());
}

#[test]
fn nothing_is_written_where_no_conversation_is_open() {
    let mut chat = Chat::new();
    chat.typed("hello");
    assert_eq!(
        chat.shown(),
        ["error: no conversation is open: /open, /new or /connect"]
    );
}

#[test]
fn what_waits_for_somebody_else_does_not_hold_up_what_is_typed() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    assert!(!chat.model.is_idle());
    chat.sent(SendResult::NotNow("the owner does not answer".to_owned()));
    assert!(chat.model.is_idle() && chat.model.unsent() == 1);
    chat.input(Input::TryAgain(1));
    assert!(!chat.model.is_idle());
    chat.sent(SendResult::Stored);
    assert!(chat.model.is_idle() && chat.model.unsent() == 1);
}

#[test]
fn what_became_of_a_message_is_kept_also_where_its_line_is_not_there() {
    let mut chat = Chat::with_group();
    chat.typed("one");
    let id = chat.model.last_id();
    chat.model.conversations[0].lines.clear();
    chat.sent(SendResult::Sent);
    let sending = Sending::Sent;
    let mark = Effect::Write(Write::Mark { id, sending });
    assert!(chat.effects.contains(&mark));
    assert_eq!(chat.shown(), ["sent 1 one"]);
}
