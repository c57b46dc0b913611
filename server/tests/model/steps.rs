//! The steps of a sequence: what they are, how often they come, and which commits there are.

use std::collections::BTreeSet;

use moh_messages::{ClientId, GroupType, UserId};

use crate::Check;
use crate::acts::Outcome;
use crate::mls::LibraryKind;
use crate::room::{Act, Op};
use crate::run::{Run, all_users};

/// The most members of a group.
const MAX_MEMBERS: usize = 12;

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    AddUsers,
    AddClients,
    RemoveUsers,
    RemoveClients,
    UpdateClient,
    SetRoles,
    RenewSender,
    DeleteGroup,
    ReInitialize,
    Leave,
    JoinExternally,
    JoinAgain,
    DeleteClient,
    Hold,
    SendHeld,
    SendLate,
    Sleep,
    Wake,
    Restart,
    GoDown,
    ComeUp,
    Day,
    Race,
    Repeat,
    FetchAgain,
    Forbidden,
}

/// Each, and how often it comes.
const WEIGHTS: [(Step, usize); 27] = [
    (Step::Create, 2),
    (Step::AddUsers, 14),
    (Step::AddClients, 10),
    (Step::RemoveUsers, 8),
    (Step::RemoveClients, 5),
    (Step::UpdateClient, 8),
    (Step::SetRoles, 6),
    (Step::RenewSender, 4),
    (Step::DeleteGroup, 1),
    (Step::ReInitialize, 1),
    (Step::Leave, 5),
    (Step::JoinExternally, 4),
    (Step::JoinAgain, 5),
    (Step::DeleteClient, 3),
    (Step::Hold, 5),
    (Step::SendHeld, 8),
    (Step::SendLate, 8),
    (Step::Sleep, 4),
    (Step::Wake, 3),
    (Step::Restart, 3),
    (Step::GoDown, 3),
    (Step::ComeUp, 3),
    (Step::Day, 3),
    (Step::Race, 8),
    (Step::Repeat, 5),
    (Step::FetchAgain, 6),
    (Step::Forbidden, 8),
];

/// What steps are counted as.
pub(crate) fn names() -> impl Iterator<Item = String> {
    WEIGHTS.iter().map(|(step, _)| name(*step))
}

fn name(step: Step) -> String {
    format!("step {step:?}")
}

