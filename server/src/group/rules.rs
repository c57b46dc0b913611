//! What an operation may say about its commits: the rules of one operation are in its own file,
//! this is what they are made of.

use std::collections::BTreeSet;
use std::sync::Arc;

use moh_messages::{ClientId, Extension, GroupType, UserId};

use super::message::{CommitContent, Proposal, ReInit};
use super::roster::{Member, Roster};
use super::{Checks, Group};
use crate::error::Refusal;

/// The rules of an operation that is a commit, besides those that all commits have in common.
#[derive(Debug)]
pub struct CommitRules {
    /// Whose commit it is.
    pub by: Committer,
    /// Who may, where the group has roles.
    pub roles: Roles,
    /// The group ends with it.
    pub ends_group: bool,
    /// What else there is to it. Code 15, as a rule.
    pub check: fn(&Proposed<'_>) -> Result<(), Refusal>,
}

/// Who may do something in a group that has roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    /// Every member.
    Everybody,
    /// Admins.
    Admins,
    /// Admins; every member, while no admin has a leaf.
    AdminsIfAny,
}

/// Who commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committer {
    /// A member.
    Member,
    /// A client that joins by it.
    NewMember,
}

/// A commit before RFC 9420's own rules are applied, as an operation's rules see it.
pub struct Proposed<'a> {
    pub(super) group: &'a Group,
    pub(super) checks: &'a Checks<'a>,
    /// The committer's leaf; none where it has none yet.
    pub(super) leaf: Option<u32>,
    pub(super) client: &'a ClientId,
    pub(super) content: &'a CommitContent,
    pub(super) removed: &'a BTreeSet<u32>,
}

impl<'a> Proposed<'a> {
    /// Who commits.
    #[must_use]
    pub fn client(&self) -> &'a ClientId {
        self.client
    }

    /// The committer's leaf; none where it has none yet.
    #[must_use]
    pub fn leaf(&self) -> Option<u32> {
        self.leaf
    }

    /// Who is in the group before the commit.
    #[must_use]
    pub fn roster(&self) -> &'a Roster {
        &self.group.roster
    }

    /// The group's type.
    #[must_use]
    pub fn group_type(&self) -> GroupType {
        self.group.group_type
    }

    /// The proposals that the commit holds by value.
    #[must_use]
    pub fn by_value(&self) -> &'a [Proposal] {
        &self.content.by_value
    }

    /// Whether the commit has a path.
    #[must_use]
    pub fn has_path(&self) -> bool {
        self.content.path.is_some()
    }

    /// All leaves that the commit removes, by value or by reference.
    #[must_use]
    pub fn removed(&self) -> &'a BTreeSet<u32> {
        self.removed
    }

    /// The clients of the Adds, when there is nothing else by value, and at least one.
    #[must_use]
    pub fn only_adds(&self) -> Option<Vec<&'a ClientId>> {
        let client = |proposal: &'a Proposal| match proposal {
            Proposal::Add(client) => client.as_ref(),
            _ => None,
        };
        let clients: Option<Vec<_>> = self.by_value().iter().map(client).collect();
        clients.filter(|clients| !clients.is_empty())
    }

    /// The members of the Removes, when there is nothing else by value, and at least one. A leaf
    /// that nobody has is left to the rules of RFC 9420.
    #[must_use]
    pub fn only_removes(&self) -> Option<Vec<(u32, &'a Arc<Member>)>> {
        let leaf = |proposal: &Proposal| match proposal {
            Proposal::Remove(leaf) => Some(*leaf),
            _ => None,
        };
        let leaves: Option<Vec<u32>> = self.by_value().iter().map(leaf).collect();
        let member = |leaf| Some((leaf, self.roster().member(leaf)?));
        let leaves = leaves.filter(|leaves| !leaves.is_empty())?;
        Some(leaves.into_iter().filter_map(member).collect())
    }

    /// The one GroupContextExtensions proposal, when there is nothing else by value.
    #[must_use]
    pub fn only_context_extensions(&self) -> Option<&'a [Extension]> {
        match self.by_value() {
            [Proposal::GroupContextExtensions(extensions)] => Some(extensions),
            _ => None,
        }
    }

    /// The one ReInit proposal, when there is nothing else by value.
    #[must_use]
    pub fn only_reinit(&self) -> Option<&'a ReInit> {
        match self.by_value() {
            [Proposal::ReInit(reinit)] => Some(reinit),
            _ => None,
        }
    }

    /// Whether a user keeps a leaf that they have.
    #[must_use]
    pub fn keeps_leaf(&self, user: &UserId) -> bool {
        self.roster()
            .leaves_of_user(user)
            .any(|leaf| !self.removed.contains(&leaf))
    }

    /// Who has been invited into a connection group.
    #[must_use]
    pub fn invited(&self) -> Option<UserId> {
        self.group.invited()
    }

    /// Whether a user may be in the group: has a leaf, or is the invited one.
    #[must_use]
    pub fn belongs(&self, user: &UserId) -> bool {
        self.group.belongs(user)
    }

    /// The group, for what else there is to it.
    #[must_use]
    pub fn group(&self) -> &'a Group {
        self.group
    }

    /// What decisions are made with.
    #[must_use]
    pub fn checks(&self) -> &'a Checks<'a> {
        self.checks
    }
}
