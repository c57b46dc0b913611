//! Where everything durable is: a few typed reads, and [`Store::commit`].
//!
//! What a store owes its callers, and the conformance suite checks:
//! - A [`Change`] is durable as a whole, or not at all; when `commit` has returned, it survives
//!   the death of the process and of the machine.
//! - Changes are ordered; one that is committed before another starts is seen by it. A read
//!   sees everything whose commit has returned.
//! - A change whose expectation does not hold has no effect and is a [`CommitError::Conflict`].
//! - A message is in its members' queues in the order of the commits, and a reader that has seen
//!   a later message has seen, or can never see, an earlier one.

#[cfg(test)]
mod conformance;
mod embedded;

pub use embedded::{Embedded, EmbeddedOptions, Observer, WriterEvent};

use std::collections::BTreeSet;

use async_trait::async_trait;
use moh_messages::client_api::{BlockTarget, Connection, ConnectionState};
use moh_messages::{
    AudienceDigest, ClientId, DeliveryId, GroupId, KeyPackageRef, ProviderName, UserId,
};

use crate::change::{
    Answer, Change, Client, Ending, InvitationId, KeyPackage, OutboxDelivery, Pool, PoolState,
    Seat, Uploads, Version,
};

/// The store cannot be read or written; nothing is known of what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("store: {0}")]
pub struct StoreError(pub String);

/// Why a change is not durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// What the change was based on does not hold any more. Nothing was written.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The store failed. The change may or may not become durable.
    #[error(transparent)]
    Failed(#[from] StoreError),
}

/// A group as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredGroup {
    /// The version that `snapshot` and `log` lead to.
    pub version: Version,
    /// The version of the snapshot.
    pub snapshot_version: Version,
    /// The whole state at that version.
    pub snapshot: Vec<u8>,
    /// The entries after it, oldest first.
    pub log: Vec<Vec<u8>>,
}

/// Something that another provider is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number; they rise in the order of the commits.
    pub id: u64,
    /// In milliseconds since the Unix epoch.
    pub created_at: u64,
    /// What.
    pub item: OutboxItem,
}

impl OutboxRow {
    /// The delivery, where it is one.
    #[must_use]
    pub fn delivery(&self) -> Option<&OutboxDelivery> {
        match &self.item {
            OutboxItem::Delivery(delivery) => Some(delivery),
            OutboxItem::ClientDeleted(_) => None,
        }
    }
}

/// What another provider is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboxItem {
    /// A delivery for clients of its own.
    Delivery(OutboxDelivery),
    /// This client of ours is gone.
    ClientDeleted(ClientId),
}

/// What was set aside, and is not tried any more unless the operator wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAsideRow {
    /// Its number; they rise in the order in which things are set aside.
    pub id: u64,
    /// For whom it is.
    pub destination: ProviderName,
    /// What it is about.
    pub about: About,
    /// When it was made, or tried anew, in milliseconds since the Unix epoch.
    pub created_at: u64,
    /// In milliseconds since the Unix epoch.
    pub set_aside_at: u64,
    /// Why.
    pub ending: Ending,
    /// Why, in words.
    pub reason: String,
    /// Of its payload, also where that is given up.
    pub bytes: u64,
    /// Whether it can be tried again: its payload is not given up.
    pub can_be_retried: bool,
}

/// What something in the outbox is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A message of a group.
    Message(GroupId),
    /// A request to connect, which makes this group.
    ConnectionRequest(GroupId),
    /// This client of ours is gone.
    ClientDeleted(ClientId),
}

/// What is kept for one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxTotal {
    /// For whom.
    pub destination: ProviderName,
    /// How much waits.
    pub waiting: u64,
    /// Of the payloads that wait.
    pub waiting_bytes: u64,
    /// When the oldest that waits was made, in milliseconds since the Unix epoch.
    pub oldest_at: Option<u64>,
    /// How much is set aside.
    pub set_aside: u64,
    /// Of the payloads that are set aside and kept.
    pub set_aside_bytes: u64,
    /// Records of what was set aside that were removed before their time, as there were too many;
    /// counted as long as anything is kept for the provider.
    pub forgotten: u64,
}

