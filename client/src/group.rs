//! What a member does in a group: each becomes a request to the group's owner.

use std::sync::Arc;
use std::time::Duration;

use moh_messages::{
    AddMembers, ApplicationBytes, Attestation, ClientId, CreateGroup, DsAuth, DsProtocolVersion,
    DsRequest, DsRequestBody, DsResponseBody, Endpoint, GroupId, GroupType, GroupUpdate,
    HandshakeBytes, List, MAX_APPLICATION_BYTES, Message, MlsBytes, MlsGroupUpdate, Opaque,
    OutOfBounds, ProviderAuth, ProviderName, QueueConfig, RequestGroupId, SendMessage, Signature,
    SignedLast, UserId, extension_type, label,
};
use openmls::group::{CommitMessageBundle, MlsGroup};
use openmls::prelude::{KeyPackage, LeafNodeParameters};
use openmls_traits::OpenMlsProvider;
use tls_codec::Serialize;

use crate::api::{Api, Reply};
use crate::client::Client;
use crate::error::Error;
use crate::events::Operation;
use crate::mls::{self, LeafContent};
use crate::settle::{Verdict, load};
use crate::store::{Pending, Tx};

/// How much longer than its content a message is, at most, in bytes.
const MAX_MESSAGE_OVERHEAD_BYTES: usize = 1024;

/// The owner has taken a request: what it asked for is durable for everybody in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The group's epoch after it.
    pub epoch: u64,
    /// When the owner took it, in milliseconds since the Unix epoch.
    pub accepted_at: u64,
}

/// Clients were added to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// What the owner said.
    pub accepted: Accepted,
    /// Who is in the group now.
    pub clients: Vec<ClientId>,
    /// Clients of the user that have no KeyPackage that fits, and are not in the group.
    pub missing: Vec<ClientId>,
}

/// What a member wants; it is made into a request on the state that the group has then.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    Message(Vec<u8>),
    Add {
        key_packages: Vec<KeyPackage>,
        /// Of users who have a client in the group already.
        further_devices: bool,
    },
    Update {
        attestation: Attestation,
        /// Instead of the one that the leaf has.
        queue_config: Option<QueueConfig>,
    },
}

impl Intent {
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Message(_) => Operation::Message,
            Self::Add { .. } => Operation::Add,
            Self::Update { .. } => Operation::Update,
        }
    }
}

impl Client {
    /// Creates a group, owned by this client's provider, with this client as its only member.
    ///
    /// # Errors
    /// See [`Error`]; where it is [`Error::Unsettled`], the group may be there later.
    pub async fn create_group(&self) -> Result<GroupId, Error> {
        let attestation = self.attestation().await?;
        let queue_config = self.queue_config().await?;
        let (group_id, ds_sender) = self.request_group_id().await?;
        let leaf = LeafContent {
            attestation,
            queue_config,
        };
        let _guard = self.lock_group(&group_id).await;
        let (this, id) = (self.clone(), group_id.clone());
        let pending = self
            .store()
            .run(move |tx| this.prepare_group(tx, id, &ds_sender, &leaf))
            .await?;
        match self.submit(&pending).await? {
            Verdict::Accepted(_) => {
                self.accept(&pending, false).await?;
                Ok(group_id)
            }
            Verdict::Refused(error) => {
                self.discard(&pending, None).await?;
                Err(error)
            }
        }
    }

    async fn request_group_id(&self) -> Result<(GroupId, moh_messages::ExternalSender), Error> {
        let api = self.api();
        let body = DsRequestBody::RequestGroupId(RequestGroupId {
            cipher_suite: self.cipher_suite(),
        });
        let auth = DsAuth::Provider {
            on_behalf_of: api.client.clone(),
            provider_auth: ProviderAuth::blank(),
        };
        let request = ds_request(api, &api.provider, body, auth);
        match api
            .ask_owner(&api.provider, Endpoint::GroupOperation, request.encode())
            .await
        {
            Reply::Done(DsResponseBody::GroupId {
                group_id,
                ds_sender,
            }) => Ok((group_id, ds_sender)),
            Reply::Done(_) => Err(api.bad_answer("no group ID")),
            Reply::Refused(error) | Reply::Unknown(error) => Err(error),
        }
    }

