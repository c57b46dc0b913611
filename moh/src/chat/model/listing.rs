//! What is shown when it is asked for.

use std::collections::BTreeMap;

use moh_messages::UserId;

use super::conversation::{Conversation, LineBody, Standing};
use super::{Effect, Model, Person, Report};
use crate::chat::command::COMMANDS;
use crate::chat::names::{short, short_client};

/// A row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// What it is: the first word of its line in plain text.
    pub(crate) kind: &'static str,
    /// The last one may have spaces.
    pub(crate) cells: Vec<String>,
}

impl Row {
    pub(crate) fn new(kind: &'static str, cells: impl IntoIterator<Item = String>) -> Self {
        Self {
            kind,
            cells: cells.into_iter().collect(),
        }
    }
}

fn listing(title: impl Into<String>, rows: Vec<Row>) -> Vec<Effect> {
    vec![Effect::Report(Report::Listing {
        title: title.into(),
        rows,
    })]
}

impl Model {
    pub(super) fn list_help(&self) -> Vec<Effect> {
        let rows = COMMANDS.iter().map(|spec| {
            let command = format!("/{} {}", spec.name, spec.arguments);
            Row::new(
                "help",
                [command.trim_end().to_owned(), spec.what.to_owned()],
            )
        });
        listing("commands", rows.collect())
    }

    pub(super) fn list_people(&self) -> Vec<Effect> {
        let people = self.people.iter().map(|(user, person)| {
            let state = match person {
                Person::Asks => "asks",
                Person::Asked => "asked",
                Person::Connected => "connected",
            };
            Row::new("person", [short(user), state.to_owned()])
        });
        let blocked = self.blocked.iter().flatten().map(|target| {
            let state = "blocked".to_owned();
            Row::new("person", [target.to_string(), state])
        });
        listing("people", people.chain(blocked).collect())
    }

    pub(super) fn list_groups(&self) -> Vec<Effect> {
        let rows = self.conversations.iter().map(|c| {
            let standing = match c.standing {
                Standing::Waiting => "waiting",
                Standing::In => "in",
                Standing::Leaving => "leaving",
                Standing::Out => "out",
            };
            Row::new(
                "conversation",
                [
                    c.number.to_string(),
                    standing.to_owned(),
                    c.unread.to_string(),
                    self.title(c),
                ],
            )
        });
        listing("conversations", rows.collect())
    }

    /// Who is where: each user, with their devices, and their provider.
    pub(super) fn list_members(&self) -> Result<Vec<Effect>, String> {
        let open = self.opened().ok_or("no conversation is open")?;
        let mut users: BTreeMap<UserId, Vec<&str>> = BTreeMap::new();
        for client in &open.members {
            let devices = users.entry(client.user_id()).or_default();
            devices.push(client.device());
        }
        let rows = users.into_iter().map(|(user, devices)| {
            let provider = user.provider().to_string();
            Row::new("member", [short(&user), provider, devices.join(", ")])
        });
        let title = match &open.owner {
            Some(owner) => format!("{}, which {owner} keeps", self.title(open)),
            None => self.title(open),
        };
        Ok(listing(title, rows.collect()))
    }

    pub(super) fn list_history(&self, count: usize) -> Result<Vec<Effect>, String> {
        let open = self.opened().ok_or("no conversation is open")?;
        let lines = &open.lines[open.lines.len().saturating_sub(count)..];
        let rows = lines.iter().map(|line| {
            let (who, text) = match &line.body {
                LineBody::Said { sender, text, .. } => (short_client(sender), text.clone()),
                LineBody::Event(text) => ("*".to_owned(), text.clone()),
            };
            Row::new("history", [super::super::time::utc(line.at_ms), who, text])
        });
        let title = format!("the last lines of {}", self.title(open));
        Ok(listing(title, rows.collect()))
    }

    /// How many messages were not read, in all conversations.
    pub(crate) fn unread(&self) -> usize {
        self.conversations
            .iter()
            .map(|c: &Conversation| c.unread)
            .sum()
    }
}
