//! What is to become durable, as data: a change set with an expectation.
//!
//! An operation reads, decides purely, and hands the store one [`Change`]. The store makes it
//! durable as a whole, or not at all when an [`Expect`] does not hold any more; then the
//! operation is run again on fresh state. Group state and the deliveries that follow from it
//! are atomic by shape: they are in the same change.

use moh_messages::client_api::BlockTarget;
use moh_messages::{
    AudienceDigest, ClientId, ClientQueueInformation, DeliveryId, GroupId, KeyPackageRef, Nonce,
    ProviderName, PublicKey, SignatureScheme, UserId,
};

use serde::Serialize;

use crate::crypto::sha256;

/// Which invitation a code is.
pub type InvitationId = [u8; 12];

/// A version of a group: 0 when it is created, one more with each change of its state.
pub type Version = u64;

/// What a queue is known by: SHA-256 of its sealed name.
pub type QueueDigest = [u8; 32];

/// What a queue is known by.
#[must_use]
pub fn queue_digest(sealed: &ClientQueueInformation) -> QueueDigest {
    sha256(sealed.as_slice())
}

/// A queue of a client of our own, as it is named by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Whose.
    pub client_id: ClientId,
    /// Which: a client has another one in each group.
    pub queue: QueueDigest,
}

/// What waits for a provider is in so many lanes, each in its own order: all that is about a group,
/// or about a client that is gone, is in the same one.
pub const OUTBOX_LANES: u8 = 4;

/// The lane of what is about a group, or about a client that is gone: less than [`OUTBOX_LANES`].
#[must_use]
pub fn outbox_lane(about: &[u8]) -> u8 {
    sha256(about)[0] % OUTBOX_LANES
}

/// Writes that are made together, when everything that is expected holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What the decision was based on.
    pub expect: Vec<Expect>,
    /// What follows from it, in this order.
    pub writes: Vec<Write>,
}

/// What must hold at the moment of the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The group is at this version, and not forgotten; none: there never was one of this name.
    Group(GroupId, Option<Version>),
    /// There is no such client, and neither it nor its user was deleted.
    NoClient(ClientId),
    /// The client is registered.
    Client(ClientId),
    /// Neither the client nor its user was deleted here.
    NotDeleted(ClientId),
    /// The user has exactly this many clients.
    ClientCount(UserId, u32),
    /// Nobody became a user by this invitation.
    UnusedInvitation(InvitationId),
    /// The KeyPackage is there to be handed out.
    KeyPackage(KeyPackageRef),
    /// As many KeyPackages of a pool, the last resort not counted, can be handed out.
    KeyPackagesLeft {
        /// Which pool.
        pool: Pool,
        /// When, in milliseconds since the Unix epoch.
        now: u64,
        /// How many.
        left: u64,
    },
    /// No answer to a message with this hash is kept for the group.
    NewMessage(GroupId, [u8; 32]),
    /// No delivery of this id has been taken from this provider.
    NewDelivery(ProviderName, DeliveryId),
    /// Whether a user of our own has blocked a peer, or the peer's provider.
    Blocked {
        /// Our own user.
        user: UserId,
        /// A user of any provider.
        peer: UserId,
        /// Whether that is so.
        blocked: bool,
    },
}

