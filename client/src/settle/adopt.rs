//! What becomes of the state of MLS that a request came with, once it has its answer.

use moh_messages::{ClientId, DsErrorCode, GroupId};
use openmls::group::MlsGroup;
use openmls::prelude::{LeafNodeIndex, Sender};
use openmls_traits::OpenMlsProvider;

use super::{as_refusal, load};
use crate::attestations;
use crate::client::Client;
use crate::connections;
use crate::error::Error;
use crate::events::{DisconnectReason, Event, Operation, Outcome};
use crate::mls;
use crate::queue::Before;
use crate::store::{Pending, StoreError, TO_UPDATE, Tx};

impl Client {
    /// The owner took it: adopts the state that belongs to it.
    pub(crate) async fn take_up(&self, pending: &Pending, announce: bool) -> Result<(), Error> {
        let (this, row) = (self.clone(), pending.clone());
        self.store()
            .run(move |tx| {
                this.adopt(tx, &row)?;
                if announce {
                    tx.insert_event(&settled(&row.group, row.operation, Outcome::Accepted))?;
                }
                Ok::<_, Error>(tx.delete_pending(&row.group)?)
            })
            .await?;
        self.new_events().notify_one();
        self.process_parked().await
    }

    /// The owner refused it: gives up the state that belongs to it.
    pub(crate) async fn discard(
        &self,
        pending: &Pending,
        error: &Error,
        announce: bool,
    ) -> Result<(), Error> {
        self.give_up(&pending.group, pending.operation, error, announce)
            .await
    }

    /// Gives up what is left of an operation that failed for good; and the group, if that is
    /// why.
    pub(crate) async fn give_up(
        &self,
        group: &GroupId,
        operation: Operation,
        error: &Error,
        announce: bool,
    ) -> Result<(), Error> {
        let (group, now_ms) = (group.clone(), self.api().now_ms());
        let refusal = as_refusal(error);
        self.store()
            .run(move |tx| {
                // A Welcome may have come in meanwhile: that is another matter.
                let left = tx.pending(&group)?;
                let left = left.filter(|left| left.operation != Operation::Join);
                let mut is_left = left.is_some();
                if let Some(left) = left {
                    give_up_state(tx, &left, refusal.code)?;
                    tx.delete_pending(&group)?;
                }
                if operation == Operation::Message {
                    is_left |= tx.unsent(&group)?.is_some();
                    tx.delete_unsent(&group)?;
                }
                let is_over = refusal.code == DsErrorCode::GROUP_DELETED;
                // The end of the group may have told it already.
                if announce && is_left {
                    let outcome = Outcome::Refused(refusal);
                    tx.insert_event(&settled(&group, operation, outcome))?;
                }
                if is_over && tx.owner(&group)?.is_some() {
                    if !connections::is_over(tx, &group, DisconnectReason::Ended)? {
                        tx.insert_event(&Event::Deleted {
                            group: group.clone(),
                        })?;
                    }
                    end_group(tx, &group, now_ms)?;
                }
                Ok::<_, Error>(())
            })
            .await?;
        self.new_events().notify_one();
        self.process_parked().await
    }

    fn adopt(&self, tx: &Tx<'_>, row: &Pending) -> Result<(), Error> {
        let now_ms = self.api().now_ms();
        match row.operation {
            Operation::CreateGroup => {
                tx.replace_group(&row.group, &row.owner, 0, false)?;
                tx.set_group_type(&row.group, mls::kind_of(&load(tx, &row.group)?))?;
                tx.set_updated_ms(&row.group, now_ms)?;
            }
            Operation::Add | Operation::Update | Operation::Remove | Operation::SetRoles => {
                self.merge_own_commit(tx, row)?;
            }
            Operation::Delete => {
                // Whoever deletes the group of a connection need not be told; the provider has to.
                if let Some(connection) = tx.connection_of(&row.group)? {
                    connections::withdraw_later(tx, connection)?;
                }
                end_group(tx, &row.group, now_ms)?;
            }
            Operation::ExternalJoin => {
                let before = Before::of(tx, &row.group)?;
                delete_state(tx, &row.group)?;
                tx.adopt_staged(&row.group)?;
                let group = load(tx, &row.group)?;
                let epoch = group.epoch().as_u64();
                tx.replace_group(&row.group, &row.owner, epoch, false)?;
                tx.set_group_type(&row.group, mls::kind_of(&group))?;
                tx.set_updated_ms(&row.group, now_ms)?;
                let by_itself = tx.has_rejoined(&row.group, now_ms)?;
                if by_itself {
                    let group = row.group.clone();
                    tx.insert_event(&Event::Rejoined { group, epoch })?;
                }
                before.tell(tx, &row.group, &group, self.client_id())?;
                attestations::look_at_all(tx, &row.group, &group, now_ms)?;
                let own = self.user_id();
                connections::after_join(tx, &row.group, &group, own, by_itself, now_ms)?;
            }
            Operation::Message | Operation::Join | Operation::Leave => {}
        }
        Ok(())
    }

