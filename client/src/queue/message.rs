//! Messages of groups: what members write, propose and commit.

use moh_messages::client_api::QueueItem;
use moh_messages::{ClientId, GroupId, ProviderName, UserId};
use openmls::extensions::SenderExtensionIndex;
use openmls::group::{MlsGroup, QueuedProposal, StagedCommit};
use openmls::prelude::{
    ContentType, LeafNodeIndex, MlsMessageIn, ProcessedMessage, ProcessedMessageContent, Proposal,
    ProtocolMessage, Sender,
};
use openmls_traits::OpenMlsProvider;
use tls_codec::DeserializeBytes;

use super::{Left, group_id, undecodable};
use crate::attestations;
use crate::client::Client;
use crate::connections;
use crate::error::Error;
use crate::events::{DisconnectReason, Event, Reason};
use crate::mls;
use crate::settle::{end_group, load};
use crate::store::{Since, StoreError, TO_COMMIT, Tx};

impl Client {
    pub(super) fn process_message(
        &self,
        tx: &Tx<'_>,
        item: &QueueItem,
        message: ProtocolMessage,
    ) -> Result<(), Left> {
        let id = group_id(message.group_id()).ok_or(Left::Out(None, Reason::Malformed))?;
        let out = |reason| Left::Out(Some(id.clone()), reason);
        match tx.owner(&id)? {
            // What was still on its way when this client left.
            None if tx.has_left(&id)? => return Ok(()),
            None => {
                let now_ms = self.api().now_ms();
                // It may be one that was lost with the state of before.
                if tx.has_lost_state(now_ms)? {
                    tx.want_rejoin(&id, &item.sender, 0, now_ms, 0)?;
                }
                let reason = Reason::UnknownGroup;
                return Ok(tx.insert_event(&undecodable(item, Some(id), reason))?);
            }
            Some(owner) if owner != item.sender => return Err(out(Reason::NotFromOwner)),
            Some(_) => {}
        }
        if is_from_before(&message, &tx.since(&id)?) {
            return Ok(());
        }
        let mut group = load(tx, &id)?;
        if message.content_type() == ContentType::Proposal && message.epoch() < group.epoch() {
            // It has been committed since: its owner said so earlier, when it refused a request.
            return Ok(());
        }
        let (own_epoch, epoch) = (group.epoch().as_u64(), message.epoch().as_u64());
        let is_written = message.content_type() == ContentType::Application;
        // In order, there is nothing of a later epoch, and no other commit in this one.
        let is_lost = epoch > own_epoch
            || epoch == own_epoch && message.content_type() == ContentType::Commit;
        let processed = match tx.attempt(|| process(tx, &mut group, message)) {
            Ok(processed) => processed,
            Err(Left::Out(..)) if is_lost => {
                self.lose(tx, &id, &item.sender)?;
                if is_written {
                    tx.insert_event(&undecodable(item, Some(id), Reason::Refused))?;
                }
                return Ok(());
            }
            Err(left) => return Err(left),
        };
        let sender = mls::client_of(processed.credential());
        let epoch = processed.epoch().as_u64();
        let by_member = matches!(
            processed.sender(),
            Sender::Member(_) | Sender::NewMemberCommit
        );
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                tx.insert_event(&Event::Message {
                    group: id.clone(),
                    sender: sender.ok_or_else(|| out(Reason::Refused))?,
                    content: message.into_bytes(),
                    epoch,
                    received_at: item.received_at,
                })?;
            }
            ProcessedMessageContent::StagedCommitMessage(commit) if by_member => {
                let by = sender.ok_or_else(|| out(Reason::Refused))?;
                self.merge(tx, item, &id, group, *commit, by)?;
            }
            ProcessedMessageContent::ProposalMessage(proposal) if may_be_made(&proposal) => {
                keep_proposal(tx, &mut group, *proposal)?;
                // Whom it removes may be the peer, and nobody else may be there to commit it.
                if let Some(mut connection) = tx.connection_of(&id)? {
                    connection.todo |= TO_COMMIT;
                    tx.put_connection(&connection)?;
                }
            }
            ProcessedMessageContent::ProposalMessage(_) => return Err(out(Reason::Refused)),
            _ => return Err(out(Reason::Unsupported)),
        }
        Ok(())
    }

    /// Enters the epoch that another member's commit begins, and says what is different there.
    fn merge(
        &self,
        tx: &Tx<'_>,
        item: &QueueItem,
        id: &GroupId,
        mut group: MlsGroup,
        commit: StagedCommit,
        by: ClientId,
    ) -> Result<(), Left> {
        let leaving: Vec<_> = commit
            .remove_proposals()
            .map(|removal| removal.remove_proposal().removed())
            .collect();
        let mut members = members_of(&group);
        for member in &mut members {
            member.leaf = member.leaf.filter(|leaf| !leaving.contains(leaf));
        }
        let admins = mls::admins(&group);
        let brought_in = attestations::brought_in(&group, &commit);
        if !brought_in.iter().all(mls::has_name) {
            // Whoever is no client would read along, and nobody would see it.
            return Ok(self.lose(tx, id, &item.sender)?);
        }
        group.merge_staged_commit(tx, commit).map_err(Error::mls)?;
        let id = id.clone();
        let now_ms = self.api().now_ms();
        if !group.is_active() {
            let reason = if by.user_id() == *self.user_id() {
                DisconnectReason::Withdrawn
            } else {
                DisconnectReason::Ended
            };
            let was_connection = connections::is_over(tx, &id, reason)?;
            end_group(tx, &id, now_ms)?;
            return if was_connection {
                Ok(())
            } else {
                Ok(tx.insert_event(&Event::Removed { group: id, by })?)
            };
        }
        tell_changes(tx, &id, &group, &members, admins, &by)?;
        attestations::look_at_new(tx, &id, &group, &brought_in, item.received_at, now_ms)?;
        Ok(self.after_commit(tx, &id, &group, &by)?)
    }
}

