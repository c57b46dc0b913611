//! The model, told what happens.

mod conversations;
mod people;
mod sending;

use moh_client::Event;
use moh_messages::{ClientId, GroupId, ProviderName, UserId};

use super::*;
use crate::chat::command::parse;
use crate::chat::content::Content;

const NOW_MS: u64 = 1_795_467_909_000;

/// A chat, and what is to be done that was not looked at.
struct Chat {
    model: Model,
    effects: Vec<Effect>,
}

fn user(name: &str) -> UserId {
    crate::chat::names::parse_user(name).unwrap()
}

fn client(name: &str) -> ClientId {
    let (user_name, device) = name.split_once('/').unwrap();
    ClientId::new(&user(user_name), device).unwrap()
}

fn group(number: u8) -> GroupId {
    GroupId::new(vec![number; 4]).unwrap()
}

fn provider() -> ProviderName {
    "a.example".parse().unwrap()
}

impl Chat {
    fn new() -> Self {
        Self::of(Kept::default())
    }

    fn of(kept: Kept) -> Self {
        let mut model = Model::new(client("alice@a.example/phone"), kept, "run".to_owned());
        let groups = model
            .conversations
            .iter()
            .map(|c| c.group.clone())
            .collect();
        let people = Vec::new();
        let effects = model.start(Known { people, groups });
        let mut chat = Self { model, effects };
        let blocked = Answer::Blocked(Vec::new());
        chat.answer_call(|call| *call == Call::Blocked, Ok(blocked));
        chat.answer_call(|call| *call == Call::Refill, Ok(Answer::Done));
        let taken = Answer::TakenAlong {
            added: Vec::new(),
            missing: false,
        };
        chat.answer_call(|call| matches!(call, Call::TakeAlong(_)), Ok(taken));
        chat.input(Input::Link(Link::Online));
        chat.effects
            .retain(|effect| !matches!(effect, Effect::Report(_)));
        chat
    }

    fn input(&mut self, input: Input) {
        self.effects.extend(self.model.update(input, NOW_MS));
    }

    fn typed(&mut self, line: &str) {
        self.input(Input::Command(parse(line).unwrap().unwrap()));
    }

    fn event(&mut self, event: Event) {
        self.input(Input::Library(event));
    }

    /// Takes the call that is meant out of what is to be done, and answers it.
    #[track_caller]
    fn answer_call(&mut self, is_meant: impl Fn(&Call) -> bool, result: Result<Answer, String>) {
        let at = self
            .effects
            .iter()
            .position(|effect| matches!(effect, Effect::Call { what, .. } if is_meant(what)));
        let at = at.unwrap_or_else(|| panic!("no such call in {:#?}", self.effects));
        let Effect::Call { call, .. } = self.effects.remove(at) else {
            unreachable!();
        };
        self.input(Input::Answered { call, result });
    }

    /// Answers the only call there is, but for those about members.
    #[track_caller]
    fn answer(&mut self, result: Result<Answer, String>) -> Call {
        let mut found = None;
        for effect in &self.effects {
            if let Effect::Call { what, .. } = effect
                && !matches!(what, Call::Members { .. })
            {
                assert_eq!(found, None, "another one: {what:?}");
                found = Some(what.clone());
            }
        }
        let found = found.unwrap_or_else(|| panic!("no call in {:#?}", self.effects));
        self.answer_call(|call| *call == found, result);
        found
    }

    /// What is to be shown, once, without lines of conversations.
    fn said(&mut self) -> Vec<String> {
        self.shown()
            .into_iter()
            .filter(|line| !line.starts_with("event ") && !line.starts_with("message "))
            .collect()
    }

    /// What is to be shown, as in plain text, once; without what begins to be sent.
    fn shown(&mut self) -> Vec<String> {
        let mut shown = Vec::new();
        let model = &self.model;
        self.effects.retain(|effect| match effect {
            Effect::Report(report) => {
                let lines = crate::chat::plain::lines(model, report).into_iter();
                shown.extend(lines.filter(|line| !line.starts_with("sending ")));
                false
            }
            _ => true,
        });
        shown
    }

    /// The contents that are to be sent, once.
    fn sends(&mut self) -> Vec<Vec<u8>> {
        let mut sends = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Send { content, .. } => {
                sends.push(content.clone());
                false
            }
            _ => true,
        });
        sends
    }

    /// A group, number 1, with Bob's phone in it.
    fn with_group() -> Self {
        let mut chat = Self::new();
        chat.typed("/new trip bob@b.example");
        chat.answer(Ok(Answer::Group(group(1))));
        let added = vec![user("bob@b.example")];
        let failed = Vec::new();
        chat.answer(Ok(Answer::Invited { added, failed }));
        chat.members(1, &["alice@a.example/phone", "bob@b.example/phone"]);
        // The name.
        chat.sent(SendResult::Sent);
        chat.effects.clear();
        chat
    }

    /// What became of the message that is being sent in conversation 1.
    fn sent(&mut self, result: SendResult) {
        let conversation = self.model.conversation(1).unwrap();
        let id = conversation.outbox.front().map_or(0, |first| first.id);
        let number = 1;
        self.input(Input::Sent { number, id, result });
    }

    fn members(&mut self, number: Number, members: &[&str]) {
        let members = members.iter().map(|name| client(name)).collect();
        let owner = provider();
        let is_meant =
            |call: &Call| matches!(call, Call::Members { number: n, .. } if *n == number);
        self.answer_call(is_meant, Ok(Answer::Members { members, owner }));
    }

    fn message(&mut self, from: &str, group_number: u8, text: &str) {
        self.event(Event::Message {
            group: group(group_number),
            sender: client(from),
            content: Content::text("id", text).encode(),
            epoch: 1,
            received_at: NOW_MS,
        });
    }

    fn events(&self, number: Number) -> Vec<String> {
        let lines = &self.model.conversation(number).unwrap().lines;
        let text = |line: &Line| match &line.body {
            LineBody::Event(text) => Some(text.clone()),
            LineBody::Said { .. } => None,
        };
        lines.iter().filter_map(text).collect()
    }
}
