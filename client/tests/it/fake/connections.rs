//! Who is connected with whom, as far as providers know.

use moh_client::{ClientId, UserId};
use moh_messages::client_api::{
    BlockTarget, Boolean, ClientResponseBody, Connection, ConnectionChanged, ConnectionDecision,
    ConnectionState, ListBlocks, ListConnections, QueueItemPayload, SetBlock, SetConsent,
};
use moh_messages::{ConnectionRequest, List, MlsBytes};

use super::State;

impl State {
    /// Hands over the Welcome into a connection group.
    pub(super) fn request_connection(
        &mut self,
        group: &[u8],
        by: &ClientId,
        clients: &[ClientId],
        welcome: &MlsBytes,
    ) {
        let requester = by.user_id();
        let responder = clients[0].user_id();
        assert!(clients.iter().all(|client| client.user_id() == responder));
        // To ask is to consent.
        self.consents.insert((requester.clone(), responder.clone()));
        if self.is_blocked(&responder, &requester) {
            return;
        }
        let pair = (responder.clone(), requester.clone());
        if !self.consents.contains(&pair) {
            self.asked.insert(pair, group.to_vec());
        }
        for client in clients {
            let request = QueueItemPayload::ConnectionRequest(ConnectionRequest {
                requester: requester.clone(),
                responder: responder.clone(),
                welcome: welcome.clone(),
            });
            self.enqueue(client, &requester.provider(), request);
        }
    }

    pub(super) fn set_consent(&mut self, by: &ClientId, consent: &SetConsent) {
        let pair = (by.user_id(), consent.peer.clone());
        if consent.allowed == Boolean::True {
            self.asked.remove(&pair);
            if self.consents.insert(pair) {
                self.tell_decision(by, &consent.peer, ConnectionDecision::Consented);
            }
        } else if self.consents.remove(&pair) {
            self.tell_decision(by, &consent.peer, ConnectionDecision::Withdrawn);
        }
    }

    pub(super) fn decline(&mut self, by: &ClientId, peer: &UserId) {
        let user = by.user_id();
        let Some(group) = self.asked.remove(&(user.clone(), peer.clone())) else {
            return;
        };
        let clients = self.clients.keys().filter(|c| c.user_id() == user);
        let closed: Vec<_> = clients.map(|c| (c.clone(), group.clone())).collect();
        self.closed.extend(closed);
        self.tell_decision(by, peer, ConnectionDecision::Declined);
    }

    pub(super) fn set_block(&mut self, by: &ClientId, block: SetBlock) {
        let user = by.user_id();
        let SetBlock { target, blocked } = block;
        if blocked == Boolean::False {
            self.blocks.remove(&(user, target));
            return;
        }
        let peers = self.consents.iter().chain(self.asked.keys());
        let peers: Vec<_> = peers
            .filter(|(of, peer)| {
                *of == user
                    && match &target {
                        BlockTarget::User(user) => peer == user,
                        BlockTarget::Provider(provider) => peer.provider() == *provider,
                    }
            })
            .map(|(_, peer)| peer.clone())
            .collect();
        self.blocks.insert((user.clone(), target));
        for peer in peers {
            self.decline(by, &peer);
            if self.consents.remove(&(user.clone(), peer.clone())) {
                self.tell_decision(by, &peer, ConnectionDecision::Withdrawn);
            }
        }
    }

    pub(super) fn list_connections(
        &self,
        of: &ClientId,
        list: &ListConnections,
    ) -> ClientResponseBody {
        let user = of.user_id();
        let consents = self
            .consents
            .iter()
            .map(|p| (p, ConnectionState::Consented));
        let asked = self.asked.keys().map(|p| (p, ConnectionState::Asked));
        let mut all: Vec<_> = consents
            .chain(asked)
            .filter(|((of, peer), _)| {
                *of == user && list.after.as_ref().is_none_or(|after| peer > after)
            })
            .map(|((_, peer), state)| Connection {
                peer: peer.clone(),
                state,
                since: 1,
            })
            .collect();
        all.sort_by(|one, other| one.peer.cmp(&other.peer));
        all.truncate(256);
        ClientResponseBody::Connections {
            connections: List::new(all).unwrap(),
        }
    }

    pub(super) fn list_blocks(&self, of: &ClientId, list: &ListBlocks) -> ClientResponseBody {
        let user = of.user_id();
        let blocks = self
            .blocks
            .iter()
            .filter(|(of, _)| *of == user)
            .map(|(_, target)| target.clone())
            .filter(|target| list.after.as_ref().is_none_or(|after| target > after))
            .take(256)
            .collect();
        ClientResponseBody::Blocks {
            blocks: List::new(blocks).unwrap(),
        }
    }

    fn tell_decision(&mut self, by: &ClientId, peer: &UserId, decision: ConnectionDecision) {
        let notice = QueueItemPayload::ConnectionChanged(ConnectionChanged {
            peer: peer.clone(),
            decision,
        });
        self.notify_user(by, &notice);
    }
}
