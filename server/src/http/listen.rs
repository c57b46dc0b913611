//! The accept loop: TCP, TLS 1.3, then HTTP/1.1 or HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::node::Node;
use crate::tls::{self, Certificates, Identity, Presented};

/// Requests that are being answered when the server stops get so long.
const DRAIN: Duration = Duration::from_secs(10);
/// After the system refused to accept a connection (too many open files), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The certificate or its key.
    #[error("the certificate or its key cannot be used: {0}")]
    Certificate(String),
}

/// What is shown to whoever connects: TLS 1.3 alone, with HTTP/2 and HTTP/1.1, and no early
/// data.
///
/// # Errors
/// When the chain or the key is not PEM, or they do not belong together.
pub fn tls_config(
    chain_pem: &[u8],
    key_pem: &[u8],
    certificates: Certificates,
) -> Result<Arc<ServerConfig>, ServeError> {
    let identity = Identity::from_pem(chain_pem, key_pem);
    let config = identity.and_then(|identity| tls::server_config(identity, certificates));
    let config = config.map_err(|error| ServeError::Certificate(error.to_string()))?;
    Ok(Arc::new(config))
}

/// A provider that can be connected to.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
}

impl Listener {
    /// Listens; connections wait until [`Listener::serve`] is called.
    ///
    /// # Errors
    /// When the address is in use, or not of this machine.
    pub async fn bind(address: SocketAddr, tls: Arc<ServerConfig>) -> Result<Self, ServeError> {
        let failed = |error| ServeError::Listen(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            tls,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; then takes no further connection, and gives the requests that are
    /// being answered some time.
    pub async fn serve(self, node: Node, stop: CancellationToken) {
        let limits = node.limits().clone();
        let server = Arc::new(Server {
            acceptor: TlsAcceptor::from(self.tls.clone()),
            http1: builder(&limits).http1_only(),
            http2: builder(&limits).http2_only(),
            service: TowerToHyperService::new(super::router(node)),
            handshake: Duration::from_millis(limits.tls_handshake_ms),
        });
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(limits.max_connections));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept(&places) => accepted,
            };
            let Some((stream, place)) = accepted else {
                continue;
            };
            let (server, watcher) = (server.clone(), graceful.watcher());
            tokio::spawn(async move {
                server
                    .serve(
                        stream,
                        watcher,
                        Place {
                            _permit: Arc::new(place),
                        },
                    )
                    .await;
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let place = places.clone().acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, place)),
            Err(error) => {
                tracing::warn!(%error, "no connection was accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.request_headers_ms));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// A connection's place among those that there may be at once; a WebSocket takes it over.
#[derive(Clone)]
pub(super) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

struct Server {
    acceptor: TlsAcceptor,
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
    service: TowerToHyperService<axum::Router>,
    handshake: Duration,
}

impl Server {
    async fn serve(&self, stream: TcpStream, watcher: Watcher, place: Place) {
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(self.handshake, self.acceptor.accept(stream));
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS connection");
                return;
            }
            Err(_) => return,
        };
        let builder = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => &self.http2,
            _ => &self.http1,
        };
        let presented = Presented::of(stream.get_ref().1);
        let io = TokioIo::new(stream);
        let service = self.service.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(place.clone());
            if let Some(presented) = &presented {
                request.extensions_mut().insert(presented.clone());
            }
            service.call(request)
        });
        let connection = builder.serve_connection_with_upgrades(io, service);
        let connection = watcher.watch(connection.into_owned());
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke off");
        }
    }
}
