//! A member's commit: whether it may be, and what becomes of the group.

use std::collections::BTreeSet;

use moh_messages::Message as _;
use moh_messages::{
    ClientId, KeyPackageRef, MlsBytes, Opaque, PartialGroupInfo, QueuePayload, Recipients, UserId,
    extension_type,
};
use openmls::prelude::{
    ExtensionType, KeyPackage, LeafNodeIndex, ProcessedMessageContent, ProposalType,
    PublicProcessMessageError, StageCommitError, StagedCommit, ValidationError,
};
use tls_codec::Serialize as _;

use super::leaf::{self, Entering};
use super::message::Handshake;
use super::roster::{self, Member};
use super::storage::Storage;
use super::welcome::Welcomes;
use super::{
    Applied, Checks, Entry, FORMAT, Group, Joiner, MIN_LOG_BYTES, Outgoing, Sender, Undecided,
    Unreadable, group_info,
};
use crate::crypto::Crypto;
use crate::error::Refusal;

/// What a commit is sent as; the rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitKind {
    /// Adds of users who have no leaf.
    AddUsers,
    /// A path, and nothing by value.
    UpdateClient,
}

/// A commit, as a member sends it.
pub struct CommitInput<'a> {
    /// What it is sent as.
    pub kind: CommitKind,
    /// Who signed the request.
    pub sender: &'a Sender,
    /// What the committer signed of the new epoch.
    pub partial_group_info: &'a PartialGroupInfo,
    /// For those who are added.
    pub welcomes: &'a [MlsBytes],
}

/// A commit that will do, and all that follows from it.
pub struct CommitDecision {
    staged: StagedCommit,
    entry: Entry,
    commit: QueuePayload,
    sender_leaf: u32,
    added: Vec<Added>,
    welcomes: Welcomes,
}

struct Added {
    reference: KeyPackageRef,
    client: ClientId,
    member: Member,
}

fn violation(what: &str) -> Refusal {
    Refusal::PolicyViolation(what.to_owned())
}

fn invalid(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::InvalidMessage(error.to_string())
}

impl Group {
    /// Whether a commit by a member, who is authenticated, may be.
    ///
    /// # Errors
    /// A refusal; or keys that are needed.
    pub fn commit(
        &self,
        handshake: Handshake,
        input: &CommitInput<'_>,
        checks: &Checks<'_>,
    ) -> Result<CommitDecision, Undecided> {
        let Handshake {
            message,
            bytes,
            epoch,
            sender_leaf,
            by_value,
            has_path,
            ..
        } = handshake;
        let Some(by_value) = by_value else {
            return Err(Refusal::InvalidMessage("not a commit".to_owned()).into());
        };
        if epoch != self.epoch() {
            return Err(Refusal::WrongEpoch {
                current: self.epoch(),
            }
            .into());
        }
        if sender_leaf != Some(input.sender.leaf) {
            return Err(invalid(&"leaf_index is not the sender of the commit").into());
        }
        self.check_roles(input.kind, input.sender)?;
        check_content(input.kind, &by_value, has_path)?;
        let tag = message
            .confirmation_tag()
            .and_then(|tag| tag.tls_serialize_detached().ok());
        let staged = self.stage(message, input.kind)?;

        let committer = self.check_committer(&staged, input, checks)?;
        let added = self.check_adds(&staged, checks)?;
        let max_members = checks.max_members.min(Recipients::MAX_ITEMS);
        if self.roster.len() + added.len() > max_members {
            return Err(Refusal::LimitExceeded("the group would have too many members").into());
        }
        let tag = tag
            .and_then(|tag| Opaque::<255>::decode(&tag).ok())
            .ok_or(Refusal::InvalidGroupInfo("no confirmation tag"))?;
        group_info::verify(
            staged.group_context(),
            tag.as_slice(),
            input.partial_group_info,
            input.sender.leaf,
            &committer,
        )?;
        let welcomes = Welcomes::read(input.welcomes, self.mls.ciphersuite().into())?;
        let references: Vec<_> = added.iter().map(|a| a.0.reference.clone()).collect();
        if !welcomes.are_for(&references) {
            return Err(violation("the Welcomes are for exactly those who are added").into());
        }
        let (added, joiners) = added.into_iter().unzip();
        let entry = Entry {
            format: FORMAT,
            accepted_at: checks.now,
            staged: postcard::to_stdvec(&staged).map_err(|e| invalid(&e))?,
            partial_group_info: input.partial_group_info.encode(),
            signer: input.sender.leaf,
            joiners,
            commit: bytes.clone(),
        };
        let commit = MlsBytes::new(bytes).map_err(|_| Refusal::LimitExceeded("commit"))?;
        let commit = QueuePayload::MlsMessage(commit);
        let sender_leaf = input.sender.leaf;
        Ok(CommitDecision {
            staged,
            entry,
            commit,
            sender_leaf,
            added,
            welcomes,
        })
    }

