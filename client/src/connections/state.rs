//! What becomes of a connection by what happens in its group.

use moh_messages::client_api::QueueItemPayload;
use moh_messages::{ClientId, GroupId, GroupType, UserId};
use openmls::group::MlsGroup;

use crate::client::Client;
use crate::error::Error;
use crate::events::{DisconnectReason, Event};
use crate::key_packages;
use crate::mls;
use crate::queue::welcome_of;
use crate::store::{
    ConnectionRow, KeptRequest, Step, StoreError, TO_COMMIT, TO_CONSENT, TO_TELL, TO_UPDATE, Tx,
};

/// The state of a group is about to be deleted. Whether that is the group of a connection, which
/// is over by that: then the application is told so, unless it has ended it itself.
pub(crate) fn is_over(
    tx: &Tx<'_>,
    group: &GroupId,
    reason: DisconnectReason,
) -> Result<bool, StoreError> {
    let was_to_end = tx.is_to_end(group)?;
    tx.delete_ending(group)?;
    let Some(row) = tx.connection_of(group)? else {
        return Ok(was_to_end);
    };
    finish(tx, row, reason)?;
    Ok(true)
}

/// The group of a request cannot be joined, at least not by the Welcome. Whether it is one that
/// was accepted: then the application is not told of a Welcome.
pub(crate) fn is_refused(
    tx: &Tx<'_>,
    group: &GroupId,
    is_too_late: bool,
) -> Result<bool, StoreError> {
    if tx.is_to_end(group)? {
        return Ok(true);
    }
    let Some(mut row) = tx.connection_of(group)? else {
        return Ok(false);
    };
    if row.request.take().is_none() {
        return Ok(false);
    }
    if is_too_late {
        // Who was invited may join from outside.
        tx.put_connection(&row)?;
    } else {
        finish(tx, row, DisconnectReason::Ended)?;
    }
    Ok(true)
}

/// A connection is over, and the application is told so. The peer may not add the user to groups
/// any more.
pub(super) fn finish(
    tx: &Tx<'_>,
    row: ConnectionRow,
    reason: DisconnectReason,
) -> Result<(), StoreError> {
    tx.insert_event(&Event::Disconnected {
        peer: row.peer.clone(),
        reason,
    })?;
    // Where another device has ended it, it has seen to that.
    if row.step == Step::Received || reason == DisconnectReason::Withdrawn {
        return leave_off(tx, row);
    }
    withdraw_later(tx, row)
}

/// The provider is to be told that a connection is over. What the peer asks meanwhile waits.
pub(crate) fn withdraw_later(tx: &Tx<'_>, row: ConnectionRow) -> Result<(), StoreError> {
    let request = other_request(&row);
    let mut ending = ConnectionRow::new(row.peer, Step::Ending, row.since_ms, None);
    ending.request = request;
    tx.put_connection(&ending)
}

/// There is nothing more to a connection; but the peer may have asked for another one since.
pub(crate) fn leave_off(tx: &Tx<'_>, row: ConnectionRow) -> Result<(), StoreError> {
    match other_request(&row) {
        Some(request) => receive(tx, &row.peer, request),
        None => tx.delete_connection(&row.peer),
    }
}

/// What the peer asks beside what there is.
fn other_request(row: &ConnectionRow) -> Option<KeptRequest> {
    let request = row.request.clone()?;
    (Some(&request.group) != row.group.as_ref()).then_some(request)
}

/// A connection is over for good, with all that belongs to it.
pub(crate) fn end(
    tx: &Tx<'_>,
    row: ConnectionRow,
    reason: DisconnectReason,
    now_ms: u64,
) -> Result<(), Error> {
    let_go(tx, &row, now_ms)?;
    let row = ConnectionRow {
        request: None,
        ..row
    };
    Ok(finish(tx, row, reason)?)
}

