//! Clients that join without a Welcome.

use moh_messages::{ClientId, DsErrorCode, DsRequest, DsRequestBody, DsResponseBody};

use crate::Check;
use crate::device::{as_leaf, as_provider};
use crate::mls::{Copy, Key, LibraryKind, Made};
use crate::requests;
use crate::room::{Expected, Joined, MAX_REJOINS, Verdict, What};
use crate::run::{Run, all_users};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// How somebody joins by an external commit.
pub(crate) struct Entry {
    pub(crate) client: ClientId,
    pub(crate) key: Key,
    /// The leaf that it had, and the key with which it says so itself.
    pub(crate) before: Option<u32>,
    pub(crate) proof: Option<Key>,
}

/// An external commit that was built, and is not sent.
pub(crate) struct Ready {
    pub(crate) entry: Entry,
    copy: Copy,
    made: Made,
}

impl Run {
    /// A further client of a member's user joins.
    pub(crate) async fn join_externally(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let mut users: Vec<_> = group
            .users()
            .into_iter()
            .chain(group.invited.clone())
            .collect();
        if self.dice.once_in(8) {
            users = all_users();
        }
        let Some(user) = self.dice.pick(&users).cloned() else {
            return Ok(None);
        };
        let Some(client) = self.device_outside(room, &user) else {
            return Ok(None);
        };
        self.join_fresh(room, client).await
    }

    /// A client that has no leaf joins.
    pub(crate) async fn join_fresh(
        &mut self,
        room: usize,
        client: ClientId,
    ) -> Check<Option<String>> {
        let entry = Entry {
            key: self.devices[&client].library.new_key(),
            client,
            before: None,
            proof: None,
        };
        self.enter(room, entry).await
    }

    /// A member joins again: with its key, or without; by its own word, or its provider's.
    pub(crate) async fn join_again(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let joined = group.seats.iter().filter(|(_, seat)| {
            let invited = |e: &Expected| matches!(e, Expected::Welcome(_));
            seat.leaf.is_some() && seat.joined.is_some() && !seat.inbox.iter().any(invited)
        });
        // A copy of an earlier time in the group does not know the leaf.
        let theirs = joined.filter(|(_, seat)| {
            let joined = seat.joined.as_ref().unwrap();
            seat.leaf.as_ref() == Some(&joined.key.public)
        });
        let clients: Vec<_> = theirs.map(|(client, _)| client.clone()).collect();
        let Some(client) = self.dice.pick(&clients).cloned() else {
            return Ok(None);
        };
        let device = &self.devices[&client];
        if device.deleted || !self.world.is_running(&client.provider()) {
            return Ok(None);
        }
        let joined = self.rooms[room].seats[&client].joined.as_ref().unwrap();
        let (old, leaf) = (joined.key.clone(), joined.copy.leaf_index());
        // openmls knows its former leaf by the key, and by nothing else.
        let lost = device.kind == LibraryKind::MlsRs && self.dice.once_in(2);
        let key = if lost {
            self.devices[&client].library.new_key()
        } else {
            old.clone()
        };
        let proof = (!self.dice.once_in(3)).then_some(old);
        self.devices.get_mut(&client).unwrap().asleep = false;
        let entry = Entry {
            client,
            key,
            before: Some(leaf),
            proof,
        };
        self.enter(room, entry).await
    }

    /// What a client that joins asks with: its old leaf's key, or its provider's.
    fn enters(&self, room: usize, entry: &Entry, body: DsRequestBody) -> DsRequest {
        let owner = &self.rooms[room].owner;
        match (&entry.proof, entry.before) {
            (Some(key), Some(leaf)) => as_leaf(&entry.client, owner, key, leaf, body),
            _ => as_provider(&self.world, &entry.client, owner, body),
        }
    }

