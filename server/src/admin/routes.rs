//! Routes: what is asked is decoded, the provider is asked, and what it says is encoded.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use moh_messages::ProviderName;
use serde::Serialize;

use super::{Admin, DEFAULT_PAGE, MAX_BODY_BYTES, MAX_PAGE, Selection};
use crate::http::problem;
use crate::outbox::Chosen;
use crate::store::StoreError;

/// The type of bodies.
pub(super) const JSON: &str = "application/json";
/// How long a body may take.
const BODY: Duration = Duration::from_secs(10);

type Asked = State<Arc<Admin>>;

/// A refusal.
pub(super) struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem(self.0, &self.1)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

fn bad(detail: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, detail.into())
}

/// An answer.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                let headers = [
                    (header::CONTENT_TYPE, JSON),
                    (header::CACHE_CONTROL, "no-store"),
                ];
                (headers, body).into_response()
            }
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

type Answer<T> = Result<Json<T>, Refused>;

pub(super) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/peers", get(peers))
        .route("/peers/{name}/retry", post(retry_peer))
        .route("/set-aside", get(set_aside))
        .route("/set-aside/retry", post(retry_set_aside))
        .route("/set-aside/drop", post(drop_set_aside))
        .route("/policy", get(policy))
        .route("/policy/reload", post(reload))
        .fallback(|| async { Refused(StatusCode::NOT_FOUND, "there is nothing here".to_owned()) })
        .method_not_allowed_fallback(|| async {
            Refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "not with this method".to_owned(),
            )
        })
        .with_state(admin)
}

async fn peers(State(admin): Asked, RawQuery(query): RawQuery) -> Answer<super::Peers> {
    let query = Query::read(query, &["after", "limit"])?;
    let after = query.after.as_deref().map(provider).transpose()?;
    Ok(Json(admin.peers(after.as_ref(), query.limit).await?))
}

async fn retry_peer(State(admin): Asked, Path(name): Path<String>) -> Answer<super::Woken> {
    Ok(Json(admin.retry_peer(&provider(&name)?).await?))
}

async fn set_aside(State(admin): Asked, RawQuery(query): RawQuery) -> Answer<super::SetAsidePage> {
    let query = Query::read(query, &["peer", "after", "limit"])?;
    let peer = query.peer.as_deref().map(provider).transpose()?;
    let after = query.after.as_deref().map_or(Ok(0), number)?;
    let page = admin.set_aside(peer.as_ref(), after, query.limit);
    Ok(Json(page.await?))
}

/// What a list is asked for by.
struct Query {
    peer: Option<String>,
    after: Option<String>,
    limit: usize,
}

impl Query {
    /// No value that there is needs an escape.
    fn read(query: Option<String>, allowed: &[&str]) -> Result<Self, Refused> {
        let mut read = Self {
            peer: None,
            after: None,
            limit: DEFAULT_PAGE,
        };
        let query = query.unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                _ if !allowed.contains(&name) => {
                    return Err(bad(format!("{name}: not one of {}", allowed.join(", "))));
                }
                "peer" => read.peer = Some(value.to_owned()),
                "after" => read.after = Some(value.to_owned()),
                _ => read.limit = usize::try_from(number(value)?).unwrap_or(MAX_PAGE),
            }
        }
        if read.limit == 0 {
            return Err(bad("limit: at least 1"));
        }
        read.limit = read.limit.min(MAX_PAGE);
        Ok(read)
    }
}

fn number(text: &str) -> Result<u64, Refused> {
    text.parse()
        .map_err(|_| bad(format!("{text:?}: not a number")))
}

async fn retry_set_aside(State(admin): Asked, request: Request) -> Answer<super::Count> {
    let which = chosen(request).await?;
    Ok(Json(admin.retry_set_aside(&which).await?))
}

async fn drop_set_aside(State(admin): Asked, request: Request) -> Answer<super::Count> {
    let which = chosen(request).await?;
    Ok(Json(admin.drop_set_aside(&which).await?))
}

async fn policy(State(admin): Asked) -> Json<super::Policy> {
    Json(admin.policy())
}

async fn reload(State(admin): Asked) -> Answer<super::Reloaded> {
    let reloaded = admin.reload().await;
    Ok(Json(
        reloaded.map_err(|detail| Refused(StatusCode::CONFLICT, detail))?,
    ))
}

fn provider(name: &str) -> Result<ProviderName, Refused> {
    name.parse()
        .map_err(|error| bad(format!("{name}: {error}")))
}

/// Which deliveries a request is about.
async fn chosen(request: Request) -> Result<Chosen, Refused> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = match tokio::time::timeout(BODY, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("a body has at most {MAX_BODY_BYTES} bytes");
            return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        Ok(Err(error)) => return Err(bad(error.to_string())),
        Err(_) => {
            let detail = "the body took too long".to_owned();
            return Err(Refused(StatusCode::REQUEST_TIMEOUT, detail));
        }
    };
    match serde_json::from_slice(&body) {
        Ok(Selection::Ids(ids)) => Ok(Chosen::Ids(ids)),
        Ok(Selection::Peer(name)) => Ok(Chosen::Peer(provider(&name)?)),
        Err(error) => Err(bad(format!("the body: {error}"))),
    }
}
