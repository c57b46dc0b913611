//! What every leaf that enters a tree has to be (wire profile, section 6).

use moh_messages::{
    Attestation, ClientId, DsProtocolVersion, MAX_ATTESTATION_LIFE_MS, Message, MohLeafNode,
    QueueConfig, SignatureScheme, SignedLast, VerificationKey, extension_type, label,
};
use openmls::prelude::{BasicCredential, ExtensionType, LeafNode};
use tls_codec::Size;

use super::{Checks, Undecided};
use crate::crypto;
use crate::error::{Refusal, violation};

/// The longest leaf node, in bytes (section 11).
const MAX_LEAF_BYTES: usize = 4 << 10;
/// The most extensions in a leaf node (section 11).
const MAX_LEAF_EXTENSIONS: usize = 16;

fn content<T: Message>(node: &LeafNode, extension: u16) -> Option<T> {
    T::decode(&node.extensions().unknown(extension)?.0).ok()
}

/// The client that a leaf names.
pub(super) fn client_id(node: &LeafNode) -> Option<ClientId> {
    let credential = BasicCredential::try_from(node.credential().clone()).ok()?;
    std::str::from_utf8(credential.identity())
        .ok()?
        .parse()
        .ok()
}

/// Where the messages for a leaf go.
pub(super) fn queue_config(node: &LeafNode) -> Option<QueueConfig> {
    content(node, extension_type::QUEUE_CONFIG)
}

/// Whether a leaf may enter connection groups alone.
pub(super) fn is_for_connections(node: &LeafNode) -> bool {
    let extension = extension_type::CONNECTION_KEY_PACKAGE;
    node.extensions().unknown(extension).is_some()
}

/// The last millisecond at which a leaf may enter a tree, as its attestation says.
pub(super) fn attested_until(node: &LeafNode) -> Option<u64> {
    content::<Attestation>(node, extension_type::ATTESTATION).map(|a| a.not_after)
}

/// A leaf that wants to enter a tree.
pub(super) struct Entering<'a> {
    /// The leaf.
    pub(super) node: &'a LeafNode,
    /// The leaf of the same client that it replaces: their attestation, if it is the same, was
    /// verified when it entered.
    pub(super) replaces: Option<&'a LeafNode>,
}

/// The name of the client, when the leaf is as the profile demands.
pub(super) fn check(
    entering: &Entering<'_>,
    scheme: SignatureScheme,
    checks: &Checks<'_>,
) -> Result<ClientId, Undecided> {
    let node = entering.node;
    if node.tls_serialized_len() > MAX_LEAF_BYTES
        || node.extensions().iter().count() > MAX_LEAF_EXTENSIONS
    {
        return Err(Refusal::LimitExceeded("a leaf has at most 4 KiB and 16 extensions").into());
    }
    let client = client_id(node)
        .ok_or_else(|| violation("a leaf's credential is a BasicCredential with a ClientID"))?;
    let listed = node.capabilities().extensions();
    if !extension_type::ALL
        .iter()
        .all(|&t| listed.contains(&ExtensionType::Unknown(t)))
    {
        return Err(violation("a leaf's capabilities list every extension type of MoH").into());
    }
    let versions: MohLeafNode = content(node, extension_type::MOH)
        .ok_or_else(|| violation("a leaf has the extension moh with its versions"))?;
    if !versions.versions.contains(&DsProtocolVersion::MOH1) {
        return Err(violation("a leaf's versions include 1").into());
    }
    let queue = queue_config(node).ok_or_else(|| violation("a leaf has a queue_config"))?;
    if queue.provider != client.provider() {
        return Err(violation("a client's queue is at its own provider").into());
    }
    check_attestation(entering, &client, scheme, checks)?;
    Ok(client)
}

fn check_attestation(
    entering: &Entering<'_>,
    client: &ClientId,
    scheme: SignatureScheme,
    checks: &Checks<'_>,
) -> Result<(), Undecided> {
    let raw = |node: &LeafNode| {
        node.extensions()
            .unknown(extension_type::ATTESTATION)
            .map(|e| e.0.clone())
    };
    let bytes = raw(entering.node).ok_or(Refusal::Unauthenticated("a leaf has an attestation"))?;
    let attestation = Attestation::decode(&bytes)
        .map_err(|_| Refusal::Unauthenticated("the attestation does not decode"))?;
    if attestation.client_id != *client
        || attestation.scheme != scheme
        || attestation.signature_key.as_slice() != entering.node.signature_key().as_slice()
    {
        return Err(
            Refusal::Unauthenticated("the attestation is for another client or key").into(),
        );
    }
    let life = attestation.not_after.saturating_sub(attestation.not_before);
    if !(attestation.not_before..=attestation.not_after).contains(&checks.now)
        || life > MAX_ATTESTATION_LIFE_MS
    {
        return Err(Refusal::Unauthenticated("the attestation is not valid now").into());
    }
    if entering
        .replaces
        .and_then(raw)
        .is_some_and(|before| before == bytes)
    {
        return Ok(());
    }
    verify_attestation(&attestation, checks)
}

fn verify_attestation(attestation: &Attestation, checks: &Checks<'_>) -> Result<(), Undecided> {
    let provider = attestation.client_id.provider();
    let key = match checks.owner.key(&provider, &attestation.key_id) {
        KeyLookup::Found(key) => key,
        KeyLookup::NoSuchKey => {
            return Err(Refusal::Unauthenticated("the client's provider has no such key").into());
        }
        KeyLookup::NotFetched => {
            return Err(Undecided::NeedsKeys(provider));
        }
    };
    let valid = (key.not_before..=key.not_after).contains(&checks.now)
        && crypto::verify_with_label(
            key.scheme,
            &key.public_key,
            label::ATTESTATION,
            &attestation.to_be_signed(),
            attestation.signature.as_slice(),
        );
    if valid {
        Ok(())
    } else {
        Err(Refusal::Unauthenticated("the attestation's signature is not valid").into())
    }
}

/// What is known of a provider's key.
pub enum KeyLookup {
    /// This is it.
    Found(VerificationKey),
    /// The provider was asked lately, and has no key of this id.
    NoSuchKey,
    /// The provider has to be asked.
    NotFetched,
}