    fn prepare_group(
        &self,
        tx: &Tx<'_>,
        group_id: GroupId,
        ds_sender: &moh_messages::ExternalSender,
        leaf: &LeafContent,
    ) -> Result<Pending, Error> {
        let api = self.api();
        let group = mls::create_group(
            tx,
            &self.identity(),
            group_id.as_slice(),
            leaf,
            ds_sender,
            api.now_ms(),
        )?;
        let leaf_node = group
            .own_leaf_node()
            .ok_or_else(|| Error::mls("no own leaf"))?;
        let leaf_node = leaf_node.tls_serialize_detached().map_err(Error::mls)?;
        let group_info = group
            .export_group_info(tx.crypto(), &api.signer, false)
            .map_err(Error::mls)?;
        let body = DsRequestBody::CreateGroup(CreateGroup {
            group_id: group_id.clone(),
            group_type: GroupType::Regular,
            leaf_node: Opaque::new(leaf_node)?,
            group_info: HandshakeBytes::new(group_info.to_bytes().map_err(Error::mls)?)?,
        });
        let pending = Pending {
            request: signed_by_leaf(api, &api.provider, body, 0)?,
            group: group_id,
            operation: Operation::CreateGroup,
            owner: api.provider.clone(),
            extra: Vec::new(),
        };
        tx.put_pending(&pending)?;
        Ok(pending)
    }

    /// Adds a user, with all of their clients, to a group. They must have consented to being
    /// added by this client's user.
    ///
    /// # Errors
    /// See [`Error`]; where there is no consent, [`Error::NoConsent`].
    pub async fn add_user(&self, group: &GroupId, user: &UserId) -> Result<Added, Error> {
        if self
            .members(group)
            .await?
            .iter()
            .any(|member| member.user_id() == *user)
        {
            return Err(Error::AlreadyMember(user.to_string()));
        }
        self.add(group, user, Vec::new(), false).await
    }

