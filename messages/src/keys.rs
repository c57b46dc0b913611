//! Protocol versions, verification keys, and what providers sign (wire profile, section 3).

use tls_codec::{Size, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Message, Opaque};
use crate::names::ProviderName;

/// The longest key or signature, in bytes (section 11).
pub const MAX_KEY_BYTES: usize = 8 << 10;

/// A public key, as RFC 9420 encodes a `SignaturePublicKey`.
pub type PublicKey = Opaque<MAX_KEY_BYTES>;
/// A signature; ECDSA ones are DER, as in RFC 9420. Empty where it is yet to be made.
pub type Signature = Opaque<MAX_KEY_BYTES>;
/// SHA-256 of a public key.
pub type KeyId = Opaque<32, 32>;
/// 16 random bytes, fresh at every attempt.
pub type Nonce = Opaque<16, 16>;

/// ```text
/// enum { reserved(0), moh1(1), (65535) } DSProtocolVersion;      // uint16
/// ```
/// Unknown values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DsProtocolVersion(pub u16);

impl DsProtocolVersion {
    /// The version that this crate implements.
    pub const MOH1: Self = Self(1);
}

/// ```text
/// enum { ed25519(0x0807), ecdsa_secp256r1_sha256(0x0403), (65535) } SignatureScheme;
/// ```
/// Unknown values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SignatureScheme(pub u16);

impl SignatureScheme {
    /// Ed25519, of ciphersuites 1 and 3.
    pub const ED25519: Self = Self(0x0807);
    /// ECDSA with P-256 and SHA-256, of ciphersuite 2.
    pub const ECDSA_SECP256R1_SHA256: Self = Self(0x0403);
}

/// RFC 9420 section 17.1:
/// ```text
/// uint16 CipherSuite;
/// ```
/// Unknown values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CipherSuite(pub u16);

impl CipherSuite {
    /// MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519.
    pub const X25519_AES128GCM_ED25519: Self = Self(1);
    /// MLS_128_DHKEMP256_AES128GCM_SHA256_P256.
    pub const P256_AES128GCM: Self = Self(2);
    /// MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519.
    pub const X25519_CHACHA20POLY1305_ED25519: Self = Self(3);

    /// How members of a group with this ciphersuite sign; none where the profile does not
    /// take it.
    #[must_use]
    pub fn signature_scheme(self) -> Option<SignatureScheme> {
        match self {
            Self::X25519_AES128GCM_ED25519 | Self::X25519_CHACHA20POLY1305_ED25519 => {
                Some(SignatureScheme::ED25519)
            }
            Self::P256_AES128GCM => Some(SignatureScheme::ECDSA_SECP256R1_SHA256),
            _ => None,
        }
    }
}

/// ```text
/// struct {
///   opaque key_id<V>;                 // SHA-256 of public_key
///   SignatureScheme scheme;
///   opaque public_key<V>;             // as RFC 9420 encodes a SignaturePublicKey
///   uint64 not_before;  uint64 not_after;
/// } VerificationKey;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct VerificationKey {
    /// SHA-256 of the public key.
    pub key_id: KeyId,
    /// How it verifies.
    pub scheme: SignatureScheme,
    /// The key itself.
    pub public_key: PublicKey,
    /// The first millisecond since the Unix epoch at which it counts.
    pub not_before: u64,
    /// The last millisecond since the Unix epoch at which it counts.
    pub not_after: u64,
}

/// The keys of a provider: at most 16 (section 11).
pub type VerificationKeys = List<VerificationKey, 16>;

/// ```text
/// struct { DSProtocolVersion version; ProviderName recipient; } VerificationKeyRequest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct VerificationKeyRequest {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// Whose keys are asked for.
    pub recipient: ProviderName,
}

/// ```text
/// struct {
///   DSProtocolVersion version;
///   ProviderName provider;
///   VerificationKey keys<V>;
/// } VerificationKeyResponse;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct VerificationKeyResponse {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// Whose keys these are.
    pub provider: ProviderName,
    /// The keys.
    pub keys: VerificationKeys,
}

/// ```text
/// struct {
///   uint64 timestamp;                 // within 5 minutes of the receiver's clock
///   opaque nonce<V>;                  // 16 random bytes, fresh at every attempt
///   opaque key_id<V>;
///   opaque signature<V>;              // SignWithLabel(key, "MoH ProviderRequest", ProviderTBS)
/// } ProviderAuth;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ProviderAuth {
    /// When it was signed, in milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// Taken once by a receiver.
    pub nonce: Nonce,
    /// Which of the sender's keys signed.
    pub key_id: KeyId,
    /// Over the whole outermost struct of the body and the path it goes to.
    pub signature: Signature,
}

