//! A client in a group.

use moh_messages::client_api::QueueItem;
use moh_messages::{
    AddMembers, ApplicationBytes, Attestation, CipherSuite, CreateGroup, DsAuth, DsProtocolVersion,
    DsRequestBody, DsResponse, DsResponseBody, Endpoint, GroupId, GroupType, GroupUpdate,
    HandshakeBytes, KeyPackageBytes, KeyPackageRef, List, Message, MlsBytes, MlsGroupUpdate,
    MohGroupContext, MohLeafNode, Opaque, PartialGroupInfo, ProviderAuth, ProviderName,
    QueueConfig, RequestGroupId, SendMessage, Signature, WelcomeInfo, extension_type,
};
use openmls::group::{
    CommitMessageBundle, GroupContext, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedWelcome,
};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension,
    ExtensionType, Extensions, ExternalSender, KeyPackage, KeyPackageIn, LeafNode,
    LeafNodeParameters, Lifetime, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut,
    ProcessedMessageContent, ProtocolMessage, ProtocolVersion, RatchetTreeIn,
    RequiredCapabilitiesExtension, SenderRatchetConfiguration, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider;
use tls_codec::{DeserializeBytes, Serialize};

use super::device::Device;
use super::now_ms;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const DAY_S: u64 = 24 * 60 * 60;

/// A member of a group.
pub(crate) struct Member {
    pub(crate) device: Device,
    pub(crate) group: MlsGroup,
    pub(crate) owner: ProviderName,
}

/// What a message turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Text(String),
    /// A commit, and the epoch after it.
    Commit(u64),
}

fn unknown(number: u16, content: &impl Message) -> Extension {
    Extension::Unknown(number, UnknownExtension(content.encode()))
}

fn extension_types() -> Vec<ExtensionType> {
    let all = extension_type::ALL.into_iter();
    all.map(ExtensionType::Unknown).collect()
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[SUITE]),
        Some(&extension_types()),
        Some(&[]),
        Some(&[CredentialType::Basic]),
    )
}

fn lifetime() -> Lifetime {
    let now = now_ms() / 1000;
    Lifetime::init(now - 3600, now + 30 * DAY_S)
}

fn credential(device: &Device) -> CredentialWithKey {
    CredentialWithKey {
        credential: BasicCredential::new(device.client.as_str().as_bytes().to_vec()).into(),
        signature_key: device.signer.public().into(),
    }
}

/// What a leaf has to say of its client.
fn leaf_extensions(attestation: &Attestation, queue: &QueueConfig) -> Extensions<LeafNode> {
    Extensions::from_vec(about_client(attestation, queue)).unwrap()
}

fn about_client(attestation: &Attestation, queue: &QueueConfig) -> Vec<Extension> {
    let versions = List::new(vec![DsProtocolVersion::MOH1]).unwrap();
    vec![
        unknown(extension_type::MOH, &MohLeafNode { versions }),
        unknown(extension_type::QUEUE_CONFIG, queue),
        unknown(extension_type::ATTESTATION, attestation),
    ]
}

fn context_extensions(ds_sender: &moh_messages::ExternalSender) -> Extensions<GroupContext> {
    let ds_sender = ExternalSender::tls_deserialize_exact_bytes(&ds_sender.encode()).unwrap();
    let required =
        RequiredCapabilitiesExtension::new(&extension_types(), &[], &[CredentialType::Basic]);
    let moh = MohGroupContext {
        version: DsProtocolVersion::MOH1,
        group_type: GroupType::Regular,
    };
    Extensions::from_vec(vec![
        Extension::ExternalSenders(vec![ds_sender]),
        Extension::RequiredCapabilities(required),
        unknown(extension_type::MOH, &moh),
    ])
    .unwrap()
}

fn ratchets() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(32, 10_000)
}

/// A KeyPackage of a client, whose private keys the client has.
pub(crate) fn key_package(
    device: &Device,
    attestation: &Attestation,
    queue: &QueueConfig,
) -> KeyPackage {
    key_package_with(device, leaf_extensions(attestation, queue))
}

/// A KeyPackage that is for connection groups alone.
pub(crate) fn connection_key_package(device: &Device, queue: &QueueConfig) -> KeyPackage {
    let mut extensions = about_client(&device.attestation, queue);
    let number = extension_type::CONNECTION_KEY_PACKAGE;
    extensions.push(Extension::Unknown(number, UnknownExtension(Vec::new())));
    key_package_with(device, Extensions::from_vec(extensions).unwrap())
}

fn key_package_with(device: &Device, extensions: Extensions<LeafNode>) -> KeyPackage {
    KeyPackage::builder()
        .key_package_lifetime(lifetime())
        .leaf_node_capabilities(capabilities())
        .leaf_node_extensions(extensions)
        .build(SUITE, &device.mls, &device.signer, credential(device))
        .unwrap()
        .into_key_package()
}

