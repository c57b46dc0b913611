//! What a member wants, and how it becomes a request on the state that the group has then.

use std::collections::BTreeSet;

use moh_messages::{
    AddMembers, ApplicationBytes, Attestation, ClientId, DsRequestBody, ExternalSender, GroupId,
    GroupUpdate, HandshakeBytes, List, MlsBytes, MlsGroupUpdate, QueueConfig, SelfRemoveClient,
    SendMessage, UserId, extension_type,
};
use openmls::group::{CommitMessageBundle, MlsGroup};
use openmls::prelude::{KeyPackage, LeafNodeIndex, LeafNodeParameters, Proposal};
use openmls_traits::OpenMlsProvider;

use super::request::signed_by_leaf;
use crate::api::Api;
use crate::client::Client;
use crate::error::Error;
use crate::events::Operation;
use crate::mls::{self, LeafContent};
use crate::settle::load;
use crate::store::{Pending, Tx};

/// What a member wants.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    Message(Vec<u8>),
    Add {
        key_packages: Vec<KeyPackage>,
        /// Of users who have a client in the group already.
        further_devices: bool,
    },
    RemoveUser(UserId),
    RemoveDevice(ClientId),
    Leave,
    Delete,
    SetAdmins(Vec<UserId>),
    SetOwnerKey(ExternalSender),
    Update {
        attestation: Attestation,
        /// Instead of the one that the leaf has.
        queue_config: Option<QueueConfig>,
    },
    /// To commit what others proposed, as long as there is something.
    CommitProposals(Attestation),
}

/// What an intent becomes.
pub(crate) enum Prepared {
    /// A request, which is stored now.
    Request(Pending),
    /// Proposals of others have to be committed first.
    ProposalsFirst,
    /// It is not needed any more.
    Needless,
}

impl Intent {
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Message(_) => Operation::Message,
            Self::Add { .. } => Operation::Add,
            Self::RemoveUser(_) | Self::RemoveDevice(_) => Operation::Remove,
            Self::Leave => Operation::Leave,
            Self::Delete => Operation::Delete,
            Self::SetAdmins(_) | Self::SetOwnerKey(_) => Operation::SetRoles,
            Self::Update { .. } | Self::CommitProposals(_) => Operation::Update,
        }
    }
}

/// The content of a request, and what is kept of it.
struct Content {
    operation: Operation,
    body: DsRequestBody,
    extra: Vec<u8>,
}

impl Content {
    fn without_extra(operation: Operation, body: DsRequestBody) -> Self {
        Self {
            operation,
            body,
            extra: Vec::new(),
        }
    }
}

impl Client {
    /// Makes the request, and the state of MLS that belongs to it, in one transaction.
    pub(crate) fn prepare(
        &self,
        tx: &Tx<'_>,
        group_id: &GroupId,
        intent: &Intent,
    ) -> Result<Prepared, Error> {
        let api = self.api();
        let owner = tx
            .owner(group_id)?
            .ok_or_else(|| Error::UnknownGroup(group_id.clone()))?;
        let mut group = load(tx, group_id)?;
        let leaf_index = group.own_leaf_index();
        if proposed_removals(&group).contains(&leaf_index) {
            return Err(Error::Leaving(group_id.clone()));
        }
        match intent {
            Intent::Message(_) if group.has_pending_proposals() => {
                return Ok(Prepared::ProposalsFirst);
            }
            Intent::CommitProposals(_) if !group.has_pending_proposals() => {
                return Ok(Prepared::Needless);
            }
            _ => {}
        }
        let content = self.content(tx, &mut group, intent)?;
        let pending = Pending {
            group: group_id.clone(),
            operation: content.operation,
            request: signed_by_leaf(api, &owner, content.body, leaf_index.u32())?,
            owner,
            extra: content.extra,
        };
        if pending.operation == Operation::Message {
            tx.delete_unsent(group_id)?;
        }
        tx.put_pending(&pending)?;
        Ok(Prepared::Request(pending))
    }

