//! What nobody may: it is refused for the reason that the model knows, and changes nothing.

use std::collections::BTreeSet;

use moh_messages::{ClientId, DsErrorCode, DsRequest, HandshakeBytes, List, Message as _};

use crate::Check;
use crate::acts::no_such_group;
use crate::device::{as_leaf, as_provider};
use crate::requests;
use crate::room::{Act, Op};
use crate::run::Run;

const OPS: [Op; 8] = [
    Op::AddUsers,
    Op::AddClients,
    Op::RemoveUsers,
    Op::RemoveClients,
    Op::UpdateClient,
    Op::SetRoles,
    Op::DeleteGroup,
    Op::ReInitializeGroup,
];

impl Run {
    /// Something that is forbidden.
    pub(crate) async fn forbidden(&mut self) -> Check<Option<String>> {
        match self.dice.below(6) {
            0 => self.stranger().await,
            1 => self.sent_as_another().await,
            2 => self.former_member().await,
            3 => self.ignorant().await,
            4 => self.late_commit().await,
            _ => self.with_the_key_of_another().await,
        }
    }

    /// A request that is refused, and how.
    async fn refused(
        &mut self,
        room: usize,
        what: String,
        request: &DsRequest,
        code: DsErrorCode,
    ) -> Check<Option<String>> {
        self.note(format!("... {what}"));
        let before = self.stored(room).await;
        match self.world.ask(request).await {
            Err(error) if error.code == code => {
                self.tally.count(&format!("forbidden, {}", error.code));
                self.unchanged(room, &before).await?;
                Ok(Some(what))
            }
            answer => Err(format!("{what} is answered {answer:?}, not {code:?}")),
        }
    }

    /// A client that never was in the group, or a group that never was.
    async fn stranger(&mut self) -> Check<Option<String>> {
        let Some(room) = self.any_room() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let users: BTreeSet<_> = group.seats.keys().map(ClientId::user_id).collect();
        let is_outside = |c: &&ClientId| !users.contains(&c.user_id()) && self.is_awake(c);
        let outside: Vec<_> = self.devices.keys().filter(is_outside).cloned().collect();
        let Some(client) = self.dice.pick(&outside).cloned() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        if group.invited.as_ref() == Some(&client.user_id()) {
            return Ok(None);
        }
        let nowhere = self.dice.once_in(3);
        let id = if nowhere {
            no_such_group()
        } else {
            self.rooms[room].id.clone()
        };
        let owner = &self.rooms[room].owner;
        let body = requests::external_commit_info(&id);
        let request = if self.dice.once_in(2) {
            as_provider(&self.world, &client, owner, body)
        } else {
            let leaf = u32::try_from(self.dice.below(4)).unwrap();
            as_leaf(&client, owner, &self.devices[&client].key, leaf, body)
        };
        let what = format!("{client} asks for group {room}, nowhere {nowhere}");
        self.refused(room, what, &request, DsErrorCode::UNKNOWN_GROUP)
            .await
    }

    /// A member who commits, is current, and is not about to be removed.
    fn committer(&mut self, room: usize) -> Option<ClientId> {
        let group = &self.rooms[room];
        let current = group.current().into_iter();
        let able = current.filter(|c| self.is_awake(c) && !group.is_targeted(c));
        let able: Vec<_> = able.collect();
        self.dice.pick(&able).cloned()
    }

    /// A commit without proposals, sent as one that has some.
    async fn sent_as_another(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let Some(by) = self.committer(room) else {
            return Ok(None);
        };
        let op = *self.dice.pick(&OPS).unwrap();
        let act = Act::new(op, &by);
        let verdict = self.rooms[room].verdict(&act);
        // Where nobody else is, or all others leave, an empty commit ends the group.
        if op == Op::UpdateClient || (op == Op::DeleteGroup && verdict.is_ok()) {
            return Ok(None);
        }
        let code = verdict.err().unwrap_or(DsErrorCode::POLICY_VIOLATION);
        let built = self.build(room, &Act::new(Op::UpdateClient, &by))?;
        let body = requests::commit(op, &built.made);
        let request = self.signed(room, &by, body);
        self.give_up(room, &by);
        let what = format!("{by} sends an update as {op:?} in group {room}");
        self.refused(room, what, &request, code).await
    }

