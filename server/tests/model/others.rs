//! Steps that are no commits: what is said late, who sleeps, what is repeated, who races, and
//! what nobody may.

use moh_messages::{ClientId, DsAuth, DsErrorCode};

use crate::Check;
use crate::requests;
use crate::room::KEPT_EPOCHS;
use crate::run::Run;

/// Clients that sleep at a time.
const MAX_ASLEEP: usize = 2;
/// Messages that are held at a time.
const MAX_HELD: usize = 4;

/// A message that was written, and not sent yet.
pub(crate) struct Held {
    room: usize,
    by: ClientId,
    bytes: Vec<u8>,
    epoch: u64,
    text: Vec<u8>,
    leaf: Vec<u8>,
}

impl Run {
    /// Somebody writes a message, and does not send it yet.
    pub(crate) fn hold(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let Some(by) = self.member(room) else {
            return Ok(None);
        };
        if self.held.len() >= MAX_HELD || !self.rooms[room].pending.is_empty() {
            return Ok(None);
        }
        let held = self.write(room, &by)?;
        self.held.push(held);
        Ok(Some(format!("{by} holds a message in group {room}")))
    }

    fn write(&mut self, room: usize, by: &ClientId) -> Check<Held> {
        let group = &mut self.rooms[room];
        let seat = group.seats.get_mut(by).unwrap();
        let leaf = seat.leaf.clone().unwrap_or_default();
        let copy = &mut seat.joined.as_mut().unwrap().copy;
        let epoch = crate::checks::epoch_of(&**copy);
        let text = format!("{by} once at {epoch}").into_bytes();
        Ok(Held {
            room,
            by: by.clone(),
            bytes: copy.message(&text)?,
            epoch,
            text,
            leaf,
        })
    }

    pub(crate) async fn send_held(&mut self) -> Check<Option<String>> {
        if self.held.is_empty() {
            return Ok(None);
        }
        let at = self.dice.below(self.held.len());
        let held = self.held.remove(at);
        if !self.world.is_running(&self.rooms[held.room].owner) {
            return Ok(None);
        }
        let seat = &self.rooms[held.room].seats[&held.by];
        let is_same = seat.leaf.as_ref() == Some(&held.leaf)
            && seat
                .joined
                .as_ref()
                .is_some_and(|j| j.since <= held.epoch && j.key.public == held.leaf);
        if !is_same {
            return Ok(None);
        }
        self.send_late_one(held).await
    }

    /// Somebody who sleeps sends a message of the epoch that it knows.
    pub(crate) async fn send_late(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let seats = self.rooms[room].seats.iter().filter(|(client, seat)| {
            let knows_leaf = |j: &crate::room::Joined| Some(&j.key.public) == seat.leaf.as_ref();
            !self.is_awake(client) && seat.joined.as_ref().is_some_and(knows_leaf)
        });
        let sleepers: Vec<_> = seats.map(|(client, _)| client.clone()).collect();
        let Some(by) = self.dice.pick(&sleepers).cloned() else {
            return Ok(None);
        };
        // A library that knows of a pending proposal wants a commit first.
        match self.write(room, &by) {
            Ok(held) => self.send_late_one(held).await,
            Err(_) => Ok(None),
        }
    }

    async fn send_late_one(&mut self, held: Held) -> Check<Option<String>> {
        let Held {
            room,
            by,
            bytes,
            epoch,
            text,
            ..
        } = held;
        let group = &self.rooms[room];
        let expected = if group.ended {
            Some(DsErrorCode::GROUP_DELETED)
        } else if epoch + KEPT_EPOCHS < group.epoch {
            Some(DsErrorCode::WRONG_EPOCH)
        } else if group.pending.iter().any(|p| p.by_owner) {
            Some(DsErrorCode::PENDING_PROPOSALS)
        } else {
            None
        };
        let current = group.epoch;
        let what = format!("{by} sends a message of epoch {epoch} at {current} in group {room}");
        self.note(format!("... {what}"));
        let request = self.signed(room, &by, requests::send_message(bytes.clone()));
        let before = self.stored(room).await;
        match (self.ask(&request).await, expected) {
            (Ok((e, accepted_at)), None) if e == current => {
                self.tally.count("SendMessage, late");
                self.remember(room, &by, request, e, accepted_at);
                self.expect_text(room, &by, bytes, epoch, text);
                Ok(Some(what))
            }
            (Err(code), Some(expected)) if code == expected => {
                self.tally.count("SendMessage, refused");
                self.unchanged(room, &before).await?;
                Ok(Some(format!("refused: {what}")))
            }
            (answer, expected) => Err(format!("{what} is answered {answer:?}, not {expected:?}")),
        }
    }

    pub(crate) fn sleep(&mut self) -> Option<String> {
        let (asleep, awake): (Vec<_>, Vec<_>) = self.devices.values().partition(|d| d.asleep);
        let awake: Vec<_> = awake.iter().map(|d| d.id.clone()).collect();
        if asleep.len() >= MAX_ASLEEP {
            return None;
        }
        let client = self.dice.pick(&awake)?.clone();
        self.devices.get_mut(&client).unwrap().asleep = true;
        Some(format!("{client} sleeps"))
    }

    pub(crate) fn wake(&mut self) -> Option<String> {
        let asleep = self.devices.values().filter(|d| d.asleep);
        let asleep: Vec<_> = asleep.map(|d| d.id.clone()).collect();
        let client = self.dice.pick(&asleep)?.clone();
        self.devices.get_mut(&client).unwrap().asleep = false;
        Some(format!("{client} wakes"))
    }

    /// The same bytes again get the first answer, and nothing happens.
    pub(crate) async fn repeat(&mut self) -> Check<Option<String>> {
        let Some(room) = self.any_room() else {
            return Ok(None);
        };
        let before = self.stored(room).await;
        let count = self.rooms[room].accepted.len();
        if count == 0 {
            return Ok(None);
        }
        let at = self.dice.below(count);
        let group = &mut self.rooms[room];
        let accepted = &mut group.accepted[at];
        let what = format!("{} repeats {}", accepted.by, accepted.request.body.name());
        if matches!(accepted.request.auth, DsAuth::Provider { .. }) {
            if !self.world.is_running(&accepted.by.provider()) {
                return Ok(None);
            }
            self.world.sign_as_provider(&mut accepted.request);
        }
        let accepted = &self.rooms[room].accepted[at];
        let answer = self.ask(&accepted.request).await;
        let first = (accepted.epoch, accepted.accepted_at);
        let kept = accepted.epoch + KEPT_EPOCHS >= self.rooms[room].epoch;
        if kept && answer != Ok(first) || !kept && answer.is_ok() {
            return Err(format!("{what} is answered {answer:?}, at first {first:?}"));
        }
        self.tally.count("repeated");
        self.unchanged(room, &before).await?;
        Ok(Some(what))
    }
}
