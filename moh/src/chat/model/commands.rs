//! What a command does.

use moh_messages::{ClientId, ProviderName, UserId};

use super::conversation::Standing;
use super::{Call, Effect, Model, Number, Person, Report, Write, done, error};
use crate::chat::command::Command;
use crate::chat::content::proper_name;
use crate::chat::names::{Target, enumerate, parse_user, short, users_of};

impl Model {
    pub(super) fn command(&mut self, command: Command, now_ms: u64) -> Vec<Effect> {
        let result = match command {
            Command::Say(text) => return self.say(&text, now_ms),
            Command::Retry => return self.retry(),
            Command::Help => Ok(self.list_help()),
            Command::Connect(who) => self.connect(&who),
            Command::Accept(who) => self.answer_request(&who, Call::Accept),
            Command::Decline(who) => self.answer_request(&who, Call::Decline),
            Command::Disconnect(who) => self.disconnect(&who),
            Command::Block(who) => self.target(&who).map(|t| self.calls_one(Call::Block(t))),
            Command::Unblock(who) => self.unblock(&who),
            Command::People => Ok(self.list_people()),
            Command::Groups => Ok(self.list_groups()),
            Command::New { name, users } => self.new_group(&name, &users),
            Command::Open(what) => self.open_by(&what),
            Command::Invite(users) => self.invite(&users),
            Command::Remove(who) => self.remove(&who),
            Command::Rename(name) => self.rename(&name, now_ms),
            Command::Leave => self.leave(),
            Command::Members => self.list_members(),
            Command::History(count) => self.list_history(count.unwrap_or(20)),
            Command::Devices => Ok(self.calls_one(Call::Devices)),
            Command::Link(code) => Ok(self.calls_one(Call::Authorize(code))),
            Command::Trust(device) => {
                let device = self.own_device(&device);
                device.map(|device| self.calls_one(Call::Trust(device)))
            }
            Command::Unlink(device) => {
                let device = self.own_device(&device);
                device.map(|device| self.calls_one(Call::DeleteDevice(device)))
            }
            Command::Quit => Ok(vec![Effect::Quit]),
        };
        result.unwrap_or_else(error)
    }

    fn calls_one(&mut self, what: Call) -> Vec<Effect> {
        vec![self.call(what)]
    }

    /// A user as somebody names them: in full, or by the name alone where it can be only one.
    fn user(&self, text: &str) -> Result<UserId, String> {
        if text.contains(['@', ':']) {
            return parse_user(text);
        }
        let name = text.to_ascii_lowercase();
        let members = self.conversations.iter().flat_map(|c| users_of(&c.members));
        let mut known: Vec<UserId> = self.people.keys().cloned().chain(members).collect();
        known.retain(|user| user.user() == name && *user != self.me.user_id());
        known.sort();
        known.dedup();
        match known.as_slice() {
            [] => UserId::new(&self.me.provider(), &name)
                .map_err(|_| format!("{text} is not a user: USER@PROVIDER")),
            [one] => Ok(one.clone()),
            several => {
                let names: Vec<_> = several.iter().map(short).collect();
                Err(format!("which {text}? {}", enumerate(&names)))
            }
        }
    }

    fn other_user(&self, text: &str) -> Result<UserId, String> {
        let user = self.user(text)?;
        if user == self.me.user_id() {
            return Err("that is you".to_owned());
        }
        Ok(user)
    }

    /// A user, or a provider by its domain.
    fn target(&self, text: &str) -> Result<Target, String> {
        if text.contains('.') && !text.contains(['@', ':']) {
            let name: Result<ProviderName, _> = text.to_ascii_lowercase().parse();
            return name
                .map(Target::Provider)
                .map_err(|_| format!("{text} is neither a user nor a provider"));
        }
        self.other_user(text).map(Target::User)
    }

    fn connect(&mut self, who: &str) -> Result<Vec<Effect>, String> {
        let user = self.other_user(who)?;
        match self.people.get(&user) {
            Some(Person::Asks) => Ok(self.calls_one(Call::Accept(user))),
            Some(Person::Asked) => Err(format!("{} was asked already", short(&user))),
            Some(Person::Connected) => {
                let number = self.with(&user).map(|c| c.number);
                let mut effects = number.map_or(Vec::new(), |n| self.open_conversation(n));
                effects.push(done(format!("{} is connected already", short(&user))));
                Ok(effects)
            }
            None => Ok(self.calls_one(Call::Connect(user))),
        }
    }

    /// Accepts or declines: the one who asks, where it is only one.
    fn answer_request(
        &mut self,
        who: &str,
        what: fn(UserId) -> Call,
    ) -> Result<Vec<Effect>, String> {
        if !who.is_empty() {
            let user = self.other_user(who)?;
            return Ok(self.calls_one(what(user)));
        }
        let asks = |(user, person): (&UserId, &Person)| match person {
            Person::Asks => Some(user.clone()),
            _ => None,
        };
        let all: Vec<UserId> = self.people.iter().filter_map(asks).collect();
        match all.as_slice() {
            [] => Err("nobody asks".to_owned()),
            [one] => Ok(self.calls_one(what(one.clone()))),
            several => {
                let names: Vec<_> = several.iter().map(short).collect();
                Err(format!("which one? {}", enumerate(&names)))
            }
        }
    }

