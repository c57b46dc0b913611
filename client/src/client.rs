//! The public face of the crate.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moh_messages::client_api::{
    Boolean, ClientRequestBody, ClientResponseBody, GetQueueConfigs, SetConsent,
};
use moh_messages::{CipherSuite, ClientId, GroupId, GroupType, ProviderName, QueueConfig, UserId};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;

use crate::account;
use crate::api::Api;
use crate::error::Error;
use crate::events::Event;
use crate::mls;
use crate::settle::load;
use crate::store::{AccountRow, Store};
use crate::stream::Events;
use crate::transport::ConnectOptions;
use crate::upkeep::LOOK_EVERY_MS;
use crate::waits::Waits;

/// How many events are handed out at once, at most.
const MAX_EVENTS: u32 = 256;

/// A client of a provider: one device of a user.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    api: Api,
    user: UserId,
    cipher_suite: CipherSuite,
    /// Held by whoever has a request to the group's owner under way.
    group_locks: Mutex<HashMap<GroupId, Arc<tokio::sync::Mutex<()>>>>,
    /// What is to be tried again.
    waits: Waits,
    /// There was a look at KeyPackages since the start.
    has_looked: AtomicBool,
    /// Groups in which this client's keys are to be changed, and when there was a look for such.
    old_leaves: Mutex<(Vec<GroupId>, Option<u64>)>,
    /// Held by whoever is about connections.
    connecting: tokio::sync::Mutex<()>,
    /// Held by whoever processes queue items, so that they are processed in order.
    processing: tokio::sync::Mutex<()>,
    /// The number of the last event that the application was given.
    handed_out: tokio::sync::Mutex<i64>,
    /// There are new events.
    new_events: Notify,
}

