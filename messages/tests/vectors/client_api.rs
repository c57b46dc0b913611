//! What a client and its own provider say to each other: `client_api.json`.

use moh_messages::client_api::{
    Acknowledge, BlockTarget, Boolean, ClientAuthorization, ClientChanged, ClientInfo,
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, Connection,
    ConnectionChanged, ConnectionDecision, ConnectionState, Cursor, DeclineConnection,
    DeleteAccount, DeleteClient, Forward, GetQueueConfigs, Invitation, KeyPackagesLow, ListBlocks,
    ListClients, ListConnections, QueueItem, QueueItemPayload, ReadQueue, Register, SetBlock,
    SetConsent, UploadKeyPackages,
};
use moh_messages::{
    CipherSuite, ClientId, DsAuth, DsRequest, DsRequestBody, Endpoint, Message, ProviderAuth,
    RequestGroupId, SignatureScheme, UserId,
};

use super::common::*;
use super::delivery::connection_request;
use super::identity::{attestation, queue_config};
use super::request::request;

fn cursor() -> Cursor {
    opaque([0x2a; 9])
}

fn tablet() -> ClientId {
    ClientId::new(&alice(), "tablet").unwrap()
}

fn carol() -> UserId {
    UserId::new(&b(), "carol").unwrap()
}

fn authorization() -> ClientAuthorization {
    ClientAuthorization {
        authorizer: phone(),
        client: tablet(),
        scheme: SignatureScheme::ED25519,
        signature_key: ed25519_key(),
        not_after: NOW + DAY,
        signature: ed25519_signature(),
    }
}

/// As long as one can be.
fn invitation() -> Invitation {
    opaque(format!("moh-{}", "k7Qm2xWvB9".repeat(6)))
}

fn register(authorization: Option<ClientAuthorization>, invitation: Invitation) -> Register {
    Register {
        scheme: SignatureScheme::ED25519,
        signature_key: ed25519_key(),
        authorization,
        invitation,
    }
}

fn register_first() -> Register {
    register(None, Invitation::empty())
}

fn upload(count: usize, replace: Boolean) -> UploadKeyPackages {
    UploadKeyPackages {
        replace,
        key_packages: list(vec![opaque(KEY_PACKAGE); count]),
    }
}

fn read_queue() -> ReadQueue {
    ReadQueue {
        cursor: cursor(),
        wait_ms: 30_000,
    }
}

fn acknowledge() -> Acknowledge {
    Acknowledge { cursor: cursor() }
}

fn forward(endpoint: Endpoint, request: impl Into<Vec<u8>>) -> Forward {
    Forward {
        destination: b(),
        endpoint,
        request: opaque(request),
    }
}

fn set_consent(allowed: Boolean) -> SetConsent {
    SetConsent {
        peer: bob(),
        allowed,
    }
}

fn delete_client() -> DeleteClient {
    DeleteClient { client: tablet() }
}

fn list_connections(after: Option<UserId>) -> ListConnections {
    ListConnections { after }
}

fn decline() -> DeclineConnection {
    DeclineConnection { peer: bob() }
}

fn set_block(target: BlockTarget, blocked: Boolean) -> SetBlock {
    SetBlock { target, blocked }
}

fn list_blocks(after: Option<BlockTarget>) -> ListBlocks {
    ListBlocks { after }
}

fn client_request(body: ClientRequestBody) -> ClientRequest {
    ClientRequest {
        version: MOH1,
        recipient: a(),
        client: phone(),
        timestamp: NOW,
        nonce: nonce(),
        body,
        signature: ed25519_signature(),
    }
}

fn low(for_connections: Boolean, left: u32) -> KeyPackagesLow {
    KeyPackagesLow {
        for_connections,
        left,
    }
}

fn connection_changed(decision: ConnectionDecision) -> ConnectionChanged {
    ConnectionChanged {
        peer: bob(),
        decision,
    }
}

fn client_changed(registered: Boolean) -> ClientChanged {
    ClientChanged {
        client: tablet(),
        registered,
    }
}

fn items() -> [QueueItem; 5] {
    use QueueItemPayload as Payload;
    let item = |sender, payload| QueueItem {
        cursor: cursor(),
        received_at: NOW,
        sender,
        payload,
    };
    let changed = connection_changed(ConnectionDecision::Declined);
    [
        item(b(), Payload::MlsMessage(opaque(APPLICATION))),
        item(b(), Payload::ConnectionRequest(connection_request())),
        item(a(), Payload::KeyPackagesLow(low(Boolean::True, 19))),
        item(a(), Payload::ConnectionChanged(changed)),
        item(a(), Payload::ClientChanged(client_changed(Boolean::True))),
    ]
}

