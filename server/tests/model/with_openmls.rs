//! Clients on openmls.

use std::collections::BTreeMap;
use std::sync::Arc;

use moh_messages::{Message as _, extension_type};
use openmls::group::{
    GroupId, Member, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, StagedWelcome,
};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension,
    ExtensionType, Extensions, KeyPackage, KeyPackageIn, LeafNode, LeafNodeIndex,
    LeafNodeParameters, Lifetime, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, NewSignerBundle,
    ProcessedMessageContent, ProtocolMessage, ProtocolVersion, RatchetTreeIn,
    SenderRatchetConfiguration,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider;
use tls_codec::{DeserializeBytes, Serialize};

use crate::mls::{
    Copy, Founding, GroupCopy, Heard, Identity, Key, Library, Made, Plan, Result, Secret,
};

/// Epochs whose secrets are kept.
const PAST_EPOCHS: usize = 5;
const LIFETIME_SECONDS: u64 = 30 * 24 * 60 * 60;

fn text(error: impl std::fmt::Display) -> String {
    format!("openmls: {error}")
}

fn suite_of(number: u16) -> Ciphersuite {
    Ciphersuite::try_from(number).unwrap()
}

fn capabilities() -> Capabilities {
    let types = extension_type::ALL.map(ExtensionType::Unknown);
    let suites = [1, 2, 3].map(suite_of);
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&suites),
        Some(&types),
        Some(&[]),
        Some(&[CredentialType::Basic]),
    )
}

fn extension(raw: &moh_messages::Extension) -> Extension {
    Extension::tls_deserialize_exact_bytes(&raw.encode()).unwrap()
}

fn leaf_extensions(identity: &Identity) -> Extensions<LeafNode> {
    Extensions::from_vec(identity.leaf_extensions.iter().map(extension).collect()).unwrap()
}

fn pair(key: &Key) -> &Arc<SignatureKeyPair> {
    match &key.secret {
        Secret::OpenMls(pair) => pair,
        Secret::MlsRs(_) => panic!("a key of this library"),
    }
}

fn credential(identity: &Identity) -> CredentialWithKey {
    CredentialWithKey {
        credential: BasicCredential::new(identity.client.as_bytes().to_vec()).into(),
        signature_key: identity.key.public.as_slice().into(),
    }
}

fn leaf_parameters(identity: &Identity) -> LeafNodeParameters {
    LeafNodeParameters::builder()
        .with_capabilities(capabilities())
        .with_extensions(leaf_extensions(identity))
        .build()
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .max_past_epochs(PAST_EPOCHS)
        .sender_ratchet_configuration(out_of_order())
        .build()
}

/// A message that was held may come after many that were written later.
fn out_of_order() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(100, 1000)
}

fn tree_of(bytes: &[u8]) -> Result<RatchetTreeIn> {
    RatchetTreeIn::tls_deserialize_exact_bytes(bytes).map_err(text)
}

fn body_of(bytes: &[u8]) -> Result<MlsMessageBodyIn> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(text)?;
    Ok(message.extract())
}

/// What a client has besides its groups.
pub(crate) struct OpenMls {
    suite: u16,
    mls: Arc<OpenMlsRustCrypto>,
}

impl OpenMls {
    pub(crate) fn new(suite: u16) -> Self {
        Self {
            suite,
            mls: Arc::default(),
        }
    }

    fn copy(&self, group: MlsGroup, key: &Key) -> Copy {
        copy(group, &self.mls, key)
    }
}

fn copy(group: MlsGroup, mls: &Arc<OpenMlsRustCrypto>, key: &Key) -> Copy {
    Box::new(OpenCopy {
        group,
        mls: mls.clone(),
        signer: pair(key).clone(),
        next_signer: None,
    })
}

impl Library for OpenMls {
    fn new_key(&self) -> Key {
        let pair = SignatureKeyPair::new(suite_of(self.suite).signature_algorithm()).unwrap();
        Key {
            suite: self.suite,
            public: pair.public().to_vec(),
            secret: Secret::OpenMls(pair.into()),
        }
    }

    fn key_package(&mut self, identity: &Identity) -> Result<Vec<u8>> {
        let bundle = KeyPackage::builder()
            .key_package_lifetime(Lifetime::new(LIFETIME_SECONDS))
            .leaf_node_capabilities(capabilities())
            .leaf_node_extensions(leaf_extensions(identity))
            .build(
                suite_of(self.suite),
                &*self.mls,
                &**pair(&identity.key),
                credential(identity),
            )
            .map_err(text)?;
        MlsMessageOut::from(bundle.into_key_package())
            .to_bytes()
            .map_err(text)
    }

