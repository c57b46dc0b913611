//! What the library tells of.

use moh_client::{Event, Operation, Outcome};
use moh_messages::{ClientId, GroupId, UserId};

use super::conversation::{LineBody, Standing};
use super::{Call, Effect, Model, Number, Person, Report, Write};
use crate::chat::content::{Body, Content};
use crate::chat::names::{enumerate, short, short_client, users_of};

impl Model {
    pub(super) fn library(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        match event {
            Event::Joined {
                group,
                owner,
                members,
                ..
            } => {
                let (number, mut effects) = self.ensure(&group);
                if let Some(conversation) = self.conversation_mut(number) {
                    conversation.owner = Some(owner);
                    conversation.members = members;
                }
                effects.extend(self.joined(number, now_ms));
                effects
            }
            Event::Message {
                group,
                sender,
                content,
                received_at,
                ..
            } => self.message(&group, sender, &content, received_at),
            Event::MembersChanged {
                group,
                by,
                added,
                removed,
                ..
            } => self.members_changed(&group, &by, &added, &removed, now_ms),
            Event::Removed { group, by } => self.removed(&group, &by, now_ms),
            Event::Deleted { group } => self.ended(&group, "the group was ended", now_ms),
            Event::AdminsChanged {
                group, by, admins, ..
            } => {
                let admins: Vec<_> = admins.iter().map(short).collect();
                let text = format!(
                    "{} made these admins: {}",
                    self.who(&by),
                    enumerate(&admins)
                );
                self.told(&group, text, now_ms)
            }
            Event::Settled {
                group,
                operation,
                outcome,
            } => self.operation_settled(&group, operation, &outcome, now_ms),
            Event::Undecodable {
                group: Some(group),
                reason,
                ..
            } => self.told(
                &group,
                format!("something could not be read: {reason}"),
                now_ms,
            ),
            Event::Undecodable { group: None, .. }
            | Event::Updated { .. }
            | Event::KeyPackagesRefilled { .. }
            | Event::AttestationRenewed { .. } => Vec::new(),
            Event::ConnectionRequested { peer, .. } => {
                self.people.insert(peer.clone(), Person::Asks);
                vec![Effect::Report(Report::Asks(peer))]
            }
            Event::Connected { peer, group } => self.connected(&peer, &group, now_ms).1,
            Event::Disconnected { peer, reason } => {
                self.disconnected(&peer, &reason.to_string(), now_ms)
            }
            other => self.library_trouble(other, now_ms),
        }
    }

    /// What goes wrong, and what the user should look at.
    fn library_trouble(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        match event {
            Event::NotAttested {
                group,
                client,
                reason,
            } => {
                let whose = short_client(&client);
                let text = format!("the keys of {whose} could not be verified: {reason}");
                self.told(&group, text, now_ms)
            }
            Event::GroupLost { group } => {
                let text = "this device cannot follow here; it is joining again";
                self.told(&group, text, now_ms)
            }
            Event::Rejoined { group, .. } => {
                let (number, mut effects) = self.ensure(&group);
                if let Some(conversation) = self.conversation_mut(number) {
                    conversation.standing = Standing::In;
                }
                effects.push(Effect::Write(Write::Conversation(number)));
                let text = "joined again; what was written meanwhile may be missing here";
                effects.extend(self.add_event(number, now_ms, text));
                effects.extend(self.ask_members(number));
                effects.extend(self.pump(number));
                effects
            }
            Event::StateLost => vec![Effect::Report(Report::Note(
                "the state of this device was lost; its groups come back one by one".to_owned(),
            ))],
            Event::DevicesChanged { client, added } => {
                let device = client.device();
                if !added {
                    let text = format!("your device {device} was deleted");
                    return vec![Effect::Report(Report::Note(text))];
                }
                // One that this device has let in comes along; nobody else does unasked.
                if self.trusted.iter().any(|(trusted, _)| *trusted == client) {
                    self.take_failures = 0;
                    let text = format!("your device {device} comes into your conversations");
                    return vec![Effect::Report(Report::Note(text)), self.take_along()];
                }
                vec![Effect::Report(Report::Note(format!(
                    "a device {device} was registered in your name; if it is yours: \
                     /trust {device}, if not: /unlink {device}"
                )))]
            }
            _ => Vec::new(),
        }
    }

