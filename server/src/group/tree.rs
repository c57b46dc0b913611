//! The tree that a commit leads to: every leaf that enters it, and who is in it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use moh_messages::{ClientId, GroupType, KeyPackageRef, UserId, extension_type};
use openmls::prelude::{ExtensionType, KeyPackage, LeafNode, LeafNodeIndex, StagedCommit};

use super::apply::Added;
use super::commit::Author;
use super::key_package::MAX_LIFE_SECONDS;
use super::leaf::{self, Entering};
use super::message::{CommitContent, Proposal};
use super::roster::Member;
use super::stored::Joiner;
use super::{Checks, Group, Undecided, rbac_of};
use crate::crypto::Crypto;
use crate::error::{Refusal, invalid, violation};

impl Group {
    /// The committer's leaf afterwards, and what it says.
    pub(super) fn check_committer(
        &self,
        staged: &StagedCommit,
        author: &Author,
        removed: &BTreeSet<u32>,
        checks: &Checks<'_>,
    ) -> Result<(u32, Member), Undecided> {
        let unreadable = || violation("the leaf cannot be read");
        let before = author
            .leaf
            .and_then(|leaf| self.mls.leaf(LeafNodeIndex::new(leaf)));
        let Some(node) = staged.update_path_leaf_node() else {
            let (leaf, before) = author.leaf.zip(before).ok_or(Refusal::UnknownGroup)?;
            let member = Member::of(before, self.scheme).ok_or(Refusal::UnknownGroup)?;
            return Ok((leaf, member));
        };
        let entering = Entering {
            node,
            replaces: before,
        };
        if leaf::check(&entering, self.scheme, checks)? != author.client {
            return Err(violation("an UpdatePath keeps the ClientID").into());
        }
        let mut gone = removed.clone();
        gone.extend(author.leaf.filter(|_| !author.joins));
        self.check_client(&author.client, &gone)?;
        self.check_key(node, &gone)?;
        self.check_queue(node, &gone)?;
        let signer = if author.joins {
            let index = self.mls.ext_commit_sender_index(staged);
            index.map_err(invalid)?.u32()
        } else {
            author.leaf.ok_or(Refusal::UnknownGroup)?
        };
        Ok((
            signer,
            Member::of(node, self.scheme).ok_or_else(unreadable)?,
        ))
    }

    /// That no leaf that stays is of the same client.
    fn check_client(&self, client: &ClientId, gone: &BTreeSet<u32>) -> Result<(), Refusal> {
        match self.roster.leaf_of(client) {
            Some(leaf) if !gone.contains(&leaf) => Err(violation("another leaf is of this client")),
            _ => Ok(()),
        }
    }

    /// That no other leaf has the same queue: what goes there would come twice, and the answers
    /// about it would be those about another member.
    fn check_queue(&self, node: &LeafNode, gone: &BTreeSet<u32>) -> Result<(), Refusal> {
        let queue = leaf::queue_config(node);
        let mut members = self.roster.members();
        if members.any(|(leaf, m)| Some(&m.queue_config) == queue.as_ref() && !gone.contains(&leaf))
        {
            return Err(violation("another leaf has this queue_config"));
        }
        Ok(())
    }

    /// That no leaf that stays has the signature key of a path's leaf. (That those that are added
    /// have other keys than those that stay, openmls sees to.)
    fn check_key(&self, node: &LeafNode, gone: &BTreeSet<u32>) -> Result<(), Refusal> {
        let key = node.signature_key().as_slice();
        let mut members = self.roster.members();
        if members.any(|(leaf, m)| m.signature_key.as_slice() == key && !gone.contains(&leaf)) {
            return Err(invalid("another leaf has this signature key"));
        }
        Ok(())
    }

    pub(super) fn check_adds(
        &self,
        staged: &StagedCommit,
        removed: &BTreeSet<u32>,
        checks: &Checks<'_>,
    ) -> Result<Vec<(Added, Joiner)>, Undecided> {
        let mut added = Vec::new();
        for add in staged.add_proposals() {
            let key_package = add.add_proposal().key_package();
            let node = key_package.leaf_node();
            let entering = Entering {
                node,
                replaces: None,
            };
            let client = leaf::check(&entering, self.scheme, checks)?;
            self.check_client(&client, removed)?;
            self.check_queue(node, removed)?;
            let for_connections = node.extensions().contains(ExtensionType::Unknown(
                extension_type::CONNECTION_KEY_PACKAGE,
            ));
            if for_connections && self.group_type == GroupType::Regular {
                return Err(violation("this KeyPackage is for connection groups").into());
            }
            added.push(self.added(key_package, client, checks.now)?);
        }
        Ok(added)
    }