/// One thing that becomes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new group, at version 0 and epoch 0.
    CreateGroup {
        /// Its name.
        group_id: GroupId,
        /// Its whole state.
        snapshot: Vec<u8>,
        /// When it has to be looked after, in milliseconds since the Unix epoch; `u64::MAX`:
        /// never.
        due_at: u64,
        /// The clients that have a leaf, for the index of a client's groups.
        members: Vec<ClientId>,
    },
    /// The next version of a group: one entry of its log, and now and then its whole state.
    AppendGroup {
        /// The group.
        group_id: GroupId,
        /// The new version: the expected one and one more.
        version: Version,
        /// The epoch at that version.
        epoch: u64,
        /// What changed.
        entry: Vec<u8>,
        /// The whole state at `version`, when the log has grown past it.
        snapshot: Option<Vec<u8>>,
        /// Epochs before this one need not be restored any more. The store may forget what
        /// leads to them alone.
        keep_from_epoch: u64,
        /// When it has to be looked after, in milliseconds since the Unix epoch; `u64::MAX`:
        /// never.
        due_at: u64,
        /// Clients that have their first leaf since this version.
        entered: Vec<ClientId>,
        /// Clients that have no leaf any more, whose removal is not wanted any longer. Who is in
        /// both stays.
        left: Vec<ClientId>,
    },
    /// A group that ended long ago: its snapshots, its log, its answers, its members and the
    /// removals that are wanted of it are forgotten. Its name is taken for ever.
    ForgetGroup {
        /// The group.
        group_id: GroupId,
    },
    /// A client is to be removed. Where that is wanted already, the earlier time counts.
    WantRemoval {
        /// The client.
        client_id: ClientId,
        /// From this group, and nothing changes where there is none, or it is forgotten; none:
        /// from every group that has the client as a member.
        group_id: Option<GroupId>,
        /// Not before this, in milliseconds since the Unix epoch.
        at: u64,
    },
    /// Removals that are not wanted any more: they are proposed, or the client is not in the
    /// group.
    RemovalsDone {
        /// The group.
        group_id: GroupId,
        /// Whose.
        clients: Vec<ClientId>,
    },
    /// These removals, and the group itself, have to wait.
    PostponeRemovals {
        /// The group.
        group_id: GroupId,
        /// Whose; nothing changes for those of whom it is not wanted.
        clients: Vec<ClientId>,
        /// Not before this, in milliseconds since the Unix epoch.
        until: u64,
    },
    /// A message that was accepted, with its answer, in case the same one comes again.
    Answer {
        /// The group.
        group_id: GroupId,
        /// SHA-256 of the message.
        message_hash: [u8; 32],
        /// The answer.
        answer: Answer,
    },
    /// Answers of epochs before this one are not given again.
    ForgetAnswers {
        /// The group.
        group_id: GroupId,
        /// The first epoch that is kept.
        before_epoch: u64,
    },
    /// An audience of our own clients, as this provider addresses it. Nothing changes where it
    /// is known.
    Audience {
        /// Who delivers to it.
        sender: ProviderName,
        /// Its name.
        digest: AudienceDigest,
        /// By position; none where the queue information was not valid.
        members: Vec<Option<ClientId>>,
    },
    /// An audience of queues that is new: from now on they take deliveries from this provider
    /// alone, those that nobody delivered to before, and it is a peer of their clients. A conflict
    /// where the audience exists, or one of them takes nothing from this provider.
    BoundAudience {
        /// Who delivers to it.
        sender: ProviderName,
        /// Its name.
        digest: AudienceDigest,
        /// By position; none where the queue information is not valid.
        seats: Vec<Option<Seat>>,
    },
    /// A queue that takes deliveries from every provider.
    SharedQueue(Seat),
    /// The queue that a KeyPackage names, which is no last resort.
    KeyPackageQueue {
        /// The KeyPackage.
        reference: KeyPackageRef,
        /// The queue.
        seat: Seat,
        /// Whether the KeyPackage is for connection groups alone.
        for_connections: bool,
        /// When the KeyPackage does, in milliseconds since the Unix epoch.
        expires_at: u64,
    },
    /// A KeyPackage goes to a peer, and nobody else. What is delivered to its queue first is thrown
    /// away, with all that follows, where the user blocks the peer by then; and, if it is for
    /// connection groups alone, where the peer has not asked and the user does not consent.
    HandedOut {
        /// The KeyPackage.
        reference: KeyPackageRef,
        /// A user of any provider.
        peer: UserId,
    },
    /// A client is gone: its queues take nothing any more, its audiences have to be said anew, and
    /// each of its peers is to be told, by the outbox.
    CloseClient {
        /// The client.
        client_id: ClientId,
        /// In milliseconds since the Unix epoch.
        at: u64,
    },
    /// A provider that may have the client in its groups, and is told when it is gone.
    ClientPeer {
        /// A client of our own.
        client_id: ClientId,
        /// Another provider.
        provider: ProviderName,
    },
    /// A message for an audience, stored once; it is in the queue of each member.
    Message {
        /// Who delivers it.
        sender: ProviderName,
        /// The audience, which is written before this in the same change, or exists and need not be
        /// said anew; otherwise it is a conflict.
        digest: AudienceDigest,
        /// The position of the member that does not get it.
        except: Option<u32>,
        /// In milliseconds since the Unix epoch.
        received_at: u64,
        /// A `QueueItemPayload`. What is delivered is the same bytes as its `QueuePayload`.
        payload: Vec<u8>,
    },
    /// A delivery that was answered for good, in case it comes again.
    Delivered {
        /// From whom.
        sender: ProviderName,
        /// Its id.
        delivery_id: DeliveryId,
        /// The `DeliveryResult`.
        result: Vec<u8>,
        /// In milliseconds since the Unix epoch.
        received_at: u64,
    },
    /// The recipients of deliveries to another provider. Nothing changes where it is known.
    OutboxAudience {
        /// Its name.
        digest: AudienceDigest,
        /// The `Recipients`.
        recipients: Vec<u8>,
    },
    /// A delivery to another provider.
    Outbox(OutboxDelivery),
    /// A delivery that was answered for good.
    OutboxDone {
        /// As the store numbered it.
        id: u64,
    },
    /// What waited for a provider is not tried any more, and kept for the operator. Nothing changes
    /// where it does not wait.
    OutboxSetAside {
        /// As the store numbered it.
        id: u64,
        /// Why.
        ending: Ending,
        /// Why, in words.
        reason: String,
        /// In milliseconds since the Unix epoch.
        at: u64,
    },
    /// What was set aside waits again, behind all that waits for the same group. Nothing changes
    /// where it is not set aside, or its payload is given up.
    OutboxRetry {
        /// The number that it was set aside with.
        id: u64,
        /// Its new id; none: it keeps its own.
        delivery_id: Option<DeliveryId>,
        /// In milliseconds since the Unix epoch; it expires as if it were new.
        at: u64,
    },
    /// What was set aside is forgotten.
    OutboxDrop {
        /// The number that it was set aside with.
        id: u64,
    },
    /// What is kept for a provider is brought within bounds: the oldest that waits is set aside
    /// without its payload, the oldest payloads that are set aside are given up, and the oldest
    /// records forgotten; a bounded number of each in one write. The newest stays.
    OutboxBounds {
        /// For whom.
        destination: ProviderName,
        /// How much.
        bounds: OutboxBounds,
        /// In milliseconds since the Unix epoch.
        at: u64,
    },
    /// A client of our own, new or with another key.
    Client {
        /// The client.
        client_id: ClientId,
        /// Its key.
        client: Client,
    },
    /// An invitation by which somebody becomes a user: the change is in conflict when somebody
    /// did before.
    UseInvitation {
        /// Which.
        invitation: InvitationId,
        /// Until when it has to be remembered, in milliseconds since the Unix epoch.
        expires_at: u64,
    },
    /// A request that would do harm if it were taken twice: the change is in conflict when its
    /// nonce was taken before.
    Nonce {
        /// Who signed it: a provider or a client of our own.
        who: String,
        /// Its nonce.
        nonce: Nonce,
        /// Until when it has to be remembered, in milliseconds since the Unix epoch.
        until: u64,
        /// The time: those that had to be remembered until before it may be forgotten.
        now: u64,
    },
    /// A client of our own is gone, with its KeyPackages; its name is not given again. The change
    /// is in conflict when there is no such client.
    DeleteClient {
        /// The client.
        client_id: ClientId,
        /// In milliseconds since the Unix epoch.
        at: u64,
    },
    /// A user of our own is gone, who has no clients any more; the name is not given again.
    DeleteUser {
        /// The user.
        user: UserId,
        /// In milliseconds since the Unix epoch.
        at: u64,
    },
    /// KeyPackages of a client that have expired are gone. They are not forgotten.
    DropExpired {
        /// The client.
        client_id: ClientId,
        /// In milliseconds since the Unix epoch.
        now: u64,
    },
    /// A KeyPackage to hand out. The change is in conflict when it was written before, unless it
    /// has expired and is forgotten.
    KeyPackage(KeyPackage),
    /// A KeyPackage that was handed out, or is not to be any more. It is not forgotten.
    RemoveKeyPackage(KeyPackageRef),
    /// All KeyPackages of a client but these are not to be handed out any more.
    KeepKeyPackages {
        /// The client.
        client_id: ClientId,
        /// Those that stay.
        only: Vec<KeyPackageRef>,
    },
    /// Whether a client has been told that there is little left in a pool. The change is in
    /// conflict when it is told for the second time.
    ToldLow {
        /// Which pool.
        pool: Pool,
        /// Whether it has been told.
        told: bool,
    },
    /// Whether a peer may fetch the KeyPackages of a user of our own. What the peer has asked for
    /// stays undecided.
    Consent {
        /// Our own user.
        user: UserId,
        /// A user of any provider.
        peer: UserId,
        /// Whether they may.
        allowed: bool,
        /// In milliseconds since the Unix epoch. The time of a consent that there is stays.
        at: u64,
    },
    /// A peer asks to be connected with a user of our own.
    Asked {
        /// Our own user.
        user: UserId,
        /// A user of any provider.
        peer: UserId,
        /// Who owns the connection group.
        sender: ProviderName,
        /// The audience of the request.
        audience: AudienceDigest,
        /// The queues that the connection group delivers to, and nobody else.
        queues: Vec<QueueDigest>,
        /// In milliseconds since the Unix epoch. The time of what is there already stays.
        at: u64,
    },
    /// What a peer has asked for is decided; nothing changes where there is nothing. The consent
    /// stays as it is.
    Decided {
        /// Our own user.
        user: UserId,
        /// A user of any provider.
        peer: UserId,
        /// How.
        decision: Decided,
    },
    /// What a provider delivers to these queues is thrown away. A conflict where somebody has
    /// delivered to one of them already.
    Mute {
        /// Who delivers.
        sender: ProviderName,
        /// To which queues, which are new.
        seats: Vec<Seat>,
    },
    /// A user of our own blocks somebody, or does not any more. To block takes back what the user
    /// consented to, and throws away what was asked and what comes of it.
    Block {
        /// Our own user.
        user: UserId,
        /// Whom.
        target: BlockTarget,
        /// Whether they are blocked.
        blocked: bool,
    },
    /// The connections and the blocks of a user of our own are forgotten.
    ForgetUser {
        /// Who.
        user: UserId,
    },
    /// A client needs nothing up to here any more.
    Acknowledge {
        /// The client.
        client_id: ClientId,
        /// As the store numbered it. A smaller number than before changes nothing.
        sequence: u64,
    },
}