    /// A user as others call them: you, or the name.
    fn who(&self, client: &ClientId) -> String {
        Who::of(client, &self.me.user_id()).0
    }

    /// A line in a conversation that is there.
    fn told(&mut self, group: &GroupId, text: impl Into<String>, now_ms: u64) -> Vec<Effect> {
        match self.number_of(group) {
            Some(number) => self.add_event(number, now_ms, text),
            None => Vec::new(),
        }
    }

    fn joined(&mut self, number: Number, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(conversation) = self.conversation_mut(number) else {
            return effects;
        };
        let is_between_two = conversation.peer.is_some();
        // Another one may have accepted by now, where that had been asked.
        if conversation.standing != Standing::Waiting {
            conversation.standing = Standing::In;
        }
        effects.push(Effect::Write(Write::Conversation(number)));
        if !is_between_two {
            effects.push(Effect::Report(Report::Conversation(number)));
            effects.extend(self.add_event(number, now_ms, "you were added"));
        }
        effects.extend(self.pump(number));
        effects
    }

    fn message(
        &mut self,
        group: &GroupId,
        sender: ClientId,
        content: &[u8],
        received_at: u64,
    ) -> Vec<Effect> {
        let is_new = self.number_of(group).is_none();
        let (number, mut effects) = self.ensure(group);
        if is_new {
            effects.push(Effect::Report(Report::Conversation(number)));
        }
        let content = Content::decode(content);
        let text = match content.body {
            Body::Text(text) => text,
            Body::Unknown(length) => {
                let text = format!("{} sent {length} bytes that are no text", self.who(&sender));
                effects.extend(self.add_event(number, received_at, text));
                return effects;
            }
            Body::Name(name) => {
                effects.extend(self.named(number, &sender, name, received_at));
                return effects;
            }
        };
        // What another device of this user wrote is no news to them.
        let is_own = sender.user_id() == self.me.user_id();
        let body = LineBody::Said {
            sender,
            message: content.id,
            text,
            sending: is_own.then_some(super::Sending::Sent),
        };
        effects.extend(self.add_line(number, received_at, body));
        effects
    }

    fn named(&mut self, number: Number, by: &ClientId, name: String, now_ms: u64) -> Vec<Effect> {
        let by = self.who(by);
        let Some(conversation) = self.conversation_mut(number) else {
            return Vec::new();
        };
        if conversation.name.as_ref() == Some(&name) || conversation.peer.is_some() {
            return Vec::new();
        }
        let text = format!("{by} named it “{name}”");
        conversation.name = Some(name);
        let mut effects = vec![
            Effect::Write(Write::Conversation(number)),
            Effect::Report(Report::Conversation(number)),
        ];
        effects.extend(self.add_event(number, now_ms, text));
        effects
    }

    fn members_changed(
        &mut self,
        group: &GroupId,
        by: &ClientId,
        added: &[ClientId],
        removed: &[ClientId],
        now_ms: u64,
    ) -> Vec<Effect> {
        let Some(number) = self.number_of(group) else {
            return Vec::new();
        };
        let me = self.me.user_id();
        let Some(conversation) = self.conversation_mut(number) else {
            return Vec::new();
        };
        let before = users_of(&conversation.members);
        conversation.members.retain(|c| !removed.contains(c));
        conversation.members.extend(added.iter().cloned());
        let change = Change {
            by,
            added,
            removed,
            before,
            after: users_of(&conversation.members),
        };
        let texts = change.told(&me);
        let mut effects = Vec::new();
        for text in texts {
            effects.extend(self.add_event(number, now_ms, text));
        }
        effects
    }

    fn removed(&mut self, group: &GroupId, by: &ClientId, now_ms: u64) -> Vec<Effect> {
        let leaving = self
            .number_of(group)
            .and_then(|number| self.conversation(number))
            .is_some_and(|c| c.standing == Standing::Leaving);
        let text = if leaving {
            "you left".to_owned()
        } else {
            format!("{} removed you", self.who(by))
        };
        self.ended(group, &text, now_ms)
    }