fn clients() -> [ClientInfo; 2] {
    let phone = ClientInfo {
        client: phone(),
        scheme: SignatureScheme::ED25519,
        signature_key: ed25519_key(),
        registered_at: NOW,
        key_packages: 100,
        connection_key_packages: 20,
    };
    let tablet = ClientInfo {
        client: tablet(),
        scheme: SignatureScheme::ECDSA_SECP256R1_SHA256,
        signature_key: p256_key(),
        registered_at: NOW,
        key_packages: 0,
        connection_key_packages: 0,
    };
    [phone, tablet]
}

fn connection(peer: UserId, state: ConnectionState) -> Connection {
    Connection {
        peer,
        state,
        since: NOW,
    }
}

fn requests() -> Vec<Case> {
    let mut cases = vec![
        case(
            "client_authorization",
            "ClientAuthorization",
            authorization(),
        ),
        case("register_first", "Register", register_first()),
        case(
            "register_further",
            "Register",
            register(Some(authorization()), Invitation::empty()),
        ),
        case("register_invited", "Register", register(None, invitation())),
        case(
            "get_queue_configs",
            "GetQueueConfigs",
            GetQueueConfigs { count: 255 },
        ),
        case("read_queue", "ReadQueue", read_queue()),
        case(
            "read_queue_start",
            "ReadQueue",
            ReadQueue {
                cursor: Cursor::empty(),
                wait_ms: 0,
            },
        ),
        case("acknowledge", "Acknowledge", acknowledge()),
        case("delete_client", "DeleteClient", delete_client()),
    ];
    for (name, count, replace) in [
        ("upload_key_packages", 2, Boolean::False),
        ("upload_key_packages_none", 0, Boolean::False),
        ("upload_key_packages_replace", 2, Boolean::True),
    ] {
        cases.push(case(name, "UploadKeyPackages", upload(count, replace)));
    }
    for endpoint in Endpoint::ALL {
        let name = format!("forward_{}", &endpoint.path()[1..]);
        let value = forward(endpoint, *b"\x00\x01\x09b.example");
        cases.push(case(name, "Forward", value));
    }
    cases
}

fn requests_about_connections() -> Vec<Case> {
    let user = || BlockTarget::User(bob());
    let provider = || BlockTarget::Provider(b());
    let (yes, no) = (Boolean::True, Boolean::False);
    vec![
        case("set_consent_true", "SetConsent", set_consent(yes)),
        case("set_consent_false", "SetConsent", set_consent(no)),
        case(
            "list_connections_start",
            "ListConnections",
            list_connections(None),
        ),
        case(
            "list_connections_further",
            "ListConnections",
            list_connections(Some(bob())),
        ),
        case("decline_connection", "DeclineConnection", decline()),
        case("block_target_user", "BlockTarget", user()),
        case("block_target_provider", "BlockTarget", provider()),
        case("set_block_true", "SetBlock", set_block(provider(), yes)),
        case("set_block_false", "SetBlock", set_block(user(), no)),
        case("list_blocks_start", "ListBlocks", list_blocks(None)),
        case(
            "list_blocks_further",
            "ListBlocks",
            list_blocks(Some(user())),
        ),
    ]
}

fn answers() -> Vec<Case> {
    let mut cases = vec![
        case(
            "key_packages_low",
            "KeyPackagesLow",
            low(Boolean::False, 19),
        ),
        case(
            "key_packages_low_for_connections",
            "KeyPackagesLow",
            low(Boolean::True, 0),
        ),
        case(
            "client_changed_registered",
            "ClientChanged",
            client_changed(Boolean::True),
        ),
        case(
            "client_changed_deleted",
            "ClientChanged",
            client_changed(Boolean::False),
        ),
    ];
    for (name, decision) in [
        ("consented", ConnectionDecision::Consented),
        ("declined", ConnectionDecision::Declined),
        ("withdrawn", ConnectionDecision::Withdrawn),
    ] {
        let name = format!("connection_changed_{name}");
        let value = connection_changed(decision);
        cases.push(case(name, "ConnectionChanged", value));
    }
    for (name, state) in [
        ("connection_asked", ConnectionState::Asked),
        ("connection_consented", ConnectionState::Consented),
    ] {
        cases.push(case(name, "Connection", connection(bob(), state)));
    }
    let [phone, tablet] = clients();
    cases.push(case("client_info", "ClientInfo", phone));
    cases.push(case("client_info_ecdsa", "ClientInfo", tablet));
    let types = [
        "mls_message",
        "connection_request",
        "key_packages_low",
        "connection_changed",
        "client_changed",
    ];
    for (name, item) in types.into_iter().zip(items()) {
        cases.push(case(format!("queue_item_{name}"), "QueueItem", item));
    }
    cases
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = requests();
    cases.extend(requests_about_connections());
    cases.extend(answers());
    for body in request_bodies() {
        let name = format!("client_request_{}", body.name());
        cases.push(case(name, "ClientRequest", client_request(body)));
    }
    for (name, body) in response_bodies() {
        let value = ClientResponse {
            version: MOH1,
            body,
        };
        let name = format!("client_response_{name}");
        cases.push(case(name, "ClientResponse", value));
    }
    cases
}

