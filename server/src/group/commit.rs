//! A commit: whether it may be, and what is to become of the group.

use std::collections::BTreeSet;

use moh_messages::Message as _;
use moh_messages::{ClientId, GroupType, MlsBytes, Opaque, PartialGroupInfo, QueuePayload, UserId};
use openmls::prelude::{
    ProcessedMessageContent, PublicProcessMessageError, StageCommitError, StagedCommit,
    ValidationError,
};
use tls_codec::Serialize as _;

use super::apply::{Added, Asks, Change, Decision};
use super::message::{CommitContent, Content, Handshake, Origin, Proposal};
use super::rules::{CommitRules, Committer, Proposed, Roles};
use super::stored::{Joiner, Pending, REJOIN_WINDOW_MS};
use super::welcome::Welcomes;
use super::{Checks, Group, Sender, Undecided, group_info};
use crate::crypto::Crypto;
use crate::error::{Refusal, invalid, violation};

/// A commit, as it was submitted.
pub struct CommitInput<'a> {
    /// The rules of what it was submitted as.
    pub rules: &'a CommitRules,
    /// Who submitted it.
    pub by: Submitter<'a>,
    /// What the committer signed of the new epoch.
    pub partial_group_info: &'a PartialGroupInfo,
    /// For those who are added.
    pub welcomes: &'a [MlsBytes],
}

