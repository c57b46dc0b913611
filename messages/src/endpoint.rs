//! The endpoints, and what every request starts with (wire profile, sections 1 and 2).

use tls_codec::{DeserializeBytes, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Message};
use crate::delivery::QueueingServiceRequest;
use crate::key_packages::{ConnectionKeyPackageRequest, GroupKeyPackageRequest};
use crate::keys::{DsProtocolVersion, VerificationKeyRequest};
use crate::names::ProviderName;
use crate::request::DsRequest;
use crate::response::{DsError, DsErrorCode};

/// The endpoints of MoH. The bytes are those of the client API, which names an endpoint when
/// it has a request forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Endpoint {
    /// `/group_operation`
    GroupOperation = 0,
    /// `/welcome_information`
    WelcomeInformation = 1,
    /// `/external_commit_information`
    ExternalCommitInformation = 2,
    /// `/verification_key`
    VerificationKey = 3,
    /// `/connection_request`
    ConnectionRequest = 4,
    /// `/deliver_message`
    DeliverMessage = 5,
    /// `/connection_key_packages`
    ConnectionKeyPackages = 6,
    /// `/group_key_packages`
    GroupKeyPackages = 7,
}

impl Endpoint {
    /// Every endpoint that has a body.
    pub const ALL: [Self; 8] = [
        Self::GroupOperation,
        Self::WelcomeInformation,
        Self::ExternalCommitInformation,
        Self::VerificationKey,
        Self::ConnectionRequest,
        Self::DeliverMessage,
        Self::ConnectionKeyPackages,
        Self::GroupKeyPackages,
    ];

    /// The path on the DS domain.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::GroupOperation => "/group_operation",
            Self::WelcomeInformation => "/welcome_information",
            Self::ExternalCommitInformation => "/external_commit_information",
            Self::VerificationKey => "/verification_key",
            Self::ConnectionRequest => "/connection_request",
            Self::DeliverMessage => "/deliver_message",
            Self::ConnectionKeyPackages => "/connection_key_packages",
            Self::GroupKeyPackages => "/group_key_packages",
        }
    }

    /// Whether the draft's method is GET; POST otherwise.
    #[must_use]
    pub fn is_get(self) -> bool {
        matches!(
            self,
            Self::WelcomeInformation | Self::ExternalCommitInformation | Self::VerificationKey
        )
    }

    /// The longest request body, in bytes (section 11).
    #[must_use]
    pub fn max_body_bytes(self) -> usize {
        match self {
            Self::GroupOperation | Self::DeliverMessage | Self::ConnectionRequest => 8 << 20,
            _ => 64 << 10,
        }
    }
}

/// The path that discovery asks for, on the provider's own name.
pub const WELL_KNOWN_PATH: &str = "/.well-known/mimi/ds-domain";

/// The type of all request and answer bodies.
pub const CONTENT_TYPE: &str = "application/octet-stream";

/// The outermost struct of a request body.
///
/// Its first fields are read before all others, so that a provider can tell another version,
/// and a request that is not for it, from one that is malformed.
pub trait Request: Message {
    /// Whether a `sender` stands between `version` and `recipient`.
    const HAS_SENDER: bool;

    /// Reads the request that is exactly `bytes` and meant for `us`.
    ///
    /// # Errors
    /// `unsupported_version`, `wrong_recipient` or `malformed`; the first that applies.
    fn decode_for(us: &ProviderName, bytes: &[u8]) -> Result<Self, DsError> {
        let malformed = |error: &dyn std::fmt::Display| {
            DsError::new(DsErrorCode::MALFORMED, &error.to_string())
        };
        let (version, rest) = DsProtocolVersion::tls_deserialize_bytes(bytes)
            .map_err(|_| malformed(&"ends before the version"))?;
        if version != DsProtocolVersion::MOH1 {
            let ours = List::<_, 8>::new(vec![DsProtocolVersion::MOH1]).unwrap_or_default();
            return Err(
                DsError::new(DsErrorCode::UNSUPPORTED_VERSION, "this is version 1")
                    .with_data(&ours),
            );
        }
        let rest = if Self::HAS_SENDER {
            let (_, rest) = ProviderName::tls_deserialize_bytes(rest)
                .map_err(|e| malformed(&format_args!("sender: {}", crate::DecodeError::from(e))))?;
            rest
        } else {
            rest
        };
        let (recipient, _) = ProviderName::tls_deserialize_bytes(rest)
            .map_err(|e| malformed(&format_args!("recipient: {}", crate::DecodeError::from(e))))?;
        if recipient != *us {
            return Err(DsError::new(
                DsErrorCode::WRONG_RECIPIENT,
                &format!("this is {us}"),
            ));
        }
        Self::decode(bytes).map_err(|e| malformed(&e))
    }
}

impl Request for DsRequest {
    const HAS_SENDER: bool = true;
}
impl Request for QueueingServiceRequest {
    const HAS_SENDER: bool = true;
}
impl Request for ConnectionKeyPackageRequest {
    const HAS_SENDER: bool = true;
}
impl Request for GroupKeyPackageRequest {
    const HAS_SENDER: bool = true;
}
impl Request for VerificationKeyRequest {
    const HAS_SENDER: bool = false;
}
impl Request for crate::client_api::ClientRequest {
    const HAS_SENDER: bool = false;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProviderName {
        text.parse().unwrap()
    }

    #[test]
    fn version_then_recipient_then_the_rest() {
        let us = name("a.example");
        let request = |version: u16, to: &str| {
            VerificationKeyRequest {
                version: DsProtocolVersion(version),
                recipient: name(to),
            }
            .encode()
        };
        let code = |bytes: &[u8]| {
            VerificationKeyRequest::decode_for(&us, bytes).map_err(|error| error.code)
        };
        assert!(code(&request(1, "a.example")).is_ok());
        assert_eq!(
            code(&request(2, "a.example")),
            Err(DsErrorCode::UNSUPPORTED_VERSION)
        );
        assert_eq!(
            code(&request(2, "b.example")),
            Err(DsErrorCode::UNSUPPORTED_VERSION)
        );
        assert_eq!(
            code(&request(1, "b.example")),
            Err(DsErrorCode::WRONG_RECIPIENT)
        );
        // A rest that does not decode does not hide that it was for somebody else.
        let with_rest = |to| [request(1, to), vec![0]].concat();
        assert_eq!(
            code(&with_rest("b.example")),
            Err(DsErrorCode::WRONG_RECIPIENT)
        );
        assert_eq!(code(&with_rest("a.example")), Err(DsErrorCode::MALFORMED));
        assert_eq!(code(&[0]), Err(DsErrorCode::MALFORMED));
    }
}
