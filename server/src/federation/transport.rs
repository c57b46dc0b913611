//! How requests get to other providers: what is between us and the network, as one trait.

use async_trait::async_trait;
use bytes::Bytes;

/// One HTTPS request.
#[derive(Clone, Debug)]
pub struct PeerRequest {
    /// GET; POST otherwise.
    pub get: bool,
    /// The host, with `:port` where it is not 443.
    pub host: String,
    /// The path.
    pub path: &'static str,
    /// The body, of type `application/octet-stream`.
    pub body: Option<Bytes>,
    /// A longer answer is a failure.
    pub max_answer_bytes: usize,
}

/// The answer to one.
#[derive(Clone, Debug)]
pub struct PeerResponse {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`, without parameters.
    pub content_type: Option<String>,
    /// `max-age` of `Cache-Control`, in seconds.
    pub max_age_seconds: Option<u64>,
    /// When to come again, of `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u32>,
    /// The body.
    pub body: Bytes,
}

/// No answer: the peer could not be reached, did not speak TLS 1.3 with a valid certificate,
/// was too slow, or said too much.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// How requests get to other providers.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Makes one request; follows no redirect.
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable>;
}