impl Run {
    /// A step that is possible now.
    pub(crate) async fn step(&mut self) -> Check {
        if self.room().is_none() {
            return self.take(Step::Create).await.map(drop);
        }
        for _ in 0..20 {
            let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
            let mut at = self.dice.below(total);
            let chosen = WEIGHTS.iter().find(|(_, weight)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            });
            if self.take(chosen.unwrap().0).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the step was possible.
    async fn take(&mut self, step: Step) -> Check<bool> {
        let done = match step {
            Step::Create => Box::pin(self.create_some()).await,
            Step::AddUsers => Box::pin(self.add_users()).await,
            Step::AddClients => Box::pin(self.add_clients()).await,
            Step::RemoveUsers => Box::pin(self.remove_users()).await,
            Step::RemoveClients => Box::pin(self.remove_clients()).await,
            Step::UpdateClient => Box::pin(self.update_client()).await,
            Step::SetRoles => Box::pin(self.set_roles()).await,
            Step::RenewSender => Box::pin(self.renew_sender()).await,
            Step::DeleteGroup => Box::pin(self.delete_group()).await,
            Step::ReInitialize => Box::pin(self.re_initialize()).await,
            Step::Leave => Box::pin(self.leave()).await,
            Step::JoinExternally => Box::pin(self.join_externally()).await,
            Step::JoinAgain => Box::pin(self.join_again()).await,
            Step::DeleteClient => Box::pin(self.delete_client()).await,
            Step::Hold => self.hold(),
            Step::SendHeld => Box::pin(self.send_held()).await,
            Step::SendLate => Box::pin(self.send_late()).await,
            Step::Sleep => Ok(self.sleep()),
            Step::Wake => Ok(self.wake()),
            Step::Restart => Box::pin(self.restart()).await,
            Step::GoDown => Box::pin(self.goes_down()).await,
            Step::ComeUp => Box::pin(self.comes_up()).await,
            Step::Day => Ok(Some(self.a_day_passes())),
            Step::Race => Box::pin(self.race()).await,
            Step::Repeat => Box::pin(self.repeat()).await,
            Step::FetchAgain => Box::pin(self.fetch_again()).await,
            Step::Forbidden => Box::pin(self.forbidden()).await,
        };
        match done {
            Ok(Some(what)) => {
                self.tally.count(&name(step));
                self.note(what);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => Err(format!("{step:?}: {error}")),
        }
    }

    async fn create_some(&mut self) -> Check<Option<String>> {
        let alive = self.rooms.iter().filter(|r| !r.ended).count();
        if alive >= 2 {
            return Ok(None);
        }
        self.create().await
    }

    /// Something that, as likely as not, is forbidden.
    fn wild(&mut self) -> bool {
        self.dice.once_in(6)
    }

    /// A member who may do what admins do, or one who may not.
    fn member_with(&mut self, room: usize, roles: bool) -> Option<ClientId> {
        let group = &self.rooms[room];
        let current = group.current().into_iter();
        let fitting = current.filter(|c| group.is_admin(&c.user_id()) == roles);
        let fitting: Vec<_> = fitting.filter(|c| self.is_awake(c)).collect();
        self.dice.pick(&fitting).cloned()
    }

    /// Whoever does it, and where; now and then somebody who may not.
    pub(crate) fn actor(&mut self, admins: bool) -> Option<(usize, ClientId)> {
        let room = self.room()?;
        let by = if admins {
            let may = !self.wild();
            self.member_with(room, may)
        } else {
            self.member(room)
        };
        Some((room, by?))
    }

    /// Carries a commit out.
    pub(crate) async fn carry_out(&mut self, room: usize, act: Act) -> Check<Option<String>> {
        let what = format!(
            "{:?} by {} in group {room}: adds {:?}, removes {:?}, admins {:?}{}{}{}",
            act.op,
            act.by,
            act.adds,
            act.removes,
            act.admins,
            if act.new_leaf { ", new leaf" } else { "" },
            if act.without_path { ", no path" } else { "" },
            if act.for_connections {
                ", for connections"
            } else {
                ""
            },
        );
        self.note(format!("... {what}"));
        match self.act(room, act).await? {
            Outcome::NotBuilt => Ok(None),
            outcome => Ok(Some(format!("{outcome:?}: {what}"))),
        }
    }

    async fn add_users(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(true) else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let (here, connection) = (group.users(), group.kind == GroupType::Connection);
        if group.members().len() >= MAX_MEMBERS || (connection && here.len() > 1) {
            return Ok(None);
        }
        let stay = |user: &UserId| {
            let clients = group.clients_of(user);
            clients.iter().any(|c| !group.is_targeted(c))
        };
        let present: BTreeSet<_> = here.iter().filter(|user| stay(user)).cloned().collect();
        let wild = self.wild();
        let candidates = all_users().into_iter();
        let candidates = candidates.filter(|u| !here.contains(u) || (wild && present.contains(u)));
        let most = if connection && !self.wild() { 1 } else { 2 };
        let users = self.dice.some(candidates.collect(), most);
        let mut act = Act::new(Op::AddUsers, &by);
        for user in users {
            act.adds.extend(self.some_outside(room, &user));
        }
        act.for_connections = (connection && self.dice.once_in(2)) || self.dice.once_in(12);
        act.without_path = self.dice.once_in(3);
        self.add(room, act).await
    }

    async fn add_clients(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(false) else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let users: BTreeSet<_> = if self.dice.once_in(10) {
            let here = group.users();
            all_users()
                .into_iter()
                .filter(|u| !here.contains(u))
                .collect()
        } else {
            let stay = group
                .members()
                .difference(&group.targets())
                .cloned()
                .collect::<Vec<_>>();
            stay.iter().map(ClientId::user_id).collect()
        };
        if group.members().len() >= MAX_MEMBERS {
            return Ok(None);
        }
        let mut act = Act::new(Op::AddClients, &by);
        for user in self.dice.some(users.into_iter().collect(), 2) {
            act.adds.extend(self.some_outside(room, &user));
        }
        act.without_path = self.dice.once_in(3);
        self.add(room, act).await
    }

    /// One or two clients of a user that are not in a group.
    fn some_outside(&mut self, room: usize, user: &UserId) -> BTreeSet<ClientId> {
        let count = 1 + self.dice.below(2);
        let found = (0..count).filter_map(|_| self.device_outside(room, user));
        found.collect()
    }

    async fn add(&mut self, room: usize, act: Act) -> Check<Option<String>> {
        if act.adds.is_empty() {
            return Ok(None);
        }
        self.carry_out(room, act).await
    }

    async fn remove_users(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(true) else {
            return Ok(None);
        };
        let own = by.user_id();
        let wild = self.wild();
        let group = &self.rooms[room];
        let users = group.users().into_iter();
        let users: Vec<_> = users.filter(|user| wild || *user != own).collect();
        let mut act = Act::new(Op::RemoveUsers, &by);
        for user in self.dice.some(users, 2) {
            let clients = self.rooms[room].clients_of(&user);
            let mut left: Vec<_> = clients.into_iter().collect();
            left.retain(|c| *c != by && !self.rooms[room].is_targeted(c));
            if left.len() > 1 && self.dice.once_in(8) {
                left.pop();
            }
            act.removes.extend(left);
        }
        if act.removes.is_empty() {
            return Ok(None);
        }
        self.carry_out(room, act).await
    }

    async fn remove_clients(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(false) else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        let (own, wild) = (by.user_id(), self.dice.once_in(10));
        let others = group.members().into_iter();
        let others =
            others.filter(|c| *c != by && (wild || c.user_id() == own) && !group.is_targeted(c));
        let others = others.collect();
        let mut act = Act::new(Op::RemoveClients, &by);
        act.removes = self.dice.some(others, 2);
        if act.removes.is_empty() {
            return Ok(None);
        }
        self.carry_out(room, act).await
    }

    async fn update_client(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(false) else {
            return Ok(None);
        };
        let mut act = Act::new(Op::UpdateClient, &by);
        act.new_leaf = self.dice.once_in(2);
        self.carry_out(room, act).await
    }

    async fn set_roles(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(true) else {
            return Ok(None);
        };
        let group = &self.rooms[room];
        if group.admins.is_none() && !self.dice.once_in(8) {
            return Ok(None);
        }
        let members: Vec<_> = group.users().into_iter().collect();
        let users = if self.wild() { all_users() } else { members };
        let mut act = Act::new(Op::SetRoles, &by);
        act.admins = Some(self.dice.some(users, 3).into_iter().collect());
        self.carry_out(room, act).await
    }

    async fn delete_group(&mut self) -> Check<Option<String>> {
        let Some((room, by)) = self.actor(true) else {
            return Ok(None);
        };
        let mut act = Act::new(Op::DeleteGroup, &by);
        let group = &self.rooms[room];
        let others = group.members().into_iter();
        let others = others.filter(|c| *c != by && !group.is_targeted(c));
        act.removes = others.collect();
        if self.wild() {
            act.removes.pop();
        }
        self.carry_out(room, act).await
    }

    /// A group is ended, to be succeeded by another one with the same members.
    async fn re_initialize(&mut self) -> Check<Option<String>> {
        let Some(room) = self.room() else {
            return Ok(None);
        };
        let current = self.rooms[room].current().into_iter();
        let able =
            current.filter(|c| self.is_awake(c) && self.devices[c].kind == LibraryKind::MlsRs);
        let able: Vec<_> = able.collect();
        let Some(by) = self.dice.pick(&able).cloned() else {
            return Ok(None);
        };
        let owner = self.rooms[room].owner.clone();
        let at_owner = self.devices.keys().find(|c| c.provider() == owner).cloned();
        let Some(founder) = at_owner else {
            return Ok(None);
        };
        self.rooms[room].successor = Some(self.group_id(&founder).await?);
        let mut act = Act::new(Op::ReInitializeGroup, &by);
        act.ignorant = !self.rooms[room].pending.is_empty();
        if act.ignorant {
            // Whoever has forgotten what is pending cannot follow the next commit.
            return Ok(None);
        }
        let Some(what) = self.carry_out(room, act).await? else {
            return Ok(None);
        };
        if self.rooms[room].ended {
            self.succeed(room, &founder).await?;
        }
        Ok(Some(what))
    }
}
