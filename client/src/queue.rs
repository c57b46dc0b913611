//! What arrives: read in order, processed once, each item in one transaction.

use std::time::Duration;

use moh_messages::client_api::{
    Acknowledge, ClientRequestBody, ClientResponseBody, Cursor, QueueItem, ReadQueue,
};
use moh_messages::{
    DsAuth, DsRequestBody, DsResponseBody, GroupId, KeyPackageRef, Message, MlsBytes, QueuePayload,
    Signature, TreeBytes, WelcomeInfo,
};
use openmls::group::{MlsGroup, ProcessedWelcome, StagedCommit};
use openmls::prelude::{
    ContentType, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, ProtocolMessage,
    RatchetTreeIn, Sender, Welcome,
};
use openmls_traits::OpenMlsProvider;
use tls_codec::DeserializeBytes;

use crate::api::Reply;
use crate::client::Client;
use crate::error::Error;
use crate::events::{Event, Operation, Reason};
use crate::group::{ds_request, signed_request};
use crate::mls;
use crate::settle::load;
use crate::store::{Pending, StoreError, Tx};

/// Why an item was not processed.
enum Left {
    /// It cannot be, now or later.
    Out(Option<GroupId>, Reason),
    /// Our own fault: it stays in the queue.
    Here(Error),
}

impl From<StoreError> for Left {
    fn from(error: StoreError) -> Self {
        Self::Here(error.into())
    }
}

impl From<Error> for Left {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

impl Client {
    /// Reads the queue and processes what is there; waits for up to `wait` for something.
    pub(crate) async fn pull(&self, wait: Duration) -> Result<(), Error> {
        let (cursor, items) = self.read_queue(wait).await?;
        self.process_and_acknowledge(cursor, items).await
    }

    /// What is in the queue after the cursor that comes with it.
    pub(crate) async fn read_queue(
        &self,
        wait: Duration,
    ) -> Result<(Cursor, Vec<QueueItem>), Error> {
        let cursor = self.store().run(|tx| Ok::<_, Error>(tx.cursor()?)).await?;
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let read = ClientRequestBody::ReadQueue(ReadQueue {
            cursor: cursor.clone(),
            wait_ms,
        });
        match self.api().call(read, wait).await? {
            ClientResponseBody::Queue { items } => Ok((cursor, items.into_vec())),
            _ => Err(self.api().bad_answer("no queue")),
        }
    }

    pub(crate) async fn process_and_acknowledge(
        &self,
        cursor: Cursor,
        items: Vec<QueueItem>,
    ) -> Result<(), Error> {
        if let Some(cursor) = self.process(cursor, items).await? {
            let acknowledge = ClientRequestBody::Acknowledge(Acknowledge { cursor });
            if let Err(error) = self.api().call_for_ok(acknowledge).await {
                // The next read is after our own cursor all the same.
                tracing::debug!(%error, "not acknowledged");
            }
        }
        Ok(())
    }

    /// Processes items that were read after `cursor`; where they end, or none if somebody else
    /// has processed items since.
    pub(crate) async fn process(
        &self,
        mut cursor: Cursor,
        items: Vec<QueueItem>,
    ) -> Result<Option<Cursor>, Error> {
        if items.is_empty() {
            return Ok(None);
        }
        {
            let _processing = self.processing().lock().await;
            for item in items {
                let (this, after) = (self.clone(), cursor);
                let end = item.cursor.clone();
                let in_order = self
                    .store()
                    .run(move |tx| {
                        if tx.cursor()? != after {
                            return Ok(false);
                        }
                        this.take(tx, &item)?;
                        tx.set_cursor(&item.cursor)?;
                        Ok::<_, Error>(true)
                    })
                    .await?;
                if !in_order {
                    return Ok(None);
                }
                cursor = end;
                self.new_events().notify_one();
            }
        }
        Ok(Some(cursor))
    }

    /// Processes items that were parked in groups in which nothing is pending any more.
    pub(crate) async fn process_parked(&self) -> Result<(), Error> {
        let _processing = self.processing().lock().await;
        loop {
            let this = self.clone();
            let found = self
                .store()
                .run(move |tx| {
                    let Some(parked) = tx.next_parked()? else {
                        return Ok(false);
                    };
                    tx.unpark(parked.id)?;
                    let handled = this.take_now(tx, &parked.item);
                    handled.map(|()| true)
                })
                .await?;
            if !found {
                return Ok(());
            }
            self.new_events().notify_one();
        }
    }