impl ProviderAuth {
    /// What a client puts where its own provider is to sign: all zero, no signature.
    ///
    /// # Panics
    /// Never: the lengths are constants.
    #[must_use]
    pub fn blank() -> Self {
        Self {
            timestamp: 0,
            nonce: Nonce::new([0; 16]).expect("16 bytes"),
            key_id: KeyId::new([0; 32]).expect("32 bytes"),
            signature: Signature::empty(),
        }
    }

    /// Whether this stands for a signature that is yet to be made.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        *self == Self::blank()
    }
}

/// ```text
/// struct { opaque path<V>; opaque request<V>; } ProviderTBS;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ProviderTbs {
    /// The endpoint's path.
    pub path: Opaque<64>,
    /// The outermost struct, whole, with an empty signature.
    pub request: Opaque<{ 32 << 20 }>,
}

/// A struct with a signature at its very end.
///
/// What is signed is the struct whole, with that signature as an empty vector.
pub trait SignedLast: Message {
    /// The signature at the end; none where the struct is not signed at all.
    fn signature(&self) -> Option<&Signature>;

    /// The signature at the end, to be set.
    fn signature_mut(&mut self) -> Option<&mut Signature>;

    /// The bytes that the signature is over.
    fn to_be_signed(&self) -> Vec<u8> {
        without_signature(self.encode(), self.signature())
    }

    /// The same, from the bytes that this was decoded from.
    fn to_be_signed_of(&self, encoded: &[u8]) -> Vec<u8> {
        without_signature(encoded.to_vec(), self.signature())
    }
}

fn without_signature(mut encoded: Vec<u8>, signature: Option<&Signature>) -> Vec<u8> {
    if let Some(signature) = signature {
        encoded.truncate(encoded.len().saturating_sub(signature.tls_serialized_len()));
        encoded.push(0);
    }
    encoded
}

/// What is signed with which label, prefix "MLS 1.0 " not included (RFC 9420 section 5.1.2).
pub mod label {
    /// A request by a member or a joining client.
    pub const DS_REQUEST: &str = "MoH DSRequest";
    /// A request by a provider.
    pub const PROVIDER_REQUEST: &str = "MoH ProviderRequest";
    /// A provider's word on a client's key.
    pub const ATTESTATION: &str = "MoH Attestation";
    /// A request by a client to its own provider.
    pub const CLIENT_REQUEST: &str = "MoH ClientRequest";
    /// A client's word that another key is of its user.
    pub const CLIENT_AUTHORIZATION: &str = "MoH ClientAuthorization";
    /// A GroupInfo (RFC 9420 section 12.4.3).
    pub const GROUP_INFO: &str = "GroupInfoTBS";
}

/// ```text
/// struct { opaque label<V> = "MLS 1.0 " + Label; opaque content<V> = Content; } SignContent;
/// ```
/// RFC 9420 section 5.1.2: the bytes that the signature algorithm itself is given.
#[must_use]
pub fn sign_content(label: &str, content: &[u8]) -> Vec<u8> {
    #[derive(TlsSize, TlsSerialize)]
    struct SignContent<'a> {
        label: &'a [u8],
        content: &'a [u8],
    }
    let label = format!("MLS 1.0 {label}");
    let mut bytes = Vec::with_capacity(label.len() + content.len() + 8);
    tls_codec::Serialize::tls_serialize(
        &SignContent {
            label: label.as_bytes(),
            content,
        },
        &mut bytes,
    )
    .expect("content is bounded");
    bytes
}

/// What a provider signs for a request to `path` whose bytes to be signed are `request`.
#[must_use]
pub fn provider_sign_content(path: &str, request: &[u8]) -> Vec<u8> {
    #[derive(TlsSize, TlsSerialize)]
    struct Tbs<'a> {
        path: &'a [u8],
        request: &'a [u8],
    }
    let mut tbs = Vec::with_capacity(path.len() + request.len() + 8);
    tls_codec::Serialize::tls_serialize(
        &Tbs {
            path: path.as_bytes(),
            request,
        },
        &mut tbs,
    )
    .expect("content is bounded");
    sign_content(label::PROVIDER_REQUEST, &tbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_content_is_that_of_rfc_9420() {
        assert_eq!(
            sign_content("X", &[1, 2, 3]),
            [&[9][..], b"MLS 1.0 X", &[3, 1, 2, 3]].concat()
        );
    }

    #[test]
    fn a_blank_auth_is_recognized() {
        let mut auth = ProviderAuth::blank();
        assert!(auth.is_blank());
        auth.timestamp = 1;
        assert!(!auth.is_blank());
    }
}