    /// Enters the epoch that this client's commit began. What it did on behalf of others is told.
    fn merge_own_commit(&self, tx: &Tx<'_>, row: &Pending) -> Result<(), Error> {
        let id = &row.group;
        let mut group = load(tx, id)?;
        let removed = removed_for_others(&group);
        group.merge_pending_commit(tx).map_err(Error::mls)?;
        if !removed.is_empty() {
            tx.insert_event(&Event::MembersChanged {
                group: id.clone(),
                by: self.client_id().clone(),
                added: Vec::new(),
                removed,
                epoch: group.epoch().as_u64(),
            })?;
        }
        if row.operation == Operation::Update
            && let Some(connection) = tx.connection_of(id)?
        {
            connections::has_done(tx, &connection.peer, TO_UPDATE)?;
        }
        let now_ms = self.api().now_ms();
        tx.set_updated_ms(id, now_ms)?;
        self.after_commit(tx, id, &group, self.client_id())
    }

    /// The owner refused it because others came first: what arrived is let in, and a message
    /// stays stored, to be encrypted anew.
    pub(super) async fn let_others_in(
        &self,
        pending: &Pending,
        error: &Error,
    ) -> Result<(), Error> {
        let (row, code) = (pending.clone(), as_refusal(error).code);
        self.store()
            .run(move |tx| {
                give_up_state(tx, &row, code)?;
                if row.operation == Operation::Message {
                    tx.put_unsent(&row.group, &row.extra)?;
                }
                Ok::<_, Error>(tx.delete_pending(&row.group)?)
            })
            .await?;
        self.process_parked().await
    }
}

/// Those whom the pending commit removes because they, or the owner, proposed it.
fn removed_for_others(group: &MlsGroup) -> Vec<ClientId> {
    let own = Sender::Member(group.own_leaf_index());
    let client_at = |leaf: LeafNodeIndex| group.member(leaf).and_then(mls::client_of);
    group
        .pending_commit()
        .into_iter()
        .flat_map(|commit| commit.remove_proposals())
        .filter(|removal| *removal.sender() != own)
        .filter_map(|removal| client_at(removal.remove_proposal().removed()))
        .collect()
}

fn give_up_state(tx: &Tx<'_>, pending: &Pending, code: DsErrorCode) -> Result<(), Error> {
    match pending.operation {
        Operation::CreateGroup => {
            if let Some(connection) = tx.connection_of(&pending.group)? {
                connections::leave_off(tx, connection)?;
            }
            Ok(load(tx, &pending.group)?.delete(tx.storage())?)
        }
        Operation::Add
        | Operation::Update
        | Operation::Remove
        | Operation::Delete
        | Operation::SetRoles => Ok(load(tx, &pending.group)?.clear_pending_commit(tx.storage())?),
        // The owner may have taken it, and an answer was lost: then somebody has committed it,
        // and that commit needs it. If not, it lapses with its epoch.
        Operation::Leave
            if matches!(code, DsErrorCode::WRONG_EPOCH | DsErrorCode::UNKNOWN_GROUP) =>
        {
            Ok(())
        }
        Operation::Leave => withdraw_own_removal(tx, &pending.group),
        Operation::ExternalJoin => Ok(tx.drop_staged(&pending.group)?),
        Operation::Message | Operation::Join => Ok(()),
    }
}

fn withdraw_own_removal(tx: &Tx<'_>, id: &GroupId) -> Result<(), Error> {
    let mut group = load(tx, id)?;
    let own = Sender::Member(group.own_leaf_index());
    let proposed: Vec<_> = group
        .pending_proposals()
        .filter(|pending| *pending.sender() == own)
        .map(|pending| pending.proposal_reference_ref().clone())
        .collect();
    for reference in proposed {
        group
            .remove_pending_proposal(tx.storage(), &reference)
            .map_err(Error::mls)?;
    }
    Ok(())
}

/// Deletes all that there is of a group in which this client is a member no longer. What still
/// arrives for it is nothing to talk about. What was to be written there is for those who were
/// there: it must not be sent should this client be added again.
pub(crate) fn end_group(tx: &Tx<'_>, id: &GroupId, now_ms: u64) -> Result<(), StoreError> {
    drop_unsent(tx, id)?;
    delete_state(tx, id)?;
    tx.forget_unverified(id)?;
    tx.forget_rejoin(id)?;
    tx.delete_group_row(id)?;
    tx.insert_left_group(id, now_ms)
}

/// What was to be written in a group is not.
pub(crate) fn drop_unsent(tx: &Tx<'_>, id: &GroupId) -> Result<(), StoreError> {
    if tx.unsent(id)?.is_some() {
        tx.delete_unsent(id)?;
        let refusal = as_refusal(&Error::UnknownGroup(id.clone()));
        let outcome = Outcome::Refused(refusal);
        tx.insert_event(&settled(id, Operation::Message, outcome))?;
    }
    Ok(())
}

pub(crate) fn delete_state(tx: &Tx<'_>, id: &GroupId) -> Result<(), StoreError> {
    let id = openmls::group::GroupId::from_slice(id.as_slice());
    match MlsGroup::load(tx.storage(), &id)? {
        Some(mut group) => group.delete(tx.storage()),
        None => Ok(()),
    }
}

fn settled(group: &GroupId, operation: Operation, outcome: Outcome) -> Event {
    Event::Settled {
        group: group.clone(),
        operation,
        outcome,
    }
}
