//! Welcomes: what is needed to join is asked of the group's owner, who keeps the tree.

use moh_messages::client_api::{QueueItem, QueueItemPayload};
use moh_messages::{
    ClientId, DsAuth, DsErrorCode, DsRequestBody, DsResponseBody, GroupId, GroupType,
    KeyPackageRef, Message, MlsBytes, Signature, TreeBytes, UserId, WelcomeInfo,
};
use openmls::group::{MlsGroup, ProcessedWelcome, StagedWelcome};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn, Welcome};
use tls_codec::DeserializeBytes;

use super::message::Before;
use super::{Left, group_id, undecodable};
use crate::api::Reply;
use crate::attestations;
use crate::client::Client;
use crate::connections;
use crate::error::Error;
use crate::events::{DisconnectReason, Event, Operation, Reason};
use crate::group::{ds_request, signed_request};
use crate::mls;
use crate::settle::{delete_state, drop_unsent, load};
use crate::store::{Pending, StoreError, Tx};

impl Client {
    /// Stores the request for what is needed to join. The KeyPackage stays until the join. One
    /// for connection groups serves for what was asked and accepted, and for nothing else.
    pub(crate) fn prepare_to_join(
        &self,
        tx: &Tx<'_>,
        item: &QueueItem,
        welcome: Welcome,
        is_accepted: bool,
    ) -> Result<(), Left> {
        let Invitation {
            group,
            epoch,
            reference,
            for_connections,
            ..
        } = peek(tx, welcome)?;
        if for_connections != is_accepted {
            return Err(Left::Out(Some(group), Reason::Refused));
        }
        let out = |reason| Left::Out(Some(group.clone()), reason);
        if tx.pending(&group)?.is_some() {
            return Err(out(Reason::AlreadyJoined));
        }
        match tx.owner(&group)? {
            // What is here leads nowhere, as is known.
            Some(owner) if owner == item.sender && tx.is_lost(&group)? => {}
            Some(owner) if owner == item.sender && load(tx, &group)?.epoch().as_u64() < epoch => {
                // What is here leads nowhere, as it seems: a Welcome is for those who are no
                // members. To join again is to see who is there.
                return Ok(self.lose(tx, &group, &owner)?);
            }
            Some(_) => return Err(out(Reason::AlreadyJoined)),
            None => {}
        }
        // Somebody else has used the name of this group in a request.
        if !is_accepted && let Some(row) = tx.connection_requested(&group)? {
            connections::end(tx, row, DisconnectReason::Ended, self.api().now_ms())?;
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
        let mut is_too_late = false;
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
                is_too_late = error
                    .refusal()
                    .is_some_and(|refusal| refusal.code == DsErrorCode::EPOCH_NOT_KEPT);
                None
            }
            Reply::Unknown(error) => return Err(error),
        };
        let (this, row) = (self.clone(), pending.clone());
        self.store()
            .run(move |tx| {
                tx.delete_pending(&row.group)?;
                let item = QueueItem::decode(&row.extra)
                    .map_err(|_| StoreError::Incomplete("the Welcome of a pending join"))?;
                let joined = match tree {
                    Some(tree) => tx.attempt(|| this.join_with(tx, &row, &item, &tree)),
                    None => Err(Left::Out(Some(row.group.clone()), Reason::JoinRefused)),
                };
                let reason = match joined {
                    Ok(()) => return Ok(()),
                    Err(Left::Here(error @ Error::Store(_))) => return Err(error),
                    Err(Left::Here(_)) => Reason::Refused,
                    Err(Left::Out(_, reason)) => reason,
                };
                if connections::is_refused(tx, &row.group, is_too_late)? {
                    return Ok(());
                }
                Ok(tx.insert_event(&undecodable(&item, Some(row.group), reason))?)
            })
            .await?;
        self.new_events().notify_one();
        self.process_parked().await
    }

    fn join_with(
        &self,
        tx: &Tx<'_>,
        pending: &Pending,
        item: &QueueItem,
        tree: &TreeBytes,
    ) -> Result<(), Left> {
        let group_id = &pending.group;
        let refused = || Left::Out(Some(group_id.clone()), Reason::Refused);
        let (bytes, peer) = match &item.payload {
            QueueItemPayload::MlsMessage(bytes) => (bytes, None),
            QueueItemPayload::ConnectionRequest(request) => {
                (&request.welcome, Some(&request.requester))
            }
            _ => return Err(refused()),
        };
        let welcome = welcome_of(bytes).ok_or_else(refused)?;
        let invitation = peek(tx, welcome.clone())?;
        let tree =
            RatchetTreeIn::tls_deserialize_exact_bytes(tree.as_slice()).map_err(|_| refused())?;
        // State of a group that this client was removed from, or that was never created, is gone;
        // what is here is of no use, and goes if the Welcome is good for something.
        let before = Before::of(tx, group_id)?;
        drop_unsent(tx, group_id)?;
        delete_state(tx, group_id)?;
        // The owner has checked lifetimes when leaves entered the tree; they may have ended since.
        let mut by = None;
        let group = StagedWelcome::build_from_welcome(tx, &mls::join_config(), welcome)
            .and_then(|joining| {
                joining
                    .with_ratchet_tree(tree)
                    .skip_lifetime_validation()
                    .build()
            })
            .and_then(|staged| {
                let sender = staged.welcome_sender().ok();
                by = sender.and_then(|leaf| mls::client_of(leaf.credential()));
                staged.into_group(tx)
            })
            .map_err(|error| {
                tracing::debug!(%error, "a Welcome is left out");
                refused()
            })?;
        let kind = mls::kind_of(&group);
        let is_other = tx.group_type(group_id)?.is_some_and(|known| known != kind);
        if is_other || !mls::have_names(&group) || !self.may_join(&group, peer, by.as_ref()) {
            return Err(refused());
        }
        let used = tx
            .key_packages()?
            .into_iter()
            .find(|row| row.reference == invitation.reference.as_slice());
        let by_last_resort = used.as_ref().is_some_and(|row| row.kind.last_resort);
        if !by_last_resort {
            tx.delete_key_package_row(invitation.reference.as_slice())?;
        }
        let epoch = group.epoch().as_u64();
        tx.replace_group(group_id, &pending.owner, epoch, by_last_resort)?;
        tx.set_group_type(group_id, kind)?;
        let now_ms = self.api().now_ms();
        tx.set_updated_ms(group_id, now_ms)?;
        let is_again = tx.has_rejoined(group_id, now_ms)?;
        attestations::look_at_all(tx, group_id, &group, now_ms)?;
        if connections::after_join(tx, group_id, &group, self.user_id(), false, now_ms)? {
            return Ok(());
        }
        if is_again {
            let id = group_id.clone();
            tx.insert_event(&Event::Rejoined { group: id, epoch })?;
            return Ok(before.tell(tx, group_id, &group, self.client_id())?);
        }
        tx.insert_event(&Event::Joined {
            group: group_id.clone(),
            owner: pending.owner.clone(),
            epoch,
            members: mls::members(&group),
        })?;
        Ok(())
    }
}

