//! What is to be tried again, and when.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use moh_messages::{GroupId, ProviderName};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::settle::Retry;
use crate::store::{StoreError, Tx};
use crate::upkeep::Errand;

/// What waits for another attempt.
#[derive(Default)]
pub(crate) struct Waits {
    /// Groups in which a stored request got no answer.
    groups: Mutex<HashMap<GroupId, Retry>>,
    /// What this client tried to do of its own accord.
    errands: Mutex<HashMap<Errand, Retry>>,
    /// The client's provider gave no answer when it was asked last.
    is_away: AtomicBool,
}

fn locked<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set<K: Eq + Hash>(map: &Mutex<HashMap<K, Retry>>, what: K, retry: Option<Retry>) {
    match retry {
        Some(retry) => locked(map).insert(what, retry),
        None => locked(map).remove(&what),
    };
}

impl Client {
    pub(crate) fn retry_of(&self, group: &GroupId) -> Option<Retry> {
        locked(&self.waits().groups).get(group).copied()
    }

    pub(crate) fn set_retry(&self, group: &GroupId, retry: Option<Retry>) {
        set(&self.waits().groups, group.clone(), retry);
    }

    pub(crate) fn errand_retry(&self, errand: &Errand) -> Option<Retry> {
        locked(&self.waits().errands).get(errand).copied()
    }

    pub(crate) fn set_errand_retry(&self, errand: Errand, retry: Option<Retry>) {
        set(&self.waits().errands, errand, retry);
    }

    /// The queue could not be read.
    pub(crate) fn provider_is_away(&self) {
        self.waits().is_away.store(true, Ordering::Relaxed);
    }

    /// The provider answers. If it did not before, nothing that failed meanwhile waits any longer:
    /// that may have been why.
    pub(crate) fn provider_is_there(&self) {
        if !self.waits().is_away.swap(false, Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        for retry in locked(&self.waits().groups).values_mut() {
            retry.not_before = now;
        }
        for retry in locked(&self.waits().errands).values_mut() {
            retry.not_before = now;
        }
    }

    /// A provider has delivered something: requests for its groups wait no longer.
    pub(crate) fn owner_is_there(
        &self,
        tx: &Tx<'_>,
        owner: &ProviderName,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        let waiting: Vec<_> = locked(&self.waits().groups)
            .iter()
            .filter(|(_, retry)| retry.not_before > now)
            .map(|(group, _)| group.clone())
            .collect();
        for group in waiting {
            let of = match tx.pending(&group)? {
                Some(pending) => Some(pending.owner),
                None => tx.owner(&group)?,
            };
            if of.as_ref() == Some(owner)
                && let Some(retry) = locked(&self.waits().groups).get_mut(&group)
            {
                retry.not_before = now;
            }
        }
        Ok(())
    }

    /// Takes note of how a read of the queue went.
    pub(crate) fn note_read<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match &result {
            Ok(_) => self.provider_is_there(),
            Err(_) => self.provider_is_away(),
        }
        result
    }
}