    fn content(
        &self,
        tx: &Tx<'_>,
        group: &mut MlsGroup,
        intent: &Intent,
    ) -> Result<Content, Error> {
        let api = self.api();
        match intent {
            Intent::Message(content) => message(tx, api, group, content),
            Intent::Add {
                key_packages,
                further_devices,
            } => add(tx, api, group, key_packages, *further_devices),
            Intent::RemoveUser(user) => {
                let leaves = leaves_of(group, |client| client.user_id() == *user);
                let absent = || Error::NotMember(user.to_string());
                remove(tx, api, group, leaves, absent, DsRequestBody::RemoveUsers)
            }
            Intent::RemoveDevice(device) => {
                let leaves = leaves_of(group, |client| client == device);
                let absent = || Error::NotMember(device.to_string());
                remove(tx, api, group, leaves, absent, DsRequestBody::RemoveClients)
            }
            Intent::Leave => leave(tx, api, group),
            Intent::Delete => delete(tx, api, group),
            Intent::SetAdmins(admins) => {
                let extension = mls::rbac_extension(admins)?;
                set_context(tx, api, group, extension)
            }
            Intent::SetOwnerKey(ds_sender) => {
                let extension = mls::external_senders_extension(ds_sender)?;
                set_context(tx, api, group, extension)
            }
            Intent::Update {
                attestation,
                queue_config,
            } => update(tx, api, group, attestation, queue_config.as_ref()),
            Intent::CommitProposals(attestation) => update(tx, api, group, attestation, None),
        }
    }
}

fn message(tx: &Tx<'_>, api: &Api, group: &mut MlsGroup, content: &[u8]) -> Result<Content, Error> {
    let message = group
        .create_message(tx, &api.signer, content)
        .map_err(Error::mls)?;
    let message = ApplicationBytes::new(message.to_bytes().map_err(Error::mls)?)?;
    Ok(Content {
        operation: Operation::Message,
        body: DsRequestBody::SendMessage(SendMessage { message }),
        extra: content.to_vec(),
    })
}

fn add(
    tx: &Tx<'_>,
    api: &Api,
    group: &mut MlsGroup,
    key_packages: &[KeyPackage],
    further_devices: bool,
) -> Result<Content, Error> {
    let builder = commit(group).propose_adds(key_packages.iter().cloned());
    let bundle = stage(tx, api, builder)?;
    let welcome = bundle
        .to_welcome_msg()
        .ok_or_else(|| Error::mls("no Welcome for those who are added"))?;
    let welcome = MlsBytes::new(welcome.to_bytes().map_err(Error::mls)?)?;
    let add = AddMembers {
        group_update: group_update(&bundle)?,
        welcomes: List::new(vec![welcome])?,
    };
    let body = if further_devices {
        DsRequestBody::AddClients(add)
    } else {
        DsRequestBody::AddUsers(add)
    };
    Ok(Content::without_extra(Operation::Add, body))
}

fn remove(
    tx: &Tx<'_>,
    api: &Api,
    group: &mut MlsGroup,
    leaves: BTreeSet<LeafNodeIndex>,
    absent: impl FnOnce() -> Error,
    body: fn(GroupUpdate) -> DsRequestBody,
) -> Result<Content, Error> {
    if leaves.is_empty() {
        return Err(absent());
    }
    if leaves.contains(&group.own_leaf_index()) {
        return Err(Error::Oneself);
    }
    let proposed = proposed_removals(group);
    let missing: Vec<_> = leaves.difference(&proposed).copied().collect();
    // Where others have proposed all of it already, what remains is to commit that.
    let body = match missing[..] {
        [] => DsRequestBody::UpdateClient,
        _ => body,
    };
    let builder = commit(group).propose_removals(missing);
    let group_update = group_update(&stage(tx, api, builder)?)?;
    let body = body(GroupUpdate { group_update });
    Ok(Content::without_extra(Operation::Remove, body))
}

/// Proposes the own removal, which is pending here too from now on.
fn leave(tx: &Tx<'_>, api: &Api, group: &mut MlsGroup) -> Result<Content, Error> {
    let proposal = group.leave_group(tx, &api.signer).map_err(Error::mls)?;
    let proposal = HandshakeBytes::new(proposal.to_bytes().map_err(Error::mls)?)?;
    let body = DsRequestBody::SelfRemoveClient(SelfRemoveClient { proposal });
    Ok(Content::without_extra(Operation::Leave, body))
}

