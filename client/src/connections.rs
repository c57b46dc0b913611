//! Connections: who may add whom to groups, and the groups of two users in which they came about.

use moh_messages::{GroupId, UserId};

/// A connection between this client's user and another one, as far as this client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The other user.
    pub peer: UserId,
    /// How far it is.
    pub state: ConnectionState,
    /// Its group. None as long as this client knows of none: another device may be in it.
    pub group: Option<GroupId>,
    /// When it came into this state, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// This client's user has asked.
    Sent,
    /// The peer has asked.
    Received,
    /// One has asked, and the other has accepted.
    Connected,
}
