//! A group as the model has it: who is in it, what waits, and what everybody is to get.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moh_messages::{
    ClientId, DsErrorCode, DsRequest, ExternalSender, GroupId, GroupType, KeyPackageRef,
    ProviderName, UserId,
};

use crate::mls::{Copy, Key};

/// Epochs before the current one whose application messages and repeated messages are taken.
pub(crate) const KEPT_EPOCHS: u64 = 5;
/// How often a client may join a group again within an hour.
pub(crate) const MAX_REJOINS: usize = 10;

/// A group.
pub(crate) struct Room {
    pub(crate) id: GroupId,
    pub(crate) owner: ProviderName,
    pub(crate) kind: GroupType,
    /// The owner, as the GroupContext names it.
    pub(crate) ds_sender: ExternalSender,
    pub(crate) epoch: u64,
    pub(crate) admins: Option<BTreeSet<UserId>>,
    /// Who has been invited into a connection group.
    pub(crate) invited: Option<UserId>,
    /// Everybody who is in the group, or was.
    pub(crate) seats: BTreeMap<ClientId, Seat>,
    /// Removes that wait to be committed.
    pub(crate) pending: Vec<Pending>,
    /// The messages with them, as far as somebody got them.
    pub(crate) proposals: BTreeSet<Vec<u8>>,
    pub(crate) ended: bool,
    /// What was accepted lately, with its answer.
    pub(crate) accepted: VecDeque<Accepted>,
    /// The group that this one is to be succeeded by, and by whom.
    pub(crate) successor: Option<(GroupId, ExternalSender)>,
}

/// A client's place in a group.
#[derive(Default)]
pub(crate) struct Seat {
    /// The public signature key of its leaf, if it has one.
    pub(crate) leaf: Option<Vec<u8>>,
    /// Its copy of the group, if it has joined.
    pub(crate) joined: Option<Joined>,
    /// Copies of before it was removed, or joined again.
    pub(crate) retired: Vec<Joined>,
    /// What is in its queue, or is to be.
    pub(crate) inbox: VecDeque<Expected>,
    /// How it was last added, and joined.
    pub(crate) welcomed: Option<Welcomed>,
    /// When it joined again, in milliseconds.
    pub(crate) rejoined_at: Vec<u64>,
}

pub(crate) struct Joined {
    pub(crate) copy: Copy,
    pub(crate) key: Key,
    /// The first epoch that it can read.
    pub(crate) since: u64,
}

/// A proposal to remove a client.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) client: ClientId,
    pub(crate) by_owner: bool,
}

/// An invitation, as whoever is invited knows it.
#[derive(Clone)]
pub(crate) struct Invitation {
    pub(crate) reference: KeyPackageRef,
    pub(crate) key: Key,
    /// The epoch that the Welcome leads to.
    pub(crate) epoch: u64,
}

/// A Welcome that was followed.
pub(crate) struct Welcomed {
    pub(crate) invitation: Invitation,
    pub(crate) tree: Vec<u8>,
    /// When the tree was fetched, in milliseconds.
    pub(crate) fetched_at: u64,
    /// Whether the client has committed since, or joined again.
    pub(crate) acted: bool,
}

/// What a client is to find in its queue.
#[derive(Clone)]
pub(crate) enum Expected {
    Message {
        bytes: Vec<u8>,
        epoch: u64,
        what: What,
    },
    Welcome(Invitation),
    /// A Remove that the owner proposes.
    Removal {
        epoch: u64,
    },
}

#[derive(Clone)]
pub(crate) enum What {
    Commit { removes: BTreeSet<ClientId> },
    Proposal,
    Text(Vec<u8>),
}

/// A request that was accepted.
pub(crate) struct Accepted {
    pub(crate) by: ClientId,
    pub(crate) request: DsRequest,
    pub(crate) epoch: u64,
    pub(crate) accepted_at: u64,
}

