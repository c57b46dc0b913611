//! Who may add a user to groups, who has asked, and who is not to ask.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::Boolean;
use crate::names::{ProviderName, UserId};

/// The most connections, or blocks, in one answer.
pub const MAX_LISTED: usize = 256;

/// ```text
/// enum { false(0), true(1), (255) } Boolean;
/// struct { UserID peer; Boolean allowed; } SetConsent;
/// ```
/// Whether `peer` may fetch KeyPackages of this client's user for groups. Answered by `ok`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetConsent {
    /// A user of any provider.
    pub peer: UserId,
    /// Whether they may.
    pub allowed: Boolean,
}

/// ```text
/// struct { optional<UserID> after; } ListConnections;
/// ```
/// Connections in the order of the peers' names. Answered by `connections`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ListConnections {
    /// Only those after this peer.
    pub after: Option<UserId>,
}

/// ```text
/// struct { UserID peer; } DeclineConnection;
/// ```
/// The user does not want what `peer` asked for; further deliveries of that group are not taken.
/// Answered by `ok`, also where nothing was asked.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeclineConnection {
    /// Who asked.
    pub peer: UserId,
}

/// ```text
/// struct { BlockTarget target;  Boolean blocked; } SetBlock;
/// ```
/// Whether connection requests of a user, or of all users of a provider, are thrown away. To block
/// withdraws the consent and declines what was asked. Answered by `ok`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SetBlock {
    /// Who.
    pub target: BlockTarget,
    /// Whether they are blocked from now on.
    pub blocked: Boolean,
}

/// ```text
/// struct { optional<BlockTarget> after; } ListBlocks;
/// ```
/// Users in the order of their names, then providers. Answered by `blocks`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ListBlocks {
    /// Only those after this one.
    pub after: Option<BlockTarget>,
}

/// ```text
/// enum { user(0), provider(1), (255) } BlockTargetType;
/// struct {
///   BlockTargetType type;
///   select (BlockTarget.type) {
///     case user:      UserID user;
///     case provider:  ProviderName provider;
///   }
/// } BlockTarget;
/// ```
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
#[repr(u8)]
pub enum BlockTarget {
    /// One user, of any provider.
    #[tls_codec(discriminant = 0)]
    User(UserId),
    /// All users of a provider.
    #[tls_codec(discriminant = 1)]
    Provider(ProviderName),
}

/// ```text
/// enum { asked(0), consented(1), (255) } ConnectionState;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ConnectionState {
    /// The peer has asked, and the user has not decided.
    Asked = 0,
    /// The peer may add the user to groups: the user has accepted, or has asked.
    Consented = 1,
}

/// ```text
/// struct { UserID peer;  ConnectionState state;  uint64 since; } Connection;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Connection {
    /// A user of any provider.
    pub peer: UserId,
    /// What the provider knows of it.
    pub state: ConnectionState,
    /// In milliseconds since the Unix epoch.
    pub since: u64,
}
