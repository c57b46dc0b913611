//! Clients made of openmls alone, before they are in a group.

use std::sync::Arc;

use moh_messages::{
    Attestation, CipherSuite, ClientId, CreateGroup, DsAuth, DsProtocolVersion, DsRequest,
    DsRequestBody, ExternalSender, GroupId, GroupType, HandshakeBytes, KeyPackageRef, List,
    Message, MohGroupContext, MohLeafNode, Opaque, PublicKey, QueueConfig, Rbac, Signature,
    SignatureScheme, SignedLast, WelcomeInfo, extension_type, label, sign_content,
};
use moh_server::Environment;
use openmls::group::{
    MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
    ProcessedWelcome,
};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension,
    ExtensionType, Extensions, KeyPackage, KeyPackageBuilder, LeafNode, LeafNodeParameters,
    Lifetime, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProtocolVersion, RatchetTreeIn,
    RequiredCapabilitiesExtension, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider;
use openmls_traits::signatures::Signer;
use tls_codec::DeserializeBytes;

use crate::home::Home;
use crate::made::Made;
use crate::member::Member;
use crate::parts;

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Whose application messages a client can read.
const PAST_EPOCHS: usize = 5;

/// A client of a provider whose keys are known.
pub(crate) struct Device {
    pub(crate) id: ClientId,
    pub(crate) home: Arc<Home>,
    pub(crate) suite: CipherSuite,
    pub(crate) signer: SignatureKeyPair,
    pub(crate) mls: OpenMlsRustCrypto,
}

/// What a leaf says, before it is one.
#[derive(Clone)]
pub(crate) struct Says {
    pub(crate) queue: QueueConfig,
    pub(crate) attestation: Attestation,
    pub(crate) for_connections: bool,
    pub(crate) lifetime: (u64, u64),
}

/// A group as its creator wants it.
pub(crate) struct Founding {
    pub(crate) group_id: GroupId,
    pub(crate) group_type: GroupType,
    pub(crate) ds_sender: ExternalSender,
    pub(crate) rbac: Option<Rbac>,
}

/// What an external commit begins with.
pub(crate) struct Door {
    pub(crate) group_info: Vec<u8>,
    pub(crate) tree: Vec<u8>,
}

pub(crate) fn now_ms() -> u64 {
    Environment::system().now_ms()
}

fn unknown(number: u16, content: &impl Message) -> Extension {
    Extension::Unknown(number, UnknownExtension(content.encode()))
}

fn extension_types() -> Vec<ExtensionType> {
    let all = extension_type::ALL.into_iter();
    all.map(ExtensionType::Unknown).collect()
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .max_past_epochs(PAST_EPOCHS)
        .build()
}

impl Device {
    pub(crate) fn of(id: &str, home: &Arc<Home>) -> Self {
        Self::with_suite(id, home, CipherSuite::X25519_AES128GCM_ED25519)
    }

    pub(crate) fn with_suite(id: &str, home: &Arc<Home>, suite: CipherSuite) -> Self {
        let algorithm = Ciphersuite::try_from(suite.0)
            .unwrap()
            .signature_algorithm();
        Self::with_key(id, home, suite, SignatureKeyPair::new(algorithm).unwrap())
    }

    fn with_key(id: &str, home: &Arc<Home>, suite: CipherSuite, signer: SignatureKeyPair) -> Self {
        let mls = OpenMlsRustCrypto::default();
        signer.store(mls.storage()).unwrap();
        Self {
            id: id.parse().unwrap(),
            home: Arc::clone(home),
            suite,
            signer,
            mls,
        }
    }

    /// Another client that uses the same key.
    pub(crate) fn with_same_key(&self, id: &str) -> Arc<Self> {
        let (storage, scheme) = (self.mls.storage(), self.signer.signature_scheme());
        let signer = SignatureKeyPair::read(storage, self.signer.public(), scheme).unwrap();
        Arc::new(Self::with_key(id, &self.home, self.suite, signer))
    }

    /// The same client, in another ciphersuite with keys of the same kind.
    pub(crate) fn in_suite(&self, suite: CipherSuite) -> Arc<Self> {
        let (storage, scheme) = (self.mls.storage(), self.signer.signature_scheme());
        let signer = SignatureKeyPair::read(storage, self.signer.public(), scheme).unwrap();
        Arc::new(Self::with_key(self.id.as_str(), &self.home, suite, signer))
    }

    /// The same client, which has lost everything but its key.
    pub(crate) fn again(&self) -> Arc<Self> {
        self.with_same_key(self.id.as_str())
    }

    fn ciphersuite(&self) -> Ciphersuite {
        Ciphersuite::try_from(self.suite.0).unwrap()
    }

    fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.id.as_str().as_bytes().to_vec()).into(),
            signature_key: self.signer.public().into(),
        }
    }

    pub(crate) fn scheme(&self) -> SignatureScheme {
        self.suite.signature_scheme().unwrap()
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::new(self.signer.public()).unwrap()
    }

    /// Its provider's word that its key is this client's.
    pub(crate) fn attestation_for(&self, id: &ClientId) -> Attestation {
        let (key, now) = (self.public_key(), self.home.now_ms());
        self.home.keys.attest(id, self.scheme(), &key, now)
    }

    /// A leaf as it has to be.
    pub(crate) fn says(&self) -> Says {
        let random = Environment::system().random;
        Says {
            queue: QueueConfig {
                provider: self.id.provider(),
                client_queue_information: self.home.keys.seal_queue(&*random, &self.id),
            },
            attestation: self.attestation_for(&self.id),
            for_connections: false,
            // openmls reads the machine's clock; the provider's may be ahead of that.
            lifetime: (
                now_ms() / 1000 - 3600,
                self.home.now_ms() / 1000 + 30 * DAY_SECONDS,
            ),
        }
    }

    pub(crate) fn leaf_extensions(says: &Says) -> Extensions<LeafNode> {
        let versions = List::new(vec![DsProtocolVersion::MOH1]).unwrap();
        let mut all = vec![
            unknown(extension_type::MOH, &MohLeafNode { versions }),
            unknown(extension_type::QUEUE_CONFIG, &says.queue),
            unknown(extension_type::ATTESTATION, &says.attestation),
        ];
        if says.for_connections {
            let number = extension_type::CONNECTION_KEY_PACKAGE;
            all.push(Extension::Unknown(number, UnknownExtension(Vec::new())));
        }
        Extensions::from_vec(all).unwrap()
    }

    fn capabilities() -> Capabilities {
        Self::capabilities_with(&extension_types())
    }

    fn capabilities_with(extensions: &[ExtensionType]) -> Capabilities {
        Capabilities::new(
            Some(&[ProtocolVersion::Mls10]),
            Some(&[
                Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
                Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
                Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
            ]),
            Some(extensions),
            Some(&[]),
            Some(&[CredentialType::Basic]),
        )
    }

    /// A KeyPackage with a leaf that says this.
    pub(crate) fn key_package_that_says(&self, says: &Says) -> KeyPackage {
        self.build_key_package(says, Self::capabilities(), KeyPackage::builder())
    }

    /// A KeyPackage of last resort, with a leaf that says this.
    pub(crate) fn last_resort_that_says(&self, says: &Says) -> KeyPackage {
        let mut extensions = extension_types();
        extensions.push(ExtensionType::LastResort);
        let capabilities = Self::capabilities_with(&extensions);
        let builder = KeyPackage::builder().mark_as_last_resort();
        self.build_key_package(says, capabilities, builder)
    }

    fn build_key_package(
        &self,
        says: &Says,
        capabilities: Capabilities,
        builder: KeyPackageBuilder,
    ) -> KeyPackage {
        builder
            .key_package_lifetime(Lifetime::init(says.lifetime.0, says.lifetime.1))
            .leaf_node_capabilities(capabilities)
            .leaf_node_extensions(Self::leaf_extensions(says))
            .build(
                self.ciphersuite(),
                &self.mls,
                &self.signer,
                self.credential(),
            )
            .unwrap()
            .into_key_package()
    }

    pub(crate) fn key_package(&self) -> KeyPackage {
        self.key_package_that_says(&self.says())
    }

    /// A KeyPackage that is marked for connection groups.
    pub(crate) fn connection_key_package(&self) -> KeyPackage {
        self.key_package_that_says(&Says {
            for_connections: true,
            ..self.says()
        })
    }

    pub(crate) fn reference(&self, key_package: &KeyPackage) -> KeyPackageRef {
        let reference = key_package.hash_ref(self.mls.crypto()).unwrap();
        KeyPackageRef::new(reference.as_slice()).unwrap()
    }

    /// A group of this client alone, and what its owner is told of it.
    pub(crate) fn found(self: &Arc<Self>, founding: &Founding) -> (Member, parts::GroupInfo) {
        let says = self.says();
        let moh = MohGroupContext {
            version: DsProtocolVersion::MOH1,
            group_type: founding.group_type,
        };
        let sender = openmls::prelude::ExternalSender::tls_deserialize_exact_bytes(
            &founding.ds_sender.encode(),
        );
        let required =
            RequiredCapabilitiesExtension::new(&extension_types(), &[], &[CredentialType::Basic]);
        let mut context = vec![
            Extension::ExternalSenders(vec![sender.unwrap()]),
            Extension::RequiredCapabilities(required),
            unknown(extension_type::MOH, &moh),
        ];
        if let Some(rbac) = &founding.rbac {
            context.push(unknown(extension_type::RBAC, rbac));
        }
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(self.ciphersuite())
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .max_past_epochs(PAST_EPOCHS)
            .capabilities(Self::capabilities())
            .lifetime(Lifetime::init(says.lifetime.0, says.lifetime.1))
            .with_leaf_node_extensions(Self::leaf_extensions(&says))
            .unwrap()
            .with_group_context_extensions(Extensions::from_vec(context).unwrap())
            .build();
        let id = openmls::group::GroupId::from_slice(founding.group_id.as_slice());
        let credential = self.credential();
        let group = MlsGroup::new_with_group_id(&self.mls, &self.signer, &config, id, credential);
        let member = Member::new(self, group.unwrap());
        let info = parts::GroupInfo::decode(&member.door().group_info).unwrap();
        (member, info)
    }

    /// A request, signed.
    pub(crate) fn sign(&self, mut request: DsRequest) -> DsRequest {
        let tbs = request.to_be_signed();
        let signature = self.signer.sign(&sign_content(label::DS_REQUEST, &tbs));
        *request.signature_mut().unwrap() = Signature::new(signature.unwrap()).unwrap();
        request
    }

    /// A request to a.example, signed as by a leaf.
    pub(crate) fn as_leaf(&self, leaf_index: u32, body: DsRequestBody) -> DsRequest {
        self.sign(self.request(
            body,
            DsAuth::Leaf {
                leaf_index,
                signature: Signature::empty(),
            },
        ))
    }

    pub(crate) fn request(&self, body: DsRequestBody, auth: DsAuth) -> DsRequest {
        DsRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.id.provider(),
            recipient: "a.example".parse().unwrap(),
            group_state_key: Opaque::empty(),
            body,
            auth,
        }
    }

    /// Asks for the tree that belongs to a Welcome.
    pub(crate) fn welcome_info(
        &self,
        group_id: &GroupId,
        epoch: u64,
        key_package_ref: &KeyPackageRef,
    ) -> DsRequest {
        let body = DsRequestBody::WelcomeInfo(WelcomeInfo {
            group_id: group_id.clone(),
            epoch,
        });
        self.as_joiner(key_package_ref, body)
    }

    /// A request to a.example, signed as by who was added with a KeyPackage.
    pub(crate) fn as_joiner(&self, reference: &KeyPackageRef, body: DsRequestBody) -> DsRequest {
        let auth = DsAuth::KeyPackage {
            key_package_ref: reference.clone(),
            signature: Signature::empty(),
        };
        self.sign(self.request(body, auth))
    }

    /// Joins by a Welcome and its tree.
    pub(crate) fn join(self: &Arc<Self>, welcome: &[u8], tree: &[u8]) -> Member {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(welcome).unwrap();
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            panic!("not a Welcome");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(tree).unwrap();
        let group = ProcessedWelcome::new_from_welcome(&self.mls, &join_config(), welcome)
            .and_then(|processed| processed.into_staged_welcome(&self.mls, Some(tree)))
            .and_then(|staged| staged.into_group(&self.mls))
            .unwrap();
        Member::new(self, group)
    }

    /// Joins by an external commit; one that removes the leaf of the same key, if there is one.
    pub(crate) fn enter(self: &Arc<Self>, door: &Door) -> (Made, Member) {
        self.enter_with(door, self.credential())
    }

    /// An external commit that removes the leaf of another key. The group that this client has
    /// is not the one that it leads to: openmls removes leaves of the client's own key alone.
    pub(crate) fn enter_in_place_of(
        self: &Arc<Self>,
        door: &Door,
        key: &PublicKey,
        view: &Member,
    ) -> Made {
        let credential = CredentialWithKey {
            signature_key: key.as_slice().into(),
            ..self.credential()
        };
        let (mut made, _) = self.enter_with(door, credential);
        made.edit(self, view, |commit| {
            let leaf = &mut commit.path.as_mut().unwrap().leaf;
            leaf.signature_key = parts::bytes(self.signer.public());
        });
        made
    }

    fn enter_with(self: &Arc<Self>, door: &Door, credential: CredentialWithKey) -> (Made, Member) {
        let info = MlsMessageIn::tls_deserialize_exact_bytes(&door.group_info).unwrap();
        let MlsMessageBodyIn::GroupInfo(info) = info.extract() else {
            panic!("not a GroupInfo");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&door.tree).unwrap();
        let leaf = LeafNodeParameters::builder()
            .with_capabilities(Self::capabilities())
            .with_extensions(Self::leaf_extensions(&self.says()))
            .build();
        let built = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(join_config())
            .build_group(&self.mls, info, credential)
            .unwrap()
            .leaf_node_parameters(leaf)
            .load_psks(self.mls.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.mls.rand(), self.mls.crypto(), &self.signer, |_| true);
        let (group, bundle) = built.unwrap().finalize(&self.mls).unwrap();
        let context = parts::GroupInfo::decode(&door.group_info).unwrap().context;
        let made = Made::of(&bundle, context.encode());
        (made, Member::new(self, group))
    }

    /// A KeyPackage as its parts.
    pub(crate) fn key_package_parts(&self) -> parts::KeyPackage {
        let bytes = MlsMessageOut::from(self.key_package()).to_bytes().unwrap();
        parts::KeyPackage::decode(&bytes).unwrap()
    }
}

/// The body of create_group.
pub(crate) fn create_group(
    founding: &Founding,
    leaf: &parts::Leaf,
    info: &parts::GroupInfo,
) -> DsRequestBody {
    DsRequestBody::CreateGroup(CreateGroup {
        group_id: founding.group_id.clone(),
        group_type: founding.group_type,
        leaf_node: Opaque::new(leaf.encode()).unwrap(),
        group_info: HandshakeBytes::new(info.encode()).unwrap(),
    })
}
