//! What a client and its own provider say to each other.
//!
//! This is outside of MIMI and of the wire profile: each provider may have its own. This one
//! uses the same codec. A request is a [`ClientRequest`], sent with `POST` to
//! [`PATH`] and signed by the client's key; the answer is a [`ClientResponse`], or, where the
//! request as a whole fails, a `DSResponse` of type `error`, as on the other endpoints.
//!
//! A queue can also be read over a WebSocket at [`QUEUE_PATH`]. The client's first binary
//! message is a [`ClientRequest`] of type `read_queue`; the provider answers it with a
//! [`ClientResponse`] of type `queue` whenever there are items beyond those it has sent; every
//! further binary message of the client is an [`Acknowledge`].

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Opaque};
use crate::delivery::{ConnectionRequest, QueuePayload};
use crate::endpoint::Endpoint;
use crate::identity::{Attestation, QueueConfig};
use crate::key_packages::KeyPackageBytes;
use crate::keys::{DsProtocolVersion, Nonce, PublicKey, Signature, SignatureScheme, SignedLast};
use crate::names::{ClientId, ProviderName, UserId};
use crate::request::MlsBytes;
use crate::response::MAX_ANSWER_BYTES;

/// The path of requests.
pub const PATH: &str = "/client";
/// The path of the WebSocket.
pub const QUEUE_PATH: &str = "/client/queue";
/// The longest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 9 << 20;

/// Where a client is in its queue; only its provider knows what it means. Empty: the start.
pub type Cursor = Opaque<64>;
/// A code that a provider gives to people whom it wants as users; ASCII. Empty: none.
pub type Invitation = Opaque<64>;
/// The most connections, or blocks, in one answer.
pub const MAX_LISTED: usize = 256;

/// ```text
/// struct {
///   ClientID authorizer;              // a registered client of the same user
///   ClientID client;                  // the new one
///   SignatureScheme scheme;
///   opaque signature_key<V>;          // the new one's
///   uint64 not_after;
///   opaque signature<V>;              // SignWithLabel(authorizer's key, "MoH ClientAuthorization", TBS)
/// } ClientAuthorization;
/// ```
/// What a user's second client shows in order to be registered.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClientAuthorization {
    /// A registered client of the same user.
    pub authorizer: ClientId,
    /// The new client.
    pub client: ClientId,
    /// How the new client's key verifies.
    pub scheme: SignatureScheme,
    /// The new client's key.
    pub signature_key: PublicKey,
    /// The last millisecond since the Unix epoch at which this is taken.
    pub not_after: u64,
    /// By the authorizer.
    pub signature: Signature,
}

impl SignedLast for ClientAuthorization {
    fn signature(&self) -> Option<&Signature> {
        Some(&self.signature)
    }
    fn signature_mut(&mut self) -> Option<&mut Signature> {
        Some(&mut self.signature)
    }
}

/// ```text
/// struct {
///   SignatureScheme scheme;  opaque signature_key<V>;
///   optional<ClientAuthorization> authorization;   // absent for a user's first client
///   opaque invitation<V>;                          // empty: none
/// } Register;
/// ```
/// Answered by `registered`. The same client with the same key again gets a new attestation.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Register {
    /// How the client's key verifies.
    pub scheme: SignatureScheme,
    /// The client's key; it signs this very request.
    pub signature_key: PublicKey,
    /// By another client of the user, where there is one.
    pub authorization: Option<ClientAuthorization>,
    /// The code that lets somebody become a user where not everybody may.
    pub invitation: Invitation,
}

/// ```text
/// struct { uint8 count; } GetQueueConfigs;
/// ```
/// Answered by `queue_configs`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct GetQueueConfigs {
    /// How many.
    pub count: u8,
}

/// ```text
/// struct { Boolean replace;  MLSBytes key_packages<V>; } UploadKeyPackages;
/// ```
/// Answered by `ok`: all of them are taken, or none.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct UploadKeyPackages {
    /// Whether those that are there already are not to be handed out any more.
    pub replace: Boolean,
    /// MLSMessages with KeyPackages of this client; at most 256.
    pub key_packages: List<KeyPackageBytes, 256>,
}

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
/// struct { ProviderName destination; Endpoint endpoint; opaque request<V>; } Forward;
/// ```
/// Answered by `forwarded`. The request is the body for that endpoint. Where it takes a
/// `provider_auth`, that is blank (all zero, no signature) and the client's provider, which is
/// the request's `sender`, fills it in.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Forward {
    /// The request's `recipient`.
    pub destination: ProviderName,
    /// Where it goes there.
    pub endpoint: Endpoint,
    /// The body.
    pub request: Opaque<{ 8 << 20 }>,
}

/// ```text
/// enum { false(0), true(1), (255) } Boolean;
/// struct { UserID peer; Boolean allowed; } SetConsent;
/// ```
/// Whether `peer` may fetch KeyPackages of this client's user for groups. Answered by `ok`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetConsent {
    /// A user of any provider.
    pub peer: UserId,
    /// Whether they may.
    pub allowed: Boolean,
}

