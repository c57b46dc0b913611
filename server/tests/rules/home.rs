//! The keys of a provider, and whatever they sign.

use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
use moh_messages::{
    Attestation, ClientId, DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, Opaque,
    ProviderAuth, Signature, SignedLast, label, sign_content,
};
use moh_server::{Environment, Keys, SecretKeys};

/// A provider, as far as its clients need it.
pub(crate) struct Home {
    pub(crate) keys: Keys,
    pub(crate) environment: Environment,
    request_key: Ed25519KeyPair,
}

impl Home {
    pub(crate) fn of(name: &str, secret: &SecretKeys, environment: Environment) -> Self {
        let text = toml::Value::try_from(secret).unwrap();
        let seed = hex::decode(text["request_keys"][0]["seed"].as_str().unwrap()).unwrap();
        Self {
            keys: Keys::new(name.parse().unwrap(), secret).unwrap(),
            request_key: Ed25519KeyPair::from_seed_unchecked(&seed).unwrap(),
            environment,
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.environment.now_ms()
    }

    /// Signs an attestation, whatever it says.
    pub(crate) fn sign(&self, mut attestation: Attestation) -> Attestation {
        let content = sign_content(label::ATTESTATION, &attestation.to_be_signed());
        let signature = self.request_key.sign(&content);
        attestation.signature = Signature::new(signature.as_ref()).unwrap();
        attestation
    }

    /// A request to a.example on behalf of a client, of this provider or another, signed as by
    /// this one.
    pub(crate) fn request(&self, on_behalf_of: &ClientId, body: DsRequestBody) -> DsRequest {
        let mut request = DsRequest {
            version: DsProtocolVersion::MOH1,
            sender: on_behalf_of.provider(),
            recipient: "a.example".parse().unwrap(),
            group_state_key: Opaque::empty(),
            body,
            auth: DsAuth::Provider {
                on_behalf_of: on_behalf_of.clone(),
                provider_auth: ProviderAuth::blank(),
            },
        };
        self.sign_request(&mut request);
        request
    }

    /// Signs a request anew, with a new timestamp and nonce.
    pub(crate) fn sign_request(&self, request: &mut DsRequest) {
        let endpoint = request.body.endpoint();
        self.keys
            .sign_request(&self.environment, endpoint, request, |r| {
                match &mut r.auth {
                    DsAuth::Provider { provider_auth, .. } => Some(provider_auth),
                    _ => None,
                }
            });
    }
}

pub(crate) fn secret_keys() -> SecretKeys {
    SecretKeys::generate(&*Environment::system().random)
}

/// Fresh keys of a provider.
pub(crate) fn home_of(name: &str) -> Arc<Home> {
    Arc::new(Home::of(name, &secret_keys(), Environment::system()))
}
