//! Notices: what a provider itself puts into the queues of its clients.

use moh_messages::client_api::{Boolean, ClientChanged, QueueItemPayload};
use moh_messages::{AudienceDigest, ClientId, Message};

use crate::change::Write;
use crate::crypto::sha256;
use crate::node::Node;

/// What is hashed for the name of a client's audience for notices begins with this. For other
/// audiences it is a TLS vector, and no such vector is one.
const LABEL: &[u8] = b"MoH notices to ";

/// The audience of one client alone that its notices go to.
fn audience_of(client: &ClientId) -> AudienceDigest {
    let name = [LABEL, client.as_str().as_bytes()].concat();
    AudienceDigest::new(sha256(&name)).expect("32 bytes")
}

impl Node {
    /// The writes that put an item of our own into the queue of one client of ours.
    pub(crate) fn notice(&self, client: &ClientId, payload: &QueueItemPayload) -> Vec<Write> {
        let (sender, digest) = (self.name().clone(), audience_of(client));
        let audience = Write::Audience {
            sender: sender.clone(),
            digest: digest.clone(),
            members: vec![Some(client.clone())],
        };
        let message = Write::Message {
            sender,
            digest,
            except: None,
            received_at: self.now_ms(),
            payload: payload.encode(),
        };
        vec![audience, message]
    }

    /// The writes that tell other clients of a user that it has one more, or one less.
    pub(crate) fn client_changed<'a>(
        &self,
        others: impl IntoIterator<Item = &'a ClientId>,
        client: &ClientId,
        registered: Boolean,
    ) -> Vec<Write> {
        let payload = QueueItemPayload::ClientChanged(ClientChanged {
            client: client.clone(),
            registered,
        });
        let others = others.into_iter().filter(|other| *other != client);
        others
            .flat_map(|other| self.notice(other, &payload))
            .collect()
    }
}
