//! What can be watched: every request that is answered, and every one that is made.

use moh_messages::ProviderName;

/// One request, when its answer is known.
#[derive(Clone, Debug)]
pub struct RequestEvent {
    /// Who was asked: this provider, or the one that it asked.
    pub provider: ProviderName,
    /// Who asked: a provider or a client, as far as it was authenticated.
    pub from: Option<String>,
    /// The path.
    pub endpoint: &'static str,
    /// The type of the request, in the profile's words.
    pub operation: &'static str,
    /// The HTTP status of the answer.
    pub status: u16,
    /// `ok`, or the name of the error.
    pub result: String,
    /// The request's body, in bytes.
    pub request_bytes: usize,
    /// The answer's body, in bytes.
    pub response_bytes: usize,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// Is told of every request that a node answers. It must not block.
pub trait Observer: Send + Sync + 'static {
    /// A request was answered.
    fn answered(&self, event: &RequestEvent);
}

/// Does not look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn answered(&self, _: &RequestEvent) {}
}