/// Says what is different in the epoch that a commit began.
fn tell_changes(
    tx: &Tx<'_>,
    id: &GroupId,
    group: &MlsGroup,
    members: &[Known],
    admins: Option<Vec<UserId>>,
    by: &ClientId,
) -> Result<(), StoreError> {
    let (id, by) = (id.clone(), by.clone());
    let epoch = group.epoch().as_u64();
    let (added, removed) = difference(members, &members_of(group));
    let others = !added.is_empty() || !removed.is_empty();
    let other_admins = mls::admins(group).filter(|now| admins.as_ref() != Some(now));
    if !others && other_admins.is_none() {
        return tx.insert_event(&Event::Updated {
            group: id,
            by,
            epoch,
        });
    }
    if others {
        tx.insert_event(&Event::MembersChanged {
            group: id.clone(),
            by: by.clone(),
            added,
            removed,
            epoch,
        })?;
    }
    if let Some(admins) = other_admins {
        tx.insert_event(&Event::AdminsChanged {
            group: id,
            by,
            admins,
            epoch,
        })?;
    }
    Ok(())
}

/// Has MLS look at a message.
fn process(
    tx: &Tx<'_>,
    group: &mut MlsGroup,
    message: ProtocolMessage,
) -> Result<ProcessedMessage, Left> {
    let id = group_id(group.group_id());
    group.process_message(tx, message).map_err(|error| {
        tracing::debug!(%error, "a message is left out");
        Left::Out(id, Reason::Refused)
    })
}

/// Whether it is of a time of which this client need not know. What was written while it was a
/// member and it has joined again since is not: that it cannot be read should be told.
fn is_from_before(message: &ProtocolMessage, since: &Since) -> bool {
    let epoch = message.epoch().as_u64();
    match message.content_type() {
        ContentType::Application => epoch < since.member,
        _ => epoch < since.state,
    }
}

/// A member before or after a commit.
struct Known {
    client: ClientId,
    key: Vec<u8>,
    /// None where the commit takes it away.
    leaf: Option<LeafNodeIndex>,
}

impl Known {
    /// A member that stays may bring another key to its leaf. Otherwise it is the key that says
    /// who somebody is: a name is given by a provider.
    fn is(&self, other: &Self) -> bool {
        let is_there_still = self.leaf.is_some() && self.leaf == other.leaf;
        self.client == other.client && (self.key == other.key || is_there_still)
    }
}

/// Who was in a group, and who its admins were, before this client joined it again.
pub(crate) struct Before(Option<(Vec<Known>, Option<Vec<UserId>>)>);