/// ```text
/// struct {} ListClients;
/// ```
/// All clients of this client's user. Answered by `clients`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ListClients {}

/// ```text
/// struct { ClientID client; } DeleteClient;
/// ```
/// This client, or another one of its user, is gone: it is removed from all groups, and its name
/// is not given again. Answered by `ok`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteClient {
    /// Which.
    pub client: ClientId,
}

/// ```text
/// struct {} DeleteAccount;
/// ```
/// The user is gone, with all of its clients and connections. Answered by `ok`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteAccount {}

/// ```text
/// struct { optional<UserID> after; } ListConnections;
/// ```
/// Connections in the order of the peers' names. Answered by `connections`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ListConnections {
    /// Only those after this peer.
    pub after: Option<UserId>,
}

/// ```text
/// struct { UserID peer; } DeclineConnection;
/// ```
/// The user does not want what `peer` asked for; further deliveries of that group are not taken.
/// Answered by `ok`, also where nothing was asked.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeclineConnection {
    /// Who asked.
    pub peer: UserId,
}

/// ```text
/// struct { BlockTarget target;  Boolean blocked; } SetBlock;
/// ```
/// Whether connection requests of a user, or of all users of a provider, are thrown away. To block
/// withdraws the consent and declines what was asked. Answered by `ok`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetBlock {
    /// Who.
    pub target: BlockTarget,
    /// Whether they are blocked from now on.
    pub blocked: Boolean,
}

/// ```text
/// struct { optional<BlockTarget> after; } ListBlocks;
/// ```
/// Users in the order of their names, then providers. Answered by `blocks`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ListBlocks {
    /// Only those after this one.
    pub after: Option<BlockTarget>,
}

/// ```text
/// enum { user(0), provider(1), (255) } BlockTargetType;
/// struct {
///   BlockTargetType type;
///   select (BlockTarget.type) {
///     case user:      UserID user;
///     case provider:  ProviderName provider;
///   }
/// } BlockTarget;
/// ```
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
#[repr(u8)]
pub enum BlockTarget {
    /// One user, of any provider.
    #[tls_codec(discriminant = 0)]
    User(UserId),
    /// All users of a provider.
    #[tls_codec(discriminant = 1)]
    Provider(ProviderName),
}

/// ```text
/// enum { false(0), true(1), (255) } Boolean;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Boolean {
    /// No.
    False = 0,
    /// Yes.
    True = 1,
}

/// ```text
/// enum {
///   register(0), get_queue_configs(1), upload_key_packages(2), read_queue(3),
///   acknowledge(4), forward(5), set_consent(6), list_clients(7), delete_client(8),
///   delete_account(9), list_connections(10), decline_connection(11), set_block(12),
///   list_blocks(13), (255)
/// } ClientRequestType;
/// select (ClientRequest.type) { one struct per type } body;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ClientRequestBody {
    /// Become a client, or get a new attestation.
    #[tls_codec(discriminant = 0)]
    Register(Register),
    /// Sealed queue configs, for leaf nodes.
    #[tls_codec(discriminant = 1)]
    GetQueueConfigs(GetQueueConfigs),
    /// KeyPackages to hand out.
    #[tls_codec(discriminant = 2)]
    UploadKeyPackages(UploadKeyPackages),
    /// What has arrived.
    #[tls_codec(discriminant = 3)]
    ReadQueue(ReadQueue),
    /// What need not be kept.
    #[tls_codec(discriminant = 4)]
    Acknowledge(Acknowledge),
    /// A request for another provider, or for this one as the owner of a group.
    #[tls_codec(discriminant = 5)]
    Forward(Forward),
    /// Who may add this user to groups.
    #[tls_codec(discriminant = 6)]
    SetConsent(SetConsent),
    /// The user's clients.
    #[tls_codec(discriminant = 7)]
    ListClients(ListClients),
    /// One of them is gone.
    #[tls_codec(discriminant = 8)]
    DeleteClient(DeleteClient),
    /// All of them are gone.
    #[tls_codec(discriminant = 9)]
    DeleteAccount(DeleteAccount),
    /// Who asked to connect, and who may add this user to groups.
    #[tls_codec(discriminant = 10)]
    ListConnections(ListConnections),
    /// Not to be connected.
    #[tls_codec(discriminant = 11)]
    DeclineConnection(DeclineConnection),
    /// Whose requests are thrown away.
    #[tls_codec(discriminant = 12)]
    SetBlock(SetBlock),
    /// Who is blocked.
    #[tls_codec(discriminant = 13)]
    ListBlocks(ListBlocks),
}

impl ClientRequestBody {
    /// The type's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::GetQueueConfigs(_) => "get_queue_configs",
            Self::UploadKeyPackages(_) => "upload_key_packages",
            Self::ReadQueue(_) => "read_queue",
            Self::Acknowledge(_) => "acknowledge",
            Self::Forward(_) => "forward",
            Self::SetConsent(_) => "set_consent",
            Self::ListClients(_) => "list_clients",
            Self::DeleteClient(_) => "delete_client",
            Self::DeleteAccount(_) => "delete_account",
            Self::ListConnections(_) => "list_connections",
            Self::DeclineConnection(_) => "decline_connection",
            Self::SetBlock(_) => "set_block",
            Self::ListBlocks(_) => "list_blocks",
        }
    }
}