    /// Processes an item, or parks it.
    fn take(&self, tx: &Tx<'_>, item: &QueueItem) -> Result<(), Error> {
        if let Some(group) = self.group_of(tx, item)
            && tx.has_to_wait(&group)?
        {
            return Ok(tx.park(&group, item)?);
        }
        self.take_now(tx, item)
    }

    fn take_now(&self, tx: &Tx<'_>, item: &QueueItem) -> Result<(), Error> {
        let (group, reason) = match tx.attempt(|| self.process_item(tx, item)) {
            Ok(()) => return Ok(()),
            Err(Left::Here(error @ Error::Store(_))) => return Err(error),
            Err(Left::Here(error)) => {
                tracing::debug!(%error, "an item is left out");
                (None, Reason::Refused)
            }
            Err(Left::Out(group, reason)) => (group, reason),
        };
        Ok(tx.insert_event(&undecodable(item, group, reason))?)
    }

    /// The group that an item is for, as far as it can be known.
    fn group_of(&self, tx: &Tx<'_>, item: &QueueItem) -> Option<GroupId> {
        let QueuePayload::MlsMessage(bytes) = &item.payload else {
            return None;
        };
        match MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
            .ok()?
            .extract()
        {
            MlsMessageBodyIn::Welcome(welcome) => {
                peek(tx, welcome).ok().map(|welcome| welcome.group)
            }
            MlsMessageBodyIn::PublicMessage(message) => {
                group_id(ProtocolMessage::from(message).group_id())
            }
            MlsMessageBodyIn::PrivateMessage(message) => {
                group_id(ProtocolMessage::from(message).group_id())
            }
            _ => None,
        }
    }

    fn process_item(&self, tx: &Tx<'_>, item: &QueueItem) -> Result<(), Left> {
        let QueuePayload::MlsMessage(bytes) = &item.payload else {
            return Err(Left::Out(None, Reason::Unsupported));
        };
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
            .map_err(|_| Left::Out(None, Reason::Malformed))?;
        match message.extract() {
            MlsMessageBodyIn::Welcome(welcome) => self.process_welcome(tx, item, welcome),
            MlsMessageBodyIn::PublicMessage(message) => process_message(tx, item, message.into()),
            MlsMessageBodyIn::PrivateMessage(message) => process_message(tx, item, message.into()),
            _ => Err(Left::Out(None, Reason::Unsupported)),
        }
    }

