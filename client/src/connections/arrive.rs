//! Requests to be connected, and what other devices of the user have decided.

use moh_messages::client_api::{
    ConnectionChanged, ConnectionDecision, QueueItem, QueueItemPayload,
};
use moh_messages::{ConnectionRequest, GroupType, UserId};

use super::state;
use crate::client::Client;
use crate::error::Error;
use crate::events::{DisconnectReason, Reason};
use crate::queue::{Left, peek, welcome_of};
use crate::store::{ConnectionRow, KeptRequest, Step, TO_CONSENT, TO_UPDATE, Tx};

/// How many requests are kept until the user decides, at most. The user's provider has a limit
/// of its own.
const MAX_RECEIVED: u32 = 1000;

impl Client {
    /// A user asks to be connected. Their group is not joined before they are accepted.
    pub(crate) fn process_connection_request(
        &self,
        tx: &Tx<'_>,
        item: &QueueItem,
        request: &ConnectionRequest,
    ) -> Result<(), Left> {
        let peer = request.requester.clone();
        if request.responder != *self.user_id()
            || peer == *self.user_id()
            || peer.provider() != item.sender
        {
            return Err(Left::Out(None, Reason::Refused));
        }
        let welcome = welcome_of(&request.welcome).ok_or(Left::Out(None, Reason::Malformed))?;
        let invitation = peek(tx, welcome)?;
        let group = invitation.group;
        let out = |reason| Left::Out(Some(group.clone()), reason);
        if invitation.group_type != Some(GroupType::Connection) || !invitation.for_connections {
            return Err(out(Reason::Refused));
        }
        if tx.owner(&group)?.is_some()
            || tx.is_connection_group(&group)?
            || tx.pending(&group)?.is_some()
        {
            return Err(out(Reason::AlreadyJoined));
        }
        let kept = KeptRequest {
            group,
            item: item.clone(),
        };
        self.keep_request(tx, &peer, kept)
    }

    fn keep_request(&self, tx: &Tx<'_>, peer: &UserId, request: KeptRequest) -> Result<(), Left> {
        let now_ms = self.api().now_ms();
        let Some(mut row) = tx.connection(peer)? else {
            if tx.count_received()? >= MAX_RECEIVED {
                return Err(Left::Out(Some(request.group), Reason::Refused));
            }
            return Ok(state::receive(tx, peer, request)?);
        };
        match row.step {
            // Asked once more: the group of before is not there any more.
            Step::Received => {
                if let Some(before) = &row.request {
                    state::forget_request(tx, before, now_ms)?;
                }
                Ok(state::receive(tx, peer, request)?)
            }
            // Both have asked at once, and the group of the smaller name stays.
            Step::Asking | Step::Sent if peer < self.user_id() => {
                if let Some(own) = &row.group {
                    tx.insert_ending(own)?;
                }
                let theirs = ConnectionRow::received(peer.clone(), request);
                if self.begin_to_accept(tx, theirs, TO_UPDATE | TO_CONSENT)? {
                    return Ok(());
                }
                // What is not there cannot stay.
                Err(Left::Out(None, Reason::Refused))
            }
            // There is a connection, as the provider says, and its group was lost.
            Step::Connected if row.group.is_none() => {
                let theirs = ConnectionRow::received(peer.clone(), request);
                if self.begin_to_accept(tx, theirs, TO_UPDATE)? {
                    return Ok(());
                }
                Err(Left::Out(None, Reason::Refused))
            }
            // It waits for the end of what there is.
            Step::Asking | Step::Sent | Step::Accepting | Step::Connected | Step::Ending => {
                if row.step == Step::Sent {
                    // They have not seen what was asked, or have declined it: a change will tell.
                    row.todo |= TO_UPDATE;
                }
                if let Some(before) = row.request.replace(request) {
                    state::forget_request(tx, &before, now_ms)?;
                }
                Ok(tx.put_connection(&row)?)
            }
        }
    }

    /// The peer whose request has to wait until their earlier one is dealt with.
    pub(crate) fn is_being_accepted(&self, tx: &Tx<'_>, item: &QueueItem) -> Option<KeptRequest> {
        let QueueItemPayload::ConnectionRequest(request) = &item.payload else {
            return None;
        };
        let row = tx.connection(&request.requester).ok()??;
        row.request.filter(|_| row.step == Step::Accepting)
    }

    /// Stores the request for what is needed to join the group of a request; whether there is
    /// such a group.
    pub(super) fn join_by_request(&self, tx: &Tx<'_>, item: &QueueItem) -> Result<bool, Error> {
        let QueueItemPayload::ConnectionRequest(request) = &item.payload else {
            return Ok(false);
        };
        let Some(welcome) = welcome_of(&request.welcome) else {
            return Ok(false);
        };
        match self.prepare_to_join(tx, item, welcome, true) {
            Ok(()) => Ok(true),
            Err(Left::Here(error @ Error::Store(_))) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Another device of the user has decided.
    pub(crate) fn process_connection_changed(
        &self,
        tx: &Tx<'_>,
        changed: &ConnectionChanged,
    ) -> Result<(), Left> {
        let now_ms = self.api().now_ms();
        let Some(row) = tx.connection(&changed.peer)? else {
            return Ok(());
        };
        match (changed.decision, row.step) {
            (ConnectionDecision::Consented, Step::Ending) if row.request.is_some() => {
                // Not what is to be withdrawn, but what was asked since.
                let Some(request) = row.request else {
                    return Ok(());
                };
                let theirs = ConnectionRow::received(row.peer, request);
                if !self.begin_to_accept(tx, theirs.clone(), 0)? {
                    state::end(tx, theirs, DisconnectReason::Ended, now_ms)?;
                }
                Ok(())
            }
            (ConnectionDecision::Consented, Step::Received) => {
                if !self.begin_to_accept(tx, row.clone(), 0)? {
                    state::end(tx, row, DisconnectReason::Ended, now_ms)?;
                }
                Ok(())
            }
            (ConnectionDecision::Declined, Step::Received | Step::Accepting) => {
                Ok(state::end(tx, row, DisconnectReason::Declined, now_ms)?)
            }
            (
                ConnectionDecision::Withdrawn,
                Step::Asking | Step::Sent | Step::Received | Step::Accepting | Step::Connected,
            ) => Ok(state::end(tx, row, DisconnectReason::Withdrawn, now_ms)?),
            _ => Ok(()),
        }
    }
}