    fn check_roles(&self, kind: CommitKind, sender: &Sender) -> Result<(), Refusal> {
        let (CommitKind::AddUsers, Some(rbac)) = (kind, self.rbac()) else {
            return Ok(());
        };
        let is_admin = rbac.admins.contains(&sender.client_id.user_id());
        is_admin
            .then_some(())
            .ok_or(Refusal::Unauthorized("only admins add users to this group"))
    }

    /// RFC 9420's own rules.
    fn stage(
        &self,
        message: openmls::prelude::PublicMessageIn,
        kind: CommitKind,
    ) -> Result<StagedCommit, Refusal> {
        let processed = self
            .mls
            .process_message(&Crypto, message)
            .map_err(|error| refuse(error, kind))?;
        match processed.into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => Ok(*staged),
            _ => Err(invalid(&"not a commit")),
        }
    }

    /// The committer, with the leaf that it has afterwards.
    fn check_committer(
        &self,
        staged: &StagedCommit,
        input: &CommitInput<'_>,
        checks: &Checks<'_>,
    ) -> Result<Member, Undecided> {
        let index = LeafNodeIndex::new(input.sender.leaf);
        let before = self.mls.leaf(index).ok_or(Refusal::UnknownGroup)?;
        let Some(node) = staged.update_path_leaf_node() else {
            return Member::of(before, self.scheme).ok_or(Refusal::UnknownGroup.into());
        };
        let entering = Entering {
            node,
            replaces: Some(before),
        };
        let client = leaf::check(&entering, self.scheme, checks)?;
        if Some(client) != leaf::client_id(before) {
            return Err(violation("an UpdatePath keeps the ClientID").into());
        }
        Member::of(node, self.scheme).ok_or(violation("the leaf cannot be read").into())
    }

    fn check_adds(
        &self,
        staged: &StagedCommit,
        checks: &Checks<'_>,
    ) -> Result<Vec<(Added, Joiner)>, Undecided> {
        let mut clients = BTreeSet::new();
        let mut users: BTreeSet<UserId> = BTreeSet::new();
        let mut added = Vec::new();
        for add in staged.add_proposals() {
            let key_package = add.add_proposal().key_package();
            let node = key_package.leaf_node();
            let entering = Entering {
                node,
                replaces: None,
            };
            let client = leaf::check(&entering, self.scheme, checks)?;
            if self.roster.has_user(&client.user_id()) {
                return Err(violation("add_users is for users who have no leaf").into());
            }
            if !clients.insert(client.clone()) {
                return Err(violation("a client is added once").into());
            }
            users.insert(client.user_id());
            let for_connections = node.extensions().contains(ExtensionType::Unknown(
                extension_type::CONNECTION_KEY_PACKAGE,
            ));
            if for_connections && self.group_type == moh_messages::GroupType::Regular {
                return Err(violation("this KeyPackage is for connection groups").into());
            }
            added.push(self.added(key_package, client)?);
        }
        let connection = self.group_type == moh_messages::GroupType::Connection;
        if connection && !users.is_empty() && (users.len() > 1 || self.roster.users() > 1) {
            return Err(violation("a connection group holds two users").into());
        }
        Ok(added)
    }

    fn added(
        &self,
        key_package: &KeyPackage,
        client: ClientId,
    ) -> Result<(Added, Joiner), Refusal> {
        let reference = key_package.hash_ref(&Crypto).map_err(|e| invalid(&e))?;
        let member = Member::of(key_package.leaf_node(), self.scheme)
            .ok_or_else(|| violation("the leaf cannot be read"))?;
        let joiner = Joiner {
            reference: reference.as_slice().to_vec(),
            epoch: self.epoch() + 1,
            client: client.to_string(),
            signature_key: member.signature_key.as_slice().to_vec(),
            expires_at: key_package.life_time().not_after().saturating_mul(1000),
        };
        let reference = KeyPackageRef::new(reference.as_slice())
            .map_err(|_| invalid(&"a KeyPackageRef is a hash"))?;
        Ok((
            Added {
                reference,
                client,
                member,
            },
            joiner,
        ))
    }

    /// The group after a commit.
    ///
    /// # Errors
    /// When the decision is not of this group; the group is of no use then.
    pub fn apply(&mut self, decision: CommitDecision) -> Result<Applied, Unreadable> {
        let CommitDecision {
            staged,
            entry,
            commit,
            sender_leaf,
            added,
            welcomes,
        } = decision;
        let mut outgoing = self.to_all(sender_leaf, &commit);
        let bytes = postcard::to_stdvec(&entry).map_err(|_| Unreadable)?;
        self.log_bytes += bytes.len();
        let due = self.log_bytes > self.snapshot_bytes.max(MIN_LOG_BYTES);
        let storage = if due {
            Storage::catching()
        } else {
            Storage::discarding()
        };
        self.merge(&storage, staged, &entry)?;
        self.renew_roster()?;
        let snapshot = due.then(|| self.encode_snapshot(storage.into_values()));
        if let Some(snapshot) = &snapshot {
            self.snapshot_bytes = snapshot.len();
            self.log_bytes = 0;
        }
        outgoing.extend(self.welcome_all(&added, &welcomes)?);
        let kept = self.facts.joiners.iter().map(|j| j.epoch).min();
        Ok(Applied {
            version: self.version,
            epoch: self.epoch(),
            entry: bytes,
            snapshot,
            keep_from_epoch: kept.unwrap_or(u64::MAX).min(self.epoch()),
            outgoing,
        })
    }

    /// Each destination's part of the Welcomes, for the leaves there.
    fn welcome_all(
        &self,
        added: &[Added],
        welcomes: &Welcomes,
    ) -> Result<Vec<Outgoing>, Unreadable> {
        let providers: BTreeSet<_> = added.iter().map(|a| a.client.provider()).collect();
        let mut outgoing = Vec::new();
        for provider in providers {
            let here: Vec<_> = added
                .iter()
                .filter(|a| a.client.provider() == provider)
                .collect();
            let references: Vec<_> = here.iter().map(|a| a.reference.clone()).collect();
            for (welcome, whom) in welcomes.split(&references) {
                let mut members = here
                    .iter()
                    .filter(|a| whom.contains(&a.reference))
                    .map(|a| self.roster.leaf_of(&a.client).map(|leaf| (leaf, &a.member)))
                    .collect::<Option<Vec<_>>>()
                    .ok_or(Unreadable)?;
                members.sort_by_key(|(leaf, _)| *leaf);
                let payload = QueuePayload::MlsMessage(welcome);
                outgoing.extend(roster::audiences(members.into_iter()).into_iter().map(|a| {
                    Outgoing {
                        audience: a.into(),
                        except: None,
                        payload: payload.clone(),
                    }
                }));
            }
        }
        Ok(outgoing)
    }
}

