//! A group: its state, and what requests make of it.
//!
//! Everything in here is pure. A decision is a function of the group, the request and the time
//! that it is given; nothing waits, reads a clock, or knows of HTTP or of a store. What has to
//! be fetched first is said ([`Undecided::NeedsKeys`]), and the decision is asked for again.
//!
//! A group is stored as a snapshot and a log: a commit's entry holds what it changes in the
//! tree, not the tree, and the commit itself, so that the group can be rebuilt should the
//! format of the rest ever have to change.

mod commit;
mod create;
mod group_info;
mod key_package;
mod leaf;
mod message;
mod roster;
mod storage;
mod welcome;

pub use commit::{CommitDecision, CommitInput, CommitKind};
pub use create::{Creation, create};
pub use key_package::check_key_package;
pub use leaf::{KeyLookup, Keys};
pub use message::{Application, Handshake, read_application, read_handshake};
pub use roster::{Audience, Member, Roster};

use std::sync::Arc;

use moh_messages::{
    ClientId, DsRequest, GroupId, GroupType, KeyPackageRef, Message, MohGroupContext, ProviderName,
    PublicKey, QueuePayload, Rbac, Signature, SignatureScheme, TreeBytes, extension_type, label,
};
use openmls::prelude::{PublicGroup, StagedCommit};
use serde::{Deserialize, Serialize};
use tls_codec::Serialize as _;

use crate::change::Version;
use crate::crypto;
use crate::error::Refusal;
use crate::store::StoredGroup;
use storage::{Storage, Values};

/// The tag of what is stored. Another format gets another tag.
const FORMAT: u16 = 1;
/// Epochs before the current one whose application messages, and repeated messages, are taken.
pub const KEPT_EPOCHS: u64 = 5;
/// A log smaller than this is not worth a snapshot.
const MIN_LOG_BYTES: usize = 16 << 10;

/// What decisions are made with, besides the group and the request.
pub struct Checks<'a> {
    /// Milliseconds since the Unix epoch.
    pub now: u64,
    /// Providers' keys, as far as they are known.
    pub keys: &'a Keys<'a>,
    /// The most members that a group may have.
    pub max_members: usize,
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

/// A client that was added and may ask for the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Joiner {
    reference: Vec<u8>,
    epoch: u64,
    client: String,
    signature_key: Vec<u8>,
    expires_at: u64,
}

/// What we know of a group that its tree does not say.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    joiners: Vec<Joiner>,
    /// The GroupInfo's part that came with the last commit, and which leaf signed it.
    partial_group_info: Vec<u8>,
    signer: u32,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    format: u16,
    group_id: Vec<u8>,
    values: Values,
    facts: Facts,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    format: u16,
    accepted_at: u64,
    commit: Vec<u8>,
    staged: Vec<u8>,
    partial_group_info: Vec<u8>,
    signer: u32,
    joiners: Vec<Joiner>,
}

