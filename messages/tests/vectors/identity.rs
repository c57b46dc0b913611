//! What MoH adds to leaves and groups: `identity.json`.

use moh_messages::{
    Attestation, DsProtocolVersion, GroupType, MohGroupContext, MohLeafNode, QueueConfig, Rbac,
    SignatureScheme,
};

use super::common::*;

pub(crate) fn attestation() -> Attestation {
    Attestation {
        client_id: phone(),
        scheme: SignatureScheme::ED25519,
        signature_key: ed25519_key(),
        not_before: NOW,
        not_after: NOW + 90 * DAY,
        key_id: key_id(&p256_key()),
        signature: ecdsa_signature(),
    }
}

pub(crate) fn queue_config(byte: u8) -> QueueConfig {
    QueueConfig {
        provider: a(),
        client_queue_information: client_queue_information(byte),
    }
}

fn moh(group_type: GroupType) -> MohGroupContext {
    MohGroupContext {
        version: MOH1,
        group_type,
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("attestation", "Attestation", attestation()),
        case("queue_config", "QueueConfig", queue_config(0xc1)),
        case(
            "moh_group_context_regular",
            "MohGroupContext",
            moh(GroupType::Regular),
        ),
        case(
            "moh_group_context_connection",
            "MohGroupContext",
            moh(GroupType::Connection),
        ),
        case(
            "moh_leaf_node",
            "MohLeafNode",
            MohLeafNode {
                versions: list([MOH1, DsProtocolVersion(2)]),
            },
        ),
        case(
            "rbac",
            "Rbac",
            Rbac {
                admins: list([alice(), bob()]),
            },
        ),
        case("rbac_no_admin", "Rbac", Rbac { admins: list([]) }),
    ]
}

pub(crate) fn signatures() -> Vec<SignatureCase> {
    vec![signed(
        "attestation",
        "MoH Attestation",
        None,
        &attestation(),
    )]
}
