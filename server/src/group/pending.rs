//! Proposals that wait to be committed: members that leave, and whom the owner wants removed.

use std::collections::BTreeSet;

use moh_messages::{ClientId, ExternalSender, GroupId, Message as _, MlsBytes, Opaque, Signature};
use moh_messages::{QueuePayload, sign_content};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, QueuedProposal};
use tls_codec::{DeserializeBytes, Serialize as _, TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::apply::{Change, Decision};
use super::message::{Content, Handshake, Origin, Proposal};
use super::storage::Storage;
use super::stored::Pending;
use super::{Checks, Group, Outgoing, Owner, Sender, Unreadable};
use crate::crypto::Crypto;
use crate::error::{Refusal, invalid, violation};

/// The most proposals that wait in an epoch (section 11).
const MAX_PENDING: usize = 256;
/// The longest self-removal, in bytes. It is kept, and handed to everybody who commits without it.
const MAX_SELF_REMOVAL_BYTES: usize = 1 << 10;
/// The owner proposes Removes at most so often, in milliseconds.
const BATCH_INTERVAL_MS: u64 = 60 * 1000;
/// When we cannot sign for the key that the group knows: how often that is tried.
const NO_KEY_INTERVAL_MS: u64 = 60 * 60 * 1000;
/// So long after its attestation has expired is a client removed.
const EXPIRED_GRACE_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// After so long without a commit of its own is a client removed.
const INACTIVE_MS: u64 = 90 * 24 * 60 * 60 * 1000;
/// So long is it known that a group has ended.
const KEEP_ENDED_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// RFC 9420 section 6.2: an MLSMessage with a PublicMessage of an external sender that proposes a
/// Remove.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct ExternalRemove {
    content: ExternalContent,
    signature: Signature,
}

/// What is signed of it (section 6.1).
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct ExternalContent {
    protocol_version: u16,
    wire_format: u16,
    group_id: GroupId,
    epoch: u64,
    sender_type: u8,
    sender_index: u32,
    authenticated_data: Opaque<0>,
    content_type: u8,
    proposal_type: u16,
    removed: u32,
}

const PROTOCOL_VERSION_MLS10: u16 = 1;
const WIRE_FORMAT_PUBLIC: u16 = 1;
const SENDER_TYPE_EXTERNAL: u8 = 2;
const CONTENT_TYPE_PROPOSAL: u8 = 2;
const PROPOSAL_TYPE_REMOVE: u16 = 3;
const LABEL_FRAMED_CONTENT: &str = "FramedContentTBS";

/// What to do with a group that is due to be looked after.
pub enum Tending {
    /// Nothing, or nothing yet: not before this, in milliseconds since the Unix epoch.
    Wait(u64),
    /// This.
    Change(Decision),
    /// It ended long ago, and is to be forgotten.
    Forget,
}

impl Group {
    /// Whether a member may propose what it does: that it is removed itself.
    ///
    /// # Errors
    /// A refusal.
    pub fn propose(&self, handshake: Handshake, sender: &Sender) -> Result<Decision, Refusal> {
        let current = self.epoch();
        if handshake.epoch != current {
            return Err(Refusal::WrongEpoch { current });
        }
        if handshake.origin != Origin::Member(sender.leaf) {
            return Err(invalid("leaf_index is not the sender of the proposal"));
        }
        if handshake.bytes.len() > MAX_SELF_REMOVAL_BYTES {
            return Err(Refusal::LimitExceeded("a self-removal has at most 1 KiB"));
        }
        if handshake.content != Content::Proposal(Proposal::Remove(sender.leaf)) {
            return Err(violation("the proposal is the Remove of its sender"));
        }
        if self.is_targeted(sender.leaf) {
            return Err(violation("this client is about to be removed"));
        }
        if self.facts.pending.len() >= MAX_PENDING {
            return Err(Refusal::LimitExceeded("too many proposals are pending"));
        }
        let mut leaving = self.targets();
        leaving.insert(sender.leaf);
        if leaving.len() == self.roster.len() {
            return Err(violation("somebody has to stay"));
        }
        if self.has_admin(&self.targets()) && !self.has_admin(&leaving) {
            return Err(violation("an admin has to stay"));
        }
        self.queued(&handshake.bytes)?;
        let pending = Pending {
            message: handshake.bytes,
            target: sender.leaf,
            by_owner: false,
        };
        Ok(Decision(Change::Propose {
            pending: vec![pending],
            except: Some(sender.leaf),
        }))
    }