fn request_bodies() -> Vec<ClientRequestBody> {
    use ClientRequestBody as Body;
    let to_be_signed_by_the_provider = DsRequest {
        sender: a(),
        recipient: b(),
        ..request(
            DsRequestBody::RequestGroupId(RequestGroupId {
                cipher_suite: CipherSuite(1),
            }),
            DsAuth::Provider {
                on_behalf_of: phone(),
                provider_auth: ProviderAuth::blank(),
            },
        )
    };
    let forward = forward(
        Endpoint::GroupOperation,
        to_be_signed_by_the_provider.encode(),
    );
    vec![
        Body::Register(register_first()),
        Body::GetQueueConfigs(GetQueueConfigs { count: 255 }),
        Body::UploadKeyPackages(upload(1, Boolean::False)),
        Body::ReadQueue(read_queue()),
        Body::Acknowledge(acknowledge()),
        Body::Forward(forward),
        Body::SetConsent(set_consent(Boolean::True)),
        Body::ListClients(ListClients {}),
        Body::DeleteClient(delete_client()),
        Body::DeleteAccount(DeleteAccount {}),
        Body::ListConnections(list_connections(Some(bob()))),
        Body::DeclineConnection(decline()),
        Body::SetBlock(set_block(BlockTarget::User(bob()), Boolean::True)),
        Body::ListBlocks(list_blocks(Some(BlockTarget::Provider(b())))),
    ]
}

fn response_bodies() -> Vec<(&'static str, ClientResponseBody)> {
    use ClientResponseBody as Body;
    let registered = Body::Registered {
        attestation: attestation(),
    };
    let queue_configs = Body::QueueConfigs {
        queue_configs: list([queue_config(0xc1), queue_config(0xc2)]),
    };
    let forwarded = Body::Forwarded {
        http_status: 200,
        response: opaque([&[0, 1, 0][..], &[0; 16]].concat()),
    };
    let two = [
        connection(bob(), ConnectionState::Asked),
        connection(carol(), ConnectionState::Consented),
    ];
    let queue = |items: Vec<QueueItem>| Body::Queue { items: list(items) };
    let clients = Body::Clients {
        clients: list(clients()),
    };
    let connections = |some: Vec<Connection>| Body::Connections {
        connections: list(some),
    };
    let blocks = |some: Vec<BlockTarget>| Body::Blocks { blocks: list(some) };
    let blocked = vec![BlockTarget::User(bob()), BlockTarget::Provider(b())];
    vec![
        ("ok", Body::Ok),
        ("registered", registered),
        ("queue_configs", queue_configs),
        ("queue", queue(items().into())),
        ("queue_empty", queue(vec![])),
        ("forwarded", forwarded),
        ("clients", clients),
        ("connections", connections(two.into())),
        ("connections_none", connections(vec![])),
        ("blocks", blocks(blocked)),
        ("blocks_none", blocks(vec![])),
    ]
}

pub(crate) fn signatures() -> Vec<SignatureCase> {
    use ClientRequestBody as Body;
    let mut cases = vec![signed(
        "client_authorization",
        "MoH ClientAuthorization",
        None,
        &authorization(),
    )];
    for (of, body) in [
        (
            "client_request_acknowledge",
            Body::Acknowledge(acknowledge()),
        ),
        ("client_request_register", Body::Register(register_first())),
        (
            "client_request_delete_account",
            Body::DeleteAccount(DeleteAccount {}),
        ),
        (
            "client_request_set_block",
            Body::SetBlock(set_block(BlockTarget::User(bob()), Boolean::True)),
        ),
    ] {
        let request = client_request(body);
        cases.push(signed(of, "MoH ClientRequest", None, &request));
    }
    cases
}
