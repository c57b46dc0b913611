//! From bytes to requests whose sender is known.
//!
//! What was decoded is [`Claimed`]: it says who sent it. What was verified is
//! [`Authenticated`], which is made here alone. Members of a group and clients that are about
//! to join it are verified by the group, which knows their keys.

mod nonces;

use moh_messages::client_api::{ClientRequest, ClientRequestBody};
use moh_messages::{
    ClientId, ConnectionKeyPackageRequest, DsAuth, DsRequest, Endpoint, GroupKeyPackageRequest,
    ProviderAuth, ProviderName, QueueingServiceRequest, Request, SignedLast, VerificationKey,
    label, provider_sign_content,
};

pub(crate) use self::nonces::{Nonces, Repeats};
use crate::clock::SECOND_MS;
use crate::crypto;
use crate::error::Refusal;
use crate::node::Node;
use crate::tls::Presented;

/// Providers that are asked for their keys because of one request.
const MAX_FETCHES: usize = 8;

/// A request that decodes and is for us; who sent it is not verified.
#[derive(Debug)]
pub struct Claimed<T> {
    /// The request.
    pub request: T,
    /// What its signature is over.
    pub signed: Vec<u8>,
}

impl<T: Request + SignedLast> Claimed<T> {
    /// Reads a request.
    ///
    /// # Errors
    /// `unsupported_version`, `wrong_recipient` or `malformed`.
    pub fn read(us: &ProviderName, bytes: &[u8]) -> Result<Self, Refusal> {
        let request = T::decode_for(us, bytes)?;
        let signed = request.to_be_signed_of(bytes);
        Ok(Self { request, signed })
    }
}

/// A request whose sender is who it says.
#[derive(Debug)]
pub struct Authenticated<T> {
    request: T,
}

impl<T> Authenticated<T> {
    /// The request.
    pub fn request(&self) -> &T {
        &self.request
    }

    /// The request, owned.
    pub fn into_request(self) -> T {
        self.request
    }
}

/// A client whose provider has signed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnBehalf(ClientId);

impl OnBehalf {
    /// The client.
    #[must_use]
    pub fn client(&self) -> &ClientId {
        &self.0
    }
}

/// A request that comes from a provider.
pub trait FromProvider: Request + SignedLast {
    /// The provider that it says it is from.
    fn sender(&self) -> &ProviderName;
    /// The provider's signature; none where somebody else signs.
    fn auth(&self) -> Option<&ProviderAuth>;
}

impl FromProvider for DsRequest {
    fn sender(&self) -> &ProviderName {
        &self.sender
    }
    fn auth(&self) -> Option<&ProviderAuth> {
        match &self.auth {
            DsAuth::Provider { provider_auth, .. } => Some(provider_auth),
            DsAuth::Anonymous | DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => None,
        }
    }
}

macro_rules! always_signed {
    ($($request:ty),*) => {
        $(impl FromProvider for $request {
            fn sender(&self) -> &ProviderName {
                &self.sender
            }
            fn auth(&self) -> Option<&ProviderAuth> {
                Some(&self.provider_auth)
            }
        })*
    };
}
always_signed!(
    QueueingServiceRequest,
    GroupKeyPackageRequest,
    ConnectionKeyPackageRequest
);

impl Node {
    /// Sees to it that we talk to this provider. That is looked at before anything is fetched or
    /// verified because of a request.
    ///
    /// # Errors
    /// `unauthorized`.
    pub(crate) fn check_peer(&self, provider: &ProviderName) -> Result<(), Refusal> {
        match self.may_talk_to(provider) {
            true => Ok(()),
            false => Err(Refusal::Unauthorized(
                "this provider does not talk to that one",
            )),
        }
    }

