//! What follows from what the library answered.

use moh_messages::{GroupId, UserId};

use super::conversation::Standing;
use super::{
    Answer, Call, Effect, Known, Model, Number, Person, Report, Row, Trusted, Write, done, error,
};
use crate::chat::names::{Target, enumerate, short};

/// How often it is tried to add a device of one's own, until the next start.
const MAX_TAKE_FAILURES: u32 = 10;

impl Model {
    pub(super) fn answered(
        &mut self,
        what: Call,
        result: Result<Answer, String>,
        now_ms: u64,
    ) -> Vec<Effect> {
        let answer = match result {
            Ok(answer) => answer,
            // Without a connection, say.
            Err(_) if matches!(what, Call::TakeAlong(_)) => return self.taken_along(&[], true),
            Err(text) => return failed(&what, &text),
        };
        match what {
            Call::Create { .. }
            | Call::Invite { .. }
            | Call::Remove { .. }
            | Call::Leave { .. }
            | Call::Members { .. } => self.group_answered(what, answer, now_ms),
            Call::TakeAlong(_)
            | Call::Devices
            | Call::Authorize(_)
            | Call::Trust(_)
            | Call::DeleteDevice(_) => self.device_answered(what, answer),
            _ => self.person_answered(what, answer, now_ms),
        }
    }