/// A peer asks to be connected.
pub(super) fn receive(tx: &Tx<'_>, peer: &UserId, request: KeptRequest) -> Result<(), StoreError> {
    let row = ConnectionRow::received(peer.clone(), request);
    tx.put_connection(&row)?;
    tx.insert_event(&Event::ConnectionRequested {
        peer: row.peer,
        group: row
            .group
            .ok_or(StoreError::Incomplete("a request's group"))?,
        received_at: row.since_ms,
    })
}

/// Forgets all that there is of a connection, but for its row; its group is to be ended.
pub(super) fn let_go(tx: &Tx<'_>, row: &ConnectionRow, now_ms: u64) -> Result<(), Error> {
    match (&row.request, row.step) {
        // It is about to be joined, and then there is a group to end.
        (Some(_), Step::Accepting) => {}
        (Some(request), _) => forget_request(tx, request, now_ms)?,
        (None, _) => {}
    }
    match &row.group {
        Some(group) if row.step != Step::Received => Ok(tx.insert_ending(group)?),
        _ => Ok(()),
    }
}

/// A request will not be accepted: what came with it, and what came for its group, is nothing.
pub(super) fn forget_request(tx: &Tx<'_>, request: &KeptRequest, now_ms: u64) -> Result<(), Error> {
    tx.drop_parked(&request.group, &request.item.sender)?;
    tx.insert_left_group(&request.group, now_ms)?;
    let QueueItemPayload::ConnectionRequest(content) = &request.item.payload else {
        return Ok(());
    };
    let Some(welcome) = welcome_of(&content.welcome) else {
        return Ok(());
    };
    for row in tx.key_packages()? {
        let is_used = |secrets: &openmls::messages::EncryptedGroupSecrets| {
            secrets.new_member().as_slice() == row.reference
        };
        if !row.kind.last_resort && welcome.secrets().iter().any(is_used) {
            key_packages::forget(tx, &row.reference)?;
        }
    }
    Ok(())
}

impl Client {
    /// A commit was made in a group, by this client or another one.
    pub(crate) fn after_commit(
        &self,
        tx: &Tx<'_>,
        id: &GroupId,
        group: &MlsGroup,
        by: &ClientId,
    ) -> Result<(), Error> {
        let Some(mut row) = tx.connection_of(id)? else {
            return Ok(());
        };
        let now_ms = self.api().now_ms();
        let members = mls::members(group);
        let peer_is_in = members.iter().any(|member| member.user_id() == row.peer);
        match row.step {
            // What the owner must not let happen: somebody else reads.
            _ if !is_private(group, self.user_id(), &row.peer) => {
                end(tx, row, DisconnectReason::Ended, now_ms)?
            }
            Step::Asking if peer_is_in => {
                row.step = Step::Sent;
                row.since_ms = now_ms;
                tx.put_connection(&row)?;
            }
            Step::Sent | Step::Connected if !peer_is_in => {
                // Who is left has nobody to talk to.
                tx.insert_ending(id)?;
                self.without_peer(tx, row)?;
            }
            Step::Sent if by.user_id() == row.peer => connected(tx, row, now_ms)?,
            _ => {}
        }
        Ok(())
    }

    /// The peer is not in the connection group any more.
    fn without_peer(&self, tx: &Tx<'_>, row: ConnectionRow) -> Result<(), Error> {
        match (row.step, row.request.clone()) {
            // They have declined, and then asked themselves: that is what both want.
            (Step::Sent, Some(request)) => {
                let theirs = ConnectionRow::received(row.peer.clone(), request);
                if self.begin_to_accept(tx, theirs, TO_UPDATE | TO_CONSENT)? {
                    return Ok(());
                }
                end(tx, row, DisconnectReason::Declined, self.api().now_ms())
            }
            (Step::Sent, None) => Ok(finish(tx, row, DisconnectReason::Declined)?),
            _ => Ok(finish(tx, row, DisconnectReason::Ended)?),
        }
    }
}

