//! The thread that writes: what has queued up is committed together.

use rusqlite::Connection;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::oneshot;

use super::EmbeddedOptions;
use super::commit::Committer;
use super::sweep::Sweep;
use crate::change::{Change, Write};
use crate::store::CommitError;

pub(super) type Reply = oneshot::Sender<Result<(), CommitError>>;

/// What the writer is asked to do.
pub(super) enum Job {
    /// To make a change durable.
    Commit(Change, Reply),
    /// To forget what is from before this time.
    Sweep(u64, Reply),
}

pub(super) struct Writer {
    committer: Committer,
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
            committer: Committer::new(connection, options.observer.clone()),
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

    fn commit(&self, changes: Vec<(Change, Reply)>) {
        let all: Vec<_> = changes.iter().map(|(change, _)| change).collect();
        let results = self.committer.commit(&all);
        for ((_, reply), result) in changes.into_iter().zip(results) {
            // Who does not wait any more does not need the answer.
            let _ = reply.send(result);
        }
    }

    /// One small step, so that changes hardly wait for it.
    fn sweep_a_little(&mut self) {
        let Some((sweep, _)) = self.sweeps.first_mut() else {
            return;
        };
        let result = match self.committer.sweep(sweep) {
            Ok(false) => return,
            Ok(true) => Ok(()),
            Err(error) => Err(CommitError::Failed(error)),
        };
        let (_, reply) = self.sweeps.remove(0);
        let _ = reply.send(result);
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
        | Write::OutboxRetry { .. }
        | Write::OutboxDrop { .. }
        | Write::OutboxBounds { .. }
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
