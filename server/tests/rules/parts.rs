//! MLS messages as their parts (RFC 9420), so that one can be changed and the rest be as it was:
//! everything is signed anew.

use std::io::Write;

use aws_lc_rs::digest;
use moh_messages::{Extension, List, Message, Opaque, extension_type, label, sign_content};
use openmls_traits::signatures::Signer;
use tls_codec::{DeserializeBytes, Serialize, TlsDeserializeBytes, TlsSerialize, TlsSize};

/// Any bytes.
pub(crate) type Bytes = Opaque<{ 8 << 20 }>;
/// Any extensions.
pub(crate) type Extensions = List<Extension, 128>;

pub(crate) fn bytes(content: impl Into<Vec<u8>>) -> Bytes {
    Bytes::new(content).unwrap()
}

pub(crate) fn extension(extension_type: u16, content: impl Into<Vec<u8>>) -> Extension {
    Extension {
        extension_type,
        extension_data: Opaque::new(content).unwrap(),
    }
}

/// An extension's content, if it is there.
pub(crate) fn content<T: Message>(extensions: &Extensions, number: u16) -> T {
    let found = extensions.iter().find(|e| e.extension_type == number);
    T::decode(found.unwrap().extension_data.as_slice()).unwrap()
}

/// Puts an extension in the place of one of its type, or at the end; or leaves it out.
pub(crate) fn set(extensions: &mut Extensions, number: u16, content: Option<Vec<u8>>) {
    let mut all = extensions.clone().into_vec();
    let place = all.iter().position(|e| e.extension_type == number);
    match (place, content) {
        (Some(place), Some(content)) => all[place] = extension(number, content),
        (None, Some(content)) => all.push(extension(number, content)),
        (Some(place), None) => drop(all.remove(place)),
        (None, None) => {}
    }
    *extensions = List::new(all).unwrap();
}

fn signed(signer: &impl Signer, label: &str, content: &[u8]) -> Bytes {
    bytes(signer.sign(&sign_content(label, content)).unwrap())
}

fn sha256(content: &[u8]) -> Bytes {
    bytes(digest::digest(&digest::SHA256, content).as_ref())
}

/// Section 7.2.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Leaf {
    pub(crate) encryption_key: Bytes,
    pub(crate) signature_key: Bytes,
    pub(crate) credential_type: u16,
    pub(crate) identity: Bytes,
    pub(crate) versions: List<u16, 16>,
    pub(crate) cipher_suites: List<u16, 64>,
    pub(crate) extension_types: List<u16, 128>,
    pub(crate) proposal_types: List<u16, 64>,
    pub(crate) credential_types: List<u16, 64>,
    pub(crate) source: Source,
    pub(crate) extensions: Extensions,
    signature: Bytes,
}

#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub(crate) enum Source {
    #[tls_codec(discriminant = 1)]
    KeyPackage { not_before: u64, not_after: u64 },
    #[tls_codec(discriminant = 2)]
    Update,
    #[tls_codec(discriminant = 3)]
    Commit { parent_hash: Bytes },
}

impl Leaf {
    /// Signs it; within a group, where it comes from a commit.
    pub(crate) fn sign(&mut self, signer: &impl Signer, place: Option<(&[u8], u32)>) {
        self.signature = bytes([]);
        let mut tbs = self.encode();
        tbs.pop();
        if let Some((group_id, leaf)) = place {
            bytes(group_id).tls_serialize(&mut tbs).unwrap();
            leaf.tls_serialize(&mut tbs).unwrap();
        }
        self.signature = signed(signer, "LeafNodeTBS", &tbs);
    }

    pub(crate) fn set<T: Message>(&mut self, number: u16, content: &T) {
        set(&mut self.extensions, number, Some(content.encode()));
    }

    pub(crate) fn without(&mut self, number: u16) {
        set(&mut self.extensions, number, None);
    }

    pub(crate) fn queue(&self) -> moh_messages::QueueConfig {
        content(&self.extensions, extension_type::QUEUE_CONFIG)
    }

    pub(crate) fn attestation(&self) -> moh_messages::Attestation {
        content(&self.extensions, extension_type::ATTESTATION)
    }
}

/// Section 10: an MLSMessage with one.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct KeyPackage {
    version: u16,
    wire_format: u16,
    pub(crate) inner: KeyPackageParts,
}

#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct KeyPackageParts {
    pub(crate) version: u16,
    pub(crate) cipher_suite: u16,
    init_key: Bytes,
    pub(crate) leaf: Leaf,
    extensions: Extensions,
    signature: Bytes,
}

impl KeyPackage {
    pub(crate) fn sign(&mut self, signer: &impl Signer) {
        self.inner.leaf.sign(signer, None);
        self.sign_but_not_the_leaf(signer);
    }