    /// Somebody who was a member, and is none any more.
    async fn former_member(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let left = group.seats.iter();
        let left = left.filter(|(_, s)| s.leaf.is_none() && !s.retired.is_empty());
        let left: Vec<_> = left.map(|(client, _)| client.clone()).collect();
        let Some(client) = self.dice.pick(&left).cloned() else {
            return Ok(None);
        };
        let group = &mut self.rooms[room];
        let owner = group.owner.clone();
        let body = requests::external_commit_info(&group.id);
        let retired = group.seats[&client].retired.last().unwrap();
        let (key, leaf) = (retired.key.clone(), retired.copy.leaf_index());
        let request = as_leaf(&client, &owner, &key, leaf, body);
        let what = format!("{client}, who was in group {room}, asks for it");
        self.refused(room, what, &request, DsErrorCode::UNKNOWN_GROUP)
            .await
    }

    /// A commit that leaves out what is pending; the refusal carries it.
    async fn ignorant(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let Some(by) = self.committer(room) else {
            return Ok(None);
        };
        if self.rooms[room].pending.is_empty() {
            return Ok(None);
        }
        let mut act = Act::new(Op::UpdateClient, &by);
        act.ignorant = true;
        let built = self.build(room, &act)?;
        let request = self.request(room, &built);
        self.give_up(room, &by);
        let group = &mut self.rooms[room];
        let copy = &mut group
            .seats
            .get_mut(&by)
            .unwrap()
            .joined
            .as_mut()
            .unwrap()
            .copy;
        for proposal in &group.proposals {
            copy.hear(proposal)?;
        }
        if let Err(error) = self.world.ask(&request).await {
            let carried = List::<HandshakeBytes, 256>::decode(error.data.as_slice());
            let carried = carried.map_err(|e| format!("pending_proposals: {e}"))?;
            let carried: BTreeSet<_> = carried.iter().map(|p| p.as_slice().to_vec()).collect();
            if carried != self.rooms[room].proposals {
                return Err("the refusal does not carry what is pending".to_owned());
            }
        }
        let what = format!("{by} leaves out what is pending in group {room}");
        self.refused(room, what, &request, DsErrorCode::PENDING_PROPOSALS)
            .await
    }

    /// A commit of an epoch that is over.
    async fn late_commit(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let late = group.seats.iter().filter(|(_, seat)| {
            let Some(joined) = &seat.joined else {
                return false;
            };
            let epoch = crate::checks::epoch_of(&*joined.copy);
            seat.leaf.as_ref() == Some(&joined.key.public) && epoch < group.epoch
        });
        let late: Vec<_> = late.map(|(client, _)| client.clone()).collect();
        let Some(by) = self.dice.pick(&late).cloned() else {
            return Ok(None);
        };
        // A library that knows that it is to be removed builds none.
        let Ok(built) = self.build(room, &Act::new(Op::UpdateClient, &by)) else {
            return Ok(None);
        };
        let request = self.request(room, &built);
        self.give_up(room, &by);
        let what = format!("{by} commits late in group {room}");
        self.refused(room, what, &request, DsErrorCode::WRONG_EPOCH)
            .await
    }

    /// A member's commit, in a request that another member signs.
    async fn with_the_key_of_another(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let (Some(by), Some(other)) = (self.committer(room), self.member(room)) else {
            return Ok(None);
        };
        if by == other {
            return Ok(None);
        }
        let built = self.build(room, &Act::new(Op::UpdateClient, &by))?;
        self.give_up(room, &by);
        let body = requests::commit(Op::UpdateClient, &built.made);
        let request = self.signed(room, &other, body);
        let what = format!("{other} sends a commit of {by} in group {room}");
        self.refused(room, what, &request, DsErrorCode::INVALID_MESSAGE)
            .await
    }
}
