//! What a client and its own provider say to each other: `client_api.json`.

use moh_messages::client_api::{
    Acknowledge, Boolean, ClientAuthorization, ClientRequest, ClientRequestBody, ClientResponse,
    ClientResponseBody, Cursor, Forward, GetQueueConfigs, Invitation, QueueItem, QueueItemPayload,
    ReadQueue, Register, SetConsent, UploadKeyPackages,
};
use moh_messages::{
    CipherSuite, ClientId, DsAuth, DsRequest, DsRequestBody, Endpoint, Message, ProviderAuth,
    RequestGroupId, SignatureScheme,
};

use super::common::*;
use super::delivery::connection_request;
use super::identity::{attestation, queue_config};
use super::request::request;

fn cursor() -> Cursor {
    opaque([0x2a; 9])
}

fn authorization() -> ClientAuthorization {
    ClientAuthorization {
        authorizer: phone(),
        client: ClientId::new(&alice(), "tablet").unwrap(),
        scheme: SignatureScheme::ED25519,
        signature_key: ed25519_key(),
        not_after: NOW + DAY,
        signature: ed25519_signature(),
    }
}

fn register(authorization: Option<ClientAuthorization>) -> Register {
    Register {
        scheme: SignatureScheme::ED25519,
        signature_key: ed25519_key(),
        authorization,
        invitation: Invitation::empty(),
    }
}

fn upload(count: usize) -> UploadKeyPackages {
    UploadKeyPackages {
        replace: Boolean::False,
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

fn item(payload: QueueItemPayload) -> QueueItem {
    QueueItem {
        cursor: cursor(),
        received_at: NOW,
        sender: b(),
        payload,
    }
}

fn items() -> [QueueItem; 2] {
    [
        item(QueueItemPayload::MlsMessage(opaque(APPLICATION))),
        item(QueueItemPayload::ConnectionRequest(connection_request())),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let [message, connection] = items();
    let mut cases = vec![
        case(
            "client_authorization",
            "ClientAuthorization",
            authorization(),
        ),
        case("register_first", "Register", register(None)),
        case(
            "register_further",
            "Register",
            register(Some(authorization())),
        ),
        case(
            "get_queue_configs",
            "GetQueueConfigs",
            GetQueueConfigs { count: 255 },
        ),
        case("upload_key_packages", "UploadKeyPackages", upload(2)),
        case("upload_key_packages_none", "UploadKeyPackages", upload(0)),
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
        case("set_consent_true", "SetConsent", set_consent(Boolean::True)),
        case(
            "set_consent_false",
            "SetConsent",
            set_consent(Boolean::False),
        ),
        case("queue_item_mls_message", "QueueItem", message),
        case("queue_item_connection_request", "QueueItem", connection),
    ];
    for endpoint in Endpoint::ALL {
        let name = format!("forward_{}", &endpoint.path()[1..]);
        let value = forward(endpoint, *b"\x00\x01\x09b.example");
        cases.push(case(name, "Forward", value));
    }
    for (name, body) in request_bodies() {
        let name = format!("client_request_{name}");
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

fn request_bodies() -> Vec<(&'static str, ClientRequestBody)> {
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
        ("register", Body::Register(register(None))),
        (
            "get_queue_configs",
            Body::GetQueueConfigs(GetQueueConfigs { count: 255 }),
        ),
        ("upload_key_packages", Body::UploadKeyPackages(upload(1))),
        ("read_queue", Body::ReadQueue(read_queue())),
        ("acknowledge", Body::Acknowledge(acknowledge())),
        ("forward", Body::Forward(forward)),
        ("set_consent", Body::SetConsent(set_consent(Boolean::True))),
    ]
}

fn response_bodies() -> Vec<(&'static str, ClientResponseBody)> {
    use ClientResponseBody as Body;
    vec![
        ("ok", Body::Ok),
        (
            "registered",
            Body::Registered {
                attestation: attestation(),
            },
        ),
        (
            "queue_configs",
            Body::QueueConfigs {
                queue_configs: list([queue_config(0xc1), queue_config(0xc2)]),
            },
        ),
        (
            "queue",
            Body::Queue {
                items: list(items()),
            },
        ),
        ("queue_empty", Body::Queue { items: list([]) }),
        (
            "forwarded",
            Body::Forwarded {
                http_status: 200,
                response: opaque([&[0, 1, 0][..], &[0; 16]].concat()),
            },
        ),
    ]
}

pub(crate) fn signatures() -> Vec<SignatureCase> {
    vec![
        signed(
            "client_authorization",
            "MoH ClientAuthorization",
            None,
            &authorization(),
        ),
        signed(
            "client_request_acknowledge",
            "MoH ClientRequest",
            None,
            &client_request(ClientRequestBody::Acknowledge(acknowledge())),
        ),
    ]
}
