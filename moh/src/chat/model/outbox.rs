//! What is to be sent: one message of a conversation after the other, until each is sent or
//! refused. It is kept, so that it goes on after a crash; a message that may have been sent
//! before goes out with the same id, by which the others leave it out.

use moh_client::Outcome;
use moh_messages::GroupId;

use super::conversation::{Line, LineBody, Sending, Standing};
use super::{Effect, Link, Model, Number, Report, Write};
use crate::chat::content::{Body, Content};

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// That of its line, where it has one.
    pub(crate) id: i64,
    pub(crate) content: Vec<u8>,
    pub(crate) progress: Progress,
    pub(crate) failures: u32,
    /// What became of it, where the library tells before it says that it keeps it.
    early: Option<Sending>,
}

/// How far a message has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Queued,
    /// The library has it.
    UnderWay,
    /// The library keeps it, and will tell what came of it.
    Stored,
    /// It failed for a reason that passes, and is tried again after a while.
    Waiting,
}

/// What came of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SendResult {
    Sent,
    /// The library keeps it, and tells later.
    Stored,
    /// It can be tried again.
    NotNow(String),
    Failed(String),
}

impl Outgoing {
    pub(crate) fn new(id: i64, content: Vec<u8>) -> Self {
        Self {
            id,
            content,
            progress: Progress::Queued,
            failures: 0,
            early: None,
        }
    }
}

impl super::Conversation {
    /// Whether the library was given a message and has not answered at all.
    pub(super) fn is_sending(&self) -> bool {
        let first = self.outbox.front();
        first.is_some_and(|first| first.progress == Progress::UnderWay)
    }
}

impl Model {
    /// Writes to a conversation.
    pub(super) fn say(&mut self, text: &str, now_ms: u64) -> Vec<Effect> {
        let number = match self.writable() {
            Ok(number) => number,
            Err(text) => return super::error(text),
        };
        let message = format!("{}-{}", self.run, self.next_id + 1);
        let content = Content::text(&message, text).encode();
        let body = LineBody::Said {
            sender: self.me.clone(),
            message: Some(message),
            text: text.to_owned(),
            sending: Some(Sending::UnderWay),
        };
        let mut effects = self.add_line(number, now_ms, body);
        // Whoever answers has read what was new.
        if let Some(conversation) = self.conversation_mut(number) {
            conversation.divider = None;
        }
        let id = self.next_id;
        effects.extend(self.enqueue(number, id, content));
        effects
    }

    /// Tells the others what the group is called.
    pub(super) fn announce_name(&mut self, number: Number) -> Vec<Effect> {
        let Some(name) = self.conversation(number).and_then(|c| c.name.clone()) else {
            return Vec::new();
        };
        let id = self.new_id();
        let content = Content::name(&format!("{}-{id}", self.run), &name).encode();
        self.enqueue(number, id, content)
    }

    fn enqueue(&mut self, number: Number, id: i64, content: Vec<u8>) -> Vec<Effect> {
        let Some(conversation) = self.conversation_mut(number) else {
            return Vec::new();
        };
        let outgoing = Outgoing::new(id, content.clone());
        conversation.outbox.push_back(outgoing);
        let mut effects = vec![Effect::Write(Write::Outgoing {
            number,
            id,
            content,
        })];
        effects.extend(self.pump(number));
        effects
    }

    /// Sends the first message, unless that is being done.
    pub(super) fn pump(&mut self, number: Number) -> Option<Effect> {
        let conversation = self.conversation_mut(number)?;
        if conversation.standing == Standing::Out {
            return None;
        }
        let group = conversation.group.clone();
        let first = conversation.outbox.front_mut()?;
        if first.progress != Progress::Queued {
            return None;
        }
        first.progress = Progress::UnderWay;
        first.early = None;
        Some(Effect::Send {
            number,
            id: first.id,
            group,
            content: first.content.clone(),
        })
    }

    /// What the library said when it was to send the first message.
    pub(super) fn sent(&mut self, number: Number, id: i64, result: SendResult) -> Vec<Effect> {
        let is_offline = matches!(self.link, Link::Offline(_));
        let first = self
            .conversation_mut(number)
            .and_then(|c| c.outbox.front_mut());
        // A late answer is for one that was given up.
        let Some(first) = first.filter(|first| first.id == id) else {
            return Vec::new();
        };
        match result {
            SendResult::Sent => self.settled(number, Sending::Sent),
            SendResult::Failed(reason) => self.settled(number, Sending::Failed(reason)),
            SendResult::Stored => {
                first.progress = Progress::Stored;
                match first.early.take() {
                    Some(became) => self.settled(number, became),
                    None => Vec::new(),
                }
            }
            SendResult::NotNow(reason) => {
                first.progress = Progress::Waiting;
                first.failures += 1;
                let failures = first.failures;
                let mut effects = vec![Effect::TryLater { number, failures }];
                if failures == 1 && !is_offline {
                    let text = format!("not sent yet, it is tried again: {reason}");
                    effects.push(Effect::Report(Report::Note(text)));
                }
                effects
            }
        }
    }

