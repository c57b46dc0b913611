//! What a device asks of its own provider.

use moh_messages::client_api::{
    Boolean, ClientAuthorization, ClientInfo, ClientRequest, ClientRequestBody, ClientResponse,
    ClientResponseBody, Cursor, ListClients, QueueItem, QueueItemPayload, ReadQueue, Register,
    SetConsent, UploadKeyPackages,
};
use moh_messages::{
    Attestation, DsErrorCode, DsProtocolVersion, DsResponse, DsResponseBody, KeyPackageBytes, List,
    Message, Nonce, Opaque, Signature, SignedLast, label, sign_content,
};
use moh_server::{Environment, Node};
use openmls::prelude::{KeyPackage, MlsMessageOut};
use openmls_traits::signatures::Signer;

use crate::device::Device;
use crate::site::Site;

/// The answer, or the code of the refusal.
pub(crate) type Told = Result<ClientResponseBody, DsErrorCode>;

pub(crate) const OK: Told = Ok(ClientResponseBody::Ok);
pub(crate) const UNAUTHORIZED: Told = Err(DsErrorCode::UNAUTHORIZED);
pub(crate) const UNAUTHENTICATED: Told = Err(DsErrorCode::UNAUTHENTICATED);

/// KeyPackages as they are uploaded.
pub(crate) fn messages(key_packages: &[KeyPackage]) -> Vec<KeyPackageBytes> {
    let bytes = key_packages.iter().map(|key_package| {
        let message = MlsMessageOut::from(key_package.clone());
        KeyPackageBytes::new(message.to_bytes().unwrap()).unwrap()
    });
    bytes.collect()
}

impl Device {
    /// A request to the own provider, its bytes.
    pub(crate) fn request_home(&self, body: ClientRequestBody) -> Vec<u8> {
        let random = Environment::system().random;
        let mut request = ClientRequest {
            version: DsProtocolVersion::MOH1,
            recipient: self.id.provider(),
            client: self.id.clone(),
            timestamp: self.home.now_ms(),
            nonce: Nonce::new(random.bytes::<16>()).unwrap(),
            body,
            signature: Signature::empty(),
        };
        let content = sign_content(label::CLIENT_REQUEST, &request.to_be_signed());
        request.signature = Signature::new(self.signer.sign(&content).unwrap()).unwrap();
        request.encode()
    }

    pub(crate) async fn tell(&self, node: &Node, body: ClientRequestBody) -> Told {
        let answer = node.answer_client(&self.request_home(body)).await;
        if answer.status == 200 {
            return Ok(ClientResponse::decode(&answer.body).unwrap().body);
        }
        match DsResponse::decode(&answer.body).unwrap().body {
            DsResponseBody::Error(error) => Err(error.code),
            other => panic!("{other:?}"),
        }
    }

    /// Becomes a user's first client, with a code or without.
    pub(crate) async fn register(&self, node: &Node, invitation: &str) -> Told {
        self.tell(node, self.registration(None, invitation)).await
    }

    pub(crate) fn registration(
        &self,
        authorization: Option<ClientAuthorization>,
        invitation: &str,
    ) -> ClientRequestBody {
        ClientRequestBody::Register(Register {
            scheme: self.scheme(),
            signature_key: self.public_key(),
            authorization,
            invitation: Opaque::new(invitation.as_bytes()).unwrap(),
        })
    }

    /// Its word that another one is a client of the same user.
    pub(crate) fn word_for(&self, other: &Self) -> ClientAuthorization {
        let mut word = ClientAuthorization {
            authorizer: self.id.clone(),
            client: other.id.clone(),
            scheme: other.scheme(),
            signature_key: other.public_key(),
            not_after: self.home.now_ms(),
            signature: Signature::empty(),
        };
        let content = sign_content(label::CLIENT_AUTHORIZATION, &word.to_be_signed());
        word.signature = Signature::new(self.signer.sign(&content).unwrap()).unwrap();
        word
    }

    /// Becomes a further client, by the word of another one.
    pub(crate) async fn register_by(&self, node: &Node, other: &Self) -> Told {
        let request = self.registration(Some(other.word_for(self)), "");
        self.tell(node, request).await
    }

    pub(crate) async fn upload(
        &self,
        node: &Node,
        key_packages: &[KeyPackage],
        replace: Boolean,
    ) -> Told {
        let upload = UploadKeyPackages {
            replace,
            key_packages: List::new(messages(key_packages)).unwrap(),
        };
        let upload = ClientRequestBody::UploadKeyPackages(upload);
        self.tell(node, upload).await
    }

    /// Lets the user of another device add its own.
    pub(crate) async fn consents_to(&self, node: &Node, peer: &Self) {
        let set = ClientRequestBody::SetConsent(SetConsent {
            peer: peer.id.user_id(),
            allowed: Boolean::True,
        });
        assert_eq!(self.tell(node, set).await, OK);
    }

    pub(crate) async fn clients(&self, node: &Node) -> Vec<ClientInfo> {
        let list = ClientRequestBody::ListClients(ListClients {});
        match self.tell(node, list).await.unwrap() {
            ClientResponseBody::Clients { clients } => clients.into_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Everything in its queue.
    pub(crate) async fn queue(&self, node: &Node) -> Vec<QueueItem> {
        match self.tell(node, read_queue(0)).await.unwrap() {
            ClientResponseBody::Queue { items } => items.into_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// What its provider itself has to say to it.
    pub(crate) async fn notices(&self, node: &Node) -> Vec<QueueItemPayload> {
        let items = self.queue(node).await.into_iter();
        items
            .filter(|item| item.sender == *node.name())
            .map(|item| item.payload)
            .collect()
    }
}

pub(crate) fn read_queue(wait_ms: u32) -> ClientRequestBody {
    ClientRequestBody::ReadQueue(ReadQueue {
        cursor: Cursor::empty(),
        wait_ms,
    })
}

/// The attestation that a registration is answered with.
pub(crate) fn attestation(told: Told) -> Attestation {
    match told {
        Ok(ClientResponseBody::Registered { attestation }) => attestation,
        other => panic!("not registered: {other:?}"),
    }
}

impl Site {
    /// A registered device, `user/device@a.example`: the first of its user.
    pub(crate) async fn registered(&self, name: &str) -> std::sync::Arc<Device> {
        let device = self.device(name);
        attestation(device.register(&self.node, "").await);
        device
    }

    /// A further device of a user.
    pub(crate) async fn registered_by(&self, name: &str, other: &Device) -> std::sync::Arc<Device> {
        let device = self.device(name);
        attestation(device.register_by(&self.node, other).await);
        device
    }
}