/// What became of what a peer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// The queues go on.
    Accepted,
    /// The queues take nothing any more, but for shared ones.
    Declined,
}

/// The first answer to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The epoch after it.
    pub epoch: u64,
    /// In milliseconds since the Unix epoch.
    pub accepted_at: u64,
    /// Who may have the answer again.
    pub whose: Whose,
}

/// Who may have an answer again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Whoever holds this key.
    Key(PublicKey),
    /// Whatever this provider signs.
    Provider(ProviderName),
}

/// A delivery to another provider, before it has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxDelivery {
    /// To whom.
    pub destination: ProviderName,
    /// Of which group.
    pub group_id: GroupId,
    /// The same on every attempt.
    pub delivery_id: DeliveryId,
    /// The audience, which is stored or written before this in the same change.
    pub digest: AudienceDigest,
    /// The position of the recipient that does not get it.
    pub except: Option<u32>,
    /// In milliseconds since the Unix epoch.
    pub created_at: u64,
    /// A `QueuePayload`.
    pub payload: Vec<u8>,
}

/// Why something is not tried any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The destination has refused this delivery; it may remember that.
    Refused,
    /// The destination has refused a request with nothing but this in it.
    RequestRefused,
    /// It was tried for as long as anything is.
    Expired,
    /// Too much waited for the destination.
    Crowded,
    /// What is stored cannot be read.
    Unreadable,
}