/// Who submits a commit.
#[derive(Clone, Copy)]
pub enum Submitter<'a> {
    /// A member, who signed the request.
    Member(&'a Sender),
    /// A client whose provider signed.
    Client(&'a ClientId),
}

/// A commit that will do, and all that follows from it.
pub(super) struct CommitDecision {
    pub(super) message: Vec<u8>,
    pub(super) commit: QueuePayload,
    pub(super) staged: StagedCommit,
    pub(super) staged_bytes: Vec<u8>,
    pub(super) partial_group_info: Vec<u8>,
    /// The committer, its leaf before, and after.
    pub(super) committer: ClientId,
    pub(super) leaf_before: Option<u32>,
    pub(super) signer: u32,
    /// Whether it joins by it.
    pub(super) joins: bool,
    pub(super) ends_group: bool,
    pub(super) added: Vec<Added>,
    pub(super) joiners: Vec<Joiner>,
    pub(super) welcomes: Welcomes,
    pub(super) invited: Option<UserId>,
    /// What the owner proposes anew.
    pub(super) proposed: Vec<Pending>,
}

impl CommitDecision {
    /// Who is asked by it to be connected.
    pub(super) fn asks(&self) -> Option<Asks> {
        self.invited.as_ref().map(|responder| Asks {
            requester: self.committer.clone(),
            responder: responder.clone(),
        })
    }

    /// About how long its entry in the log is, in bytes.
    pub(super) fn size(&self) -> usize {
        self.message.len() + self.staged_bytes.len() + self.partial_group_info.len()
    }
}

/// Who commits: the client, and its leaf before, if it has one.
pub(super) struct Author {
    pub(super) client: ClientId,
    pub(super) leaf: Option<u32>,
    pub(super) joins: bool,
}

impl Group {
    /// Whether a commit may be.
    ///
    /// # Errors
    /// A refusal; or keys that are needed.
    pub fn commit(
        &self,
        handshake: Handshake,
        input: &CommitInput<'_>,
        checks: &Checks<'_>,
    ) -> Result<Decision, Undecided> {
        let Content::Commit(content) = &handshake.content else {
            return Err(invalid("not a commit").into());
        };
        let current = self.epoch();
        if handshake.epoch != current {
            return Err(Refusal::WrongEpoch { current }.into());
        }
        let author = self.author(handshake.origin, content, input)?;
        let removed = self.check_pending(content, &author)?;
        self.check_before(input, &author, content, &removed, checks)?;

        let tag = handshake.message.confirmation_tag();
        let tag = tag.and_then(|tag| tag.tls_serialize_detached().ok());
        let tag = tag.and_then(|tag| Opaque::<255>::decode(&tag).ok());
        let adds = content
            .by_value
            .iter()
            .any(|p| matches!(p, Proposal::Add(_)));
        let staged = self.stage(handshake.message, adds)?;

        let (signer, committer) = self.check_committer(&staged, &author, &removed, checks)?;
        let added = self.check_adds(&staged, &removed, checks)?;
        Self::check_added_keys(&committer, &added)?;
        self.check_admins(&staged, content, &author, &removed, &added)?;
        self.check_sizes(&author, &removed, &added, checks)?;
        group_info::verify(
            staged.group_context(),
            tag.ok_or(Refusal::InvalidGroupInfo("no confirmation tag"))?
                .as_slice(),
            input.partial_group_info,
            signer,
            &committer,
        )?;
        let welcomes = Welcomes::read(input.welcomes, self.mls.ciphersuite().into())?;
        let references: Vec<_> = added.iter().map(|a| a.0.reference.clone()).collect();
        if !welcomes.are_for(&references) {
            return Err(violation("the Welcomes are for exactly those who are added").into());
        }
        let is_connection = self.group_type == GroupType::Connection;
        let invited = added.first().map(|(added, _)| added.client.user_id());
        let invited = invited.filter(|user| is_connection && !self.belongs(user));
        if invited.is_some() && input.welcomes.len() > 1 {
            return Err(violation("a user is invited by one Welcome").into());
        }
        let (added, joiners) = added.into_iter().unzip();
        let commit = MlsBytes::new(handshake.bytes.as_slice());
        Ok(Decision(Change::Commit(Box::new(CommitDecision {
            commit: QueuePayload::MlsMessage(commit.map_err(invalid)?),
            message: handshake.bytes,
            staged_bytes: postcard::to_stdvec(&staged).map_err(invalid)?,
            staged,
            partial_group_info: input.partial_group_info.encode(),
            committer: author.client,
            leaf_before: author.leaf,
            signer,
            joins: author.joins,
            ends_group: input.rules.ends_group,
            added,
            joiners,
            welcomes,
            invited,
            proposed: self.proposed_anew(author.joins, checks),
        }))))
    }

    /// Who commits, as the message and whoever submitted it say.
    fn author(
        &self,
        origin: Origin,
        content: &CommitContent,
        input: &CommitInput<'_>,
    ) -> Result<Author, Refusal> {
        match (input.rules.by, origin, input.by) {
            (Committer::Member, Origin::Member(leaf), Submitter::Member(sender))
                if leaf == sender.leaf =>
            {
                Ok(Author {
                    client: sender.client_id.clone(),
                    leaf: Some(leaf),
                    joins: false,
                })
            }
            (Committer::NewMember, Origin::NewMember, by) => self.newcomer(content, by),
            _ => Err(invalid("leaf_index is not the sender of the commit")),
        }
    }

    fn newcomer(&self, content: &CommitContent, by: Submitter<'_>) -> Result<Author, Refusal> {
        let removes = |leaf: &Proposal| match leaf {
            Proposal::Remove(leaf) => Some(*leaf),
            _ => None,
        };
        let removed = content.by_value.iter().find_map(removes);
        let named = content.path.as_ref().and_then(|path| path.client.as_ref());
        let client = match by {
            Submitter::Member(sender) => {
                if removed != Some(sender.leaf) {
                    return Err(invalid("leaf_index is not the leaf that joins again"));
                }
                &sender.client_id
            }
            Submitter::Client(client) => {
                if named != Some(client) {
                    let what = "on_behalf_of is not the client that joins";
                    return Err(Refusal::Unauthenticated(what));
                }
                client
            }
        };
        Ok(Author {
            client: client.clone(),
            leaf: self.roster.leaf_of(client),
            joins: true,
        })
    }

    /// The leaves that the commit removes, when it takes all that is pending.
    fn check_pending(
        &self,
        content: &CommitContent,
        author: &Author,
    ) -> Result<BTreeSet<u32>, Refusal> {
        if author.leaf.is_some_and(|leaf| self.is_targeted(leaf)) {
            return Err(violation("this client is about to be removed"));
        }
        let references: BTreeSet<_> = content.references.iter().collect();
        if references.len() < content.references.len() {
            return Err(invalid("a proposal is taken once"));
        }
        let mut removed = BTreeSet::new();
        if !author.joins {
            let taken = |reference| references.contains(reference);
            if !self.references.iter().all(taken) {
                return Err(self.pending_first());
            }
            removed = self.targets();
        }
        let mut added = BTreeSet::new();
        for proposal in &content.by_value {
            match proposal {
                Proposal::Remove(leaf) if !removed.insert(*leaf) => {
                    return Err(violation("a leaf is removed once"));
                }
                Proposal::Add(Some(client)) if !added.insert(client) => {
                    return Err(violation("a client is added once"));
                }
                _ => {}
            }
        }
        Ok(removed)
    }

    /// The rules that come before RFC 9420's own.
    fn check_before(
        &self,
        input: &CommitInput<'_>,
        author: &Author,
        content: &CommitContent,
        removed: &BTreeSet<u32>,
        checks: &Checks<'_>,
    ) -> Result<(), Refusal> {
        self.check_roles(input.rules.roles, &author.client)?;
        if author.joins && author.leaf.is_some() {
            self.check_rejoins(&author.client, checks)?;
        }
        (input.rules.check)(&Proposed {
            group: self,
            checks,
            leaf: author.leaf,
            client: &author.client,
            content,
            removed,
        })
    }

    fn check_roles(&self, roles: Roles, client: &ClientId) -> Result<(), Refusal> {
        let Some(rbac) = self.rbac() else {
            return Ok(());
        };
        let may = match roles {
            Roles::Everybody => true,
            Roles::Admins => rbac.admins.contains(&client.user_id()),
            Roles::AdminsIfAny => {
                rbac.admins.contains(&client.user_id()) || !self.has_admin(&BTreeSet::new())
            }
        };
        may.then_some(())
            .ok_or(Refusal::Unauthorized("only admins do this in this group"))
    }

    fn check_rejoins(&self, client: &ClientId, checks: &Checks<'_>) -> Result<(), Refusal> {
        let lately = |at: u64| at.saturating_add(REJOIN_WINDOW_MS) > checks.now;
        let times = self.facts.rejoins.iter();
        let times = times.filter(|(who, at)| who == client.as_str() && lately(*at));
        let times: Vec<u64> = times.map(|(_, at)| *at).collect();
        if times.len() < checks.limits.max_rejoins_per_hour {
            return Ok(());
        }
        let first = times.first().copied().unwrap_or(checks.now);
        let wait_ms = first
            .saturating_add(REJOIN_WINDOW_MS)
            .saturating_sub(checks.now);
        Err(Refusal::RateLimited {
            reason: "this client joins again too often",
            retry_after_seconds: u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX),
        })
    }

    /// RFC 9420's own rules.
    fn stage(
        &self,
        message: openmls::prelude::PublicMessageIn,
        adds: bool,
    ) -> Result<StagedCommit, Refusal> {
        let processed = self
            .mls
            .process_message(&Crypto, message)
            .map_err(|error| refuse(error, adds))?;
        match processed.into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => Ok(*staged),
            _ => Err(invalid("not a commit")),
        }
    }

    /// The owner's Removes, for the epoch after a join, which takes none of what is pending.
    fn proposed_anew(&self, joins: bool, checks: &Checks<'_>) -> Vec<Pending> {
        if !joins {
            return Vec::new();
        }
        let targets = self.facts.pending.iter().map(|pending| pending.target);
        let epoch = self.epoch() + 1;
        let removes = self.removes(targets, epoch, self.ds_sender(), checks.owner);
        removes.unwrap_or_default()
    }
}

/// What openmls found, as the profile names it.
fn refuse(error: PublicProcessMessageError, adds: bool) -> Refusal {
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
    if is_key_package && adds {
        Refusal::InvalidKeyPackage(error.to_string())
    } else {
        invalid(error)
    }
}
