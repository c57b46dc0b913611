//! What a client does of its own accord, whenever events are received: errands, each of which is
//! tried again later if it fails, and none of which holds up another.

use std::future::Future;
use std::time::Duration;

use moh_messages::{Attestation, GroupId, ProviderName, UserId};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::events::Event;
use crate::mls;
use crate::settle::load;
use crate::store::RejoinRow;

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Errand {
    /// What is unfinished with a peer.
    Connection(UserId),
    /// A connection group that is to be deleted.
    Ending(GroupId),
    /// KeyPackages, of which there may be few.
    KeyPackages,
    /// What members show who are clients of this provider.
    Attestations(ProviderName),
    /// A group that is to be joined again.
    Rejoin(GroupId),
    /// This client's own attestation.
    Renewal,
    /// Keys in a group that have not been changed for long.
    Update(GroupId),
}

/// How long a round of errands goes on, before there is a look at what has arrived.
const ROUND: Duration = Duration::from_secs(5);
/// How long until there is another round, at most.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60 * 60);
/// How often a group that nobody here knows is asked for, at most.
const MAX_FAILURES: u32 = 8;
/// How often keys are changed in each group, at least, in milliseconds.
const UPDATE_EVERY_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How often there is a look at what nobody gives notice of, in milliseconds.
pub(crate) const LOOK_EVERY_MS: u64 = 24 * 60 * 60 * 1000;

impl Client {
    /// Does what is to be done now, as far as that takes not too long; when there is more to do.
    pub(crate) async fn upkeep(&self) -> Result<Option<Instant>, Error> {
        let until = Instant::now() + ROUND;
        let (peers, endings, providers) = self
            .store()
            .run(|tx| {
                let (peers, endings) = (tx.unfinished_connections()?, tx.endings()?);
                Ok::<_, Error>((peers, endings, tx.unverified_providers()?))
            })
            .await?;
        // There is a look at what nobody gives notice of.
        let mut next = Some(Instant::now() + LOOK_AT_CLOCK);
        for peer in peers {
            let work = self.look_after_connection(&peer);
            let again = self
                .run(until, Errand::Connection(peer.clone()), work)
                .await?;
            next = earlier(next, again);
        }
        for group in endings {
            let work = self.look_after_ending(&group);
            let again = self.run(until, Errand::Ending(group.clone()), work).await?;
            next = earlier(next, again);
        }
        for provider in providers {
            let work = self.look_after_attestations(&provider);
            let again = self.run(until, Errand::Attestations(provider.clone()), work);
            next = earlier(next, again.await?);
        }
        next = earlier(next, self.join_lost_groups(until).await?);
        next = earlier(next, self.renew(until).await?);
        let again = self.run(until, Errand::KeyPackages, self.look_after_key_packages());
        next = earlier(next, again.await?);
        Ok(next)
    }

    /// Joins the groups again that this client cannot follow.
    async fn join_lost_groups(&self, until: Instant) -> Result<Option<Instant>, Error> {
        let rows = self.store().run(|tx| Ok::<_, Error>(tx.rejoins()?)).await?;
        let mut next = None;
        for row in rows {
            let wait_ms = row.not_before_ms.saturating_sub(self.api().now_ms());
            let again = if wait_ms > 0 {
                Some(Instant::now() + Duration::from_millis(wait_ms))
            } else {
                let errand = Errand::Rejoin(row.group.clone());
                let work = self.look_after_lost_group(&row);
                let again = self.run(until, errand.clone(), work).await?;
                let failures = self.errand_retry(&errand).map_or(0, |retry| retry.failures);
                if failures >= MAX_FAILURES {
                    self.give_up_unknown_group(&row).await?;
                }
                again
            };
            next = earlier(next, again);
        }
        Ok(next)
    }

    /// Whoever names a group that nobody here knows, and does not answer, is not asked for ever.
    async fn give_up_unknown_group(&self, row: &RejoinRow) -> Result<(), Error> {
        let (group, now_ms) = (row.group.clone(), self.api().now_ms());
        self.store()
            .run(move |tx| {
                if tx.owner(&group)?.is_none() {
                    tx.give_up_rejoin(&group, now_ms)?;
                }
                Ok::<_, Error>(())
            })
            .await
    }