/// What a commit is submitted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    AddUsers,
    AddClients,
    RemoveUsers,
    RemoveClients,
    UpdateClient,
    SetRoles,
    DeleteGroup,
    ReInitializeGroup,
}

/// A commit that somebody wants.
#[derive(Clone)]
pub(crate) struct Act {
    pub(crate) op: Op,
    pub(crate) by: ClientId,
    pub(crate) adds: Vec<ClientId>,
    pub(crate) for_connections: bool,
    pub(crate) removes: Vec<ClientId>,
    pub(crate) admins: Option<BTreeSet<UserId>>,
    /// The owner, by another key.
    pub(crate) ds_sender: Option<ExternalSender>,
    pub(crate) new_leaf: bool,
    pub(crate) without_path: bool,
    /// Leaves out what is pending.
    pub(crate) ignorant: bool,
}

impl Act {
    pub(crate) fn new(op: Op, by: &ClientId) -> Self {
        Self {
            op,
            by: by.clone(),
            adds: Vec::new(),
            for_connections: false,
            removes: Vec::new(),
            admins: None,
            ds_sender: None,
            new_leaf: false,
            without_path: false,
            ignorant: false,
        }
    }
}

pub(crate) type Verdict = Result<(), DsErrorCode>;

fn rule(holds: bool, code: DsErrorCode) -> Verdict {
    if holds { Ok(()) } else { Err(code) }
}

const POLICY: DsErrorCode = DsErrorCode::POLICY_VIOLATION;

impl Room {
    pub(crate) fn is_in(&self, client: &ClientId) -> bool {
        self.seats.get(client).is_some_and(|s| s.leaf.is_some())
    }

    pub(crate) fn members(&self) -> BTreeSet<ClientId> {
        let here = self.seats.iter().filter(|(_, seat)| seat.leaf.is_some());
        here.map(|(client, _)| client.clone()).collect()
    }

    pub(crate) fn users(&self) -> BTreeSet<UserId> {
        self.members().iter().map(ClientId::user_id).collect()
    }

    pub(crate) fn clients_of(&self, user: &UserId) -> Vec<ClientId> {
        let members = self.members().into_iter();
        members.filter(|c| c.user_id() == *user).collect()
    }

    pub(crate) fn is_targeted(&self, client: &ClientId) -> bool {
        self.pending.iter().any(|p| p.client == *client)
    }

    pub(crate) fn targets(&self) -> BTreeSet<ClientId> {
        self.pending.iter().map(|p| p.client.clone()).collect()
    }

    /// Members whose copy is that of the current epoch.
    pub(crate) fn current(&self) -> Vec<ClientId> {
        let is_current =
            |seat: &Seat| seat.leaf.is_some() && seat.joined.is_some() && seat.inbox.is_empty();
        let current = self.seats.iter().filter(|(_, seat)| is_current(seat));
        current.map(|(client, _)| client.clone()).collect()
    }

    pub(crate) fn is_admin(&self, user: &UserId) -> bool {
        self.admins.as_ref().is_none_or(|a| a.contains(user))
    }

    /// Whether an admin has a leaf that is none of these. In a group without roles: no.
    pub(crate) fn has_admin(&self, without: &BTreeSet<ClientId>) -> bool {
        let members = self.members();
        let mut stay = members.difference(without);
        let admins = self.admins.as_ref();
        admins.is_some_and(|admins| stay.any(|c| admins.contains(&c.user_id())))
    }

    /// Whether a user may be in the group: has a leaf, or is the invited one.
    pub(crate) fn belongs(&self, user: &UserId) -> bool {
        self.users().contains(user) || self.invited.as_ref() == Some(user)
    }

    /// What whoever is not a current member of a group that ended, or never was one, is told.
    pub(crate) fn of_strangers(&self, client: &ClientId) -> DsErrorCode {
        if self.ended && self.is_in(client) {
            DsErrorCode::GROUP_DELETED
        } else {
            DsErrorCode::UNKNOWN_GROUP
        }
    }

