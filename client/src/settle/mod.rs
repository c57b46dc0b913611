//! How a request gets its answer, whatever happens to the connection or to this process.
//!
//! A request is a row of `pending` before it goes out. The same bytes go out until the owner
//! says yes, and the state of MLS that belongs to it is adopted together with the row's end; or
//! until it says no, and both are given up. Meanwhile what arrives for the group is parked.

mod adopt;
mod catch_up;

use std::sync::Arc;
use std::time::Duration;

use moh_messages::{DsError, DsErrorCode, DsResponseBody, GroupId};
use openmls::group::MlsGroup;
use openmls_traits::OpenMlsProvider;
use tokio::time::Instant;

use crate::api::Reply;
use crate::client::Client;
use crate::clock::below;
use crate::error::Error;
use crate::events::Operation;
use crate::group::{Accepted, Intent, Prepared};
use crate::store::{Pending, Tx};

use catch_up::Behind;

pub(crate) use adopt::{delete_state, drop_unsent, end_group};

/// How often a request is made anew because others changed the group first. Twenty clients that
/// begin at the same moment need about a dozen attempts each.
pub(crate) const MAX_TRIES: u32 = 64;

/// How long after the first failure a stored request goes out again, in milliseconds.
const FIRST_RETRY_MS: u64 = 1000;
/// How long after any failure a stored request goes out again, at most, in milliseconds.
const MAX_RETRY_MS: u64 = 60_000;

/// When a stored request goes out again by itself.
#[derive(Clone, Copy)]
pub(crate) struct Retry {
    pub(crate) failures: u32,
    pub(crate) not_before: Instant,
}

/// The owner's final answer.
pub(crate) enum Verdict {
    Accepted(Accepted),
    Refused(Error),
}

/// The state of MLS of a group.
pub(crate) fn load(tx: &Tx<'_>, group: &GroupId) -> Result<MlsGroup, Error> {
    let id = openmls::group::GroupId::from_slice(group.as_slice());
    MlsGroup::load(tx.storage(), &id)?.ok_or_else(|| Error::UnknownGroup(group.clone()))
}

impl Client {
    /// Sends a stored request, and waits for the owner's final answer.
    pub(crate) async fn submit(&self, pending: &Pending) -> Result<Verdict, Error> {
        let endpoint = moh_messages::Endpoint::GroupOperation;
        let reply = self
            .api()
            .ask_owner(&pending.owner, endpoint, pending.request.clone())
            .await;
        let cause = match reply {
            Reply::Done(DsResponseBody::Ok { epoch, accepted_at }) => {
                return Ok(Verdict::Accepted(Accepted { epoch, accepted_at }));
            }
            Reply::Refused(error) => return Ok(Verdict::Refused(error)),
            Reply::Done(_) => Error::BadAnswer {
                by: pending.owner.clone(),
                detail: "not ok".to_owned(),
            },
            Reply::Unknown(error) => error,
        };
        // It is to go out again by itself.
        self.new_events().notify_one();
        Err(unsettled(&pending.group, cause))
    }

    /// Makes the request, or takes the one that is stored, and gets it answered; again on top of
    /// what others did, where they came first. None where nothing is left to be done. The caller
    /// holds the group's lock.
    pub(crate) async fn carry_out(
        &self,
        group: &GroupId,
        intent: &Arc<Intent>,
        stored: Option<Pending>,
        announce: bool,
    ) -> Result<Option<Accepted>, Error> {
        let result = self.try_to_carry_out(group, intent, stored, announce).await;
        match result {
            Err(error) if !matches!(error, Error::Unsettled { .. } | Error::Store(_)) => {
                self.give_up(group, intent.operation(), &error, announce)
                    .await?;
                Err(error)
            }
            result => result,
        }
    }

