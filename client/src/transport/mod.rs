//! How bytes get to the client's own provider.

mod https;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moh_messages::{CipherSuite, ProviderName};

use crate::clock::{Clock, Random, SystemClock, SystemRandom, Work};
use crate::error::{Error, TransportError};

pub(crate) use https::{Https, status_error};

/// The way to the client's own provider: HTTPS, or what a test puts in its place.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Posts a request of the client API. `wait` is how long the provider may take on purpose,
    /// beyond what a request takes anyway.
    ///
    /// # Errors
    /// When no answer came: the provider may have acted on the request all the same.
    async fn post(&self, body: Vec<u8>, wait: Duration) -> Result<Answer, TransportError>;

    /// Opens the WebSocket for the client's queue.
    ///
    /// # Errors
    /// When there is no connection.
    async fn open_queue(&self) -> Result<Box<dyn QueueSocket>, TransportError>;
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Whether the body is `application/octet-stream`: a struct of the protocol.
    pub is_octet_stream: bool,
    /// The body.
    pub body: Vec<u8>,
}

/// An open WebSocket.
#[async_trait]
pub trait QueueSocket: Send {
    /// Sends a binary message.
    ///
    /// # Errors
    /// When the connection is gone.
    async fn send(&mut self, message: Vec<u8>) -> Result<(), TransportError>;

    /// The next binary message. May be dropped while it waits, and nothing is lost.
    ///
    /// # Errors
    /// When the connection is gone, or has been silent for too long.
    async fn receive(&mut self) -> Result<Vec<u8>, TransportError>;
}

/// Which provider is the client's own, and how it is reached.
#[derive(Clone)]
pub struct ConnectOptions {
    pub(crate) provider: ProviderName,
    pub(crate) roots_pem: Vec<Vec<u8>>,
    pub(crate) overrides: Vec<(String, SocketAddr)>,
    pub(crate) timeout: Duration,
    pub(crate) cipher_suite: CipherSuite,
    pub(crate) invitation: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) work: Work,
    transport: Option<Arc<dyn Transport>>,
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("provider", &self.provider)
            .field("overrides", &self.overrides)
            .finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// The provider with this name, found by DNS, trusted as the operating system trusts.
    #[must_use]
    pub fn new(provider: ProviderName) -> Self {
        Self {
            provider,
            roots_pem: Vec::new(),
            overrides: Vec::new(),
            timeout: Duration::from_secs(30),
            cipher_suite: CipherSuite::X25519_AES128GCM_ED25519,
            invitation: String::new(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            work: Work::Pool,
            transport: None,
        }
    }

    /// Trusts the certificates in this PEM text too.
    #[must_use]
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots_pem.push(pem.into());
        self
    }

    /// Connects to `addr` instead of asking DNS for `host`. The port counts only where the
    /// provider does not name one itself.
    #[must_use]
    pub fn resolve(mut self, host: &str, addr: SocketAddr) -> Self {
        self.overrides.push((host.to_ascii_lowercase(), addr));
        self
    }

    /// How long a request may take; 30 seconds unless said otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The ciphersuite of a client that is registered with this: of its key, of its KeyPackages
    /// and of the groups that it creates. Suite 1 of RFC 9420 unless said otherwise; 2 and 3 are
    /// the others that the protocol has. It counts when a client is registered, and is kept.
    ///
    /// A user's clients can only be in a group together if its ciphersuite is one that all of
    /// them have KeyPackages for.
    #[must_use]
    pub fn cipher_suite(mut self, cipher_suite: CipherSuite) -> Self {
        self.cipher_suite = cipher_suite;
        self
    }

    /// The code that the provider gave out, where not everybody may become its user. It counts
    /// when the first device of a user is registered.
    #[must_use]
    pub fn invitation(mut self, code: impl Into<String>) -> Self {
        self.invitation = code.into();
        self
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Takes nonces and MLS's randomness from `random`.
    #[must_use]
    pub fn random(mut self, random: impl Random) -> Self {
        self.random = Arc::new(random);
        self
    }

    /// Does what takes its time where `work` says; on tokio's threads for it unless said
    /// otherwise.
    #[must_use]
    pub fn work(mut self, work: Work) -> Self {
        self.work = work;
        self
    }

    /// Uses `transport` instead of HTTPS.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// The way to the provider that these options describe: for a [`Transport`] around it.
    ///
    /// # Errors
    /// When the root certificates cannot be read.
    pub fn connect(&self) -> Result<Arc<dyn Transport>, Error> {
        match &self.transport {
            Some(transport) => Ok(Arc::clone(transport)),
            None => Ok(Arc::new(Https::new(self)?)),
        }
    }
}
