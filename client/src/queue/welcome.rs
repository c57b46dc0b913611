//! Welcomes: what is needed to join is asked of the group's owner, who keeps the tree.

use moh_messages::client_api::{QueueItem, QueueItemPayload};
use moh_messages::{
    DsAuth, DsRequestBody, DsResponseBody, GroupId, KeyPackageRef, Message, MlsBytes, Signature,
    TreeBytes, WelcomeInfo,
};
use openmls::group::{ProcessedWelcome, StagedWelcome};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn, Welcome};
use tls_codec::DeserializeBytes;

use super::{Left, group_id, undecodable};
use crate::api::Reply;
use crate::client::Client;
use crate::error::Error;
use crate::events::{Event, Operation, Reason};
use crate::group::{ds_request, signed_request};
use crate::mls;
use crate::store::{Pending, StoreError, Tx};

impl Client {
    /// Stores the request for what is needed to join. The KeyPackage stays until the join.
    pub(super) fn process_welcome(
        &self,
        tx: &Tx<'_>,
        item: &QueueItem,
        welcome: Welcome,
    ) -> Result<(), Left> {
        let Invitation {
            group,
            epoch,
            reference,
        } = peek(tx, welcome)?;
        if tx.owner(&group)?.is_some() {
            return Err(Left::Out(Some(group), Reason::AlreadyJoined));
        }
        let body = DsRequestBody::WelcomeInfo(WelcomeInfo {
            group_id: group.clone(),
            epoch,
        });
        let auth = DsAuth::KeyPackage {
            key_package_ref: reference,
            signature: Signature::empty(),
        };
        let request = ds_request(self.api(), &item.sender, body, auth);
        tx.put_pending(&Pending {
            group,
            operation: Operation::Join,
            owner: item.sender.clone(),
            request: signed_request(self.api(), request)?,
            extra: item.encode(),
        })?;
        Ok(())
    }

    /// Asks for the tree that a Welcome leaves out, and joins.
    pub(crate) async fn join(&self, pending: &Pending) -> Result<(), Error> {
        let endpoint = moh_messages::Endpoint::WelcomeInformation;
        let reply = self
            .api()
            .ask_owner(&pending.owner, endpoint, pending.request.clone())
            .await;
        let tree = match reply {
            Reply::Done(DsResponseBody::WelcomeInfo { ratchet_tree, .. }) => Some(ratchet_tree),
            Reply::Done(_) => {
                return Err(Error::BadAnswer {
                    by: pending.owner.clone(),
                    detail: "no welcome information".to_owned(),
                });
            }
            Reply::Refused(error) => {
                tracing::debug!(%error, "the join was refused");
                None
            }
            Reply::Unknown(error) => return Err(error),
        };
        let row = pending.clone();
        self.store()
            .run(move |tx| {
                tx.delete_pending(&row.group)?;
                let item = QueueItem::decode(&row.extra)
                    .map_err(|_| StoreError::Incomplete("the Welcome of a pending join"))?;
                let joined = match tree {
                    Some(tree) => tx.attempt(|| join_with(tx, &row, &item, &tree)),
                    None => Err(Left::Out(Some(row.group.clone()), Reason::JoinRefused)),
                };
                let reason = match joined {
                    Ok(()) => return Ok(()),
                    Err(Left::Here(error @ Error::Store(_))) => return Err(error),
                    Err(Left::Here(_)) => Reason::Refused,
                    Err(Left::Out(_, reason)) => reason,
                };
                Ok(tx.insert_event(&undecodable(&item, Some(row.group), reason))?)
            })
            .await?;
        self.new_events().notify_one();
        self.process_parked().await
    }
}

/// What a Welcome leads to.
pub(super) struct Invitation {
    pub(super) group: GroupId,
    epoch: u64,
    reference: KeyPackageRef,
}

/// Reads a Welcome without using up the KeyPackage that it was made with.
pub(super) fn peek(tx: &Tx<'_>, welcome: Welcome) -> Result<Invitation, Left> {
    let ours = tx.key_packages()?;
    let reference = welcome
        .secrets()
        .iter()
        .map(|secrets| secrets.new_member())
        .find(|new| ours.iter().any(|row| row.reference == new.as_slice()))
        .ok_or(Left::Out(None, Reason::NoKeyPackage))?;
    let malformed = || Left::Out(None, Reason::Malformed);
    let processed = tx.look(|| {
        ProcessedWelcome::new_from_welcome(tx, &mls::join_config(), welcome)
            .map_err(|_| Left::Out(None, Reason::Refused))
    })?;
    let group_info = processed.unverified_group_info();
    Ok(Invitation {
        group: group_id(group_info.group_id()).ok_or_else(malformed)?,
        epoch: group_info.epoch().as_u64(),
        reference: KeyPackageRef::new(reference.as_slice()).map_err(|_| malformed())?,
    })
}

fn join_with(
    tx: &Tx<'_>,
    pending: &Pending,
    item: &QueueItem,
    tree: &TreeBytes,
) -> Result<(), Left> {
    let group_id = &pending.group;
    let refused = || Left::Out(Some(group_id.clone()), Reason::Refused);
    let QueueItemPayload::MlsMessage(bytes) = &item.payload else {
        return Err(refused());
    };
    let welcome = welcome_of(bytes).ok_or_else(refused)?;
    let invitation = peek(tx, welcome.clone())?;
    let tree =
        RatchetTreeIn::tls_deserialize_exact_bytes(tree.as_slice()).map_err(|_| refused())?;
    // State of a group that this client was removed from, or that was never created, is gone;
    // one that it is in was sorted out before.
    // The owner has checked lifetimes when leaves entered the tree; they may have ended since.
    let group = StagedWelcome::build_from_welcome(tx, &mls::join_config(), welcome)
        .and_then(|joining| {
            joining
                .with_ratchet_tree(tree)
                .skip_lifetime_validation()
                .build()
        })
        .and_then(|staged| staged.into_group(tx))
        .map_err(|error| {
            tracing::debug!(%error, "a Welcome is left out");
            refused()
        })?;
    let used = tx
        .key_packages()?
        .into_iter()
        .find(|row| row.reference == invitation.reference.as_slice());
    let by_last_resort = used.as_ref().is_some_and(|row| row.last_resort);
    if !by_last_resort {
        tx.delete_key_package_row(invitation.reference.as_slice())?;
    }
    let epoch = group.epoch().as_u64();
    tx.insert_group(group_id, &pending.owner, epoch, by_last_resort)?;
    tx.insert_event(&Event::Joined {
        group: group_id.clone(),
        owner: pending.owner.clone(),
        epoch,
        members: mls::members(&group),
    })?;
    Ok(())
}

fn welcome_of(bytes: &MlsBytes) -> Option<Welcome> {
    match MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
        .ok()?
        .extract()
    {
        MlsMessageBodyIn::Welcome(welcome) => Some(welcome),
        _ => None,
    }
}
