//! A group: its state, and what requests make of it.
//!
//! Everything in here is pure. A decision is a function of the group, the request and the time
//! that it is given; nothing waits, reads a clock, or knows of HTTP or of a store. What has to
//! be fetched first is said ([`Undecided::NeedsKeys`]), and the decision is asked for again.
//!
//! A group is stored as a snapshot and a log: a commit's entry holds what it changes in the
//! tree, not the tree, and the commit itself, so that the group can be rebuilt should the
//! format of the rest ever have to change.

mod apply;
mod commit;
mod create;
mod group_info;
mod key_package;
mod leaf;
mod message;
mod pending;
mod roster;
mod rules;
mod storage;
mod stored;
mod tree;
mod welcome;

pub use apply::{Applied, Asks, Decision};
pub use commit::{CommitInput, Submitter};
pub use create::{Creation, create};
pub use key_package::check_key_package;
pub(crate) use key_package::queue_of_key_package;
pub use leaf::KeyLookup;
pub use message::{
    Application, Content, Handshake, Proposal, ReInit, read_application, read_handshake,
};
pub use pending::Tending;
pub use roster::{Audience, Member, Roster};
pub use rules::{CommitRules, Committer, Proposed, Roles};

use std::collections::BTreeSet;
use std::sync::Arc;

use moh_messages::{
    CipherSuite, ClientId, DsRequest, Extension, ExternalSender, GroupId, GroupType,
    HandshakeBytes, KeyId, KeyPackageRef, List, Message, MohGroupContext, PartialGroupInfo,
    ProviderName, PublicKey, QueuePayload, Rbac, Signature, SignatureScheme, TreeBytes, UserId,
    extension_type, label,
};
use openmls::prelude::{GroupContext, PublicGroup};
use tls_codec::Serialize as _;

use crate::change::Version;
use crate::crypto;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::store::StoredGroup;
use storage::{Storage, Values};
use stored::{Entry, FORMAT, Facts, Snapshot, Step};

/// Epochs before the current one whose application messages, and repeated messages, are taken.
pub const KEPT_EPOCHS: u64 = 5;

/// What decisions are made with, besides the group and the request.
pub struct Checks<'a> {
    /// Milliseconds since the Unix epoch.
    pub now: u64,
    /// The bounds that there are.
    pub limits: &'a Limits,
    /// The provider that decides.
    pub owner: &'a dyn Owner,
}

/// What the owner of a group knows and can do, without waiting.
pub trait Owner: Sync {
    /// Whether this is its name.
    fn is(&self, name: &ProviderName) -> bool;
    /// What is known of a provider's key.
    fn key(&self, provider: &ProviderName, key_id: &KeyId) -> KeyLookup;
    /// What groups of a ciphersuite list in `external_senders`; none where it is not one of ours.
    fn ds_sender(&self, suite: CipherSuite) -> Option<ExternalSender>;
    /// Whether a group's name was issued here.
    fn issued(&self, group_id: &GroupId) -> bool;
    /// Signs as one of the external senders that groups know, if it is or was ours.
    fn sign(&self, sender: &ExternalSender, content: &[u8]) -> Option<Signature>;
}

/// Why there is no decision.
#[derive(Debug)]
pub enum Undecided {
    /// The request is refused.
    Refused(Refusal),
    /// The keys of this provider have to be fetched first.
    NeedsKeys(ProviderName),
}

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What is stored cannot be read: it is damaged, or was written by a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored group cannot be read")]
pub struct Unreadable;

/// A member who is known to have sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    leaf: u32,
    client_id: ClientId,
    /// The key that signed.
    pub signature_key: PublicKey,
}

/// Who asks for the tree of a Welcome.
pub struct Fetching<'a> {
    /// Of the KeyPackage that it was added with.
    pub reference: &'a KeyPackageRef,
    /// The epoch that its Welcome leads to.
    pub epoch: u64,
    /// By that KeyPackage's key.
    pub signature: &'a Signature,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// To whom.
    pub audience: Arc<Audience>,
    /// Who of them does not get it.
    pub except: Option<u32>,
    /// What.
    pub payload: QueuePayload,
}

