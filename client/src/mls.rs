//! What the protocol asks of MLS: leaves, KeyPackages, groups.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use moh_messages::{
    Attestation, CipherSuite, ClientId, DsProtocolVersion, GroupType, KeyPackageBytes, List,
    Message, MohGroupContext, MohLeafNode, PartialGroupInfo, QueueConfig, Rbac, Signature, UserId,
    extension_type,
};
use openmls::group::{
    GroupContext, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
};
use openmls::messages::group_info::GroupInfo;
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey,
    Extension, ExtensionType, Extensions, ExternalSender, KeyPackage, KeyPackageIn, LeafNode,
    Lifetime, Member, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProtocolVersion,
    RequiredCapabilitiesExtension, SenderRatchetConfiguration, UnknownExtension,
};
use openmls::treesync::LeafNodeSource;
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::random::OpenMlsRand;
use openmls_traits::types::SignatureScheme;
use tls_codec::{DeserializeBytes, Serialize, VLBytes};

use crate::error::Error;
use crate::group::GroupOptions;
use crate::store::Tx;

/// How long a KeyPackage may be used, in seconds.
pub(crate) const KEY_PACKAGE_LIFE_S: u64 = 60 * 24 * 60 * 60;
/// How far into the past a KeyPackage begins, for clocks that are behind, in seconds.
const CLOCK_SKEW_S: u64 = 60 * 60;
/// How many past epochs' messages can still be read.
const PAST_EPOCHS: usize = 5;
/// Messages are padded to a multiple of this, in bytes.
const PADDING_BYTES: usize = 64;

/// Who this client is to MLS.
pub(crate) struct Identity<'a> {
    pub(crate) client: &'a ClientId,
    pub(crate) signer: &'a SignatureKeyPair,
    pub(crate) suite: CipherSuite,
}

impl Identity<'_> {
    pub(crate) fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.client.as_str().as_bytes().to_vec()).into(),
            signature_key: self.signer.public().into(),
        }
    }
}

/// What a KeyPackage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyPackageKind {
    /// For connection groups, and for no others.
    pub(crate) for_connections: bool,
    /// For when there is no other one; it may be used more than once.
    pub(crate) last_resort: bool,
}

/// What a leaf of this client says.
pub(crate) struct LeafContent {
    pub(crate) attestation: Attestation,
    pub(crate) queue_config: QueueConfig,
}

impl LeafContent {
    pub(crate) fn extensions(&self) -> Result<Extensions<LeafNode>, Error> {
        let versions = List::new(vec![DsProtocolVersion::MOH1])?;
        Extensions::from_vec(vec![
            unknown(extension_type::MOH, &MohLeafNode { versions }),
            unknown(extension_type::QUEUE_CONFIG, &self.queue_config),
            unknown(extension_type::ATTESTATION, &self.attestation),
        ])
        .map_err(Error::mls)
    }

    /// The same for a KeyPackage.
    fn key_package_extensions(&self, kind: KeyPackageKind) -> Result<Extensions<LeafNode>, Error> {
        let mut extensions = self.extensions()?;
        if kind.for_connections {
            let number = extension_type::CONNECTION_KEY_PACKAGE;
            let marker = Extension::Unknown(number, UnknownExtension(Vec::new()));
            extensions.add(marker).map_err(Error::mls)?;
        }
        Ok(extensions)
    }

    /// From when until when a leaf with this may enter a tree.
    fn lifetime(&self, now_ms: u64) -> Lifetime {
        let now_s = now_ms / 1000;
        let end = (now_s + KEY_PACKAGE_LIFE_S).min(self.attestation.not_after / 1000);
        Lifetime::init(now_s.saturating_sub(CLOCK_SKEW_S), end)
    }
}

fn unknown(number: u16, content: &impl Message) -> Extension {
    Extension::Unknown(number, UnknownExtension(content.encode()))
}

/// The content of an extension of the protocol in a leaf.
pub(crate) fn leaf_extension<T: Message>(leaf: &LeafNode, number: u16) -> Option<T> {
    T::decode(&leaf.extensions().unknown(number)?.0).ok()
}

