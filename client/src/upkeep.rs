//! What a client does of its own accord, whenever events are received: errands, each of which is
//! tried again later if it fails, and none of which holds up another.

use std::collections::VecDeque;
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
        let rejoins = self.store().run(|tx| Ok::<_, Error>(tx.rejoins()?)).await?;
        // There is a look at what nobody gives notice of.
        let mut next = Some(Instant::now() + LOOK_AT_CLOCK);
        let now_ms = self.api().now_ms();
        for row in &rejoins {
            let wait_ms = row.not_before_ms.saturating_sub(now_ms);
            if wait_ms > 0 {
                let again = Instant::now() + Duration::from_millis(wait_ms);
                next = earlier(next, Some(again));
            }
        }
        let mut errands = self.errands(&rejoins, now_ms).await?;
        while let Some(errand) = errands.pop_front() {
            let again = self.run(until, &errand, &rejoins).await?;
            if errand == Errand::Renewal && again.is_none() {
                errands.extend(self.old_leaves().into_iter().map(Errand::Update));
            }
            next = earlier(next, again);
        }
        Ok(next)
    }

    /// What is to be done: first what was not tried yet, the own keys before all else; then what
    /// has waited longest. So nobody who gives no answer holds up the others for ever.
    async fn errands(&self, rejoins: &[RejoinRow], now_ms: u64) -> Result<VecDeque<Errand>, Error> {
        let (peers, endings, providers) = self
            .store()
            .run(|tx| {
                let (peers, endings) = (tx.unfinished_connections()?, tx.endings()?);
                Ok::<_, Error>((peers, endings, tx.unverified_providers()?))
            })
            .await?;
        let mut errands = vec![Errand::KeyPackages];
        if self.is_renewal_due(now_ms) {
            errands.push(Errand::Renewal);
        } else {
            errands.extend(self.old_leaves().into_iter().map(Errand::Update));
        }
        errands.extend(peers.into_iter().map(Errand::Connection));
        errands.extend(endings.into_iter().map(Errand::Ending));
        let due = rejoins.iter().filter(|row| row.not_before_ms <= now_ms);
        errands.extend(due.map(|row| Errand::Rejoin(row.group.clone())));
        errands.extend(providers.into_iter().map(Errand::Attestations));
        errands.sort_by_key(|errand| self.errand_retry(errand).map(|retry| retry.not_before));
        Ok(errands.into())
    }

    async fn work(&self, errand: &Errand, rejoins: &[RejoinRow]) -> Result<(), Error> {
        match errand {
            Errand::Connection(peer) => self.look_after_connection(peer).await,
            Errand::Ending(group) => self.look_after_ending(group).await,
            Errand::KeyPackages => self.look_after_key_packages().await,
            Errand::Attestations(provider) => self.look_after_attestations(provider).await,
            Errand::Rejoin(group) => {
                let Some(row) = rejoins.iter().find(|row| row.group == *group) else {
                    return Ok(());
                };
                let result = self.look_after_lost_group(row).await;
                let failures = self.errand_retry(errand).map_or(0, |retry| retry.failures);
                if result.is_err() && failures >= MAX_FAILURES {
                    self.give_up_unknown_group(row).await?;
                }
                result
            }
            Errand::Renewal => self.look_for_old_leaves(self.api().now_ms()).await,
            Errand::Update(group) => self.look_after_leaf(group).await,
        }
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

    /// Has the own key attested anew where half of the time is over, and looks for groups in which
    /// keys have not been changed for long.
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
        errand: &Errand,
        rejoins: &[RejoinRow],
    ) -> Result<Option<Instant>, Error> {
        let before = self.errand_retry(errand);
        if let Some(retry) = before
            && retry.not_before > Instant::now()
        {
            return Ok(Some(retry.not_before));
        }
        if Instant::now() >= until {
            // After a look at what has arrived.
            return Ok(Some(until));
        }
        match self.work(errand, rejoins).await {
            Ok(()) => {
                self.set_errand_retry(errand.clone(), None);
                Ok(None)
            }
            Err(error @ (Error::Store(_) | Error::AccountDeleted)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, ?errand, "an errand is tried again later");
                let retry = self.later(before);
                self.set_errand_retry(errand.clone(), Some(retry));
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
