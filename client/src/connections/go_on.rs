//! What is yet to be done with a peer, step by step. Whoever calls holds the lock of connections.

use std::sync::Arc;

use moh_messages::{GroupId, GroupType, UserId};

use super::state;
use crate::client::Client;
use crate::error::Error;
use crate::events::DisconnectReason;
use crate::group::{GroupOptions, Intent};
use crate::key_packages::Fetched;
use crate::settle::{end_group, unsettled};
use crate::store::{ConnectionRow, Step, TO_COMMIT, TO_CONSENT, TO_TELL, TO_UPDATE, Tx};
use crate::upkeep::is_to_go_on;

/// How many steps are taken at once, at most.
const MAX_STEPS: u32 = 8;

impl Client {
    pub(super) async fn connection(&self, peer: &UserId) -> Result<Option<ConnectionRow>, Error> {
        let peer = peer.clone();
        self.store()
            .run(move |tx| Ok::<_, Error>(tx.connection(&peer)?))
            .await
    }

    /// Asks a peer with whom there is nothing yet.
    pub(super) async fn ask_anew(&self, peer: &UserId) -> Result<(), Error> {
        // Where they cannot be asked, there is no group to be made.
        let suite = self.cipher_suite();
        let fetched = self.fetch_connection_key_packages(peer, suite).await?;
        let options = GroupOptions {
            group_type: GroupType::Connection,
            ..GroupOptions::default()
        };
        match self.create(options, Some(peer.clone())).await {
            // The peer has asked meanwhile.
            Err(Error::AlreadyConnected(_)) => self.accept_request(peer).await.map(|_| ()),
            Err(error) => Err(error),
            Ok(_) => self.go_on(peer, Some(fetched)).await,
        }
    }

    /// Does what is yet to be done with a peer. Where somebody gives no answer, it remains to be
    /// done.
    pub(super) async fn go_on(&self, peer: &UserId, fetched: Option<Fetched>) -> Result<(), Error> {
        let result = self.take_steps(peer, fetched).await;
        let Err(error) = result else {
            return Ok(());
        };
        let Some(row) = self.connection(peer).await? else {
            return Err(error);
        };
        match row.group {
            _ if matches!(
                error,
                Error::Store(_) | Error::AccountDeleted | Error::Unsettled { .. }
            ) =>
            {
                Err(error)
            }
            Some(group) if error.is_temporary() => Err(unsettled(&group, error)),
            Some(_) if row.step == Step::Asking => {
                self.give_up_asking(peer).await?;
                Err(error)
            }
            _ => Err(error),
        }
    }

