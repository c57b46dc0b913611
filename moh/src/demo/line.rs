//! A client's connection, which can be made to lose answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use moh_client::{Answer, QueueSocket, Transport, TransportError};
use moh_messages::client_api::{ClientRequest, ClientRequestBody};
use moh_messages::{DsRequest, Message};

/// A connection around another one.
#[derive(Clone)]
pub(super) struct Line {
    inner: Arc<dyn Transport>,
    /// The type of the requests whose answers get lost.
    loses: Arc<Mutex<Option<&'static str>>>,
    lost: Arc<AtomicUsize>,
}

impl Line {
    pub(super) fn around(inner: Arc<dyn Transport>) -> Self {
        Self {
            inner,
            loses: Arc::default(),
            lost: Arc::default(),
        }
    }

    /// From now on the answers to requests of this type to owners of groups get lost; or none
    /// any more.
    pub(super) fn lose(&self, request: Option<&'static str>) {
        *self.loses.lock().unwrap_or_else(PoisonError::into_inner) = request;
    }

    /// How many answers have been lost.
    pub(super) fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    fn loses(&self, body: &[u8]) -> bool {
        let loses = *self.loses.lock().unwrap_or_else(PoisonError::into_inner);
        loses.is_some_and(|name| asks_for(body) == Some(name))
    }
}

/// The type of the request to the owner of a group that a client wants forwarded.
fn asks_for(body: &[u8]) -> Option<&'static str> {
    let ClientRequestBody::Forward(forward) = ClientRequest::decode(body).ok()?.body else {
        return None;
    };
    let request = DsRequest::decode(forward.request.as_slice()).ok()?;
    Some(request.body.name())
}

#[async_trait]
impl Transport for Line {
    async fn post(&self, body: Vec<u8>, wait: Duration) -> Result<Answer, TransportError> {
        let loses = self.loses(&body);
        let answer = self.inner.post(body, wait).await?;
        if loses {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Err(TransportError::TimedOut);
        }
        Ok(answer)
    }

    async fn open_queue(&self) -> Result<Box<dyn QueueSocket>, TransportError> {
        self.inner.open_queue().await
    }
}