/// A KeyPackage as it is uploaded.
pub(crate) fn encoded(key_package: &KeyPackage) -> KeyPackageBytes {
    let message = MlsMessageOut::from(key_package.clone());
    KeyPackageBytes::new(message.to_bytes().unwrap()).unwrap()
}

/// A KeyPackage as it was fetched.
pub(crate) fn decoded(device: &Device, bytes: &KeyPackageBytes) -> KeyPackage {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice()).unwrap();
    let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
        panic!("not a KeyPackage");
    };
    KeyPackageIn::validate(key_package, device.mls.crypto(), ProtocolVersion::Mls10).unwrap()
}

impl Member {
    /// A group with a name of the provider's, and the request to create it, not sent.
    pub(crate) async fn create(device: Device) -> (Self, Vec<u8>) {
        let owner = device.home();
        let (group_id, ds_sender) = request_group_id(&device).await;
        Self::create_as(device, owner, &group_id, &ds_sender).await
    }

    /// The same with any name.
    pub(crate) async fn create_as(
        device: Device,
        owner: ProviderName,
        group_id: &GroupId,
        ds_sender: &moh_messages::ExternalSender,
    ) -> (Self, Vec<u8>) {
        let queue = device.queue_configs(1).await.remove(0);
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(5)
            .use_ratchet_tree_extension(false)
            .sender_ratchet_configuration(ratchets())
            .capabilities(capabilities())
            .lifetime(lifetime())
            .with_leaf_node_extensions(leaf_extensions(&device.attestation, &queue))
            .unwrap()
            .with_group_context_extensions(context_extensions(ds_sender))
            .build();
        let id = openmls::group::GroupId::from_slice(group_id.as_slice());
        let (mls, signer) = (&device.mls, &device.signer);
        let group =
            MlsGroup::new_with_group_id(mls, signer, &config, id, credential(&device)).unwrap();
        let leaf_node = group.own_leaf_node().unwrap();
        let info = group.export_group_info(mls.crypto(), signer, false);
        let body = DsRequestBody::CreateGroup(CreateGroup {
            group_id: group_id.clone(),
            group_type: GroupType::Regular,
            leaf_node: Opaque::new(leaf_node.tls_serialize_detached().unwrap()).unwrap(),
            group_info: HandshakeBytes::new(info.unwrap().to_bytes().unwrap()).unwrap(),
        });
        let member = Self {
            device,
            group,
            owner,
        };
        let request = member.signed(body);
        (member, request)
    }