/// What a commit may hold by value, and whether it needs a path.
fn check_content(kind: CommitKind, by_value: &[u16], has_path: bool) -> Result<(), Refusal> {
    match kind {
        CommitKind::AddUsers => {
            let add = u16::from(ProposalType::Add);
            if by_value.is_empty() || by_value.iter().any(|&t| t != add) {
                return Err(violation("add_users holds Adds, and nothing else by value"));
            }
        }
        CommitKind::UpdateClient => {
            if !by_value.is_empty() {
                return Err(violation("update_client holds no proposals by value"));
            }
            if !has_path {
                return Err(violation("update_client has a path"));
            }
        }
    }
    Ok(())
}

/// What openmls found, as the profile names it.
fn refuse(error: PublicProcessMessageError, kind: CommitKind) -> Refusal {
    use openmls::prelude::ProposalValidationError as P;
    let is_key_package = match &error {
        PublicProcessMessageError::ValidationError(
            ValidationError::KeyPackageVerifyError(_)
            | ValidationError::InvalidAddProposalCiphersuite,
        ) => true,
        PublicProcessMessageError::InvalidCommit(StageCommitError::ProposalValidationError(e)) => {
            matches!(
                e,
                P::DuplicateSignatureKey
                    | P::DuplicateEncryptionKey
                    | P::DuplicateInitKey
                    | P::InitEncryptionKeyCollision
                    | P::InsufficientCapabilities
                    | P::InvalidAddProposalCiphersuiteOrVersion
                    | P::LeafNodeValidation(_)
            )
        }
        _ => false,
    };
    if is_key_package && kind == CommitKind::AddUsers {
        Refusal::InvalidKeyPackage(error.to_string())
    } else {
        invalid(&error)
    }
}