    async fn enter(&mut self, room: usize, entry: Entry) -> Check<Option<String>> {
        let what = format!(
            "external_join by {} in group {room}, again {}, by itself {}",
            entry.client,
            entry.before.is_some(),
            entry.proof.is_some()
        );
        self.note(format!("... {what}"));
        let Some(ready) = self.prepare(room, entry).await? else {
            return Ok(Some(format!("refused: {what}")));
        };
        let request = self.joins(room, &ready);
        let expected = self.may_enter(room, &ready.entry);
        let before = self.stored(room).await;
        match (self.ask(&request).await, expected) {
            (Ok((epoch, accepted_at)), Ok(())) if epoch == self.rooms[room].epoch + 1 => {
                self.entered(room, ready, request, accepted_at);
                Ok(Some(what))
            }
            (Err(code), Err(expected)) if code == expected => {
                self.tally.count("ExternalJoin, refused");
                self.unchanged(room, &before).await?;
                Ok(Some(format!("refused: {what}")))
            }
            (answer, expected) => Err(format!("{what} is answered {answer:?}, not {expected:?}")),
        }
    }

    /// Asks for what an external commit needs, and builds it; where the client may know it.
    pub(crate) async fn prepare(&mut self, room: usize, entry: Entry) -> Check<Option<Ready>> {
        let client = &entry.client;
        let group = &self.rooms[room];
        let request = self.enters(room, &entry, requests::external_commit_info(&group.id));
        let answer = self.world.ask(&request).await;
        let belongs = group.belongs(&client.user_id());
        let (info, tree) = match answer {
            Ok(DsResponseBody::ExternalCommitInfo {
                group_info,
                ratchet_tree,
                ..
            }) if belongs => (group_info, ratchet_tree),
            Err(error) if !belongs && error.code == DsErrorCode::UNKNOWN_GROUP => {
                self.tally.count("ExternalCommitInfo, refused");
                return Ok(None);
            }
            other => return Err(format!("external_commit_info is answered {other:?}")),
        };
        let identity = self.devices[client].identity(&self.world, &entry.key, false);
        let library = &mut self.devices.get_mut(client).unwrap().library;
        let (info, tree) = (info.as_slice(), tree.as_slice());
        let (copy, made) = library.join_externally(&identity, info, tree, entry.before)?;
        Ok(Some(Ready { entry, copy, made }))
    }

    pub(crate) fn joins(&self, room: usize, ready: &Ready) -> DsRequest {
        self.enters(room, &ready.entry, requests::external_join(&ready.made))
    }

    fn may_enter(&self, room: usize, entry: &Entry) -> Verdict {
        let group = &self.rooms[room];
        if group.is_targeted(&entry.client) {
            return Err(DsErrorCode::POLICY_VIOLATION);
        }
        let hour_ago = self.world.now_ms().saturating_sub(HOUR_MS);
        let seat = group.seats.get(&entry.client);
        let rejoins = seat.map_or(0, |s| {
            s.rejoined_at.iter().filter(|t| **t > hour_ago).count()
        });
        if entry.before.is_some() && rejoins >= MAX_REJOINS {
            return Err(DsErrorCode::RATE_LIMITED);
        }
        Ok(())
    }

    /// What the model makes of an external commit.
    pub(crate) fn entered(
        &mut self,
        room: usize,
        ready: Ready,
        request: DsRequest,
        accepted_at: u64,
    ) {
        let Ready { entry, copy, made } = ready;
        let Entry {
            client,
            key,
            before,
            ..
        } = entry;
        self.tally.joined_externally(self.devices[&client].kind);
        self.tally.count("ExternalJoin");
        let removes = before.iter().map(|_| client.clone()).collect();
        self.expect_of_others(room, &client, made.commit, What::Commit { removes });
        let now = self.world.now_ms();
        let group = &mut self.rooms[room];
        group.epoch += 1;
        let since = group.epoch;
        let public = key.public.clone();
        self.sit_down(room, &client, Joined { copy, key, since });
        let group = &mut self.rooms[room];
        group.has_acted(&client);
        let seat = group.seats.get_mut(&client).unwrap();
        seat.leaf = Some(public);
        if before.is_some() {
            seat.rejoined_at.push(now);
        }
        group.proposals.clear();
        // What was pending has lapsed, and the owner proposes it anew.
        for pending in &mut group.pending {
            pending.by_owner = true;
        }
        for _ in 0..group.pending.len() {
            self.expect_removal(room);
        }
        let epoch = self.rooms[room].epoch;
        self.remember(room, &client, request, epoch, accepted_at);
    }
}