    fn found(&mut self, identity: &Identity, founding: &Founding) -> Result<(Copy, Vec<u8>)> {
        let context = founding.context_extensions.iter().map(extension).collect();
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(suite_of(self.suite))
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(PAST_EPOCHS)
            .sender_ratchet_configuration(out_of_order())
            .use_ratchet_tree_extension(false)
            .capabilities(capabilities())
            .lifetime(Lifetime::new(LIFETIME_SECONDS))
            .with_leaf_node_extensions(leaf_extensions(identity))
            .map_err(text)?
            .with_group_context_extensions(Extensions::from_vec(context).map_err(text)?)
            .build();
        let id = GroupId::from_slice(founding.group_id.as_slice());
        let signer = pair(&identity.key);
        let credential = credential(identity);
        let group = MlsGroup::new_with_group_id(&*self.mls, &**signer, &config, id, credential);
        let group = group.map_err(text)?;
        let info = group.export_group_info(self.mls.crypto(), &**signer, false);
        let info = info.map_err(text)?.to_bytes().map_err(text)?;
        Ok((self.copy(group, &identity.key), info))
    }

    fn join(&mut self, identity: &Identity, welcome: &[u8], tree: &[u8]) -> Result<Copy> {
        let MlsMessageBodyIn::Welcome(welcome) = body_of(welcome)? else {
            return Err("not a Welcome".to_owned());
        };
        let config = join_config();
        let group = StagedWelcome::build_from_welcome(&*self.mls, &config, welcome)
            .map_err(text)?
            .with_ratchet_tree(tree_of(tree)?)
            // The copy of before it was removed.
            .replace_old_group()
            .build()
            .map_err(text)?
            .into_group(&*self.mls)
            .map_err(text)?;
        Ok(self.copy(group, &identity.key))
    }

    fn join_externally(
        &mut self,
        identity: &Identity,
        group_info: &[u8],
        tree: &[u8],
        instead_of: Option<u32>,
    ) -> Result<(Copy, Made)> {
        let MlsMessageBodyIn::GroupInfo(info) = body_of(group_info)? else {
            return Err("not a GroupInfo".to_owned());
        };
        // It merges at once, and may be refused: the copy of before must not be lost by that.
        let own = Arc::<OpenMlsRustCrypto>::default();
        let mls = &*own;
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree_of(tree)?)
            .with_config(join_config())
            .build_group(mls, info, credential(identity))
            .map_err(text)?
            .leaf_node_parameters(leaf_parameters(identity))
            .load_psks(mls.storage())
            .map_err(text)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(mls.rand(), mls.crypto(), &**pair(&identity.key), |_| true)
            .map_err(text)?
            .finalize(mls)
            .map_err(text)?;
        // Which leaf it takes the place of, it finds out itself.
        let _ = instead_of;
        let info = bundle.group_info().ok_or("no GroupInfo")?.clone();
        let made = Made {
            commit: bundle.commit().to_bytes().map_err(text)?,
            group_info: MlsMessageOut::from(info).to_bytes().map_err(text)?,
            welcomes: Vec::new(),
        };
        Ok((copy(group, &own, &identity.key), made))
    }
}

struct OpenCopy {
    group: MlsGroup,
    mls: Arc<OpenMlsRustCrypto>,
    signer: Arc<SignatureKeyPair>,
    /// That of the pending commit.
    next_signer: Option<Arc<SignatureKeyPair>>,
}

impl OpenCopy {
    fn key_package(&self, bytes: &[u8]) -> Result<KeyPackage> {
        // The same bytes as within an MLSMessage.
        let key_package = KeyPackageIn::tls_deserialize_exact_bytes(&bytes[4..]);
        let checked = key_package
            .map_err(text)?
            .validate(self.mls.crypto(), ProtocolVersion::Mls10);
        checked.map_err(text)
    }
}

impl GroupCopy for OpenCopy {
    fn leaf_index(&self) -> u32 {
        self.group.own_leaf_index().u32()
    }

    fn context(&self) -> Vec<u8> {
        let context = self.group.public_group().group_context();
        context.tls_serialize_detached().unwrap()
    }

    fn members(&self) -> BTreeMap<String, u32> {
        let name = |member: &Member| {
            let credential = BasicCredential::try_from(member.credential.clone()).unwrap();
            String::from_utf8(credential.identity().to_vec()).unwrap()
        };
        let members = self.group.members();
        members.map(|m| (name(&m), m.index.u32())).collect()
    }

