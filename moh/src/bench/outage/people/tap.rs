//! A client's connection, with an eye on what is in its queue: what is there twice the client
//! itself would leave out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moh_client::{Answer, QueueSocket, Transport, TransportError};
use moh_messages::Message;
use moh_messages::client_api::{ClientResponse, ClientResponseBody};
use sha2::{Digest, Sha256};

use crate::bench::outage::ledger::Ledger;

/// A connection around another one.
pub(super) struct Tap {
    inner: Arc<dyn Transport>,
    ledger: Ledger,
    /// Whose it is.
    at: usize,
}

impl Tap {
    pub(super) fn around(inner: Arc<dyn Transport>, ledger: Ledger, at: usize) -> Self {
        Self { inner, ledger, at }
    }
}

#[async_trait]
impl Transport for Tap {
    async fn post(&self, body: Vec<u8>, wait: Duration) -> Result<Answer, TransportError> {
        let answer = self.inner.post(body, wait).await?;
        if answer.status == 200
            && answer.is_octet_stream
            && let Ok(response) = ClientResponse::decode(&answer.body)
            && let ClientResponseBody::Queue { items } = response.body
        {
            for item in items.iter() {
                let digest = Sha256::digest(item.payload.encode());
                self.ledger
                    .queued(self.at, digest.into(), item.cursor.as_slice());
            }
        }
        Ok(answer)
    }

    async fn open_queue(&self) -> Result<Box<dyn QueueSocket>, TransportError> {
        self.inner.open_queue().await
    }
}
