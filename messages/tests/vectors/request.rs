//! Requests to the owner of a group: `request.json`, `structs.json`.

use moh_messages::{
    AddMembers, CipherSuite, CreateGroup, DsAuth, DsRequest, DsRequestBody as Body, Extension,
    ExternalCommitInfo, GroupType, Opaque, RequestGroupId, SelfRemoveClient, SendMessage,
    Signature, WelcomeInfo,
};

use super::common::*;

pub(crate) fn leaf(leaf_index: u32, signature: Signature) -> DsAuth {
    DsAuth::Leaf {
        leaf_index,
        signature,
    }
}

pub(crate) fn by_provider() -> DsAuth {
    DsAuth::Provider {
        on_behalf_of: laptop(),
        provider_auth: provider_auth(),
    }
}

fn by_key_package() -> DsAuth {
    DsAuth::KeyPackage {
        key_package_ref: opaque([0x4b; 32]),
        signature: ed25519_signature(),
    }
}

pub(crate) fn request(body: Body, auth: DsAuth) -> DsRequest {
    DsRequest {
        version: MOH1,
        sender: b(),
        recipient: a(),
        group_state_key: Opaque::empty(),
        body,
        auth,
    }
}

fn request_group_id(cipher_suite: u16) -> RequestGroupId {
    RequestGroupId {
        cipher_suite: CipherSuite(cipher_suite),
    }
}

fn create_group(group_type: GroupType) -> CreateGroup {
    CreateGroup {
        group_id: opaque(*b"group-1"),
        group_type,
        leaf_node: opaque([0xaa; 70]),
        group_info: opaque(GROUP_INFO),
    }
}

fn add_members(welcomes: usize) -> AddMembers {
    AddMembers {
        group_update: group_update().group_update,
        welcomes: list(vec![opaque(WELCOME); welcomes]),
    }
}

fn self_remove_client() -> SelfRemoveClient {
    SelfRemoveClient {
        proposal: opaque(PROPOSAL),
    }
}

fn send_message() -> SendMessage {
    SendMessage {
        message: opaque(APPLICATION),
    }
}

fn welcome_info() -> WelcomeInfo {
    WelcomeInfo {
        group_id: opaque(*b"group-1"),
        epoch: 7,
    }
}

fn external_commit_info() -> ExternalCommitInfo {
    ExternalCommitInfo {
        group_id: opaque(*b"group-1"),
    }
}

fn ask_for_group_id() -> DsRequest {
    request(Body::RequestGroupId(request_group_id(1)), by_provider())
}

fn ask_for_welcome_info() -> DsRequest {
    request(Body::WelcomeInfo(welcome_info()), by_key_package())
}

fn say_that_client_is_deleted() -> DsRequest {
    request(Body::ClientDeleted, by_provider())
}

fn send(signature: Signature) -> DsRequest {
    request(Body::SendMessage(send_message()), leaf(3, signature))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = structs();
    let mut add = |name: &str, value| {
        cases.push(case(format!("ds_request_{name}"), "DSRequest", value));
    };
    let by_leaf = || leaf(3, ed25519_signature());
    let external_info = || Body::ExternalCommitInfo(external_commit_info());
    let first = Body::CreateGroup(create_group(GroupType::Regular));

    add("request_group_id", ask_for_group_id());
    add("create_group", request(first, leaf(0, ed25519_signature())));
    for (name, body) in [
        ("delete_group", Body::DeleteGroup(group_update())),
        ("add_users", Body::AddUsers(add_members(2))),
        ("remove_users", Body::RemoveUsers(group_update())),
        ("add_clients", Body::AddClients(add_members(1))),
        ("remove_clients", Body::RemoveClients(group_update())),
        (
            "self_remove_client",
            Body::SelfRemoveClient(self_remove_client()),
        ),
        ("update_client", Body::UpdateClient(group_update())),
        (
            "re_initialize_group",
            Body::ReInitializeGroup(group_update()),
        ),
        ("set_roles", Body::SetRoles(group_update())),
        ("external_commit_info", external_info()),
    ] {
        add(name, request(body, by_leaf()));
    }
    let external_join = Body::ExternalJoin(group_update());
    add("external_join", request(external_join, by_provider()));
    add("send_message", send(ed25519_signature()));
    add("ecdsa", send(ecdsa_signature()));
    add("welcome_info", ask_for_welcome_info());
    add("client_deleted", say_that_client_is_deleted());
    add("anonymous", request(external_info(), DsAuth::Anonymous));
    add(
        "group_state_key",
        DsRequest {
            group_state_key: opaque([0x99; 32]),
            ..request(external_info(), by_leaf())
        },
    );
    cases
}

fn structs() -> Vec<Case> {
    let mut cases = vec![
        case("ds_auth_anonymous", "DSAuth", DsAuth::Anonymous),
        case("ds_auth_leaf", "DSAuth", leaf(3, ed25519_signature())),
        case("ds_auth_key_package", "DSAuth", by_key_package()),
        case("ds_auth_provider", "DSAuth", by_provider()),
        case("request_group_id", "RequestGroupID", request_group_id(2)),
        case("extension", "Extension", external_pub()),
        case(
            "extension_empty",
            "Extension",
            Extension {
                extension_type: 0xf4d4,
                extension_data: Opaque::empty(),
            },
        ),
        case(
            "partial_group_info",
            "PartialGroupInfo",
            partial_group_info(),
        ),
        case(
            "mls_group_update",
            "MLSGroupUpdate",
            group_update().group_update,
        ),
        case("add_users", "AddUsers", add_members(2)),
        case("add_users_no_welcome", "AddUsers", add_members(0)),
        case("add_clients", "AddClients", add_members(1)),
        case(
            "self_remove_client",
            "SelfRemoveClient",
            self_remove_client(),
        ),
        case("send_message", "SendMessage", send_message()),
        case("welcome_info", "WelcomeInfo", welcome_info()),
        case(
            "external_commit_info",
            "ExternalCommitInfo",
            external_commit_info(),
        ),
    ];
    for (name, group_type) in [
        ("create_group_regular", GroupType::Regular),
        ("create_group_connection", GroupType::Connection),
    ] {
        cases.push(case(name, "CreateGroup", create_group(group_type)));
    }
    for (name, type_name) in [
        ("delete_group", "DeleteGroup"),
        ("remove_users", "RemoveUsers"),
        ("remove_clients", "RemoveClients"),
        ("update_client", "UpdateClient"),
        ("external_join", "ExternalJoin"),
        ("re_initialize_group", "ReInitializeGroup"),
        ("set_roles", "SetRoles"),
    ] {
        cases.push(case(name, type_name, group_update()));
    }
    cases
}

pub(crate) fn signatures() -> Vec<SignatureCase> {
    const MEMBER: &str = "MoH DSRequest";
    const PROVIDER: &str = "MoH ProviderRequest";
    let path = Some("/group_operation");
    vec![
        signed(
            "ds_request_send_message",
            MEMBER,
            None,
            &send(ed25519_signature()),
        ),
        signed("ds_request_ecdsa", MEMBER, None, &send(ecdsa_signature())),
        signed(
            "ds_request_welcome_info",
            MEMBER,
            None,
            &ask_for_welcome_info(),
        ),
        signed(
            "ds_request_request_group_id",
            PROVIDER,
            path,
            &ask_for_group_id(),
        ),
        signed(
            "ds_request_client_deleted",
            PROVIDER,
            path,
            &say_that_client_is_deleted(),
        ),
    ]
}