    fn ended(&mut self, group: &GroupId, text: &str, now_ms: u64) -> Vec<Effect> {
        let number = self.number_of(group);
        let standing = number
            .and_then(|n| self.conversation(n))
            .map(|c| c.standing);
        let Some((number, false)) = number.zip(standing.map(|s| s == Standing::Out)) else {
            return Vec::new();
        };
        let mut effects = self.add_event(number, now_ms, text);
        effects.extend(self.is_out(number));
        effects
    }

    fn operation_settled(
        &mut self,
        group: &GroupId,
        operation: Operation,
        outcome: &Outcome,
        now_ms: u64,
    ) -> Vec<Effect> {
        if operation == Operation::Message {
            return self.message_settled(group, outcome);
        }
        let Some(number) = self.number_of(group) else {
            return vec![self.call(Call::LookAgain)];
        };
        let mut effects = Vec::new();
        let to_invite = self
            .conversation_mut(number)
            .map(|c| std::mem::take(&mut c.to_invite));
        match (outcome, operation) {
            (Outcome::Refused(error), Operation::CreateGroup) => {
                let text = format!("the group could not be made: {error}");
                effects.extend(self.add_event(number, now_ms, text));
                effects.extend(self.is_out(number));
            }
            (Outcome::Refused(error), _) => {
                let text = format!("what was asked for was refused: {error}");
                effects.extend(self.add_event(number, now_ms, text));
            }
            (Outcome::Accepted, Operation::Add) => effects.extend(self.announce_name(number)),
            (Outcome::Accepted, _) => {
                let users = to_invite.unwrap_or_default();
                if !users.is_empty() {
                    let group = group.clone();
                    effects.push(self.call(Call::Invite {
                        number,
                        group,
                        users,
                    }));
                }
            }
        }
        effects.extend(self.ask_members(number));
        effects
    }
}

/// A change of members, as it is told.
struct Change<'a> {
    by: &'a ClientId,
    added: &'a [ClientId],
    removed: &'a [ClientId],
    before: Vec<UserId>,
    after: Vec<UserId>,
}

impl Change<'_> {
    /// It in words. Who left and who was removed is the same here: a departure is carried out by
    /// another member.
    fn told(&self, me: &UserId) -> Vec<String> {
        let who = |client: &ClientId| Who::of(client, me);
        let mut texts = Vec::new();
        let mut joined = Vec::new();
        for client in self.added {
            let (who, device) = (who(client), client.device());
            if self.removed.contains(client) {
                texts.push(format!(
                    "{} device {device} has another key now",
                    who.their()
                ));
            } else if self.before.contains(&client.user_id()) {
                texts.push(format!("{} a new device: {device}", who.have()));
            } else if !joined.contains(&who.0) {
                joined.push(who.0);
            }
        }
        if !joined.is_empty() {
            texts.push(format!("{} added {}", who(self.by).0, enumerate(&joined)));
        }
        let mut gone = Vec::new();
        for client in self.removed.iter().filter(|c| !self.added.contains(c)) {
            let (who, user) = (who(client), client.user_id());
            if self.after.contains(&user) {
                texts.push(format!(
                    "{} device {} is gone",
                    who.their(),
                    client.device()
                ));
            } else if !gone.contains(&user) {
                gone.push(user);
                texts.push(format!("{} not in the group any more", who.are()));
            }
        }
        texts
    }
}

/// A user in a sentence: `you`, or the name.
struct Who(String);

impl Who {
    fn of(client: &ClientId, me: &UserId) -> Self {
        let user = client.user_id();
        Self(if user == *me {
            "you".to_owned()
        } else {
            short(&user)
        })
    }

    fn is_me(&self) -> bool {
        self.0 == "you"
    }

    fn their(&self) -> String {
        if self.is_me() {
            "your".to_owned()
        } else {
            format!("{}’s", self.0)
        }
    }

    fn have(&self) -> String {
        format!("{} {}", self.0, if self.is_me() { "have" } else { "has" })
    }

    fn are(&self) -> String {
        format!("{} {}", self.0, if self.is_me() { "are" } else { "is" })
    }
}
