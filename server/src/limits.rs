//! Every bound, with its unit.

use serde::{Deserialize, Serialize};

/// What a provider takes. Values beyond what the types of the protocol hold have no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Members of a group. More than 2,000 need more of `max_tree_bytes`, about 500 bytes each; and
    /// beyond some 25,000 a commit with a path fits into a handshake message only where members
    /// have committed all over the tree, so that its path names few leaves one by one.
    pub max_members: usize,
    /// How often a client may join a group again within an hour.
    pub max_rejoins_per_hour: usize,
    /// A group's tree that is handed out to those who join, and that our own clients get from
    /// other providers, in bytes: about 1,000 for each member. With fewer than the largest
    /// groups need, nobody can join these.
    pub max_tree_bytes: usize,
    /// Clients of a user.
    pub max_clients_per_user: u32,
    /// KeyPackages that are kept for a client.
    pub max_key_packages_per_client: u64,
    /// With fewer KeyPackages left to hand out, a client is told to upload more; 0: never.
    pub low_key_packages: u64,
    /// Users who have asked a user to be connected, without an answer.
    pub max_pending_connection_requests: u64,
    /// Users that a user consents to, or is asked by.
    pub max_connections_per_user: u64,
    /// Users and providers that a user blocks.
    pub max_blocks_per_user: u64,
    /// Groups that are kept in memory, decoded, in bytes (an estimate).
    pub max_cached_groups_bytes: u64,
    /// Connections at once.
    pub max_connections: usize,
    /// How long a TLS handshake may take, in milliseconds.
    pub tls_handshake_ms: u64,
    /// How long the headers of a request may take, in milliseconds.
    pub request_headers_ms: u64,
    /// How long the body of a request may take, in milliseconds.
    pub request_body_ms: u64,
    /// How long a request to another provider may take, in milliseconds.
    pub peer_request_ms: u64,
    /// How long it may take to connect to another provider, in milliseconds.
    pub peer_connect_ms: u64,
    /// How long it may take to ask another provider's name where it is, in milliseconds.
    pub discovery_ms: u64,
    /// How long a client may wait for its queue in one request, in milliseconds.
    pub max_queue_wait_ms: u32,
    /// How long something for another provider is tried, in hours; at most 168, as others forget
    /// after 8 days what they have taken.
    pub outbox_expiry_hours: u64,
    /// What waits for one other provider, in bytes: payloads, and 256 for each. Beyond it the oldest
    /// is not tried any more, and a record of it remains.
    pub max_outbox_bytes_per_peer: u64,
    /// Payloads for one other provider that are not tried any more, and kept for the operator, in
    /// bytes. Beyond it the oldest ones are given up, and their records remain.
    pub max_set_aside_bytes_per_peer: u64,
    /// How long messages that a client does not fetch are kept, and records of what
    /// is not tried any more, in days; at least 8.
    pub keep_messages_days: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_members: 2_000,
            max_rejoins_per_hour: 10,
            max_tree_bytes: 16 << 20,
            max_clients_per_user: 32,
            max_key_packages_per_client: 1_000,
            low_key_packages: 20,
            max_pending_connection_requests: 1_000,
            max_connections_per_user: 10_000,
            max_blocks_per_user: 10_000,
            max_cached_groups_bytes: 256 << 20,
            max_connections: 10_000,
            tls_handshake_ms: 10_000,
            request_headers_ms: 10_000,
            request_body_ms: 30_000,
            peer_request_ms: 30_000,
            peer_connect_ms: 5_000,
            discovery_ms: 5_000,
            max_queue_wait_ms: 60_000,
            outbox_expiry_hours: 168,
            max_outbox_bytes_per_peer: 1 << 30,
            max_set_aside_bytes_per_peer: 64 << 20,
            keep_messages_days: 30,
        }
    }
}