/// A group at one version.
pub struct Group {
    mls: PublicGroup,
    version: Version,
    group_type: GroupType,
    scheme: SignatureScheme,
    roster: Roster,
    facts: Facts,
    /// The ProposalRefs of what is pending.
    references: Vec<Vec<u8>>,
    snapshot_bytes: usize,
    log_bytes: usize,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Group(version {}, epoch {}, {} members)",
            self.version,
            self.epoch(),
            self.roster.len()
        )
    }
}

impl Group {
    /// Reads a stored group.
    ///
    /// # Errors
    /// When what is stored is damaged or of another format.
    pub fn restore(stored: &StoredGroup) -> Result<Self, Unreadable> {
        let snapshot: Snapshot = postcard::from_bytes(&stored.snapshot).map_err(|_| Unreadable)?;
        if snapshot.format != FORMAT {
            return Err(Unreadable);
        }
        let id = openmls::group::GroupId::from_slice(&snapshot.group_id);
        let mls = match PublicGroup::load(&Storage::of(snapshot.values), &id) {
            Ok(Some(mls)) => mls,
            Ok(None) => return Err(Unreadable),
            Err(never) => match never {},
        };
        let bytes = stored.snapshot.len();
        let mut group = Self::of(mls, stored.snapshot_version, snapshot.facts, bytes)?;
        for bytes in &stored.log {
            let entry: Entry = postcard::from_bytes(bytes).map_err(|_| Unreadable)?;
            if entry.format != FORMAT {
                return Err(Unreadable);
            }
            if let Step::Commit(commit) = &entry.step {
                let staged = postcard::from_bytes(&commit.staged).map_err(|_| Unreadable)?;
                let merged = group.mls.merge_commit(&Storage::discarding(), staged);
                merged.map_err(|_| Unreadable)?;
            }
            group.facts.follow(&entry);
            group.version += 1;
            group.log_bytes += bytes.len();
        }
        group.renew_roster(&Roster::default())?;
        group.renew_references()?;
        if group.version == stored.version {
            Ok(group)
        } else {
            Err(Unreadable)
        }
    }

    fn of(
        mls: PublicGroup,
        version: Version,
        facts: Facts,
        snapshot_bytes: usize,
    ) -> Result<Self, Unreadable> {
        let suite = moh_messages::CipherSuite(mls.ciphersuite().into());
        let scheme = suite.signature_scheme().ok_or(Unreadable)?;
        let moh = moh_context(&mls).ok_or(Unreadable)?;
        Ok(Self {
            mls,
            version,
            group_type: moh.group_type,
            scheme,
            roster: Roster::default(),
            facts,
            references: Vec::new(),
            snapshot_bytes,
            log_bytes: 0,
        })
    }

    /// Reads the leaves anew; those that `before` has are taken from there.
    fn renew_roster(&mut self, before: &Roster) -> Result<(), Unreadable> {
        let leaves = self.mls.treesync().full_leaves();
        let leaves = leaves.map(|(index, node)| (index.u32(), node));
        self.roster = Roster::of(leaves, self.scheme, before).ok_or(Unreadable)?;
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn group_id(&self) -> GroupId {
        GroupId::new(self.mls.group_id().as_slice()).expect("checked when the group was created")
    }

    /// The version that it is at.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The epoch that it is at.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.mls.group_context().epoch().as_u64()
    }

