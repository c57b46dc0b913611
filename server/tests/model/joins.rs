//! Clients that come and go on their own.

use std::collections::BTreeSet;

use moh_messages::{ClientId, DsErrorCode, DsRequest, DsResponseBody};

use crate::Check;
use crate::acts::Outcome;
use crate::creating::Wish;
use crate::device::{as_leaf, as_provider};
use crate::mls::{Key, LibraryKind};
use crate::requests;
use crate::room::{Act, Expected, Joined, MAX_REJOINS, Op, Pending, What};
use crate::run::Run;

/// More than the time between two batches of the owner's proposals.
const BATCH_MS: u64 = 61_000;

/// How somebody joins by an external commit.
struct Entry {
    client: ClientId,
    key: Key,
    /// The leaf that it had, and the key with which it says so itself.
    before: Option<u32>,
    proof: Option<Key>,
}

impl Run {
    /// A member proposes to be removed.
    pub(crate) async fn leave(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let Some(by) = self.member(room) else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        if group.is_targeted(&by) {
            return Ok(None);
        }
        let mut leaving = group.targets();
        leaving.insert(by.clone());
        let last = leaving == group.members();
        let last_admin = group.has_admin(&BTreeSet::new()) && !group.has_admin(&leaving);
        if (last || last_admin) && !group.pending.is_empty() {
            // Whoever is refused would have to forget its own proposal, and nobody else's.
            return Ok(None);
        }
        let what = format!("self_remove_client by {by} in group {room}");
        let copy = &mut self.rooms[room].seats.get_mut(&by).unwrap().joined;
        let proposal = copy.as_mut().unwrap().copy.propose_leaving()?;
        let body = requests::self_remove_client(proposal.clone());
        let request = self.signed(room, &by, body);
        let before = self.stored(room).await;
        let answer = self.ask(&request).await;
        let epoch = self.rooms[room].epoch;
        match answer {
            Ok((e, accepted_at)) if e == epoch && !last && !last_admin => {
                self.tally.count("SelfRemoveClient");
                self.remember(room, &by, request, epoch, accepted_at);
                self.expect_of_others(room, &by, proposal.clone(), What::Proposal);
                let group = &mut self.rooms[room];
                group.proposals.insert(proposal);
                group.pending.push(Pending {
                    client: by,
                    by_owner: false,
                });
                Ok(Some(what))
            }
            Err(DsErrorCode::POLICY_VIOLATION) if last || last_admin => {
                let seat = self.rooms[room].seats.get_mut(&by).unwrap();
                seat.joined.as_mut().unwrap().copy.forget_proposals();
                self.tally.count("SelfRemoveClient, refused");
                self.unchanged(room, &before).await?;
                Ok(Some(format!("refused: {what}")))
            }
            answer => Err(format!("{what} is answered {answer:?}")),
        }
    }

