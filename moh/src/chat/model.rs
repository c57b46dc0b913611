//! What the chat knows, and what it does next: pure.
//!
//! [`Model::update`] takes what happened and says what is to be done. It asks nobody, waits for
//! nothing and has no clock; the driver does what it says and tells it what came of that.

mod answers;
mod commands;
mod conversation;
mod library;
mod listing;
mod outbox;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use moh_client::Event;
use moh_messages::{ClientId, GroupId, ProviderName, UserId};

use super::command::Command;
use super::names::{Target, enumerate, short, users_of};

pub(crate) use conversation::{Conversation, Line, LineBody, Sending, Standing};
pub(crate) use listing::Row;
pub(crate) use outbox::{Outgoing, SendResult};

/// The number of a conversation: what a user types to open it.
pub(crate) type Number = u32;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// Somebody typed this.
    Command(Command),
    /// The library tells of this.
    Library(Event),
    /// What was asked of the library has its answer.
    Answered {
        call: u64,
        result: Result<Answer, String>,
    },
    /// What came of sending the first message of an outbox.
    Sent {
        number: Number,
        id: i64,
        result: SendResult,
    },
    /// A message that could not be sent may be tried again.
    TryAgain(Number),
    /// There may be devices of one's own that are not in all groups yet.
    TakeAlong,
    /// The connection to the provider is there, or not.
    Link(Link),
    /// Earlier lines of a conversation were read from the history.
    Older {
        number: Number,
        lines: Vec<Line>,
        has_older: bool,
    },
}

/// Whether the provider is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Connecting,
    Online,
    /// Not now, for this reason; it is tried again.
    Offline(String),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// To be kept. All of one update becomes durable together, before anything else is done.
    Write(Write),
    /// To ask the library, which answers by [`Input::Answered`].
    Call {
        call: u64,
        what: Call,
    },
    /// To send, which is answered by [`Input::Sent`].
    Send {
        number: Number,
        id: i64,
        group: GroupId,
        content: Vec<u8>,
    },
    /// To say [`Input::TryAgain`] after a while.
    TryLater {
        number: Number,
        failures: u32,
    },
    /// To say [`Input::TakeAlong`] after a while.
    TakeAlongLater {
        failures: u32,
    },
    /// To be shown.
    Report(Report),
    Quit,
}

/// A change of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// All of a conversation but its lines and outbox.
    Conversation(Number),
    Line {
        number: Number,
        line: Line,
    },
    Outgoing {
        number: Number,
        id: i64,
        content: Vec<u8>,
    },
    /// It was sent, or is given up.
    Gone(i64),
    /// What became of a message.
    Mark {
        id: i64,
        sending: Sending,
    },
    /// Which conversation is open.
    Open(Option<Number>),
    /// A device of one's own that comes into all groups.
    Trust(Trusted),
}

/// Something to ask of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Connect(UserId),
    Accept(UserId),
    Decline(UserId),
    Disconnect(UserId),
    Block(Target),
    Unblock(Target),
    Create {
        name: String,
        users: Vec<UserId>,
    },
    Invite {
        number: Number,
        group: GroupId,
        users: Vec<UserId>,
    },
    Remove {
        number: Number,
        group: GroupId,
        user: UserId,
    },
    Leave {
        number: Number,
        group: GroupId,
    },
    /// Who is in a group, and who owns it.
    Members {
        number: Number,
        group: GroupId,
    },
    /// Who is connected, who asks, and in which groups this client is: something is there that
    /// was not known.
    LookAgain,
    /// Who is blocked, which the provider alone knows.
    Blocked,
    /// To have enough KeyPackages at the provider.
    Refill,
    Devices,
    /// To let a new device in, by the code that it shows.
    Authorize(String),
    DeleteDevice(ClientId),
    /// To put these devices of one's own, with these keys, into all groups.
    TakeAlong(Vec<Trusted>),
    /// To take a device for one's own, with the key that it has.
    Trust(ClientId),
}

