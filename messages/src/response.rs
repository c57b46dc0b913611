//! What the owner of a group answers (wire profile, sections 5 and 9).

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Message, Opaque};
use crate::keys::{DsProtocolVersion, PublicKey, VerificationKeys};
use crate::names::ProviderName;
use crate::request::{GroupId, HandshakeBytes, MAX_TREE_BYTES, TreeBytes};

/// RFC 9420 section 5.3, of the only type that the profile takes:
/// The longest answer of a provider, in bytes: a tree, and what is around it.
pub const MAX_ANSWER_BYTES: usize = MAX_TREE_BYTES + (16 << 20);

/// ```text
/// struct {
///   CredentialType credential_type;   // basic(1)
///   opaque identity<V>;
/// } Credential;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u16)]
pub enum BasicCredential {
    /// `basic(1)`.
    #[tls_codec(discriminant = 1)]
    Basic {
        /// The provider's name, or the client's.
        identity: Opaque<{ crate::names::MAX_IDENTIFIER_BYTES }>,
    },
}

/// RFC 9420 section 12.1.8.1:
/// ```text
/// struct { SignaturePublicKey signature_key; Credential credential; } ExternalSender;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalSender {
    /// The provider's group sender key.
    pub signature_key: PublicKey,
    /// The provider's name.
    pub credential: BasicCredential,
}

/// ```text
/// struct { ProviderName provider; VerificationKey keys<V>; } ProviderKeys;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ProviderKeys {
    /// Whose keys.
    pub provider: ProviderName,
    /// A hint of what to fetch, never a reason to trust.
    pub keys: VerificationKeys,
}

/// ```text
/// enum { ok(0), error(1), group_id(2), welcome_info(3), external_commit_info(4), (255) } DSResponseType;
///
/// select (DSResponse.type) {
///   case ok:        uint64 epoch;   uint64 accepted_at;
///   case error:     DSError error;
///   case group_id:  opaque group_id<V>;   ExternalSender ds_sender;
///   case welcome_info:
///       TreeBytes ratchet_tree;            // of the epoch that was asked for
///       ProviderKeys provider_keys<V>;     // of the members' providers: "authentication information"
///   case external_commit_info:
///       MLSBytes group_info;  TreeBytes ratchet_tree;
///       ProviderKeys provider_keys<V>;
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum DsResponseBody {
    /// Accepted, and durable for everybody whom it concerns.
    #[tls_codec(discriminant = 0)]
    Ok {
        /// The group's epoch after it.
        epoch: u64,
        /// When, in milliseconds since the Unix epoch.
        accepted_at: u64,
    },
    /// Refused; nothing has changed.
    #[tls_codec(discriminant = 1)]
    Error(DsError),
    /// A name for a new group.
    #[tls_codec(discriminant = 2)]
    GroupId {
        /// The name.
        group_id: GroupId,
        /// What the group has to list in `external_senders`.
        ds_sender: ExternalSender,
    },
    /// What a Welcome leaves out.
    #[tls_codec(discriminant = 3)]
    WelcomeInfo {
        /// Of the epoch that was asked for.
        ratchet_tree: TreeBytes,
        /// Of the members' providers.
        provider_keys: List<ProviderKeys, 2000>,
    },
    /// What an external commit needs.
    #[tls_codec(discriminant = 4)]
    ExternalCommitInfo {
        /// An MLSMessage with the current GroupInfo.
        group_info: HandshakeBytes,
        /// Of the current epoch.
        ratchet_tree: TreeBytes,
        /// Of the members' providers.
        provider_keys: List<ProviderKeys, 2000>,
    },
}

/// ```text
/// struct {
///   DSProtocolVersion version;
///   DSResponseType type;
///   select (DSResponse.type) { see DsResponseBody }
/// } DSResponse;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DsResponse {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// The answer.
    pub body: DsResponseBody,
}

impl DsResponse {
    /// An answer in this version of the protocol.
    #[must_use]
    pub fn new(body: DsResponseBody) -> Self {
        Self {
            version: DsProtocolVersion::MOH1,
            body,
        }
    }
}

impl From<DsError> for DsResponse {
    fn from(error: DsError) -> Self {
        Self::new(DsResponseBody::Error(error))
    }
}

/// ```text
/// struct { DSErrorCode code; opaque detail<V>; opaque data<V>; } DSError;   // code: uint16; detail: UTF-8
/// ```
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DsError {
    /// What is wrong.
    pub code: DsErrorCode,
    /// For people.
    pub detail: Opaque<1024>,
    /// For programs; its content follows from the code.
    pub data: Opaque<{ 8 << 20 }>,
}