    fn disconnect(&mut self, who: &str) -> Result<Vec<Effect>, String> {
        let user = self.other_user(who)?;
        if !self.people.contains_key(&user) {
            return Err(format!("{} is not connected", short(&user)));
        }
        Ok(self.calls_one(Call::Disconnect(user)))
    }

    fn unblock(&mut self, who: &str) -> Result<Vec<Effect>, String> {
        let target = self.target(who)?;
        if self
            .blocked
            .as_ref()
            .is_some_and(|all| !all.contains(&target))
        {
            return Err(format!("{target} is not blocked"));
        }
        Ok(self.calls_one(Call::Unblock(target)))
    }

    fn new_group(&mut self, name: &str, users: &[String]) -> Result<Vec<Effect>, String> {
        let name = proper_name(name).ok_or("a group needs a name")?;
        let users = self.other_users(users)?;
        Ok(self.calls_one(Call::Create { name, users }))
    }

    fn other_users(&self, users: &[String]) -> Result<Vec<UserId>, String> {
        users.iter().map(|user| self.other_user(user)).collect()
    }

    /// Opens a conversation by its number, its name or its peer.
    fn open_by(&mut self, what: &str) -> Result<Vec<Effect>, String> {
        let number = self.find(what)?;
        let mut effects = self.open_conversation(number);
        let title = self.conversation(number).map(|c| self.title(c));
        let text = format!("{number} is open: {}", title.unwrap_or_default());
        effects.push(done(text));
        Ok(effects)
    }

    fn find(&self, what: &str) -> Result<Number, String> {
        if let Ok(number) = what.parse::<Number>()
            && self.conversation(number).is_some()
        {
            return Ok(number);
        }
        let wanted = what.to_lowercase();
        let mut found: Vec<Number> = Vec::new();
        if let Some(with) = self.user(what).ok().and_then(|user| self.with(&user)) {
            found.push(with.number);
        }
        // The title of one who is nobody's peer cannot look like a user.
        let is_meant =
            |c: &&super::Conversation| c.peer.is_none() && self.title(c).to_lowercase() == wanted;
        found.extend(self.conversations.iter().filter(is_meant).map(|c| c.number));
        match found.as_slice() {
            [] => Err(format!(
                "there is no conversation {what}; /groups shows them"
            )),
            [one] => Ok(*one),
            several => {
                let commands: Vec<_> = several.iter().map(|n| format!("/open {n}")).collect();
                Err(format!("which {what}? {}", enumerate(&commands)))
            }
        }
    }

    /// The group that is open; what is between two users is none.
    fn group(&self, doing: &str) -> Result<&super::Conversation, String> {
        let open = self.opened().ok_or("no conversation is open")?;
        if open.standing == Standing::Out {
            return Err("you are not in this group any more".to_owned());
        }
        match &open.peer {
            Some(_) => Err(format!("{doing} groups only; /new makes one")),
            None => Ok(open),
        }
    }

    fn invite(&mut self, users: &[String]) -> Result<Vec<Effect>, String> {
        let users = self.other_users(users)?;
        let open = self.group("people are added to")?;
        let (number, group) = (open.number, open.group.clone());
        Ok(self.calls_one(Call::Invite {
            number,
            group,
            users,
        }))
    }

    fn remove(&mut self, who: &str) -> Result<Vec<Effect>, String> {
        let user = self.user(who)?;
        if user == self.me.user_id() {
            return Err("to go yourself: /leave".to_owned());
        }
        let open = self.group("people are removed from")?;
        let (number, group) = (open.number, open.group.clone());
        Ok(self.calls_one(Call::Remove {
            number,
            group,
            user,
        }))
    }

    fn leave(&mut self) -> Result<Vec<Effect>, String> {
        if let Some(peer) = self.opened().and_then(|c| c.peer.as_ref()) {
            return Err(format!("to end it: /disconnect {}", short(peer)));
        }
        let open = self.group("people leave")?;
        let (number, group) = (open.number, open.group.clone());
        Ok(self.calls_one(Call::Leave { number, group }))
    }

    fn rename(&mut self, name: &str, now_ms: u64) -> Result<Vec<Effect>, String> {
        let name = proper_name(name).ok_or("a group needs a name")?;
        let number = self.group("names are for")?.number;
        if let Some(conversation) = self.conversation_mut(number) {
            conversation.name = Some(name.clone());
        }
        let mut effects = vec![
            Effect::Write(Write::Conversation(number)),
            Effect::Report(Report::Conversation(number)),
        ];
        effects.extend(self.add_event(number, now_ms, format!("you named it “{name}”")));
        effects.extend(self.announce_name(number));
        effects.push(done(format!("{number} is called {name}")));
        Ok(effects)
    }

    /// Another device of this user.
    fn own_device(&self, device: &str) -> Result<ClientId, String> {
        let device = device.rsplit('/').next().unwrap_or(device);
        let client = ClientId::new(&self.me.user_id(), &device.to_ascii_lowercase())
            .map_err(|_| format!("{device} is not a device"))?;
        if client == self.me {
            return Err("that is this device".to_owned());
        }
        Ok(client)
    }
}
