//! Clients and accounts: to become one, to see which there are, and to be gone.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::Opaque;
use crate::keys::{PublicKey, Signature, SignatureScheme, SignedLast};
use crate::names::ClientId;

/// A code that a provider gives to people whom it wants as users; ASCII. Empty: none.
pub type Invitation = Opaque<64>;

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
