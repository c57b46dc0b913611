//! What happens to a client, and to its groups.

use moh_messages::{ClientId, DsError, GroupId, ProviderName, UserId};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

/// Something that the application should know.
///
/// Events of one group come in the order in which all of its members see them.
// They are stored in the form of the wire, until the application has taken them.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Event {
    /// This client was added to a group and has joined it.
    #[tls_codec(discriminant = 0)]
    Joined {
        /// The group.
        group: GroupId,
        /// The provider that owns it.
        owner: ProviderName,
        /// The first epoch of this client.
        epoch: u64,
        /// All members, this client among them.
        members: Vec<ClientId>,
    },
    /// A member has written.
    #[tls_codec(discriminant = 1)]
    Message {
        /// The group.
        group: GroupId,
        /// Who wrote it; MLS has verified it.
        sender: ClientId,
        /// What.
        content: Vec<u8>,
        /// The epoch that it was written in.
        epoch: u64,
        /// When this client's provider took it, in milliseconds since the Unix epoch.
        received_at: u64,
    },
    /// There are other members now. Show it to your user where clients were added to somebody
    /// they know: a new client reads all that follows. One that is both among those added and
    /// among those removed has another key now: whoever holds that came in its place.
    #[tls_codec(discriminant = 2)]
    MembersChanged {
        /// The group.
        group: GroupId,
        /// Who made the change.
        by: ClientId,
        /// Clients that are members now.
        added: Vec<ClientId>,
        /// Clients that are members no longer.
        removed: Vec<ClientId>,
        /// The epoch that this began.
        epoch: u64,
    },
    /// A member has renewed its keys.
    #[tls_codec(discriminant = 3)]
    Updated {
        /// The group.
        group: GroupId,
        /// Who.
        by: ClientId,
        /// The epoch that this began.
        epoch: u64,
    },
    /// This client is no member of the group any more; its state of it is deleted.
    #[tls_codec(discriminant = 4)]
    Removed {
        /// The group.
        group: GroupId,
        /// Who made the change.
        by: ClientId,
    },
    /// An earlier request, whose answer had been lost, has its answer now.
    #[tls_codec(discriminant = 5)]
    Settled {
        /// The group.
        group: GroupId,
        /// What was asked.
        operation: Operation,
        /// What came of it.
        outcome: Outcome,
    },
    /// Something arrived that cannot be read. It is left out; what follows is not affected.
    #[tls_codec(discriminant = 6)]
    Undecodable {
        /// The group, where that much could be read.
        group: Option<GroupId>,
        /// The provider that delivered it.
        sender: ProviderName,
        /// What is wrong with it.
        reason: Reason,
        /// When this client's provider took it, in milliseconds since the Unix epoch.
        received_at: u64,
    },
    /// The owner says that a group was deleted; this client's state of it is deleted.
    #[tls_codec(discriminant = 7)]
    Deleted {
        /// The group.
        group: GroupId,
    },
    /// A group has other admins now.
    #[tls_codec(discriminant = 8)]
    AdminsChanged {
        /// The group.
        group: GroupId,
        /// Who made the change.
        by: ClientId,
        /// Who they are.
        admins: Vec<UserId>,
        /// The epoch that this began.
        epoch: u64,
    },
    /// A user asks to be connected: see [`Client::accept`](crate::Client::accept) and
    /// [`Client::decline`](crate::Client::decline).
    #[tls_codec(discriminant = 9)]
    ConnectionRequested {
        /// Who asks.
        peer: UserId,
        /// The connection group that this client would join.
        group: GroupId,
        /// When this client's provider took it, in milliseconds since the Unix epoch.
        received_at: u64,
    },
    /// This client's user and a peer are connected: they can write to each other in the
    /// connection group, and each may add the other to groups.
    #[tls_codec(discriminant = 10)]
    Connected {
        /// The other user.
        peer: UserId,
        /// The connection group.
        group: GroupId,
    },
    /// A connection is over, or does not come about; its group is gone from here.
    #[tls_codec(discriminant = 11)]
    Disconnected {
        /// The other user.
        peer: UserId,
        /// Why.
        reason: DisconnectReason,
    },
    /// This client has uploaded KeyPackages of its own accord, because there were few left.
    #[tls_codec(discriminant = 12)]
    KeyPackagesRefilled {
        /// How many.
        count: u32,
    },
    /// This client's provider has attested its key anew.
    #[tls_codec(discriminant = 13)]
    AttestationRenewed {
        /// The last millisecond since the Unix epoch at which it may enter a group.
        not_after_ms: u64,
    },
    /// This client could not follow a group, or had lost it, and has joined it again by itself.
    /// What was written meanwhile is lost to it.
    #[tls_codec(discriminant = 14)]
    Rejoined {
        /// The group.
        group: GroupId,
        /// The epoch that this began.
        epoch: u64,
    },
    /// The provider of a member does not vouch for the member's key: whoever holds it may be
    /// somebody else. Warn your user.
    #[tls_codec(discriminant = 15)]
    NotAttested {
        /// The group.
        group: GroupId,
        /// Whom the member says to be.
        client: ClientId,
        /// What is wrong.
        reason: NotAttestedReason,
    },
    /// This client's user has another device, or one less. Where your user does not know of a
    /// new one, somebody else has it.
    #[tls_codec(discriminant = 16)]
    DevicesChanged {
        /// Which.
        client: ClientId,
        /// Whether it is new; otherwise it was deleted.
        #[tls_codec(with = "flag")]
        added: bool,
    },
    /// The state database was lost. This client has begun a new one with the key that was kept
    /// apart from it; the groups that it is in come back, one by one, as
    /// [`Event::Rejoined`] when something arrives for them.
    #[tls_codec(discriminant = 17)]
    StateLost,
    /// This client cannot follow a group any more, and is about to join it again.
    #[tls_codec(discriminant = 18)]
    GroupLost {
        /// The group.
        group: GroupId,
    },
}

