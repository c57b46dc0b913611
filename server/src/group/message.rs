//! As much of an MLS message as has to be known before its group is: RFC 9420 sections 6 and
//! 12.4, read without trusting any of it.

use moh_messages::{ClientId, Extension, GroupId, List, Opaque};
use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, ProposalIn, ProposalOrRefIn, PublicMessageIn, Sender,
};
use tls_codec::{DeserializeBytes, Serialize, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::error::{Refusal, invalid, violation};

/// A handshake message: a PublicMessage.
pub struct Handshake {
    /// The group that it says it is of.
    pub group_id: GroupId,
    /// The epoch that it says it is of.
    pub epoch: u64,
    /// Who it says it is from.
    pub origin: Origin,
    /// What it holds.
    pub content: Content,
    /// The message.
    pub(super) message: PublicMessageIn,
    /// The message as it came.
    pub(super) bytes: Vec<u8>,
}

/// Who a handshake message is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The member at this leaf.
    Member(u32),
    /// Somebody who joins by it.
    NewMember,
    /// Somebody else.
    Outside,
}

/// What a handshake message holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// A commit.
    Commit(CommitContent),
    /// A proposal of its own.
    Proposal(Proposal),
    /// Something that no handshake message holds.
    Other,
}

/// A commit, as far as it can be read without its group.
#[derive(Debug, PartialEq, Eq)]
pub struct CommitContent {
    /// The proposals that it holds.
    pub by_value: Vec<Proposal>,
    /// The ProposalRefs of those that it takes from earlier messages.
    pub references: Vec<Vec<u8>>,
    /// Its path, if it has one.
    pub path: Option<PathContent>,
}

/// The path of a commit.
#[derive(Debug, PartialEq, Eq)]
pub struct PathContent {
    /// The client that its leaf names.
    pub client: Option<ClientId>,
}

/// A proposal, as far as the rules of the profile ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// Of this client; none where the credential does not name one.
    Add(Option<ClientId>),
    /// Of this leaf.
    Remove(u32),
    /// The end of the group, for another one.
    ReInit(ReInit),
    /// By which somebody joins.
    ExternalInit,
    /// All extensions of the GroupContext to be.
    GroupContextExtensions(Vec<Extension>),
    /// Another type.
    Other,
}

/// What a group is to be succeeded by (RFC 9420 section 12.1.5).
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReInit {
    /// The name of the group to be.
    pub group_id: GroupId,
    /// Its version of MLS.
    pub version: u16,
    /// Its ciphersuite.
    pub cipher_suite: u16,
    extensions: List<Extension, 64>,
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
const CONTENT_TYPE_PROPOSAL: u8 = 2;
const CONTENT_TYPE_COMMIT: u8 = 3;
const CREDENTIAL_TYPE_BASIC: u16 = 1;

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

/// Reads a PublicMessage.
///
/// # Errors
/// `policy_violation` when it is another MLSMessage; `invalid_message` when it is none.
pub fn read_handshake(bytes: &[u8]) -> Result<Handshake, Refusal> {
    let not_one = |_| invalid("not an MLSMessage with a PublicMessage");
    let (head, rest) = Head::tls_deserialize_bytes(bytes).map_err(not_one)?;
    check_head(&head, WIRE_FORMAT_PUBLIC, "handshakes are PublicMessages")?;
    let (content, rest) = ContentHead::tls_deserialize_bytes(rest).map_err(not_one)?;
    let content = match content.content_type {
        CONTENT_TYPE_COMMIT => Content::Commit(read_commit(rest).map_err(not_one)?),
        CONTENT_TYPE_PROPOSAL => {
            let (proposal, _) = ProposalIn::tls_deserialize_bytes(rest).map_err(not_one)?;
            Content::Proposal(Proposal::of(&proposal).map_err(not_one)?)
        }
        _ => Content::Other,
    };
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(not_one)?;
    let MlsMessageBodyIn::PublicMessage(message) = message.extract() else {
        return Err(invalid("not an MLSMessage with a PublicMessage"));
    };
    let origin = match message.sender() {
        Sender::Member(leaf) => Origin::Member(leaf.u32()),
        Sender::NewMemberCommit => Origin::NewMember,
        Sender::External(_) | Sender::NewMemberProposal => Origin::Outside,
    };
    Ok(Handshake {
        group_id: head.group_id,
        epoch: head.epoch,
        origin,
        content,
        message,
        bytes: bytes.to_vec(),
    })
}

fn read_commit(bytes: &[u8]) -> Result<CommitContent, tls_codec::Error> {
    let (proposals, rest) = Vec::<ProposalOrRefIn>::tls_deserialize_bytes(bytes)?;
    let (mut by_value, mut references) = (Vec::new(), Vec::new());
    for proposal in &proposals {
        match proposal {
            ProposalOrRefIn::Proposal(proposal) => by_value.push(Proposal::of(proposal)?),
            ProposalOrRefIn::Reference(reference) => references.push(reference.as_slice().to_vec()),
        }
    }
    // optional<UpdatePath>, which begins with a LeafNode.
    let path = match rest.split_first() {
        Some((1, path)) => {
            let (leaf, _) = LeafHead::tls_deserialize_bytes(path)?;
            Some(PathContent {
                client: leaf.client(),
            })
        }
        _ => None,
    };
    Ok(CommitContent {
        by_value,
        references,
        path,
    })
}

impl Proposal {
    fn of(proposal: &ProposalIn) -> Result<Self, tls_codec::Error> {
        Ok(match proposal {
            ProposalIn::Add(add) => {
                let bytes = add.tls_serialize_detached()?;
                let (head, _) = KeyPackageHead::tls_deserialize_bytes(&bytes)?;
                Self::Add(head.leaf.client())
            }
            ProposalIn::Remove(remove) => Self::Remove(remove.removed().u32()),
            ProposalIn::ReInit(reinit) => {
                let bytes = reinit.tls_serialize_detached()?;
                Self::ReInit(ReInit::tls_deserialize_exact_bytes(&bytes)?)
            }
            ProposalIn::ExternalInit(_) => Self::ExternalInit,
            ProposalIn::GroupContextExtensions(extensions) => {
                let bytes = extensions.tls_serialize_detached()?;
                let list = List::<Extension, 64>::tls_deserialize_exact_bytes(&bytes)?;
                Self::GroupContextExtensions(list.into_vec())
            }
            _ => Self::Other,
        })
    }
}

/// How a LeafNode begins.
#[derive(TlsSize, TlsDeserializeBytes)]
struct LeafHead {
    _encryption_key: Opaque<{ 8 << 10 }>,
    _signature_key: Opaque<{ 8 << 10 }>,
    credential_type: u16,
    identity: Opaque<{ 64 << 10 }>,
}

impl LeafHead {
    fn client(&self) -> Option<ClientId> {
        (self.credential_type == CREDENTIAL_TYPE_BASIC)
            .then(|| {
                std::str::from_utf8(self.identity.as_slice())
                    .ok()?
                    .parse()
                    .ok()
            })
            .flatten()
    }
}

/// How a KeyPackage begins.
#[derive(TlsSize, TlsDeserializeBytes)]
struct KeyPackageHead {
    _version: u16,
    _cipher_suite: u16,
    _init_key: Opaque<{ 8 << 10 }>,
    leaf: LeafHead,
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