/// A group at one version.
pub struct Group {
    mls: PublicGroup,
    version: Version,
    group_type: GroupType,
    scheme: SignatureScheme,
    roster: Roster,
    facts: Facts,
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

/// What a change of a group has to leave behind.
pub struct Applied {
    /// The group's new version.
    pub version: Version,
    /// The group's new epoch.
    pub epoch: u64,
    /// For the log.
    pub entry: Vec<u8>,
    /// The whole state, when the log has grown past it.
    pub snapshot: Option<Vec<u8>>,
    /// The first epoch whose tree somebody may still ask for.
    pub keep_from_epoch: u64,
    /// What goes out.
    pub outgoing: Vec<Outgoing>,
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
            let staged = postcard::from_bytes(&entry.staged).map_err(|_| Unreadable)?;
            group.merge(&Storage::discarding(), staged, &entry)?;
            group.log_bytes += bytes.len();
        }
        group.renew_roster()?;
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
        let mut group = Self {
            mls,
            version,
            group_type: moh.group_type,
            scheme,
            roster: Roster::default(),
            facts,
            snapshot_bytes,
            log_bytes: 0,
        };
        group.renew_roster()?;
        Ok(group)
    }

    fn renew_roster(&mut self) -> Result<(), Unreadable> {
        let leaves = self
            .mls
            .treesync()
            .full_leaves()
            .map(|(index, node)| (index.u32(), node));
        self.roster = Roster::of(leaves, self.scheme, &self.roster).ok_or(Unreadable)?;
        Ok(())
    }

    /// The tree, the version and the facts after a commit; not the roster.
    fn merge(
        &mut self,
        storage: &Storage,
        staged: StagedCommit,
        entry: &Entry,
    ) -> Result<(), Unreadable> {
        self.mls
            .merge_commit(storage, staged)
            .map_err(|_| Unreadable)?;
        self.version += 1;
        let key = self
            .mls
            .leaf(openmls::prelude::LeafNodeIndex::new(entry.signer))
            .map(|leaf| leaf.signature_key().as_slice().to_vec());
        // Who has committed has the tree; who comes too late gets none.
        self.facts
            .joiners
            .retain(|j| j.expires_at > entry.accepted_at && key.as_ref() != Some(&j.signature_key));
        self.facts.joiners.extend(entry.joiners.iter().cloned());
        self.facts
            .partial_group_info
            .clone_from(&entry.partial_group_info);
        self.facts.signer = entry.signer;
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
        Ok(Sender {
            leaf: leaf_index,
            client_id: member.client_id.clone(),
            signature_key: member.signature_key.clone(),
        })
    }

    /// The client that was added with a KeyPackage in an epoch and signed a request with it.
    ///
    /// # Errors
    /// As for `authenticate_leaf`.
    pub fn authenticate_joiner(
        &self,
        request: &DsRequest,
        signed: &[u8],
        reference: &KeyPackageRef,
        epoch: u64,
        signature: &Signature,
    ) -> Result<(), Refusal> {
        let joiner = self
            .facts
            .joiners
            .iter()
            .find(|j| j.reference == reference.as_slice() && j.epoch == epoch)
            .ok_or(Refusal::UnknownGroup)?;
        let key =
            PublicKey::new(joiner.signature_key.clone()).map_err(|_| Refusal::UnknownGroup)?;
        authenticate(self.scheme, &key, signed, signature)?;
        let client: ClientId = joiner.client.parse().map_err(|_| Refusal::UnknownGroup)?;
        check_sender(&request.sender, &client)
    }

    /// Where an application message by a member goes.
    ///
    /// # Errors
    /// `wrong_epoch` when it is of an epoch to come, or of one that is too long ago.
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
        Ok(self.to_all(sender.leaf, payload))
    }

    fn to_all(&self, sender_leaf: u32, payload: &QueuePayload) -> Vec<Outgoing> {
        let outgoing = |audience: &Arc<Audience>| Outgoing {
            audience: audience.clone(),
            except: audience.position(sender_leaf),
            payload: payload.clone(),
        };
        self.roster.audiences().iter().map(outgoing).collect()
    }

    /// The tree, as the content of a `ratchet_tree` extension.
    ///
    /// # Errors
    /// `limit_exceeded` when it is too large to be handed out.
    pub fn ratchet_tree(&self) -> Result<TreeBytes, Refusal> {
        let too_large = Refusal::LimitExceeded("the tree has more than 16 MiB");
        let bytes = self
            .mls
            .export_ratchet_tree()
            .tls_serialize_detached()
            .map_err(|_| too_large.clone())?;
        TreeBytes::new(bytes).map_err(|_| too_large)
    }

    fn rbac(&self) -> Option<Rbac> {
        let extension = self
            .mls
            .group_context()
            .extensions()
            .unknown(extension_type::RBAC)?;
        Rbac::decode(&extension.0).ok()
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
