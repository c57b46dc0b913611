//! KeyPackages of others: `key_packages.json`.

use moh_messages::{
    CipherSuite, ClientId, ClientKeyPackage, ClientKeyPackageStatus, ConnectionKeyPackageRequest,
    GroupKeyPackageRequest, KeyPackageResponse, Opaque, UserId, UserKeyPackageStatus,
    UserKeyPackages,
};

use super::common::*;

fn connection_request() -> ConnectionKeyPackageRequest {
    ConnectionKeyPackageRequest {
        version: MOH1,
        sender: a(),
        recipient: b(),
        requester: alice(),
        target: bob(),
        cipher_suites: list([CipherSuite(1), CipherSuite(2), CipherSuite(3)]),
        provider_auth: provider_auth(),
    }
}

fn group_request(clients: &[ClientId], cipher_suites: &[CipherSuite]) -> GroupKeyPackageRequest {
    GroupKeyPackageRequest {
        version: MOH1,
        sender: a(),
        recipient: b(),
        requester: alice(),
        targets: list([bob(), UserId::new(&b(), "carol").unwrap()]),
        clients: list(clients),
        cipher_suites: list(cipher_suites),
        connection_token: Opaque::empty(),
        provider_auth: provider_auth(),
    }
}

fn of_client(client: ClientId, status: ClientKeyPackageStatus) -> ClientKeyPackage {
    ClientKeyPackage { client, status }
}

fn success() -> ClientKeyPackageStatus {
    ClientKeyPackageStatus::Success {
        key_package: opaque(KEY_PACKAGE),
    }
}

fn of_user(status: UserKeyPackageStatus) -> UserKeyPackages {
    let clients = match status {
        UserKeyPackageStatus::Success => vec![of_client(laptop(), success())],
        UserKeyPackageStatus::Partial => vec![
            of_client(laptop(), success()),
            of_client(desk(), ClientKeyPackageStatus::Exhausted),
        ],
        UserKeyPackageStatus::NothingCompatible => {
            vec![of_client(
                laptop(),
                ClientKeyPackageStatus::NothingCompatible,
            )]
        }
        UserKeyPackageStatus::NoConsent => vec![],
    };
    UserKeyPackages {
        user: bob(),
        status,
        clients: list(clients),
    }
}

fn response(statuses: &[UserKeyPackageStatus]) -> KeyPackageResponse {
    let users: Vec<_> = statuses.iter().map(|&status| of_user(status)).collect();
    KeyPackageResponse {
        version: MOH1,
        users: list(users),
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case(
            "connection_key_package_request",
            "ConnectionKeyPackageRequest",
            connection_request(),
        ),
        case(
            "group_key_package_request",
            "GroupKeyPackageRequest",
            group_request(&[], &[CipherSuite(1)]),
        ),
        case(
            "group_key_package_request_clients",
            "GroupKeyPackageRequest",
            group_request(&[laptop(), desk()], &[CipherSuite(1), CipherSuite(0x7777)]),
        ),
        case(
            "connection_key_package_response",
            "ConnectionKeyPackageResponse",
            response(&[UserKeyPackageStatus::Success]),
        ),
        case(
            "group_key_package_response",
            "GroupKeyPackageResponse",
            response(&[
                UserKeyPackageStatus::Partial,
                UserKeyPackageStatus::NoConsent,
            ]),
        ),
    ];
    for (name, status) in [
        ("client_key_package_success", success()),
        (
            "client_key_package_exhausted",
            ClientKeyPackageStatus::Exhausted,
        ),
        (
            "client_key_package_nothing_compatible",
            ClientKeyPackageStatus::NothingCompatible,
        ),
    ] {
        cases.push(case(name, "ClientKeyPackage", of_client(laptop(), status)));
    }
    for (name, status) in [
        ("user_key_packages_success", UserKeyPackageStatus::Success),
        ("user_key_packages_partial", UserKeyPackageStatus::Partial),
        (
            "user_key_packages_nothing_compatible",
            UserKeyPackageStatus::NothingCompatible,
        ),
        (
            "user_key_packages_no_consent",
            UserKeyPackageStatus::NoConsent,
        ),
    ] {
        cases.push(case(name, "UserKeyPackages", of_user(status)));
    }
    cases
}

pub(crate) fn signatures() -> Vec<SignatureCase> {
    const LABEL: &str = "MoH ProviderRequest";
    vec![
        signed(
            "connection_key_package_request",
            LABEL,
            Some("/connection_key_packages"),
            &connection_request(),
        ),
        signed(
            "group_key_package_request",
            LABEL,
            Some("/group_key_packages"),
            &group_request(&[], &[CipherSuite(1)]),
        ),
    ]
}
