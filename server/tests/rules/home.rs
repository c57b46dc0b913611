//! The keys of a provider, and whatever they sign.

use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
use moh_messages::{Attestation, Signature, SignedLast, label, sign_content};
use moh_server::{Environment, Keys, SecretKeys};

/// A provider, as far as its clients need it.
pub(crate) struct Home {
    pub(crate) keys: Keys,
    request_key: Ed25519KeyPair,
}

impl Home {
    pub(crate) fn of(name: &str, secret: &SecretKeys) -> Self {
        let text = toml::Value::try_from(secret).unwrap();
        let seed = hex::decode(text["request_key"].as_str().unwrap()).unwrap();
        Self {
            keys: Keys::new(name.parse().unwrap(), secret).unwrap(),
            request_key: Ed25519KeyPair::from_seed_unchecked(&seed).unwrap(),
        }
    }

    /// Signs an attestation, whatever it says.
    pub(crate) fn sign(&self, mut attestation: Attestation) -> Attestation {
        let content = sign_content(label::ATTESTATION, &attestation.to_be_signed());
        let signature = self.request_key.sign(&content);
        attestation.signature = Signature::new(signature.as_ref()).unwrap();
        attestation
    }
}

pub(crate) fn secret_keys() -> SecretKeys {
    SecretKeys::generate(&*Environment::system().random)
}

/// Fresh keys of a provider.
pub(crate) fn home_of(name: &str) -> Arc<Home> {
    Arc::new(Home::of(name, &secret_keys()))
}
