//! A new group with one member.

use moh_messages::{
    CipherSuite, ClientId, CreateGroup, DsProtocolVersion, DsRequest, GroupType, Message, Rbac,
    Signature, extension_type,
};
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{
    ExtensionType, LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, ProposalStore, PublicGroup,
    RatchetTreeIn,
};
use tls_codec::{Deserialize as _, DeserializeBytes as _, Serialize as _};

use super::group_info::{self, GroupInfoMessage};
use super::leaf::{self, Entering};
use super::roster::{Member, Roster};
use super::storage::Storage;
use super::stored::Facts;
use super::{Checks, Group, Owner, Undecided, authenticate, check_sender, moh_context};
use crate::crypto::Crypto;
use crate::error::{Refusal, violation};

/// A request to create a group.
pub struct Creation<'a> {
    /// The request.
    pub request: &'a DsRequest,
    /// What its signature is over.
    pub signed: &'a [u8],
    /// The leaf that it says it is by.
    pub leaf_index: u32,
    /// Its signature.
    pub signature: &'a Signature,
    /// Its body.
    pub body: &'a CreateGroup,
}

/// The group, and its first snapshot.
///
/// # Errors
/// A refusal, by the rules for `create_group`; or keys that are needed.
pub fn create(creation: &Creation<'_>, checks: &Checks<'_>) -> Result<(Group, Vec<u8>), Undecided> {
    let info = GroupInfoMessage::read(&creation.body.group_info)?;
    let suite = CipherSuite(info.group_context.ciphersuite().into());
    let scheme = suite
        .signature_scheme()
        .ok_or_else(|| violation("the ciphersuite is none of 1, 2 and 3"))?;
    let tree = one_leaf_tree(creation.body.leaf_node.as_slice())?;
    let verifiable = verifiable(creation)?;

    // The leaf authenticates the request before anything else is said about it.
    let storage = Storage::catching();
    let result =
        PublicGroup::from_external(&Crypto, &storage, tree, verifiable, ProposalStore::new());
    let (mls, _) = result.map_err(|error| Refusal::InvalidGroupInfo(explain(&error)))?;
    let node = mls
        .leaf(LeafNodeIndex::new(0))
        .ok_or(Refusal::InvalidGroupInfo("there is no leaf 0"))?;
    let client = leaf::client_id(node)
        .ok_or_else(|| violation("a leaf's credential is a BasicCredential with a ClientID"))?;
    let key = moh_messages::PublicKey::new(node.signature_key().as_slice())
        .map_err(|_| Refusal::UnknownGroup)?;
    if creation.leaf_index != 0 {
        return Err(Refusal::UnknownGroup.into());
    }
    authenticate(scheme, &key, creation.signed, creation.signature)?;
    check_sender(&creation.request.sender, &client)?;

    check_context(&mls, creation, suite, &client, checks.owner)?;
    leaf::check(
        &Entering {
            node,
            replaces: None,
        },
        scheme,
        checks,
    )?;
    let member = Member::of(node, scheme).ok_or_else(|| violation("the leaf cannot be read"))?;
    let partial = info.partial();
    let tag = info.confirmation_tag.as_slice();
    group_info::verify(mls.group_context(), tag, &partial, info.signer, &member)?;

    let facts = Facts::new(partial.encode(), checks.now);
    let unreadable = |_| violation("the group cannot be read");
    let mut group = Group::of(mls, 0, facts, 0).map_err(unreadable)?;
    group.renew_roster(&Roster::default()).map_err(unreadable)?;
    group.context_extensions()?;
    let snapshot = group.encode_snapshot(storage.into_values());
    group.snapshot_bytes = snapshot.len();
    Ok((group, snapshot))
}

fn explain<E>(error: &openmls::prelude::CreationFromExternalError<E>) -> &'static str {
    use openmls::prelude::CreationFromExternalError as E;
    match error {
        E::InvalidGroupInfoSignature => "the GroupInfo's signature is not valid",
        E::TreeHashMismatch => "the GroupInfo is for another tree than the one leaf",
        E::UnknownSender => "the GroupInfo is not signed by leaf 0",
        _ => "the GroupInfo or the leaf is not valid by RFC 9420",
    }
}

/// A tree that is this leaf.
fn one_leaf_tree(leaf_node: &[u8]) -> Result<RatchetTreeIn, Refusal> {
    // optional<Node>, present, of type leaf(1).
    let nodes = [&[1, 1], leaf_node].concat();
    let tree = moh_messages::Opaque::<{ 8 << 10 }>::new(nodes).map(|nodes| nodes.encode());
    tree.ok()
        .and_then(|bytes| RatchetTreeIn::tls_deserialize_exact(bytes.as_slice()).ok())
        .ok_or_else(|| Refusal::InvalidMessage("leaf_node is not a LeafNode".to_owned()))
}

fn verifiable(creation: &Creation<'_>) -> Result<VerifiableGroupInfo, Refusal> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(creation.body.group_info.as_slice());
    match message.map(MlsMessageIn::extract) {
        Ok(MlsMessageBodyIn::GroupInfo(info)) => Ok(info),
        _ => Err(Refusal::InvalidGroupInfo(
            "not an MLSMessage with a GroupInfo",
        )),
    }
}

fn check_context(
    mls: &PublicGroup,
    creation: &Creation<'_>,
    suite: CipherSuite,
    client: &ClientId,
    owner: &dyn Owner,
) -> Result<(), Refusal> {
    let context = mls.group_context();
    if !owner.issued(&creation.body.group_id) {
        return Err(violation("the group's name was not issued here"));
    }
    if context.group_id().as_slice() != creation.body.group_id.as_slice() {
        return Err(Refusal::InvalidGroupInfo(
            "the GroupInfo is of another group",
        ));
    }
    if context.epoch().as_u64() != 0 || !context.confirmed_transcript_hash().is_empty() {
        return Err(Refusal::InvalidGroupInfo("the GroupInfo is not of epoch 0"));
    }
    let expected = owner.ds_sender(suite);
    let external = context.extensions().external_senders();
    let matches = external.is_some_and(|senders| match (senders.as_slice(), &expected) {
        ([one], Some(expected)) => one
            .tls_serialize_detached()
            .is_ok_and(|bytes| bytes == expected.encode()),
        _ => false,
    });
    if !matches {
        return Err(violation(
            "external_senders has exactly one entry, the ds_sender",
        ));
    }
    let required = context.required_capabilities();
    let lists =
        |t: u16| required.is_some_and(|r| r.extension_types().contains(&ExtensionType::Unknown(t)));
    if !extension_type::ALL.into_iter().all(lists) {
        return Err(violation(
            "required_capabilities lists every extension type of MoH",
        ));
    }
    let moh = moh_context(mls).ok_or_else(|| violation("the GroupContext has no moh extension"))?;
    if moh.version != DsProtocolVersion::MOH1 || moh.group_type != creation.body.group_type {
        return Err(violation("moh names version 1 and the group's type"));
    }
    if moh.group_type == GroupType::Connection && !owner.is(&client.provider()) {
        let what = "a connection group is made by a client of its owner";
        return Err(violation(what));
    }
    if let Some(rbac) = context.extensions().unknown(extension_type::RBAC) {
        let rbac = Rbac::decode(&rbac.0).map_err(|_| violation("rbac does not decode"))?;
        if !rbac.admins.contains(&client.user_id()) {
            return Err(violation("rbac names no admin who has a leaf"));
        }
    }
    Ok(())
}
