//! The WebSocket for the client's queue, over TLS 1.3.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use moh_messages::client_api;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};

use super::{ConnectOptions, QueueSocket};
use crate::error::TransportError;

/// How often a ping goes out.
const PING_EVERY: Duration = Duration::from_secs(25);
/// How many pings without any sign of life mean that the connection is gone.
const MAX_SILENT_PINGS: u32 = 2;
/// The longest message: 256 items of 4 MiB would be longer, and providers do not send such.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

pub(super) struct WebSocket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    ping: Interval,
    silent_pings: u32,
}

impl WebSocket {
    pub(super) async fn connect(
        ds_domain: &str,
        options: &ConnectOptions,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, TransportError> {
        let (host, port) = match ds_domain.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (ds_domain, None),
        };
        let instead = options
            .overrides
            .iter()
            .rev()
            .find(|(name, _)| name == host);
        let tcp = match instead {
            Some((_, addr)) => TcpStream::connect((addr.ip(), port.unwrap_or(addr.port()))).await,
            None => TcpStream::connect((host, port.unwrap_or(443))).await,
        }
        .map_err(|error| TransportError::Connection(error.to_string()))?;
        // Small messages, each awaited by somebody.
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| TransportError::Discovery(error.to_string()))?;
        let tls = TlsConnector::from(tls)
            .connect(name, tcp)
            .await
            .map_err(|error| TransportError::Connection(error.to_string()))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let url = format!("wss://{ds_domain}{}", client_api::QUEUE_PATH);
        let (stream, _) = tokio_tungstenite::client_async_with_config(url, tls, Some(config))
            .await
            .map_err(transport_error)?;
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        Ok(Self {
            stream,
            ping,
            silent_pings: 0,
        })
    }
}

#[async_trait]
impl QueueSocket for WebSocket {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), TransportError> {
        self.stream
            .send(Message::Binary(message.into()))
            .await
            .map_err(transport_error)
    }

    async fn receive(&mut self) -> Result<Vec<u8>, TransportError> {
        loop {
            tokio::select! {
                message = self.stream.next() => {
                    self.silent_pings = 0;
                    match message {
                        Some(Ok(Message::Binary(bytes))) => return Ok(bytes.into()),
                        Some(Ok(Message::Close(_))) | None => {
                            return Err(TransportError::Connection("closed".to_owned()));
                        }
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(transport_error(error)),
                    }
                }
                _ = self.ping.tick() => {
                    if self.silent_pings == MAX_SILENT_PINGS {
                        return Err(TransportError::TimedOut);
                    }
                    self.silent_pings += 1;
                    self.stream
                        .send(Message::Ping(Bytes::new()))
                        .await
                        .map_err(transport_error)?;
                }
            }
        }
    }
}

fn transport_error(error: tungstenite::Error) -> TransportError {
    match error {
        tungstenite::Error::Http(answer) => super::https::status_error(
            answer.status().as_u16(),
            answer.body().as_deref().unwrap_or_default(),
        ),
        other => TransportError::Connection(other.to_string()),
    }
}