impl Client {
    /// Whether a Welcome leads where it may: what a peer asked for is a group of the two; and into
    /// another connection group only a device of the same user leads.
    fn may_join(&self, group: &MlsGroup, peer: Option<&UserId>, by: Option<&ClientId>) -> bool {
        let own = self.user_id();
        if let Some(peer) = peer {
            return connections::is_of_two(group, own, peer);
        }
        if mls::kind_of(group) == GroupType::Regular {
            return true;
        }
        let members = mls::members(group);
        let other = members
            .iter()
            .map(ClientId::user_id)
            .find(|user| user != own);
        by.is_some_and(|by| by.user_id() == *own)
            && other.is_none_or(|peer| connections::is_of_two(group, own, &peer))
    }
}

/// What a Welcome leads to.
pub(crate) struct Invitation {
    pub(crate) group: GroupId,
    pub(crate) group_type: Option<GroupType>,
    epoch: u64,
    reference: KeyPackageRef,
    /// Whether the KeyPackage is one for connection groups.
    pub(crate) for_connections: bool,
}

/// Reads a Welcome without using up the KeyPackage that it was made with.
pub(crate) fn peek(tx: &Tx<'_>, welcome: Welcome) -> Result<Invitation, Left> {
    let ours = tx.key_packages()?;
    let used = welcome
        .secrets()
        .iter()
        .map(|secrets| secrets.new_member())
        .find_map(|new| ours.iter().find(|row| row.reference == new.as_slice()))
        .ok_or(Left::Out(None, Reason::NoKeyPackage))?;
    let malformed = || Left::Out(None, Reason::Malformed);
    let processed = tx.look(|| {
        ProcessedWelcome::new_from_welcome(tx, &mls::join_config(), welcome)
            .map_err(|_| Left::Out(None, Reason::Refused))
    })?;
    let group_info = processed.unverified_group_info();
    Ok(Invitation {
        group: group_id(group_info.group_id()).ok_or_else(malformed)?,
        group_type: mls::group_type(group_info.group_context().extensions()),
        epoch: group_info.epoch().as_u64(),
        reference: KeyPackageRef::new(used.reference.as_slice()).map_err(|_| malformed())?,
        for_connections: used.kind.for_connections,
    })
}

pub(crate) fn welcome_of(bytes: &MlsBytes) -> Option<Welcome> {
    match MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
        .ok()?
        .extract()
    {
        MlsMessageBodyIn::Welcome(welcome) => Some(welcome),
        _ => None,
    }
}
