//! The way to the providers, without a network.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moh_client::{Answer, ClientId, QueueSocket, Transport, TransportError};
use moh_messages::client_api::{
    Acknowledge, ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody,
};
use moh_messages::{DsProtocolVersion, DsResponse, List, Message};

use super::{Failure, World, position};

/// A client's connection to all providers there are.
#[derive(Clone)]
pub(crate) struct FakeTransport(pub(crate) Arc<World>);

#[async_trait]
impl Transport for FakeTransport {
    async fn post(&self, body: Vec<u8>, wait: Duration) -> Result<Answer, TransportError> {
        if let Some(gate) = self.0.gate_of(&body) {
            gate.reached.notify_one();
            gate.open.notified().await;
        }
        let end = tokio::time::Instant::now() + wait;
        // Only a read of the queue waits, and it is made again then, with the same nonce.
        let mut first = true;
        loop {
            let arrived = self.0.arrived.notified();
            let result = if first {
                self.0.call(&body)
            } else {
                self.0.read_again(&body)
            };
            first = false;
            let is_empty = matches!(
                &result,
                Ok(ClientResponseBody::Queue { items }) if items.is_empty()
            );
            if is_empty && tokio::time::timeout_at(end, arrived).await.is_ok() {
                continue;
            }
            return match result {
                Ok(body) => Ok(answer(200, response(body).encode())),
                Err(Failure::Refused(error)) => {
                    let status = error.code.http_status().unwrap_or(400);
                    Ok(answer(status, DsResponse::from(error).encode()))
                }
                Err(Failure::Lost) => Err(TransportError::TimedOut),
            };
        }
    }

    async fn open_queue(&self) -> Result<Box<dyn QueueSocket>, TransportError> {
        Ok(Box::new(FakeSocket {
            world: Arc::clone(&self.0),
            client: None,
            sent: 0,
        }))
    }
}

impl World {
    fn read_again(&self, body: &[u8]) -> Result<ClientResponseBody, Failure> {
        let request = ClientRequest::decode(body).unwrap();
        let ClientRequestBody::ReadQueue(read) = request.body else {
            panic!("only reading waits");
        };
        Ok(self
            .state
            .lock()
            .unwrap()
            .read_queue(&request.client, &read))
    }
}

fn response(body: ClientResponseBody) -> ClientResponse {
    ClientResponse {
        version: DsProtocolVersion::MOH1,
        body,
    }
}

fn answer(status: u16, body: Vec<u8>) -> Answer {
    Answer {
        status,
        is_octet_stream: true,
        body,
    }
}

struct FakeSocket {
    world: Arc<World>,
    client: Option<ClientId>,
    sent: usize,
}

#[async_trait]
impl QueueSocket for FakeSocket {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), TransportError> {
        let mut state = self.world.state.lock().unwrap();
        match &self.client {
            None => {
                let request = ClientRequest::decode(&message).unwrap();
                let ClientRequestBody::ReadQueue(read) = request.body else {
                    panic!("not read_queue");
                };
                let account = &state.clients[&request.client];
                self.sent = match read.cursor.is_empty() {
                    true => account.acknowledged,
                    false => position(&read.cursor),
                };
                self.client = Some(request.client);
            }
            Some(client) => {
                let acknowledge = Acknowledge::decode(&message).unwrap();
                state.clients.get_mut(client).unwrap().acknowledged = position(&acknowledge.cursor);
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Vec<u8>, TransportError> {
        loop {
            let arrived = self.world.arrived.notified();
            {
                let state = self.world.state.lock().unwrap();
                let queue = &state.clients[self.client.as_ref().unwrap()].queue;
                if queue.len() > self.sent {
                    let items = List::new(queue[self.sent..].to_vec()).unwrap();
                    self.sent = queue.len();
                    return Ok(response(ClientResponseBody::Queue { items }).encode());
                }
            }
            arrived.await;
        }
    }
}
