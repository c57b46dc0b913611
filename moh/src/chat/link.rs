//! Whether the provider is reached, seen from below the library, which does not tell: it connects
//! again and again by itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moh_client::{Answer, QueueSocket, Transport, TransportError};
use tokio::sync::mpsc::UnboundedSender;

use super::driver::Message;
use super::model::{Input, Link};

/// A way to the provider that is watched.
pub(crate) struct Watched {
    pub(crate) inner: Arc<dyn Transport>,
    pub(crate) to: UnboundedSender<Message>,
}

struct WatchedSocket {
    inner: Box<dyn QueueSocket>,
    to: UnboundedSender<Message>,
}

/// Why there is no connection, without what the layers in between say of themselves.
pub(crate) fn reason(error: &TransportError) -> String {
    let text = error.to_string();
    let mut rest = text.as_str();
    for between in [
        "error sending request: ",
        "client error (Connect): ",
        "client error (SendRequest): ",
        "tcp connect error: ",
        "dns error: ",
        "error resolving DNS: ",
    ] {
        rest = rest.strip_prefix(between).unwrap_or(rest);
    }
    // The number says nothing more.
    let rest = rest.split(" (os error ").next().unwrap_or(rest);
    if rest.ends_with(": UnknownIssuer") || rest.ends_with(": BadSignature") {
        return format!("{rest} (to trust it: --root CERT.pem)");
    }
    rest.to_owned()
}

fn tell(to: &UnboundedSender<Message>, link: Link) {
    // The other end is gone when the chat ends.
    let _ = to.send(Message::Input(Input::Link(link)));
}

/// Says what a result means for the connection.
fn told<T>(
    to: &UnboundedSender<Message>,
    result: Result<T, TransportError>,
) -> Result<T, TransportError> {
    match &result {
        Ok(_) => tell(to, Link::Online),
        Err(error) => tell(to, Link::Offline(reason(error))),
    }
    result
}

#[async_trait]
impl Transport for Watched {
    async fn post(&self, body: Vec<u8>, wait: Duration) -> Result<Answer, TransportError> {
        told(&self.to, self.inner.post(body, wait).await)
    }

    async fn open_queue(&self) -> Result<Box<dyn QueueSocket>, TransportError> {
        let inner = told(&self.to, self.inner.open_queue().await)?;
        let to = self.to.clone();
        Ok(Box::new(WatchedSocket { inner, to }))
    }
}

#[async_trait]
impl QueueSocket for WatchedSocket {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), TransportError> {
        let result = self.inner.send(message).await;
        if let Err(error) = &result {
            tell(&self.to, Link::Offline(reason(error)));
        }
        result
    }

    async fn receive(&mut self) -> Result<Vec<u8>, TransportError> {
        told(&self.to, self.inner.receive().await)
    }
}
