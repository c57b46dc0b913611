//! Clients: their keys, their leaves, and how their requests are signed.

use moh_messages::{
    CipherSuite, ClientId, DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, Extension,
    KeyPackageRef, List, Message, MohLeafNode, Opaque, ProviderAuth, ProviderName, PublicKey,
    QueueConfig, Signature, SignedLast, extension_type, label, sign_content,
};

use crate::mls::{Identity, Key, Library, LibraryKind};
use crate::with_mls_rs::MlsRs;
use crate::with_openmls::OpenMls;
use crate::world::World;

/// A client of one of the providers.
pub(crate) struct Device {
    pub(crate) id: ClientId,
    pub(crate) kind: LibraryKind,
    pub(crate) suite: CipherSuite,
    pub(crate) library: Box<dyn Library>,
    /// What new leaves are signed with.
    pub(crate) key: Key,
    /// How far the queue is read.
    pub(crate) cursor: Opaque<64>,
    /// It does not read its queue.
    pub(crate) asleep: bool,
    /// Its provider has said that it is gone.
    pub(crate) deleted: bool,
}

pub(crate) fn extension(number: u16, content: impl Into<Vec<u8>>) -> Extension {
    Extension {
        extension_type: number,
        extension_data: Opaque::new(content).unwrap(),
    }
}

impl Device {
    pub(crate) fn new(id: ClientId, kind: LibraryKind, suite: CipherSuite) -> Self {
        let library: Box<dyn Library> = match kind {
            LibraryKind::OpenMls => Box::new(OpenMls::new(suite.0)),
            LibraryKind::MlsRs => Box::new(MlsRs::new(suite.0)),
        };
        Self {
            id,
            kind,
            suite,
            key: library.new_key(),
            library,
            cursor: Opaque::empty(),
            asleep: false,
            deleted: false,
        }
    }

    /// This client with a key, and a leaf that is as it has to be.
    pub(crate) fn identity(&self, world: &World, key: &Key, for_connections: bool) -> Identity {
        let keys = &world.provider(&self.id.provider()).keys;
        let queue = QueueConfig {
            provider: self.id.provider(),
            client_queue_information: keys.seal_queue(&*world.environment.random, &self.id),
        };
        let public = PublicKey::new(key.public.clone()).unwrap();
        let scheme = self.suite.signature_scheme().unwrap();
        let attestation = keys.attest(&self.id, scheme, &public, world.now_ms());
        let versions = List::new(vec![DsProtocolVersion::MOH1]).unwrap();
        let mut leaf_extensions = vec![
            extension(extension_type::MOH, MohLeafNode { versions }.encode()),
            extension(extension_type::QUEUE_CONFIG, queue.encode()),
            extension(extension_type::ATTESTATION, attestation.encode()),
        ];
        if for_connections {
            leaf_extensions.push(extension(extension_type::CONNECTION_KEY_PACKAGE, []));
        }
        Identity {
            client: self.id.to_string(),
            key: key.clone(),
            leaf_extensions,
        }
    }
}

fn unsigned(
    client: &ClientId,
    owner: &ProviderName,
    body: DsRequestBody,
    auth: DsAuth,
) -> DsRequest {
    DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: client.provider(),
        recipient: owner.clone(),
        group_state_key: Opaque::empty(),
        body,
        auth,
    }
}

fn sign(key: &Key, mut request: DsRequest) -> DsRequest {
    let content = sign_content(label::DS_REQUEST, &request.to_be_signed());
    *request.signature_mut().unwrap() = Signature::new(key.sign(&content)).unwrap();
    request
}

/// A request that a member signs.
pub(crate) fn as_leaf(
    client: &ClientId,
    owner: &ProviderName,
    key: &Key,
    leaf_index: u32,
    body: DsRequestBody,
) -> DsRequest {
    let auth = DsAuth::Leaf {
        leaf_index,
        signature: Signature::empty(),
    };
    sign(key, unsigned(client, owner, body, auth))
}

/// A request by whoever was added with a KeyPackage.
pub(crate) fn as_joiner(
    client: &ClientId,
    owner: &ProviderName,
    key: &Key,
    reference: &KeyPackageRef,
    body: DsRequestBody,
) -> DsRequest {
    let auth = DsAuth::KeyPackage {
        key_package_ref: reference.clone(),
        signature: Signature::empty(),
    };
    sign(key, unsigned(client, owner, body, auth))
}

/// A request that the client's provider signs.
pub(crate) fn as_provider(
    world: &World,
    client: &ClientId,
    owner: &ProviderName,
    body: DsRequestBody,
) -> DsRequest {
    let auth = DsAuth::Provider {
        on_behalf_of: client.clone(),
        provider_auth: ProviderAuth::blank(),
    };
    let mut request = unsigned(client, owner, body, auth);
    world.sign_as_provider(&mut request);
    request
}
