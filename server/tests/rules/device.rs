//! Clients made of openmls alone, and what they send.

use std::sync::Arc;

use moh_messages::{
    AddMembers, Attestation, CipherSuite, ClientId, CreateGroup, DsAuth, DsProtocolVersion,
    DsRequest, DsRequestBody, Extension as RawExtension, ExternalSender, GroupId, GroupType,
    GroupUpdate, HandshakeBytes, KeyPackageRef, List, Message, MlsBytes, MlsGroupUpdate,
    MohGroupContext, MohLeafNode, Opaque, PartialGroupInfo, PublicKey, QueueConfig, Rbac,
    SendMessage, Signature, SignatureScheme, SignedLast, WelcomeInfo, extension_type, label,
    sign_content,
};
use moh_server::Environment;
use openmls::group::{
    MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
    ProcessedWelcome,
};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension,
    ExtensionType, Extensions, KeyPackage, LeafNode, LeafNodeIndex, LeafNodeParameters, Lifetime,
    MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProcessedMessageContent, ProtocolMessage,
    ProtocolVersion, RatchetTreeIn, RequiredCapabilitiesExtension, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider;
use openmls_traits::signatures::Signer;
use tls_codec::{DeserializeBytes, Serialize};

use crate::home::Home;
use crate::parts;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// A client of a provider whose keys are known.
pub(crate) struct Device {
    pub(crate) id: ClientId,
    pub(crate) home: Arc<Home>,
    pub(crate) suite: CipherSuite,
    pub(crate) signer: SignatureKeyPair,
    mls: OpenMlsRustCrypto,
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

/// What a commit is to do.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) add: Vec<KeyPackage>,
    pub(crate) remove: Vec<u32>,
}

/// A commit that was built, and is not sent.
pub(crate) struct Made {
    pub(crate) commit: Vec<u8>,
    pub(crate) info: parts::GroupInfo,
    pub(crate) welcome: Option<MlsBytes>,
    /// The context that it was signed in.
    pub(crate) context: Vec<u8>,
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

impl Device {
    pub(crate) fn of(id: &str, home: &Arc<Home>) -> Self {
        Self::with_suite(id, home, CipherSuite::X25519_AES128GCM_ED25519)
    }