    /// Has the own key attested anew where half of the time is over, and changes keys in groups
    /// where that has not happened for long.
    async fn renew(&self, until: Instant) -> Result<Option<Instant>, Error> {
        let now_ms = self.api().now_ms();
        if self.is_renewal_due(now_ms) {
            let looked = self.look_for_old_leaves(now_ms);
            let again = self.run(until, Errand::Renewal, looked).await?;
            if again.is_some() {
                return Ok(again);
            }
        }
        let mut next = None;
        for group in self.old_leaves() {
            let work = self.look_after_leaf(&group);
            let again = self.run(until, Errand::Update(group.clone()), work).await?;
            next = earlier(next, again);
        }
        Ok(next)
    }

    async fn look_for_old_leaves(&self, now_ms: u64) -> Result<(), Error> {
        self.attestation().await?;
        let old = self
            .store()
            .run(move |tx| {
                let mut old = Vec::new();
                for id in tx.all_groups()? {
                    let group = match load(tx, &id) {
                        Ok(group) => group,
                        Err(error) => {
                            tracing::warn!(%error, ?id, "the state of a group");
                            continue;
                        }
                    };
                    let updated_ms = tx.updated_ms(&id, now_ms)?;
                    let is_old = now_ms >= updated_ms.saturating_add(UPDATE_EVERY_MS);
                    if is_old
                        || mls::own_attestation(&group).is_none_or(|a| is_half_over(&a, now_ms))
                    {
                        old.push(id);
                    }
                }
                Ok::<_, Error>(old)
            })
            .await?;
        self.set_old_leaves(old, now_ms);
        Ok(())
    }

    async fn look_after_leaf(&self, group: &GroupId) -> Result<(), Error> {
        match self.update(group).await {
            Err(error) if is_to_go_on(&error) => return Err(error),
            Err(error) => tracing::debug!(%error, ?group, "keys are not changed"),
            Ok(_) => {}
        }
        self.forget_old_leaf(group);
        Ok(())
    }

    /// Uploads KeyPackages, where the provider has said that there are few, or there is a look
    /// at it for the first time since the start or in a day, and most are gone.
    async fn look_after_key_packages(&self) -> Result<(), Error> {
        let stock = self
            .store()
            .run(|tx| Ok::<_, Error>(tx.key_package_stock()?))
            .await?;
        let now_ms = self.api().now_ms();
        let is_due = now_ms.abs_diff(stock.seen_ms) >= LOOK_EVERY_MS || !self.has_looked();
        if stock.wanted == 0 || !stock.is_low && !is_due {
            return Ok(());
        }
        let wanted = usize::try_from(stock.wanted).unwrap_or(usize::MAX);
        let low = if stock.is_low {
            wanted
        } else {
            wanted.div_ceil(2)
        };
        let count = self.refill(wanted, low).await?;
        self.set_has_looked();
        self.store()
            .run(move |tx| {
                tx.key_packages_are_there(now_ms)?;
                if count > 0 {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    tx.insert_event(&Event::KeyPackagesRefilled { count })?;
                }
                Ok::<_, Error>(())
            })
            .await
    }

    /// Runs an errand, unless it failed a short while ago; when it is to be tried again.
    async fn run(
        &self,
        until: Instant,
        errand: Errand,
        work: impl Future<Output = Result<(), Error>>,
    ) -> Result<Option<Instant>, Error> {
        let before = self.errand_retry(&errand);
        if let Some(retry) = before
            && retry.not_before > Instant::now()
        {
            return Ok(Some(retry.not_before));
        }
        if Instant::now() >= until {
            // After a look at what has arrived.
            return Ok(Some(until));
        }
        match work.await {
            Ok(()) => {
                self.set_errand_retry(errand, None);
                Ok(None)
            }
            Err(error @ (Error::Store(_) | Error::AccountDeleted)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, ?errand, "an errand is tried again later");
                let retry = self.later(before);
                self.set_errand_retry(errand, Some(retry));
                Ok(Some(retry.not_before))
            }
        }
    }
}

/// Whether the same is to be tried again.
pub(crate) fn is_to_go_on(error: &Error) -> bool {
    matches!(
        error,
        Error::Store(_) | Error::AccountDeleted | Error::Unsettled { .. }
    ) || error.is_temporary() && !matches!(error, Error::NoKeyPackage(_))
}

/// Whether half of the life of an attestation is over.
pub(crate) fn is_half_over(attestation: &Attestation, now_ms: u64) -> bool {
    now_ms >= attestation.not_before / 2 + attestation.not_after / 2
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}
