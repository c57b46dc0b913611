//! What an operator sees and does while the provider runs: a Unix socket with JSON over HTTP/1.1,
//! and its client.
//!
//! | Request | Answer |
//! | --- | --- |
//! | `GET /peers?after=&limit=` | [`Peers`] |
//! | `POST /peers/{name}/retry` | [`Woken`]: the peer is tried now, whenever its next try was |
//! | `GET /set-aside?peer=&after=&limit=` | [`SetAsidePage`] |
//! | `POST /set-aside/retry` with [`Selection`] | [`Count`] of those that wait again |
//! | `POST /set-aside/drop` with [`Selection`] | [`Count`] of those that are gone |
//! | `GET /policy` | [`Policy`] |
//! | `POST /policy/reload` | [`Reloaded`], as after SIGHUP |
//!
//! A request that is refused is answered with RFC 9457 problem details. Times are in milliseconds
//! since the Unix epoch, by the clock of the provider.

mod client;
mod operations;
mod routes;
mod socket;

pub use client::{Client, ClientError};
pub use socket::{AdminListener, SocketError};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::Reload;
use crate::node::Node;

/// So many peers, or deliveries that are set aside, are told at once, when no `limit` is said.
pub const DEFAULT_PAGE: usize = 100;
/// And at most.
pub const MAX_PAGE: usize = 1_000;
/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The other providers that are known of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// Now.
    pub now_ms: u64,
    /// Who is asked.
    pub provider: String,
    /// By name.
    pub peers: Vec<Peer>,
    /// Where there may be more: what to ask for as `after`.
    pub next_after: Option<String>,
}

/// What there is between us and another provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub provider: String,
    /// What we are doing about it.
    #[serde(flatten)]
    pub state: PeerState,
    /// How many deliveries wait for it.
    pub waiting: u64,
    /// Their payloads, in bytes.
    pub waiting_bytes: u64,
    /// Since when the oldest of them waits: how far behind the peer is.
    pub oldest_at_ms: Option<u64>,
    /// Deliveries that it does not get without the operator: it refused them, or they expired.
    pub set_aside: u64,
    /// Of these, the payloads that are kept, in bytes.
    pub set_aside_bytes: u64,
    /// Records of what was set aside that were removed before their time, as there were too many.
    pub forgotten: u64,
    /// When it was heard of last, since we have started: an answer, or a request of its own.
    pub last_alive_at_ms: Option<u64>,
}

/// What is being done about what waits for a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PeerState {
    /// Nothing waits.
    Idle,
    /// It is being told.
    Sending,
    /// It is not reached, or does not take what waits, and is tried again.
    Failing {
        /// Since when.
        since_ms: u64,
        /// When it is tried again; now, when that is past.
        next_try_at_ms: u64,
        /// How often it has failed since then.
        failures: u32,
        /// How it failed the last time.
        reason: String,
    },
    /// The policy forbids to talk to it; what waits is kept until it expires.
    Paused,
}

/// Deliveries that are set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAsidePage {
    /// Now.
    pub now_ms: u64,
    /// The oldest first.
    pub set_aside: Vec<SetAside>,
    /// Where there may be more: what to ask for as `after`.
    pub next_after: Option<u64>,
}

/// A delivery that is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Its number.
    pub id: u64,
    /// Whom it is for.
    pub provider: String,
    /// What it is: `message`, `connection_request` or `client_deleted`.
    pub kind: String,
    /// Its group, as hexadecimal digits, where it is of one.
    pub group: Option<String>,
    /// The client of ours that is gone, where it says that.
    pub client: Option<String>,
    /// Why it was set aside: `refused`, `request_refused`, `expired`, `crowded` or `unreadable`.
    pub ending: String,
    /// The same in words, perhaps those of the other provider.
    pub reason: String,
    /// When it was made, or retried.
    pub created_at_ms: u64,
    /// When it was set aside.
    pub set_aside_at_ms: u64,
    /// Its payload, in bytes, also where that is not kept any more.
    pub bytes: u64,
    /// Whether it can be retried: where not, only this record is left of it.
    pub can_be_retried: bool,
}

/// Which of the deliveries that are set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Selection {
    /// Those with these numbers: `{"ids": [17, 18]}`.
    Ids(Vec<u64>),
    /// All that are for a provider: `{"peer": "b.example"}`.
    Peer(String),
}

/// How many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// So many.
    pub count: u64,
}

/// Whether there was something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Woken {
    /// Whether something waits for the peer, which is tried now.
    pub woken: bool,
}

/// Who may talk to this provider, and whom it talks to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `open` or `allow-listed`.
    pub policy: String,
    /// Who may, where it is `allow-listed`: domains, `*.domain` for all below one.
    pub allow: Vec<String>,
    /// Who may not in any case.
    pub block: Vec<String>,
}

/// What came of reading the configuration again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether the policy is another one now.
    pub changed: bool,
    /// The policy, as it is now.
    pub policy: Policy,
    /// Other settings that have changed in the file, which need a restart.
    pub need_restart: Vec<String>,
}

/// What the socket is about: a provider, and how its configuration is read again.
pub struct Admin {
    node: Node,
    reload: Option<Arc<Reload>>,
}

impl Admin {
    /// For a provider that runs; none: without a configuration.
    #[must_use]
    pub fn new(node: Node, reload: Option<Arc<Reload>>) -> Self {
        Self { node, reload }
    }
}
