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
use crate::delivery::QueuePayload;
use crate::endpoint::Endpoint;
use crate::identity::{Attestation, QueueConfig};
use crate::key_packages::KeyPackageBytes;
use crate::keys::{DsProtocolVersion, Nonce, PublicKey, Signature, SignatureScheme, SignedLast};
use crate::names::{ClientId, ProviderName, UserId};
use crate::response::MAX_ANSWER_BYTES;

/// The path of requests.
pub const PATH: &str = "/client";
/// The path of the WebSocket.
pub const QUEUE_PATH: &str = "/client/queue";
/// The longest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 9 << 20;

/// Where a client is in its queue; only its provider knows what it means. Empty: the start.
pub type Cursor = Opaque<64>;

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
/// struct { MLSBytes key_packages<V>; } UploadKeyPackages;
/// ```
/// Answered by `ok`: all of them are taken, or none.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct UploadKeyPackages {
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
///   acknowledge(4), forward(5), set_consent(6), (255)
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
///   QueuePayloadType type;
///   select (QueueItem.type) { as in Delivery } payload;
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
    pub payload: QueuePayload,
}

/// ```text
/// enum { ok(0), registered(1), queue_configs(2), queue(3), forwarded(4), (255) } ClientResponseType;
/// select (ClientResponse.type) {
///   case ok:             struct {};
///   case registered:     Attestation attestation;
///   case queue_configs:  QueueConfig queue_configs<V>;
///   case queue:          QueueItem items<V>;
///   case forwarded:      uint16 http_status;  opaque response<V>;
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
