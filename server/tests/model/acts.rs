//! Commits of members: built, submitted, compared with what the model says, and followed.

use std::collections::{BTreeMap, BTreeSet};

use moh_messages::extension_type;
use moh_messages::{
    ClientId, DsErrorCode, DsRequest, Extension, ExternalSender, GroupId, List, Message, Rbac,
};

use crate::Check;
use crate::device::extension;
use crate::mls::{Context, Identity, Key, Made, Plan, reference};
use crate::requests;
use crate::room::{Accepted, Act, Expected, Invitation, KEPT_EPOCHS, Op, What};
use crate::run::Run;

/// What became of a commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    Refused(DsErrorCode),
    /// The library does not build it, which is as well.
    NotBuilt,
}

/// A commit, built and not submitted.
pub(crate) struct Built {
    pub(crate) act: Act,
    pub(crate) made: Made,
    invitations: BTreeMap<ClientId, Invitation>,
    new_key: Option<Key>,
}

impl Run {
    /// Has a member commit: what comes of it is what the model says.
    pub(crate) async fn act(&mut self, room: usize, act: Act) -> Check<Outcome> {
        let verdict = self.rooms[room].verdict(&act);
        let op = format!("{:?}", act.op);
        let built = match self.build(room, &act) {
            Ok(built) => built,
            Err(_) if verdict.is_err() => return Ok(Outcome::NotBuilt),
            Err(error) => return Err(format!("{op} is not built: {error}")),
        };
        let request = self.request(room, &built);
        let before = self.stored(room).await;
        let answer = self.ask(&request).await;
        if self.dice.once_in(8) {
            // Whoever lost the answer asks again.
            let (one, two) = tokio::join!(self.ask(&request), self.ask(&request));
            if one != answer || two != answer {
                return Err(format!(
                    "{op} is answered {answer:?}, then {one:?} and {two:?}"
                ));
            }
        }
        match (answer, verdict) {
            (Ok((epoch, accepted_at)), Ok(())) => {
                if epoch != self.rooms[room].epoch + 1 {
                    return Err(format!("{op} is answered with epoch {epoch}"));
                }
                self.tally.count(&op);
                self.follow(room, built)?;
                self.remember(room, &act.by, request, epoch, accepted_at);
                Ok(Outcome::Accepted)
            }
            (Err(code), Err(expected)) if code == expected => {
                self.give_up(room, &act.by);
                self.tally.count(&format!("{op}, refused"));
                self.unchanged(room, &before).await?;
                Ok(Outcome::Refused(code))
            }
            (answer, verdict) => Err(format!("{op} is answered {answer:?}, not {verdict:?}")),
        }
    }

    /// Builds a commit.
    pub(crate) fn build(&mut self, room: usize, act: &Act) -> Result<Built, String> {
        let mut invitations = BTreeMap::new();
        let mut adds = Vec::new();
        for client in &act.adds {
            let (key_package, key) = self.key_package(client, act.for_connections)?;
            let invitation = Invitation {
                reference: reference(&key_package),
                key,
                epoch: self.rooms[room].epoch + 1,
            };
            invitations.insert(client.clone(), invitation);
            adds.push(key_package);
        }
        let identity = act.new_leaf.then(|| self.new_identity(&act.by));
        let group = &mut self.rooms[room];
        let successor = group.successor.as_ref().map(|(id, _)| id.clone());
        let joined = group.seats.get_mut(&act.by).and_then(|s| s.joined.as_mut());
        let copy = &mut joined.ok_or("not a member")?.copy;
        let leaves = copy.members();
        let removes = act.removes.iter().map(|c| leaves.get(c.as_str()).copied());
        let changes = changed_extensions(act);
        let context_extensions = (!changes.is_empty()).then(|| {
            let context = Context::decode(&copy.context()).unwrap();
            with(&context, changes)
        });
        let plan = Plan {
            adds,
            removes: removes.collect::<Option<_>>().ok_or("not in the tree")?,
            context_extensions,
            re_init: successor.filter(|_| act.op == Op::ReInitializeGroup),
            identity: identity.clone(),
            without_path: act.without_path,
        };
        if act.ignorant {
            copy.forget_proposals();
        }
        let made = copy.commit(&plan)?;
        Ok(Built {
            act: act.clone(),
            made,
            invitations,
            new_key: identity.map(|identity| identity.key),
        })
    }

    /// A KeyPackage of a client, made now, with the key that it was made with.
    fn key_package(&mut self, client: &ClientId, for_connections: bool) -> Check<(Vec<u8>, Key)> {
        let device = &self.devices[client];
        // A key of its own, so that two leaves of a client never have the same.
        let key = device.library.new_key();
        let identity = device.identity(&self.world, &key, for_connections);
        let device = self.devices.get_mut(client).unwrap();
        Ok((device.library.key_package(&identity)?, key))
    }

    fn new_identity(&self, client: &ClientId) -> Identity {
        let device = &self.devices[client];
        device.identity(&self.world, &device.library.new_key(), false)
    }

