//! The thread that writes: what has queued up is committed together.

use rusqlite::Connection;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::oneshot;

use super::sweep::Sweep;
use super::{EmbeddedOptions, WriterEvent, apply};
use crate::change::{Change, Write};
use crate::store::{CommitError, StoreError};

pub(super) type Reply = oneshot::Sender<Result<(), CommitError>>;

/// What the writer is asked to do.
pub(super) enum Job {
    /// To make a change durable.
    Commit(Change, Reply),
    /// To forget what is from before this time.
    Sweep(u64, Reply),
}

pub(super) struct Writer {
    connection: Connection,
    jobs: Receiver<Job>,
    options: EmbeddedOptions,
    sweeps: Vec<(Sweep, Reply)>,
}

/// Changes that share a commit.
#[derive(Default)]
struct Batch {
    changes: Vec<(Change, Reply)>,
    bytes: usize,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        jobs: Receiver<Job>,
        options: EmbeddedOptions,
    ) -> Self {
        Self {
            connection,
            jobs,
            options,
            sweeps: Vec::new(),
        }
    }

    /// Works until nobody can ask any more and everything that was asked is done.
    pub(super) fn run(mut self) {
        loop {
            let mut batch = Batch::default();
            if self.sweeps.is_empty() {
                match self.jobs.blocking_recv() {
                    Some(job) => self.take(job, &mut batch),
                    None => return,
                }
            }
            while batch.changes.len() < self.options.max_batch_changes.max(1)
                && batch.bytes < self.options.max_batch_bytes.max(1)
            {
                match self.jobs.try_recv() {
                    Ok(job) => self.take(job, &mut batch),
                    Err(TryRecvError::Empty) => break,
                    // What is left of a sweep is for the next one.
                    Err(TryRecvError::Disconnected) => {
                        self.sweeps.clear();
                        break;
                    }
                }
            }
            if !batch.changes.is_empty() {
                self.commit(batch.changes);
            }
            self.sweep_a_little();
        }
    }

    fn take(&mut self, job: Job, batch: &mut Batch) {
        match job {
            Job::Commit(change, reply) => {
                batch.bytes += change.writes.iter().map(weight).sum::<usize>();
                batch.changes.push((change, reply));
            }
            Job::Sweep(before, reply) => self.sweeps.push((Sweep::new(before), reply)),
        }
    }

    fn commit(&mut self, changes: Vec<(Change, Reply)>) {
        self.observe(WriterEvent::Begin(changes.len()));
        let results = match self.write(&changes) {
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
        for ((_, reply), result) in changes.into_iter().zip(results) {
            // Who does not wait any more does not need the answer.
            let _ = reply.send(result);
        }
    }

    /// The result of each change, or why none of them is durable.
    fn write(
        &self,
        changes: &[(Change, Reply)],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let run = |sql| -> Result<(), StoreError> {
            self.connection.prepare_cached(sql)?.execute([])?;
            Ok(())
        };
        run("BEGIN IMMEDIATE")?;
        let mut results = Vec::with_capacity(changes.len());
        for (change, _) in changes {
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

    /// One small step, in a transaction of its own, so that changes hardly wait for it.
    fn sweep_a_little(&mut self) {
        let Some((sweep, _)) = self.sweeps.first_mut() else {
            return;
        };
        let result = (|| {
            let transaction = self.connection.transaction()?;
            let done = sweep.step(&transaction)?;
            transaction.commit()?;
            Ok::<_, StoreError>(done)
        })();
        let result = match result {
            Ok(false) => return,
            Ok(true) => Ok(()),
            Err(error) => Err(CommitError::Failed(error)),
        };
        let (_, reply) = self.sweeps.remove(0);
        let _ = reply.send(result);
    }

    fn observe(&self, event: WriterEvent) {
        if let Some(observer) = &self.options.observer {
            observer(event);
        }
    }
}

/// About how many bytes a write adds.
fn weight(write: &Write) -> usize {
    const ROW: usize = 128;
    ROW + match write {
        Write::CreateGroup {
            snapshot, members, ..
        } => snapshot.len() + members.len() * ROW,
        Write::AppendGroup {
            entry,
            snapshot,
            entered,
            left,
            ..
        } => {
            let snapshot = snapshot.as_ref().map_or(0, Vec::len);
            entry.len() + snapshot + (entered.len() + left.len()) * ROW
        }
        Write::RemovalsDone { clients, .. } => clients.len() * ROW,
        Write::KeepKeyPackages { only, .. } => only.len() * ROW,
        Write::Audience { members, .. } => members.len() * ROW,
        Write::BoundAudience { seats, .. } => seats.len() * 3 * ROW,
        Write::Mute { seats, .. } => seats.len() * ROW,
        Write::Asked { queues, .. } => queues.len() * ROW,
        Write::Message { payload, .. } => payload.len(),
        Write::Delivered { result, .. } => result.len(),
        Write::OutboxAudience { recipients, .. } => recipients.len(),
        Write::Outbox(delivery) => delivery.payload.len(),
        Write::KeyPackage(package) => package.bytes.len(),
        Write::Answer { .. }
        | Write::ForgetAnswers { .. }
        | Write::ForgetGroup { .. }
        | Write::WantRemoval { .. }
        | Write::PostponeRemovals { .. }
        | Write::SharedQueue(_)
        | Write::KeyPackageQueue { .. }
        | Write::HandedOut { .. }
        | Write::CloseClient { .. }
        | Write::ClientPeer { .. }
        | Write::OutboxDone { .. }
        | Write::OutboxSetAside { .. }
        | Write::Client { .. }
        | Write::UseInvitation { .. }
        | Write::Nonce { .. }
        | Write::DeleteClient { .. }
        | Write::DeleteUser { .. }
        | Write::RemoveKeyPackage(_)
        | Write::DropExpired { .. }
        | Write::ToldLow { .. }
        | Write::Consent { .. }
        | Write::Decided { .. }
        | Write::Block { .. }
        | Write::ForgetUser { .. }
        | Write::Acknowledge { .. } => 0,
    }
}
