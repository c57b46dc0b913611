//! From bytes to requests whose sender is known.
//!
//! What was decoded is [`Claimed`]: it says who sent it. What was verified is
//! [`Authenticated`], which is made here alone. Members of a group and clients that are about
//! to join it are verified by the group, which knows their keys.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use moh_messages::client_api::{ClientRequest, ClientRequestBody};
use moh_messages::{
    ClientId, ConnectionKeyPackageRequest, DsAuth, DsRequest, Endpoint, GroupKeyPackageRequest,
    Nonce, ProviderAuth, ProviderName, QueueingServiceRequest, Request, SignedLast,
    VerificationKey, label, provider_sign_content,
};

use crate::clock::MINUTE_MS;
use crate::crypto;
use crate::error::Refusal;
use crate::node::Node;

/// How far a timestamp may be from our clock, in milliseconds.
const WINDOW_MS: u64 = 5 * MINUTE_MS;
/// Nonces that are remembered at once.
const MAX_NONCES: usize = 2_000_000;
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

/// A request that a provider signs.
pub trait FromProvider: Request + SignedLast {
    /// Who says that it signed, and the signature; none where somebody else signs.
    fn claim(&self) -> Option<(&ProviderName, &ProviderAuth)>;
}

impl FromProvider for DsRequest {
    fn claim(&self) -> Option<(&ProviderName, &ProviderAuth)> {
        match &self.auth {
            DsAuth::Provider { provider_auth, .. } => Some((&self.sender, provider_auth)),
            DsAuth::Anonymous | DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => None,
        }
    }
}
impl FromProvider for QueueingServiceRequest {
    fn claim(&self) -> Option<(&ProviderName, &ProviderAuth)> {
        Some((&self.sender, &self.provider_auth))
    }
}
impl FromProvider for GroupKeyPackageRequest {
    fn claim(&self) -> Option<(&ProviderName, &ProviderAuth)> {
        Some((&self.sender, &self.provider_auth))
    }
}
impl FromProvider for ConnectionKeyPackageRequest {
    fn claim(&self) -> Option<(&ProviderName, &ProviderAuth)> {
        Some((&self.sender, &self.provider_auth))
    }
}

/// Whether a repeated request does harm, so that its nonce has to be taken once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// It has another mark by which a repetition is known.
    Harmless,
    /// The nonce is the only mark.
    Refused,
}

impl Node {
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
        self.verify_provider(endpoint, claimed, Repeats::Refused)
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
        let (sender, auth) = request
            .claim()
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
        match repeats {
            Repeats::Harmless => check_window(auth.timestamp, now)?,
            Repeats::Refused => {
                self.nonces()
                    .take(sender.as_str(), &auth.nonce, auth.timestamp, now)?;
            }
        }
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
        self.fetch_keys(sender).await?;
        find().ok_or(NONE)
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
    /// `unavailable` when there is no answer.
    async fn fetch_keys(&self, provider: &ProviderName) -> Result<(), Refusal> {
        self.federation()
            .fetch_keys(provider)
            .await
            .map_err(|error| {
                tracing::info!(%provider, %error, "no keys");
                Refusal::Unavailable {
                    reason: "the provider's keys cannot be fetched".to_owned(),
                    retry_after_seconds: 10,
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
        let (now, timestamp) = (self.now_ms(), request.timestamp);
        if matches!(request.body, ClientRequestBody::Register(_)) {
            // Anybody can sign one, and once more changes nothing: no nonce is kept.
            check_window(timestamp, now)?;
        } else {
            let who = request.client.as_str();
            self.nonces().take(who, &request.nonce, timestamp, now)?;
        }
        Ok(Authenticated { request })
    }
}

fn check_window(timestamp: u64, now: u64) -> Result<(), Refusal> {
    if timestamp.abs_diff(now) <= WINDOW_MS {
        Ok(())
    } else {
        Err(Refusal::Replayed {
            reason: "the timestamp is not within 5 minutes of ours",
            now,
        })
    }
}

/// Nonces that were taken. They are kept in memory, for as long as their timestamps count;
/// therefore timestamps from before the start are refused.
pub(crate) struct Nonces {
    started_at: u64,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// With the time until which each has to be remembered.
    nonces: HashMap<(String, Nonce), u64>,
    sweep_at: u64,
}

impl Nonces {
    /// None is taken at the start.
    pub(crate) fn new(started_at: u64) -> Self {
        Self {
            started_at,
            taken: Mutex::default(),
        }
    }

    /// Takes a nonce, once.
    ///
    /// # Errors
    /// `replayed`.
    pub(crate) fn take(
        &self,
        who: &str,
        nonce: &Nonce,
        timestamp: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        check_window(timestamp, now)?;
        if timestamp < self.started_at {
            return Err(Refusal::Replayed {
                reason: "from before this provider started",
                now,
            });
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.sweep_at <= now {
            taken.nonces.retain(|_, until| *until >= now);
            taken.sweep_at = now + MINUTE_MS;
        }
        if taken.nonces.len() >= MAX_NONCES {
            return Err(Refusal::Unavailable {
                reason: "too many requests in the last minutes".to_owned(),
                retry_after_seconds: 60,
            });
        }
        let until = timestamp + WINDOW_MS;
        match taken.nonces.insert((who.to_owned(), nonce.clone()), until) {
            None => Ok(()),
            Some(_) => Err(Refusal::Replayed {
                reason: "this nonce was taken before",
                now,
            }),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_taken_once_within_the_window() {
        let start = 10 * WINDOW_MS;
        let nonces = Nonces::new(start);
        let nonce = |byte| Nonce::new([byte; 16]).unwrap();
        let take = |who, byte, timestamp, now| nonces.take(who, &nonce(byte), timestamp, now);
        assert!(take("a", 1, start, start).is_ok());
        assert!(take("a", 1, start, start).is_err());
        assert!(take("b", 1, start, start).is_ok());
        assert!(take("a", 2, start, start + WINDOW_MS).is_ok());
        assert!(take("a", 3, start, start + WINDOW_MS + 1).is_err());
        assert!(
            take("a", 4, start - 1, start).is_err(),
            "from before the start"
        );
        // It is remembered until its timestamp is out of the window, and not for ever.
        let late = start + WINDOW_MS;
        assert!(take("a", 5, late, start).is_ok());
        assert!(take("a", 5, late, late + WINDOW_MS).is_err());
        assert!(take("a", 6, late + 3 * WINDOW_MS, late + 3 * WINDOW_MS).is_ok());
        assert_eq!(nonces.taken.lock().unwrap().nonces.len(), 1);
    }
}