    /// Stores the request for what is needed to join. The KeyPackage stays until the join.
    fn process_welcome(&self, tx: &Tx<'_>, item: &QueueItem, welcome: Welcome) -> Result<(), Left> {
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

fn undecodable(item: &QueueItem, group: Option<GroupId>, reason: Reason) -> Event {
    tracing::debug!(sender = %item.sender, ?group, %reason, "undecodable");
    Event::Undecodable {
        group,
        sender: item.sender.clone(),
        reason,
        received_at: item.received_at,
    }
}

fn group_id(id: &openmls::group::GroupId) -> Option<GroupId> {
    GroupId::new(id.as_slice()).ok()
}

/// What a Welcome leads to.
struct Invitation {
    group: GroupId,
    epoch: u64,
    reference: KeyPackageRef,
}

/// Reads a Welcome without using up the KeyPackage that it was made with.
fn peek(tx: &Tx<'_>, welcome: Welcome) -> Result<Invitation, Left> {
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
    let QueuePayload::MlsMessage(bytes) = &item.payload else {
        return Err(refused());
    };
    let welcome = welcome_of(bytes).ok_or_else(refused)?;
    let invitation = peek(tx, welcome.clone())?;
    let tree =
        RatchetTreeIn::tls_deserialize_exact_bytes(tree.as_slice()).map_err(|_| refused())?;
    // State of a group that this client was removed from, or that was never created, is gone;
    // one that it is in was sorted out before.
    let group = ProcessedWelcome::new_from_welcome(tx, &mls::join_config(), welcome)
        .and_then(|processed| processed.into_staged_welcome(tx, Some(tree)))
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
    tx.insert_group(group_id, &pending.owner, by_last_resort)?;
    tx.insert_event(&Event::Joined {
        group: group_id.clone(),
        owner: pending.owner.clone(),
        epoch: group.epoch().as_u64(),
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

fn process_message(tx: &Tx<'_>, item: &QueueItem, message: ProtocolMessage) -> Result<(), Left> {
    let id = group_id(message.group_id()).ok_or(Left::Out(None, Reason::Malformed))?;
    let out = |reason| Left::Out(Some(id.clone()), reason);
    match tx.owner(&id)? {
        None => return Err(out(Reason::UnknownGroup)),
        Some(owner) if owner != item.sender => return Err(out(Reason::NotFromOwner)),
        Some(_) => {}
    }
    let mut group = load(tx, &id)?;
    if message.content_type() == ContentType::Proposal && message.epoch() < group.epoch() {
        // It has been committed since: its owner said so earlier, when it refused a request.
        return Ok(());
    }
    let processed = group.process_message(tx, message).map_err(|error| {
        tracing::debug!(%error, "a message is left out");
        out(Reason::Refused)
    })?;
    let sender = mls::client_of(processed.credential());
    let epoch = processed.epoch().as_u64();
    let by_member = matches!(
        processed.sender(),
        Sender::Member(_) | Sender::NewMemberCommit
    );
    match processed.into_content() {
        ProcessedMessageContent::ApplicationMessage(message) => {
            tx.insert_event(&Event::Message {
                group: id.clone(),
                sender: sender.ok_or_else(|| out(Reason::Refused))?,
                content: message.into_bytes(),
                epoch,
                received_at: item.received_at,
            })?;
        }
        ProcessedMessageContent::StagedCommitMessage(commit) if by_member => {
            let by = sender.ok_or_else(|| out(Reason::Refused))?;
            merge(tx, &id, group, *commit, by)?;
        }
        ProcessedMessageContent::ProposalMessage(proposal) => {
            keep_proposal(tx, &mut group, *proposal)?;
        }
        _ => return Err(out(Reason::Unsupported)),
    }
    Ok(())
}

fn merge(
    tx: &Tx<'_>,
    id: &GroupId,
    mut group: MlsGroup,
    commit: StagedCommit,
    by: moh_messages::ClientId,
) -> Result<(), Left> {
    let before = mls::members(&group);
    group.merge_staged_commit(tx, commit).map_err(Error::mls)?;
    if !group.is_active() {
        group.delete(tx.storage())?;
        tx.delete_group_row(id)?;
        tx.insert_event(&Event::Removed {
            group: id.clone(),
            by,
        })?;
        return Ok(());
    }
    let after = mls::members(&group);
    let epoch = group.epoch().as_u64();
    let added: Vec<_> = after
        .iter()
        .filter(|m| !before.contains(m))
        .cloned()
        .collect();
    let removed: Vec<_> = before
        .iter()
        .filter(|m| !after.contains(m))
        .cloned()
        .collect();
    let group = id.clone();
    tx.insert_event(&if added.is_empty() && removed.is_empty() {
        Event::Updated { group, by, epoch }
    } else {
        Event::MembersChanged {
            group,
            by,
            added,
            removed,
            epoch,
        }
    })?;
    Ok(())
}

/// Takes up a proposal that the owner says is pending.
pub(crate) fn store_proposal(tx: &Tx<'_>, id: &GroupId, bytes: &[u8]) -> Result<(), Error> {
    let mut group = load(tx, id)?;
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(Error::mls)?;
    let message = message.try_into_protocol_message().map_err(Error::mls)?;
    let processed = group.process_message(tx, message).map_err(Error::mls)?;
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(proposal) => {
            keep_proposal(tx, &mut group, *proposal)
        }
        _ => Err(Error::mls("not a proposal")),
    }
}

fn keep_proposal(
    tx: &Tx<'_>,
    group: &mut MlsGroup,
    proposal: openmls::group::QueuedProposal,
) -> Result<(), Error> {
    if group.pending_proposals().all(|kept| *kept != proposal) {
        group.store_pending_proposal(tx.storage(), proposal)?;
    }
    Ok(())
}