    /// Adds a further device of a user who is in a group already: a new device of this
    /// client's own user, say.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn add_device(&self, group: &GroupId, device: &ClientId) -> Result<Added, Error> {
        if self.members(group).await?.contains(device) {
            return Err(Error::AlreadyMember(device.to_string()));
        }
        self.add(group, &device.user_id(), vec![device.clone()], true)
            .await
    }

    async fn add(
        &self,
        group: &GroupId,
        user: &UserId,
        only: Vec<ClientId>,
        further_devices: bool,
    ) -> Result<Added, Error> {
        let fetched = self.fetch_key_packages(user, only).await?;
        let intent = Intent::Add {
            key_packages: fetched.key_packages,
            further_devices,
        };
        Ok(Added {
            accepted: self.operate(group, intent).await?,
            clients: fetched.clients,
            missing: fetched.missing,
        })
    }

    /// Sends a message to all members of a group.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Unsettled`] the message is stored, and goes out later.
    pub async fn send(
        &self,
        group: &GroupId,
        content: impl Into<Vec<u8>>,
    ) -> Result<Accepted, Error> {
        let content = content.into();
        let max = MAX_APPLICATION_BYTES - MAX_MESSAGE_OVERHEAD_BYTES;
        if content.len() > max {
            return Err(Error::TooLong(OutOfBounds {
                length: content.len(),
                min: 0,
                max,
            }));
        }
        self.operate(group, Intent::Message(content)).await
    }

    /// Renews this client's keys in a group, so that whoever had got hold of them reads no
    /// further. Do it now and then: a provider may remove clients that never do.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn update(&self, group: &GroupId) -> Result<Accepted, Error> {
        let intent = self.update_intent(None).await?;
        self.operate(group, intent).await
    }

    pub(crate) async fn update_intent(
        &self,
        queue_config: Option<QueueConfig>,
    ) -> Result<Intent, Error> {
        Ok(Intent::Update {
            attestation: self.attestation().await?,
            queue_config,
        })
    }

    async fn operate(&self, group: &GroupId, intent: Intent) -> Result<Accepted, Error> {
        let _guard = self.lock_group(group).await;
        self.settle(group).await?;
        self.carry_out(group, &Arc::new(intent), None, false).await
    }

    /// Makes the request, and the state of MLS that belongs to it, in one transaction. None
    /// where proposals of others have to be committed first.
    pub(crate) fn prepare(
        &self,
        tx: &Tx<'_>,
        group_id: &GroupId,
        intent: &Intent,
    ) -> Result<Option<Pending>, Error> {
        let api = self.api();
        let owner = tx
            .owner(group_id)?
            .ok_or_else(|| Error::UnknownGroup(group_id.clone()))?;
        let mut group = load(tx, group_id)?;
        let leaf_index = group.own_leaf_index().u32();
        let (operation, body, extra) = match intent {
            Intent::Message(_) if group.has_pending_proposals() => return Ok(None),
            Intent::Message(content) => {
                let message = group
                    .create_message(tx, &api.signer, content)
                    .map_err(Error::mls)?;
                let message = message.to_bytes().map_err(Error::mls)?;
                let body = DsRequestBody::SendMessage(SendMessage {
                    message: ApplicationBytes::new(message)?,
                });
                (Operation::Message, body, content.clone())
            }
            Intent::Add {
                key_packages,
                further_devices,
            } => {
                let builder = group
                    .commit_builder()
                    .force_self_update(true)
                    .propose_adds(key_packages.iter().cloned());
                let bundle = stage(tx, api, builder)?;
                let welcome = bundle
                    .to_welcome_msg()
                    .ok_or_else(|| Error::mls("no Welcome for those who are added"))?;
                let add = AddMembers {
                    group_update: group_update(&bundle)?,
                    welcomes: List::new(vec![MlsBytes::new(
                        welcome.to_bytes().map_err(Error::mls)?,
                    )?])?,
                };
                let body = if *further_devices {
                    DsRequestBody::AddClients(add)
                } else {
                    DsRequestBody::AddUsers(add)
                };
                (Operation::Add, body, Vec::new())
            }
            Intent::Update {
                attestation,
                queue_config,
            } => {
                let leaf = renewed_leaf(&group, attestation, queue_config.as_ref())?;
                let builder = group
                    .commit_builder()
                    .force_self_update(true)
                    .leaf_node_parameters(leaf);
                let body = DsRequestBody::UpdateClient(GroupUpdate {
                    group_update: group_update(&stage(tx, api, builder)?)?,
                });
                (Operation::Update, body, Vec::new())
            }
        };
        let pending = Pending {
            group: group_id.clone(),
            operation,
            request: signed_by_leaf(api, &owner, body, leaf_index)?,
            owner,
            extra,
        };
        if operation == Operation::Message {
            tx.delete_unsent(group_id)?;
        }
        tx.put_pending(&pending)?;
        Ok(Some(pending))
    }
}

type Builder<'g> = openmls::group::CommitBuilder<'g, openmls::group::Initial>;

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

fn group_update(bundle: &CommitMessageBundle) -> Result<MlsGroupUpdate, Error> {
    let group_info = bundle
        .group_info()
        .ok_or_else(|| Error::mls("no GroupInfo"))?;
    Ok(MlsGroupUpdate {
        commit: HandshakeBytes::new(bundle.commit().to_bytes().map_err(Error::mls)?)?,
        partial_group_info: mls::partial_group_info(group_info)?,
    })
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

pub(crate) fn ds_request(
    api: &Api,
    owner: &ProviderName,
    body: DsRequestBody,
    auth: DsAuth,
) -> DsRequest {
    DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: api.provider.clone(),
        recipient: owner.clone(),
        group_state_key: Opaque::empty(),
        body,
        auth,
    }
}

/// Signs a request with this client's key.
pub(crate) fn signed_request(api: &Api, mut request: DsRequest) -> Result<Vec<u8>, Error> {
    let signature = api.sign(label::DS_REQUEST, &request.to_be_signed())?;
    if let Some(place) = request.signature_mut() {
        *place = signature;
    }
    Ok(request.encode())
}

fn signed_by_leaf(
    api: &Api,
    owner: &ProviderName,
    body: DsRequestBody,
    leaf_index: u32,
) -> Result<Vec<u8>, Error> {
    let auth = DsAuth::Leaf {
        leaf_index,
        signature: Signature::empty(),
    };
    signed_request(api, ds_request(api, owner, body, auth))
}

/// How long somebody who was outrun waits, at most, before the attempt with this number.
pub(crate) fn max_pause(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt.min(5))
}
