//! Clients on mls-rs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mls_rs::client_builder::MlsConfig;
use mls_rs::client_builder::PaddingMode;
use mls_rs::crypto::SignatureSecretKey;
use mls_rs::group::{CommitEffect, ExportedTree, GroupContext, Member, ReceivedMessage, Roster};
use mls_rs::identity::SigningIdentity;
use mls_rs::identity::basic::{BasicCredential, BasicIdentityProvider};
use mls_rs::mls_rs_codec::MlsEncode;
use mls_rs::mls_rules::{
    CommitDirection, CommitOptions, CommitSource, EncryptionOptions, ProposalBundle,
};
use mls_rs::storage_provider::in_memory::InMemoryKeyPackageStorage;
use mls_rs::{
    CipherSuite, CipherSuiteProvider, Client, CryptoProvider, Extension, ExtensionList, Group,
    MlsMessage, MlsRules, ProtocolVersion,
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use moh_messages::extension_type;

use crate::mls::{
    Copy, Founding, GroupCopy, Heard, Identity, Key, Library, Made, Plan, Result, Secret,
};

fn text(error: impl std::fmt::Debug) -> String {
    format!("mls-rs: {error:?}")
}

fn suite_provider(suite: u16) -> impl CipherSuiteProvider {
    let crypto = RustCryptoProvider::default();
    crypto
        .cipher_suite_provider(CipherSuite::new(suite))
        .unwrap()
}

/// Signs with a key of this library.
pub(crate) fn sign(suite: u16, secret: &SignatureSecretKey, content: &[u8]) -> Vec<u8> {
    suite_provider(suite).sign(secret, content).unwrap()
}

fn extensions(list: &[moh_messages::Extension]) -> ExtensionList {
    let one = |e: &moh_messages::Extension| {
        Extension::new(
            e.extension_type.into(),
            e.extension_data.as_slice().to_vec(),
        )
    };
    list.iter().map(one).collect()
}

/// Handshakes in the clear, GroupInfos without the tree, and a path or not, as is wanted.
#[derive(Clone, Debug)]
struct Rules {
    without_path: Arc<AtomicBool>,
}

impl MlsRules for Rules {
    type Error = std::convert::Infallible;

    fn filter_proposals(
        &self,
        _direction: CommitDirection,
        _source: CommitSource,
        _roster: &Roster<'_>,
        _context: &GroupContext,
        proposals: ProposalBundle,
    ) -> std::result::Result<ProposalBundle, Self::Error> {
        Ok(proposals)
    }

    fn commit_options(
        &self,
        _roster: &Roster<'_>,
        _context: &GroupContext,
        _proposals: &ProposalBundle,
    ) -> std::result::Result<CommitOptions, Self::Error> {
        Ok(CommitOptions::new()
            .with_path_required(!self.without_path.load(Ordering::Relaxed))
            .with_ratchet_tree_extension(false)
            .with_allow_external_commit(true))
    }

    fn encryption_options(
        &self,
        _roster: &Roster<'_>,
        _context: &GroupContext,
    ) -> std::result::Result<EncryptionOptions, Self::Error> {
        Ok(EncryptionOptions::new(false, PaddingMode::None))
    }
}

/// What a client has besides its groups.
pub(crate) struct MlsRs {
    suite: u16,
    key_packages: InMemoryKeyPackageStorage,
}

impl MlsRs {
    pub(crate) fn new(suite: u16) -> Self {
        Self {
            suite,
            key_packages: InMemoryKeyPackageStorage::default(),
        }
    }

    fn client(&self, identity: &Identity) -> (Client<impl MlsConfig + use<>>, Rules) {
        let Secret::MlsRs(secret) = &identity.key.secret else {
            panic!("a key of this library");
        };
        let rules = Rules {
            without_path: Arc::new(AtomicBool::new(false)),
        };
        let types = extension_type::ALL.into_iter().map(Into::into);
        let client = Client::builder()
            .crypto_provider(RustCryptoProvider::default())
            .identity_provider(BasicIdentityProvider::new())
            .key_package_repo(self.key_packages.clone())
            .mls_rules(rules.clone())
            .extension_types(types)
            .signing_identity(
                signing_identity(identity),
                secret.clone(),
                CipherSuite::new(self.suite),
            )
            .build();
        (client, rules)
    }
}

fn signing_identity(identity: &Identity) -> SigningIdentity {
    let credential = BasicCredential::new(identity.client.as_bytes().to_vec());
    SigningIdentity::new(
        credential.into_credential(),
        identity.key.public.clone().into(),
    )
}

fn copy<C: MlsConfig + 'static>(group: Group<C>, rules: Rules) -> Copy {
    Box::new(RsCopy { group, rules })
}

impl Library for MlsRs {
    fn new_key(&self) -> Key {
        let pair = suite_provider(self.suite).signature_key_generate();
        let (secret, public) = pair.unwrap();
        Key {
            suite: self.suite,
            public: public.as_ref().to_vec(),
            secret: Secret::MlsRs(secret),
        }
    }

    fn key_package(&mut self, identity: &Identity) -> Result<Vec<u8>> {
        let leaf = extensions(&identity.leaf_extensions);
        let (client, _) = self.client(identity);
        let made = client.generate_key_package_message(ExtensionList::new(), leaf, None);
        made.and_then(|m| m.to_bytes()).map_err(text)
    }

    fn found(&mut self, identity: &Identity, founding: &Founding) -> Result<(Copy, Vec<u8>)> {
        let (client, rules) = self.client(identity);
        let group = client
            .create_group_with_id(
                founding.group_id.as_slice().to_vec(),
                extensions(&founding.context_extensions),
                extensions(&identity.leaf_extensions),
                None,
            )
            .map_err(text)?;
        let info = group.group_info_message_allowing_ext_commit(false);
        let info = info.and_then(|i| i.to_bytes()).map_err(text)?;
        Ok((copy(group, rules), info))
    }

