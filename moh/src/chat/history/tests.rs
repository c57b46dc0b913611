//! A history that is closed and opened again.

use super::*;
use crate::chat::command::parse;
use crate::chat::model::{Answer, Call, Effect, Input};

fn client(name: &str) -> ClientId {
    format!("mimi://a.example/d/{name}").parse().unwrap()
}

fn group() -> GroupId {
    GroupId::new(vec![7]).unwrap()
}

fn writes(effects: &[Effect]) -> Vec<Write> {
    let write = |effect: &Effect| match effect {
        Effect::Write(write) => Some(write.clone()),
        _ => None,
    };
    effects.iter().filter_map(write).collect()
}

/// A chat in a folder, as it is after a restart.
struct Chat {
    history: History,
    model: Model,
}

impl Chat {
    fn open(folder: &Path) -> Self {
        let history = History::open(&folder.join("history.db")).unwrap();
        let kept = history.load().unwrap();
        let model = Model::new(client("alice/phone"), kept, "run".to_owned());
        Self { history, model }
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.model.update(input, 1000);
        let writes = writes(&effects);
        self.history.write(&self.model, &writes, None).unwrap();
        effects
    }

    fn typed(&mut self, line: &str) -> Vec<Effect> {
        self.input(Input::Command(parse(line).unwrap().unwrap()))
    }

    fn create(&mut self, name: &str) {
        for effect in self.typed(&format!("/new {name}")) {
            if let Effect::Call { call, what } = effect {
                assert!(matches!(what, Call::Create { .. }));
                let result = Ok(Answer::Group(group()));
                self.input(Input::Answered { call, result });
            }
        }
    }

    fn message(&mut self, id: &str, text: &str) {
        self.input(Input::Library(moh_client::Event::Message {
            group: group(),
            sender: client("bob/pc"),
            content: Content::text(id, text).encode(),
            epoch: 1,
            received_at: 2000,
        }));
    }
}

#[test]
fn a_chat_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut chat = Chat::open(folder.path());
    chat.create("trip");
    chat.message("1", "read");
    chat.typed("on its way");
    chat.model.open = None;
    chat.message("2", "not read");
    chat.model.open = Some(1);
    let before = chat.model.conversations.clone();
    let last_id = chat.model.last_id();
    drop(chat);

    let chat = Chat::open(folder.path());
    let [mut was, is] = [before, chat.model.conversations.clone()].map(|mut all| all.remove(0));
    assert_eq!(is.lines, was.lines);
    assert_eq!((is.unread, is.name.as_deref()), (1, Some("trip")));
    assert_eq!(chat.model.open, Some(1));
    assert_eq!(chat.model.last_id(), last_id);
    // What was under way is to be sent again; who is there, the library says.
    assert_eq!(is.outbox.len(), 1);
    assert_eq!(is.outbox[0].content, was.outbox[0].content);
    was.outbox = is.outbox.clone();
    was.members = Vec::new();
    assert_eq!(is, was);
}

#[test]
fn a_message_that_was_there_is_known_by_its_id_and_sender() {
    let folder = tempfile::tempdir().unwrap();
    let mut chat = Chat::open(folder.path());
    chat.create("trip");
    chat.message("1", "hello");
    let has = |sender: &str, id: &str, group: &GroupId| {
        let content = Content::text(id, "other words").encode();
        chat.history.has(group, &client(sender), &content).unwrap()
    };
    assert!(has("bob/pc", "1", &group()));
    assert!(!has("bob/pc", "2", &group()));
    assert!(!has("bob/phone", "1", &group()));
    assert!(!has("bob/pc", "1", &GroupId::new(vec![8]).unwrap()));
    assert!(!chat.history.has(&group(), &client("bob/pc"), b"1").unwrap());
}

#[test]
fn the_last_event_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut chat = Chat::open(folder.path());
    assert!(!chat.history.was_last("one").unwrap());
    chat.history.write(&chat.model, &[], Some("one")).unwrap();
    assert!(chat.history.was_last("one").unwrap());
    chat.history.write(&chat.model, &[], Some("two")).unwrap();
    assert!(!chat.history.was_last("one").unwrap());
}

#[test]
fn lines_are_read_by_and_by() {
    let folder = tempfile::tempdir().unwrap();
    let mut chat = Chat::open(folder.path());
    chat.create("trip");
    for number in 0..450 {
        chat.message(&number.to_string(), "hello");
    }
    drop(chat);
    let mut chat = Chat::open(folder.path());
    let mut counts = Vec::new();
    loop {
        let conversation = &chat.model.conversations[0];
        counts.push((conversation.lines.len(), conversation.has_older));
        if !conversation.has_older {
            break;
        }
        let before = conversation.lines[0].id;
        let (lines, has_older) = chat.history.lines(1, before).unwrap();
        chat.input(Input::Older {
            number: 1,
            lines,
            has_older,
        });
    }
    // The first line is about the group.
    assert_eq!(counts, [(200, true), (400, true), (451, false)]);
    let lines = &chat.model.conversations[0].lines;
    assert!(lines.is_sorted_by_key(|line| line.id));
}

#[test]
fn a_history_of_another_chat_or_of_a_later_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let first = History::open(&path).unwrap();
    let error = History::open(&path).err().unwrap();
    assert!(
        error.to_string().contains("is running already"),
        "{error:#}"
    );
    drop(first);
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let error = History::open(&path).err().unwrap();
    assert!(format!("{error:#}").contains("version 99"));
}
