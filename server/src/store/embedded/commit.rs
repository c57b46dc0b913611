//! How changes become durable, on whichever thread that is.

use rusqlite::Connection;

use super::sweep::Sweep;
use super::{Observer, WriterEvent, apply};
use crate::change::Change;
use crate::store::{CommitError, StoreError};

/// The connection that writes.
pub(super) struct Committer {
    connection: Connection,
    observer: Option<Observer>,
}

impl Committer {
    pub(super) fn new(connection: Connection, observer: Option<Observer>) -> Self {
        Self {
            connection,
            observer,
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Commits some changes together; the result of each, which may be told now.
    pub(super) fn commit(&self, changes: &[&Change]) -> Vec<Result<(), CommitError>> {
        self.observe(WriterEvent::Begin(changes.len()));
        let results = match self.write(changes) {
            Ok(results) => results,
            Err(error) => {
                if !self.connection.is_autocommit() {
                    // Where even this fails, the next BEGIN does, and says so.
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                vec![Err(CommitError::Failed(error)); changes.len()]
            }
        };
        self.observe(WriterEvent::BeforeReply);
        results
    }

    /// The result of each change, or why none of them is durable.
    fn write(&self, changes: &[&Change]) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let run = |sql| -> Result<(), StoreError> {
            self.connection.prepare_cached(sql)?.execute([])?;
            Ok(())
        };
        run("BEGIN IMMEDIATE")?;
        let mut results = Vec::with_capacity(changes.len());
        for change in changes {
            let result = apply::expected(&self.connection, &change.expect).and_then(|()| {
                run("SAVEPOINT change")?;
                let written = apply::written(&self.connection, &change.writes);
                // A full disk, among others, ends the transaction with all that is in it.
                if written.is_err() && !self.connection.is_autocommit() {
                    run("ROLLBACK TO change")?;
                    run("RELEASE change")?;
                } else if written.is_ok() {
                    run("RELEASE change")?;
                }
                written
            });
            if self.connection.is_autocommit() {
                let cause = result.err().map_or_else(String::new, |e| e.to_string());
                return Err(StoreError(format!("the transaction was given up: {cause}")));
            }
            results.push(result);
        }
        self.observe(WriterEvent::BeforeCommit);
        run("COMMIT")?;
        Ok(results)
    }

    /// One small step of a sweep, in a transaction of its own, so that changes hardly wait for
    /// it; whether it was the last one.
    pub(super) fn sweep(&mut self, sweep: &mut Sweep) -> Result<bool, StoreError> {
        let transaction = self.connection.transaction()?;
        let done = sweep.step(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    fn observe(&self, event: WriterEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}