    /// Joins by a Welcome.
    pub(crate) async fn join(device: Device, welcome: &[u8], owner: ProviderName) -> Self {
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(5)
            .use_ratchet_tree_extension(false)
            .sender_ratchet_configuration(ratchets())
            .build();
        let request = welcome_info_request(&device, welcome, &owner, &config);
        let (request, processed) = request;
        let endpoint = Endpoint::WelcomeInformation;
        let (status, answer) = device.forward(&owner, endpoint, request).await;
        assert_eq!(status, 200);
        let DsResponseBody::WelcomeInfo { ratchet_tree, .. } =
            DsResponse::decode(&answer).unwrap().body
        else {
            panic!("no welcome_info");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(ratchet_tree.as_slice()).unwrap();
        let group = processed
            .into_staged_welcome(&device.mls, Some(tree))
            .and_then(|staged| staged.into_group(&device.mls))
            .unwrap();
        Self {
            device,
            group,
            owner,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    /// A request by this member, signed.
    pub(crate) fn signed(&self, body: DsRequestBody) -> Vec<u8> {
        self.signed_at(self.group.own_leaf_index().u32(), body)
    }

    /// A request by this member, who says to be at this leaf.
    pub(crate) fn signed_at(&self, leaf_index: u32, body: DsRequestBody) -> Vec<u8> {
        let auth = DsAuth::Leaf {
            leaf_index,
            signature: Signature::empty(),
        };
        let request = self.device.ds_request(&self.owner, body, auth);
        self.device.signed(request)
    }

    /// An application message.
    pub(crate) fn encrypt(&mut self, text: &str) -> Vec<u8> {
        let message =
            self.group
                .create_message(&self.device.mls, &self.device.signer, text.as_bytes());
        message.unwrap().to_bytes().unwrap()
    }

    /// The request that sends a message, and the message.
    pub(crate) fn message(&mut self, text: &str) -> (Vec<u8>, Vec<u8>) {
        let message = self.encrypt(text);
        (self.signed(send_message(&message)), message)
    }

    /// A commit that renews the own keys; it is pending then.
    pub(crate) fn update(&mut self) -> MlsGroupUpdate {
        let leaf = LeafNodeParameters::builder().build();
        let builder = self
            .group
            .commit_builder()
            .force_self_update(true)
            .leaf_node_parameters(leaf);
        group_update(&commit(builder, &self.device))
    }

    /// The request with such a commit.
    pub(crate) fn update_client(&mut self) -> Vec<u8> {
        let group_update = self.update();
        self.signed(DsRequestBody::UpdateClient(GroupUpdate { group_update }))
    }

    /// A commit that adds; it is pending then.
    pub(crate) fn add(&mut self, key_packages: Vec<KeyPackage>) -> AddMembers {
        let builder = self
            .group
            .commit_builder()
            .force_self_update(true)
            .propose_adds(key_packages);
        let bundle = commit(builder, &self.device);
        let welcome = bundle.to_welcome_msg().unwrap().to_bytes().unwrap();
        AddMembers {
            group_update: group_update(&bundle),
            welcomes: List::new(vec![MlsBytes::new(welcome).unwrap()]).unwrap(),
        }
    }

    /// The pending commit was accepted.
    pub(crate) fn merge(&mut self) {
        self.group.merge_pending_commit(&self.device.mls).unwrap();
    }

    /// The pending commit was refused.
    pub(crate) fn discard(&mut self) {
        let storage = self.device.mls.storage();
        self.group.clear_pending_commit(storage).unwrap();
    }

    /// Reads a message of another member.
    pub(crate) fn receive(&mut self, item: &QueueItem) -> Received {
        let bytes = super::device::message_of(item);
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap();
        let message: ProtocolMessage = message.try_into_protocol_message().unwrap();
        let mls = &self.device.mls;
        match self
            .group
            .process_message(mls, message)
            .unwrap()
            .into_content()
        {
            ProcessedMessageContent::ApplicationMessage(message) => {
                Received::Text(String::from_utf8(message.into_bytes()).unwrap())
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                self.group.merge_staged_commit(mls, *staged).unwrap();
                Received::Commit(self.epoch())
            }
            _ => panic!("neither a message nor a commit"),
        }
    }
}

pub(crate) fn send_message(message: &[u8]) -> DsRequestBody {
    DsRequestBody::SendMessage(SendMessage {
        message: ApplicationBytes::new(message).unwrap(),
    })
}

/// A name for a group, by the client's own provider.
pub(crate) async fn request_group_id(device: &Device) -> (GroupId, moh_messages::ExternalSender) {
    let body = DsRequestBody::RequestGroupId(RequestGroupId {
        cipher_suite: CipherSuite(1),
    });
    let auth = DsAuth::Provider {
        on_behalf_of: device.client.clone(),
        provider_auth: ProviderAuth::blank(),
    };
    let request = device.ds_request(&device.home(), body, auth).encode();
    let endpoint = Endpoint::GroupOperation;
    let (status, answer) = device.forward(&device.home(), endpoint, request).await;
    assert_eq!(status, 200);
    match DsResponse::decode(&answer).unwrap().body {
        DsResponseBody::GroupId {
            group_id,
            ds_sender,
        } => (group_id, ds_sender),
        other => panic!("{other:?}"),
    }
}

/// What a client that was added asks of the owner.
pub(crate) fn welcome_info_request(
    device: &Device,
    welcome: &[u8],
    owner: &ProviderName,
    config: &MlsGroupJoinConfig,
) -> (Vec<u8>, ProcessedWelcome) {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(welcome).unwrap();
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
        panic!("not a Welcome");
    };
    let [secrets] = welcome.secrets() else {
        panic!("not for one client");
    };
    let reference = KeyPackageRef::new(secrets.new_member().as_slice()).unwrap();
    let processed = ProcessedWelcome::new_from_welcome(&device.mls, config, welcome).unwrap();
    let context = processed.unverified_group_info().group_context();
    let body = DsRequestBody::WelcomeInfo(WelcomeInfo {
        group_id: GroupId::new(context.group_id().as_slice()).unwrap(),
        epoch: context.epoch().as_u64(),
    });
    let auth = DsAuth::KeyPackage {
        key_package_ref: reference,
        signature: Signature::empty(),
    };
    let request = device.ds_request(owner, body, auth);
    (device.signed(request), processed)
}

type Builder<'g> = openmls::group::CommitBuilder<'g, openmls::group::Initial>;

fn commit(builder: Builder<'_>, device: &Device) -> CommitMessageBundle {
    let (mls, signer): (_, &SignatureKeyPair) = (&device.mls, &device.signer);
    builder
        .load_psks(mls.storage())
        .unwrap()
        .create_group_info(true)
        .use_ratchet_tree_extension(false)
        .build(mls.rand(), mls.crypto(), signer, |_| true)
        .unwrap()
        .stage_commit(mls)
        .unwrap()
}

fn group_update(bundle: &CommitMessageBundle) -> MlsGroupUpdate {
    let info = bundle.group_info().unwrap();
    let extensions = info.extensions().iter().map(|extension| {
        let bytes = extension.tls_serialize_detached().unwrap();
        moh_messages::Extension::decode(&bytes).unwrap()
    });
    let signature = info.signature().tls_serialize_detached().unwrap();
    MlsGroupUpdate {
        commit: HandshakeBytes::new(bundle.commit().to_bytes().unwrap()).unwrap(),
        partial_group_info: PartialGroupInfo {
            group_info_extensions: List::new(extensions.collect()).unwrap(),
            signature: Signature::decode(&signature).unwrap(),
        },
    }
}
