//! A client, as seen by its provider.

use moh_messages::client_api::{
    Acknowledge, Boolean, ClientAuthorization, ClientInfo, ClientRequest, ClientRequestBody,
    ClientResponse, ClientResponseBody, Connection, Cursor, Forward, GetQueueConfigs, ListClients,
    ListConnections, PATH, QueueItem, QueueItemPayload, ReadQueue, Register, SetConsent,
    UploadKeyPackages,
};
use moh_messages::{
    Attestation, CipherSuite, ClientId, ClientKeyPackageStatus, DsAuth, DsProtocolVersion,
    DsRequest, DsRequestBody, Endpoint, GroupKeyPackageRequest, KeyPackageBytes,
    KeyPackageResponse, List, Message, Nonce, Opaque, ProviderAuth, ProviderName, PublicKey,
    QueueConfig, Signature, SignatureScheme, SignedLast, UserId, UserKeyPackageStatus, label,
    sign_content,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer;
use tokio::time::Instant;

use super::answer::{Answer, Http};
use super::server::Server;
use super::{PATIENCE, now_ms, random};

/// A registered client, its key, and its state of MLS.
pub(crate) struct Device {
    pub(crate) client: ClientId,
    pub(crate) http: Http,
    pub(crate) signer: SignatureKeyPair,
    pub(crate) mls: OpenMlsRustCrypto,
    pub(crate) attestation: Attestation,
    pub(crate) cursor: Cursor,
}

/// `SignWithLabel`.
pub(crate) fn sign(signer: &SignatureKeyPair, label: &str, content: &[u8]) -> Signature {
    Signature::new(signer.sign(&sign_content(label, content)).unwrap()).unwrap()
}

pub(crate) fn new_key() -> SignatureKeyPair {
    SignatureKeyPair::new(openmls_traits::types::SignatureScheme::ED25519).unwrap()
}

impl Device {
    /// A user's first client, `USER/DEVICE`.
    pub(crate) async fn register(server: &Server, name: &str) -> Self {
        Self::register_for(server, name, None).await
    }

    /// A further client, with the word of another one.
    pub(crate) async fn register_beside(server: &Server, name: &str, other: &Self) -> Self {
        Self::register_for(server, name, Some(other)).await
    }

    async fn register_for(server: &Server, name: &str, other: Option<&Self>) -> Self {
        let signer = new_key();
        let answer = Self::try_to_register(server, name, &signer, other, "").await;
        Self::registered(server, name, signer, &answer)
    }

    /// The answer to a registration: with this key, with the word of another client where there
    /// is one, and with an invitation.
    pub(crate) async fn try_to_register(
        server: &Server,
        name: &str,
        signer: &SignatureKeyPair,
        other: Option<&Self>,
        invitation: &str,
    ) -> Answer {
        let client = client_of(server, name);
        let signature_key = PublicKey::new(signer.public()).unwrap();
        let authorization = other.map(|other| {
            let mut word = ClientAuthorization {
                authorizer: other.client.clone(),
                client: client.clone(),
                scheme: SignatureScheme::ED25519,
                signature_key: signature_key.clone(),
                not_after: now_ms() + 60_000,
                signature: Signature::empty(),
            };
            let tbs = word.to_be_signed();
            word.signature = sign(&other.signer, label::CLIENT_AUTHORIZATION, &tbs);
            word
        });
        let register = ClientRequestBody::Register(Register {
            scheme: SignatureScheme::ED25519,
            signature_key,
            authorization,
            invitation: Opaque::new(invitation).unwrap(),
        });
        let request = client_request(&client, signer, register).encode();
        server.http().post(PATH, &request).await
    }

    /// The client that was registered with that answer.
    #[track_caller]
    pub(crate) fn registered(
        server: &Server,
        name: &str,
        signer: SignatureKeyPair,
        answer: &Answer,
    ) -> Self {
        let response: ClientResponse = answer.message(200);
        let ClientResponseBody::Registered { attestation } = response.body else {
            panic!("not registered: {response:?}");
        };
        let client = client_of(server, name);
        assert_eq!(attestation.client_id, client);
        assert_eq!(attestation.signature_key.as_slice(), signer.public());
        Self {
            client,
            http: server.http(),
            signer,
            mls: OpenMlsRustCrypto::default(),
            attestation,
            cursor: Cursor::empty(),
        }
    }

    pub(crate) fn home(&self) -> ProviderName {
        self.client.provider()
    }

    pub(crate) fn user(&self) -> UserId {
        self.client.user_id()
    }

    /// A request to the own provider, signed.
    pub(crate) fn request(&self, body: ClientRequestBody) -> ClientRequest {
        client_request(&self.client, &self.signer, body)
    }

    /// The answer to such a request.
    pub(crate) async fn ask(&self, body: ClientRequestBody) -> Answer {
        self.http.post(PATH, &self.request(body).encode()).await
    }

    pub(crate) async fn call(&self, body: ClientRequestBody) -> ClientResponseBody {
        self.ask(body).await.client_response()
    }

    pub(crate) async fn queue_configs(&self, count: u8) -> Vec<QueueConfig> {
        let get = ClientRequestBody::GetQueueConfigs(GetQueueConfigs { count });
        match self.call(get).await {
            ClientResponseBody::QueueConfigs { queue_configs } => queue_configs.into_vec(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn upload(&self, key_packages: Vec<KeyPackageBytes>) {
        let answer = self.try_to_upload(key_packages).await;
        assert_eq!(answer.client_response(), ClientResponseBody::Ok);
    }

    /// The answer to an upload.
    pub(crate) async fn try_to_upload(&self, key_packages: Vec<KeyPackageBytes>) -> Answer {
        let upload = ClientRequestBody::UploadKeyPackages(UploadKeyPackages {
            replace: Boolean::False,
            key_packages: List::new(key_packages).unwrap(),
        });
        self.ask(upload).await
    }

    /// The clients of the user.
    pub(crate) async fn clients(&self) -> Vec<ClientInfo> {
        match self
            .call(ClientRequestBody::ListClients(ListClients {}))
            .await
        {
            ClientResponseBody::Clients { clients } => clients.into_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Who has asked the user, and whom the user consents to.
    pub(crate) async fn connections(&self) -> Vec<Connection> {
        let list = ListConnections { after: None };
        match self.call(ClientRequestBody::ListConnections(list)).await {
            ClientResponseBody::Connections { connections } => connections.into_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Lets `peer` fetch KeyPackages.
    pub(crate) async fn consent(&self, peer: UserId) {
        self.set_consent(peer, Boolean::True).await;
    }

    /// Does not let `peer` any more.
    pub(crate) async fn withdraw(&self, peer: UserId) {
        self.set_consent(peer, Boolean::False).await;
    }

    async fn set_consent(&self, peer: UserId, allowed: Boolean) {
        let set = ClientRequestBody::SetConsent(SetConsent { peer, allowed });
        assert_eq!(self.call(set).await, ClientResponseBody::Ok);
    }

    /// Has a request forwarded; the other provider's answer, as it came.
    pub(crate) async fn forward(
        &self,
        destination: &ProviderName,
        endpoint: Endpoint,
        request: Vec<u8>,
    ) -> (u16, Vec<u8>) {
        let forward = ClientRequestBody::Forward(Forward {
            destination: destination.clone(),
            endpoint,
            request: Opaque::new(request).unwrap(),
        });
        match self.call(forward).await {
            ClientResponseBody::Forwarded {
                http_status,
                response,
            } => (http_status, response.into_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// A request to the owner of a group, not signed.
    pub(crate) fn ds_request(
        &self,
        owner: &ProviderName,
        body: DsRequestBody,
        auth: DsAuth,
    ) -> DsRequest {
        DsRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.home(),
            recipient: owner.clone(),
            group_state_key: Opaque::empty(),
            body,
            auth,
        }
    }

    /// The same, signed with the own key.
    pub(crate) fn signed(&self, mut request: DsRequest) -> Vec<u8> {
        let signature = sign(&self.signer, label::DS_REQUEST, &request.to_be_signed());
        *request.signature_mut().unwrap() = signature;
        request.encode()
    }

    /// KeyPackages of all clients of a user, fetched through the own provider.
    pub(crate) async fn key_packages_of(&self, user: &UserId) -> Vec<KeyPackageBytes> {
        let (status, clients) = self.key_package_status_of(user).await;
        assert_eq!(status, UserKeyPackageStatus::Success);
        let packages = clients.into_iter().map(|status| match status {
            ClientKeyPackageStatus::Success { key_package } => key_package,
            other => panic!("{other:?}"),
        });
        packages.collect()
    }

    /// What their provider says when it is asked for them.
    pub(crate) async fn key_package_status_of(
        &self,
        user: &UserId,
    ) -> (UserKeyPackageStatus, Vec<ClientKeyPackageStatus>) {
        let request = GroupKeyPackageRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.home(),
            recipient: user.provider(),
            requester: self.user(),
            targets: List::new(vec![user.clone()]).unwrap(),
            clients: List::empty(),
            cipher_suites: List::new(vec![CipherSuite(1)]).unwrap(),
            connection_token: Opaque::empty(),
            provider_auth: ProviderAuth::blank(),
        };
        let endpoint = Endpoint::GroupKeyPackages;
        let (status, bytes) = self
            .forward(&user.provider(), endpoint, request.encode())
            .await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
        let response = KeyPackageResponse::decode(&bytes).unwrap();
        let mut users = response.users.into_vec();
        assert_eq!(users.len(), 1);
        let of_user = users.remove(0);
        assert_eq!(of_user.user, *user);
        let clients = of_user.clients.into_iter().map(|c| c.status);
        (of_user.status, clients.collect())
    }

    /// What is in the queue after the cursor.
    pub(crate) async fn read(&self, wait_ms: u32) -> Vec<QueueItem> {
        self.read_after(self.cursor.clone(), wait_ms).await
    }

    /// What was delivered to the queue after a cursor.
    pub(crate) async fn read_after(&self, cursor: Cursor, wait_ms: u32) -> Vec<QueueItem> {
        let mut items = self.read_all_after(cursor, wait_ms).await;
        items.retain(is_delivered);
        items
    }

    async fn read_all_after(&self, cursor: Cursor, wait_ms: u32) -> Vec<QueueItem> {
        let read = ClientRequestBody::ReadQueue(ReadQueue { cursor, wait_ms });
        match self.call(read).await {
            ClientResponseBody::Queue { items } => items.into_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// The next items, at least `count`; the cursor is then after them.
    pub(crate) async fn next(&mut self, count: usize) -> Vec<QueueItem> {
        let deadline = Instant::now() + PATIENCE;
        let mut items = Vec::new();
        while items.len() < count {
            let found = items.len();
            assert!(Instant::now() < deadline, "{found} of {count} items came");
            let read = self.read_all_after(self.cursor.clone(), 1000).await;
            if let Some(last) = read.last() {
                self.cursor = last.cursor.clone();
            }
            items.extend(read.into_iter().filter(is_delivered));
        }
        items
    }

    /// The next item, where there is only one.
    pub(crate) async fn next_one(&mut self) -> QueueItem {
        let items = self.next(1).await;
        assert_eq!(items.len(), 1, "{items:?}");
        items.into_iter().next().unwrap()
    }

    /// Lets the provider forget what has been read.
    pub(crate) async fn acknowledge(&self) {
        let cursor = self.cursor.clone();
        let acknowledge = ClientRequestBody::Acknowledge(Acknowledge { cursor });
        assert_eq!(self.call(acknowledge).await, ClientResponseBody::Ok);
    }
}

fn client_of(server: &Server, name: &str) -> ClientId {
    format!("mimi://{}/d/{name}", server.name).parse().unwrap()
}

fn client_request(
    client: &ClientId,
    signer: &SignatureKeyPair,
    body: ClientRequestBody,
) -> ClientRequest {
    let mut request = ClientRequest {
        version: DsProtocolVersion::MOH1,
        recipient: client.provider(),
        client: client.clone(),
        timestamp: now_ms(),
        nonce: Nonce::new(random::<16>()).unwrap(),
        body,
        signature: Signature::empty(),
    };
    request.signature = sign(signer, label::CLIENT_REQUEST, &request.to_be_signed());
    request
}

/// Whether it is more than a notice by the own provider.
fn is_delivered(item: &QueueItem) -> bool {
    use QueueItemPayload::{ConnectionRequest, MlsMessage};
    matches!(item.payload, MlsMessage(_) | ConnectionRequest(_))
}

/// The bytes of a message in a queue.
pub(crate) fn message_of(item: &QueueItem) -> &[u8] {
    match &item.payload {
        QueueItemPayload::MlsMessage(bytes) => bytes.as_slice(),
        _ => panic!("{item:?}"),
    }
}