    /// A client has committed: the tree that it joined with is not kept for it any more.
    pub(crate) fn has_acted(&mut self, client: &ClientId) {
        let seat = self.seats.get_mut(client).unwrap();
        if let Some(welcomed) = &mut seat.welcomed {
            welcomed.acted = true;
        }
    }

    /// Whether a commit of the current epoch may be, by the rules in their order.
    pub(crate) fn verdict(&self, act: &Act) -> Verdict {
        if !self.is_in(&act.by) || self.ended {
            return Err(self.of_strangers(&act.by));
        }
        rule(!self.is_targeted(&act.by), POLICY)?;
        let pending_first = DsErrorCode::PENDING_PROPOSALS;
        rule(!act.ignorant || self.pending.is_empty(), pending_first)?;
        let twice = act.removes.iter().any(|c| self.is_targeted(c));
        rule(!twice, POLICY)?;
        self.check_roles(act)?;
        self.check_op(act)?;
        let has_leaf = |client: &ClientId| self.is_in(client) && !self.is_targeted(client);
        rule(!act.adds.iter().any(has_leaf), POLICY)?;
        let for_connections = act.for_connections && !act.adds.is_empty();
        let fitting = !for_connections || self.kind == GroupType::Connection;
        rule(fitting, POLICY)?;
        if let Some(admins) = &act.admins {
            let members = self.members();
            let targets = self.targets();
            let mut stay = members.difference(&targets);
            let some = stay.any(|c| admins.contains(&c.user_id()));
            rule(some, DsErrorCode::UNAUTHORIZED)?;
        }
        Ok(())
    }

    fn check_roles(&self, act: &Act) -> Verdict {
        if self.admins.is_none() {
            return Ok(());
        }
        let may = match act.op {
            Op::AddUsers | Op::RemoveUsers | Op::DeleteGroup => self.is_admin(&act.by.user_id()),
            Op::SetRoles => self.is_admin(&act.by.user_id()) || !self.has_admin(&BTreeSet::new()),
            _ => true,
        };
        rule(may, DsErrorCode::UNAUTHORIZED)
    }

    fn check_op(&self, act: &Act) -> Verdict {
        let own = act.by.user_id();
        let adds: BTreeSet<_> = act.adds.iter().map(ClientId::user_id).collect();
        let removed: BTreeSet<_> = act.removes.iter().cloned().chain(self.targets()).collect();
        match act.op {
            Op::AddUsers => {
                let connection = self.kind == GroupType::Connection;
                let once = adds.len() == 1 && self.invited.is_none();
                rule(!connection || once, POLICY)?;
                rule(!adds.iter().any(|u| self.users().contains(u)), POLICY)
            }
            Op::AddClients => rule(adds.iter().all(|u| self.users().contains(u)), POLICY),
            Op::RemoveUsers => {
                let users: BTreeSet<_> = act.removes.iter().map(ClientId::user_id).collect();
                rule(!users.is_empty() && !users.contains(&own), POLICY)?;
                let mut all = users.iter().flat_map(|u| self.clients_of(u));
                rule(all.all(|c| removed.contains(&c)), POLICY)
            }
            Op::RemoveClients => {
                let others = act
                    .removes
                    .iter()
                    .all(|c| c.user_id() == own && *c != act.by);
                rule(!act.removes.is_empty() && others, POLICY)
            }
            Op::UpdateClient => Ok(()),
            Op::SetRoles => {
                let has_roles = self.admins.is_some() || act.admins.is_none();
                let changes = act.admins.is_some() || act.ds_sender.is_some();
                rule(has_roles && changes, POLICY)
            }
            Op::DeleteGroup => {
                let mut others = self.members();
                others.remove(&act.by);
                rule(others == removed, POLICY)
            }
            Op::ReInitializeGroup => rule(self.pending.is_empty(), DsErrorCode::PENDING_PROPOSALS),
        }
    }
}
