//! What the provider says and does: its own types become those of the socket.

use moh_messages::ProviderName;

use super::{
    Admin, Count, Peer, PeerState, Peers, Policy, Reloaded, SetAside, SetAsidePage, Woken,
};
use crate::change::Ending;
use crate::outbox::{self, Chosen, PeerStatus};
use crate::store::{About, SetAsideRow, StoreError};

impl Admin {
    pub(super) async fn peers(
        &self,
        after: Option<&ProviderName>,
        limit: usize,
    ) -> Result<Peers, StoreError> {
        let found = self.node.peers(after, limit).await?;
        let is_full = found.len() >= limit;
        let last = found.last().filter(|_| is_full);
        Ok(Peers {
            now_ms: self.node.now_ms(),
            provider: self.node.name().to_string(),
            next_after: last.map(|peer| peer.provider.to_string()),
            peers: found.into_iter().map(peer).collect(),
        })
    }

    pub(super) async fn retry_peer(&self, peer: &ProviderName) -> Result<Woken, StoreError> {
        let woken = self.node.retry_peer_now(peer).await?;
        Ok(Woken { woken })
    }

    pub(super) async fn set_aside(
        &self,
        peer: Option<&ProviderName>,
        after: u64,
        limit: usize,
    ) -> Result<SetAsidePage, StoreError> {
        let found = self.node.set_aside(peer, after, limit).await?;
        let is_full = found.len() >= limit;
        let last = found.last().filter(|_| is_full);
        Ok(SetAsidePage {
            now_ms: self.node.now_ms(),
            next_after: last.map(|row| row.id),
            set_aside: found.into_iter().map(set_aside).collect(),
        })
    }

    pub(super) async fn retry_set_aside(&self, chosen: &Chosen) -> Result<Count, StoreError> {
        let count = self.node.retry_set_aside(chosen).await?;
        Ok(Count { count })
    }

    pub(super) async fn drop_set_aside(&self, chosen: &Chosen) -> Result<Count, StoreError> {
        let count = self.node.drop_set_aside(chosen).await?;
        Ok(Count { count })
    }

    pub(super) fn policy(&self) -> Policy {
        let policy = self.node.peer_policy();
        let texts = |patterns: &std::collections::BTreeSet<_>| {
            let texts = patterns.iter().map(ToString::to_string);
            texts.collect()
        };
        Policy {
            policy: policy.admission.to_string(),
            allow: texts(&policy.allow),
            block: texts(&policy.block),
        }
    }

    /// What came of it; or why nothing is changed.
    pub(super) async fn reload(&self) -> Result<Reloaded, String> {
        let Some(reload) = &self.reload else {
            return Err("the provider runs without a configuration".to_owned());
        };
        let reloaded = reload.reload(&self.node).await;
        let reloaded = reloaded.map_err(|error| error.to_string())?;
        let need_restart = reloaded.need_restart.into_iter().map(str::to_owned);
        Ok(Reloaded {
            changed: reloaded.policy_changed,
            policy: self.policy(),
            need_restart: need_restart.collect(),
        })
    }
}

fn peer(status: PeerStatus) -> Peer {
    Peer {
        provider: status.provider.to_string(),
        state: match status.state {
            outbox::PeerState::Idle => PeerState::Idle,
            outbox::PeerState::Sending => PeerState::Sending,
            outbox::PeerState::Waiting {
                until_ms,
                since_ms,
                failures,
                reason,
            } => PeerState::Failing {
                since_ms,
                next_try_at_ms: until_ms,
                failures,
                reason,
            },
            outbox::PeerState::Paused => PeerState::Paused,
        },
        waiting: status.waiting,
        waiting_bytes: status.waiting_bytes,
        oldest_at_ms: status.oldest_at,
        set_aside: status.set_aside,
        set_aside_bytes: status.set_aside_bytes,
        forgotten: status.forgotten,
        last_alive_at_ms: status.last_alive_at,
    }
}

fn set_aside(row: SetAsideRow) -> SetAside {
    let (kind, group, client) = match row.about {
        About::Message(group) => ("message", Some(group), None),
        About::ConnectionRequest(group) => ("connection_request", Some(group), None),
        About::ClientDeleted(client) => ("client_deleted", None, Some(client)),
    };
    SetAside {
        id: row.id,
        provider: row.destination.to_string(),
        kind: kind.to_owned(),
        group: group.map(|group| hex::encode(group.as_slice())),
        client: client.map(|client| client.to_string()),
        ending: match row.ending {
            Ending::Refused => "refused",
            Ending::RequestRefused => "request_refused",
            Ending::Expired => "expired",
            Ending::Crowded => "crowded",
            Ending::Unreadable => "unreadable",
        }
        .to_owned(),
        reason: row.reason,
        created_at_ms: row.created_at,
        set_aside_at_ms: row.set_aside_at,
        bytes: row.bytes,
        can_be_retried: row.can_be_retried,
    }
}