    /// Who is in it.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        1024 * (1 + self.roster.len() as u64)
    }

    /// The member who signed a request as a leaf: the only way to a [`Sender`].
    ///
    /// # Errors
    /// `unknown_group` when there is no such leaf or it did not sign; `unauthenticated` when
    /// the request names another provider as its sender than the member's.
    pub fn authenticate_leaf(
        &self,
        request: &DsRequest,
        signed: &[u8],
        leaf_index: u32,
        signature: &Signature,
    ) -> Result<Sender, Refusal> {
        let member = self
            .roster
            .member(leaf_index)
            .ok_or(Refusal::UnknownGroup)?;
        authenticate(member.scheme, &member.signature_key, signed, signature)?;
        check_sender(&request.sender, &member.client_id)?;
        self.is_alive()?;
        Ok(Sender {
            leaf: leaf_index,
            client_id: member.client_id.clone(),
            signature_key: member.signature_key.clone(),
        })
    }

    /// Whether the tree of an epoch is to be had for the client that was added with a KeyPackage
    /// in it and signed a request with it; and whether it has fetched that before.
    ///
    /// # Errors
    /// As for `authenticate_leaf`; `epoch_not_kept` when it comes too late.
    pub fn authenticate_joiner(
        &self,
        request: &DsRequest,
        signed: &[u8],
        fetching: &Fetching<'_>,
        now: u64,
    ) -> Result<bool, Refusal> {
        let joiner = self
            .facts
            .joiners
            .iter()
            .find(|j| j.reference == fetching.reference.as_slice() && j.epoch == fetching.epoch)
            .ok_or(Refusal::UnknownGroup)?;
        let key =
            PublicKey::new(joiner.signature_key.clone()).map_err(|_| Refusal::UnknownGroup)?;
        authenticate(self.scheme, &key, signed, fetching.signature)?;
        let client: ClientId = joiner.client.parse().map_err(|_| Refusal::UnknownGroup)?;
        check_sender(&request.sender, &client)?;
        self.is_alive()?;
        if joiner.may_fetch(now) {
            Ok(joiner.fetched_at.is_some())
        } else {
            Err(Refusal::EpochNotKept)
        }
    }

    /// Whether a client that its provider speaks for may join, or ask what that takes.
    ///
    /// # Errors
    /// `unknown_group` when its user does not belong there.
    pub fn admit(&self, client: &ClientId) -> Result<(), Refusal> {
        if !self.belongs(&client.user_id()) {
            return Err(Refusal::UnknownGroup);
        }
        self.is_alive()
    }

    /// Whether a user has a leaf, or is the invited one of a connection group.
    fn belongs(&self, user: &UserId) -> bool {
        self.roster.has_user(user) || self.invited().as_ref() == Some(user)
    }

    fn invited(&self) -> Option<UserId> {
        self.facts.invited.as_ref()?.parse().ok()
    }

    fn is_alive(&self) -> Result<(), Refusal> {
        match self.facts.ended_at {
            Some(_) => Err(Refusal::GroupDeleted),
            None => Ok(()),
        }
    }

    /// Where an application message by a member goes.
    ///
    /// # Errors
    /// `wrong_epoch` when it is of an epoch to come, or of one that is too long ago;
    /// `pending_proposals` while the owner wants somebody removed.
    pub fn message(
        &self,
        application: &Application,
        sender: &Sender,
        payload: &QueuePayload,
    ) -> Result<Vec<Outgoing>, Refusal> {
        let current = self.epoch();
        if application.epoch > current || application.epoch + KEPT_EPOCHS < current {
            return Err(Refusal::WrongEpoch { current });
        }
        if self.facts.pending.iter().any(|pending| pending.by_owner) {
            return Err(self.pending_first());
        }
        Ok(self.to_all(Some(sender.leaf), payload))
    }

    /// To every leaf, but not to the sender's.
    fn to_all(&self, sender_leaf: Option<u32>, payload: &QueuePayload) -> Vec<Outgoing> {
        let outgoing = |audience: &Arc<Audience>| Outgoing {
            audience: audience.clone(),
            except: sender_leaf.and_then(|leaf| audience.position(leaf)),
            payload: payload.clone(),
        };
        self.roster.audiences().iter().map(outgoing).collect()
    }

    /// The tree, as the content of a `ratchet_tree` extension.
    ///
    /// # Errors
    /// `limit_exceeded` when no answer holds it.
    pub fn ratchet_tree(&self) -> Result<TreeBytes, Refusal> {
        let tree = self.mls.export_ratchet_tree().tls_serialize_detached();
        let bytes = tree.ok().and_then(|bytes| TreeBytes::new(bytes).ok());
        bytes.ok_or(Refusal::LimitExceeded("the tree is too large"))
    }

    /// The GroupInfo of the current epoch, as an MLSMessage.
    ///
    /// # Errors
    /// `limit_exceeded` when it is too large to be handed out.
    pub fn group_info(&self) -> Result<HandshakeBytes, Refusal> {
        let partial = PartialGroupInfo::decode(&self.facts.partial_group_info).ok();
        partial
            .and_then(|partial| group_info::whole(&self.mls, partial, self.facts.signer))
            .ok_or(Refusal::LimitExceeded("the GroupInfo is too large"))
    }

    /// The providers of the members.
    #[must_use]
    pub fn providers(&self) -> BTreeSet<ProviderName> {
        let members = self.roster.members();
        members.map(|(_, m)| m.client_id.provider()).collect()
    }

    /// The hash of the tree, by which members compare theirs.
    #[must_use]
    pub fn tree_hash(&self) -> &[u8] {
        self.mls.group_context().tree_hash()
    }

    /// The hash of all commits so far, by which members compare theirs.
    #[must_use]
    pub fn confirmed_transcript_hash(&self) -> &[u8] {
        self.mls.group_context().confirmed_transcript_hash()
    }

    /// Whether the group has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.facts.ended_at.is_some()
    }

    /// The extensions of the GroupContext.
    ///
    /// # Errors
    /// `limit_exceeded` when they are too many or too large.
    pub fn context_extensions(&self) -> Result<Vec<Extension>, Refusal> {
        let bytes = self
            .mls
            .group_context()
            .extensions()
            .tls_serialize_detached();
        let all = bytes
            .ok()
            .and_then(|b| List::<Extension, 64>::decode(&b).ok());
        let too_large = "the extensions of the GroupContext are too many or too large";
        all.map(List::into_vec)
            .ok_or(Refusal::LimitExceeded(too_large))
    }

    /// What the group would list in `external_senders` if it were created now.
    #[must_use]
    pub fn current_ds_sender(&self, owner: &dyn Owner) -> Option<ExternalSender> {
        owner.ds_sender(CipherSuite(self.mls.ciphersuite().into()))
    }

    /// That no proposals are pending.
    ///
    /// # Errors
    /// `pending_proposals`.
    pub fn nothing_is_pending(&self) -> Result<(), Refusal> {
        if self.facts.pending.is_empty() {
            Ok(())
        } else {
            Err(self.pending_first())
        }
    }

    fn rbac(&self) -> Option<Rbac> {
        rbac_of(self.mls.group_context())
    }

    fn encode_snapshot(&self, values: Values) -> Vec<u8> {
        let snapshot = Snapshot {
            format: FORMAT,
            group_id: self.mls.group_id().to_vec(),
            values,
            facts: self.facts.clone(),
        };
        postcard::to_stdvec(&snapshot).expect("memory takes everything")
    }
}

fn rbac_of(context: &GroupContext) -> Option<Rbac> {
    let extension = context.extensions().unknown(extension_type::RBAC)?;
    Rbac::decode(&extension.0).ok()
}

fn moh_context(mls: &PublicGroup) -> Option<MohGroupContext> {
    let extension = mls
        .group_context()
        .extensions()
        .unknown(extension_type::MOH)?;
    MohGroupContext::decode(&extension.0).ok()
}

/// Whoever fails this gets what they would get for a group that does not exist.
fn authenticate(
    scheme: SignatureScheme,
    key: &PublicKey,
    signed: &[u8],
    signature: &Signature,
) -> Result<(), Refusal> {
    crypto::verify_with_label(scheme, key, label::DS_REQUEST, signed, signature.as_slice())
        .then_some(())
        .ok_or(Refusal::UnknownGroup)
}

fn check_sender(sender: &ProviderName, client: &ClientId) -> Result<(), Refusal> {
    if client.provider() == *sender {
        Ok(())
    } else {
        Err(Refusal::Unauthenticated(
            "sender is not the provider of this client",
        ))
    }
}
