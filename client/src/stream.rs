//! Events over a WebSocket.

use std::time::Duration;

use futures_util::Stream;
use moh_messages::Message;
use moh_messages::client_api::{
    Acknowledge, ClientRequestBody, ClientResponseBody, Cursor, ReadQueue,
};

use tokio::time::Instant;

use crate::client::Client;
use crate::clock::below;
use crate::error::Error;
use crate::events::Event;
use crate::transport::QueueSocket;

/// How long to wait before the first attempt to connect again, at most.
const FIRST_PAUSE_MS: u64 = 500;
/// How long to wait before any attempt to connect again, at most.
const MAX_PAUSE_MS: u64 = 60_000;

/// Events as they happen; from [`Client::events`].
pub struct Events {
    client: Client,
    connection: Option<Connection>,
    failures: u32,
    /// Something may be stored that was not given yet.
    look: bool,
    /// When a stored request goes out again.
    retry: Option<Instant>,
}

struct Connection {
    socket: Box<dyn QueueSocket>,
    /// The next items are those after this.
    cursor: Cursor,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            connection: None,
            failures: 0,
            look: true,
            retry: None,
        }
    }

    /// The next event, for which it waits as long as it takes. To ask for it is to say that the
    /// application has taken the one before; if the process ends before that, that one is given
    /// again.
    ///
    /// # Errors
    /// When the state database cannot be used, or the provider does not take this client any
    /// more. That a connection breaks is no error.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if self.look {
                // What is to be done for others does not hold up what is there.
                if let Some(event) = self.client.next_stored_event().await? {
                    return Ok(event);
                }
                self.retry = self.client.settle_all().await?;
                if let Some(event) = self.client.next_stored_event().await? {
                    return Ok(event);
                }
                self.look = false;
            }
            match self.wait().await {
                Ok(()) => self.failures = 0,
                Err(error @ (Error::Unreachable { .. } | Error::BadAnswer { .. })) => {
                    tracing::debug!(%error, "the queue's connection");
                    self.client.provider_is_away();
                    self.connection = None;
                    self.pause().await;
                }
                Err(error) if error.is_temporary() => {
                    self.connection = None;
                    self.pause().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same as a [`Stream`], which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, Error>> {
        futures_util::stream::unfold(Some(self), |events| async {
            let mut events = events?;
            match events.next().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Waits until something may have happened.
    async fn wait(&mut self) -> Result<(), Error> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.client).await?);
            self.client.provider_is_there();
            // What happened while there was no connection is pending, or comes now.
            self.look = true;
        }
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let api = self.client.api();
        let message = tokio::select! {
            biased;
            message = connection.socket.receive() => {
                message.map_err(|source| api.unreachable(source))?
            }
            () = self.client.new_events().notified() => {
                self.look = true;
                return Ok(());
            }
            () = at(self.retry) => {
                self.look = true;
                return Ok(());
            }
        };
        self.look = true;
        let items = match api.read_response(&message) {
            Ok(ClientResponseBody::Queue { items }) => items.into_vec(),
            Ok(_) => return Err(api.bad_answer("no queue")),
            Err(error) => return Err(api.refusal_in(&message).unwrap_or(error)),
        };
        match self
            .client
            .process(connection.cursor.clone(), items)
            .await?
        {
            Some(cursor) => {
                let acknowledge = Acknowledge {
                    cursor: cursor.clone(),
                };
                connection.cursor = cursor;
                connection
                    .socket
                    .send(acknowledge.encode())
                    .await
                    .map_err(|source| api.unreachable(source))?;
            }
            // Somebody else has read the queue meanwhile: start after what they have processed.
            None => self.connection = None,
        }
        Ok(())
    }

    async fn pause(&mut self) {
        let max = (FIRST_PAUSE_MS << self.failures.min(10)).min(MAX_PAUSE_MS);
        self.failures = self.failures.saturating_add(1);
        let pause = below(&*self.client.api().random, max);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn connect(client: &Client) -> Result<Connection, Error> {
    let api = client.api();
    let unreachable = |source| api.unreachable(source);
    let cursor = client
        .store()
        .run(|tx| Ok::<_, Error>(tx.cursor()?))
        .await?;
    let read = ClientRequestBody::ReadQueue(ReadQueue {
        cursor: cursor.clone(),
        wait_ms: 0,
    });
    let mut socket = api.transport.open_queue().await.map_err(unreachable)?;
    socket.send(api.signed(read)?).await.map_err(unreachable)?;
    Ok(Connection { socket, cursor })
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