    /// Sees to it, where certificates are demanded, that the one that was shown is valid for the DS
    /// domain of this provider.
    ///
    /// # Errors
    /// `unauthenticated`; `unavailable` when it cannot be found out where that provider is.
    pub(crate) async fn check_certificate(
        &self,
        provider: &ProviderName,
        presented: Option<&Presented>,
    ) -> Result<(), Refusal> {
        let Some(trust) = self.demands_certificates() else {
            return Ok(());
        };
        if provider == self.name() {
            // Nobody else can sign in our name.
            return Ok(());
        }
        let presented = presented.ok_or(Refusal::Unauthenticated(
            "providers show a certificate here when they connect",
        ))?;
        let is_its = |domain: &str| presented.is_of(trust, domain, self.now_ms());
        match self.federation().is_at(provider, is_its).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::Unauthenticated(
                "the certificate is not one for the provider's DS domain",
            )),
            Err(error) => {
                tracing::info!(%provider, %error, "not found");
                Err(Refusal::Unavailable {
                    reason: "the provider's DS domain cannot be found out".to_owned(),
                    retry_after_seconds: 5,
                })
            }
        }
    }

    /// Verifies the signature of a provider.
    ///
    /// # Errors
    /// `unauthenticated`, `replayed`; `unavailable` when its keys cannot be fetched.
    pub(crate) async fn authenticate_provider<T: FromProvider>(
        &self,
        endpoint: Endpoint,
        claimed: Claimed<T>,
        repeats: Repeats,
    ) -> Result<Authenticated<T>, Refusal> {
        self.verify_provider(endpoint, &claimed, repeats).await?;
        Ok(Authenticated {
            request: claimed.request,
        })
    }

    /// Verifies the signature of a provider that speaks for a client of its own.
    ///
    /// # Errors
    /// As for `authenticate_provider`; `unauthenticated` when it is not its client, or somebody
    /// else signs.
    pub(crate) async fn authenticate_on_behalf(
        &self,
        endpoint: Endpoint,
        claimed: &Claimed<DsRequest>,
    ) -> Result<OnBehalf, Refusal> {
        let DsAuth::Provider { on_behalf_of, .. } = &claimed.request.auth else {
            return Err(Refusal::Unauthenticated("a provider signs this request"));
        };
        // What changes something here is known by its message, or changes nothing once more.
        self.verify_provider(endpoint, claimed, Repeats::Useless)
            .await?;
        if on_behalf_of.provider() != claimed.request.sender {
            return Err(Refusal::Unauthenticated(
                "on_behalf_of is of another provider",
            ));
        }
        Ok(OnBehalf(on_behalf_of.clone()))
    }

    async fn verify_provider<T: FromProvider>(
        &self,
        endpoint: Endpoint,
        claimed: &Claimed<T>,
        repeats: Repeats,
    ) -> Result<(), Refusal> {
        let Claimed { request, signed } = claimed;
        let sender = request.sender();
        let auth = request
            .auth()
            .ok_or(Refusal::Unauthenticated("a provider signs this request"))?;
        let now = self.now_ms();
        let key = self.provider_key(sender, auth).await?;
        let content = provider_sign_content(endpoint.path(), signed);
        let valid = (key.not_before..=key.not_after).contains(&now)
            && crypto::verify(
                key.scheme,
                key.public_key.as_slice(),
                &content,
                auth.signature.as_slice(),
            );
        if !valid {
            return Err(Refusal::Unauthenticated(
                "the provider's signature is not valid",
            ));
        }
        self.take_nonce(sender.as_str(), &auth.nonce, auth.timestamp, repeats)
            .await?;
        self.federation().heard_of(sender);
        self.outbox().sign_of_life(sender);
        Ok(())
    }

    async fn provider_key(
        &self,
        sender: &ProviderName,
        auth: &ProviderAuth,
    ) -> Result<VerificationKey, Refusal> {
        const NONE: Refusal = Refusal::Unauthenticated("the provider has no such key");
        let find = || {
            if sender == self.name() {
                let ours = self.keys().verification_keys(self.now_ms());
                ours.iter().find(|key| key.key_id == auth.key_id).cloned()
            } else {
                self.federation().key(sender, &auth.key_id)
            }
        };
        if let Some(key) = find() {
            return Ok(key);
        }
        if sender == self.name() {
            return Err(NONE);
        }
        match self.fetch_keys(sender).await {
            Ok(()) => find().ok_or(NONE),
            // Somebody else's fetch may have ended a moment ago.
            Err(refusal) => find().ok_or(refusal),
        }
    }

    /// Asks a provider for its keys, which a decision needs, and notes that in `fetched`.
    ///
    /// # Errors
    /// `unavailable` when there is no answer, or one request has caused enough of this.
    pub(crate) async fn fetch_more_keys(
        &self,
        provider: ProviderName,
        fetched: &mut Vec<ProviderName>,
    ) -> Result<(), Refusal> {
        if fetched.len() >= MAX_FETCHES {
            return Err(Refusal::Unavailable {
                reason: "the keys of more providers are needed than are fetched at once".to_owned(),
                retry_after_seconds: 1,
            });
        }
        self.fetch_keys(&provider).await?;
        fetched.push(provider);
        Ok(())
    }

    /// Asks a provider for its keys.
    ///
    /// # Errors
    /// `unauthorized` when we do not talk to it; `unavailable` when there is no answer.
    async fn fetch_keys(&self, provider: &ProviderName) -> Result<(), Refusal> {
        self.check_peer(provider)?;
        let fetched = self.federation().fetch_keys(provider).await;
        fetched.map_err(|error| {
            tracing::info!(%provider, %error, "no keys");
            let seconds = error.retry_after_ms.div_ceil(SECOND_MS);
            Refusal::Unavailable {
                reason: "the provider's keys cannot be fetched".to_owned(),
                retry_after_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
            }
        })
    }

    /// Verifies the signature of a client of our own: by the key that it is registered with, or,
    /// where it registers, by the key that it brings.
    ///
    /// # Errors
    /// `unauthenticated`, `replayed`.
    pub(crate) async fn authenticate_client(
        &self,
        claimed: Claimed<ClientRequest>,
    ) -> Result<Authenticated<ClientRequest>, Refusal> {
        let Claimed { request, signed } = claimed;
        let (scheme, key) = match &request.body {
            ClientRequestBody::Register(register) => {
                (register.scheme, register.signature_key.clone())
            }
            _ => {
                let client = self.store().client(&request.client).await?;
                let client = client.ok_or(Refusal::Unauthenticated("no such client, or key"))?;
                (client.scheme, client.signature_key)
            }
        };
        let signature = request.signature.as_slice();
        if !crypto::verify_with_label(scheme, &key, label::CLIENT_REQUEST, &signed, signature) {
            return Err(Refusal::Unauthenticated("no such client, or key"));
        }
        let who = request.client.as_str();
        let repeats = repeats_of(&request.body);
        self.take_nonce(who, &request.nonce, request.timestamp, repeats)
            .await?;
        Ok(Authenticated { request })
    }
}