    fn join(&mut self, identity: &Identity, welcome: &[u8], tree: &[u8]) -> Result<Copy> {
        let (client, rules) = self.client(identity);
        let tree = ExportedTree::from_bytes(tree).map_err(text)?;
        let welcome = MlsMessage::from_bytes(welcome).map_err(text)?;
        let (group, _) = client
            .join_group(Some(tree), &welcome, None)
            .map_err(text)?;
        Ok(copy(group, rules))
    }

    fn join_externally(
        &mut self,
        identity: &Identity,
        group_info: &[u8],
        tree: &[u8],
        instead_of: Option<u32>,
    ) -> Result<(Copy, Made)> {
        let (client, rules) = self.client(identity);
        let mut builder = client
            .external_commit_builder()
            .map_err(text)?
            .with_tree_data(ExportedTree::from_bytes(tree).map_err(text)?)
            .with_leaf_node_extensions(extensions(&identity.leaf_extensions));
        if let Some(leaf) = instead_of {
            builder = builder.with_removal(leaf);
        }
        let info = MlsMessage::from_bytes(group_info).map_err(text)?;
        let (group, commit) = builder.build(info).map_err(text)?;
        let info = group.group_info_message_allowing_ext_commit(false);
        let made = Made {
            commit: commit.to_bytes().map_err(text)?,
            group_info: info.and_then(|i| i.to_bytes()).map_err(text)?,
            welcomes: Vec::new(),
        };
        Ok((copy(group, rules), made))
    }
}

struct RsCopy<C: MlsConfig> {
    group: Group<C>,
    rules: Rules,
}

impl<C: MlsConfig> GroupCopy for RsCopy<C> {
    fn leaf_index(&self) -> u32 {
        self.group.current_member_index()
    }

    fn context(&self) -> Vec<u8> {
        self.group.context().mls_encode_to_vec().unwrap()
    }

    fn members(&self) -> BTreeMap<String, u32> {
        let name = |member: &Member| {
            let credential = member.signing_identity.credential.as_basic().unwrap();
            String::from_utf8(credential.identifier.clone()).unwrap()
        };
        let members = self.group.roster().members();
        members.iter().map(|m| (name(m), m.index)).collect()
    }

    fn tree(&self) -> Vec<u8> {
        self.group.export_tree().to_bytes().unwrap()
    }

    fn epoch_authenticator(&self) -> Vec<u8> {
        self.group
            .epoch_authenticator()
            .unwrap()
            .as_bytes()
            .to_vec()
    }

    fn commit(&mut self, plan: &Plan) -> Result<Made> {
        self.rules
            .without_path
            .store(plan.without_path, Ordering::Relaxed);
        let suite = self.group.cipher_suite();
        let mut builder = self.group.commit_builder();
        for key_package in &plan.adds {
            let key_package = MlsMessage::from_bytes(key_package).map_err(text)?;
            builder = builder.add_member(key_package).map_err(text)?;
        }
        for leaf in &plan.removes {
            builder = builder.remove_member(*leaf).map_err(text)?;
        }
        if let Some(context) = &plan.context_extensions {
            let context = extensions(context);
            builder = builder.set_group_context_ext(context).map_err(text)?;
        }
        if let Some(successor) = &plan.re_init {
            let (id, version) = (successor.as_slice().to_vec(), ProtocolVersion::MLS_10);
            let none = ExtensionList::new();
            builder = builder
                .reinit(Some(id), version, suite, none)
                .map_err(text)?;
        }
        if let Some(identity) = &plan.identity {
            let Secret::MlsRs(secret) = &identity.key.secret else {
                panic!("a key of this library");
            };
            builder = builder
                .set_new_signing_identity(secret.clone(), signing_identity(identity))
                .set_leaf_node_extensions(extensions(&identity.leaf_extensions));
        }
        let output = builder.build().map_err(text)?;
        let info = output.external_commit_group_info().ok_or("no GroupInfo")?;
        let welcomes = output.welcome_messages().iter().map(MlsMessage::to_bytes);
        Ok(Made {
            commit: output.commit_message().to_bytes().map_err(text)?,
            group_info: info.to_bytes().map_err(text)?,
            welcomes: welcomes
                .collect::<std::result::Result<_, _>>()
                .map_err(text)?,
        })
    }

    fn accepted(&mut self) -> Result<()> {
        self.group.apply_pending_commit().map(drop).map_err(text)
    }

    fn refused(&mut self) {
        self.group.clear_pending_commit();
    }

    fn propose_leaving(&mut self) -> Result<Vec<u8>> {
        let own = self.group.current_member_index();
        let proposal = self.group.propose_remove(own, Vec::new());
        proposal.and_then(|p| p.to_bytes()).map_err(text)
    }

    fn forget_proposals(&mut self) {
        self.group.clear_proposal_cache();
    }

    fn message(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        let message = self.group.encrypt_application_message(message, Vec::new());
        message.and_then(|m| m.to_bytes()).map_err(text)
    }

    fn hear(&mut self, message: &[u8]) -> Result<Heard> {
        let message = MlsMessage::from_bytes(message).map_err(text)?;
        match self.group.process_incoming_message(message).map_err(text)? {
            ReceivedMessage::ApplicationMessage(message) => {
                Ok(Heard::Text(message.data().to_vec()))
            }
            ReceivedMessage::Commit(commit) => Ok(Heard::Commit {
                removed: matches!(commit.effect, CommitEffect::Removed { .. }),
            }),
            ReceivedMessage::Proposal(_) => Ok(Heard::Proposal),
            other => Err(text(other)),
        }
    }
}
