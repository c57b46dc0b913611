//! Clients that go, and groups that are succeeded by others.

use std::collections::BTreeSet;

use moh_messages::{ClientId, DsErrorCode, DsRequestBody, GroupType};
use moh_server::group::Group;
use moh_server::store::{Embedded, Store as _};

use crate::Check;
use crate::acts::Outcome;
use crate::creating::Wish;
use crate::device::as_provider;
use crate::requests;
use crate::room::{Act, Expected, Op, Pending, Verdict, What};
use crate::run::Run;

/// More than the time between two batches of the owner's proposals.
const BATCH_MS: u64 = 61_000;

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
        let verdict = self.may_leave(room, &by);
        if verdict.is_err() && !group.pending.is_empty() {
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
        match (answer, verdict) {
            (Ok((e, accepted_at)), Ok(())) if e == epoch => {
                self.leaves(room, &by, proposal);
                self.remember(room, &by, request, epoch, accepted_at);
                Ok(Some(what))
            }
            (Err(code), Err(expected)) if code == expected => {
                let seat = self.rooms[room].seats.get_mut(&by).unwrap();
                seat.joined.as_mut().unwrap().copy.forget_proposals();
                self.tally.count("SelfRemoveClient, refused");
                self.unchanged(room, &before).await?;
                Ok(Some(format!("refused: {what}")))
            }
            (answer, verdict) => Err(format!("{what} is answered {answer:?}, not {verdict:?}")),
        }
    }

    /// Whether a member may propose to be removed.
    pub(crate) fn may_leave(&self, room: usize, client: &ClientId) -> Verdict {
        let group = &self.rooms[room];
        let mut leaving = group.targets();
        leaving.insert(client.clone());
        let last = leaving == group.members();
        let last_admin = group.has_admin(&BTreeSet::new()) && !group.has_admin(&leaving);
        if last || last_admin {
            return Err(DsErrorCode::POLICY_VIOLATION);
        }
        Ok(())
    }

    /// A self-removal was accepted.
    pub(crate) fn leaves(&mut self, room: usize, client: &ClientId, proposal: Vec<u8>) {
        self.tally.count("SelfRemoveClient");
        self.expect_of_others(room, client, proposal.clone(), What::Proposal);
        let group = &mut self.rooms[room];
        group.proposals.insert(proposal);
        group.pending.push(Pending {
            client: client.clone(),
            by_owner: false,
        });
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

    /// All members are to get a Remove that the owner proposes.
    pub(crate) fn expect_removal(&mut self, room: usize) {
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
        let here = here.filter(|c| !self.devices[c].deleted);
        let here: Vec<_> = here
            .filter(|c| self.world.is_running(&c.provider()))
            .collect();
        let Some(client) = self.dice.pick(&here).cloned() else {
            return Ok(None);
        };
        let what = format!("client_deleted of {client}");
        self.note(format!("... {what}"));
        self.world.pass(BATCH_MS);
        let owners = self.rooms.iter().map(|r| r.owner.clone());
        let owners: BTreeSet<_> = owners.filter(|o| self.world.is_running(o)).collect();
        for owner in owners {
            let body = DsRequestBody::ClientDeleted;
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
        let there = async |store: &Embedded| {
            let stored = store.group(&id).await.unwrap();
            let group = Group::restore(&stored.unwrap()).unwrap();
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
        if kind == GroupType::Connection || self.devices[founder].deleted {
            return Ok(());
        }
        let members = group.members().into_iter();
        let others = members.filter(|c| {
            c.user_id() != founder.user_id() && self.is_awake(c) && !self.devices[c].deleted
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
