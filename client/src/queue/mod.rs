//! What arrives: read in order, processed once, each item in one transaction.

mod message;
mod welcome;

use std::time::Duration;

use moh_messages::client_api::{
    Acknowledge, Boolean, ClientRequestBody, ClientResponseBody, Cursor, QueueItem,
    QueueItemPayload, ReadQueue,
};
use moh_messages::{GroupId, MlsBytes};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, ProtocolMessage};
use tls_codec::DeserializeBytes;

use crate::client::Client;
use crate::error::Error;
use crate::events::{Event, Reason};
use crate::store::{StoreError, Tx};

pub(crate) use message::{Before, epoch_of, store_proposal};
pub(crate) use welcome::{peek, welcome_of};

/// How many items of a group wait until its invitation is accepted, at most. Who accepts later
/// than that joins again.
const MAX_WAITING: u32 = 256;

/// Why an item was not processed.
pub(crate) enum Left {
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
        match self.note_read(self.api().call(read, wait).await)? {
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
                        this.owner_is_there(tx, &item.sender)?;
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
        if let Some(request) = self.is_being_accepted(tx, item) {
            // Only the last one counts.
            tx.drop_parked_requests(&request.group, item)?;
            return Ok(tx.park(&request.group, item)?);
        }
        if let Some(group) = self.group_of(tx, item)
            && tx.has_to_wait(&group, &item.sender)?
        {
            let is_too_much = tx.is_requested(&group, &item.sender)?
                && tx.pending(&group)?.is_none()
                && tx.count_parked(&group)? >= MAX_WAITING;
            return if is_too_much {
                Ok(())
            } else {
                Ok(tx.park(&group, item)?)
            };
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
        let QueueItemPayload::MlsMessage(bytes) = &item.payload else {
            return None;
        };
        match MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
            .ok()?
            .extract()
        {
            MlsMessageBodyIn::Welcome(welcome) => {
                welcome::peek(tx, welcome).ok().map(|welcome| welcome.group)
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
        match &item.payload {
            QueueItemPayload::MlsMessage(bytes) => self.process_mls_message(tx, item, bytes),
            QueueItemPayload::ClientChanged(changed) => {
                tx.insert_event(&Event::DevicesChanged {
                    client: changed.client.clone(),
                    added: changed.registered == Boolean::True,
                })?;
                Ok(())
            }
            QueueItemPayload::ConnectionRequest(request) => {
                self.process_connection_request(tx, item, request)
            }
            QueueItemPayload::ConnectionChanged(changed) => {
                self.process_connection_changed(tx, changed)
            }
            QueueItemPayload::KeyPackagesLow(_) => Ok(tx.key_packages_are_low()?),
        }
    }

    fn process_mls_message(
        &self,
        tx: &Tx<'_>,
        item: &QueueItem,
        bytes: &MlsBytes,
    ) -> Result<(), Left> {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
            .map_err(|_| Left::Out(None, Reason::Malformed))?;
        match message.extract() {
            MlsMessageBodyIn::Welcome(welcome) => self.prepare_to_join(tx, item, welcome, false),
            MlsMessageBodyIn::PublicMessage(message) => {
                self.process_message(tx, item, message.into())
            }
            MlsMessageBodyIn::PrivateMessage(message) => {
                self.process_message(tx, item, message.into())
            }
            _ => Err(Left::Out(None, Reason::Unsupported)),
        }
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