/// Whoever is about connections. What is left to do is looked for when that is over.
pub(crate) struct Connecting<'c> {
    _guard: tokio::sync::MutexGuard<'c, ()>,
    new_events: &'c Notify,
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.new_events.notify_one();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("client", self.client_id())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Creates the account of `user` at their provider, with a first device named `device`,
    /// whose state is stored at `path`. With the path of an earlier attempt for the same
    /// device, that one is taken up again.
    ///
    /// # Errors
    /// When the provider refuses, there is no answer, or the state database cannot be used.
    pub async fn register(
        options: ConnectOptions,
        path: impl AsRef<Path>,
        user: &UserId,
        device: &str,
    ) -> Result<Self, Error> {
        account::register_first(options, path.as_ref(), user, device).await
    }

    /// Opens the state that [`register`](Self::register) or
    /// [`NewDevice::register`](crate::NewDevice::register) stored at `path`. Nothing is sent.
    ///
    /// The client's key is in a file of its own, `path` with `.key` after it. Where there is only
    /// that, because the database was lost, the client is registered again with this key, and
    /// there is [`Event::StateLost`]: its groups come back when something arrives for them.
    ///
    /// # Errors
    /// When there is no registered client, or the state database cannot be used; where that was
    /// lost, also when the provider refuses, or there is no answer.
    pub async fn open(options: ConnectOptions, path: impl AsRef<Path>) -> Result<Self, Error> {
        account::open(options, path.as_ref()).await
    }

    pub(crate) fn assemble(store: Store, account: &AccountRow, api: Api) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                api,
                user: account.client.user_id(),
                cipher_suite: account.cipher_suite,
                group_locks: Mutex::default(),
                waits: Waits::default(),
                has_looked: AtomicBool::new(false),
                old_leaves: Mutex::default(),
                connecting: tokio::sync::Mutex::default(),
                processing: tokio::sync::Mutex::default(),
                handed_out: tokio::sync::Mutex::default(),
                new_events: Notify::new(),
            }),
        }
    }

    /// This client.
    #[must_use]
    pub fn client_id(&self) -> &ClientId {
        &self.inner.api.client
    }

    /// The user whose device this is.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.inner.user
    }

    /// Says whether `peer` may add this client's user to groups.
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer.
    pub async fn set_consent(&self, peer: &UserId, allowed: bool) -> Result<(), Error> {
        let consent = SetConsent {
            peer: peer.clone(),
            allowed: if allowed {
                Boolean::True
            } else {
                Boolean::False
            },
        };
        self.api()
            .call_for_ok(ClientRequestBody::SetConsent(consent))
            .await
    }

    /// The groups that this client is in, the one joined first first; without the groups of
    /// [`connections`](Self::connections), which are groups of another kind.
    ///
    /// # Errors
    /// When the state database cannot be used.
    pub async fn groups(&self) -> Result<Vec<GroupId>, Error> {
        let groups = self.store().run(|tx| Ok::<_, Error>(tx.groups()?)).await?;
        Ok(groups.into_iter().map(|(group, _)| group).collect())
    }

    /// What kind of group it is: one of any users, or the group of a connection.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn group_kind(&self, group: &GroupId) -> Result<GroupType, Error> {
        let id = group.clone();
        self.store()
            .run(move |tx| tx.group_type(&id)?.ok_or(Error::UnknownGroup(id)))
            .await
    }

    /// The provider that owns a group.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn owner(&self, group: &GroupId) -> Result<ProviderName, Error> {
        let id = group.clone();
        self.store()
            .run(move |tx| tx.owner(&id)?.ok_or(Error::UnknownGroup(id)))
            .await
    }

    /// The members of a group, this client among them, in the order of their leaves.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn members(&self, group: &GroupId) -> Result<Vec<ClientId>, Error> {
        let id = group.clone();
        self.store()
            .run(move |tx| {
                tx.owner(&id)?
                    .ok_or_else(|| Error::UnknownGroup(id.clone()))?;
                Ok(mls::members(&load(tx, &id)?))
            })
            .await
    }

    /// The epoch that a group is in, as far as this client knows.
    ///
    /// # Errors
    /// When this client is not in it, or the state database cannot be used.
    pub async fn epoch(&self, group: &GroupId) -> Result<u64, Error> {
        let id = group.clone();
        self.store()
            .run(move |tx| {
                tx.owner(&id)?
                    .ok_or_else(|| Error::UnknownGroup(id.clone()))?;
                Ok(load(tx, &id)?.epoch().as_u64())
            })
            .await
    }

    /// What has happened; where nothing has, waits for up to `wait`.
    ///
    /// To call this again, or the method of the same purpose of [`Events`], is to say that the
    /// application has taken what the last call gave. If the process ends before that, the same
    /// events are given again.
    ///
    /// # Errors
    /// When there is no answer, or the state database cannot be used. No event is lost by that.
    pub async fn receive(&self, wait: Duration) -> Result<Vec<Event>, Error> {
        let mut handed_out = self.inner.handed_out.lock().await;
        let last = *handed_out;
        self.store()
            .run(move |tx| Ok::<_, Error>(tx.delete_events(last)?))
            .await?;
        let end = Instant::now() + wait;
        let mut is_over = false;
        loop {
            // What is to be done for others does not hold up what is there.
            let mut events = self.stored_events(last).await?;
            let mut retry = None;
            if events.is_empty() {
                retry = self.settle_all().await?;
                events = self.stored_events(last).await?;
            }
            if let Some((number, _)) = events.last() {
                *handed_out = *number;
            }
            if is_over || !events.is_empty() {
                return Ok(events.into_iter().map(|(_, event)| event).collect());
            }
            let until = retry.map_or(end, |retry| retry.min(end));
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                read = self.read_queue(left) => {
                    let (cursor, items) = read?;
                    is_over = items.is_empty() && until == end;
                    self.process_and_acknowledge(cursor, items).await?;
                }
                () = self.inner.new_events.notified() => {}
            }
        }
    }

    /// Events as they happen, over a WebSocket that is opened again whenever it breaks.
    ///
    /// Use either this or [`receive`](Self::receive): an event goes to one of them.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.clone())
    }

    async fn stored_events(&self, after: i64) -> Result<Vec<(i64, Event)>, Error> {
        self.store()
            .run(move |tx| Ok(tx.events(after, MAX_EVENTS)?))
            .await
    }

    /// The next event, where one is stored; the one before it has been taken.
    pub(crate) async fn next_stored_event(&self) -> Result<Option<Event>, Error> {
        let mut handed_out = self.inner.handed_out.lock().await;
        let last = *handed_out;
        let next = self
            .store()
            .run(move |tx| {
                tx.delete_events(last)?;
                Ok::<_, Error>(tx.events(last, 1)?.pop())
            })
            .await?;
        Ok(next.map(|(number, event)| {
            *handed_out = number;
            event
        }))
    }

    /// Fresh sealed queue configs, each for another KeyPackage or group.
    pub(crate) async fn queue_configs(&self, count: u8) -> Result<Vec<QueueConfig>, Error> {
        let request = ClientRequestBody::GetQueueConfigs(GetQueueConfigs { count });
        match self.api().call(request, Duration::ZERO).await? {
            ClientResponseBody::QueueConfigs { queue_configs }
                if queue_configs.len() == usize::from(count) =>
            {
                Ok(queue_configs.into_vec())
            }
            _ => Err(self
                .api()
                .bad_answer("not as many queue configs as asked for")),
        }
    }

    pub(crate) async fn queue_config(&self) -> Result<QueueConfig, Error> {
        let mut configs = self.queue_configs(1).await?;
        configs
            .pop()
            .ok_or_else(|| self.api().bad_answer("no queue config"))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn api(&self) -> &Api {
        &self.inner.api
    }

    pub(crate) fn identity(&self) -> mls::Identity<'_> {
        mls::Identity {
            client: &self.inner.api.client,
            signer: &self.inner.api.signer,
            suite: self.inner.cipher_suite,
        }
    }

    pub(crate) fn cipher_suite(&self) -> CipherSuite {
        self.inner.cipher_suite
    }

    /// Waits until nobody else is about connections.
    pub(crate) async fn lock_connections(&self) -> Connecting<'_> {
        Connecting {
            _guard: self.inner.connecting.lock().await,
            new_events: &self.inner.new_events,
        }
    }

    /// The same, where nobody is; it is for whoever looks all the time, and needs no word when
    /// that is over.
    pub(crate) fn try_lock_connections(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.inner.connecting.try_lock().ok()
    }

    pub(crate) fn processing(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.processing
    }

    pub(crate) fn new_events(&self) -> &Notify {
        &self.inner.new_events
    }

    pub(crate) fn waits(&self) -> &Waits {
        &self.inner.waits
    }

    /// Whether there was a look at KeyPackages since the start.
    pub(crate) fn has_looked(&self) -> bool {
        self.inner.has_looked.load(Ordering::Relaxed)
    }

    pub(crate) fn set_has_looked(&self) {
        self.inner.has_looked.store(true, Ordering::Relaxed);
    }

    fn leaves(&self) -> MutexGuard<'_, (Vec<GroupId>, Option<u64>)> {
        let leaves = self.inner.old_leaves.lock();
        leaves.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was no look for old leaves since the start, or in a day.
    pub(crate) fn is_renewal_due(&self, now_ms: u64) -> bool {
        let looked = self.leaves().1;
        looked.is_none_or(|looked| now_ms.abs_diff(looked) >= LOOK_EVERY_MS)
    }

    pub(crate) fn set_old_leaves(&self, groups: Vec<GroupId>, now_ms: u64) {
        *self.leaves() = (groups, Some(now_ms));
    }

    pub(crate) fn old_leaves(&self) -> Vec<GroupId> {
        self.leaves().0.clone()
    }

    pub(crate) fn forget_old_leaf(&self, group: &GroupId) {
        self.leaves().0.retain(|old| old != group);
    }

    fn group_mutex(&self, group: &GroupId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self
            .inner
            .group_locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(group.clone()).or_default())
    }

    /// Waits until no other request to the group's owner is under way.
    pub(crate) async fn lock_group(&self, group: &GroupId) -> OwnedMutexGuard<()> {
        self.group_mutex(group).lock_owned().await
    }

    /// The same, where none is.
    pub(crate) fn try_lock_group(&self, group: &GroupId) -> Option<OwnedMutexGuard<()>> {
        self.group_mutex(group).try_lock_owned().ok()
    }
}