impl Before {
    pub(crate) fn of(tx: &Tx<'_>, id: &GroupId) -> Result<Self, Error> {
        if tx.owner(id)?.is_none() {
            return Ok(Self(None));
        }
        match load(tx, id) {
            Ok(group) => Ok(Self(Some((members_of(&group), mls::admins(&group))))),
            Err(Error::UnknownGroup(_)) => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    /// Says what is different now: nobody enters unseen.
    pub(crate) fn tell(
        self,
        tx: &Tx<'_>,
        id: &GroupId,
        group: &MlsGroup,
        own: &ClientId,
    ) -> Result<(), StoreError> {
        let Some((members, admins)) = self.0 else {
            return Ok(());
        };
        // A leaf says nothing about who it was some epochs ago.
        let without_leaf = |mut members: Vec<Known>| {
            members.iter_mut().for_each(|member| member.leaf = None);
            members
        };
        let now = without_leaf(members_of(group));
        let (added, removed) = difference(&without_leaf(members), &now);
        let epoch = group.epoch().as_u64();
        if !added.is_empty() || !removed.is_empty() {
            tx.insert_event(&Event::MembersChanged {
                group: id.clone(),
                by: own.clone(),
                added,
                removed,
                epoch,
            })?;
        }
        let now = mls::admins(group);
        if now == admins {
            return Ok(());
        }
        // Where there are none any more, everybody may do everything.
        tx.insert_event(&Event::AdminsChanged {
            group: id.clone(),
            by: own.clone(),
            admins: now.unwrap_or_default(),
            epoch,
        })
    }
}

impl Client {
    /// What there is of a group leads nowhere: it is to be joined again.
    pub(super) fn lose(
        &self,
        tx: &Tx<'_>,
        id: &GroupId,
        owner: &ProviderName,
    ) -> Result<(), Error> {
        let epoch = match load(tx, id) {
            Ok(group) => group.epoch().as_u64(),
            Err(Error::UnknownGroup(_)) => 0,
            Err(error) => return Err(error),
        };
        if tx.want_rejoin(id, owner, epoch, self.api().now_ms(), 0)? {
            tx.insert_event(&Event::GroupLost { group: id.clone() })?;
        }
        Ok(())
    }
}

fn members_of(group: &MlsGroup) -> Vec<Known> {
    group
        .members()
        .filter_map(|member| {
            Some(Known {
                client: mls::client_of(&member.credential)?,
                key: member.signature_key,
                leaf: Some(member.index),
            })
        })
        .collect()
}

/// Who is only in the second list, and who is only in the first.
fn difference(before: &[Known], after: &[Known]) -> (Vec<ClientId>, Vec<ClientId>) {
    let only = |these: &[Known], those: &[Known]| {
        these
            .iter()
            .filter(|member| !those.iter().any(|other| member.is(other)))
            .map(|member| member.client.clone())
            .collect()
    };
    (only(after, before), only(before, after))
}

/// The epoch of a message of a group.
pub(crate) fn epoch_of(bytes: &[u8]) -> Option<u64> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).ok()?;
    let message = message.try_into_protocol_message().ok()?;
    Some(message.epoch().as_u64())
}

/// Takes up a proposal that the owner says is pending, if it still is.
pub(crate) fn store_proposal(tx: &Tx<'_>, id: &GroupId, bytes: &[u8]) -> Result<(), Error> {
    let mut group = load(tx, id)?;
    if epoch_of(bytes).is_some_and(|epoch| epoch < group.epoch().as_u64()) {
        return Ok(());
    }
    let owner = tx.owner(id)?;
    let owner = owner.ok_or_else(|| Error::UnknownGroup(id.clone()))?;
    let bad = |detail: String| Error::BadAnswer {
        by: owner.clone(),
        detail: format!("a proposal that is none: {detail}"),
    };
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes)
        .map_err(|error| bad(error.to_string()))?
        .try_into_protocol_message()
        .map_err(|error| bad(error.to_string()))?;
    let processed = group
        .process_message(tx, message)
        .map_err(|error| bad(error.to_string()))?;
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(proposal) if may_be_made(&proposal) => {
            keep_proposal(tx, &mut group, *proposal)
        }
        ProcessedMessageContent::ProposalMessage(_) => {
            Err(bad("of a kind that nobody may make".to_owned()))
        }
        _ => Err(bad("another message".to_owned())),
    }
}

/// Whether it is a removal, proposed by the group's owner or by who is to be removed. MLS would
/// let an owner propose anything, itself as a member among it; and what is kept here becomes part
/// of this client's next commit.
fn may_be_made(proposal: &QueuedProposal) -> bool {
    let Proposal::Remove(remove) = proposal.proposal() else {
        return false;
    };
    match proposal.sender() {
        Sender::External(index) => *index == SenderExtensionIndex::new(0),
        Sender::Member(leaf) => *leaf == remove.removed(),
        Sender::NewMemberProposal | Sender::NewMemberCommit => false,
    }
}

fn keep_proposal(tx: &Tx<'_>, group: &mut MlsGroup, proposal: QueuedProposal) -> Result<(), Error> {
    if group.pending_proposals().all(|kept| *kept != proposal) {
        group.store_pending_proposal(tx.storage(), proposal)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(user: &str, key: u8, leaf: Option<u32>) -> Known {
        Known {
            client: format!("mimi://a.example/d/{user}/phone").parse().unwrap(),
            key: vec![key],
            leaf: leaf.map(LeafNodeIndex::new),
        }
    }

    #[test]
    fn another_key_by_a_removal_is_another_member() {
        let counts = |after: &[Known], leaf| {
            let before = [known("alice", 1, Some(0)), known("bob", 2, leaf)];
            let (added, removed) = difference(&before, after);
            (added.len(), removed.len())
        };
        let same_key = [known("alice", 1, Some(0)), known("bob", 2, Some(1))];
        let other_key = [known("alice", 1, Some(0)), known("bob", 3, Some(1))];
        let twice = [
            known("alice", 1, Some(0)),
            known("bob", 2, Some(1)),
            known("bob", 3, Some(2)),
        ];
        assert_eq!(counts(&same_key, Some(1)), (0, 0));
        // By joining again, or by an update.
        assert_eq!(counts(&same_key, None), (0, 0));
        assert_eq!(counts(&other_key, Some(1)), (0, 0));
        assert_eq!(counts(&other_key, None), (1, 1));
        assert_eq!(counts(&twice, Some(1)), (1, 0));
        assert_eq!(counts(&same_key[..1], None), (0, 1));
    }
}
