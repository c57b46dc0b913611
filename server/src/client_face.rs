//! The provider's own client API: decode, authenticate, call, encode.

use bytes::Bytes;
use moh_messages::client_api::{
    Boolean, ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, Forward, PATH,
    ReadQueue,
};
use moh_messages::{
    ClientId, ConnectionKeyPackageRequest, DsAuth, DsProtocolVersion, DsRequest, DsRequestBody,
    Endpoint, GroupKeyPackageRequest, Opaque, ProviderAuth, ProviderName, Request as _, SignedLast,
    VerificationKeyRequest,
};

use crate::authenticate::{Claimed, speaks_for};
use crate::error::Refusal;
use crate::face::{Answer, Seen};
use crate::node::Node;

/// When a client is to ask again what another provider could not be asked, in seconds: where that
/// one does not say, and at most.
const LATER_SECONDS: u32 = 5;
const MAX_LATER_SECONDS: u32 = 3600;

impl Node {
    /// Answers a request of a client of our own.
    pub async fn answer_client(&self, body: &[u8]) -> Answer {
        let started = tokio::time::Instant::now();
        let mut seen = Seen {
            from: None,
            operation: "client",
        };
        let result = Box::pin(self.client_request(body, &mut seen)).await;
        let version = DsProtocolVersion::MOH1;
        let answer = Answer::of(result.map(|body| ClientResponse { version, body }));
        self.observe(PATH, &seen, body.len(), &answer, started.into_std());
        answer
    }

