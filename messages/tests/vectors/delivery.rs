//! Deliveries: `delivery.json`.

use moh_messages::{
    Audience, ConnectionRequest, Delivery, DeliveryResult, DsErrorCode, QueuePayload,
    QueueingServiceRequest, QueueingServiceResponse, Recipients, audience_digest,
};

use super::common::*;
use super::response::error;

fn recipients(bytes: &[u8]) -> Recipients {
    let items: Vec<_> = bytes.iter().map(|&b| client_queue_information(b)).collect();
    list(items)
}

fn full(bytes: &[u8]) -> Audience {
    Audience::Full {
        recipients: recipients(bytes),
    }
}

fn digest() -> Audience {
    Audience::Digest {
        audience_digest: audience_digest(&recipients(&[0xc1, 0xc2])),
    }
}

pub(crate) fn connection_request() -> ConnectionRequest {
    ConnectionRequest {
        requester: alice(),
        responder: bob(),
        welcome: opaque(WELCOME),
    }
}

fn delivery(audience: Audience, except: Option<u32>, payload: QueuePayload) -> Delivery {
    Delivery {
        delivery_id: opaque((0xf0..=0xff).collect::<Vec<u8>>()),
        audience,
        except,
        payload,
    }
}

fn message() -> QueuePayload {
    QueuePayload::MlsMessage(opaque(APPLICATION))
}

fn to_full() -> Delivery {
    delivery(full(&[0xc1, 0xc2]), Some(1), message())
}

fn to_digest() -> Delivery {
    delivery(digest(), None, message())
}

fn to_responder() -> Delivery {
    let payload = QueuePayload::ConnectionRequest(connection_request());
    delivery(full(&[0xd1]), None, payload)
}

fn request(deliveries: &[Delivery]) -> QueueingServiceRequest {
    QueueingServiceRequest {
        version: MOH1,
        sender: a(),
        recipient: b(),
        deliveries: list(deliveries),
        provider_auth: provider_auth(),
    }
}

fn results() -> [DeliveryResult; 4] {
    [
        DeliveryResult::Ok,
        DeliveryResult::InvalidClientQueueInformation {
            recipients: list([0, 258]),
        },
        DeliveryResult::UnknownAudience,
        DeliveryResult::Error(error(DsErrorCode::UNAVAILABLE, "busy")),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("audience_full", "Audience", full(&[0xc1, 0xc2])),
        case("audience_full_empty", "Audience", full(&[])),
        case("audience_digest", "Audience", digest()),
        case(
            "connection_request",
            "ConnectionRequest",
            connection_request(),
        ),
        case("delivery_full_except", "Delivery", to_full()),
        case("delivery_digest", "Delivery", to_digest()),
        case("delivery_connection_request", "Delivery", to_responder()),
        case(
            "queueing_service_request_deliver",
            "QueueingServiceRequest",
            request(&[to_full(), to_digest()]),
        ),
        case(
            "queueing_service_request_connection",
            "QueueingServiceRequest",
            request(&[to_responder()]),
        ),
        case(
            "queueing_service_response",
            "QueueingServiceResponse",
            QueueingServiceResponse {
                version: MOH1,
                results: list(results()),
            },
        ),
    ];
    let names = [
        "ok",
        "invalid_client_queue_information",
        "unknown_audience",
        "error",
    ];
    for (name, result) in names.into_iter().zip(results()) {
        cases.push(case(
            format!("delivery_result_{name}"),
            "DeliveryResult",
            result,
        ));
    }
    cases
}

pub(crate) fn signatures() -> Vec<SignatureCase> {
    const LABEL: &str = "MoH ProviderRequest";
    vec![
        signed(
            "queueing_service_request_deliver",
            LABEL,
            Some("/deliver_message"),
            &request(&[to_full(), to_digest()]),
        ),
        signed(
            "queueing_service_request_connection",
            LABEL,
            Some("/connection_request"),
            &request(&[to_responder()]),
        ),
    ]
}
