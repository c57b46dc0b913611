//! The store of a provider, as one incarnation of its process sees it: slow at times, dead with the
//! process, which may die at any write; what becomes durable there is noted in the ledger.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use moh_messages::client_api::{BlockTarget, Connection};
use moh_messages::{
    AudienceDigest, ClientId, DeliveryId, GroupId, KeyPackageRef, ProviderName, UserId,
};
use moh_server::change::{
    Answer, Change, Client, InvitationId, KeyPackage, Pool, PoolState, Seat, Uploads, Version,
};
use moh_server::store::{
    CommitError, Embedded, OutboxRow, OutboxTotal, QueueRow, Relation, SetAsideRow, Store,
    StoreError, StoredGroup, Takes,
};
use tokio::sync::mpsc;

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::life::Life;
use crate::mutants::Mutant;
use crate::tally::{Deed, Fault, Tally};
use crate::trace::Trace;

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    BeforeCommit,
    AfterCommit,
}

/// After so many more writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    pub(crate) writes: u64,
    pub(crate) moment: Moment,
}

/// What a provider's disk holds, and how it behaves; it outlives the processes.
pub(crate) struct Disk {
    pub(crate) provider: ProviderName,
    pub(crate) content: Embedded,
    pub(crate) dice: Dice,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) trace: Arc<Trace>,
    /// How often a read or a write takes its time, in a thousand.
    pub(crate) rate: u64,
    pub(crate) is_slow: AtomicBool,
    pub(crate) is_healed: AtomicBool,
    pub(crate) crash: Mutex<Option<Crash>>,
    /// Is told that the process has died.
    pub(crate) died: mpsc::UnboundedSender<ProviderName>,
}

