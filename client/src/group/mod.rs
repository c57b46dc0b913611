//! What a member does in a group: each becomes a request to the group's owner.

mod create;
mod intent;
mod request;

use std::sync::Arc;

use moh_messages::{ClientId, GroupId, MAX_APPLICATION_BYTES, OutOfBounds, QueueConfig, UserId};

use crate::client::Client;
use crate::connections;
use crate::error::Error;
use crate::mls;
use crate::settle::{end_group, load};

pub use create::GroupOptions;
pub(crate) use intent::{Intent, Prepared, group_update};
pub(crate) use request::{ds_request, for_provider, signed_by_leaf, signed_request};

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

impl Client {
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
        let id = group.clone();
        let suite = self
            .store()
            .run(move |tx| Ok::<_, Error>(mls::suite_of(load(tx, &id)?.ciphersuite())))
            .await?;
        let fetched = self.fetch_key_packages(user, only, suite).await?;
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

    /// Removes a user, with all of their clients, from a group.
    ///
    /// # Errors
    /// See [`Error`]; for this client's own user it is [`Error::Oneself`].
    pub async fn remove_user(&self, group: &GroupId, user: &UserId) -> Result<Accepted, Error> {
        self.operate(group, Intent::RemoveUser(user.clone())).await
    }

    /// Removes another device of this client's user from a group.
    ///
    /// # Errors
    /// See [`Error`]; for this client itself it is [`Error::Oneself`].
    pub async fn remove_device(
        &self,
        group: &GroupId,
        device: &ClientId,
    ) -> Result<Accepted, Error> {
        self.operate(group, Intent::RemoveDevice(device.clone()))
            .await
    }

    /// Leaves a group. This client is a member until somebody else commits its proposal, which
    /// every change and most messages of others do: then it sees
    /// [`Event::Removed`](crate::Event::Removed), and its state of the group is deleted. It reads
    /// what is written until then, and cannot write or change the group any more.
    ///
    /// # Errors
    /// See [`Error`]. The owner refuses where nobody else would be left, or no admin: see
    /// [`delete_group`](Self::delete_group).
    pub async fn leave(&self, group: &GroupId) -> Result<Accepted, Error> {
        self.operate(group, Intent::Leave).await
    }

    /// Whether this client is about to be removed from a group: it, or the group's owner, has
    /// proposed that, and nobody has committed it yet.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn is_leaving(&self, group: &GroupId) -> Result<bool, Error> {
        Ok(self.leaving(group).await?.contains(self.client_id()))
    }

    /// The members that are about to be removed from a group: they, or the group's owner, have
    /// proposed that, and nobody has committed it yet.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn leaving(&self, group: &GroupId) -> Result<Vec<ClientId>, Error> {
        let id = group.clone();
        self.store()
            .run(move |tx| {
                tx.owner(&id)?
                    .ok_or_else(|| Error::UnknownGroup(id.clone()))?;
                let group = load(tx, &id)?;
                let leaves = intent::proposed_removals(&group);
                let leaving = group
                    .members()
                    .filter(|member| leaves.contains(&member.index));
                Ok(leaving
                    .filter_map(|member| mls::client_of(&member.credential))
                    .collect())
            })
            .await
    }

    /// Ends a group for all of its members. When this returns it is gone here too; the others
    /// see it as [`Event::Removed`](crate::Event::Removed).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_group(&self, group: &GroupId) -> Result<Accepted, Error> {
        self.operate(group, Intent::Delete).await
    }

    /// Deletes this client's state of a group, and tells nobody: for a group that its owner does
    /// not know any more, or that cannot be joined again. What still arrives for it is left out.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn forget_group(&self, group: &GroupId) -> Result<(), Error> {
        let _guard = self.lock_group(group).await;
        let (id, now_ms) = (group.clone(), self.api().now_ms());
        self.store()
            .run(move |tx| {
                let owner = tx.owner(&id)?;
                let owner = owner.ok_or_else(|| Error::UnknownGroup(id.clone()))?;
                if let Some(connection) = tx.connection_of(&id)? {
                    connections::withdraw_later(tx, connection)?;
                }
                tx.delete_ending(&id)?;
                tx.delete_pending(&id)?;
                tx.delete_unsent(&id)?;
                tx.drop_staged(&id)?;
                tx.drop_parked(&id, &owner)?;
                Ok(end_group(tx, &id, now_ms)?)
            })
            .await
    }

    /// Who may add and remove users, delete a group and say who its admins are; none where
    /// every member may.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn admins(&self, group: &GroupId) -> Result<Option<Vec<UserId>>, Error> {
        let id = group.clone();
        self.store()
            .run(move |tx| {
                tx.owner(&id)?
                    .ok_or_else(|| Error::UnknownGroup(id.clone()))?;
                Ok(mls::admins(&load(tx, &id)?))
            })
            .await
    }

    /// Says who the admins of a group are from now on, in place of those who were. One who has
    /// no client in it is not an admin of anything.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_admins(
        &self,
        group: &GroupId,
        admins: impl Into<Vec<UserId>>,
    ) -> Result<Accepted, Error> {
        self.operate(group, Intent::SetAdmins(admins.into())).await
    }

    /// Puts the owner's current key into a group, where it has another one: the owner signs
    /// with it what it proposes. None where nothing was to be done.
    ///
    /// # Errors
    /// See [`Error`]. An owner may tell its key to its own clients only.
    pub async fn refresh_owner_key(&self, group: &GroupId) -> Result<Option<Accepted>, Error> {
        let owner = self.owner(group).await?;
        let (_, ds_sender) = self.request_group_id(&owner).await?;
        let current = mls::external_senders_extension(&ds_sender)?;
        let id = group.clone();
        let is_current = self
            .store()
            .run(move |tx| {
                let group = load(tx, &id)?;
                Ok::<_, Error>(group.extensions().iter().any(|has| *has == current))
            })
            .await?;
        if is_current {
            return Ok(None);
        }
        self.operate(group, Intent::SetOwnerKey(ds_sender))
            .await
            .map(Some)
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

    pub(crate) async fn operate(&self, group: &GroupId, intent: Intent) -> Result<Accepted, Error> {
        let _guard = self.lock_group(group).await;
        self.settle(group).await.map_err(|error| match error {
            Error::Unsettled { group, cause } => Error::Busy { group, cause },
            error => error,
        })?;
        self.carry_out(group, &Arc::new(intent), None, false)
            .await?
            .ok_or_else(|| Error::mls("nothing was to be done"))
    }
}
