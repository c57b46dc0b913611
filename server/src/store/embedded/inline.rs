//! In memory, and on the thread of whoever asks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::commit::Committer;
use super::sweep::Sweep;
use crate::change::Change;
use crate::store::{CommitError, StoreError};

/// The one connection to a database in memory; who asks has the answer at once.
pub(super) struct Inline(Mutex<Committer>);

impl Inline {
    pub(super) fn new(committer: Committer) -> Self {
        Self(Mutex::new(committer))
    }

    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn commit(&self, change: &Change) -> Result<(), CommitError> {
        let mut results = self.committer().commit(&[change]);
        let none = || StoreError("a change without a result".to_owned());
        results.pop().ok_or_else(none)?
    }

    /// The whole sweep.
    pub(super) fn sweep(&self, before: u64) -> Result<(), StoreError> {
        let mut sweep = Sweep::new(before);
        while !self.committer().sweep(&mut sweep)? {}
        Ok(())
    }

    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read(self.committer().connection())
    }
}
