//! Two requests at once: what comes of it is what would come of them one after the other.

use moh_messages::{ClientId, DsErrorCode};

use crate::Check;
use crate::entering::Entry;
use crate::requests;
use crate::room::{Act, Op};
use crate::run::Run;

const LATE: DsErrorCode = DsErrorCode::WRONG_EPOCH;
const FIRST: DsErrorCode = DsErrorCode::PENDING_PROPOSALS;

impl Run {
    /// Two members, or a member and somebody who joins, ask at once.
    pub(crate) async fn race(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let current = group.current().into_iter();
        let able = current.filter(|c| self.is_awake(c) && !group.is_targeted(c));
        let mut able: Vec<_> = able.collect();
        if able.len() < 2 {
            return Ok(None);
        }
        let first = able.remove(self.dice.below(able.len()));
        let second = able.remove(self.dice.below(able.len()));
        self.note(format!(
            "... a race of {first} and {second} in group {room}"
        ));
        match self.dice.below(5) {
            0 | 1 => self.two_commits(room, &first, &second).await,
            2 => self.commit_and_message(room, &first, &second).await,
            3 => self.commit_and_join(room, &first, &second).await,
            _ => self.commit_and_leave(room, &first, &second).await,
        }
    }

    /// One of the commits is accepted.
    async fn two_commits(
        &mut self,
        room: usize,
        first: &ClientId,
        second: &ClientId,
    ) -> Check<Option<String>> {
        let mut act = Act::new(Op::UpdateClient, first);
        if self.dice.once_in(2)
            && let Some(added) = self.device_outside(room, &first.user_id())
        {
            act = Act::new(Op::AddClients, first);
            act.adds = vec![added];
        }
        let what = format!("{first} and {second}: {:?} at once in group {room}", act.op);
        let one = self.build(room, &act)?;
        act.by = second.clone();
        let two = self.build(room, &act)?;
        let requests = (self.request(room, &one), self.request(room, &two));
        let answers = tokio::join!(self.ask(&requests.0), self.ask(&requests.1));
        let next = self.rooms[room].epoch + 1;
        let (winner, request, loser, accepted_at) = match answers {
            (Ok((epoch, at)), Err(LATE)) if epoch == next => (one, requests.0, second, at),
            (Err(LATE), Ok((epoch, at))) if epoch == next => (two, requests.1, first, at),
            answers => return Err(format!("{what}: {answers:?}")),
        };
        self.give_up(room, loser);
        let by = winner.act.by.clone();
        self.follow(room, winner)?;
        self.remember(room, &by, request, next, accepted_at);
        Ok(Some(what))
    }

    /// Both are accepted, in some order.
    async fn commit_and_message(
        &mut self,
        room: usize,
        first: &ClientId,
        second: &ClientId,
    ) -> Check<Option<String>> {
        if !self.rooms[room].pending.is_empty() {
            return Ok(None);
        }
        let what = format!("{first} commits and {second} writes at once in group {room}");
        let built = self.build(room, &Act::new(Op::UpdateClient, first))?;
        let text = b"at once".to_vec();
        let seat = self.rooms[room].seats.get_mut(second).unwrap();
        let message = seat.joined.as_mut().unwrap().copy.message(&text)?;
        let body = requests::send_message(message.clone());
        let requests = (self.request(room, &built), self.signed(room, second, body));
        let answers = if self.dice.once_in(2) {
            tokio::join!(self.ask(&requests.0), self.ask(&requests.1))
        } else {
            let (two, one) = tokio::join!(self.ask(&requests.1), self.ask(&requests.0));
            (one, two)
        };
        let epoch = self.rooms[room].epoch;
        let (Ok((next, committed_at)), Ok((at, sent_at))) = answers else {
            return Err(format!("{what}: {answers:?}"));
        };
        if next != epoch + 1 || !(at == epoch || at == next) {
            return Err(format!("{what}: {answers:?}"));
        }
        if at == epoch {
            self.expect_text(room, second, message.clone(), epoch, text.clone());
        }
        self.follow(room, built)?;
        if at == next {
            self.expect_text(room, second, message, epoch, text);
        }
        self.remember(room, first, requests.0, next, committed_at);
        self.remember(room, second, requests.1, at, sent_at);
        Ok(Some(what))
    }

    /// One of them is accepted.
    async fn commit_and_join(
        &mut self,
        room: usize,
        first: &ClientId,
        second: &ClientId,
    ) -> Check<Option<String>> {
        let Some(client) = self.device_outside(room, &second.user_id()) else {
            return Ok(None);
        };
        let what = format!("{first} commits and {client} joins at once in group {room}");
        let entry = Entry {
            key: self.devices[&client].library.new_key(),
            client,
            before: None,
            proof: None,
        };
        let built = self.build(room, &Act::new(Op::UpdateClient, first))?;
        let ready = self.prepare(room, entry).await?.ok_or("may not join")?;
        let requests = (self.request(room, &built), self.joins(room, &ready));
        let answers = if self.dice.once_in(2) {
            tokio::join!(self.ask(&requests.0), self.ask(&requests.1))
        } else {
            let (two, one) = tokio::join!(self.ask(&requests.1), self.ask(&requests.0));
            (one, two)
        };
        let next = self.rooms[room].epoch + 1;
        match answers {
            (Ok((epoch, at)), Err(LATE)) if epoch == next => {
                self.follow(room, built)?;
                self.remember(room, first, requests.0, next, at);
            }
            (Err(LATE), Ok((epoch, at))) if epoch == next => {
                self.give_up(room, first);
                self.entered(room, ready, requests.1, at);
            }
            answers => return Err(format!("{what}: {answers:?}")),
        }
        Ok(Some(what))
    }

    /// One of them is accepted.
    async fn commit_and_leave(
        &mut self,
        room: usize,
        first: &ClientId,
        second: &ClientId,
    ) -> Check<Option<String>> {
        if self.may_leave(room, second).is_err() {
            return Ok(None);
        }
        let what = format!("{first} commits and {second} leaves at once in group {room}");
        let built = self.build(room, &Act::new(Op::UpdateClient, first))?;
        let seat = self.rooms[room].seats.get_mut(second).unwrap();
        let proposal = seat.joined.as_mut().unwrap().copy.propose_leaving()?;
        let body = requests::self_remove_client(proposal.clone());
        let requests = (self.request(room, &built), self.signed(room, second, body));
        let answers = if self.dice.once_in(2) {
            tokio::join!(self.ask(&requests.0), self.ask(&requests.1))
        } else {
            let (two, one) = tokio::join!(self.ask(&requests.1), self.ask(&requests.0));
            (one, two)
        };
        let epoch = self.rooms[room].epoch;
        match answers {
            (Ok((next, at)), Err(LATE)) if next == epoch + 1 => {
                self.follow(room, built)?;
                self.remember(room, first, requests.0, next, at);
            }
            (Err(FIRST), Ok((e, at))) if e == epoch => {
                self.give_up(room, first);
                self.leaves(room, second, proposal);
                self.remember(room, second, requests.1, epoch, at);
            }
            answers => return Err(format!("{what}: {answers:?}")),
        }
        Ok(Some(what))
    }
}