    /// That nobody who is added has the committer's key, and no two have the same queue.
    pub(super) fn check_added_keys(
        committer: &Member,
        added: &[(Added, Joiner)],
    ) -> Result<(), Refusal> {
        let mut keys = added.iter().map(|(added, _)| &added.member.signature_key);
        if keys.any(|key| *key == committer.signature_key) {
            return Err(invalid("another leaf has this signature key"));
        }
        let added = added.iter().map(|(added, _)| &added.member);
        let mut queues = HashSet::new();
        if !added
            .chain([committer])
            .all(|m| queues.insert(&m.queue_config.client_queue_information))
        {
            return Err(violation("another leaf has this queue_config"));
        }
        Ok(())
    }

    /// That neither the group nor what one user has of it becomes too large.
    pub(super) fn check_sizes(
        &self,
        author: &Author,
        removed: &BTreeSet<u32>,
        added: &[(Added, Joiner)],
        checks: &Checks<'_>,
    ) -> Result<(), Refusal> {
        let joining = author.joins.then_some(&author.client);
        let clients = added.iter().map(|(added, _)| &added.client).chain(joining);
        let mut by_user: BTreeMap<UserId, usize> = BTreeMap::new();
        for client in clients {
            *by_user.entry(client.user_id()).or_default() += 1;
        }
        let entering: usize = by_user.values().sum();
        if self.roster.len() - removed.len() + entering > checks.limits.max_members {
            return Err(Refusal::LimitExceeded(
                "the group would have too many members",
            ));
        }
        let max = usize::try_from(checks.limits.max_clients_per_user).unwrap_or(usize::MAX);
        let has_too_many = |(user, entering): (&UserId, &usize)| {
            let leaves = self.roster.leaves_of_user(user);
            leaves.filter(|leaf| !removed.contains(leaf)).count() + entering > max
        };
        if by_user.iter().any(has_too_many) {
            return Err(Refusal::LimitExceeded("a user would have too many clients"));
        }
        Ok(())
    }

    fn added(
        &self,
        key_package: &KeyPackage,
        client: ClientId,
        now: u64,
    ) -> Result<(Added, Joiner), Refusal> {
        let reference = key_package.hash_ref(&Crypto).map_err(invalid)?;
        let member = Member::of(key_package.leaf_node(), self.scheme)
            .ok_or_else(|| violation("the leaf cannot be read"))?;
        let not_after = key_package.life_time().not_after().saturating_mul(1000);
        let joiner = Joiner {
            reference: reference.as_slice().to_vec(),
            epoch: self.epoch() + 1,
            client: client.to_string(),
            signature_key: member.signature_key.as_slice().to_vec(),
            expires_at: not_after.min(now.saturating_add(MAX_LIFE_SECONDS * 1000)),
            fetched_at: None,
            left: false,
        };
        let reference = KeyPackageRef::new(reference.as_slice())
            .map_err(|_| invalid("a KeyPackageRef is a hash"))?;
        Ok((
            Added {
                reference,
                client,
                member,
            },
            joiner,
        ))
    }

    /// Whether the commit is about who the admins are, be it that it names the same ones.
    fn names_admins(&self, staged: &StagedCommit, content: &CommitContent) -> bool {
        let before = self.mls.group_context().extensions().external_senders();
        let after = staged.group_context().extensions().external_senders();
        let is_extensions = |p: &Proposal| matches!(p, Proposal::GroupContextExtensions(_));
        content.by_value.iter().any(is_extensions) && before == after
    }

    /// That what the commit holds by value leaves an admin, where there is one.
    pub(super) fn check_admins(
        &self,
        staged: &StagedCommit,
        content: &CommitContent,
        author: &Author,
        removed: &BTreeSet<u32>,
        added: &[(Added, Joiner)],
    ) -> Result<(), Refusal> {
        let Some(after) = rbac_of(staged.group_context()) else {
            return Ok(());
        };
        let names_admins = self.names_admins(staged, content);
        let by_value = content
            .by_value
            .iter()
            .filter_map(|proposal| match proposal {
                Proposal::Remove(leaf) => Some(*leaf),
                _ => None,
            });
        let by_value: BTreeSet<u32> = by_value.collect();
        let goes =
            |leaf: u32| by_value.contains(&leaf) || (names_admins && removed.contains(&leaf));
        let stays = |user: &UserId| {
            let mut leaves = self.roster.leaves_of_user(user);
            leaves.any(|leaf| !goes(leaf))
                || (author.joins && author.client.user_id() == *user)
                || added
                    .iter()
                    .any(|(added, _)| added.client.user_id() == *user)
        };
        let had_admin = self.has_admin(&BTreeSet::new());
        if (had_admin || names_admins) && !after.admins.iter().any(stays) {
            return Err(Refusal::Unauthorized("an admin has to stay in the group"));
        }
        Ok(())
    }
}
