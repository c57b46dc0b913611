//! What holds after every step: the owner and all members agree on the group, and exactly its
//! members read what is said in it.

use moh_messages::{ClientId, DsResponseBody, Message};

use crate::Check;
use crate::acts::external_senders;
use crate::mls::{Context, GroupCopy, GroupInfo};
use crate::requests;
use crate::room::{Act, Expected, Op, What};
use crate::run::Run;

/// The epoch that a copy is at.
pub(crate) fn epoch_of(copy: &dyn GroupCopy) -> u64 {
    Context::decode(&copy.context()).unwrap().epoch
}

impl Run {
    /// In the end, a fresh client joins each group by a Welcome, and one by an external commit.
    pub(crate) async fn finish(&mut self) -> Check {
        self.comes_up().await?;
        for device in self.devices.values_mut() {
            device.asleep = false;
        }
        self.check().await?;
        for room in 0..self.rooms.len() {
            let group = &self.rooms[room];
            let mut able = group.current().into_iter();
            let able = able.find(|c| !group.ended && !group.is_targeted(c));
            let Some(by) = able else {
                continue;
            };
            let mut act = Act::new(Op::AddClients, &by);
            act.adds = vec![self.new_device(&by.user_id())];
            let what = self.carry_out(room, act).await?;
            what.ok_or("a fresh client is not added")?;
            self.check().await?;
            let fresh = self.new_device(&by.user_id());
            self.join_fresh(room, fresh).await?;
            self.check().await?;
        }
        Ok(())
    }

    /// Everybody reads their queue, and agrees.
    pub(crate) async fn check(&mut self) -> Check {
        self.sync().await?;
        for room in 0..self.rooms.len() {
            if self.rooms[room].ended {
                self.check_ended(room).await?;
                continue;
            }
            self.check_sender(room)?;
            self.check_agreement(room).await?;
            self.check_stored(room).await?;
            self.check_messages(room).await?;
        }
        Ok(())
    }

    /// All current members have the same group, and it is what the model says.
    async fn check_agreement(&mut self, room: usize) -> Check {
        let group = &self.rooms[room];
        let mut first: Option<(ClientId, [Vec<u8>; 3])> = None;
        for client in group.current() {
            let copy = &group.seats[&client].joined.as_ref().unwrap().copy;
            let state = [copy.context(), copy.tree(), copy.epoch_authenticator()];
            match &first {
                Some((other, theirs)) if *theirs != state => {
                    return Err(format!("{client} and {other} do not agree"));
                }
                Some(_) => {}
                None => first = Some((client, state)),
            }
        }
        let Some((client, [context, tree, _])) = first else {
            return Ok(());
        };
        let copy = &group.seats[&client].joined.as_ref().unwrap().copy;
        let members: Vec<_> = copy.members().into_keys().collect();
        let expected: Vec<_> = group.members().iter().map(ToString::to_string).collect();
        if members != expected {
            return Err(format!("{members:?} are in the group, not {expected:?}"));
        }
        let context_ = Context::decode(&context).unwrap();
        if context_.epoch != group.epoch {
            return Err(format!("epoch {}, not {}", context_.epoch, group.epoch));
        }
        let body = requests::external_commit_info(&group.id);
        let request = self.signed(room, &client, body);
        match self.world.ask(&request).await {
            Ok(DsResponseBody::ExternalCommitInfo {
                group_info,
                ratchet_tree,
                ..
            }) => {
                let info = GroupInfo::decode(group_info.as_slice()).unwrap();
                if info.context != context_ || ratchet_tree.as_slice() != tree {
                    return Err(format!("the owner does not agree with {client}"));
                }
                Ok(())
            }
            other => Err(format!("no external_commit_info for {client}: {other:?}")),
        }
    }

    /// The owner is named in the group as the model has it.
    fn check_sender(&self, room: usize) -> Check {
        let group = &self.rooms[room];
        let Some(client) = group.current().into_iter().next() else {
            return Ok(());
        };
        let copy = &group.seats[&client].joined.as_ref().unwrap().copy;
        let context = Context::decode(&copy.context()).unwrap();
        if context
            .extensions
            .contains(&external_senders(&group.ds_sender))
        {
            Ok(())
        } else {
            Err("the group names another owner".to_owned())
        }
    }

    /// What is stored is what the members have, read as after a start.
    async fn check_stored(&self, room: usize) -> Check {
        let group = &self.rooms[room];
        let Some(client) = group.current().into_iter().next() else {
            return Ok(());
        };
        let copy = &group.seats[&client].joined.as_ref().unwrap().copy;
        let context = Context::decode(&copy.context()).unwrap();
        let restored = self.world.restored(&group.owner, &group.id).await?;
        let hash = restored.confirmed_transcript_hash();
        if restored.epoch() != context.epoch
            || restored.tree_hash() != context.tree_hash.as_slice()
            || hash != context.confirmed_transcript_hash.as_slice()
        {
            return Err("what is stored is another group".to_owned());
        }
        Ok(())
    }

    /// What a member says is read by all others, and by nobody who is none.
    async fn check_messages(&mut self, room: usize) -> Check {
        if !self.rooms[room].pending.is_empty() {
            return Ok(());
        }
        let Some(client) = self.member(room) else {
            return Ok(());
        };
        self.say(room, &client).await
    }

    /// A member says something, at the current epoch.
    pub(crate) async fn say(&mut self, room: usize, client: &ClientId) -> Check {
        let text = format!("{client} at {}", self.rooms[room].epoch).into_bytes();
        let seat = self.rooms[room].seats.get_mut(client).unwrap();
        let message = seat.joined.as_mut().unwrap().copy.message(&text)?;
        let request = self.signed(room, client, requests::send_message(message.clone()));
        let (epoch, accepted_at) = self
            .ask(&request)
            .await
            .map_err(|code| format!("send_message is answered {code:?}"))?;
        let sent_at = self.rooms[room].epoch;
        if epoch != sent_at {
            return Err(format!("send_message is answered with epoch {epoch}"));
        }
        self.tally.count("SendMessage");
        self.remember(room, client, request, epoch, accepted_at);
        self.expect_text(room, client, message.clone(), sent_at, text);
        self.sync().await?;
        match self.eavesdrops(room, &message) {
            Some(client) => Err(format!("{client} reads what it should not")),
            None => Ok(()),
        }
    }

    /// All other members are to get a message.
    pub(crate) fn expect_text(
        &mut self,
        room: usize,
        by: &ClientId,
        bytes: Vec<u8>,
        epoch: u64,
        text: Vec<u8>,
    ) {
        let group = &mut self.rooms[room];
        let mut others = group.members();
        others.remove(by);
        for client in others {
            let seat = group.seats.get_mut(&client).unwrap();
            seat.inbox.push_back(Expected::Message {
                bytes: bytes.clone(),
                epoch,
                what: What::Text(text.clone()),
            });
        }
    }

    /// Nobody gets anything of a group that has ended.
    async fn check_ended(&mut self, room: usize) -> Check {
        let restored = {
            let group = &self.rooms[room];
            self.world.restored(&group.owner, &group.id).await?
        };
        if restored.has_ended() {
            Ok(())
        } else {
            Err("a group that ended is stored as one that did not".to_owned())
        }
    }
}