/// The peer has accepted, or was accepted. What they had asked in another way is settled by that.
pub(super) fn connected(tx: &Tx<'_>, mut row: ConnectionRow, now_ms: u64) -> Result<(), Error> {
    if let Some(request) = row.request.take() {
        forget_request(tx, &request, now_ms)?;
    }
    let is_told = row.step == Step::Accepting && !row.has_to(TO_TELL);
    row.step = Step::Connected;
    row.since_ms = now_ms;
    row.todo &= TO_COMMIT;
    tx.put_connection(&row)?;
    if is_told {
        Ok(())
    } else {
        tell_connected(tx, row)
    }
}

fn tell_connected(tx: &Tx<'_>, row: ConnectionRow) -> Result<(), Error> {
    let group = row
        .group
        .ok_or(StoreError::Incomplete("a connection's group"))?;
    tx.insert_event(&Event::Connected {
        peer: row.peer,
        group,
    })?;
    Ok(())
}

/// This client has joined a group: whether the application was told by that of a connection, or
/// will be.
///
/// Where it has joined by itself, only a connection that its provider knows of counts.
pub(crate) fn after_join(
    tx: &Tx<'_>,
    id: &GroupId,
    group: &MlsGroup,
    own: &UserId,
    by_itself: bool,
    now_ms: u64,
) -> Result<bool, Error> {
    if tx.is_to_end(id)? {
        return Ok(true);
    }
    if let Some(mut row) = tx.connection_of(id)? {
        // It is not to be joined once more.
        row.request = row.request.filter(|request| request.group != *id);
        let is_to_tell = row.has_to(TO_TELL);
        row.todo &= !TO_TELL;
        tx.put_connection(&row)?;
        let is_accepted = row.step == Step::Accepting;
        // Before the peer is added, there is nobody else.
        let is_begun = row.step == Step::Asking && is_private(group, own, &row.peer);
        if !is_begun && !is_of_two(group, own, &row.peer) {
            // Another group than what was asked for.
            end(tx, row, DisconnectReason::Ended, now_ms)?;
            return Ok(true);
        }
        if is_accepted && is_to_tell {
            // Before anything that was written there.
            tell_connected(tx, row)?;
        }
        return Ok(is_accepted);
    }
    if mls::kind_of(group) != GroupType::Connection {
        return Ok(false);
    }
    let members = mls::members(group);
    let peer = members.iter().map(ClientId::user_id).find(|u| u != own);
    let Some(peer) = peer.filter(|peer| is_of_two(group, own, peer)) else {
        return Ok(false);
    };
    let known = tx.connection(&peer)?;
    let is_free = match known {
        Some(row) => row.group.is_none() && row.step == Step::Connected,
        None => !by_itself,
    };
    if !is_free {
        return Ok(false);
    }
    let row = ConnectionRow::new(peer.clone(), Step::Sent, now_ms, Some(id.clone()));
    if mls::has_committed(group, &peer) {
        connected(tx, row, now_ms)?;
        return Ok(true);
    }
    tx.put_connection(&row)?;
    Ok(false)
}

/// Whether a group is what a request said: one of these two users, and of no others.
pub(crate) fn is_of_two(group: &MlsGroup, own: &UserId, peer: &UserId) -> bool {
    let members = mls::members(group);
    let is_of = |user: &UserId| members.iter().any(|member| member.user_id() == *user);
    mls::kind_of(group) == GroupType::Connection
        && is_of(own)
        && is_of(peer)
        && is_private(group, own, peer)
}

/// Whether there is nobody but these two users in a group.
fn is_private(group: &MlsGroup, own: &UserId, peer: &UserId) -> bool {
    let members = mls::members(group);
    let is_known = |member: &ClientId| {
        let user = member.user_id();
        user == *own || user == *peer
    };
    // Whoever has no name of a client is somebody, too.
    members.iter().all(is_known) && mls::have_names(group)
}