impl Disk {
    async fn take_time(&self) {
        if self.is_healed.load(Ordering::Relaxed) {
            return;
        }
        let ms = if self.is_slow.load(Ordering::Relaxed) {
            self.dice.between(50, 1500)
        } else if self.dice.per_mille(self.rate) {
            self.dice.between(1, 30)
        } else {
            return;
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Whether the process is to die now.
    fn dies(&self, moment: Moment) -> bool {
        let mut crash = self.crash.lock().unwrap();
        let Some(next) = crash.as_mut() else {
            return false;
        };
        if next.moment != moment {
            return false;
        }
        if next.writes > 0 {
            next.writes -= 1;
            return false;
        }
        *crash = None;
        true
    }
}

/// A disk in the hands of one incarnation of a process.
pub(crate) struct Mounted {
    pub(crate) disk: Arc<Disk>,
    pub(crate) life: Life,
}

impl Mounted {
    /// The process dies, here and now, where it is to.
    async fn may_die(&self, moment: Moment, fault: Fault) {
        let disk = &self.disk;
        if !self.life.is_over() && disk.dies(moment) {
            self.life.end();
            disk.tally.fault(fault);
            disk.trace
                .note(&format!("{} dies: {moment:?}", disk.provider));
            disk.died.send(disk.provider.clone()).unwrap();
        }
        self.life.go_on().await;
    }

    async fn write<E>(&self, write: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        self.disk.take_time().await;
        self.may_die(Moment::BeforeCommit, Fault::CrashBefore).await;
        let written = write.await;
        self.disk.tally.deed(Deed::Commits);
        if written.is_ok() {
            self.may_die(Moment::AfterCommit, Fault::CrashAfter).await;
        }
        self.disk.take_time().await;
        self.life.go_on().await;
        written
    }

    async fn commit_one(&self, change: Change) -> Result<(), CommitError> {
        let Disk {
            ledger, provider, ..
        } = &*self.disk;
        let committed = async {
            let noted = change.clone();
            self.disk.content.commit(change).await?;
            ledger.commits(provider, &noted);
            Ok(())
        };
        self.write(committed).await
    }

    async fn read<T>(&self, read: impl Future<Output = T>) -> T {
        self.disk.take_time().await;
        self.life.go_on().await;
        let found = read.await;
        self.disk.take_time().await;
        self.life.go_on().await;
        found
    }
}

/// The store, method by method: reads are all alike.
macro_rules! store {
    (
        reads { $(fn $read:ident($($arg:ident: $type:ty),*) -> $out:ty;)* }
        others { $($others:tt)* }
    ) => {
        #[async_trait]
        impl Store for Mounted {
            $(
                async fn $read(&self, $($arg: $type),*) -> Result<$out, StoreError> {
                    self.read(self.disk.content.$read($($arg),*)).await
                }
            )*
            $($others)*
        }
    };
}

store! {
    reads {
        fn group(id: &GroupId) -> Option<StoredGroup>;
        fn group_at_epoch(id: &GroupId, epoch: u64) -> Option<StoredGroup>;
        fn group_version(id: &GroupId) -> Option<Version>;
        fn groups_due(now: u64, max: usize) -> Vec<GroupId>;
        fn wanted_removals(id: &GroupId) -> Vec<ClientId>;
        fn answer(id: &GroupId, message_hash: &[u8; 32]) -> Option<Answer>;
        fn queues_take(sender: &ProviderName, queues: Vec<Seat>) -> Vec<Takes>;
        fn audience(
            sender: &ProviderName, digest: &AudienceDigest
        ) -> Option<Vec<Option<ClientId>>>;
        fn outbox_lanes() -> Vec<(ProviderName, u8)>;
        fn outbox_totals(after: Option<&ProviderName>, max: usize) -> Vec<OutboxTotal>;
        fn set_aside(
            destination: Option<&ProviderName>, after: u64, max: usize
        ) -> Vec<SetAsideRow>;
        fn outbox_audience(digest: &AudienceDigest) -> Option<Vec<u8>>;
        fn client(client: &ClientId) -> Option<Client>;
        fn clients(user: &UserId) -> Vec<ClientId>;
        fn is_deleted(client: &ClientId) -> bool;
        fn invitation_is_used(invitation: &InvitationId) -> bool;
        fn next_key_package(pool: &Pool, suites: &[u16], now: u64) -> Option<KeyPackage>;
        fn key_packages(pool: &Pool, now: u64) -> PoolState;
        fn uploads(client: &ClientId) -> Uploads;
        fn deleted_clients(user: &UserId) -> u64;
        fn known_key_packages(references: &[KeyPackageRef]) -> Vec<(KeyPackageRef, bool)>;
        fn consent(user: &UserId, peer: &UserId) -> bool;
        fn blocked(user: &UserId, peer: &UserId) -> bool;
        fn relation(user: &UserId, peer: &UserId) -> Relation;
        fn connections(user: &UserId, after: Option<&UserId>, max: usize) -> Vec<Connection>;
        fn blocks(user: &UserId, after: Option<&BlockTarget>, max: usize) -> Vec<BlockTarget>;
        fn queue(
            client: &ClientId, after: u64, max_rows: usize, max_bytes: usize
        ) -> Vec<QueueRow>;
        fn acknowledged(client: &ClientId) -> u64;
    }
    others {
        async fn commit(&self, change: Change) -> Result<(), CommitError> {
            let commits = match self.disk.mutant {
                None => vec![change],
                Some(mutant) => mutant.commits(change),
            };
            for change in commits {
                self.commit_one(change).await?;
            }
            Ok(())
        }

        async fn delivered(
            &self,
            sender: &ProviderName,
            id: &DeliveryId,
        ) -> Result<Option<Vec<u8>>, StoreError> {
            let result = self.read(self.disk.content.delivered(sender, id)).await?;
            Ok(match self.disk.mutant {
                None => result,
                Some(mutant) => mutant.delivered(result),
            })
        }

        async fn outbox(
            &self,
            destination: &ProviderName,
            lane: u8,
            but: &BTreeSet<GroupId>,
            max_rows: usize,
            max_bytes: usize,
        ) -> Result<Vec<OutboxRow>, StoreError> {
            let content = &self.disk.content;
            let rows = self.read(content.outbox(destination, lane, but, max_rows, max_bytes)).await?;
            Ok(match self.disk.mutant {
                None => rows,
                Some(mutant) => mutant.outbox(rows, &self.disk.dice),
            })
        }

        async fn sweep(&self, before: u64) -> Result<(), StoreError> {
            self.write(self.disk.content.sweep(before)).await
        }
    }
}