/// ```text
/// struct {
///   DSProtocolVersion version;
///   ProviderName recipient;
///   ClientID client;
///   uint64 timestamp;                 // within 5 minutes of the provider's clock
///   opaque nonce<V>;                  // 16 random bytes
///   ClientRequestType type;
///   select (ClientRequest.type) { one struct per type } body;
///   opaque signature<V>;              // SignWithLabel(client key, "MoH ClientRequest", TBS)
/// } ClientRequest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClientRequest {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// The client's own provider.
    pub recipient: ProviderName,
    /// Who asks.
    pub client: ClientId,
    /// When, in milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// Taken once.
    pub nonce: Nonce,
    /// What is asked.
    pub body: ClientRequestBody,
    /// By the key that the client is registered with.
    pub signature: Signature,
}

impl SignedLast for ClientRequest {
    fn signature(&self) -> Option<&Signature> {
        Some(&self.signature)
    }
    fn signature_mut(&mut self) -> Option<&mut Signature> {
        Some(&mut self.signature)
    }
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

/// ```text
/// struct {
///   ClientID client;
///   SignatureScheme scheme;  opaque signature_key<V>;
///   uint64 registered_at;
///   uint32 key_packages;              // that can be handed out, the one of last resort not counted
///   uint32 connection_key_packages;   // the same, of those for connection groups
/// } ClientInfo;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClientInfo {
    /// The client.
    pub client: ClientId,
    /// How its key verifies.
    pub scheme: SignatureScheme,
    /// Its key.
    pub signature_key: PublicKey,
    /// In milliseconds since the Unix epoch.
    pub registered_at: u64,
    /// How many KeyPackages for groups there are.
    pub key_packages: u32,
    /// How many there are for connection groups.
    pub connection_key_packages: u32,
}

/// ```text
/// enum { asked(0), consented(1), (255) } ConnectionState;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ConnectionState {
    /// The peer has asked, and the user has not decided.
    Asked = 0,
    /// The peer may add the user to groups: the user has accepted, or has asked.
    Consented = 1,
}

/// ```text
/// struct { UserID peer;  ConnectionState state;  uint64 since; } Connection;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Connection {
    /// A user of any provider.
    pub peer: UserId,
    /// What the provider knows of it.
    pub state: ConnectionState,
    /// In milliseconds since the Unix epoch.
    pub since: u64,
}

/// ```text
/// enum {
///   ok(0), registered(1), queue_configs(2), queue(3), forwarded(4), clients(5), connections(6),
///   blocks(7), (255)
/// } ClientResponseType;
/// select (ClientResponse.type) {
///   case ok:             struct {};
///   case registered:     Attestation attestation;
///   case queue_configs:  QueueConfig queue_configs<V>;
///   case queue:          QueueItem items<V>;
///   case forwarded:      uint16 http_status;  opaque response<V>;
///   case clients:        ClientInfo clients<V>;
///   case connections:    Connection connections<V>;
///   case blocks:         BlockTarget blocks<V>;
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ClientResponseBody {
    /// Done, and durable.
    #[tls_codec(discriminant = 0)]
    Ok,
    /// The client is registered.
    #[tls_codec(discriminant = 1)]
    Registered {
        /// For its leaf nodes.
        attestation: Attestation,
    },
    /// As many as were asked for.
    #[tls_codec(discriminant = 2)]
    QueueConfigs {
        /// Each for another KeyPackage or group.
        queue_configs: List<QueueConfig, 255>,
    },
    /// What has arrived, in order; empty where nothing did in time.
    #[tls_codec(discriminant = 3)]
    Queue {
        /// At most 256.
        items: List<QueueItem, 256>,
    },
    /// What the other provider answered, unchanged.
    #[tls_codec(discriminant = 4)]
    Forwarded {
        /// The status of its answer.
        http_status: u16,
        /// The body of its answer.
        response: Opaque<MAX_ANSWER_BYTES>,
    },
    /// By name.
    #[tls_codec(discriminant = 5)]
    Clients {
        /// The clients of the user.
        clients: List<ClientInfo, 256>,
    },
    /// By the name of the peer.
    #[tls_codec(discriminant = 6)]
    Connections {
        /// At most 256; where there are as many, there may be more.
        connections: List<Connection, MAX_LISTED>,
    },
    /// Users by name, then providers by name.
    #[tls_codec(discriminant = 7)]
    Blocks {
        /// At most 256; where there are as many, there may be more.
        blocks: List<BlockTarget, MAX_LISTED>,
    },
}

/// ```text
/// struct {
///   DSProtocolVersion version;
///   ClientResponseType type;
///   select (ClientResponse.type) { see ClientResponseBody }
/// } ClientResponse;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClientResponse {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// The answer.
    pub body: ClientResponseBody,
}
