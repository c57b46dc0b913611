//! Answers and errors: `response.json`, `errors.json`.

use moh_messages::{
    BasicCredential, DsError, DsErrorCode, DsResponse, DsResponseBody, ExternalSender, List,
    MlsBytes, Opaque, ProviderKeys, ProviderName, SignatureScheme,
};

use super::common::*;

pub(crate) fn error(code: DsErrorCode, detail: &str) -> DsError {
    let error = DsError {
        code,
        detail: opaque(detail),
        data: Opaque::empty(),
    };
    match code {
        DsErrorCode::UNSUPPORTED_VERSION => error.with_data(&list::<_, 1>([MOH1])),
        DsErrorCode::WRONG_EPOCH => error.with_data(&7_u64),
        DsErrorCode::PENDING_PROPOSALS => {
            let proposal: MlsBytes = opaque(PROPOSAL);
            error.with_data(&list::<_, 2>([proposal.clone(), proposal]))
        }
        DsErrorCode::RATE_LIMITED => error.with_data(&30_u32),
        DsErrorCode::UNAVAILABLE => error.with_data(&5_u32),
        DsErrorCode::REPLAYED => error.with_data(&NOW),
        _ => error,
    }
}

fn response(body: DsResponseBody) -> DsResponse {
    DsResponse {
        version: MOH1,
        body,
    }
}

fn provider_keys(provider: ProviderName, scheme: SignatureScheme) -> ProviderKeys {
    ProviderKeys {
        provider,
        keys: list([verification_key(scheme)]),
    }
}

fn keys_of_both() -> List<ProviderKeys, 2000> {
    list([
        provider_keys(a(), SignatureScheme::ED25519),
        provider_keys(b(), SignatureScheme::ECDSA_SECP256R1_SHA256),
    ])
}

fn external_sender() -> ExternalSender {
    ExternalSender {
        signature_key: ed25519_key(),
        credential: BasicCredential::Basic {
            identity: opaque(*b"a.example"),
        },
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case(
            "credential",
            "Credential",
            BasicCredential::Basic {
                identity: opaque(*b"mimi://a.example/d/alice/phone"),
            },
        ),
        case("external_sender", "ExternalSender", external_sender()),
        case(
            "provider_keys",
            "ProviderKeys",
            provider_keys(b(), SignatureScheme::ECDSA_SECP256R1_SHA256),
        ),
        case(
            "ds_error_no_detail",
            "DSError",
            error(DsErrorCode::MALFORMED, ""),
        ),
        case(
            "ds_error_detail_utf8",
            "DSError",
            error(DsErrorCode::MALFORMED, "nicht für uns"),
        ),
        case(
            "ds_error_unknown_code",
            "DSError",
            error(DsErrorCode(999), "later version"),
        ),
    ];
    for &code in DsErrorCode::ALL {
        let name = code.name().unwrap();
        let value = error(code, &format!("why: {name}"));
        cases.push(case(format!("ds_error_{name}"), "DSError", value));
    }
    for (name, body) in bodies() {
        cases.push(case(name, "DSResponse", response(body)));
    }
    cases
}

fn bodies() -> Vec<(&'static str, DsResponseBody)> {
    vec![
        (
            "ds_response_ok",
            DsResponseBody::Ok {
                epoch: 8,
                accepted_at: NOW,
            },
        ),
        (
            "ds_response_error",
            DsResponseBody::Error(error(DsErrorCode::WRONG_EPOCH, "rebase")),
        ),
        (
            "ds_response_error_without_data",
            DsResponseBody::Error(error(DsErrorCode::UNKNOWN_GROUP, "")),
        ),
        (
            "ds_response_group_id",
            DsResponseBody::GroupId {
                group_id: opaque(*b"group-1"),
                ds_sender: external_sender(),
            },
        ),
        (
            "ds_response_welcome_info",
            DsResponseBody::WelcomeInfo {
                ratchet_tree: opaque([0x77; 100]),
                provider_keys: keys_of_both(),
            },
        ),
        (
            "ds_response_external_commit_info",
            DsResponseBody::ExternalCommitInfo {
                group_info: opaque(GROUP_INFO),
                ratchet_tree: opaque([0x77; 100]),
                provider_keys: keys_of_both(),
            },
        ),
    ]
}
