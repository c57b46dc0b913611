//! Providers that end and start, and time that passes.

use moh_messages::{DsErrorCode, DsResponseBody, ProviderName};

use crate::Check;
use crate::device::as_joiner;
use crate::requests;
use crate::room::{Act, Op, Room};
use crate::run::Run;
use crate::world::{PROVIDERS, code_of};

/// A little more than a day.
const DAY_MS: u64 = 25 * 60 * 60 * 1000;
/// For so long is the tree of a Welcome kept after it was fetched.
const KEEP_FETCHED_MS: u64 = 24 * 60 * 60 * 1000;
/// More than for how long it is remembered that a provider was not found.
const NOT_FOUND_MS: u64 = 6_000;

impl Run {
    /// The owner of a group ends, and starts again; now and then with another key for groups.
    pub(crate) async fn restart(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let owner = self.rooms[room].owner.clone();
        self.world.stop(&owner).await;
        let renews = self.dice.once_in(3);
        if renews {
            self.world.renew_group_keys(&owner);
        }
        self.world.start(&owner).await;
        Ok(Some(format!("{owner} is started anew, new keys {renews}")))
    }

    /// A member names the owner by its current key.
    pub(crate) async fn renew_sender(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(true) else {
            return Ok(None);
        };
        let owner = &self.rooms[room].owner;
        let current = self.world.provider(owner).keys.ds_sender(self.suite);
        if current.as_ref() == Some(&self.rooms[room].ds_sender) && !self.dice.once_in(8) {
            return Ok(None);
        }
        let mut act = Act::new(Op::SetRoles, &by);
        act.ds_sender = current;
        self.carry_out(room, act).await
    }

    /// A provider that owns no group is not there for some time.
    pub(crate) async fn goes_down(&mut self) -> Check<Option<String>> {
        let names = PROVIDERS.map(|name| name.parse::<ProviderName>().unwrap());
        if names.iter().any(|name| !self.world.is_running(name)) {
            return Ok(None);
        }
        let is_needed = |r: &Room| !r.ended || r.seats.values().any(|s| !s.inbox.is_empty());
        let owns = |name: &ProviderName| {
            let mut theirs = self.rooms.iter().filter(|r| r.owner == *name);
            theirs.any(is_needed)
        };
        let free: Vec<_> = names.into_iter().filter(|name| !owns(name)).collect();
        let Some(name) = self.dice.pick(&free).cloned() else {
            return Ok(None);
        };
        self.world.stop(&name).await;
        Ok(Some(format!("{name} is gone")))
    }

    /// It is there again.
    pub(crate) async fn comes_up(&mut self) -> Check<Option<String>> {
        let names = PROVIDERS.map(|name| name.parse::<ProviderName>().unwrap());
        let Some(name) = names.into_iter().find(|n| !self.world.is_running(n)) else {
            return Ok(None);
        };
        self.world.start(&name).await;
        self.world.pass(NOT_FOUND_MS);
        self.world.sign_of_life(&name).await;
        Ok(Some(format!("{name} is back")))
    }

    pub(crate) fn a_day_passes(&mut self) -> String {
        self.world.pass(DAY_MS);
        "a day passes".to_owned()
    }

    /// Somebody fetches the tree of a Welcome once more.
    pub(crate) async fn fetch_again(&mut self) -> Check<Option<String>> {
        let Some(room) = self.any_room() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let welcomed = group.seats.iter();
        let welcomed = welcomed.filter(|(_, s)| s.leaf.is_some() && s.welcomed.is_some());
        let clients: Vec<_> = welcomed.map(|(client, _)| client.clone()).collect();
        let Some(client) = self.dice.pick(&clients).cloned() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let seat = &group.seats[&client];
        let welcomed = seat.welcomed.as_ref().unwrap();
        if seat.leaf.as_ref() != Some(&welcomed.invitation.key.public) && !welcomed.acted {
            // It was added again, and has not joined yet.
            return Ok(None);
        }
        let body = requests::welcome_info(&group.id, welcomed.invitation.epoch);
        let (key, reference) = (&welcomed.invitation.key, &welcomed.invitation.reference);
        let request = as_joiner(&client, &group.owner, key, reference, body);
        let late = self.world.now_ms() >= welcomed.fetched_at + KEEP_FETCHED_MS;
        let expected: &[DsErrorCode] = match (welcomed.acted, group.ended) {
            (true, false) => &[DsErrorCode::UNKNOWN_GROUP],
            // Whether it has acted before the end is not kept for long.
            (true, true) => &[DsErrorCode::UNKNOWN_GROUP, DsErrorCode::GROUP_DELETED],
            (false, true) => &[DsErrorCode::GROUP_DELETED],
            (false, false) if late => &[DsErrorCode::EPOCH_NOT_KEPT],
            (false, false) => &[],
        };
        let what = format!("{client} fetches the tree of group {room} again: {expected:?}");
        let answer = self.world.ask(&request).await;
        let same = match &answer {
            Ok(DsResponseBody::WelcomeInfo { ratchet_tree, .. }) => {
                expected.is_empty() && ratchet_tree.as_slice() == welcomed.tree
            }
            _ => code_of(&answer).is_some_and(|code| expected.contains(&code)),
        };
        if !same {
            return Err(format!("{what} is answered {answer:?}"));
        }
        self.tally.count("WelcomeInfo, again");
        Ok(Some(what))
    }
}
