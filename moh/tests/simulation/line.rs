//! The way from a device to its provider. What goes along it is noted: what is submitted to owners
//! of groups before it goes out, what was in the queue when it has come.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use moh_client::{Answer, QueueSocket, Transport, TransportError};
use moh_messages::client_api::{
    Acknowledge, ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, QueueItem,
    ReadQueue,
};
use moh_messages::{
    CONTENT_TYPE, ClientId, DsError, DsProtocolVersion, DsRequest, DsResponse, Message,
};

use crate::ledger::Ledger;
use crate::network::{Listening, Lost, Network};
use crate::person::Kept;
use crate::wire::{Call, Reply};

/// How long a request may take, besides what it waits on purpose.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a provider waits for something in a queue, before it looks whether anybody is there.
const ROUND_MS: u32 = 60_000;
/// What is not there within this time does not get through.
const SENDING: Duration = Duration::from_secs(25);
/// After so long a silence a client thinks that nobody is there.
const SILENCE: Duration = Duration::from_secs(90);

/// How a device reaches its provider. Clones are the same.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) id: ClientId,
    pub(crate) network: Arc<Network>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) kept: Arc<Mutex<Kept>>,
}

impl Line {
    /// What is submitted to owners of groups is on the books before it goes out.
    fn note_request(&self, body: &[u8]) {
        let Ok(request) = ClientRequest::decode(body) else {
            return;
        };
        if let ClientRequestBody::Forward(forward) = request.body
            && let Ok(request) = DsRequest::decode(forward.request.as_slice())
        {
            self.ledger.submits(&self.id, &request);
        }
    }

    /// So is what was in the queue.
    fn note_reply(&self, reply: &Reply) {
        let is_queue = reply.status == 200 && reply.content_type == Some(CONTENT_TYPE);
        let response = is_queue.then(|| ClientResponse::decode(&reply.body).ok());
        let Some(Some(ClientResponseBody::Queue { items })) = response.map(|r| r.map(|r| r.body))
        else {
            return;
        };
        self.note_items(items.into_vec());
    }

    fn note_items(&self, items: Vec<QueueItem>) {
        let mut kept = self.kept.lock().unwrap();
        for item in items {
            let at = item.cursor.as_slice().to_vec();
            let before = kept.items.insert(at, item.clone());
            if before.is_some_and(|before| before.payload != item.payload) {
                let complaint = format!("{}: another item at the same place", self.id);
                kept.complaints.push(complaint);
            }
        }
    }
}

#[async_trait]
impl Transport for Line {
    async fn post(&self, body: Vec<u8>, wait: Duration) -> Result<Answer, TransportError> {
        self.note_request(&body);
        let (to, call) = (self.id.provider(), Call::Client(body.into()));
        let asked = self
            .network
            .ask(self.id.as_str(), &to, call, PATIENCE + wait)
            .await;
        match asked {
            Ok(reply) => {
                self.note_reply(&reply);
                Ok(Answer {
                    status: reply.status,
                    is_octet_stream: reply.content_type == Some(CONTENT_TYPE),
                    body: reply.body.to_vec(),
                })
            }
            Err(error) => Err(lost(error)),
        }
    }

    async fn open_queue(&self) -> Result<Box<dyn QueueSocket>, TransportError> {
        let (from, to) = (self.id.as_str(), self.id.provider());
        let process = self
            .network
            .connect(from, &to, PATIENCE)
            .await
            .map_err(lost)?;
        Ok(Box::new(Socket {
            line: self.clone(),
            process,
            reading: None,
            last: None,
            is_silent: false,
        }))
    }
}

fn lost(lost: Lost) -> TransportError {
    match lost {
        Lost::TimedOut => TransportError::TimedOut,
        lost => TransportError::Connection(format!("{lost:?}")),
    }
}

/// A WebSocket for a client's queue, and the provider's end of it.
struct Socket {
    line: Line,
    process: Listening,
    /// Who reads, and what comes next.
    reading: Option<(ClientId, ReadQueue)>,
    /// What is said before it is closed.
    last: Option<Vec<u8>>,
    /// Something was lost on the way.
    is_silent: bool,
}

impl Socket {
    fn refused(&mut self, error: impl Into<DsError>) {
        self.last = Some(DsResponse::from(error.into()).encode());
    }
}

#[async_trait]
impl QueueSocket for Socket {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), TransportError> {
        let to = self.line.id.provider();
        let carried = self.line.network.carry(self.line.id.as_str(), to.as_str());
        // What does not get through stands in a buffer, for ever: nobody is told.
        match tokio::time::timeout(SENDING, carried).await {
            Ok(carried) => carried.map_err(lost)?,
            Err(_) => self.is_silent = true,
        }
        if self.is_silent {
            return Ok(());
        }
        let node = self.process.node.clone();
        let served = async {
            match &self.reading {
                None => node.open_queue(&message).await.map(Some),
                Some((client, _)) => {
                    let acknowledge = Acknowledge::decode(&message).expect("clients are honest");
                    node.acknowledge(client, &acknowledge).await.map(|()| None)
                }
            }
        };
        let served = tokio::select! {
            biased;
            () = self.process.life.over() => return Err(lost(Lost::Cut)),
            served = served => served,
        };
        match served {
            Ok(Some(reading)) => self.reading = Some(reading),
            Ok(None) => {}
            Err(refusal) => self.refused(refusal),
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Vec<u8>, TransportError> {
        loop {
            if let Some(last) = self.last.take() {
                return Ok(last);
            }
            if self.is_silent {
                tokio::time::sleep(SILENCE).await;
                return Err(TransportError::TimedOut);
            }
            let Some((client, read)) = &self.reading else {
                return Err(lost(Lost::Cut));
            };
            let (node, life) = (&self.process.node, &self.process.life);
            let wait_ms = ROUND_MS;
            let next = ReadQueue {
                wait_ms,
                ..read.clone()
            };
            let read = tokio::select! {
                biased;
                () = life.over() => return Err(lost(Lost::Cut)),
                read = node.read_queue(client, &next) => read,
            };
            let items = match read {
                Ok(items) => items,
                Err(refusal) => {
                    self.refused(refusal);
                    continue;
                }
            };
            let (from, to) = (self.line.id.provider(), self.line.id.as_str());
            let carried = self.line.network.carry(from.as_str(), to);
            match tokio::time::timeout(SILENCE, carried).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(lost(error)),
                Err(_) => return Err(TransportError::TimedOut),
            }
            // Until here nothing is lost if this is dropped, and after it there is no waiting.
            let Some(end) = items.last() else {
                continue;
            };
            if let Some((_, read)) = &mut self.reading {
                read.cursor = end.cursor.clone();
            }
            self.line.note_items(items.to_vec());
            let version = DsProtocolVersion::MOH1;
            let body = ClientResponseBody::Queue { items };
            return Ok(ClientResponse { version, body }.encode());
        }
    }
}