/// The content of an extension of a LeafNode: openmls does not show it of one that it has not
/// verified.
pub(crate) fn extension_of(leaf: &impl Serialize, number: u16) -> Option<Vec<u8>> {
    let bytes = leaf.tls_serialize_detached().ok()?;
    let skip = |bytes| {
        VLBytes::tls_deserialize_bytes(bytes)
            .ok()
            .map(|(_, rest)| rest)
    };
    // Two keys, and a credential with its type.
    let rest = skip(skip(&bytes)?)?;
    let mut rest = skip(rest.get(2..)?)?;
    for _capabilities in 0..5 {
        rest = skip(rest)?;
    }
    let (source, rest) = rest.split_first()?;
    let rest = match source {
        1 => rest.get(16..)?,
        2 => rest,
        _ => skip(rest)?,
    };
    let (extensions, _) = List::<moh_messages::Extension, 64>::tls_deserialize_bytes(rest).ok()?;
    let found = extensions
        .into_iter()
        .find(|extension| extension.extension_type == number)?;
    Some(found.extension_data.into_vec())
}

/// What the own leaf of a group shows.
pub(crate) fn own_attestation(group: &MlsGroup) -> Option<Attestation> {
    leaf_extension(group.own_leaf_node()?, extension_type::ATTESTATION)
}

pub(crate) fn ciphersuite(suite: CipherSuite) -> Result<Ciphersuite, Error> {
    Ciphersuite::try_from(suite.0).map_err(|_| Error::Mls(format!("ciphersuite {}", suite.0)))
}

/// A new signature key, from the randomness of the transaction.
pub(crate) fn new_signature_key(
    tx: &impl OpenMlsProvider,
    scheme: SignatureScheme,
) -> Result<SignatureKeyPair, Error> {
    let seed: [u8; 32] = tx.rand().random_array().map_err(Error::mls)?;
    let (private, public) = match scheme {
        SignatureScheme::ED25519 => {
            let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(Error::mls)?;
            (seed.to_vec(), key.public_key().as_ref().to_vec())
        }
        SignatureScheme::ECDSA_SECP256R1_SHA256 => {
            // Keys on this curve are made as HPKE makes them.
            let suite = Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256;
            let pair = tx
                .crypto()
                .derive_hpke_keypair(suite.hpke_config(), &seed)
                .map_err(Error::mls)?;
            (pair.private.to_vec(), pair.public)
        }
        other => return Err(Error::Mls(format!("signature scheme {other:?}"))),
    };
    Ok(SignatureKeyPair::from_raw(scheme, private, public))
}

/// The same as the protocol has it.
pub(crate) fn suite_of(suite: Ciphersuite) -> CipherSuite {
    CipherSuite(suite.into())
}

fn extension_types() -> Vec<ExtensionType> {
    extension_type::ALL
        .into_iter()
        .map(ExtensionType::Unknown)
        .collect()
}

pub(crate) fn capabilities() -> Capabilities {
    let mut extensions = extension_types();
    extensions.push(ExtensionType::LastResort);
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[
            Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
            Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
            Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
        ]),
        Some(&extensions),
        Some(&[]),
        Some(&[CredentialType::Basic]),
    )
}

/// The client that a credential names.
pub(crate) fn client_of(credential: &Credential) -> Option<ClientId> {
    let basic = BasicCredential::try_from(credential.clone()).ok()?;
    std::str::from_utf8(basic.identity()).ok()?.parse().ok()
}

/// Whether a leaf is that of a client.
pub(crate) fn has_name(leaf: &LeafNode) -> bool {
    client_of(leaf.credential()).is_some()
}

/// Whether all members of a group are clients, as far as their names go.
pub(crate) fn have_names(group: &MlsGroup) -> bool {
    members(group).len() == group.members().count()
}

/// The members of a group, with their keys.
pub(crate) fn keys(group: &MlsGroup) -> Vec<(ClientId, Vec<u8>)> {
    group
        .members()
        .filter_map(|member| Some((client_of(&member.credential)?, member.signature_key)))
        .collect()
}

/// The members of a group; one whose credential is no client's is left out.
pub(crate) fn members(group: &MlsGroup) -> Vec<ClientId> {
    group
        .members()
        .filter_map(|member| client_of(&member.credential))
        .collect()
}

pub(crate) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(PAST_EPOCHS)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(ratchets())
        .padding_size(PADDING_BYTES)
        .build()
}