/// How much is kept for one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Bytes of what waits: payloads, and [`OUTBOX_ROW_BYTES`] for each.
    pub waiting_bytes: u64,
    /// Bytes of payloads that are set aside.
    pub set_aside_bytes: u64,
    /// Records of what is set aside.
    pub set_aside: u64,
}

/// What is counted, besides its payload, for each that waits, in bytes.
pub const OUTBOX_ROW_BYTES: u64 = 256;

/// What a provider knows of a client of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// How its key verifies.
    pub scheme: SignatureScheme,
    /// Its key.
    pub signature_key: PublicKey,
    /// In milliseconds since the Unix epoch.
    pub registered_at: u64,
}

/// The KeyPackages of a client that are handed out for the same purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Whose.
    pub client_id: ClientId,
    /// Whether they are for connection groups.
    pub for_connections: bool,
}

/// What is known of all KeyPackages that a client ever uploaded, but for those that expired and
/// are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploads {
    /// All of them.
    pub all: u64,
    /// Those of last resort.
    pub last_resort: u64,
}

/// What is in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// KeyPackages that can be handed out, the last resort not counted.
    pub left: u64,
    /// Those of last resort.
    pub last_resort: u64,
    /// Whether the client has been told that there is little left.
    pub told_low: bool,
}

impl PoolState {
    /// All that can be handed out.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.left + self.last_resort
    }
}

/// A KeyPackage that can be handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPackage {
    /// Its reference (RFC 9420 section 5.2).
    pub reference: KeyPackageRef,
    /// Whose.
    pub client_id: ClientId,
    /// For groups of this ciphersuite.
    pub cipher_suite: u16,
    /// Whether it is for connection groups alone.
    pub for_connections: bool,
    /// Handed out when there is no other, and kept.
    pub last_resort: bool,
    /// Not handed out at or after this, in milliseconds since the Unix epoch.
    pub expires_at: u64,
    /// An MLSMessage.
    pub bytes: Vec<u8>,
}