    pub(crate) fn request(&self, room: usize, built: &Built) -> DsRequest {
        let body = requests::commit(built.act.op, &built.made);
        self.signed(room, &built.act.by, body)
    }

    /// The commit was refused.
    pub(crate) fn give_up(&mut self, room: usize, by: &ClientId) {
        let seat = self.rooms[room].seats.get_mut(by);
        if let Some(joined) = seat.and_then(|s| s.joined.as_mut()) {
            joined.copy.refused();
        }
    }

    /// The commit was accepted: the model follows it, and so does its author.
    pub(crate) fn follow(&mut self, room: usize, built: Built) -> Check {
        let Built {
            act,
            made,
            invitations,
            new_key,
        } = built;
        self.tally.committed(self.devices[&act.by].kind);
        let group = &mut self.rooms[room];
        let ends = matches!(act.op, Op::DeleteGroup | Op::ReInitializeGroup);
        let mut removes: BTreeSet<_> = act.removes.iter().cloned().collect();
        removes.extend(group.targets());
        let commit = Expected::Message {
            bytes: made.commit,
            epoch: group.epoch,
            what: What::Commit {
                removes: removes.clone(),
            },
        };
        let mut everybody = group.members();
        everybody.remove(&act.by);
        for client in everybody {
            let seat = group.seats.get_mut(&client).unwrap();
            seat.inbox.push_back(commit.clone());
        }
        group.has_acted(&act.by);
        let author = group.seats.get_mut(&act.by).unwrap();
        let joined = author.joined.as_mut().unwrap();
        joined.copy.accepted()?;
        if let Some(key) = new_key {
            author.leaf = Some(key.public.clone());
            joined.key = key;
        }
        if ends {
            group.ended = true;
            return Ok(());
        }
        for client in &removes {
            group.seats.get_mut(client).unwrap().leaf = None;
        }
        if group.kind == moh_messages::GroupType::Connection
            && let Some(first) = act.adds.first().filter(|c| !group.belongs(&c.user_id()))
        {
            group.invited = Some(first.user_id());
        }
        for (client, invitation) in invitations {
            let seat = group.seats.entry(client).or_default();
            seat.leaf = Some(invitation.key.public.clone());
            seat.inbox.push_back(Expected::Welcome(invitation));
        }
        if let Some(admins) = act.admins {
            group.admins = Some(admins);
        }
        if let Some(ds_sender) = act.ds_sender {
            group.ds_sender = ds_sender;
        }
        group.pending.clear();
        group.proposals.clear();
        group.epoch += 1;
        Ok(())
    }

    /// Keeps an answer, to ask again later.
    pub(crate) fn remember(
        &mut self,
        room: usize,
        by: &ClientId,
        request: DsRequest,
        epoch: u64,
        accepted_at: u64,
    ) {
        let group = &mut self.rooms[room];
        group.accepted.push_back(Accepted {
            by: by.clone(),
            request,
            epoch,
            accepted_at,
        });
        let current = group.epoch;
        group
            .accepted
            .retain(|accepted| accepted.epoch + KEPT_EPOCHS >= current);
    }

    /// What is stored of a group, to compare.
    pub(crate) async fn stored(&self, room: usize) -> Option<moh_server::store::StoredGroup> {
        let room = &self.rooms[room];
        self.world.stored(&room.owner, &room.id).await
    }

    pub(crate) async fn unchanged(
        &self,
        room: usize,
        before: &Option<moh_server::store::StoredGroup>,
    ) -> Check {
        if self.stored(room).await == *before {
            Ok(())
        } else {
            Err("a refused request has changed the group".to_owned())
        }
    }
}

/// What a commit changes in the GroupContext.
fn changed_extensions(act: &Act) -> Vec<Extension> {
    let admins = act.admins.as_ref().map(|admins| {
        let admins = List::new(admins.iter().cloned().collect()).unwrap();
        extension(extension_type::RBAC, Rbac { admins }.encode())
    });
    let senders = act.ds_sender.as_ref().map(external_senders);
    admins.into_iter().chain(senders).collect()
}

/// The owner of a group, as the GroupContext names it (RFC 9420 section 12.1.8.1).
pub(crate) fn external_senders(ds_sender: &ExternalSender) -> Extension {
    const EXTERNAL_SENDERS: u16 = 5;
    let senders = List::<_, 1>::new(vec![ds_sender.clone()]).unwrap();
    extension(EXTERNAL_SENDERS, senders.encode())
}

/// All extensions of a GroupContext, some of them with other contents.
fn with(context: &Context, changes: Vec<Extension>) -> Vec<Extension> {
    let mut all = context.extensions.clone().into_vec();
    for change in changes {
        let is_it = |e: &&mut Extension| e.extension_type == change.extension_type;
        match all.iter_mut().find(is_it) {
            Some(before) => *before = change,
            None => all.push(change),
        }
    }
    all
}

/// A name that no group has.
pub(crate) fn no_such_group() -> GroupId {
    GroupId::new([7; 32]).unwrap()
}
