//! Groups in memory, decoded: a cache, bounded by its size, over what is stored.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use moh_messages::GroupId;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::change::Version;
use crate::clock::Work;
use crate::error::Refusal;
use crate::group::Group;
use crate::store::{Store, StoreError};

/// A group, when it is loaded. Who changes it takes it out, and puts it back when the change is
/// durable: if anything goes wrong in between, or whoever waits goes away, it is loaded anew.
pub(crate) type Slot = RwLock<Option<Group>>;

/// The groups that are in memory.
pub(crate) struct Groups {
    max_bytes: u64,
    work: Work,
    cached: Mutex<Cached>,
}

struct Cached {
    slots: LruCache<GroupId, (Arc<Slot>, u64)>,
    bytes: u64,
}

impl Groups {
    /// None yet. What is large is decoded where `work` says.
    pub(crate) fn new(max_bytes: u64, work: Work) -> Self {
        let cached = Cached {
            slots: LruCache::unbounded(),
            bytes: 0,
        };
        Self {
            max_bytes,
            work,
            cached: Mutex::new(cached),
        }
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, group_id: &GroupId) -> Arc<Slot> {
        let mut cached = self.cached();
        cached
            .slots
            .get_or_insert(group_id.clone(), || (Arc::default(), 0))
            .0
            .clone()
    }

    /// Notes how large a group has become, and forgets those that were not asked for longest.
    pub(crate) fn weigh(&self, group_id: &GroupId, bytes: u64) {
        let mut cached = self.cached();
        let Some((_, weight)) = cached.slots.peek_mut(group_id) else {
            return;
        };
        let before = std::mem::replace(weight, bytes);
        cached.bytes = cached.bytes - before + bytes;
        while cached.bytes > self.max_bytes && cached.slots.len() > 1 {
            let unused = |(_, (slot, _)): &(&GroupId, &(Arc<Slot>, u64))| !is_in_use(slot);
            let Some(oldest) = cached.slots.iter().rev().find(unused) else {
                break;
            };
            let oldest = oldest.0.clone();
            if let Some((_, weight)) = cached.slots.pop(&oldest) {
                cached.bytes -= weight;
            }
        }
    }

    /// Takes a group out of the cache, whose slot is empty and held by the caller. Where others
    /// wait for the slot, it stays, for them to load the group into.
    fn forget(&self, group_id: &GroupId) {
        let mut cached = self.cached();
        let Some((slot, weight)) = cached.slots.peek_mut(group_id) else {
            return;
        };
        let weight = std::mem::take(weight);
        let others_wait = Arc::strong_count(slot) > 2;
        cached.bytes -= weight;
        if !others_wait {
            cached.slots.pop(group_id);
        }
    }

    /// A group, to change it: nobody else sees it meanwhile.
    ///
    /// # Errors
    /// `unknown_group` when there is none; `unavailable` when it cannot be read.
    pub(crate) async fn write(
        &self,
        store: &dyn Store,
        group_id: &GroupId,
    ) -> Result<OwnedRwLockWriteGuard<Option<Group>>, Refusal> {
        let mut slot = self.slot(group_id).write_owned().await;
        if slot.is_none() {
            match load(store, group_id, self.work).await {
                Ok(group) => {
                    self.weigh(group_id, group.weight_bytes());
                    *slot = Some(group);
                }
                Err(refusal) => {
                    self.forget(group_id);
                    return Err(refusal);
                }
            }
        }
        Ok(slot)
    }

    /// A group, to read it: it stays as it is meanwhile.
    ///
    /// # Errors
    /// As for `write`.
    pub(crate) async fn read(
        &self,
        store: &dyn Store,
        group_id: &GroupId,
    ) -> Result<OwnedRwLockReadGuard<Option<Group>, Group>, Refusal> {
        let slot = self.slot(group_id).read_owned().await;
        let slot = if slot.is_some() {
            slot
        } else {
            drop(slot);
            self.write(store, group_id).await?.downgrade()
        };
        OwnedRwLockReadGuard::try_map(slot, Option::as_ref).map_err(|_| Refusal::UnknownGroup)
    }

    /// A new group, which is durable.
    pub(crate) async fn insert(&self, group: Group) {
        let group_id = group.group_id();
        let bytes = group.weight_bytes();
        let slot = self.slot(&group_id);
        let mut slot = slot.write().await;
        // Whoever was faster has read it from the store, and may have changed it since.
        if slot.is_none() {
            *slot = Some(group);
            drop(slot);
            self.weigh(&group_id, bytes);
        }
    }

    /// Takes a group out of memory that is not in the store any more.
    pub(crate) async fn drop_group(&self, group_id: &GroupId) {
        let slot = self.slot(group_id);
        *slot.write_owned().await = None;
        self.forget(group_id);
    }

    /// Whether what was decided on a version of a group was decided on the newest one. If not, a
    /// copy in memory that is older than that is forgotten: another node has changed the group.
    ///
    /// # Errors
    /// `unavailable` when the store cannot be read.
    pub(crate) async fn is_newest(
        &self,
        store: &dyn Store,
        group_id: &GroupId,
        version: Version,
    ) -> Result<bool, Refusal> {
        let newest = store.group_version(group_id).await?;
        if newest == Some(version) {
            return Ok(true);
        }
        let slot = self.slot(group_id);
        let mut slot = slot.write().await;
        if slot
            .as_ref()
            .is_some_and(|group| Some(group.version()) != newest)
        {
            *slot = None;
        }
        Ok(false)
    }
}

/// Whether anybody besides the cache has the slot. Such a slot stays: were there two slots of one
/// group, what is in one of them would be out of date.
fn is_in_use(slot: &Arc<Slot>) -> bool {
    Arc::strong_count(slot) > 1
}

async fn load(store: &dyn Store, group_id: &GroupId, work: Work) -> Result<Group, Refusal> {
    let stored = store.group(group_id).await?.ok_or(Refusal::UnknownGroup)?;
    let restored = work.run(move || Group::restore(&stored)).await;
    let unreadable = || StoreError("a group cannot be read".to_owned());
    restored
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| unreadable().into())
}
