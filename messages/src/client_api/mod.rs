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

mod account;
mod connections;
mod key_packages;
mod queue;

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Opaque};
use crate::endpoint::Endpoint;
use crate::identity::{Attestation, QueueConfig};
use crate::keys::{DsProtocolVersion, Nonce, Signature, SignedLast};
use crate::names::{ClientId, ProviderName};
use crate::response::MAX_ANSWER_BYTES;

pub use account::{
    ClientAuthorization, ClientInfo, DeleteAccount, DeleteClient, Invitation, ListClients, Register,
};
pub use connections::{
    BlockTarget, Connection, ConnectionState, DeclineConnection, ListBlocks, ListConnections,
    MAX_LISTED, SetBlock, SetConsent,
};
pub use key_packages::{GetQueueConfigs, UploadKeyPackages};
pub use queue::{
    Acknowledge, ClientChanged, ConnectionChanged, ConnectionDecision, Cursor, KeyPackagesLow,
    QueueItem, QueueItemPayload, ReadQueue,
};

/// The path of requests.
pub const PATH: &str = "/client";
/// The path of the WebSocket.
pub const QUEUE_PATH: &str = "/client/queue";
/// The longest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 9 << 20;

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
