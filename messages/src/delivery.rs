//! What an owning provider hands to the provider of a recipient (wire profile, section 7).

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Opaque};
use crate::keys::{DsProtocolVersion, ProviderAuth, Signature, SignedLast};
use crate::names::{ProviderName, UserId};
use crate::request::MlsBytes;
use crate::response::DsError;

/// What a client's own provider sealed for itself: where the client's queue is.
pub type ClientQueueInformation = Opaque<512>;
/// The same 16 random bytes on every attempt.
pub type DeliveryId = Opaque<16, 16>;
/// SHA-256 of an audience's `recipients` as serialized, its length included.
pub type AudienceDigest = Opaque<32, 32>;
/// The recipients of an audience, in leaf order; at most 10,000 (section 11).
pub type Recipients = List<ClientQueueInformation, 10_000>;

/// The digest by which a provider that has taken these recipients before knows them.
///
/// # Panics
/// Never: a SHA-256 digest has 32 bytes.
#[must_use]
pub fn audience_digest(recipients: &Recipients) -> AudienceDigest {
    use crate::codec::Message;
    use sha2::Digest;
    AudienceDigest::new(sha2::Sha256::digest(recipients.encode()).to_vec()).expect("32 bytes")
}

/// ```text
/// enum { full(0), digest(1), (255) } AudienceType;
/// struct {
///   AudienceType type;
///   select (Audience.type) {
///     case full:    opaque client_queue_information<V> recipients<V>;   // in leaf order
///     case digest:  opaque audience_digest<V>;  // SHA-256 of `recipients` as serialized, its length included
///   }
/// } Audience;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Audience {
    /// All recipients.
    #[tls_codec(discriminant = 0)]
    Full {
        /// In leaf order.
        recipients: Recipients,
    },
    /// Recipients that this receiver has taken from this sender before.
    #[tls_codec(discriminant = 1)]
    Digest {
        /// Of the recipients.
        audience_digest: AudienceDigest,
    },
}

/// ```text
/// struct { UserID requester;  UserID responder;  MLSBytes welcome; } ConnectionRequest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ConnectionRequest {
    /// Who asks.
    pub requester: UserId,
    /// Who is asked.
    pub responder: UserId,
    /// Into the connection group.
    pub welcome: MlsBytes,
}

/// ```text
/// enum { mls_message(0), connection_request(1), (255) } QueuePayloadType;
/// select (Delivery.type) {
///   case mls_message:         MLSBytes message;
///   case connection_request:  ConnectionRequest connection_request;
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum QueuePayload {
    /// A message of a group, or a Welcome into one.
    #[tls_codec(discriminant = 0)]
    MlsMessage(MlsBytes),
    /// A user of another provider wants to get in touch.
    #[tls_codec(discriminant = 1)]
    ConnectionRequest(ConnectionRequest),
}

impl QueuePayload {
    /// The type's name, as the profile writes it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::MlsMessage(_) => "mls_message",
            Self::ConnectionRequest(_) => "connection_request",
        }
    }
}

/// ```text
/// struct {
///   opaque delivery_id<V>;            // 16 random bytes, the same on every attempt
///   Audience audience;
///   optional<uint32> except;          // position in the audience of the sending client: it gets nothing
///   QueuePayloadType type;
///   select (Delivery.type) { see QueuePayload }
/// } Delivery;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Delivery {
    /// What a receiver knows a repeated delivery by.
    pub delivery_id: DeliveryId,
    /// Who gets it.
    pub audience: Audience,
    /// Who of them does not.
    pub except: Option<u32>,
    /// What they get.
    pub payload: QueuePayload,
}

/// ```text
/// struct {
///   DSProtocolVersion version;
///   ProviderName sender;  ProviderName recipient;
///   Delivery deliveries<V>;
///   ProviderAuth provider_auth;
/// } QueueingServiceRequest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct QueueingServiceRequest {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// The provider that owns the groups.
    pub sender: ProviderName,
    /// The provider of the recipients.
    pub recipient: ProviderName,
    /// In order; at most 256 (section 11).
    pub deliveries: List<Delivery, 256>,
    /// The sender's signature.
    pub provider_auth: ProviderAuth,
}

impl SignedLast for QueueingServiceRequest {
    fn signature(&self) -> Option<&Signature> {
        Some(&self.provider_auth.signature)
    }
    fn signature_mut(&mut self) -> Option<&mut Signature> {
        Some(&mut self.provider_auth.signature)
    }
}

/// ```text
/// enum { ok(0), invalid_client_queue_information(1), unknown_audience(2), error(5), (255) } QueueingServiceResult;
/// struct {
///   QueueingServiceResult result;
///   select (result) {
///     case invalid_client_queue_information:  uint32 recipients<V>;   // positions in the audience
///     case error:  DSError error;
///     default: struct {};
///   }
/// } DeliveryResult;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum DeliveryResult {
    /// Durable for every recipient.
    #[tls_codec(discriminant = 0)]
    Ok,
    /// Durable for all but these.
    #[tls_codec(discriminant = 1)]
    InvalidClientQueueInformation {
        /// Positions in the audience.
        recipients: List<u32, 10_000>,
    },
    /// The digest names no audience that this receiver has; say it in full.
    #[tls_codec(discriminant = 2)]
    UnknownAudience,
    /// Not taken.
    #[tls_codec(discriminant = 5)]
    Error(DsError),
}

/// ```text
/// struct { DSProtocolVersion version; DeliveryResult results<V>; } QueueingServiceResponse;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct QueueingServiceResponse {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// One for each delivery that was looked at, in order.
    pub results: List<DeliveryResult, 256>,
}