    async fn client_request(
        &self,
        body: &[u8],
        seen: &mut Seen,
    ) -> Result<ClientResponseBody, Refusal> {
        let claimed = Claimed::<ClientRequest>::read(self.name(), body)?;
        seen.operation = claimed.request.body.name();
        let request = self.authenticate_client(claimed).await?.into_request();
        seen.from = Some(request.client.to_string());
        let client = &request.client;
        match request.body {
            ClientRequestBody::Register(register) => {
                let attestation = self.register(client, &register).await?;
                Ok(ClientResponseBody::Registered { attestation })
            }
            ClientRequestBody::GetQueueConfigs(get) => {
                let queue_configs = self.queue_configs(client, get.count);
                Ok(ClientResponseBody::QueueConfigs { queue_configs })
            }
            ClientRequestBody::UploadKeyPackages(upload) => {
                self.upload_key_packages(client, upload).await?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::ReadQueue(read) => {
                let items = self.read_queue(client, &read).await?;
                Ok(ClientResponseBody::Queue { items })
            }
            ClientRequestBody::Acknowledge(acknowledge) => {
                self.acknowledge(client, &acknowledge).await?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::Forward(forward) => self.forward(client, forward).await,
            ClientRequestBody::SetConsent(set) => {
                let allowed = set.allowed == Boolean::True;
                self.set_consent(client, &set.peer, allowed).await?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::ListClients(_) => {
                let clients = self.list_clients(client).await?;
                Ok(ClientResponseBody::Clients { clients })
            }
            ClientRequestBody::DeleteClient(delete) => {
                self.delete_client(client, &delete.client).await?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::DeleteAccount(_) => {
                self.delete_account(client).await?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::ListConnections(list) => {
                let found = self.list_connections(client, list.after.as_ref());
                let connections = found.await?;
                Ok(ClientResponseBody::Connections { connections })
            }
            ClientRequestBody::DeclineConnection(decline) => {
                self.decline_connection(client, &decline.peer).await?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::SetBlock(set) => {
                let blocked = set.blocked == Boolean::True;
                self.set_block(client, &set.target, blocked).await?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::ListBlocks(list) => {
                let found = self.list_blocks(client, list.after.as_ref());
                let blocks = found.await?;
                Ok(ClientResponseBody::Blocks { blocks })
            }
        }
    }

    /// The first message of a client that wants to read its queue over a WebSocket.
    ///
    /// # Errors
    /// Whatever a request of another type, or by nobody that we know, gets.
    pub async fn open_queue(&self, body: &[u8]) -> Result<(ClientId, ReadQueue), Refusal> {
        let claimed = Claimed::<ClientRequest>::read(self.name(), body)?;
        let request = self.authenticate_client(claimed).await?.into_request();
        match request.body {
            ClientRequestBody::ReadQueue(read) => Ok((request.client, read)),
            _ => Err(Refusal::PolicyViolation(
                "the first message is read_queue".to_owned(),
            )),
        }
    }

    /// Has a request of a client answered by the provider that it is for, and hands back that
    /// provider's answer as it is.
    async fn forward(
        &self,
        client: &ClientId,
        forward: Forward,
    ) -> Result<ClientResponseBody, Refusal> {
        let Forward {
            destination,
            endpoint,
            request,
        } = forward;
        self.check_peer(&destination)?;
        let body = self.signed(client, &destination, endpoint, request.as_slice())?;
        let (http_status, response) = if destination == *self.name() {
            let answer = Box::pin(self.answer(endpoint, body.into())).await;
            (answer.status, answer.body)
        } else {
            let asked = self
                .federation()
                .ask(&destination, endpoint, Bytes::from(body))
                .await;
            let answer = asked.map_err(|error| {
                tracing::info!(%destination, %error, "not reached");
                Refusal::Unavailable {
                    reason: format!("{destination} cannot be reached"),
                    retry_after_seconds: LATER_SECONDS,
                }
            })?;
            let body = answer.body.ok_or_else(|| Refusal::Unavailable {
                reason: format!("{destination} answered {} without a message", answer.status),
                retry_after_seconds: answer
                    .retry_after_seconds
                    .map_or(LATER_SECONDS, |asked| asked.min(MAX_LATER_SECONDS)),
            })?;
            (answer.status, body.to_vec())
        };
        let response =
            Opaque::new(response).map_err(|_| Refusal::LimitExceeded("the answer is too large"))?;
        Ok(ClientResponseBody::Forwarded {
            http_status,
            response,
        })
    }

    /// The body of a forwarded request, with our signature where it takes one.
    fn signed(
        &self,
        client: &ClientId,
        destination: &ProviderName,
        endpoint: Endpoint,
        body: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        match endpoint {
            Endpoint::GroupOperation
            | Endpoint::WelcomeInformation
            | Endpoint::ExternalCommitInformation => {
                let Claimed { mut request, .. } = Claimed::<DsRequest>::read(destination, body)?;
                if request.body == DsRequestBody::ClientDeleted {
                    let what = "a provider says that itself, of clients that it has deleted";
                    return Err(Refusal::Unauthorized(what));
                }
                if request.sender != *self.name() || !speaks_for(&request, client) {
                    return Err(Refusal::Unauthorized("this request is not this client's"));
                }
                if !matches!(request.auth, DsAuth::Provider { .. }) {
                    return Ok(body.to_vec());
                }
                self.sign(endpoint, &mut request, |request| match &mut request.auth {
                    DsAuth::Provider { provider_auth, .. } => Some(provider_auth),
                    DsAuth::Anonymous | DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => None,
                })
            }
            Endpoint::GroupKeyPackages => {
                let Claimed { mut request, .. } =
                    Claimed::<GroupKeyPackageRequest>::read(destination, body)?;
                if request.sender != *self.name() || request.requester != client.user_id() {
                    return Err(Refusal::Unauthorized("this request is not this client's"));
                }
                self.sign(endpoint, &mut request, |request| {
                    Some(&mut request.provider_auth)
                })
            }
            Endpoint::ConnectionKeyPackages => {
                let Claimed { mut request, .. } =
                    Claimed::<ConnectionKeyPackageRequest>::read(destination, body)?;
                if request.sender != *self.name() || request.requester != client.user_id() {
                    return Err(Refusal::Unauthorized("this request is not this client's"));
                }
                self.sign(endpoint, &mut request, |request| {
                    Some(&mut request.provider_auth)
                })
            }
            Endpoint::VerificationKey => {
                if !body.is_empty() {
                    VerificationKeyRequest::decode_for(destination, body)?;
                }
                Ok(body.to_vec())
            }
            Endpoint::DeliverMessage | Endpoint::ConnectionRequest => {
                Err(Refusal::Unauthorized("clients do not deliver"))
            }
        }
    }

    fn sign<T: SignedLast>(
        &self,
        endpoint: Endpoint,
        request: &mut T,
        auth: fn(&mut T) -> Option<&mut ProviderAuth>,
    ) -> Result<Vec<u8>, Refusal> {
        if !auth(request).is_some_and(|auth| auth.is_blank()) {
            return Err(Refusal::PolicyViolation(
                "provider_auth is for us to fill in".to_owned(),
            ));
        }
        self.keys()
            .sign_request(self.environment(), endpoint, request, auth);
        Ok(request.encode())
    }
}
