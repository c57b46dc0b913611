//! Asks a provider that runs, through its socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use moh_messages::ProviderName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::{Count, MAX_PAGE, Peers, Policy, Reloaded, Selection, SetAsidePage, Woken};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The provider does not run, or listens elsewhere.
    #[error("nobody listens on {}: does the provider run?", .0.display())]
    NobodyListens(PathBuf),
    /// It belongs to another user.
    #[error(
        "{} may be used by the user that the provider runs as, and by root", .0.display()
    )]
    NotAllowed(PathBuf),
    /// It cannot be connected to.
    #[error("{}: {}", .0.display(), .1)]
    Connect(PathBuf, io::Error),
    /// The provider refuses, for this reason.
    #[error("{0}")]
    Refused(String),
    /// What is there is no provider, or it went away.
    #[error("the provider gave no answer: {0}")]
    Broken(String),
}

/// Asks the provider that listens on a socket. Each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the socket at this path.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The other providers, all of them.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn peers(&self) -> Result<Peers, ClientError> {
        let first = format!("/peers?limit={MAX_PAGE}");
        let mut all: Peers = self.ask(Method::GET, &first, None::<&()>).await?;
        while let Some(after) = all.next_after.take() {
            let next = format!("{first}&after={after}");
            let more: Peers = self.ask(Method::GET, &next, None::<&()>).await?;
            all.peers.extend(more.peers);
            all.next_after = more.next_after;
        }
        Ok(all)
    }

    /// Has a provider tried now.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn retry_peer(&self, peer: &ProviderName) -> Result<Woken, ClientError> {
        let path = format!("/peers/{peer}/retry");
        self.ask(Method::POST, &path, None::<&()>).await
    }

    /// Deliveries that are set aside: for one provider or all, with a number above `after`.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn set_aside(
        &self,
        peer: Option<&ProviderName>,
        after: u64,
        limit: usize,
    ) -> Result<SetAsidePage, ClientError> {
        let peer = peer.map_or(String::new(), |peer| format!("&peer={peer}"));
        let path = format!("/set-aside?after={after}&limit={limit}{peer}");
        self.ask(Method::GET, &path, None::<&()>).await
    }

    /// Has deliveries that are set aside made again.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn retry_set_aside(&self, which: &Selection) -> Result<Count, ClientError> {
        self.ask(Method::POST, "/set-aside/retry", Some(which))
            .await
    }

    /// Removes deliveries that are set aside, for good.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn drop_set_aside(&self, which: &Selection) -> Result<Count, ClientError> {
        self.ask(Method::POST, "/set-aside/drop", Some(which)).await
    }

    /// Who may talk to the provider.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn policy(&self) -> Result<Policy, ClientError> {
        self.ask(Method::GET, "/policy", None::<&()>).await
    }

    /// Has the provider read its configuration again.
    ///
    /// # Errors
    /// When there is no answer; when there is a mistake in the configuration, or none at all.
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.ask(Method::POST, "/policy/reload", None::<&()>).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let bytes = tokio::time::timeout(PATIENCE, self.exchange(method, path, body));
        let bytes = bytes
            .await
            .map_err(|_| ClientError::Broken(format!("it took more than {PATIENCE:?}")))??;
        serde_json::from_slice(&bytes).map_err(broken)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.no_connection(error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost");
        let request = match body {
            None => request.body(Full::<Bytes>::default()),
            Some(body) => {
                let body = serde_json::to_vec(body).map_err(broken)?;
                let request = request.header(header::CONTENT_TYPE, super::routes::JSON);
                request.body(Full::new(body.into()))
            }
        };
        let answer = sender.send_request(request.map_err(broken)?);
        let (head, body) = answer.await.map_err(broken)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(broken)?.to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem["detail"].as_str();
        Err(ClientError::Refused(detail.map_or_else(
            || format!("answered {}", head.status),
            str::to_owned,
        )))
    }

    fn no_connection(&self, error: io::Error) -> ClientError {
        let path = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NobodyListens(path)
            }
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path),
            _ => ClientError::Connect(path, error),
        }
    }
}

fn broken(error: impl std::fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::RawQuery;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use tokio::net::UnixListener;

    use super::*;
    use crate::http::problem;

    /// Three pages, each asked for by the last name before it.
    async fn page(RawQuery(query): RawQuery) -> String {
        let (name, next) = match query.as_deref() {
            Some("limit=1000") => ("a.example", Some("a.example")),
            Some("limit=1000&after=a.example") => ("b.example", Some("b.example")),
            Some("limit=1000&after=b.example") => ("c.example", None),
            other => panic!("{other:?}"),
        };
        let peer = serde_json::json!({
            "provider": name, "state": "idle", "waiting": 0, "waiting_bytes": 0,
            "oldest_at_ms": null, "set_aside": 1, "set_aside_bytes": 1, "forgotten": 0,
            "last_alive_at_ms": null, "a later version": "says more",
        });
        let page = serde_json::json!({
            "now_ms": 1, "provider": "o.example", "peers": [peer], "next_after": next,
        });
        page.to_string()
    }

    #[tokio::test]
    async fn what_the_provider_says_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moh.sock");
        let client = Client::new(&path);
        let nobody = client.policy().await.unwrap_err();
        assert!(matches!(nobody, ClientError::NobodyListens(at) if at == path));

        let refuse = || async { problem(StatusCode::CONFLICT, "there is a mistake in line 7") };
        let router = Router::new()
            .route("/peers", get(page))
            .route("/policy/reload", post(refuse))
            .route("/policy", get(|| async { "no JSON" }));
        let listener = UnixListener::bind(&path).unwrap();
        let _server = AbortOnDropHandle::new(tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        }));
        let peers = client.peers().await.unwrap();
        let names: Vec<_> = peers.peers.iter().map(|peer| &*peer.provider).collect();
        assert_eq!(names, ["a.example", "b.example", "c.example"]);
        assert_eq!(peers.next_after, None);
        let refused = client.reload().await.unwrap_err();
        assert_eq!(refused.to_string(), "there is a mistake in line 7");
        let broken = client.policy().await.unwrap_err();
        assert!(matches!(broken, ClientError::Broken(_)), "{broken}");
    }
}