/// What a request of a client does when it is made once more.
fn repeats_of(body: &ClientRequestBody) -> Repeats {
    match body {
        // Anybody can sign one: no nonce is kept.
        ClientRequestBody::Register(_) => Repeats::Known,
        // Signed anew here, it would be another request at the other provider, which hands out
        // more. Everything else that is forwarded is known there by its message.
        ClientRequestBody::Forward(forward) => match forward.endpoint {
            Endpoint::GroupKeyPackages | Endpoint::ConnectionKeyPackages => Repeats::Harmful,
            _ => Repeats::Useless,
        },
        // They could undo what came after them.
        ClientRequestBody::UploadKeyPackages(_)
        | ClientRequestBody::SetConsent(_)
        | ClientRequestBody::DeclineConnection(_)
        | ClientRequestBody::SetBlock(_) => Repeats::Harmful,
        ClientRequestBody::GetQueueConfigs(_)
        | ClientRequestBody::ReadQueue(_)
        | ClientRequestBody::Acknowledge(_)
        | ClientRequestBody::ListClients(_)
        | ClientRequestBody::DeleteClient(_)
        | ClientRequestBody::DeleteAccount(_)
        | ClientRequestBody::ListConnections(_)
        | ClientRequestBody::ListBlocks(_) => Repeats::Useless,
    }
}

/// Whether a request that a client wants forwarded speaks for that client.
pub(crate) fn speaks_for(request: &DsRequest, client: &ClientId) -> bool {
    match &request.auth {
        DsAuth::Provider { on_behalf_of, .. } => on_behalf_of == client,
        // The client's own signature, or nobody's: the owner sees to that.
        DsAuth::Anonymous | DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => true,
    }
}