    /// The library tells what came of a message that it had kept.
    pub(super) fn message_settled(&mut self, group: &GroupId, outcome: &Outcome) -> Vec<Effect> {
        let Some(number) = self.number_of(group) else {
            return Vec::new();
        };
        let became = match outcome {
            Outcome::Accepted => Sending::Sent,
            Outcome::Refused(error) => Sending::Failed(error.to_string()),
        };
        let conversation = self.conversation_mut(number);
        let Some(first) = conversation.and_then(|c| c.outbox.front_mut()) else {
            return Vec::new();
        };
        match first.progress {
            Progress::Stored => self.settled(number, became),
            Progress::UnderWay => {
                first.early = Some(became);
                Vec::new()
            }
            // It is of before this process, and goes out again: the others leave that out.
            Progress::Queued | Progress::Waiting => Vec::new(),
        }
    }

    pub(super) fn try_again(&mut self, number: Number) -> Vec<Effect> {
        let Some(conversation) = self.conversation_mut(number) else {
            return Vec::new();
        };
        if let Some(first) = conversation.outbox.front_mut()
            && first.progress == Progress::Waiting
        {
            first.progress = Progress::Queued;
        }
        self.pump(number).into_iter().collect()
    }

    /// The first message is done with.
    fn settled(&mut self, number: Number, sending: Sending) -> Vec<Effect> {
        let first = self
            .conversation_mut(number)
            .and_then(|c| c.outbox.pop_front());
        let Some(first) = first else {
            return Vec::new();
        };
        let mut effects = vec![Effect::Write(Write::Gone(first.id))];
        effects.extend(self.mark(number, &first, sending));
        effects.extend(self.pump(number));
        effects
    }

    /// Notes what became of a message. Its line may be one that only the history has.
    fn mark(&mut self, number: Number, outgoing: &Outgoing, became: Sending) -> Vec<Effect> {
        let id = outgoing.id;
        let conversation = self.conversation_mut(number);
        let lines = conversation.map(|c| &mut c.lines);
        let shown = lines.and_then(|lines| lines.iter_mut().rfind(|line| line.id == id));
        let line = match (shown, Content::decode(&outgoing.content)) {
            (Some(line), _) => {
                if let LineBody::Said { sending, .. } = &mut line.body {
                    *sending = Some(became.clone());
                }
                line.clone()
            }
            (None, content) => match content.body {
                Body::Text(text) => Line {
                    id,
                    at_ms: 0,
                    body: LineBody::Said {
                        sender: self.me.clone(),
                        message: content.id,
                        text,
                        sending: Some(became.clone()),
                    },
                },
                Body::Name(_) | Body::Unknown(_) => return Vec::new(),
            },
        };
        vec![
            Effect::Write(Write::Mark {
                id,
                sending: became,
            }),
            Effect::Report(Report::Sent(number, line)),
        ]
    }

    /// Nothing that waits in a conversation can be sent any more.
    pub(super) fn give_up(&mut self, number: Number, reason: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        let conversation = self.conversation_mut(number);
        let outbox = conversation.map(|c| std::mem::take(&mut c.outbox));
        for outgoing in outbox.into_iter().flatten() {
            effects.push(Effect::Write(Write::Gone(outgoing.id)));
            effects.extend(self.mark(number, &outgoing, Sending::Failed(reason.to_owned())));
        }
        effects
    }

    /// Sends again what failed in the open conversation.
    pub(super) fn retry(&mut self) -> Vec<Effect> {
        let number = match self.writable() {
            Ok(number) => number,
            Err(text) => return super::error(text),
        };
        let failed: Vec<Line> = self
            .conversation(number)
            .map(|c| c.lines.iter().filter(|line| is_failed(line)).cloned())
            .into_iter()
            .flatten()
            .collect();
        let count = failed.len();
        let mut effects = Vec::new();
        for line in failed {
            let LineBody::Said { message, text, .. } = &line.body else {
                continue;
            };
            let id = message.clone().unwrap_or_else(|| self.run.clone());
            let content = Content::text(&id, text).encode();
            let outgoing = Outgoing::new(line.id, content.clone());
            effects.extend(self.mark(number, &outgoing, Sending::UnderWay));
            effects.retain(|effect| !matches!(effect, Effect::Report(Report::Sent(..))));
            effects.extend(self.enqueue(number, line.id, content));
        }
        effects.push(super::done(match count {
            0 => "nothing failed here".to_owned(),
            1 => "one message goes out again".to_owned(),
            count => format!("{count} messages go out again"),
        }));
        effects
    }

    /// The open conversation, where something can be written there.
    fn writable(&self) -> Result<Number, String> {
        let Some(conversation) = self.opened() else {
            return Err("no conversation is open: /open, /new or /connect".to_owned());
        };
        match conversation.standing {
            // Who was asked reads it when they have accepted.
            Standing::In | Standing::Waiting => Ok(conversation.number),
            Standing::Leaving => Err("you are leaving this group".to_owned()),
            Standing::Out => Err("you are not in this conversation any more".to_owned()),
        }
    }
}

fn is_failed(line: &Line) -> bool {
    let LineBody::Said { sending, .. } = &line.body else {
        return false;
    };
    matches!(sending, Some(Sending::Failed(_)))
}
