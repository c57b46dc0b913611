//! A client's queue over a WebSocket: items go out as they come in, acknowledgements come back.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use moh_messages::client_api::{
    Acknowledge, ClientResponse, ClientResponseBody, Cursor, ReadQueue,
};
use moh_messages::{ClientId, DsProtocolVersion, DsResponse, Message};

use super::listen::Place;
use crate::error::Refusal;
use crate::node::Node;

/// The longest message of a client, in bytes: a `read_queue` or an acknowledgement.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

pub(super) async fn open(
    State(node): State<Node>,
    place: Option<Extension<Place>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| async move {
            Box::pin(serve(node, socket)).await;
            drop(place);
        })
        .into_response()
}

async fn serve(node: Node, mut socket: WebSocket) {
    let deadline = Duration::from_millis(node.limits().request_body_ms);
    let first = tokio::time::timeout(deadline, next_binary(&mut socket)).await;
    let opened = match first {
        Ok(Some(first)) => node.open_queue(&first).await,
        Ok(None) | Err(_) => return,
    };
    let result = match opened {
        Ok((client, read)) => run(&node, &mut socket, &client, read).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = result {
        let answer = DsResponse::from(moh_messages::DsError::from(refusal));
        let _ = socket.send(Frame::Binary(answer.encode().into())).await;
    }
    let _ = socket.send(Frame::Close(None)).await;
}

/// Sends what is there and what comes, until the client goes or this provider stops.
async fn run(
    node: &Node,
    socket: &mut WebSocket,
    client: &ClientId,
    read: ReadQueue,
) -> Result<(), Refusal> {
    let mut cursor: Cursor = read.cursor;
    while !node.stopping().is_cancelled() {
        let next = ReadQueue {
            cursor: cursor.clone(),
            wait_ms: node.limits().max_queue_wait_ms,
        };
        tokio::select! {
            items = node.read_queue(client, &next) => {
                let items = items?;
                let Some(last) = items.last() else {
                    // Nothing came for long; is anybody there?
                    if socket.send(Frame::Ping(Vec::new().into())).await.is_err() {
                        return Ok(());
                    }
                    continue;
                };
                cursor = last.cursor.clone();
                let body = ClientResponseBody::Queue { items };
                let response = ClientResponse { version: DsProtocolVersion::MOH1, body };
                if socket.send(Frame::Binary(response.encode().into())).await.is_err() {
                    return Ok(());
                }
            }
            message = next_binary(socket) => {
                let Some(message) = message else { return Ok(()) };
                let acknowledge = Acknowledge::decode(&message).map_err(|error| {
                    Refusal::PolicyViolation(format!("not an acknowledgement: {error}"))
                })?;
                node.acknowledge(client, &acknowledge).await?;
            }
        }
    }
    Ok(())
}

async fn next_binary(socket: &mut WebSocket) -> Option<Vec<u8>> {
    loop {
        match socket.recv().await?.ok()? {
            Frame::Binary(bytes) => return Some(bytes.to_vec()),
            Frame::Text(_) | Frame::Close(_) => return None,
            Frame::Ping(_) | Frame::Pong(_) => {}
        }
    }
}
