//! Requests and answers as they are on the wire between two processes.

use bytes::Bytes;
use moh_messages::client_api::{ClientRequest, ClientRequestBody};
use moh_messages::{
    CONTENT_TYPE, DsError, DsErrorCode, DsProtocolVersion, DsRequest, DsResponse, Endpoint,
    Message, QueueingServiceRequest, QueueingServiceResponse, VerificationKeyResponse,
};
use moh_server::Node;
use moh_server::face::Answer;

use crate::dice::Dice;

/// How long answers that may be cached are good for, in seconds.
const MAX_AGE_SECONDS: u64 = 3600;

/// What is asked.
#[derive(Clone)]
pub(crate) enum Call {
    /// Where the provider is.
    Discovery,
    /// By another provider.
    Peer(Endpoint, Bytes),
    /// By a client of the provider.
    Client(Bytes),
}

impl Call {
    /// What it is, in words.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Discovery => "ds_domain".to_owned(),
            Self::Peer(endpoint, body) => of_peer(*endpoint, body),
            Self::Client(body) => match ClientRequest::decode(body).map(|request| request.body) {
                Ok(ClientRequestBody::Forward(forward)) => {
                    let inner = of_peer(forward.endpoint, forward.request.as_slice());
                    format!("{inner} for {}", forward.destination)
                }
                Ok(body) => body.name().to_owned(),
                Err(_) => "unreadable".to_owned(),
            },
        }
    }

    /// Whether it only asks what is in a queue.
    pub(crate) fn is_poll(&self) -> bool {
        let Self::Client(body) = self else {
            return false;
        };
        let request = ClientRequest::decode(body).map(|request| request.body);
        matches!(request, Ok(ClientRequestBody::ReadQueue(_)))
    }

    /// Has it answered.
    pub(crate) async fn serve(self, node: Node) -> Reply {
        match self {
            Self::Discovery => Reply {
                status: 200,
                content_type: Some("text/plain"),
                max_age_seconds: Some(MAX_AGE_SECONDS),
                retry_after_seconds: None,
                body: Bytes::from(node.ds_domain().to_owned()),
            },
            Self::Peer(endpoint, body) => {
                let mut reply = Reply::of(node.answer(endpoint, body).await);
                if endpoint == Endpoint::VerificationKey && reply.status == 200 {
                    reply.max_age_seconds = Some(MAX_AGE_SECONDS);
                }
                reply
            }
            Self::Client(body) => Reply::of(node.answer_client(&body).await),
        }
    }
}

fn of_peer(endpoint: Endpoint, body: &[u8]) -> String {
    let is_operation = matches!(
        endpoint,
        Endpoint::GroupOperation
            | Endpoint::WelcomeInformation
            | Endpoint::ExternalCommitInformation
    );
    if is_operation && let Ok(request) = DsRequest::decode(body) {
        return request.body.name().to_owned();
    }
    let name = endpoint.path().trim_start_matches('/');
    match QueueingServiceRequest::decode(body) {
        Ok(request) if endpoint == Endpoint::DeliverMessage => {
            format!("{name} of {}", request.deliveries.len())
        }
        _ => name.to_owned(),
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) max_age_seconds: Option<u64>,
    pub(crate) retry_after_seconds: Option<u32>,
    pub(crate) body: Bytes,
}

impl Reply {
    fn of(answer: Answer) -> Self {
        Self {
            status: answer.status,
            content_type: Some(CONTENT_TYPE),
            max_age_seconds: None,
            retry_after_seconds: answer.retry_after_seconds,
            body: answer.body.into(),
        }
    }

    /// Something that is not of the protocol, as by a proxy.
    pub(crate) fn page(status: u16) -> Self {
        Self {
            status,
            content_type: Some("text/html"),
            max_age_seconds: None,
            retry_after_seconds: None,
            body: Bytes::from_static(b"<html>An error occurred.</html>"),
        }
    }

    /// To come again after so many seconds; or a page that says that.
    pub(crate) fn too_many(seconds: u32, is_page: bool) -> Self {
        let mut error = DsError::new(DsErrorCode::RATE_LIMITED, "too many");
        error.data = moh_messages::Opaque::new(seconds.to_be_bytes()).unwrap();
        let (content_type, body) = if is_page {
            ("text/html", Bytes::from_static(b"Too Many Requests"))
        } else {
            (CONTENT_TYPE, DsResponse::from(error).encode().into())
        };
        Self {
            status: 429,
            content_type: Some(content_type),
            max_age_seconds: None,
            retry_after_seconds: Some(seconds),
            body,
        }
    }

    /// Random bytes of the right type.
    pub(crate) fn garbage(dice: &Dice) -> Self {
        let length = dice.between(1, 200);
        let bytes: Vec<u8> = (0..length).map(|_| dice.next().to_be_bytes()[0]).collect();
        Self::protocol(bytes)
    }

    /// A struct of the protocol, which is not the one that is expected.
    pub(crate) fn other_struct(call: &Call) -> Self {
        let version = DsProtocolVersion::MOH1;
        Self::protocol(match call {
            Call::Peer(Endpoint::VerificationKey, _) => {
                let results = moh_messages::List::empty();
                QueueingServiceResponse { version, results }.encode()
            }
            _ => VerificationKeyResponse {
                version,
                provider: "nobody.example".parse().unwrap(),
                keys: moh_messages::List::empty(),
            }
            .encode(),
        })
    }

    fn protocol(body: Vec<u8>) -> Self {
        Self {
            status: 200,
            content_type: Some(CONTENT_TYPE),
            max_age_seconds: None,
            retry_after_seconds: None,
            body: body.into(),
        }
    }

    /// What it says, in a word.
    pub(crate) fn outcome(&self) -> String {
        let is_error = self.status >= 300 && self.content_type == Some(CONTENT_TYPE);
        let error = is_error.then(|| DsResponse::decode(&self.body).ok());
        match error.flatten().map(|response| response.body) {
            Some(moh_messages::DsResponseBody::Error(error)) => {
                format!("{} {}", self.status, error.code)
            }
            _ => self.status.to_string(),
        }
    }
}