    async fn try_to_carry_out(
        &self,
        group: &GroupId,
        intent: &Arc<Intent>,
        mut stored: Option<Pending>,
        announce: bool,
    ) -> Result<Option<Accepted>, Error> {
        for attempt in 0..MAX_TRIES {
            let pending = match stored.take() {
                Some(pending) => pending,
                None => match self.prepare_in_tx(group, intent).await? {
                    Prepared::Request(pending) => pending,
                    Prepared::ProposalsFirst => {
                        self.keep_unsent(group, intent).await?;
                        let update = self.commit_proposals(group);
                        self.or_unsettled(group, intent, update.await)?;
                        continue;
                    }
                    Prepared::Needless => return Ok(None),
                },
            };
            let error = match self.submit(&pending).await? {
                Verdict::Accepted(accepted) => {
                    self.take_up(&pending, announce).await?;
                    return Ok(Some(accepted));
                }
                Verdict::Refused(error) => error,
            };
            let Some(behind) = Behind::of(&error) else {
                return Err(error);
            };
            tracing::debug!(%error, attempt, "rebasing");
            self.let_others_in(&pending, &error).await?;
            let caught_up = self.catch_up(group, behind, attempt).await;
            self.or_unsettled(group, intent, caught_up)?;
        }
        Err(Error::Outrun {
            group: group.clone(),
            tries: MAX_TRIES,
        })
    }

    async fn prepare_in_tx(
        &self,
        group: &GroupId,
        intent: &Arc<Intent>,
    ) -> Result<Prepared, Error> {
        let (this, id, intent) = (self.clone(), group.clone(), Arc::clone(intent));
        self.store()
            .run(move |tx| this.prepare(tx, &id, &intent))
            .await
    }

    /// Stores a message that cannot be encrypted yet.
    async fn keep_unsent(&self, group: &GroupId, intent: &Arc<Intent>) -> Result<(), Error> {
        let (group, intent) = (group.clone(), Arc::clone(intent));
        self.store()
            .run(move |tx| match &*intent {
                Intent::Message(content) => Ok(tx.put_unsent(&group, content)?),
                _ => Ok(()),
            })
            .await
    }

    /// A message that waits for something else is stored: that must not end it.
    fn or_unsettled<T>(
        &self,
        group: &GroupId,
        intent: &Intent,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        result.map_err(|error| match intent {
            Intent::Message(_) if error.is_temporary() => unsettled(group, error),
            _ => error,
        })
    }

    /// Commits what others proposed: nothing else is possible before.
    async fn commit_proposals(&self, group: &GroupId) -> Result<(), Error> {
        let intent = Arc::new(Intent::CommitProposals(self.attestation().await?));
        Box::pin(self.try_to_carry_out(group, &intent, None, false)).await?;
        Ok(())
    }

    /// Gets the answer to what is pending in a group, and sends what is unsent. The caller holds
    /// the group's lock.
    pub(crate) async fn settle(&self, group: &GroupId) -> Result<(), Error> {
        let id = group.clone();
        let pending = self.store().run(move |tx| tx.pending(&id)).await?;
        if let Some(pending) = pending {
            self.settle_pending(pending).await?;
        }
        // What was parked until then may have ended the group.
        let id = group.clone();
        match self.store().run(move |tx| tx.unsent(&id)).await? {
            Some(content) => self.settle_message(group, content, None).await,
            None => Ok(()),
        }
    }

    async fn settle_pending(&self, pending: Pending) -> Result<(), Error> {
        match pending.operation {
            Operation::Join => self.join(&pending).await,
            Operation::Message => {
                let group = pending.group.clone();
                let content = pending.extra.clone();
                self.settle_message(&group, content, Some(pending)).await
            }
            Operation::CreateGroup
            | Operation::Add
            | Operation::Update
            | Operation::Remove
            | Operation::Delete
            | Operation::SetRoles
            | Operation::Leave
            | Operation::ExternalJoin => match self.submit(&pending).await? {
                Verdict::Accepted(_) => self.take_up(&pending, true).await,
                Verdict::Refused(error) => self.discard(&pending, &error, true).await,
            },
        }
    }