/// What the library answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Group(GroupId),
    Invited {
        added: Vec<UserId>,
        failed: Vec<(UserId, String)>,
    },
    /// The group is gone at once, because nobody else was there.
    Ended,
    Members {
        members: Vec<ClientId>,
        owner: ProviderName,
    },
    Known(Known),
    /// It has no answer yet; the library goes on by itself, and tells.
    Later {
        group: GroupId,
        reason: String,
    },
    Blocked(Vec<Target>),
    Devices(Vec<Row>),
    Trusted(Trusted),
    /// Into which groups some were added, and whether some could not be yet.
    TakenAlong {
        added: Vec<GroupId>,
        missing: bool,
    },
    /// What the new device has to be given.
    Authorization {
        code: String,
        device: Trusted,
    },
}

/// A device of one's own, with its key.
pub(crate) type Trusted = (ClientId, Vec<u8>);

/// What the library knows of people and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) people: Vec<(UserId, Person, Option<GroupId>)>,
    pub(crate) groups: Vec<GroupId>,
}

/// How somebody stands to this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Person {
    /// They ask to connect.
    Asks,
    /// They were asked.
    Asked,
    Connected,
}

/// Something to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// A command was carried out.
    Done(String),
    /// A command could not be carried out, or something else went wrong.
    Error(String),
    /// Good to know.
    Note(String),
    Link(Link),
    /// This device is new.
    Registered(ClientId),
    Asks(UserId),
    Connected(UserId, Number),
    Disconnected(UserId, String),
    /// A conversation is new, or has another name.
    Conversation(Number),
    /// Somebody wrote, or something happened.
    Line(Number, Line),
    /// A message was sent, or was not.
    Sent(Number, Line),
    Listing {
        title: String,
        rows: Vec<Row>,
    },
}

/// What the chat knows.
pub(crate) struct Model {
    pub(crate) me: ClientId,
    pub(crate) link: Link,
    /// In the order of their numbers.
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) open: Option<Number>,
    pub(crate) people: BTreeMap<UserId, Person>,
    /// None as long as the provider has not said it.
    pub(crate) blocked: Option<Vec<Target>>,
    /// What is asked of the library and not answered yet.
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    next_number: Number,
    next_id: i64,
    /// Devices of one's own that come into all groups.
    trusted: Vec<Trusted>,
    /// How often in a row a device of one's own could not be added.
    take_failures: u32,
    /// No other run of any chat has this: the beginning of the ids of messages.
    run: String,
}

/// What the history has kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) open: Option<Number>,
    pub(crate) next_id: i64,
    pub(crate) trusted: Vec<Trusted>,
}

impl Call {
    /// Whether nobody asked for it, so that its failure is nobody's business.
    fn is_silent(&self) -> bool {
        matches!(
            self,
            Self::Members { .. }
                | Self::TakeAlong(_)
                | Self::Blocked
                | Self::Refill
                | Self::LookAgain
        )
    }
}

impl Model {
    /// A chat that continues where it was. `run` has to be random.
    pub(crate) fn new(me: ClientId, kept: Kept, run: String) -> Self {
        let numbers = kept.conversations.iter().map(|c| c.number);
        Self {
            me,
            link: Link::Connecting,
            next_number: numbers.max().unwrap_or(0) + 1,
            conversations: kept.conversations,
            open: kept.open,
            people: BTreeMap::new(),
            blocked: None,
            calls: BTreeMap::new(),
            next_call: 0,
            next_id: kept.next_id,
            trusted: kept.trusted,
            take_failures: 0,
            run,
        }
    }

    /// What is to be done at the beginning.
    pub(crate) fn start(&mut self, known: Known) -> Vec<Effect> {
        let mut effects = self.known(known, true);
        effects.extend([
            self.call(Call::Blocked),
            self.call(Call::Refill),
            self.take_along(),
        ]);
        let numbers: Vec<_> = self.conversations.iter().map(|c| c.number).collect();
        for number in numbers {
            effects.extend(self.ask_members(number));
            effects.extend(self.pump(number));
        }
        effects
    }

    /// Takes what happened at `now_ms`, and says what is to be done.
    pub(crate) fn update(&mut self, input: Input, now_ms: u64) -> Vec<Effect> {
        match input {
            Input::Command(command) => self.command(command, now_ms),
            Input::Library(event) => self.library(event, now_ms),
            Input::Answered { call, result } => match self.calls.remove(&call) {
                Some(what) => self.answered(what, result, now_ms),
                None => Vec::new(),
            },
            Input::Sent { number, id, result } => self.sent(number, id, result),
            Input::TryAgain(number) => self.try_again(number),
            Input::TakeAlong => vec![self.take_along()],
            Input::Link(link) => self.linked(link),
            Input::Older {
                number,
                lines,
                has_older,
            } => {
                if let Some(conversation) = self.conversation_mut(number) {
                    conversation.put_before(lines, has_older);
                }
                Vec::new()
            }
        }
    }

