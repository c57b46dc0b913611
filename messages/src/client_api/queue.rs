//! The queue: what has arrived for a client, and what its provider has to tell it.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::Boolean;
use crate::codec::Opaque;
use crate::delivery::{ConnectionRequest, QueuePayload};
use crate::names::{ClientId, ProviderName, UserId};
use crate::request::MlsBytes;

/// Where a client is in its queue; only its provider knows what it means. Empty: the start.
pub type Cursor = Opaque<64>;

/// ```text
/// struct { opaque cursor<V>; uint32 wait_ms; } ReadQueue;
/// ```
/// Answered by `queue`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReadQueue {
    /// Read what is after this; empty: what is after all that is acknowledged.
    pub cursor: Cursor,
    /// How long to wait where there is nothing yet, in milliseconds.
    pub wait_ms: u32,
}

/// ```text
/// struct { opaque cursor<V>; } Acknowledge;
/// ```
/// Everything up to `cursor` is the client's now; the provider may forget it. Answered by `ok`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Acknowledge {
    /// As it came with an item.
    pub cursor: Cursor,
}

/// ```text
/// struct {
///   opaque cursor<V>;                 // just after this item
///   uint64 received_at;
///   ProviderName sender;              // who delivered it: the owner of the group
///   QueueItemType type;
///   select (QueueItem.type) { see QueueItemPayload } payload;
/// } QueueItem;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct QueueItem {
    /// Just after this item.
    pub cursor: Cursor,
    /// When the client's provider took it, in milliseconds since the Unix epoch.
    pub received_at: u64,
    /// Who delivered it.
    pub sender: ProviderName,
    /// What arrived.
    pub payload: QueueItemPayload,
}

/// ```text
/// enum {
///   mls_message(0), connection_request(1), key_packages_low(2), connection_changed(3),
///   client_changed(4), (255)
/// } QueueItemType;
/// select (QueueItem.type) {
///   case mls_message:         MLSBytes message;
///   case connection_request:  ConnectionRequest connection_request;
///   case key_packages_low:    KeyPackagesLow key_packages_low;
///   case connection_changed:  ConnectionChanged connection_changed;
///   case client_changed:      ClientChanged client_changed;
/// }
/// ```
/// The first two are what a Delivery holds; the others are by the client's own provider.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum QueueItemPayload {
    /// An MLS message of a group, or a Welcome into one.
    #[tls_codec(discriminant = 0)]
    MlsMessage(MlsBytes),
    /// A user asks to be connected.
    #[tls_codec(discriminant = 1)]
    ConnectionRequest(ConnectionRequest),
    /// There are few KeyPackages left to hand out.
    #[tls_codec(discriminant = 2)]
    KeyPackagesLow(KeyPackagesLow),
    /// The user has decided on a connection with another client.
    #[tls_codec(discriminant = 3)]
    ConnectionChanged(ConnectionChanged),
    /// The user has another client, or one less.
    #[tls_codec(discriminant = 4)]
    ClientChanged(ClientChanged),
}

impl From<QueuePayload> for QueueItemPayload {
    fn from(payload: QueuePayload) -> Self {
        match payload {
            QueuePayload::MlsMessage(message) => Self::MlsMessage(message),
            QueuePayload::ConnectionRequest(request) => Self::ConnectionRequest(request),
        }
    }
}

/// ```text
/// struct { Boolean for_connections;  uint32 left; } KeyPackagesLow;
/// ```
/// Said once, until the client uploads some.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackagesLow {
    /// Whether these are the ones for connection groups.
    pub for_connections: Boolean,
    /// How many were left, the one of last resort not counted.
    pub left: u32,
}

/// ```text
/// enum { consented(0), declined(1), withdrawn(2), (255) } ConnectionDecision;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ConnectionDecision {
    /// The peer may add the user to groups.
    Consented = 0,
    /// What the peer asked for was declined.
    Declined = 1,
    /// The peer may not any more.
    Withdrawn = 2,
}

/// ```text
/// struct { UserID peer;  ConnectionDecision decision; } ConnectionChanged;
/// ```
/// For all clients of the user but the one that it was decided with.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ConnectionChanged {
    /// About whom.
    pub peer: UserId,
    /// What.
    pub decision: ConnectionDecision,
}

/// ```text
/// struct { ClientID client;  Boolean registered; } ClientChanged;
/// ```
/// For all other clients of the user.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClientChanged {
    /// Which.
    pub client: ClientId,
    /// Whether it is new; otherwise it was deleted.
    pub registered: Boolean,
}