    /// What the owner has to do with the group of its own accord. `wanted` are clients that are to
    /// be removed from it.
    pub fn tend(&self, wanted: &[ClientId], checks: &Checks<'_>) -> Tending {
        let now = checks.now;
        if let Some(ended_at) = self.facts.ended_at {
            let forget_at = ended_at.saturating_add(KEEP_ENDED_MS);
            return if now >= forget_at {
                Tending::Forget
            } else {
                Tending::Wait(forget_at)
            };
        }
        let wanted = wanted.iter().filter_map(|c| self.roster.leaf_of(c));
        let overdue = self.deadlines().filter(|(_, at)| *at <= now);
        let mut targets: BTreeSet<u32> = wanted.chain(overdue.map(|(leaf, _)| leaf)).collect();
        let targeted = self.targets();
        targets.retain(|leaf| !targeted.contains(leaf));
        if targets.is_empty() {
            return Tending::Wait(self.due_at());
        }
        if targeted.union(&targets).count() == self.roster.len() {
            return Tending::Change(Decision(Change::End));
        }
        let next_batch_at = self.facts.last_batch_at.saturating_add(BATCH_INTERVAL_MS);
        let free = MAX_PENDING.saturating_sub(self.facts.pending.len());
        if now < next_batch_at || free == 0 {
            return Tending::Wait(next_batch_at.max(now.saturating_add(BATCH_INTERVAL_MS / 2)));
        }
        let targets = targets.into_iter().take(free);
        match self.removes(targets, self.epoch(), self.ds_sender(), checks.owner) {
            Some(pending) => Tending::Change(Decision(Change::Propose {
                pending,
                except: None,
            })),
            // The key that the group knows is lost.
            None => Tending::Wait(now.saturating_add(NO_KEY_INTERVAL_MS)),
        }
    }

    /// When the owner has to look after the group again, if nothing happens.
    #[must_use]
    pub fn due_at(&self) -> u64 {
        if let Some(ended_at) = self.facts.ended_at {
            return ended_at.saturating_add(KEEP_ENDED_MS);
        }
        if self.facts.pending.len() >= MAX_PENDING {
            return u64::MAX;
        }
        let targets = self.targets();
        let untargeted = self.deadlines();
        let untargeted = untargeted.filter(|(leaf, _)| !targets.contains(leaf));
        let next_batch_at = self.facts.last_batch_at.saturating_add(BATCH_INTERVAL_MS);
        let first = untargeted.map(|(_, at)| at).min();
        first.map_or(u64::MAX, |at| at.max(next_batch_at))
    }

    /// Until when each leaf is good.
    fn deadlines(&self) -> impl Iterator<Item = (u32, u64)> {
        self.roster.members().map(|(leaf, member)| {
            let expired = member.attested_until.saturating_add(EXPIRED_GRACE_MS);
            let active = self.facts.active.get(&leaf).copied().unwrap_or(0);
            (leaf, expired.min(active.saturating_add(INACTIVE_MS)))
        })
    }

    /// Removes by the owner, for an epoch; none where we cannot sign for `sender`.
    pub(super) fn removes(
        &self,
        targets: impl Iterator<Item = u32>,
        epoch: u64,
        sender: Option<ExternalSender>,
        owner: &dyn Owner,
    ) -> Option<Vec<Pending>> {
        let sender = sender?;
        let group_id = self.group_id();
        let remove = |target| {
            let content = ExternalContent {
                protocol_version: PROTOCOL_VERSION_MLS10,
                wire_format: WIRE_FORMAT_PUBLIC,
                group_id: group_id.clone(),
                epoch,
                sender_type: SENDER_TYPE_EXTERNAL,
                sender_index: 0,
                authenticated_data: Opaque::empty(),
                content_type: CONTENT_TYPE_PROPOSAL,
                proposal_type: PROPOSAL_TYPE_REMOVE,
                removed: target,
            };
            let tbs = content.tls_serialize_detached().ok()?;
            let signature = owner.sign(&sender, &sign_content(LABEL_FRAMED_CONTENT, &tbs))?;
            let message = ExternalRemove { content, signature };
            Some(Pending {
                message: message.tls_serialize_detached().ok()?,
                target,
                by_owner: true,
            })
        };
        targets.map(remove).collect()
    }