/// The owner keeps the order of messages, but it may refuse some, and drop none that it took.
fn ratchets() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(32, 10_000)
}

/// What a new group says of itself.
pub(crate) struct GroupContent {
    pub(crate) ds_sender: moh_messages::ExternalSender,
    pub(crate) options: GroupOptions,
}

/// A group of this client alone, in the state of `tx`, not known to its owner yet.
pub(crate) fn create_group(
    tx: &Tx<'_>,
    identity: &Identity<'_>,
    group_id: &[u8],
    leaf: &LeafContent,
    content: &GroupContent,
    now_ms: u64,
) -> Result<MlsGroup, Error> {
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(ciphersuite(identity.suite)?)
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(PAST_EPOCHS)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(ratchets())
        .padding_size(PADDING_BYTES)
        .capabilities(capabilities())
        .lifetime(leaf.lifetime(now_ms))
        .with_leaf_node_extensions(leaf.extensions()?)
        .map_err(Error::mls)?
        .with_group_context_extensions(group_context_extensions(content)?)
        .build();
    let id = openmls::group::GroupId::from_slice(group_id);
    MlsGroup::new_with_group_id(tx, identity.signer, &config, id, identity.credential())
        .map_err(Error::mls)
}

fn group_context_extensions(content: &GroupContent) -> Result<Extensions<GroupContext>, Error> {
    let moh = MohGroupContext {
        version: DsProtocolVersion::MOH1,
        group_type: content.options.group_type,
    };
    let mut extensions = vec![
        external_senders_extension(&content.ds_sender)?,
        Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
            &extension_types(),
            &[],
            &[CredentialType::Basic],
        )),
        unknown(extension_type::MOH, &moh),
    ];
    if !content.options.admins.is_empty() {
        extensions.push(rbac_extension(&content.options.admins)?);
    }
    Extensions::from_vec(extensions).map_err(Error::mls)
}

/// Whose proposals count although they are no members: the owner's.
pub(crate) fn external_senders_extension(
    ds_sender: &moh_messages::ExternalSender,
) -> Result<Extension, Error> {
    let ds_sender = ExternalSender::tls_deserialize_exact_bytes(&ds_sender.encode())
        .map_err(|error| Error::Mls(format!("the owner's key: {error}")))?;
    Ok(Extension::ExternalSenders(vec![ds_sender]))
}

pub(crate) fn rbac_extension(admins: &[UserId]) -> Result<Extension, Error> {
    let admins = List::new(admins.to_vec())?;
    Ok(unknown(extension_type::RBAC, &Rbac { admins }))
}

/// What kind of group it is that has this GroupContext.
pub(crate) fn group_type(extensions: &Extensions<GroupContext>) -> Option<GroupType> {
    let moh = extensions.unknown(extension_type::MOH)?;
    Some(MohGroupContext::decode(&moh.0).ok()?.group_type)
}

/// The same of a group; one that does not say is a regular one.
pub(crate) fn kind_of(group: &MlsGroup) -> GroupType {
    group_type(group.extensions()).unwrap_or(GroupType::Regular)
}

/// Whether a client of this user has changed the group, and was not only added to it.
pub(crate) fn has_committed(group: &MlsGroup, user: &UserId) -> bool {
    let is_theirs =
        |member: &Member| client_of(&member.credential).is_some_and(|c| c.user_id() == *user);
    group.members().filter(is_theirs).any(|member| {
        let leaf = group.public_group().leaf(member.index);
        leaf.is_some_and(|leaf| matches!(leaf.leaf_node_source(), LeafNodeSource::Commit(_)))
    })
}

/// The admins of a group, where it has roles.
pub(crate) fn admins(group: &MlsGroup) -> Option<Vec<UserId>> {
    let rbac = group.extensions().unknown(extension_type::RBAC)?;
    Some(Rbac::decode(&rbac.0).ok()?.admins.into_vec())
}

