//! Versions, schemes and keys: `keys.json`.

use moh_messages::{
    CipherSuite, DsProtocolVersion, ProviderAuth, ProviderTbs, Signature, SignatureScheme,
    VerificationKeyRequest, VerificationKeyResponse,
};

use super::common::*;

const ED25519: SignatureScheme = SignatureScheme::ED25519;
const ECDSA: SignatureScheme = SignatureScheme::ECDSA_SECP256R1_SHA256;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = numbers();
    cases.extend(structs());
    cases
}

fn numbers() -> Vec<Case> {
    vec![
        case("ds_protocol_version", "DSProtocolVersion", MOH1),
        case(
            "ds_protocol_version_unknown",
            "DSProtocolVersion",
            DsProtocolVersion(0x0102),
        ),
        case("signature_scheme_ed25519", "SignatureScheme", ED25519),
        case("signature_scheme_ecdsa", "SignatureScheme", ECDSA),
        case(
            "signature_scheme_unknown",
            "SignatureScheme",
            SignatureScheme(0x0503),
        ),
        case(
            "cipher_suite_1",
            "CipherSuite",
            CipherSuite::X25519_AES128GCM_ED25519,
        ),
        case("cipher_suite_2", "CipherSuite", CipherSuite::P256_AES128GCM),
        case(
            "cipher_suite_3",
            "CipherSuite",
            CipherSuite::X25519_CHACHA20POLY1305_ED25519,
        ),
        case("cipher_suite_unknown", "CipherSuite", CipherSuite(0x7777)),
    ]
}

fn structs() -> Vec<Case> {
    let response = |keys: &[_]| VerificationKeyResponse {
        version: MOH1,
        provider: b(),
        keys: list(keys),
    };
    vec![
        case(
            "verification_key_ed25519",
            "VerificationKey",
            verification_key(ED25519),
        ),
        case(
            "verification_key_ecdsa",
            "VerificationKey",
            verification_key(ECDSA),
        ),
        case(
            "verification_key_request",
            "VerificationKeyRequest",
            VerificationKeyRequest {
                version: MOH1,
                recipient: b(),
            },
        ),
        case(
            "verification_key_response",
            "VerificationKeyResponse",
            response(&[verification_key(ED25519), verification_key(ECDSA)]),
        ),
        case(
            "verification_key_response_no_keys",
            "VerificationKeyResponse",
            response(&[]),
        ),
        case("provider_auth", "ProviderAuth", provider_auth()),
        case(
            "provider_auth_ecdsa",
            "ProviderAuth",
            ProviderAuth {
                key_id: key_id(&p256_key()),
                signature: ecdsa_signature(),
                ..provider_auth()
            },
        ),
        case(
            "provider_auth_blank",
            "ProviderAuth",
            ProviderAuth {
                timestamp: 0,
                nonce: opaque([0; 16]),
                key_id: opaque([0; 32]),
                signature: Signature::empty(),
            },
        ),
        case(
            "provider_tbs",
            "ProviderTBS",
            ProviderTbs {
                path: opaque(*b"/group_operation"),
                request: opaque([0, 1, 2, 3]),
            },
        ),
    ]
}
