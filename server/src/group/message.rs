//! As much of an MLS message as has to be known before its group is: RFC 9420 sections 6 and
//! 12.4, read without trusting any of it.

use moh_messages::{GroupId, Opaque};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, ProposalOrRefIn, PublicMessageIn, Sender};
use tls_codec::{DeserializeBytes, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::error::Refusal;

/// A handshake message of a member: a PublicMessage.
pub struct Handshake {
    /// The group that it says it is of.
    pub group_id: GroupId,
    /// The epoch that it says it is of.
    pub epoch: u64,
    /// The leaf that it says it is from; none where it is not from a member.
    pub sender_leaf: Option<u32>,
    /// Types of the proposals that a commit holds by value; none where it is not a commit.
    pub by_value: Option<Vec<u16>>,
    /// Whether it is a commit with a path.
    pub has_path: bool,
    /// The message.
    pub(super) message: PublicMessageIn,
    /// The message as it came.
    pub(super) bytes: Vec<u8>,
}

/// An application message: a PrivateMessage, of which this is all that can be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Application {
    /// The group that it says it is of.
    pub group_id: GroupId,
    /// The epoch that it says it is of.
    pub epoch: u64,
}

const PROTOCOL_VERSION_MLS10: u16 = 1;
const WIRE_FORMAT_PUBLIC: u16 = 1;
const WIRE_FORMAT_PRIVATE: u16 = 2;
const WIRE_FORMATS: std::ops::RangeInclusive<u16> = 1..=5;
const CONTENT_TYPE_APPLICATION: u8 = 1;
const CONTENT_TYPE_COMMIT: u8 = 3;

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Head {
    protocol_version: u16,
    wire_format: u16,
    group_id: GroupId,
    epoch: u64,
}

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
enum HeadSender {
    #[tls_codec(discriminant = 1)]
    Member(u32),
    #[tls_codec(discriminant = 2)]
    External(u32),
    #[tls_codec(discriminant = 3)]
    NewMemberProposal,
    #[tls_codec(discriminant = 4)]
    NewMemberCommit,
}

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct ContentHead {
    sender: HeadSender,
    authenticated_data: Opaque<{ 64 << 10 }>,
    content_type: u8,
}

fn invalid(what: &str) -> Refusal {
    Refusal::InvalidMessage(what.to_owned())
}

fn violation(what: &str) -> Refusal {
    Refusal::PolicyViolation(what.to_owned())
}

/// Reads a PublicMessage.
///
/// # Errors
/// `policy_violation` when it is another MLSMessage; `invalid_message` when it is none.
pub fn read_handshake(bytes: &[u8]) -> Result<Handshake, Refusal> {
    let not_one = |_| invalid("not an MLSMessage with a PublicMessage");
    let (head, rest) = Head::tls_deserialize_bytes(bytes).map_err(not_one)?;
    check_head(&head, WIRE_FORMAT_PUBLIC, "handshakes are PublicMessages")?;
    let (content, rest) = ContentHead::tls_deserialize_bytes(rest).map_err(not_one)?;
    let (by_value, has_path) = if content.content_type == CONTENT_TYPE_COMMIT {
        let (proposals, rest) =
            Vec::<ProposalOrRefIn>::tls_deserialize_bytes(rest).map_err(not_one)?;
        let types = proposals.iter().filter_map(|proposal| match proposal {
            ProposalOrRefIn::Proposal(proposal) => Some(proposal.proposal_type().into()),
            ProposalOrRefIn::Reference(_) => None,
        });
        // optional<UpdatePath>.
        (Some(types.collect()), rest.first() == Some(&1))
    } else {
        (None, false)
    };
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(not_one)?;
    let MlsMessageBodyIn::PublicMessage(message) = message.extract() else {
        return Err(invalid("not an MLSMessage with a PublicMessage"));
    };
    let sender_leaf = match message.sender() {
        Sender::Member(leaf) => Some(leaf.u32()),
        Sender::External(_) | Sender::NewMemberProposal | Sender::NewMemberCommit => None,
    };
    Ok(Handshake {
        group_id: head.group_id,
        epoch: head.epoch,
        sender_leaf,
        by_value,
        has_path,
        message,
        bytes: bytes.to_vec(),
    })
}

fn check_head(head: &Head, wire_format: u16, rule: &str) -> Result<(), Refusal> {
    if head.protocol_version != PROTOCOL_VERSION_MLS10 || !WIRE_FORMATS.contains(&head.wire_format)
    {
        return Err(invalid("not an MLSMessage"));
    }
    if head.wire_format != wire_format {
        return Err(violation(rule));
    }
    Ok(())
}

/// Reads the outside of a PrivateMessage with application data.
///
/// # Errors
/// `policy_violation` when it is another MLSMessage, or what it holds is not application data;
/// `invalid_message` when it is none.
pub fn read_application(bytes: &[u8]) -> Result<Application, Refusal> {
    #[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
    struct Rest {
        content_type: u8,
        authenticated_data: Opaque<{ 64 << 10 }>,
        encrypted_sender_data: Opaque<256>,
        ciphertext: Opaque<{ 256 << 10 }>,
    }
    let not_one = |_| invalid("not an MLSMessage with a PrivateMessage");
    let (head, rest) = Head::tls_deserialize_bytes(bytes).map_err(not_one)?;
    check_head(
        &head,
        WIRE_FORMAT_PRIVATE,
        "application data is sent privately",
    )?;
    let rest = Rest::tls_deserialize_exact_bytes(rest).map_err(not_one)?;
    if rest.content_type != CONTENT_TYPE_APPLICATION {
        return Err(violation("only application data is sent privately"));
    }
    Ok(Application {
        group_id: head.group_id,
        epoch: head.epoch,
    })
}