fn delete(tx: &Tx<'_>, api: &Api, group: &mut MlsGroup) -> Result<Content, Error> {
    let mut others: BTreeSet<_> = group.members().map(|member| member.index).collect();
    others.remove(&group.own_leaf_index());
    let proposed = proposed_removals(group);
    let missing: Vec<_> = others.difference(&proposed).copied().collect();
    let builder = commit(group).propose_removals(missing);
    let group_update = group_update(&stage(tx, api, builder)?)?;
    let body = DsRequestBody::DeleteGroup(GroupUpdate { group_update });
    Ok(Content::without_extra(Operation::Delete, body))
}

/// Replaces one extension of the GroupContext.
fn set_context(
    tx: &Tx<'_>,
    api: &Api,
    group: &mut MlsGroup,
    extension: openmls::extensions::Extension,
) -> Result<Content, Error> {
    let mut extensions = group.extensions().clone();
    extensions.add_or_replace(extension).map_err(Error::mls)?;
    let builder = commit(group)
        .propose_group_context_extensions(extensions)
        .map_err(Error::mls)?;
    let group_update = group_update(&stage(tx, api, builder)?)?;
    let body = DsRequestBody::SetRoles(GroupUpdate { group_update });
    Ok(Content::without_extra(Operation::SetRoles, body))
}

fn update(
    tx: &Tx<'_>,
    api: &Api,
    group: &mut MlsGroup,
    attestation: &Attestation,
    queue_config: Option<&QueueConfig>,
) -> Result<Content, Error> {
    let leaf = renewed_leaf(group, attestation, queue_config)?;
    let builder = commit(group).leaf_node_parameters(leaf);
    let group_update = group_update(&stage(tx, api, builder)?)?;
    let body = DsRequestBody::UpdateClient(GroupUpdate { group_update });
    Ok(Content::without_extra(Operation::Update, body))
}

/// The own leaf with a newer attestation, and perhaps another queue.
fn renewed_leaf(
    group: &MlsGroup,
    attestation: &Attestation,
    queue_config: Option<&QueueConfig>,
) -> Result<LeafNodeParameters, Error> {
    let own = group
        .own_leaf_node()
        .ok_or_else(|| Error::mls("no own leaf"))?;
    let queue_config = match queue_config {
        Some(new) => new.clone(),
        None => mls::leaf_extension(own, extension_type::QUEUE_CONFIG)
            .ok_or_else(|| Error::mls("the own leaf has no queue config"))?,
    };
    let leaf = LeafContent {
        attestation: attestation.clone(),
        queue_config,
    };
    Ok(LeafNodeParameters::builder()
        .with_extensions(leaf.extensions()?)
        .build())
}

type Builder<'g> = openmls::group::CommitBuilder<'g, openmls::group::Initial>;

/// A commit with all that is pending, and with a path.
fn commit(group: &mut MlsGroup) -> Builder<'_> {
    group.commit_builder().force_self_update(true)
}

/// Builds the commit; the group has it as its pending commit.
fn stage(tx: &Tx<'_>, api: &Api, builder: Builder<'_>) -> Result<CommitMessageBundle, Error> {
    builder
        .load_psks(tx.storage())
        .map_err(Error::mls)?
        .create_group_info(true)
        .use_ratchet_tree_extension(false)
        .build(tx.rand(), tx.crypto(), &api.signer, |_| true)
        .map_err(Error::mls)?
        .stage_commit(tx)
        .map_err(Error::mls)
}

/// A commit as its owner takes it.
pub(crate) fn group_update(bundle: &CommitMessageBundle) -> Result<MlsGroupUpdate, Error> {
    let group_info = bundle
        .group_info()
        .ok_or_else(|| Error::mls("no GroupInfo"))?;
    Ok(MlsGroupUpdate {
        commit: HandshakeBytes::new(bundle.commit().to_bytes().map_err(Error::mls)?)?,
        partial_group_info: mls::partial_group_info(group_info)?,
    })
}

/// The leaves that pending proposals remove.
pub(super) fn proposed_removals(group: &MlsGroup) -> BTreeSet<LeafNodeIndex> {
    group
        .pending_proposals()
        .filter_map(|pending| match pending.proposal() {
            Proposal::Remove(remove) => Some(remove.removed()),
            _ => None,
        })
        .collect()
}

fn leaves_of(group: &MlsGroup, is_meant: impl Fn(&ClientId) -> bool) -> BTreeSet<LeafNodeIndex> {
    group
        .members()
        .filter(|member| mls::client_of(&member.credential).is_some_and(|client| is_meant(&client)))
        .map(|member| member.index)
        .collect()
}