    /// The last id that was given to a line or a message.
    pub(crate) fn last_id(&self) -> i64 {
        self.next_id
    }

    /// Whether all that was asked of the library has an answer, though it may be that it is not
    /// known yet.
    pub(crate) fn is_idle(&self) -> bool {
        self.calls.is_empty() && !self.conversations.iter().any(Conversation::is_sending)
    }

    /// How much is asked of the library and not answered yet.
    pub(crate) fn under_way(&self) -> usize {
        self.calls.values().filter(|call| !call.is_silent()).count()
    }

    /// How many messages have not been sent yet.
    pub(crate) fn unsent(&self) -> usize {
        self.conversations.iter().map(|c| c.outbox.len()).sum()
    }

    pub(crate) fn conversation(&self, number: Number) -> Option<&Conversation> {
        self.conversations.iter().find(|c| c.number == number)
    }

    fn conversation_mut(&mut self, number: Number) -> Option<&mut Conversation> {
        self.conversations.iter_mut().find(|c| c.number == number)
    }

    /// The conversation that is open.
    pub(crate) fn opened(&self) -> Option<&Conversation> {
        self.conversation(self.open?)
    }

    fn number_of(&self, group: &GroupId) -> Option<Number> {
        let found = self.conversations.iter().find(|c| c.group == *group)?;
        Some(found.number)
    }

    /// What a conversation is called.
    pub(crate) fn title(&self, conversation: &Conversation) -> String {
        if let Some(peer) = &conversation.peer {
            return short(peer);
        }
        match &conversation.name {
            // Whoever gives a group its name must not make it look like somebody.
            Some(name) if name.contains('@') => return format!("“{name}”"),
            Some(name) => return name.clone(),
            None => {}
        }
        let mut others = users_of(&conversation.members);
        others.retain(|user| *user != self.me.user_id());
        if others.is_empty() {
            return format!("group {}", conversation.number);
        }
        enumerate(
            &others
                .iter()
                .map(|u| u.user().to_owned())
                .collect::<Vec<_>>(),
        )
    }

    /// Asks the library.
    fn call(&mut self, what: Call) -> Effect {
        self.next_call += 1;
        self.calls.insert(self.next_call, what.clone());
        Effect::Call {
            call: self.next_call,
            what,
        }
    }

    fn take_along(&mut self) -> Effect {
        self.call(Call::TakeAlong(self.trusted.clone()))
    }

    /// For a group that is new here: nobody else adds this user's other devices to it.
    fn take_along_into_new(&mut self) -> Option<Effect> {
        (!self.trusted.is_empty()).then(|| self.take_along())
    }

    fn ask_members(&mut self, number: Number) -> Option<Effect> {
        let conversation = self.conversation(number)?;
        if conversation.standing == Standing::Out {
            return None;
        }
        let group = conversation.group.clone();
        Some(self.call(Call::Members { number, group }))
    }

    fn new_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    fn linked(&mut self, link: Link) -> Vec<Effect> {
        if self.link == link {
            return Vec::new();
        }
        let is_online = link == Link::Online;
        let was_offline = matches!(self.link, Link::Offline(_));
        let is_news = is_online || !was_offline;
        self.link = link.clone();
        let mut effects = Vec::new();
        if is_news {
            effects.push(Effect::Report(Report::Link(link)));
        }
        if is_online {
            if self.blocked.is_none() && !self.calls.values().any(|call| *call == Call::Blocked) {
                effects.push(self.call(Call::Blocked));
            }
            let numbers: Vec<_> = self.conversations.iter().map(|c| c.number).collect();
            for number in numbers {
                effects.extend(self.try_again(number));
            }
        }
        effects
    }
}

fn error(text: impl Into<String>) -> Vec<Effect> {
    vec![Effect::Report(Report::Error(text.into()))]
}

fn done(text: impl Into<String>) -> Effect {
    Effect::Report(Report::Done(text.into()))
}