/// An item of a client's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// Its number; they rise in the order of the commits.
    pub sequence: u64,
    /// Who delivered it.
    pub sender: ProviderName,
    /// In milliseconds since the Unix epoch.
    pub received_at: u64,
    /// A `QueueItemPayload`.
    pub payload: Vec<u8>,
}

/// What a queue does with deliveries by a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nobody has delivered to it yet; whoever does, is the only one.
    First,
    /// It is bound to that provider; also where it throws away what comes.
    Bound,
    /// It takes from everybody.
    Shared,
    /// It is bound to another one, closed, or of a client that is gone.
    Nothing,
}

/// What there is between a user of our own and a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relation {
    /// None: nothing.
    pub state: Option<ConnectionState>,
    /// How often the peer has asked, and nothing was decided.
    pub requests: u64,
    /// Whether the user has blocked the peer, or their provider.
    pub blocked: bool,
    /// How many peers have asked the user, without the user's consent.
    pub asked: u64,
    /// How many of these are of the peer's provider.
    pub asked_from_there: u64,
    /// How many connections the user has, these included.
    pub connections: u64,
}

/// Durable storage of one provider.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes a change durable.
    async fn commit(&self, change: Change) -> Result<(), CommitError>;

    /// The newest snapshot of a group, with the log after it. None when it is forgotten.
    async fn group(&self, group_id: &GroupId) -> Result<Option<StoredGroup>, StoreError>;

    /// A group as it was when `epoch` began: a snapshot of that epoch or before it, with the
    /// log entries up to the first that leads to it. None where that is not kept.
    async fn group_at_epoch(
        &self,
        group_id: &GroupId,
        epoch: u64,
    ) -> Result<Option<StoredGroup>, StoreError>;

    /// The version of a group, also when it is forgotten.
    async fn group_version(&self, group_id: &GroupId) -> Result<Option<Version>, StoreError>;

    /// Groups that have to be looked after at `now`, or that a removal is wanted of by then:
    /// the longest due first, each once, at most `max`.
    async fn groups_due(&self, now: u64, max: usize) -> Result<Vec<GroupId>, StoreError>;

    /// The clients that are to be removed from a group, at whatever time, by name.
    async fn wanted_removals(&self, group_id: &GroupId) -> Result<Vec<ClientId>, StoreError>;

    /// The first answer to a message.
    async fn answer(
        &self,
        group_id: &GroupId,
        message_hash: &[u8; 32],
    ) -> Result<Option<Answer>, StoreError>;

    /// What each of these queues does with deliveries by a provider.
    async fn queues_take(
        &self,
        sender: &ProviderName,
        queues: Vec<Seat>,
    ) -> Result<Vec<Takes>, StoreError>;

    /// The members of an audience, by position. None where it has to be said anew.
    async fn audience(
        &self,
        sender: &ProviderName,
        digest: &AudienceDigest,
    ) -> Result<Option<Vec<Option<ClientId>>>, StoreError>;

    /// The result of a delivery that was taken before.
    async fn delivered(
        &self,
        sender: &ProviderName,
        delivery_id: &DeliveryId,
    ) -> Result<Option<Vec<u8>>, StoreError>;

    /// Lanes that something waits in, by provider and number.
    async fn outbox_lanes(&self) -> Result<Vec<(ProviderName, u8)>, StoreError>;

    /// What waits in a provider's lane, deliveries of these groups apart, oldest first: at most
    /// `max_rows` of them, and no further one once their payloads have `max_bytes` together.
    async fn outbox(
        &self,
        destination: &ProviderName,
        lane: u8,
        but: &BTreeSet<GroupId>,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<OutboxRow>, StoreError>;

    /// The `Recipients` of an audience at another provider.
    async fn outbox_audience(&self, digest: &AudienceDigest)
    -> Result<Option<Vec<u8>>, StoreError>;

    /// What is kept for providers, by name: at most `max` after `after`, those left out for whom
    /// nothing waits and nothing is set aside.
    async fn outbox_totals(
        &self,
        after: Option<&ProviderName>,
        max: usize,
    ) -> Result<Vec<OutboxTotal>, StoreError>;

    /// What is set aside, for one provider or for all, by number: at most `max` after `after`.
    async fn set_aside(
        &self,
        destination: Option<&ProviderName>,
        after: u64,
        max: usize,
    ) -> Result<Vec<SetAsideRow>, StoreError>;

    /// A client of our own.
    async fn client(&self, client_id: &ClientId) -> Result<Option<Client>, StoreError>;

    /// The clients of a user of our own, by name.
    async fn clients(&self, user: &UserId) -> Result<Vec<ClientId>, StoreError>;

    /// Whether a client, or its user, was deleted.
    async fn is_deleted(&self, client_id: &ClientId) -> Result<bool, StoreError>;

    /// Whether somebody became a user by an invitation.
    async fn invitation_is_used(&self, invitation: &InvitationId) -> Result<bool, StoreError>;

    /// A KeyPackage of a pool with one of these ciphersuites that has not expired at `now`,
    /// the ones that are not a last resort and are the oldest first.
    async fn next_key_package(
        &self,
        pool: &Pool,
        cipher_suites: &[u16],
        now: u64,
    ) -> Result<Option<KeyPackage>, StoreError>;

    /// What is in a pool and has not expired at `now`.
    async fn key_packages(&self, pool: &Pool, now: u64) -> Result<PoolState, StoreError>;

    /// How many KeyPackages a client ever uploaded, as far as they are known.
    async fn uploads(&self, client_id: &ClientId) -> Result<Uploads, StoreError>;

    /// How many clients of a user were deleted.
    async fn deleted_clients(&self, user: &UserId) -> Result<u64, StoreError>;

    /// Those of some KeyPackages that were written before, and whether each can still be handed
    /// out.
    async fn known_key_packages(
        &self,
        references: &[KeyPackageRef],
    ) -> Result<Vec<(KeyPackageRef, bool)>, StoreError>;

    /// Whether `user` lets `peer` fetch their KeyPackages, and blocks neither them nor their
    /// provider.
    async fn consent(&self, user: &UserId, peer: &UserId) -> Result<bool, StoreError>;

    /// Whether `user` has blocked `peer`, or their provider.
    async fn blocked(&self, user: &UserId, peer: &UserId) -> Result<bool, StoreError>;

    /// What there is between a user and a peer, and what else the user has.
    async fn relation(&self, user: &UserId, peer: &UserId) -> Result<Relation, StoreError>;

    /// The connections of a user, by the name of the peer, at most `max` after `after`.
    async fn connections(
        &self,
        user: &UserId,
        after: Option<&UserId>,
        max: usize,
    ) -> Result<Vec<Connection>, StoreError>;

    /// Whom a user blocks: users by name, then providers by name, at most `max` after `after`.
    async fn blocks(
        &self,
        user: &UserId,
        after: Option<&BlockTarget>,
        max: usize,
    ) -> Result<Vec<BlockTarget>, StoreError>;

    /// What is in a client's queue after `after`, in order: at most `max_rows`, and no further
    /// one once their payloads have `max_bytes` together.
    async fn queue(
        &self,
        client_id: &ClientId,
        after: u64,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueRow>, StoreError>;

    /// Up to where a client has acknowledged its queue; 0 at first.
    async fn acknowledged(&self, client_id: &ClientId) -> Result<u64, StoreError>;

    /// Forgets what nobody needs any more: messages that all members of their audience have
    /// acknowledged; messages, delivery results and what was set aside from before `before`, KeyPackages and
    /// invitations that have expired by then; audiences without messages stay as long as a sender
    /// may name them.
    async fn sweep(&self, before: u64) -> Result<(), StoreError>;
}