    /// The owner's key that the group knows.
    pub(super) fn ds_sender(&self) -> Option<ExternalSender> {
        let senders = self.mls.group_context().extensions().external_senders()?;
        let bytes = senders.first()?.tls_serialize_detached().ok()?;
        ExternalSender::decode(&bytes).ok()
    }

    /// Whether a client has no leaf, or will not have it for long.
    #[must_use]
    pub fn is_leaving(&self, client: &ClientId) -> bool {
        let leaf = self.roster.leaf_of(client);
        leaf.is_none_or(|leaf| self.is_targeted(leaf))
    }

    /// The leaves that pending proposals remove.
    pub(super) fn targets(&self) -> BTreeSet<u32> {
        self.facts.pending.iter().map(|p| p.target).collect()
    }

    /// Whether a pending proposal removes this leaf.
    pub(super) fn is_targeted(&self, leaf: u32) -> bool {
        self.facts.pending.iter().any(|p| p.target == leaf)
    }

    /// Whether an admin has a leaf that is none of these. In a group without roles: no.
    pub(super) fn has_admin(&self, without: &BTreeSet<u32>) -> bool {
        self.rbac().is_some_and(|rbac| {
            let admins = rbac.admins.iter();
            let mut leaves = admins.flat_map(|admin| self.roster.leaves_of_user(admin));
            leaves.any(|leaf| !without.contains(&leaf))
        })
    }

    /// What has to be committed first.
    pub(super) fn pending_first(&self) -> Refusal {
        let messages = self.facts.pending.iter().map(|p| p.message.clone());
        Refusal::PendingProposals(messages.collect())
    }

    /// A proposal as openmls has it, by RFC 9420's rules.
    fn queued(&self, message: &[u8]) -> Result<QueuedProposal, Refusal> {
        let read = MlsMessageIn::tls_deserialize_exact_bytes(message);
        let Ok(MlsMessageBodyIn::PublicMessage(message)) = read.map(MlsMessageIn::extract) else {
            return Err(invalid("not an MLSMessage with a PublicMessage"));
        };
        let processed = self.mls.process_message(&Crypto, message);
        match processed.map(openmls::prelude::ProcessedMessage::into_content) {
            Ok(ProcessedMessageContent::ProposalMessage(proposal)) => Ok(*proposal),
            Ok(_) => Err(invalid("not a proposal")),
            Err(error) => Err(invalid(error)),
        }
    }

    /// Tells openmls of the pending proposals that it does not know yet.
    pub(super) fn renew_references(&mut self) -> Result<(), Unreadable> {
        for at in self.references.len()..self.facts.pending.len() {
            let message = &self.facts.pending[at].message;
            let queued = self.queued(message).map_err(|_| Unreadable)?;
            let reference = queued.proposal_reference_ref().as_slice().to_vec();
            let added = self.mls.add_proposal(&Storage::discarding(), queued);
            added.map_err(|never| match never {})?;
            self.references.push(reference);
        }
        Ok(())
    }

    /// Pending proposals, to everybody who is in the group now.
    pub(super) fn tell(&self, pending: &[Pending], except: Option<u32>) -> Option<Vec<Outgoing>> {
        let mut outgoing = Vec::new();
        for proposal in pending {
            let message = MlsBytes::new(proposal.message.clone()).ok()?;
            outgoing.extend(self.to_all(except, &QueuePayload::MlsMessage(message)));
        }
        Some(outgoing)
    }
}