/// A `bool` in the form of the wire.
mod flag {
    use std::io::Write;

    use tls_codec::{DeserializeBytes, Error, Serialize};

    pub(super) fn tls_serialized_len(_: &bool) -> usize {
        1
    }

    pub(super) fn tls_serialize<W: Write>(value: &bool, writer: &mut W) -> Result<usize, Error> {
        u8::from(*value).tls_serialize(writer)
    }

    pub(super) fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(bool, &[u8]), Error> {
        let (value, rest) = u8::tls_deserialize_bytes(bytes)?;
        match value {
            0 => Ok((false, rest)),
            1 => Ok((true, rest)),
            other => Err(Error::UnknownValue(other.into())),
        }
    }
}

impl Event {
    /// The group that it is about; none where what arrived could not be read that far, and where
    /// it is not about a group.
    #[must_use]
    pub fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Joined { group, .. }
            | Self::Message { group, .. }
            | Self::MembersChanged { group, .. }
            | Self::Updated { group, .. }
            | Self::Removed { group, .. }
            | Self::Settled { group, .. }
            | Self::Deleted { group }
            | Self::AdminsChanged { group, .. }
            | Self::ConnectionRequested { group, .. }
            | Self::Connected { group, .. }
            | Self::Rejoined { group, .. }
            | Self::NotAttested { group, .. }
            | Self::GroupLost { group } => Some(group),
            Self::Undecodable { group, .. } => group.as_ref(),
            Self::Disconnected { .. }
            | Self::KeyPackagesRefilled { .. }
            | Self::AttestationRenewed { .. }
            | Self::DevicesChanged { .. }
            | Self::StateLost => None,
        }
    }
}

/// What a request to a group's owner asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Operation {
    /// To create the group.
    CreateGroup = 0,
    /// To add users, or devices of users.
    Add = 1,
    /// To renew this client's keys.
    Update = 2,
    /// To send a message.
    Message = 3,
    /// To be told what is needed to join.
    Join = 4,
    /// To remove users, or devices of this client's user.
    Remove = 5,
    /// To end the group.
    Delete = 6,
    /// To say who the admins are, or which key is the owner's.
    SetRoles = 7,
    /// To leave, as soon as another member commits it.
    Leave = 8,
    /// To join, or to join again, without a Welcome.
    ExternalJoin = 9,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Outcome {
    /// The owner took it, and everybody gets it.
    #[tls_codec(discriminant = 0)]
    Accepted,
    /// The owner refused it; nothing has changed.
    #[tls_codec(discriminant = 1)]
    Refused(DsError),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum DisconnectReason {
    /// What was asked was declined: by the peer, or by another device of this client's user.
    Declined = 0,
    /// The peer has ended it, or is gone.
    Ended = 1,
    /// Another device of this client's user has ended it.
    Withdrawn = 2,
    /// What this client's user had asked could not be sent.
    NotSent = 3,
}

impl std::fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Declined => "declined",
            Self::Ended => "ended by the peer",
            Self::Withdrawn => "ended by another device",
            Self::NotSent => "could not be asked",
        })
    }
}

/// Why a member's key is not taken for theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum NotAttestedReason {
    /// There is no attestation that names this client and this key.
    Missing = 0,
    /// The client's provider has no key of the name that the attestation gives.
    UnknownKey = 1,
    /// The signature is not the provider's.
    Signature = 2,
    /// The attestation was not valid when the member entered the group.
    Times = 3,
}

impl std::fmt::Display for NotAttestedReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "no attestation of this client and key",
            Self::UnknownKey => "attested by a key that its provider does not have",
            Self::Signature => "the signature of the attestation is not its provider's",
            Self::Times => "the attestation was not valid at that time",
        })
    }
}

/// Why something that arrived cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Reason {
    /// It is no MLS message.
    Malformed = 0,
    /// This client is not in that group.
    UnknownGroup = 1,
    /// It came from a provider that does not own the group.
    NotFromOwner = 2,
    /// MLS refuses it: it is for another epoch, was there before, or does not verify. Or it
    /// proposes something that only members may do, and only by a commit.
    Refused = 3,
    /// A Welcome that was made with none of this client's KeyPackages.
    NoKeyPackage = 4,
    /// A Welcome into a group that this client is in.
    AlreadyJoined = 5,
    /// A Welcome whose group the owner does not let this client join any more.
    JoinRefused = 6,
    /// A kind of item that this version does not know what to do with.
    Unsupported = 7,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "no MLS message",
            Self::UnknownGroup => "not in that group",
            Self::NotFromOwner => "not from the group's owner",
            Self::Refused => "refused",
            Self::NoKeyPackage => "no KeyPackage for this Welcome",
            Self::AlreadyJoined => "already in that group",
            Self::JoinRefused => "the owner refused the join",
            Self::Unsupported => "not supported",
        })
    }
}