    fn tree(&self) -> Vec<u8> {
        let tree = self.group.export_ratchet_tree();
        tree.tls_serialize_detached().unwrap()
    }

    fn epoch_authenticator(&self) -> Vec<u8> {
        self.group.epoch_authenticator().as_slice().to_vec()
    }

    fn commit(&mut self, plan: &Plan) -> Result<Made> {
        if plan.re_init.is_some() {
            return Err("openmls has no call for ReInit".to_owned());
        }
        let adds = plan.adds.iter().map(|bytes| self.key_package(bytes));
        let adds = adds.collect::<Result<Vec<_>>>()?;
        let (mls, signer) = (&*self.mls, &*self.signer);
        let mut builder = self
            .group
            .commit_builder()
            .force_self_update(!plan.without_path)
            .propose_adds(adds)
            .propose_removals(plan.removes.iter().copied().map(LeafNodeIndex::new));
        if let Some(context) = &plan.context_extensions {
            let context = Extensions::from_vec(context.iter().map(extension).collect());
            builder = builder
                .propose_group_context_extensions(context.map_err(text)?)
                .map_err(text)?;
        }
        if let Some(identity) = &plan.identity {
            builder = builder.leaf_node_parameters(leaf_parameters(identity));
        }
        let ready = builder
            .load_psks(mls.storage())
            .map_err(text)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false);
        let complete = match &plan.identity {
            Some(identity) => {
                let next = NewSignerBundle {
                    signer: &**pair(&identity.key),
                    credential_with_key: credential(identity),
                };
                ready.build_with_new_signer(mls.rand(), mls.crypto(), signer, next, |_| true)
            }
            None => ready.build(mls.rand(), mls.crypto(), signer, |_| true),
        };
        let bundle = complete.map_err(text)?.stage_commit(mls).map_err(text)?;
        self.next_signer = plan.identity.as_ref().map(|i| pair(&i.key).clone());
        let info = bundle.group_info().ok_or("no GroupInfo")?.clone();
        let welcome = bundle.to_welcome_msg().map(|w| w.to_bytes());
        Ok(Made {
            commit: bundle.commit().to_bytes().map_err(text)?,
            group_info: MlsMessageOut::from(info).to_bytes().map_err(text)?,
            welcomes: welcome
                .into_iter()
                .collect::<std::result::Result<_, _>>()
                .map_err(text)?,
        })
    }

    fn accepted(&mut self) -> Result<()> {
        if let Some(signer) = self.next_signer.take() {
            self.signer = signer;
        }
        self.group.merge_pending_commit(&*self.mls).map_err(text)
    }

    fn refused(&mut self) {
        self.next_signer = None;
        let storage = self.mls.storage();
        self.group.clear_pending_commit(storage).unwrap();
    }

    fn propose_leaving(&mut self) -> Result<Vec<u8>> {
        let proposal = self.group.leave_group(&*self.mls, &*self.signer);
        proposal.map_err(text)?.to_bytes().map_err(text)
    }

    fn forget_proposals(&mut self) {
        let storage = self.mls.storage();
        self.group.clear_pending_proposals(storage).unwrap();
    }

    fn message(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        let message = self
            .group
            .create_message(&*self.mls, &*self.signer, message);
        message.map_err(text)?.to_bytes().map_err(text)
    }

    fn hear(&mut self, message: &[u8]) -> Result<Heard> {
        let message = match body_of(message)? {
            MlsMessageBodyIn::PublicMessage(message) => ProtocolMessage::from(message),
            MlsMessageBodyIn::PrivateMessage(message) => ProtocolMessage::from(message),
            _ => return Err("not a message of a group".to_owned()),
        };
        let processed = self.group.process_message(&*self.mls, message);
        match processed.map_err(text)?.into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let removed = staged.self_removed();
                let merged = self.group.merge_staged_commit(&*self.mls, *staged);
                merged.map_err(text)?;
                Ok(Heard::Commit { removed })
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                let storage = self.mls.storage();
                let stored = self.group.store_pending_proposal(storage, *proposal);
                stored.map_err(text)?;
                Ok(Heard::Proposal)
            }
            ProcessedMessageContent::ApplicationMessage(message) => {
                Ok(Heard::Text(message.into_bytes()))
            }
            _ => Err("an unexpected message".to_owned()),
        }
    }
}