    /// All members but one are to get a message of the current epoch.
    pub(crate) fn expect_of_others(
        &mut self,
        room: usize,
        by: &ClientId,
        bytes: Vec<u8>,
        what: What,
    ) {
        let group = &mut self.rooms[room];
        let mut others = group.members();
        others.remove(by);
        for client in others {
            let seat = group.seats.get_mut(&client).unwrap();
            seat.inbox.push_back(Expected::Message {
                bytes: bytes.clone(),
                epoch: group.epoch,
                what: what.clone(),
            });
        }
    }

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
            users = crate::run::all_users();
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
        if device.deleted {
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
    fn enters(&self, room: usize, entry: &Entry, body: moh_messages::DsRequestBody) -> DsRequest {
        let owner = &self.rooms[room].owner;
        match (&entry.proof, entry.before) {
            (Some(key), Some(leaf)) => as_leaf(&entry.client, owner, key, leaf, body),
            _ => as_provider(&self.world, &entry.client, owner, body),
        }
    }

    async fn enter(&mut self, room: usize, entry: Entry) -> Check<Option<String>> {
        let client = entry.client.clone();
        let what = format!(
            "external_join by {client} in group {room}, again {}, by itself {}",
            entry.before.is_some(),
            entry.proof.is_some()
        );
        self.note(format!("... {what}"));
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
                return Ok(Some(format!("refused: {what}")));
            }
            other => return Err(format!("{what}: external_commit_info {other:?}")),
        };
        let for_again = entry.before.is_some();
        let identity = self.devices[&client].identity(&self.world, &entry.key, false);
        let device = self.devices.get_mut(&client).unwrap();
        let (copy, made) = device.library.join_externally(
            &identity,
            info.as_slice(),
            tree.as_slice(),
            entry.before,
        )?;
        let kind = device.kind;
        let request = self.enters(room, &entry, requests::external_join(&made));
        let group = &self.rooms[room];
        let rejoins = group.seats.get(&client).map_or(0, |s| s.rejoins);
        let expected = if group.is_targeted(&client) {
            Some(DsErrorCode::POLICY_VIOLATION)
        } else if for_again && rejoins >= MAX_REJOINS {
            Some(DsErrorCode::RATE_LIMITED)
        } else {
            None
        };
        let before = self.stored(room).await;
        match (self.ask(&request).await, expected) {
            (Ok((epoch, accepted_at)), None) if epoch == self.rooms[room].epoch + 1 => {
                self.tally.joined_externally(kind);
                self.tally.count("ExternalJoin");
                self.entered(room, entry, made.commit, copy);
                self.remember(room, &client, request, epoch, accepted_at);
                Ok(Some(what))
            }
            (Err(code), Some(expected)) if code == expected => {
                self.tally.count("ExternalJoin, refused");
                self.unchanged(room, &before).await?;
                Ok(Some(format!("refused: {what}")))
            }
            (answer, expected) => Err(format!("{what} is answered {answer:?}, not {expected:?}")),
        }
    }

    /// What the model makes of an external commit.
    fn entered(&mut self, room: usize, entry: Entry, commit: Vec<u8>, copy: crate::mls::Copy) {
        let Entry {
            client,
            key,
            before,
            ..
        } = entry;
        let removes = before.iter().map(|_| client.clone()).collect();
        self.expect_of_others(room, &client, commit, What::Commit { removes });
        let group = &mut self.rooms[room];
        group.epoch += 1;
        let since = group.epoch;
        let public = key.public.clone();
        self.sit_down(room, &client, Joined { copy, key, since });
        let group = &mut self.rooms[room];
        let seat = group.seats.get_mut(&client).unwrap();
        seat.leaf = Some(public);
        seat.acted = true;
        seat.rejoins += usize::from(before.is_some());
        group.proposals.clear();
        // What was pending has lapsed, and the owner proposes it anew.
        for pending in &mut group.pending {
            pending.by_owner = true;
        }
        for _ in 0..group.pending.len() {
            self.expect_removal(room);
        }
    }

    /// All members are to get a Remove that the owner proposes.
    fn expect_removal(&mut self, room: usize) {
        let group = &mut self.rooms[room];
        let epoch = group.epoch;
        for client in group.members() {
            let seat = group.seats.get_mut(&client).unwrap();
            seat.inbox.push_back(Expected::Removal { epoch });
        }
    }

    /// A provider says that a client of its own is gone, to all owners of groups that it is in.
    pub(crate) async fn delete_client(&mut self) -> Check<Option<String>> {
        let here = self.rooms.iter().flat_map(|r| r.members().into_iter());
        let here: Vec<_> = here.filter(|c| !self.devices[c].deleted).collect();
        let Some(client) = self.dice.pick(&here).cloned() else {
            return Ok(None);
        };
        let what = format!("client_deleted of {client}");
        self.note(format!("... {what}"));
        self.world.pass(BATCH_MS);
        let owners: BTreeSet<_> = self.rooms.iter().map(|r| r.owner.clone()).collect();
        for owner in owners {
            let body = moh_messages::DsRequestBody::ClientDeleted;
            let request = as_provider(&self.world, &client, &owner, body);
            let answer = self.ask(&request).await;
            if !matches!(answer, Ok((0, _))) {
                return Err(format!("{what} is answered {answer:?}"));
            }
            self.tally.count("ClientDeleted");
        }
        for room in 0..self.rooms.len() {
            self.is_removed(room, &client).await?;
        }
        self.devices.get_mut(&client).unwrap().deleted = true;
        Ok(Some(what))
    }

    /// The owner of a group proposes to remove a client, or ends the group where nobody else is.
    async fn is_removed(&mut self, room: usize, client: &ClientId) -> Check {
        let group = &self.rooms[room];
        if group.ended || !group.is_in(client) {
            return Ok(());
        }
        let mut targets = group.targets();
        let known = !targets.insert(client.clone());
        let ends = targets == group.members();
        let (owner, id) = (group.owner.clone(), group.id.clone());
        let there = async |store: &moh_server::store::Embedded| {
            let stored = moh_server::store::Store::group(store, &id).await.unwrap();
            let group = moh_server::group::Group::restore(&stored.unwrap()).unwrap();
            group.has_ended() == ends && (ends || group.is_leaving(client))
        };
        self.world.wait_for(&owner, "the removal", there).await?;
        let group = &mut self.rooms[room];
        if ends {
            group.ended = true;
        } else if !known {
            group.pending.push(Pending {
                client: client.clone(),
                by_owner: true,
            });
            self.expect_removal(room);
        }
        Ok(())
    }

    /// The group that comes after one that was re-initialized: with the same members.
    pub(crate) async fn succeed(&mut self, room: usize, founder: &ClientId) -> Check {
        let group = &mut self.rooms[room];
        let Some((id, ds_sender)) = group.successor.take() else {
            return Ok(());
        };
        let (owner, kind, admins) = (group.owner.clone(), group.kind, group.admins.clone());
        if kind == moh_messages::GroupType::Connection || self.devices[founder].deleted {
            return Ok(());
        }
        let members = group.members().into_iter();
        let others = members.filter(|c| {
            c.user_id() != founder.user_id() && !self.devices[c].asleep && !self.devices[c].deleted
        });
        let others: Vec<_> = others.collect();
        let admins = admins.map(|a| a.into_iter().chain([founder.user_id()]).collect());
        let wish = Wish { kind, admins };
        self.found(founder, owner, id, ds_sender, wish).await?;
        let successor = self.rooms.len() - 1;
        if others.is_empty() {
            return Ok(());
        }
        let mut act = Act::new(Op::AddUsers, founder);
        act.adds = others;
        match self.act(successor, act).await? {
            Outcome::Accepted => Ok(()),
            other => Err(format!("the successor's members: {other:?}")),
        }
    }
}