    fn person_answered(&mut self, what: Call, answer: Answer, now_ms: u64) -> Vec<Effect> {
        match (what, answer) {
            (Call::Connect(user), Answer::Group(group)) => self.asked(&user, &group, now_ms),
            (Call::Connect(user), Answer::Later { group, reason }) => {
                let mut effects = self.asked(&user, &group, now_ms);
                effects.insert(0, note(reason));
                effects
            }
            (Call::Accept(user), Answer::Group(group)) => {
                let (number, mut effects) = self.connected(&user, &group, now_ms);
                effects.extend(self.open_conversation(number));
                effects.push(done(format!("{} is connected", short(&user))));
                effects
            }
            (Call::Decline(user), _) => {
                self.people.remove(&user);
                vec![done(format!("declined what {} asked", short(&user)))]
            }
            (Call::Disconnect(user), _) => {
                let mut effects = self.disconnected(&user, "you ended the connection", now_ms);
                effects.push(done(format!("{} is not connected any more", short(&user))));
                effects
            }
            (Call::Block(target), _) => self.blocked(target, now_ms),
            (Call::Unblock(target), _) => {
                self.blocked
                    .get_or_insert_default()
                    .retain(|t| *t != target);
                vec![done(format!("{target} is not blocked any more"))]
            }
            (Call::LookAgain, Answer::Known(known)) => self.known(known, false),
            (Call::Blocked, Answer::Blocked(blocked)) => {
                self.blocked = Some(blocked);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn group_answered(&mut self, what: Call, answer: Answer, now_ms: u64) -> Vec<Effect> {
        match (what, answer) {
            (Call::Create { name, users }, Answer::Later { group, reason }) => {
                let mut effects = self.created(&group, name, Vec::new(), now_ms);
                if let Some(conversation) = self.conversations.iter_mut().find(|c| c.group == group)
                {
                    conversation.to_invite = users;
                }
                effects.insert(0, note(reason));
                effects
            }
            (Call::Create { name, users }, Answer::Group(group)) => {
                self.created(&group, name, users, now_ms)
            }
            (Call::Invite { number, .. }, Answer::Invited { added, failed }) => {
                self.invited(number, &added, &failed, now_ms)
            }
            (Call::Remove { number, user, .. }, _) => {
                let text = format!("you removed {}", short(&user));
                let mut effects = self.add_event(number, now_ms, &text);
                effects.extend(self.ask_members(number));
                effects.push(done(text));
                effects
            }
            (Call::Leave { number, .. }, answer) => self.left(number, &answer, now_ms),
            (Call::Members { number, .. }, Answer::Members { members, owner }) => {
                if let Some(conversation) = self.conversation_mut(number) {
                    conversation.members = members;
                    conversation.owner = Some(owner);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn device_answered(&mut self, what: Call, answer: Answer) -> Vec<Effect> {
        match (what, answer) {
            (Call::TakeAlong(_), Answer::TakenAlong { added, missing }) => {
                self.taken_along(&added, missing)
            }
            (Call::Devices, Answer::Devices(rows)) => listing("your devices", rows),
            (Call::Authorize(_), Answer::Authorization { code, device }) => {
                let mut effects = self.trust(device);
                let row = Row::new("authorization", [code]);
                effects.extend(listing("give this to the new device", vec![row]));
                effects
            }
            (Call::Trust(_), Answer::Trusted(device)) => {
                let text = format!("{} comes into your conversations", device.0.device());
                let mut effects = self.trust(device);
                effects.push(self.take_along());
                effects.push(done(text));
                effects
            }
            (Call::DeleteDevice(device), _) => {
                vec![done(format!("{} is deleted", device.device()))]
            }
            _ => Vec::new(),
        }
    }

    /// Somebody was asked to connect.
    fn asked(&mut self, user: &UserId, group: &GroupId, now_ms: u64) -> Vec<Effect> {
        let text = format!("{} is asked to connect", short(user));
        // They may have asked at the same time, and be connected by now.
        if self.people.get(user) == Some(&Person::Connected) {
            return vec![done(text)];
        }
        self.people.insert(user.clone(), Person::Asked);
        let (number, mut effects) = self.between(user, group, Standing::Waiting);
        effects.extend(self.add_event(number, now_ms, "you asked to connect"));
        effects.extend(self.open_conversation(number));
        effects.push(done(text));
        effects
    }

    /// The conversation between this user and another one.
    fn between(
        &mut self,
        user: &UserId,
        group: &GroupId,
        standing: Standing,
    ) -> (Number, Vec<Effect>) {
        let (number, mut effects) = self.ensure(group);
        let Some(conversation) = self.conversation_mut(number) else {
            return (number, effects);
        };
        let is_new = conversation.peer.replace(user.clone()).as_ref() != Some(user);
        let has_changed = is_new || conversation.standing != standing;
        conversation.standing = standing;
        if has_changed {
            effects.push(Effect::Write(Write::Conversation(number)));
        }
        if is_new {
            effects.push(Effect::Report(Report::Conversation(number)));
        }
        (number, effects)
    }

    /// Two users are connected, which may be told more than once.
    pub(super) fn connected(
        &mut self,
        user: &UserId,
        group: &GroupId,
        now_ms: u64,
    ) -> (Number, Vec<Effect>) {
        let known = self
            .number_of(group)
            .and_then(|number| self.conversation(number));
        let is_known = known.is_some_and(|c| c.peer.is_some() && c.standing == Standing::In);
        let before = self.people.insert(user.clone(), Person::Connected);
        if let Some(number) = self.number_of(group)
            && is_known
            && before == Some(Person::Connected)
        {
            return (number, Vec::new());
        }
        let (number, mut effects) = self.between(user, group, Standing::In);
        effects.push(Effect::Report(Report::Connected(user.clone(), number)));
        let text = format!("you and {} are connected", short(user));
        effects.extend(self.add_event(number, now_ms, text));
        effects.extend(self.ask_members(number));
        effects.extend(self.take_along_into_new());
        effects.extend(self.pump(number));
        if self.open.is_none() {
            effects.extend(self.open_conversation(number));
        }
        (number, effects)
    }

    /// Two users are connected no more.
    pub(super) fn disconnected(&mut self, user: &UserId, reason: &str, now_ms: u64) -> Vec<Effect> {
        if self.people.remove(user).is_none() {
            return vec![note(format!("{}: {reason}", short(user)))];
        }
        let number = self.with(user).map(|c| (c.number, c.standing));
        let mut effects = vec![Effect::Report(Report::Disconnected(
            user.clone(),
            reason.to_owned(),
        ))];
        if let Some((number, standing)) = number
            && standing != Standing::Out
        {
            effects.extend(self.add_event(number, now_ms, reason));
            effects.extend(self.is_out(number));
        }
        effects
    }

    fn blocked(&mut self, target: Target, now_ms: u64) -> Vec<Effect> {
        let is_meant = |user: &UserId| match &target {
            Target::User(blocked) => user == blocked,
            Target::Provider(provider) => user.provider() == *provider,
        };
        let people: Vec<_> = self
            .people
            .keys()
            .filter(|u| is_meant(u))
            .cloned()
            .collect();
        let mut effects = Vec::new();
        for user in people {
            effects.extend(self.disconnected(&user, "you blocked them", now_ms));
        }
        let text = format!("{target} is blocked");
        let blocked = self.blocked.get_or_insert_default();
        if !blocked.contains(&target) {
            blocked.push(target);
        }
        effects.push(done(text));
        effects
    }

    fn created(
        &mut self,
        group: &GroupId,
        name: String,
        users: Vec<UserId>,
        now_ms: u64,
    ) -> Vec<Effect> {
        let (number, mut effects) = self.ensure(group);
        let text = format!("you made the group “{name}”");
        let said = format!("{number} is called {name}");
        let me = self.me.clone();
        if let Some(conversation) = self.conversation_mut(number) {
            conversation.name = Some(name);
            conversation.members = vec![me];
        }
        effects.push(Effect::Write(Write::Conversation(number)));
        effects.push(Effect::Report(Report::Conversation(number)));
        effects.extend(self.add_event(number, now_ms, text));
        effects.extend(self.open_conversation(number));
        effects.extend(self.take_along_into_new());
        if users.is_empty() {
            effects.extend(self.ask_members(number));
            effects.push(done(said));
        } else {
            let group = group.clone();
            effects.push(self.call(Call::Invite {
                number,
                group,
                users,
            }));
        }
        effects
    }

    fn invited(
        &mut self,
        number: Number,
        added: &[UserId],
        failed: &[(UserId, String)],
        now_ms: u64,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !added.is_empty() {
            let names: Vec<_> = added.iter().map(short).collect();
            let text = format!("you added {}", enumerate(&names));
            effects.extend(self.add_event(number, now_ms, text));
            effects.extend(self.announce_name(number));
        }
        effects.extend(self.ask_members(number));
        for (user, reason) in failed {
            effects.extend(error(format!("{} is not added: {reason}", short(user))));
        }
        if failed.is_empty() {
            let names: Vec<_> = added.iter().map(short).collect();
            effects.push(done(format!("{} in {number}", enumerate(&names))));
        }
        effects
    }

    fn left(&mut self, number: Number, answer: &Answer, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if *answer == Answer::Ended {
            effects.extend(self.add_event(number, now_ms, "you left; the group is gone"));
            effects.extend(self.is_out(number));
        } else {
            if let Some(conversation) = self.conversation_mut(number) {
                conversation.standing = Standing::Leaving;
            }
            effects.push(Effect::Write(Write::Conversation(number)));
            effects.extend(self.add_event(number, now_ms, "you are leaving"));
            effects.extend(self.give_up(number, "you left"));
        }
        effects.push(done(format!("you leave {number}")));
        effects
    }

    /// What the library knows. At the beginning it goes before what was kept; later on it is
    /// what was true a moment ago, and only what is not known at all is taken from it. A group
    /// that it does not have is not given up: it may come back.
    pub(super) fn known(&mut self, known: Known, is_start: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        for group in &known.groups {
            let is_new = self.number_of(group).is_none();
            let (number, written) = self.ensure(group);
            effects.extend(written);
            if is_new && !is_start {
                effects.extend(self.ask_members(number));
                effects.push(Effect::Report(Report::Conversation(number)));
            }
            if let Some(conversation) = self.conversation_mut(number)
                && is_start
                && conversation.standing == Standing::Out
            {
                conversation.standing = Standing::In;
                effects.push(Effect::Write(Write::Conversation(number)));
            }
        }
        for (user, person, group) in known.people {
            if !is_start && self.people.contains_key(&user) {
                continue;
            }
            let standing = match person {
                Person::Asks | Person::Asked => Standing::Waiting,
                Person::Connected => Standing::In,
            };
            self.people.insert(user.clone(), person);
            if let (Some(group), true) = (group, person != Person::Asks) {
                effects.extend(self.between(&user, &group, standing).1);
            }
        }
        effects
    }

    /// A device of one's own, by the word of the user.
    fn trust(&mut self, device: Trusted) -> Vec<Effect> {
        self.take_failures = 0;
        if self.trusted.contains(&device) {
            return Vec::new();
        }
        self.trusted.push(device.clone());
        vec![Effect::Write(Write::Trust(device))]
    }

    /// A new device has no KeyPackages in its first moments, and may lack them later too.
    fn taken_along(&mut self, added: &[GroupId], missing: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut numbers: Vec<_> = added.iter().filter_map(|g| self.number_of(g)).collect();
        numbers.dedup();
        for number in numbers {
            // It does not know what the group is called.
            effects.extend(self.announce_name(number));
            effects.extend(self.ask_members(number));
        }
        self.take_failures = if missing { self.take_failures + 1 } else { 0 };
        if missing && self.take_failures <= MAX_TAKE_FAILURES {
            let failures = self.take_failures;
            effects.push(Effect::TakeAlongLater { failures });
        }
        effects
    }
}

fn listing(title: &str, rows: Vec<Row>) -> Vec<Effect> {
    vec![Effect::Report(Report::Listing {
        title: title.to_owned(),
        rows,
    })]
}

fn note(text: String) -> Effect {
    Effect::Report(Report::Note(text))
}

fn failed(what: &Call, text: &str) -> Vec<Effect> {
    if what.is_silent() {
        return Vec::new();
    }
    error(text)
}