    async fn settle_message(
        &self,
        group: &GroupId,
        content: Vec<u8>,
        stored: Option<Pending>,
    ) -> Result<(), Error> {
        let intent = Arc::new(Intent::Message(content));
        match self.carry_out(group, &intent, stored, true).await {
            Err(error @ (Error::Unsettled { .. } | Error::Store(_))) => Err(error),
            _ => Ok(()),
        }
    }

    /// Gets the answers to all that is pending, except where somebody is about it, and does what
    /// else there is to do. That a provider gives none is no error: there will be another time, and
    /// this says when.
    pub(crate) async fn settle_all(&self) -> Result<Option<Instant>, Error> {
        self.process_parked().await?;
        let (pending, stale) = self
            .store()
            .run(|tx| Ok::<_, Error>((tx.pending_groups()?, tx.groups_with_stale_queue()?)))
            .await?;
        let mut next = None;
        for (group, is_pending) in pending
            .into_iter()
            .map(|group| (group, true))
            .chain(stale.into_iter().map(|g| (g, false)))
        {
            let Some(_guard) = self.try_lock_group(&group) else {
                continue;
            };
            let retry = self.retry_of(&group);
            if retry.is_none_or(|retry| retry.not_before <= Instant::now()) {
                let result = if is_pending {
                    self.settle(&group).await
                } else {
                    self.replace_queue(&group).await
                };
                match result {
                    Ok(()) => self.set_retry(&group, None),
                    Err(error @ Error::Store(_)) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "not settled yet");
                        self.set_retry(&group, Some(self.later(retry)));
                    }
                }
            }
            let not_before = self.retry_of(&group).map(|retry| retry.not_before);
            next = [next, not_before].into_iter().flatten().min();
        }
        let upkeep = self.upkeep().await?;
        Ok([next, upkeep].into_iter().flatten().min())
    }

    pub(crate) fn later(&self, last: Option<Retry>) -> Retry {
        let failures = last.map_or(0, |last| last.failures.saturating_add(1));
        let max_ms = (FIRST_RETRY_MS << failures.min(10)).min(MAX_RETRY_MS);
        let pause_ms = max_ms / 2 + below(&*self.api().random, max_ms / 2);
        Retry {
            failures,
            not_before: Instant::now() + Duration::from_millis(pause_ms),
        }
    }

    /// Replaces the queue config of a last-resort KeyPackage, which is in more than one group.
    async fn replace_queue(&self, group: &GroupId) -> Result<(), Error> {
        let queue_config = Some(self.queue_config().await?);
        let intent = Arc::new(self.update_intent(queue_config).await?);
        match self.carry_out(group, &intent, None, false).await {
            Err(error) if error.is_temporary() || matches!(error, Error::Store(_)) => {
                return Err(error);
            }
            Err(error @ Error::Unsettled { .. }) => return Err(error),
            Err(error) => tracing::warn!(%error, "the queue config could not be replaced"),
            Ok(_) => {}
        }
        let id = group.clone();
        self.store()
            .run(move |tx| Ok(tx.queue_is_fresh(&id)?))
            .await
    }
}

pub(crate) fn unsettled(group: &GroupId, cause: Error) -> Error {
    match cause {
        Error::Unsettled { .. } => cause,
        cause => Error::Unsettled {
            group: group.clone(),
            cause: Box::new(cause),
        },
    }
}

/// A reason as the owner of the group would put it.
fn as_refusal(error: &Error) -> DsError {
    match error {
        Error::Refused { error, .. } => error.clone(),
        Error::UnknownGroup(_) => DsError::new(DsErrorCode::UNKNOWN_GROUP, &error.to_string()),
        Error::Outrun { .. } => DsError::new(DsErrorCode::WRONG_EPOCH, &error.to_string()),
        other => DsError::new(DsErrorCode::INVALID_MESSAGE, &other.to_string()),
    }
}
