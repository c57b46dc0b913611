//! The creation of a group.

use moh_messages::{
    CreateGroup, DsRequestBody, DsResponseBody, Endpoint, ExternalSender, GroupId, GroupType,
    HandshakeBytes, Opaque, ProviderName, RequestGroupId, UserId,
};
use openmls_traits::OpenMlsProvider;
use tls_codec::Serialize;

use super::request::{for_provider, signed_by_leaf};
use crate::api::Reply;
use crate::client::Client;
use crate::error::Error;
use crate::events::Operation;
use crate::mls::{self, GroupContent, LeafContent};
use crate::settle::Verdict;
use crate::store::{ConnectionRow, Pending, Step, Tx};

/// What a new group is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOptions {
    /// Who may add and remove users, delete the group and say who its admins are. If there is
    /// nobody here, every member may do all of that, and it stays so.
    pub admins: Vec<UserId>,
    /// What kind of group it is.
    pub group_type: GroupType,
}

impl Default for GroupOptions {
    /// A group of any users, without admins.
    fn default() -> Self {
        Self {
            admins: Vec::new(),
            group_type: GroupType::Regular,
        }
    }
}

impl Client {
    /// Creates a group, owned by this client's provider, with this client as its only member
    /// and without admins.
    ///
    /// # Errors
    /// See [`Error`]; where it is [`Error::Unsettled`], the group may be there later.
    pub async fn create_group(&self) -> Result<GroupId, Error> {
        self.create_group_with(GroupOptions::default()).await
    }

    /// Creates a group, owned by this client's provider, with this client as its only member.
    /// Where it has admins, this client's user has to be one of them.
    ///
    /// # Errors
    /// See [`Error`]; where it is [`Error::Unsettled`], the group may be there later.
    pub async fn create_group_with(&self, options: GroupOptions) -> Result<GroupId, Error> {
        self.create(options, None).await
    }

    /// The same; where a peer is to be asked there, what this client is about with it is stored
    /// together with the request.
    pub(crate) async fn create(
        &self,
        options: GroupOptions,
        peer: Option<UserId>,
    ) -> Result<GroupId, Error> {
        let attestation = self.attestation().await?;
        let queue_config = self.queue_config().await?;
        let (group_id, ds_sender) = self.request_group_id(&self.api().provider).await?;
        let content = GroupContent { ds_sender, options };
        let leaf = LeafContent {
            attestation,
            queue_config,
        };
        let _guard = self.lock_group(&group_id).await;
        let (this, id) = (self.clone(), group_id.clone());
        let pending = self
            .store()
            .run(move |tx| {
                if let Some(peer) = peer {
                    if tx.connection(&peer)?.is_some() {
                        return Err(Error::AlreadyConnected(peer));
                    }
                    let (step, now_ms) = (Step::Asking, this.api().now_ms());
                    tx.put_connection(&ConnectionRow::new(peer, step, now_ms, Some(id.clone())))?;
                }
                this.prepare_group(tx, id, &content, &leaf)
            })
            .await?;
        match self.submit(&pending).await? {
            Verdict::Accepted(_) => {
                self.take_up(&pending, false).await?;
                Ok(group_id)
            }
            Verdict::Refused(error) => {
                self.discard(&pending, &error, false).await?;
                Err(error)
            }
        }
    }

    /// A name for a new group of this owner, and the key that it signs its proposals with.
    pub(crate) async fn request_group_id(
        &self,
        owner: &ProviderName,
    ) -> Result<(GroupId, ExternalSender), Error> {
        let api = self.api();
        let body = DsRequestBody::RequestGroupId(RequestGroupId {
            cipher_suite: self.cipher_suite(),
        });
        let request = for_provider(api, owner, body);
        match api
            .ask_owner(owner, Endpoint::GroupOperation, request)
            .await
        {
            Reply::Done(DsResponseBody::GroupId {
                group_id,
                ds_sender,
            }) => Ok((group_id, ds_sender)),
            Reply::Done(_) => Err(Error::BadAnswer {
                by: owner.clone(),
                detail: "no group ID".to_owned(),
            }),
            Reply::Refused(error) | Reply::Unknown(error) => Err(error),
        }
    }

    fn prepare_group(
        &self,
        tx: &Tx<'_>,
        group_id: GroupId,
        content: &GroupContent,
        leaf: &LeafContent,
    ) -> Result<Pending, Error> {
        let api = self.api();
        let group = mls::create_group(
            tx,
            &self.identity(),
            group_id.as_slice(),
            leaf,
            content,
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
            group_type: content.options.group_type,
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
}