/// A KeyPackage whose private keys are in the state of `tx`; its reference, its last second and
/// the MLSMessage.
pub(crate) fn create_key_package(
    tx: &Tx<'_>,
    identity: &Identity<'_>,
    leaf: &LeafContent,
    kind: KeyPackageKind,
    now_ms: u64,
) -> Result<(Vec<u8>, u64, KeyPackageBytes), Error> {
    let lifetime = leaf.lifetime(now_ms);
    let mut builder = KeyPackage::builder()
        .key_package_lifetime(lifetime)
        .leaf_node_capabilities(capabilities())
        .leaf_node_extensions(leaf.key_package_extensions(kind)?);
    if kind.last_resort {
        builder = builder.mark_as_last_resort();
    }
    let key_package = builder
        .build(
            ciphersuite(identity.suite)?,
            tx,
            identity.signer,
            identity.credential(),
        )
        .map_err(Error::mls)?
        .into_key_package();
    let reference = key_package.hash_ref(tx.crypto()).map_err(Error::mls)?;
    let message = MlsMessageOut::from(key_package)
        .to_bytes()
        .map_err(Error::mls)?;
    Ok((
        reference.as_slice().to_vec(),
        lifetime.not_after(),
        KeyPackageBytes::new(message)?,
    ))
}

/// Another client's KeyPackage, if it is what its provider says it is. Its attestation is another
/// matter.
pub(crate) fn check_key_package(
    crypto: &impl openmls_traits::crypto::OpenMlsCrypto,
    user: &UserId,
    client: &ClientId,
    bytes: &KeyPackageBytes,
    suite: CipherSuite,
    group_type: GroupType,
) -> Result<KeyPackage, Error> {
    let bad = |detail: String| Error::BadKeyPackage {
        client: client.clone(),
        detail,
    };
    if client.user_id() != *user {
        return Err(bad(format!("not a client of {user}")));
    }
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
        .map_err(|error| bad(error.to_string()))?;
    let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
        return Err(bad("another MLS message".to_owned()));
    };
    let key_package = KeyPackageIn::validate(key_package, crypto, ProtocolVersion::Mls10)
        .map_err(|error| bad(error.to_string()))?;
    if key_package.ciphersuite() != ciphersuite(suite)? {
        return Err(bad("another ciphersuite".to_owned()));
    }
    let leaf = key_package.leaf_node();
    if client_of(leaf.credential()).as_ref() != Some(client) {
        return Err(bad("another client's credential".to_owned()));
    }
    let marker = extension_type::CONNECTION_KEY_PACKAGE;
    let for_connections = leaf.extensions().unknown(marker).is_some();
    if for_connections != (group_type == GroupType::Connection) {
        return Err(bad("for groups of another kind".to_owned()));
    }
    match leaf_extension::<QueueConfig>(leaf, extension_type::QUEUE_CONFIG) {
        Some(config) if config.provider == client.provider() => Ok(key_package),
        _ => Err(bad("no queue at its provider".to_owned())),
    }
}

/// What the owner does not know of the GroupInfo after a commit.
pub(crate) fn partial_group_info(group_info: &GroupInfo) -> Result<PartialGroupInfo, Error> {
    let mut extensions = Vec::new();
    for extension in group_info.extensions().iter() {
        let bytes = extension.tls_serialize_detached().map_err(Error::mls)?;
        extensions.push(moh_messages::Extension::decode(&bytes).map_err(Error::mls)?);
    }
    let signature = group_info
        .signature()
        .tls_serialize_detached()
        .map_err(Error::mls)?;
    Ok(PartialGroupInfo {
        group_info_extensions: List::new(extensions)?,
        signature: Signature::decode(&signature).map_err(Error::mls)?,
    })
}

#[cfg(test)]
mod tests {
    use openmls_rust_crypto::OpenMlsRustCrypto;
    use openmls_traits::signatures::Signer;

    use super::*;

    #[test]
    fn a_new_key_verifies_what_it_signs() {
        let provider = OpenMlsRustCrypto::default();
        for scheme in [
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_SECP256R1_SHA256,
        ] {
            let key = new_signature_key(&provider, scheme).unwrap();
            let other = new_signature_key(&provider, scheme).unwrap();
            assert_ne!(key.public(), other.public());
            let signature = key.sign(b"content").unwrap();
            let verify = |public| {
                let crypto = provider.crypto();
                crypto.verify_signature(scheme, b"content", public, &signature)
            };
            verify(key.public()).unwrap();
            assert!(verify(other.public()).is_err());
        }
    }
}
