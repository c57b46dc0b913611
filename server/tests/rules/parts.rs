//! MLS messages as their parts (RFC 9420), so that one can be changed and the rest be as it was:
//! everything is signed anew.

use aws_lc_rs::digest;
use moh_messages::{Extension, List, Message, Opaque, extension_type, label, sign_content};
use openmls_traits::signatures::Signer;
use tls_codec::{Serialize, TlsDeserializeBytes, TlsSerialize, TlsSize};

/// Any bytes.
pub(crate) type Bytes = Opaque<{ 8 << 20 }>;
/// Any extensions.
pub(crate) type Extensions = List<Extension, 64>;

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
    pub(crate) extension_types: List<u16, 64>,
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
        self.inner.signature = bytes([]);
        let mut tbs = self.inner.encode();
        tbs.pop();
        self.inner.signature = signed(signer, "KeyPackageTBS", &tbs);
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
    confirmation_tag: Bytes,
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

/// Section 6.2: an MLSMessage with a PublicMessage of a member that is a commit.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Commit {
    version: u16,
    wire_format: u16,
    pub(crate) group_id: Bytes,
    pub(crate) epoch: u64,
    sender_type: u8,
    pub(crate) leaf: u32,
    authenticated_data: Bytes,
    pub(crate) content_type: u8,
    /// ProposalOrRefs.
    pub(crate) proposals: Bytes,
    pub(crate) path: Option<Path>,
    signature: Bytes,
    confirmation_tag: Bytes,
    membership_tag: Bytes,
}

/// Section 7.6.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Path {
    pub(crate) leaf: Leaf,
    nodes: Bytes,
}

impl Commit {
    /// Signs it, and the leaf in its path, in a group of this context.
    pub(crate) fn sign(&mut self, signer: &impl Signer, context: &[u8]) {
        if let Some(path) = &mut self.path {
            let place = (self.group_id.as_slice(), self.leaf);
            path.leaf.sign(signer, Some(place));
        }
        let (tag, member) = (self.confirmation_tag.clone(), self.membership_tag.clone());
        self.signature = bytes([]);
        self.confirmation_tag = bytes([]);
        self.membership_tag = bytes([]);
        let mut tbs = self.encode();
        tbs.truncate(tbs.len() - 3);
        tbs.extend_from_slice(context);
        self.signature = signed(signer, "FramedContentTBS", &tbs);
        self.confirmation_tag = tag;
        self.membership_tag = member;
    }
}

/// A ProposalOrRef with an Add by value.
pub(crate) fn add(key_package: &KeyPackage) -> Vec<u8> {
    [&[1, 0, 1][..], &key_package.inner.encode()].concat()
}

/// Section 12.4.3.1: an MLSMessage with one.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Welcome {
    version: u16,
    wire_format: u16,
    pub(crate) cipher_suite: u16,
    pub(crate) secrets: List<Secrets, 1000>,
    encrypted_group_info: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Secrets {
    pub(crate) new_member: Bytes,
    kem_output: Bytes,
    ciphertext: Bytes,
}
