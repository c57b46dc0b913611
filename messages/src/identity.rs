//! What MoH adds to MLS leaves and groups (wire profile, section 8).

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::List;
use crate::delivery::ClientQueueInformation;
use crate::keys::{DsProtocolVersion, KeyId, PublicKey, Signature, SignatureScheme, SignedLast};
use crate::names::{ClientId, ProviderName, UserId};
use crate::request::GroupType;

/// Numbers of the extension types, of the private use range.
pub mod extension_type {
    /// `moh`, in a GroupContext and in LeafNodes.
    pub const MOH: u16 = 0xF4D1;
    /// `queue_config`, in LeafNodes.
    pub const QUEUE_CONFIG: u16 = 0xF4D2;
    /// `attestation`, in LeafNodes.
    pub const ATTESTATION: u16 = 0xF4D3;
    /// `connection_key_package`, in the LeafNodes of KeyPackages for connection groups; empty.
    pub const CONNECTION_KEY_PACKAGE: u16 = 0xF4D4;
    /// `rbac`, in a GroupContext.
    pub const RBAC: u16 = 0xF4D5;
    /// All of them: what capabilities and `required_capabilities` list.
    pub const ALL: [u16; 5] = [MOH, QUEUE_CONFIG, ATTESTATION, CONNECTION_KEY_PACKAGE, RBAC];
}

/// The content of `moh` in a GroupContext:
/// ```text
/// DSProtocolVersion version; GroupType type
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct MohGroupContext {
    /// The version that the group is run with.
    pub version: DsProtocolVersion,
    /// Its kind.
    pub group_type: GroupType,
}

/// The content of `moh` in a LeafNode:
/// ```text
/// DSProtocolVersion versions<V>
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct MohLeafNode {
    /// The versions that the client knows.
    pub versions: List<DsProtocolVersion, 16>,
}

/// ```text
/// struct { ProviderName provider; opaque client_queue_information<V>; } QueueConfig;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct QueueConfig {
    /// Where the client's messages go: its own provider.
    pub provider: ProviderName,
    /// Sealed by that provider for itself.
    pub client_queue_information: ClientQueueInformation,
}

/// ```text
/// struct {
///   ClientID client_id;  SignatureScheme scheme;  opaque signature_key<V>;
///   uint64 not_before;   uint64 not_after;        // at most 90 days
///   opaque key_id<V>;
///   opaque signature<V>;                          // SignWithLabel(provider key, "MoH Attestation", TBS)
/// } Attestation;
/// ```
/// The home provider's word that a signature key is that client's.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Attestation {
    /// The client.
    pub client_id: ClientId,
    /// How the client's key verifies.
    pub scheme: SignatureScheme,
    /// The client's key.
    pub signature_key: PublicKey,
    /// The first millisecond since the Unix epoch at which it may enter a tree.
    pub not_before: u64,
    /// The last millisecond since the Unix epoch at which it may enter a tree.
    pub not_after: u64,
    /// Which of the provider's keys signed.
    pub key_id: KeyId,
    /// By the provider.
    pub signature: Signature,
}

/// The longest life of an attestation: 90 days, in milliseconds.
pub const MAX_ATTESTATION_LIFE_MS: u64 = 90 * 24 * 60 * 60 * 1000;

impl SignedLast for Attestation {
    fn signature(&self) -> Option<&Signature> {
        Some(&self.signature)
    }
    fn signature_mut(&mut self) -> Option<&mut Signature> {
        Some(&mut self.signature)
    }
}

/// The content of `rbac`:
/// ```text
/// UserID admins<V>
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Rbac {
    /// At most 64 (section 11); one without a leaf confers nothing.
    pub admins: List<UserId, 64>,
}
