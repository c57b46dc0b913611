//! The messages of MIMI over HTTPS (draft-kohbrok-mimi-moh) as types.
//!
//! Every struct of the project's protocol, its codec and its limits; no I/O, no clock, no
//! randomness, no MLS. `docs/protocol.md` describes the protocol in prose; above each type
//! here stands its struct in the presentation language of TLS (RFC 8446 section 3), with the
//! variable-size vectors of RFC 9420 section 2.1.2.
//!
//! ```
//! use moh_messages::{DsProtocolVersion, Message, Request, VerificationKeyRequest};
//!
//! let request = VerificationKeyRequest {
//!     version: DsProtocolVersion::MOH1,
//!     recipient: "b.example".parse()?,
//! };
//! let body = request.encode();
//! assert_eq!(body, b"\x00\x01\x09b.example");
//! assert_eq!(VerificationKeyRequest::decode_for(&"b.example".parse()?, &body), Ok(request));
//! # Ok::<(), moh_messages::InvalidName>(())
//! ```
//!
//! [`Message`] reads and writes any of them; [`Request`] reads the body of a request that is
//! meant for a given provider; [`SignedLast`] says what a signature is over.

pub mod client_api;
mod codec;
mod delivery;
mod endpoint;
mod identity;
mod key_packages;
mod keys;
mod names;
mod request;
mod response;

pub use codec::{DecodeError, List, Message, Opaque, OutOfBounds};
pub use delivery::{
    Audience, AudienceDigest, ClientQueueInformation, ConnectionRequest, Delivery, DeliveryId,
    DeliveryResult, QueuePayload, QueueingServiceRequest, QueueingServiceResponse, Recipients,
    audience_digest,
};
pub use endpoint::{CONTENT_TYPE, Endpoint, Request, WELL_KNOWN_PATH};
pub use identity::{
    Attestation, MAX_ATTESTATION_LIFE_MS, MohGroupContext, MohLeafNode, QueueConfig, Rbac,
    extension_type,
};
pub use key_packages::{
    ClientKeyPackage, ClientKeyPackageStatus, ConnectionKeyPackageRequest, GroupKeyPackageRequest,
    KeyPackageBytes, KeyPackageResponse, UserKeyPackageStatus, UserKeyPackages,
};
pub use keys::{
    CipherSuite, DsProtocolVersion, KeyId, MAX_KEY_BYTES, Nonce, ProviderAuth, ProviderTbs,
    PublicKey, Signature, SignatureScheme, SignedLast, VerificationKey, VerificationKeyRequest,
    VerificationKeyResponse, VerificationKeys, label, provider_sign_content, sign_content,
};
pub use names::{ClientId, InvalidName, MAX_IDENTIFIER_BYTES, ProviderName, UserId};
pub use request::{
    AddMembers, ApplicationBytes, CreateGroup, DsAuth, DsRequest, DsRequestBody, Extension,
    ExternalCommitInfo, GroupId, GroupType, GroupUpdate, HandshakeBytes, KeyPackageRef,
    MAX_APPLICATION_BYTES, MAX_HANDSHAKE_BYTES, MAX_TREE_BYTES, MAX_WELCOME_BYTES, MlsBytes,
    MlsGroupUpdate, PartialGroupInfo, RequestGroupId, SelfRemoveClient, SendMessage, TreeBytes,
    WelcomeInfo,
};
pub use response::{
    BasicCredential, DsError, DsErrorCode, DsResponse, DsResponseBody, ExternalSender,
    MAX_ANSWER_BYTES, ProviderKeys,
};
