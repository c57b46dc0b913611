//! What a client wants of its MLS library, whichever it is.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use mls_rs::crypto::SignatureSecretKey;
use moh_messages::{Extension, GroupId, KeyPackageRef, List, Message, Opaque};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;
use tls_codec::{Serialize as _, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::with_mls_rs;

/// Any bytes.
pub(crate) type Bytes = Opaque<{ 8 << 20 }>;

/// Which library a client runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LibraryKind {
    OpenMls,
    MlsRs,
}

/// A signature key, made by the library that uses it.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) suite: u16,
    pub(crate) public: Vec<u8>,
    pub(crate) secret: Secret,
}

#[derive(Clone)]
pub(crate) enum Secret {
    OpenMls(std::sync::Arc<SignatureKeyPair>),
    MlsRs(SignatureSecretKey),
}

impl Key {
    /// Signs, as RFC 9420 has the ciphersuite sign.
    pub(crate) fn sign(&self, content: &[u8]) -> Vec<u8> {
        match &self.secret {
            Secret::OpenMls(pair) => pair.sign(content).unwrap(),
            Secret::MlsRs(secret) => with_mls_rs::sign(self.suite, secret, content),
        }
    }
}

/// A client's name and key, and what its next leaf says.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) client: String,
    pub(crate) key: Key,
    pub(crate) leaf_extensions: Vec<Extension>,
}

/// A group as its creator wants it.
pub(crate) struct Founding {
    pub(crate) group_id: GroupId,
    pub(crate) context_extensions: Vec<Extension>,
}

/// What a commit is to do.
#[derive(Default, Clone)]
pub(crate) struct Plan {
    /// MLSMessages with KeyPackages.
    pub(crate) adds: Vec<Vec<u8>>,
    /// Leaves.
    pub(crate) removes: Vec<u32>,
    /// All extensions of the new GroupContext.
    pub(crate) context_extensions: Option<Vec<Extension>>,
    /// The group that is to succeed this one.
    pub(crate) re_init: Option<GroupId>,
    /// A new key, or a leaf that says something else.
    pub(crate) identity: Option<Identity>,
    /// Nothing asks for a path, and there is to be none.
    pub(crate) without_path: bool,
}

/// A commit that was built, and is not sent.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) commit: Vec<u8>,
    /// MLSMessage with the GroupInfo of the new epoch.
    pub(crate) group_info: Vec<u8>,
    pub(crate) welcomes: Vec<Vec<u8>>,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Commit { removed: bool },
    Proposal,
    Text(Vec<u8>),
}

/// What goes wrong in a library, as it says it.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// A client's library, outside of groups.
pub(crate) trait Library: Send {
    fn new_key(&self) -> Key;
    /// An MLSMessage with a KeyPackage.
    fn key_package(&mut self, identity: &Identity) -> Result<Vec<u8>>;
    /// A group of this client alone; and an MLSMessage with its GroupInfo.
    fn found(&mut self, identity: &Identity, founding: &Founding) -> Result<(Copy, Vec<u8>)>;
    fn join(&mut self, identity: &Identity, welcome: &[u8], tree: &[u8]) -> Result<Copy>;
    fn join_externally(
        &mut self,
        identity: &Identity,
        group_info: &[u8],
        tree: &[u8],
        instead_of: Option<u32>,
    ) -> Result<(Copy, Made)>;
}

/// A client's copy of a group.
pub(crate) type Copy = Box<dyn GroupCopy>;

pub(crate) trait GroupCopy: Send {
    fn leaf_index(&self) -> u32;
    /// The GroupContext, serialized.
    fn context(&self) -> Vec<u8>;
    /// Who is in the group, at which leaf.
    fn members(&self) -> BTreeMap<String, u32>;
    /// The content of a `ratchet_tree` extension.
    fn tree(&self) -> Vec<u8>;
    fn epoch_authenticator(&self) -> Vec<u8>;
    /// Builds a commit, with all proposals that are known; it is pending.
    fn commit(&mut self, plan: &Plan) -> Result<Made>;
    /// The pending commit was accepted.
    fn accepted(&mut self) -> Result<()>;
    /// The pending commit was refused.
    fn refused(&mut self);
    /// A proposal to remove this client.
    fn propose_leaving(&mut self) -> Result<Vec<u8>>;
    /// Forgets all proposals of this epoch.
    fn forget_proposals(&mut self);
    fn message(&mut self, text: &[u8]) -> Result<Vec<u8>>;
    fn hear(&mut self, message: &[u8]) -> Result<Heard>;
}

/// RFC 9420 section 8.1.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Context {
    version: u16,
    pub(crate) cipher_suite: u16,
    pub(crate) group_id: GroupId,
    pub(crate) epoch: u64,
    pub(crate) tree_hash: Bytes,
    pub(crate) confirmed_transcript_hash: Bytes,
    pub(crate) extensions: List<Extension, 64>,
}

/// Section 12.4.3: an MLSMessage with one.
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct GroupInfo {
    version: u16,
    wire_format: u16,
    pub(crate) context: Context,
    pub(crate) extensions: List<Extension, 16>,
    confirmation_tag: Bytes,
    pub(crate) signer: u32,
    pub(crate) signature: Bytes,
}

/// Sections 6.2 and 6.3: how a message of a group begins.
#[derive(Clone, Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Head {
    pub(crate) version: u16,
    pub(crate) wire_format: u16,
    pub(crate) group_id: GroupId,
    pub(crate) epoch: u64,
}

pub(crate) const PUBLIC_MESSAGE: u16 = 1;
pub(crate) const WELCOME: u16 = 3;

/// The wire format of an MLSMessage.
pub(crate) fn wire_format(message: &[u8]) -> u16 {
    message
        .get(2..4)
        .map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// The reference of a KeyPackage in an MLSMessage (section 5.2).
pub(crate) fn reference(key_package: &[u8]) -> KeyPackageRef {
    let mut input = Vec::new();
    for part in [&b"MLS 1.0 KeyPackage Reference"[..], &key_package[4..]] {
        Bytes::new(part).unwrap().tls_serialize(&mut input).unwrap();
    }
    KeyPackageRef::new(digest::digest(&digest::SHA256, &input).as_ref()).unwrap()
}

/// The only leaf of a tree, as the content of a `ratchet_tree` extension: a list with one node,
/// which is there, and is a leaf.
pub(crate) fn only_leaf(tree: &[u8]) -> Vec<u8> {
    let nodes = Bytes::decode(tree).unwrap();
    nodes.as_slice().strip_prefix(&[1, 1]).unwrap().to_vec()
}
