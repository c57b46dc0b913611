//! Requests as bytes: clients without MLS, and providers' requests in their names.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use moh_messages::client_api::{
    Boolean, ClientAuthorization, ClientRequest, ClientRequestBody, ClientResponse,
    ClientResponseBody, Forward, GetQueueConfigs, QueueItemPayload, ReadQueue, Register,
};
use moh_messages::{
    Audience, ClientId, ClientQueueInformation, ConnectionRequest, Delivery, DeliveryId,
    DeliveryResult, DsError, DsErrorCode, DsProtocolVersion, DsResponse, DsResponseBody, Endpoint,
    List, Message, MlsBytes, Nonce, Opaque, ProviderAuth, PublicKey, QueuePayload,
    QueueingServiceRequest, QueueingServiceResponse, Recipients, Signature, SignatureScheme,
    SignedLast, label, sign_content,
};
use moh_server::Environment;

use crate::world::{Provider, user_id};

/// A client that is nothing but a key.
pub(crate) struct Raw {
    pub(crate) id: ClientId,
    key: Ed25519KeyPair,
}

impl Raw {
    fn new(id: ClientId) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        Self { id, key }
    }

    /// The first client of a new user, as `user@provider`.
    pub(crate) async fn user(provider: &Provider, name: &str) -> Self {
        let raw = Self::new(ClientId::new(&user_id(name), "phone").unwrap());
        raw.register(provider, None).await;
        raw
    }

    /// A further one of that user.
    pub(crate) async fn device(&self, provider: &Provider, device: &str) -> Self {
        let raw = Self::new(ClientId::new(&self.id.user_id(), device).unwrap());
        let mut word = ClientAuthorization {
            authorizer: self.id.clone(),
            client: raw.id.clone(),
            scheme: SignatureScheme::ED25519,
            signature_key: raw.public(),
            not_after: u64::MAX,
            signature: Signature::empty(),
        };
        word.signature = self.sign(label::CLIENT_AUTHORIZATION, &word.to_be_signed());
        raw.register(provider, Some(word)).await;
        raw
    }

    async fn register(&self, provider: &Provider, authorization: Option<ClientAuthorization>) {
        let register = ClientRequestBody::Register(Register {
            scheme: SignatureScheme::ED25519,
            signature_key: self.public(),
            authorization,
            invitation: Opaque::empty(),
        });
        self.asks(provider, register).await.unwrap();
    }

    fn public(&self) -> PublicKey {
        PublicKey::new(self.key.public_key().as_ref()).unwrap()
    }

    fn sign(&self, label: &str, content: &[u8]) -> Signature {
        let signature = self.key.sign(&sign_content(label, content));
        Signature::new(signature.as_ref()).unwrap()
    }

    /// Asks its provider.
    pub(crate) async fn asks(
        &self,
        provider: &Provider,
        body: ClientRequestBody,
    ) -> Result<ClientResponseBody, DsError> {
        let environment = Environment::system();
        let mut request = ClientRequest {
            version: DsProtocolVersion::MOH1,
            recipient: self.id.provider(),
            client: self.id.clone(),
            timestamp: environment.now_ms(),
            nonce: Nonce::new(random()).unwrap(),
            body,
            signature: Signature::empty(),
        };
        request.signature = self.sign(label::CLIENT_REQUEST, &request.to_be_signed());
        let answer = provider.node().answer_client(&request.encode()).await;
        if answer.status == 200 {
            return Ok(ClientResponse::decode(&answer.body).unwrap().body);
        }
        match DsResponse::decode(&answer.body).unwrap().body {
            DsResponseBody::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for something that is `ok`.
    pub(crate) async fn does(&self, provider: &Provider, body: ClientRequestBody) {
        assert_eq!(self.asks(provider, body).await, Ok(ClientResponseBody::Ok));
    }

    /// Asks for something that is refused.
    pub(crate) async fn is_refused(
        &self,
        provider: &Provider,
        what: &str,
        code: DsErrorCode,
        body: ClientRequestBody,
    ) {
        let error = self.asks(provider, body).await.unwrap_err();
        assert_eq!(error.code, code, "{what}: {error}");
    }

    /// Has a request forwarded: status and body of the answer.
    pub(crate) async fn forwards(
        &self,
        provider: &Provider,
        destination: &str,
        endpoint: Endpoint,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>), DsError> {
        let forward = forward(destination, endpoint, body);
        match self.asks(provider, forward).await? {
            ClientResponseBody::Forwarded {
                http_status,
                response,
            } => Ok((http_status, response.into_vec())),
            other => panic!("{other:?}"),
        }
    }

    /// A new queue.
    pub(crate) async fn queue(&self, provider: &Provider) -> ClientQueueInformation {
        let get = ClientRequestBody::GetQueueConfigs(GetQueueConfigs { count: 1 });
        match self.asks(provider, get).await.unwrap() {
            ClientResponseBody::QueueConfigs { queue_configs } => {
                queue_configs[0].client_queue_information.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Everything that has arrived.
    pub(crate) async fn reads(&self, provider: &Provider) -> Vec<QueueItemPayload> {
        let read = ClientRequestBody::ReadQueue(ReadQueue {
            cursor: Opaque::empty(),
            wait_ms: 0,
        });
        match self.asks(provider, read).await.unwrap() {
            ClientResponseBody::Queue { items } => {
                let payloads = items.into_iter().map(|item| item.payload);
                payloads.collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn forward(destination: &str, endpoint: Endpoint, body: &[u8]) -> ClientRequestBody {
    ClientRequestBody::Forward(Forward {
        destination: destination.parse().unwrap(),
        endpoint,
        request: Opaque::new(body).unwrap(),
    })
}

pub(crate) fn random() -> [u8; 16] {
    Environment::system().random.bytes()
}

pub(crate) fn boolean(value: bool) -> Boolean {
    match value {
        true => Boolean::True,
        false => Boolean::False,
    }
}

/// An audience in full.
pub(crate) fn full(queues: &[&ClientQueueInformation]) -> Audience {
    let recipients = queues.iter().map(|queue| (*queue).clone());
    Audience::Full {
        recipients: Recipients::new(recipients.collect()).unwrap(),
    }
}

/// The same by its name.
pub(crate) fn named(queues: &[&ClientQueueInformation]) -> Audience {
    let Audience::Full { recipients } = full(queues) else {
        unreachable!()
    };
    Audience::Digest {
        audience_digest: moh_messages::audience_digest(&recipients),
    }
}

/// A delivery of a text that is no MLS message: a provider does not look.
pub(crate) fn message(audience: Audience, text: &str) -> Delivery {
    let message = MlsBytes::new(text.as_bytes()).unwrap();
    delivery(audience, QueuePayload::MlsMessage(message))
}

/// A connection request with a Welcome that is none.
pub(crate) fn request(audience: Audience, requester: &str, responder: &str) -> Delivery {
    let request = QueuePayload::ConnectionRequest(ConnectionRequest {
        requester: user_id(requester),
        responder: user_id(responder),
        welcome: MlsBytes::new(format!("by {requester}")).unwrap(),
    });
    delivery(audience, request)
}

fn delivery(audience: Audience, payload: QueuePayload) -> Delivery {
    Delivery {
        delivery_id: DeliveryId::new(random()).unwrap(),
        audience,
        except: None,
        payload,
    }
}

impl Provider {
    /// This provider delivers to another one: the results.
    pub(crate) async fn delivers(
        &self,
        to: &Provider,
        endpoint: Endpoint,
        deliveries: &[Delivery],
    ) -> Result<Vec<DeliveryResult>, DsErrorCode> {
        let mut request = QueueingServiceRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.node().name().clone(),
            recipient: to.node().name().clone(),
            deliveries: List::new(deliveries.to_vec()).unwrap(),
            provider_auth: ProviderAuth::blank(),
        };
        let environment = Environment::system();
        self.keys()
            .sign_request(&environment, endpoint, &mut request, |r| {
                Some(&mut r.provider_auth)
            });
        let answer = to.node().answer(endpoint, request.encode().into()).await;
        if answer.status == 200 {
            let response = QueueingServiceResponse::decode(&answer.body).unwrap();
            return Ok(response.results.into_vec());
        }
        match DsResponse::decode(&answer.body).unwrap().body {
            DsResponseBody::Error(error) => Err(error.code),
            other => panic!("{other:?}"),
        }
    }

    /// The result of a connection request.
    pub(crate) async fn requests(&self, to: &Provider, delivery: &Delivery) -> DeliveryResult {
        let deliveries = std::slice::from_ref(delivery);
        let results = self.delivers(to, Endpoint::ConnectionRequest, deliveries);
        results.await.unwrap().pop().unwrap()
    }

    /// The result of a message.
    pub(crate) async fn sends(&self, to: &Provider, delivery: &Delivery) -> DeliveryResult {
        let deliveries = std::slice::from_ref(delivery);
        let results = self.delivers(to, Endpoint::DeliverMessage, deliveries);
        results.await.unwrap().pop().unwrap()
    }
}

/// These positions are not valid.
pub(crate) fn invalid(positions: &[u32]) -> DeliveryResult {
    DeliveryResult::InvalidClientQueueInformation {
        recipients: List::new(positions.to_vec()).unwrap(),
    }
}

pub(crate) fn code(result: &DeliveryResult) -> DsErrorCode {
    match result {
        DeliveryResult::Error(error) => error.code,
        other => panic!("{other:?}"),
    }
}
