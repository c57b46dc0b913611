//! HTTP: routes, methods, content types and limits. What is answered here, and not by the node,
//! is RFC 9457 problem details.

mod listen;
mod queue_socket;

pub use listen::{Listener, ServeError, tls_config};

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use moh_messages::client_api;
use moh_messages::{CONTENT_TYPE, Endpoint, WELL_KNOWN_PATH};

use crate::face::Answer;
use crate::node::Node;
use crate::tls::Presented;

/// How long answers that may be cached are good for, in seconds.
const MAX_AGE_SECONDS: u32 = 3600;
const ACCEPT_QUERY: HeaderName = HeaderName::from_static("accept-query");
const QUERY: &str = "QUERY";

/// All routes of a provider.
pub fn router(node: Node) -> Router {
    let mut router = Router::new()
        .route(WELL_KNOWN_PATH, get(ds_domain).fallback(wrong_method))
        .route(client_api::PATH, any(client_request))
        .route(
            client_api::QUEUE_PATH,
            get(queue_socket::open).fallback(wrong_method),
        );
    for endpoint in Endpoint::ALL {
        let handler = move |State(node): State<Node>, request: Request| async move {
            endpoint_request(node, endpoint, request).await
        };
        router = router.route(endpoint.path(), any(handler));
    }
    router.fallback(no_such_path).with_state(node)
}

async fn ds_domain(State(node): State<Node>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain".to_owned()),
        (header::CACHE_CONTROL, format!("max-age={MAX_AGE_SECONDS}")),
    ];
    (headers, node.ds_domain().to_owned()).into_response()
}

async fn endpoint_request(node: Node, endpoint: Endpoint, request: Request) -> Response {
    let method = request.method();
    let is_read = *method == Method::GET || method.as_str() == QUERY;
    if !(*method == Method::POST || (endpoint.is_get() && is_read)) {
        let allow = if endpoint.is_get() {
            "GET, QUERY, POST"
        } else {
            "POST"
        };
        return not_allowed(allow);
    }
    let presented = request.extensions().get::<Presented>().cloned();
    let body = match read_body(&node, request, endpoint.max_body_bytes()).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    if body.is_empty() && endpoint.is_get() && endpoint != Endpoint::VerificationKey {
        return Problem(StatusCode::BAD_REQUEST, "the request has no body").into_response();
    }
    let mut response = respond(node.answer_over(endpoint, body, presented).await);
    let is_success = response.status().is_success();
    let headers = response.headers_mut();
    if endpoint.is_get() {
        headers.insert(ACCEPT_QUERY, HeaderValue::from_static(CONTENT_TYPE));
    }
    if endpoint == Endpoint::VerificationKey && is_success {
        // In place of the `no-store` that answers have otherwise.
        if let Ok(max_age) = HeaderValue::from_str(&format!("max-age={MAX_AGE_SECONDS}")) {
            headers.insert(header::CACHE_CONTROL, max_age);
        }
    }
    response
}

async fn client_request(State(node): State<Node>, request: Request) -> Response {
    if *request.method() != Method::POST {
        return not_allowed("POST");
    }
    match read_body(&node, request, client_api::MAX_BODY_BYTES).await {
        Ok(body) => respond(node.answer_client(&body).await),
        Err(problem) => problem.into_response(),
    }
}

/// The body of a request, when it is of the right type and not too long. Its type and the length
/// that it announces are looked at before any of it is read.
async fn read_body(node: &Node, request: Request, max_bytes: usize) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let announced = content_length(&parts.headers);
    let is_empty = hyper::body::Body::is_end_stream(&body) && announced.unwrap_or(0) == 0;
    if !is_empty {
        let plain = parts.headers.get(header::CONTENT_ENCODING).is_none();
        if !plain || content_type(&parts.headers).as_deref() != Some(CONTENT_TYPE) {
            return Err(Problem(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "bodies are application/octet-stream, without Content-Encoding",
            ));
        }
    }
    const TOO_LARGE: Problem = Problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    if announced.is_some_and(|length| length > max_bytes as u64) {
        return Err(TOO_LARGE);
    }
    let deadline = Duration::from_millis(node.limits().request_body_ms);
    match tokio::time::timeout(deadline, Limited::new(body, max_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(TOO_LARGE),
        Ok(Err(_)) => Err(Problem(StatusCode::BAD_REQUEST, "the body ended too early")),
        Err(_) => Err(Problem(
            StatusCode::REQUEST_TIMEOUT,
            "the body took too long",
        )),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

fn respond(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Body::from(answer.body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = answer.retry_after_seconds {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

async fn wrong_method() -> Response {
    not_allowed("GET")
}

async fn no_such_path() -> Response {
    Problem(StatusCode::NOT_FOUND, "there is nothing here").into_response()
}

fn not_allowed(allow: &'static str) -> Response {
    let problem = Problem(StatusCode::METHOD_NOT_ALLOWED, "not with this method");
    ([(header::ALLOW, allow)], problem).into_response()
}

/// RFC 9457 problem details.
struct Problem(StatusCode, &'static str);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        problem(self.0, self.1)
    }
}

/// The same, said for the occasion.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Problem");
    let body = serde_json::json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
    });
    let headers = [
        (header::CONTENT_TYPE, "application/problem+json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body.to_string()).into_response()
}