    pub(crate) fn sign_but_not_the_leaf(&mut self, signer: &impl Signer) {
        self.inner.signature = bytes([]);
        let mut tbs = self.inner.encode();
        tbs.pop();
        self.inner.signature = signed(signer, "KeyPackageTBS", &tbs);
    }

    /// Section 5.2.
    pub(crate) fn reference(&self) -> Bytes {
        let label = bytes(b"MLS 1.0 KeyPackage Reference".to_vec());
        let value = bytes(self.inner.encode());
        sha256(&[label.encode(), value.encode()].concat())
    }
}

/// Section 8.1.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Context {
    version: u16,
    pub(crate) cipher_suite: u16,
    pub(crate) group_id: Bytes,
    pub(crate) epoch: u64,
    tree_hash: Bytes,
    pub(crate) confirmed_transcript_hash: Bytes,
    pub(crate) extensions: Extensions,
}

/// Section 12.4.3: an MLSMessage with one.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct GroupInfo {
    version: u16,
    wire_format: u16,
    pub(crate) context: Context,
    pub(crate) extensions: Extensions,
    pub(crate) confirmation_tag: Bytes,
    pub(crate) signer: u32,
    pub(crate) signature: Bytes,
}

impl GroupInfo {
    /// The tree is this leaf.
    pub(crate) fn set_only_leaf(&mut self, leaf: &Leaf) {
        let mut input = vec![1, 0, 0, 0, 0, 1];
        input.extend(leaf.encode());
        self.context.tree_hash = sha256(&input);
    }

    pub(crate) fn sign(&mut self, signer: &impl Signer) {
        let mut tbs = self.context.encode();
        self.extensions.tls_serialize(&mut tbs).unwrap();
        self.confirmation_tag.tls_serialize(&mut tbs).unwrap();
        self.signer.tls_serialize(&mut tbs).unwrap();
        self.signature = signed(signer, label::GROUP_INFO, &tbs);
    }
}

/// Section 6: who sends a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub(crate) enum Sender {
    #[tls_codec(discriminant = 1)]
    Member(u32),
    #[tls_codec(discriminant = 2)]
    External(u32),
    #[tls_codec(discriminant = 3)]
    NewMemberProposal,
    #[tls_codec(discriminant = 4)]
    NewMemberCommit,
}

/// Whatever is left: the membership_tag of a member's message, and nothing of others'.
#[derive(Clone, Default)]
struct Rest(Vec<u8>);

impl tls_codec::Size for Rest {
    fn tls_serialized_len(&self) -> usize {
        self.0.len()
    }
}

impl Serialize for Rest {
    fn tls_serialize<W: Write>(&self, writer: &mut W) -> Result<usize, tls_codec::Error> {
        writer.write_all(&self.0)?;
        Ok(self.0.len())
    }
}

impl DeserializeBytes for Rest {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), tls_codec::Error> {
        Ok((Self(bytes.to_vec()), &[]))
    }
}

/// Section 6: how an MLSMessage with a PublicMessage or a PrivateMessage begins.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Head {
    version: u16,
    wire_format: u16,
    pub(crate) group_id: Bytes,
    rest: Rest,
}

impl Head {
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        let head = Self::decode(message).ok();
        head.filter(|head| [1, 2].contains(&head.wire_format))
    }
}

/// Section 6.2: an MLSMessage with a PublicMessage that is a commit.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Commit {
    version: u16,
    wire_format: u16,
    pub(crate) group_id: Bytes,
    pub(crate) epoch: u64,
    pub(crate) sender: Sender,
    authenticated_data: Bytes,
    pub(crate) content_type: u8,
    /// ProposalOrRefs.
    pub(crate) proposals: Bytes,
    pub(crate) path: Option<Path>,
    signature: Bytes,
    pub(crate) confirmation_tag: Bytes,
    membership_tag: Rest,
}

/// Section 7.6.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Path {
    pub(crate) leaf: Leaf,
    nodes: Bytes,
}

impl Commit {
    /// Signs it, and the leaf in its path, which is to be at this place, in a group of this
    /// context.
    pub(crate) fn sign(&mut self, signer: &impl Signer, leaf: u32, context: &[u8]) {
        if let Some(path) = &mut self.path {
            path.leaf
                .sign(signer, Some((self.group_id.as_slice(), leaf)));
        }
        self.sign_but_not_the_leaf(signer, context);
    }

    pub(crate) fn sign_but_not_the_leaf(&mut self, signer: &impl Signer, context: &[u8]) {
        let mut content = self.clone();
        content.signature = bytes([]);
        content.confirmation_tag = bytes([]);
        content.membership_tag = Rest::default();
        let mut tbs = content.encode();
        tbs.truncate(tbs.len() - 2);
        tbs.extend_from_slice(context);
        self.signature = signed(signer, "FramedContentTBS", &tbs);
    }