    pub(crate) fn with_suite(id: &str, home: &Arc<Home>, suite: CipherSuite) -> Self {
        let algorithm = Ciphersuite::try_from(suite.0)
            .unwrap()
            .signature_algorithm();
        let signer = SignatureKeyPair::new(algorithm).unwrap();
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

    /// A leaf as it has to be.
    pub(crate) fn says(&self) -> Says {
        let random = Environment::system().random;
        let now_s = now_ms() / 1000;
        let key = self.public_key();
        Says {
            queue: QueueConfig {
                provider: self.id.provider(),
                client_queue_information: self.home.keys.seal_queue(&*random, &self.id),
            },
            attestation: self
                .home
                .keys
                .attest(&self.id, self.scheme(), &key, now_ms()),
            for_connections: false,
            lifetime: (now_s - 3600, now_s + 30 * DAY_SECONDS),
        }
    }

    fn leaf_extensions(says: &Says) -> Extensions<LeafNode> {
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
        Capabilities::new(
            Some(&[ProtocolVersion::Mls10]),
            Some(&[
                Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
                Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
                Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
            ]),
            Some(&extension_types()),
            Some(&[]),
            Some(&[CredentialType::Basic]),
        )
    }

    /// A KeyPackage with a leaf that says this.
    pub(crate) fn key_package_that_says(&self, says: &Says) -> KeyPackage {
        KeyPackage::builder()
            .key_package_lifetime(Lifetime::init(says.lifetime.0, says.lifetime.1))
            .leaf_node_capabilities(Self::capabilities())
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

    /// A KeyPackage as its parts.
    pub(crate) fn key_package_parts(&self) -> parts::KeyPackage {
        let bytes = MlsMessageOut::from(self.key_package()).to_bytes().unwrap();
        parts::KeyPackage::decode(&bytes).unwrap()
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
            .capabilities(Self::capabilities())
            .lifetime(Lifetime::init(says.lifetime.0, says.lifetime.1))
            .with_leaf_node_extensions(Self::leaf_extensions(&says))
            .unwrap()
            .with_group_context_extensions(Extensions::from_vec(context).unwrap())
            .build();
        let id = openmls::group::GroupId::from_slice(founding.group_id.as_slice());
        let credential = self.credential();
        let group = MlsGroup::new_with_group_id(&self.mls, &self.signer, &config, id, credential);
        let group = group.unwrap();
        let info = group.export_group_info(self.mls.crypto(), &self.signer, false);
        let info = parts::GroupInfo::decode(&info.unwrap().to_bytes().unwrap()).unwrap();
        let device = Arc::clone(self);
        (Member { device, group }, info)
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
        let auth = DsAuth::KeyPackage {
            key_package_ref: key_package_ref.clone(),
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
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .build();
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(tree).unwrap();
        let group = ProcessedWelcome::new_from_welcome(&self.mls, &config, welcome)
            .and_then(|processed| processed.into_staged_welcome(&self.mls, Some(tree)))
            .and_then(|staged| staged.into_group(&self.mls))
            .unwrap();
        let device = Arc::clone(self);
        Member { device, group }
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

/// A client's copy of a group.
pub(crate) struct Member {
    pub(crate) device: Arc<Device>,
    pub(crate) group: MlsGroup,
}

impl Member {
    pub(crate) fn index(&self) -> u32 {
        self.group.own_leaf_index().u32()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    pub(crate) fn tree(&self) -> Vec<u8> {
        self.group
            .export_ratchet_tree()
            .tls_serialize_detached()
            .unwrap()
    }

    pub(crate) fn own_leaf(&self) -> parts::Leaf {
        let leaf = self.group.own_leaf_node().unwrap();
        parts::Leaf::decode(&leaf.tls_serialize_detached().unwrap()).unwrap()
    }

    /// Builds a commit; it is pending until it is taken back or accepted.
    pub(crate) fn commit(&mut self, plan: Plan) -> Made {
        self.commit_with(plan, LeafNodeParameters::default())
    }

    fn commit_with(&mut self, plan: Plan, leaf: LeafNodeParameters) -> Made {
        let device = &self.device;
        let (mls, signer) = (&device.mls, &device.signer);
        let context = self
            .group
            .public_group()
            .group_context()
            .tls_serialize_detached();
        let bundle = self
            .group
            .commit_builder()
            .force_self_update(true)
            .propose_adds(plan.add)
            .propose_removals(plan.remove.into_iter().map(LeafNodeIndex::new))
            .leaf_node_parameters(leaf)
            .load_psks(mls.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(mls.rand(), mls.crypto(), signer, |_| true)
            .unwrap()
            .stage_commit(mls)
            .unwrap();
        let info = MlsMessageOut::from(bundle.group_info().unwrap().clone());
        let welcome = bundle.to_welcome_msg();
        let welcome = welcome.map(|w| MlsBytes::new(w.to_bytes().unwrap()).unwrap());
        Made {
            commit: bundle.commit().to_bytes().unwrap(),
            info: parts::GroupInfo::decode(&info.to_bytes().unwrap()).unwrap(),
            welcome,
            context: context.unwrap(),
        }
    }

    /// Takes the pending commit back.
    pub(crate) fn forget(&mut self) {
        let storage = self.device.mls.storage();
        self.group.clear_pending_commit(storage).unwrap();
    }

    /// The pending commit was accepted.
    pub(crate) fn accept(&mut self) {
        self.group.merge_pending_commit(&self.device.mls).unwrap();
    }

    /// Takes a commit of somebody else.
    pub(crate) fn hear(&mut self, commit: &[u8]) {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(commit).unwrap();
        let MlsMessageBodyIn::PublicMessage(message) = message.extract() else {
            panic!("not a PublicMessage");
        };
        let message = ProtocolMessage::from(message);
        let processed = self.group.process_message(&self.device.mls, message);
        let ProcessedMessageContent::StagedCommitMessage(staged) =
            processed.unwrap().into_content()
        else {
            panic!("not a commit");
        };
        self.group
            .merge_staged_commit(&self.device.mls, *staged)
            .unwrap();
    }

    /// The body of send_message.
    pub(crate) fn message(&mut self, text: &str) -> DsRequestBody {
        let device = &self.device;
        let message = self
            .group
            .create_message(&device.mls, &device.signer, text.as_bytes());
        let message = message.unwrap().to_bytes().unwrap();
        DsRequestBody::SendMessage(SendMessage {
            message: Opaque::new(message).unwrap(),
        })
    }

    /// A request of this member.
    pub(crate) fn ask(&self, body: DsRequestBody) -> DsRequest {
        self.device.as_leaf(self.index(), body)
    }
}

impl Made {
    pub(crate) fn partial(&self) -> PartialGroupInfo {
        let extensions: Vec<RawExtension> = self.info.extensions.clone().into_vec();
        PartialGroupInfo {
            group_info_extensions: List::new(extensions).unwrap(),
            signature: Signature::new(self.info.signature.as_slice()).unwrap(),
        }
    }

    pub(crate) fn parts(&self) -> parts::Commit {
        parts::Commit::decode(&self.commit).unwrap()
    }

    /// Changes the commit, and signs it anew.
    pub(crate) fn edit(&mut self, device: &Device, edit: impl FnOnce(&mut parts::Commit)) {
        let mut commit = self.parts();
        edit(&mut commit);
        commit.sign(&device.signer, &self.context);
        self.commit = commit.encode();
    }

    fn group_update(&self) -> MlsGroupUpdate {
        MlsGroupUpdate {
            commit: HandshakeBytes::new(self.commit.clone()).unwrap(),
            partial_group_info: self.partial(),
        }
    }

    pub(crate) fn as_update(&self) -> DsRequestBody {
        DsRequestBody::UpdateClient(GroupUpdate {
            group_update: self.group_update(),
        })
    }

    pub(crate) fn as_add(&self) -> DsRequestBody {
        self.as_add_with(self.welcome.iter().cloned().collect())
    }

    pub(crate) fn as_add_with(&self, welcomes: Vec<MlsBytes>) -> DsRequestBody {
        DsRequestBody::AddUsers(AddMembers {
            group_update: self.group_update(),
            welcomes: List::new(welcomes).unwrap(),
        })
    }
}