impl DsError {
    /// An error without data. A longer `detail` than 1,024 bytes is cut.
    #[must_use]
    pub fn new(code: DsErrorCode, detail: &str) -> Self {
        let mut end = detail.len().min(Opaque::<1024>::MAX_BYTES);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        let detail = Opaque::new(&detail.as_bytes()[..end]).unwrap_or_default();
        Self {
            code,
            detail,
            data: Opaque::empty(),
        }
    }

    /// The same error with what its code says that it carries.
    #[must_use]
    pub fn with_data<T: Message>(mut self, data: &T) -> Self {
        self.data = Opaque::new(data.encode()).unwrap_or_default();
        self
    }

    /// The detail as text.
    #[must_use]
    pub fn detail(&self) -> String {
        String::from_utf8_lossy(self.detail.as_slice()).into_owned()
    }
}

impl std::fmt::Display for DsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail())?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for DsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DsError({self})")
    }
}

impl std::error::Error for DsError {}

/// `uint16 DSErrorCode`. Unknown values are kept; they count as their HTTP class says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DsErrorCode(pub u16);

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $value:literal, $name:literal, $status:literal;)*) => {
        impl DsErrorCode {
            $($(#[$doc])* pub const $constant: Self = Self($value);)*

            /// Every code of section 9.
            pub const ALL: &[Self] = &[$(Self::$constant),*];

            /// The name that the profile gives it; none for an unknown one.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)*
                    _ => None,
                }
            }

            /// The HTTP status that it travels with; none for an unknown one.
            #[must_use]
            pub fn http_status(self) -> Option<u16> {
                match self {
                    $(Self::$constant => Some($status),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// The body does not decode.
    MALFORMED = 1, "malformed", 400;
    /// The version is not one of ours; data: `DSProtocolVersion versions<V>`.
    UNSUPPORTED_VERSION = 2, "unsupported_version", 400;
    /// Meant for another provider.
    WRONG_RECIPIENT = 3, "wrong_recipient", 421;
    /// This type goes to another path.
    WRONG_ENDPOINT = 4, "wrong_endpoint", 400;
    /// A provider's signature, an attestation, or the kind of authentication is not right.
    UNAUTHENTICATED = 5, "unauthenticated", 403;
    /// Known, and not allowed to.
    UNAUTHORIZED = 6, "unauthorized", 403;
    /// There is no such group, or the asking side is no member of it.
    UNKNOWN_GROUP = 7, "unknown_group", 404;
    /// The group has ended.
    GROUP_DELETED = 8, "group_deleted", 410;
    /// The name was used before.
    GROUP_ID_IN_USE = 9, "group_id_in_use", 409;
    /// Not of the current epoch; data: `uint64` current epoch.
    WRONG_EPOCH = 10, "wrong_epoch", 409;
    /// Pending proposals have to come first; data: `MLSBytes proposals<V>`.
    PENDING_PROPOSALS = 11, "pending_proposals", 409;
    /// Against RFC 9420.
    INVALID_MESSAGE = 12, "invalid_message", 422;
    /// The GroupInfo does not belong to the new epoch.
    INVALID_GROUP_INFO = 13, "invalid_group_info", 422;
    /// A KeyPackage that cannot be taken.
    INVALID_KEY_PACKAGE = 14, "invalid_key_package", 422;
    /// Against a rule of the profile.
    POLICY_VIOLATION = 15, "policy_violation", 422;
    /// More than the receiver takes.
    LIMIT_EXCEEDED = 16, "limit_exceeded", 413;
    /// Too often; data: `uint32` seconds.
    RATE_LIMITED = 17, "rate_limited", 429;
    /// Not now; data: `uint32` seconds.
    UNAVAILABLE = 18, "unavailable", 503;
    /// The tree of that epoch is gone.
    EPOCH_NOT_KEPT = 19, "epoch_not_kept", 410;
    /// Outside of the time window, or a nonce again; data: `uint64` receiver's time.
    REPLAYED = 20, "replayed", 403;
    /// Privacy Pass tokens are asked for here.
    PRIVACY_PASS_REQUIRED = 21, "privacy_pass_required", 401;
}

impl std::fmt::Display for DsErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let error = DsError::new(DsErrorCode::MALFORMED, &"ü".repeat(600));
        assert_eq!(error.detail(), "ü".repeat(512));
        let error = DsError::new(DsErrorCode::MALFORMED, &format!("a{}", "ü".repeat(600)));
        assert_eq!(error.detail.as_slice().len(), 1023);
    }

    #[test]
    fn every_code_has_a_name_and_a_status() {
        for (i, code) in DsErrorCode::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.0), i + 1);
            assert!(code.name().is_some() && code.http_status().is_some());
        }
        assert_eq!(DsErrorCode(999).to_string(), "error 999");
    }
}