    async fn take_steps(&self, peer: &UserId, mut fetched: Option<Fetched>) -> Result<(), Error> {
        for _ in 0..MAX_STEPS {
            let Some(row) = self.connection(peer).await? else {
                return Ok(());
            };
            match (row.step, &row.group) {
                (Step::Asking, Some(group)) => self.invite(peer, group, fetched.take()).await?,
                (Step::Accepting, Some(group)) => self.go_on_to_accept(&row, group).await?,
                (Step::Ending, _) => self.withdraw(peer).await?,
                (_, Some(group)) if row.has_to(TO_COMMIT) => {
                    self.commit_there(peer, group).await?;
                }
                (Step::Sent, Some(group)) if row.has_to(TO_UPDATE) => {
                    self.make_a_change(&row, group, false).await?;
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Adds the peer to the group that was made for it.
    async fn invite(
        &self,
        peer: &UserId,
        group: &GroupId,
        fetched: Option<Fetched>,
    ) -> Result<(), Error> {
        {
            let _guard = self.lock_group(group).await;
            self.settle(group).await?;
        }
        let row = self.connection(peer).await?;
        if row.is_none_or(|row| row.step != Step::Asking || row.group.as_ref() != Some(group)) {
            return Ok(());
        }
        let fetched = match fetched {
            Some(fetched) => fetched,
            None => {
                let suite = self.cipher_suite();
                self.fetch_connection_key_packages(peer, suite).await?
            }
        };
        let intent = Intent::Add {
            key_packages: fetched.key_packages,
            further_devices: false,
        };
        self.operate(group, intent).await.map(|_| ())
    }

    /// The peer cannot be asked: nothing of it is to remain.
    async fn give_up_asking(&self, peer: &UserId) -> Result<(), Error> {
        let peer = peer.clone();
        self.store()
            .run(move |tx| {
                let Some(row) = tx.connection(&peer)? else {
                    return Ok(());
                };
                if row.step != Step::Asking {
                    return Ok(());
                }
                if let Some(group) = &row.group {
                    tx.insert_ending(group)?;
                }
                Ok::<_, Error>(state::withdraw_later(tx, row)?)
            })
            .await?;
        self.new_events().notify_one();
        Ok(())
    }

    /// What a peer asked is accepted: by `todo`, here, or on another device. Whether there is a
    /// group to be joined; if not, nothing has changed.
    pub(super) fn begin_to_accept(
        &self,
        tx: &Tx<'_>,
        mut row: ConnectionRow,
        todo: u8,
    ) -> Result<bool, Error> {
        row.step = Step::Accepting;
        row.todo = todo | TO_TELL;
        row.since_ms = self.api().now_ms();
        let Some(request) = &row.request else {
            return Ok(false);
        };
        if !self.join_by_request(tx, &request.item)? {
            return Ok(false);
        }
        tx.put_connection(&row)?;
        Ok(true)
    }

    async fn go_on_to_accept(&self, row: &ConnectionRow, group: &GroupId) -> Result<(), Error> {
        if row.request.is_some() {
            let _guard = self.lock_group(group).await;
            return self.settle(group).await;
        }
        let id = group.clone();
        let (owner, stale) = self
            .store()
            .run(move |tx| {
                let stale = tx.groups_with_stale_queue()?.contains(&id);
                Ok::<_, Error>((tx.owner(&id)?, stale))
            })
            .await?;
        if owner.is_none() {
            return self.join_late(row, group).await;
        }
        if row.has_to(TO_UPDATE) {
            return self.make_a_change(row, group, stale).await;
        }
        if row.has_to(TO_CONSENT) {
            self.set_consent(&row.peer, true).await?;
        }
        let (before, now_ms) = (row.clone(), self.api().now_ms());
        self.store()
            .run(move |tx| match tx.connection(&before.peer)? {
                Some(row) if row.step == Step::Accepting && row.group == before.group => {
                    state::connected(tx, row, now_ms)
                }
                _ => Ok(()),
            })
            .await?;
        self.new_events().notify_one();
        Ok(())
    }

    /// The owner does not keep what the Welcome needs any more; who was invited may still join.
    async fn join_late(&self, row: &ConnectionRow, group: &GroupId) -> Result<(), Error> {
        let _guard = self.lock_group(group).await;
        self.settle(group).await?;
        let owner = row.peer.provider();
        match self.join_from_outside(group, &owner, false).await {
            Ok(_) => Ok(()),
            Err(error) if is_to_go_on(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the connection group is not there any more");
                let peer = row.peer.clone();
                self.store()
                    .run(move |tx| match tx.connection(&peer)? {
                        Some(row) => Ok(state::finish(tx, row, DisconnectReason::Ended)?),
                        None => Ok::<_, Error>(()),
                    })
                    .await?;
                self.new_events().notify_one();
                Err(error)
            }
        }
    }

    /// A change in the group: by it the peer learns that they are accepted, or this client that
    /// the peer has declined.
    async fn make_a_change(
        &self,
        row: &ConnectionRow,
        group: &GroupId,
        stale_queue: bool,
    ) -> Result<(), Error> {
        let queue_config = match stale_queue {
            true => Some(self.queue_config().await?),
            false => None,
        };
        let intent = self.update_intent(queue_config).await?;
        match self.operate(group, intent).await {
            Err(error) if is_to_go_on(&error) => return Err(error),
            Err(error) => tracing::warn!(%error, "no change in a connection group"),
            Ok(_) => {}
        }
        let (peer, id) = (row.peer.clone(), group.clone());
        self.store()
            .run(move |tx| {
                if stale_queue {
                    tx.queue_is_fresh(&id)?;
                }
                has_done(tx, &peer, TO_UPDATE)
            })
            .await
    }

    /// Commits what the owner, or a member, proposed.
    async fn commit_there(&self, peer: &UserId, group: &GroupId) -> Result<(), Error> {
        let _guard = self.lock_group(group).await;
        self.settle(group).await?;
        let intent = Arc::new(Intent::CommitProposals(self.attestation().await?));
        match self.carry_out(group, &intent, None, false).await {
            Err(error) if is_to_go_on(&error) => return Err(error),
            Err(error) => tracing::debug!(%error, "proposals could not be committed"),
            Ok(_) => {}
        }
        let peer = peer.clone();
        self.store()
            .run(move |tx| has_done(tx, &peer, TO_COMMIT))
            .await
    }

    /// Tells the provider that a connection is over.
    pub(super) async fn withdraw(&self, peer: &UserId) -> Result<(), Error> {
        self.set_consent(peer, false).await?;
        let peer = peer.clone();
        self.store()
            .run(move |tx| match tx.connection(&peer)? {
                Some(row) if row.step == Step::Ending => Ok(state::leave_off(tx, row)?),
                _ => Ok::<_, Error>(()),
            })
            .await?;
        self.new_events().notify_one();
        Ok(())
    }

    /// Deletes a connection group that is over; or leaves it, where that cannot be.
    pub(super) async fn end_connection_group(&self, group: &GroupId) -> Result<(), Error> {
        let _guard = self.lock_group(group).await;
        self.settle(group).await?;
        for intent in [Intent::Delete, Intent::Leave] {
            let id = group.clone();
            let owner = self.store().run(move |tx| Ok::<_, Error>(tx.owner(&id)?));
            if owner.await?.is_none() {
                break;
            }
            match self.carry_out(group, &Arc::new(intent), None, false).await {
                Err(error) if is_to_go_on(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, "a connection group is not ended so"),
                Ok(_) => break,
            }
        }
        let (id, now_ms) = (group.clone(), self.api().now_ms());
        self.store()
            .run(move |tx| {
                if tx.owner(&id)?.is_some() {
                    end_group(tx, &id, now_ms)?;
                }
                Ok::<_, Error>(tx.delete_ending(&id)?)
            })
            .await
    }

    /// Goes on with a peer, of its own accord.
    pub(crate) async fn look_after_connection(&self, peer: &UserId) -> Result<(), Error> {
        // Whoever is about it will see to it, and say when that is over.
        let Some(_guard) = self.try_lock_connections() else {
            return Ok(());
        };
        match self.take_steps(peer, None).await {
            Err(error) if is_to_go_on(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, %peer, "no connection");
                let is_over = match &error {
                    Error::BadAnswer { .. } => false,
                    error => self.give_up_peer(peer, error.refusal().is_some()).await?,
                };
                if is_over { Ok(()) } else { Err(error) }
            }
            Ok(()) => Ok(()),
        }
    }

    /// What is yet to be done with a peer cannot be done. Whether that was the end of it.
    async fn give_up_peer(&self, peer: &UserId, is_refused: bool) -> Result<bool, Error> {
        let (peer, now_ms) = (peer.clone(), self.api().now_ms());
        let is_over = self
            .store()
            .run(move |tx| {
                let Some(row) = tx.connection(&peer)? else {
                    return Ok(true);
                };
                match row.step {
                    Step::Asking => state::end(tx, row, DisconnectReason::NotSent, now_ms)?,
                    // The group is joined, and the provider does not want the connection.
                    Step::Accepting if is_refused && row.request.is_none() => {
                        state::end(tx, row, DisconnectReason::Withdrawn, now_ms)?;
                    }
                    Step::Ending if is_refused => state::leave_off(tx, row)?,
                    _ => return Ok::<_, Error>(false),
                }
                Ok(true)
            })
            .await?;
        if is_over {
            self.new_events().notify_one();
        }
        Ok(is_over)
    }

    /// Ends a connection group, of its own accord.
    pub(crate) async fn look_after_ending(&self, group: &GroupId) -> Result<(), Error> {
        let Some(_guard) = self.try_lock_connections() else {
            return Ok(());
        };
        self.end_connection_group(group).await
    }
}

pub(crate) fn has_done(tx: &Tx<'_>, peer: &UserId, what: u8) -> Result<(), Error> {
    if let Some(mut row) = tx.connection(peer)?
        && row.has_to(what)
    {
        row.todo &= !what;
        tx.put_connection(&row)?;
    }
    Ok(())
}