    pub(crate) fn spoil_signature(&mut self) {
        let mut signature = self.signature.clone().into_vec();
        signature[10] ^= 1;
        self.signature = bytes(signature);
    }

    /// Puts another proposal at the end.
    pub(crate) fn also(&mut self, proposal_or_ref: &[u8]) {
        self.proposals = bytes([self.proposals.as_slice(), proposal_or_ref].concat());
    }
}

/// An MLSMessage with a PublicMessage that is a proposal, signed in a group of this context.
pub(crate) fn proposal_message(
    place: (&[u8], u64),
    sender: Sender,
    proposal: &[u8],
    signer: &impl Signer,
    context: &[u8],
) -> Vec<u8> {
    proposal_message_with(place, sender, &[], proposal, signer, context)
}

/// The same, with authenticated data.
pub(crate) fn proposal_message_with(
    place: (&[u8], u64),
    sender: Sender,
    data: &[u8],
    proposal: &[u8],
    signer: &impl Signer,
    context: &[u8],
) -> Vec<u8> {
    let mut content = vec![0, 1, 0, 1];
    bytes(place.0).tls_serialize(&mut content).unwrap();
    place.1.tls_serialize(&mut content).unwrap();
    sender.tls_serialize(&mut content).unwrap();
    bytes(data).tls_serialize(&mut content).unwrap();
    content.push(2);
    content.extend_from_slice(proposal);
    let in_context = matches!(sender, Sender::Member(_));
    let context = if in_context { context } else { &[] };
    let signature = signed(
        signer,
        "FramedContentTBS",
        &[&content[..], context].concat(),
    );
    signature.tls_serialize(&mut content).unwrap();
    if in_context {
        bytes([0; 32]).tls_serialize(&mut content).unwrap();
    }
    content
}

/// Section 6.2: an MLSMessage with a PublicMessage that is a Remove.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Remove {
    version: u16,
    wire_format: u16,
    pub(crate) group_id: Bytes,
    pub(crate) epoch: u64,
    pub(crate) sender: Sender,
    authenticated_data: Bytes,
    content_type: u8,
    proposal_type: u16,
    pub(crate) removed: u32,
    signature: Bytes,
    membership_tag: Rest,
}

impl Remove {
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        let remove = Self::decode(message).ok()?;
        let kind = (
            remove.wire_format,
            remove.content_type,
            remove.proposal_type,
        );
        (kind == (1, 2, 3)).then_some(remove)
    }
}

/// Section 12.1.1.
pub(crate) fn add(key_package: &KeyPackage) -> Vec<u8> {
    [&[0, 1][..], &key_package.inner.encode()].concat()
}

/// Section 12.1.2.
pub(crate) fn update(leaf: &Leaf) -> Vec<u8> {
    [&[0, 2][..], &leaf.encode()].concat()
}

/// Section 12.1.3.
pub(crate) fn remove(leaf: u32) -> Vec<u8> {
    [&[0, 3][..], &leaf.to_be_bytes()].concat()
}

/// Section 12.1.4: an external one.
pub(crate) fn pre_shared_key() -> Vec<u8> {
    let (name, nonce) = (bytes([7; 4]).encode(), bytes([8; 32]).encode());
    [&[0, 4, 1][..], &name, &nonce].concat()
}

/// Section 12.1.5.
pub(crate) fn re_init(group_id: &[u8], version: u16, cipher_suite: u16) -> Vec<u8> {
    let mut proposal = [&[0, 5][..], &bytes(group_id).encode()].concat();
    proposal.extend(version.to_be_bytes());
    proposal.extend(cipher_suite.to_be_bytes());
    proposal.push(0);
    proposal
}

/// Section 12.1.6.
pub(crate) fn external_init() -> Vec<u8> {
    [&[0, 6][..], &bytes([9; 32]).encode()].concat()
}

/// Section 12.1.7.
pub(crate) fn group_context_extensions(extensions: &Extensions) -> Vec<u8> {
    [&[0, 7][..], &extensions.encode()].concat()
}

/// A ProposalOrRef that is a proposal.
pub(crate) fn by_value(proposal: &[u8]) -> Vec<u8> {
    [&[1][..], proposal].concat()
}

/// A ProposalOrRef that is a reference.
pub(crate) fn by_reference(reference: [u8; 32]) -> Vec<u8> {
    [&[2][..], &bytes(reference).encode()].concat()
}

/// Section 12.4.3.1: an MLSMessage with one.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Welcome {
    version: u16,
    wire_format: u16,
    pub(crate) cipher_suite: u16,
    pub(crate) secrets: List<Secrets, 1000>,
    pub(crate) encrypted_group_info: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Secrets {
    pub(crate) new_member: Bytes,
    kem_output: Bytes,
    ciphertext: Bytes,
}
