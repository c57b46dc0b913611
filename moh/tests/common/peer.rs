//! The other provider: what it signs, and whatever somebody who has its key would sign.

use moh_messages::{
    Audience, CipherSuite, ClientId, ClientQueueInformation, ConnectionKeyPackageRequest, Delivery,
    DeliveryId, DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, Endpoint,
    GroupKeyPackageRequest, KeyId, List, Nonce, Opaque, ProviderAuth, ProviderName, QueuePayload,
    QueueingServiceRequest, RequestGroupId, Signature, SignedLast, UserId, VerificationKeyResponse,
    provider_sign_content,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer;

use super::server::Server;
use super::{now_ms, random};

/// A provider's name and its request key.
pub(crate) struct Peer {
    pub(crate) name: ProviderName,
    pub(crate) key_id: KeyId,
    pub(crate) signer: SignatureKeyPair,
}

impl Peer {
    /// The provider that a process is, from the files that it has.
    pub(crate) async fn of(server: &Server) -> Self {
        let keys = std::fs::read_to_string(server.path("keys.toml")).unwrap();
        let seed = keys
            .lines()
            .find_map(|line| line.strip_prefix("seed = \""))
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap();
        let answer = server.http().ask("GET", "/verification_key", &[]).await;
        let keys: VerificationKeyResponse = answer.message(200);
        let [key] = &keys.keys[..] else {
            panic!("{keys:?}");
        };
        let scheme = openmls_traits::types::SignatureScheme::ED25519;
        let public = key.public_key.as_slice().to_vec();
        Self {
            name: server.name.clone(),
            key_id: key.key_id.clone(),
            signer: SignatureKeyPair::from_raw(scheme, hex::decode(seed).unwrap(), public),
        }
    }

    /// For a request that is signed now.
    pub(crate) fn auth(&self) -> ProviderAuth {
        ProviderAuth {
            timestamp: now_ms(),
            nonce: Nonce::new(random::<16>()).unwrap(),
            key_id: self.key_id.clone(),
            signature: Signature::empty(),
        }
    }

    /// The bytes of a request, signed for an endpoint.
    pub(crate) fn signed<T: SignedLast>(&self, endpoint: Endpoint, mut request: T) -> Vec<u8> {
        let content = provider_sign_content(endpoint.path(), &request.to_be_signed());
        let signature = self.signer.sign(&content).unwrap();
        *request.signature_mut().unwrap() = Signature::new(signature).unwrap();
        request.encode()
    }

    /// `request_group_id` to a provider, for a client of this one.
    pub(crate) fn request_group_id(&self, recipient: &ProviderName) -> DsRequest {
        let client: ClientId = format!("mimi://{}/d/somebody/phone", self.name)
            .parse()
            .unwrap();
        DsRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.name.clone(),
            recipient: recipient.clone(),
            group_state_key: Opaque::empty(),
            body: DsRequestBody::RequestGroupId(RequestGroupId {
                cipher_suite: CipherSuite(1),
            }),
            auth: DsAuth::Provider {
                on_behalf_of: client,
                provider_auth: self.auth(),
            },
        }
    }

    /// `group_key_packages` of Bob, for Alice, who is a user of this provider.
    pub(crate) fn group_key_packages(&self, recipient: &ProviderName) -> GroupKeyPackageRequest {
        let target: UserId = format!("mimi://{recipient}/u/bob").parse().unwrap();
        GroupKeyPackageRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.name.clone(),
            recipient: recipient.clone(),
            requester: format!("mimi://{}/u/alice", self.name).parse().unwrap(),
            targets: List::new(vec![target]).unwrap(),
            clients: List::empty(),
            cipher_suites: List::new(vec![CipherSuite(1)]).unwrap(),
            connection_token: Opaque::empty(),
            provider_auth: self.auth(),
        }
    }

    /// `connection_key_packages` of Bob, for Alice, who is a user of this provider.
    pub(crate) fn connection_key_packages(
        &self,
        recipient: &ProviderName,
    ) -> ConnectionKeyPackageRequest {
        ConnectionKeyPackageRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.name.clone(),
            recipient: recipient.clone(),
            requester: format!("mimi://{}/u/alice", self.name).parse().unwrap(),
            target: format!("mimi://{recipient}/u/bob").parse().unwrap(),
            cipher_suites: List::new(vec![CipherSuite(1)]).unwrap(),
            provider_auth: self.auth(),
        }
    }

    /// One delivery to these queues.
    pub(crate) fn delivery(
        &self,
        recipient: &ProviderName,
        recipients: &[ClientQueueInformation],
        payload: QueuePayload,
    ) -> QueueingServiceRequest {
        let delivery = Delivery {
            delivery_id: DeliveryId::new(random::<16>()).unwrap(),
            audience: Audience::Full {
                recipients: List::new(recipients.to_vec()).unwrap(),
            },
            except: None,
            payload,
        };
        QueueingServiceRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.name.clone(),
            recipient: recipient.clone(),
            deliveries: List::new(vec![delivery]).unwrap(),
            provider_auth: self.auth(),
        }
    }
}

/// The place for a provider's signature in a request of that kind.
pub(crate) fn auth_of(request: &mut DsRequest) -> &mut ProviderAuth {
    match &mut request.auth {
        DsAuth::Provider { provider_auth, .. } => provider_auth,
        other => panic!("{other:?}"),
    }
}
