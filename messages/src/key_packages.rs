//! KeyPackages of another provider's clients (wire profile, section 8).

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Opaque};
use crate::keys::{CipherSuite, DsProtocolVersion, ProviderAuth, Signature, SignedLast};
use crate::names::{ClientId, ProviderName, UserId};

/// `opaque MLSBytes<V>` with a KeyPackage, at most 16 KiB.
pub type KeyPackageBytes = Opaque<{ 16 << 10 }>;

/// ```text
/// struct {
///   DSProtocolVersion version;  ProviderName sender;  ProviderName recipient;
///   UserID requester;  UserID target;  CipherSuite cipher_suites<V>;
///   ProviderAuth provider_auth;
/// } ConnectionKeyPackageRequest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ConnectionKeyPackageRequest {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// The provider of the requester.
    pub sender: ProviderName,
    /// The provider of the target.
    pub recipient: ProviderName,
    /// Who wants to get in touch.
    pub requester: UserId,
    /// With whom.
    pub target: UserId,
    /// That the requester can use.
    pub cipher_suites: List<CipherSuite, 32>,
    /// The sender's signature.
    pub provider_auth: ProviderAuth,
}

impl SignedLast for ConnectionKeyPackageRequest {
    fn signature(&self) -> Option<&Signature> {
        Some(&self.provider_auth.signature)
    }
    fn signature_mut(&mut self) -> Option<&mut Signature> {
        Some(&mut self.provider_auth.signature)
    }
}

/// ```text
/// struct {
///   DSProtocolVersion version;  ProviderName sender;  ProviderName recipient;
///   UserID requester;  UserID targets<V>;
///   ClientID clients<V>;              // only these of theirs; empty: all
///   CipherSuite cipher_suites<V>;
///   opaque connection_token<V>;       // empty in version 1
///   ProviderAuth provider_auth;
/// } GroupKeyPackageRequest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct GroupKeyPackageRequest {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// The provider of the requester.
    pub sender: ProviderName,
    /// The provider of the targets.
    pub recipient: ProviderName,
    /// Who wants to add them to a group.
    pub requester: UserId,
    /// Whom; at most 64 (section 11).
    pub targets: List<UserId, 64>,
    /// Only these clients of theirs; empty: all.
    pub clients: List<ClientId, 2048>,
    /// That the group has.
    pub cipher_suites: List<CipherSuite, 32>,
    /// Empty in version 1.
    pub connection_token: Opaque<64>,
    /// The sender's signature.
    pub provider_auth: ProviderAuth,
}

impl SignedLast for GroupKeyPackageRequest {
    fn signature(&self) -> Option<&Signature> {
        Some(&self.provider_auth.signature)
    }
    fn signature_mut(&mut self) -> Option<&mut Signature> {
        Some(&mut self.provider_auth.signature)
    }
}

/// ```text
/// enum { success(0), exhausted(1), nothing_compatible(2), (255) } ClientKeyPackageStatus;
/// select (status) { case success: MLSBytes key_package; default: struct {}; }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ClientKeyPackageStatus {
    /// Here is one.
    #[tls_codec(discriminant = 0)]
    Success {
        /// An MLSMessage with the KeyPackage.
        key_package: KeyPackageBytes,
    },
    /// The client has none left.
    #[tls_codec(discriminant = 1)]
    Exhausted,
    /// The client has none with one of the ciphersuites.
    #[tls_codec(discriminant = 2)]
    NothingCompatible,
}

/// ```text
/// struct {
///   ClientID client;  ClientKeyPackageStatus status;
///   select (status) { see ClientKeyPackageStatus }
/// } ClientKeyPackage;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClientKeyPackage {
    /// Whose.
    pub client: ClientId,
    /// The KeyPackage, or why there is none.
    pub status: ClientKeyPackageStatus,
}

/// ```text
/// enum { success(0), partial(1), nothing_compatible(2), no_consent(3), (255) } UserKeyPackageStatus;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum UserKeyPackageStatus {
    /// One KeyPackage of each client.
    Success = 0,
    /// Of some clients.
    Partial = 1,
    /// Of no client.
    NothingCompatible = 2,
    /// There is no such user, or they did not consent: the two look the same.
    NoConsent = 3,
}

/// ```text
/// struct { UserID user; UserKeyPackageStatus status; ClientKeyPackage clients<V>; } UserKeyPackages;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct UserKeyPackages {
    /// Who was asked for.
    pub user: UserId,
    /// What came of it.
    pub status: UserKeyPackageStatus,
    /// For each client of theirs; at most 32 (section 11).
    pub clients: List<ClientKeyPackage, 32>,
}

/// ```text
/// struct { DSProtocolVersion version; UserKeyPackages users<V>; }
///   ConnectionKeyPackageResponse, GroupKeyPackageResponse;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct KeyPackageResponse {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// In the order of the request.
    pub users: List<UserKeyPackages, 64>,
}
