//! One conversation.

use std::collections::VecDeque;

use moh_messages::{ClientId, GroupId, ProviderName, UserId};

use super::{Effect, Model, Number, Outgoing, Report, Write};

/// How many lines of a conversation are held, at most; the rest is in the history.
const MAX_LINES: usize = 2000;

/// A group, and what was said there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) number: Number,
    pub(crate) group: GroupId,
    pub(crate) owner: Option<ProviderName>,
    /// Where it is the conversation with one connected user: who.
    pub(crate) peer: Option<UserId>,
    pub(crate) name: Option<String>,
    pub(crate) standing: Standing,
    pub(crate) members: Vec<ClientId>,
    /// The last ones.
    pub(crate) lines: Vec<Line>,
    /// There are others before them in the history.
    pub(crate) has_older: bool,
    /// The last line that was read.
    pub(crate) read_to: i64,
    /// How many messages came after it.
    pub(crate) unread: usize,
    /// Up to where it had been read when it was opened.
    pub(crate) divider: Option<i64>,
    /// Who is to be added when the group is there.
    pub(crate) to_invite: Vec<UserId>,
    /// What is to be sent, in this order.
    pub(crate) outbox: VecDeque<Outgoing>,
}

/// Whether this client is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The other one was asked to connect.
    Waiting,
    In,
    /// It has said that it leaves.
    Leaving,
    Out,
}

/// A line of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Later lines have greater ones, in all conversations.
    pub(crate) id: i64,
    pub(crate) at_ms: u64,
    pub(crate) body: LineBody,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineBody {
    /// Somebody wrote.
    Said {
        sender: ClientId,
        /// The id that the sender gave the message.
        message: Option<String>,
        text: String,
        /// None if somebody else wrote it.
        sending: Option<Sending>,
    },
    /// Something happened.
    Event(String),
}

/// What became of a message of this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    UnderWay,
    Sent,
    Failed(String),
}

impl Conversation {
    pub(crate) fn new(number: Number, group: GroupId) -> Self {
        Self {
            number,
            group,
            owner: None,
            peer: None,
            name: None,
            standing: Standing::In,
            members: Vec::new(),
            lines: Vec::new(),
            has_older: false,
            read_to: 0,
            unread: 0,
            divider: None,
            to_invite: Vec::new(),
            outbox: VecDeque::new(),
        }
    }

    pub(super) fn put_before(&mut self, mut lines: Vec<Line>, has_older: bool) {
        let first = self.lines.first().map_or(i64::MAX, |line| line.id);
        lines.retain(|line| line.id < first);
        self.has_older = has_older;
        lines.append(&mut self.lines);
        self.lines = lines;
    }

    fn push(&mut self, line: Line) {
        self.lines.push(line);
        if self.lines.len() > MAX_LINES {
            self.lines.drain(..MAX_LINES / 2);
            self.has_older = true;
        }
    }
}

impl Line {
    /// Whether somebody else wrote it.
    pub(crate) fn is_received(&self) -> bool {
        matches!(self.body, LineBody::Said { sending: None, .. })
    }
}

impl Model {
    /// The conversation of a group; a new one where there is none.
    pub(super) fn ensure(&mut self, group: &GroupId) -> (Number, Vec<Effect>) {
        if let Some(number) = self.number_of(group) {
            return (number, Vec::new());
        }
        let number = self.next_number;
        self.next_number += 1;
        let conversation = Conversation::new(number, group.clone());
        self.conversations.push(conversation);
        (number, vec![Effect::Write(Write::Conversation(number))])
    }

    /// The conversation with a user, the one in use before one that is over.
    pub(super) fn with(&self, user: &UserId) -> Option<&Conversation> {
        let with = |c: &&Conversation| c.peer.as_ref() == Some(user);
        let mut all = self.conversations.iter().rev().filter(with);
        let last = all.clone().next();
        all.find(|c| c.standing != Standing::Out).or(last)
    }

    /// Puts a line under a conversation. One that is open is read as it is shown.
    pub(super) fn add_line(&mut self, number: Number, at_ms: u64, body: LineBody) -> Vec<Effect> {
        let id = self.new_id();
        let is_open = self.open == Some(number);
        let line = Line { id, at_ms, body };
        let is_unread = line.is_received() && !is_open;
        let Some(conversation) = self.conversation_mut(number) else {
            return Vec::new();
        };
        conversation.push(line.clone());
        conversation.unread += usize::from(is_unread);
        let mut effects = vec![
            Effect::Write(Write::Line {
                number,
                line: line.clone(),
            }),
            Effect::Report(Report::Line(number, line)),
        ];
        if is_open {
            conversation.read_to = id;
            effects.push(Effect::Write(Write::Conversation(number)));
        }
        effects
    }

    /// Something happened in a conversation.
    pub(super) fn add_event(
        &mut self,
        number: Number,
        at_ms: u64,
        text: impl Into<String>,
    ) -> Vec<Effect> {
        self.add_line(number, at_ms, LineBody::Event(text.into()))
    }

    /// Shows a conversation; what is there counts as read.
    pub(super) fn open_conversation(&mut self, number: Number) -> Vec<Effect> {
        if let Some(before) = self.open.and_then(|open| self.conversation_mut(open)) {
            before.divider = None;
        }
        let Some(conversation) = self.conversation_mut(number) else {
            return Vec::new();
        };
        conversation.divider = (conversation.unread > 0).then_some(conversation.read_to);
        conversation.unread = 0;
        let last = conversation.lines.last().map_or(0, |line| line.id);
        conversation.read_to = conversation.read_to.max(last);
        self.open = Some(number);
        vec![
            Effect::Write(Write::Conversation(number)),
            Effect::Write(Write::Open(Some(number))),
        ]
    }

    /// This client is in the group no more.
    pub(super) fn is_out(&mut self, number: Number) -> Vec<Effect> {
        let Some(conversation) = self.conversation_mut(number) else {
            return Vec::new();
        };
        conversation.standing = Standing::Out;
        let mut effects = vec![Effect::Write(Write::Conversation(number))];
        effects.extend(self.give_up(number, "you are not in this conversation any more"));
        effects
    }
}
