//! What a provider says about its clients' keys.

use moh_client::{ClientId, ProviderName};
use moh_messages::client_api::Register;
use moh_messages::{
    Attestation, DsProtocolVersion, KeyId, List, PublicKey, Signature, SignatureScheme, SignedLast,
    VerificationKey, VerificationKeyResponse, label, sign_content,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::signatures::Signer;
use openmls_traits::types::{HashType, SignatureScheme as Scheme};

use super::{State, World};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How an attestation is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgery {
    /// It is signed by another key than the one that it names.
    Signature,
    /// It names a key that the provider does not have.
    Key,
    /// It is over.
    Expired,
}

fn new_key() -> SignatureKeyPair {
    SignatureKeyPair::new(Scheme::ED25519).unwrap()
}

fn key_id(key: &SignatureKeyPair) -> KeyId {
    let digest = RustCrypto::default().hash(HashType::Sha2_256, key.public());
    KeyId::new(digest.unwrap()).unwrap()
}

impl World {
    /// Attestations are wrong from now on, or are not.
    pub(crate) fn forge_attestations(&self, forgery: Option<Forgery>) {
        self.state.lock().unwrap().forgery = forgery;
    }

    /// A provider attests with another key from now on.
    pub(crate) fn rotate_attestation_key(&self, provider: &str) {
        let mut state = self.state.lock().unwrap();
        let provider = provider.parse().unwrap();
        state
            .attestation_keys
            .entry(provider)
            .or_default()
            .push(new_key());
    }
}

impl State {
    pub(super) fn attest(
        &mut self,
        client: ClientId,
        register: &Register,
        now_ms: u64,
    ) -> Attestation {
        let provider = client.provider();
        let keys = self.attestation_keys.entry(provider).or_default();
        if keys.is_empty() {
            keys.push(new_key());
        }
        let stranger = new_key();
        let own = keys.last().unwrap();
        let (named, signer) = match self.forgery {
            Some(Forgery::Signature) => (own, &stranger),
            Some(Forgery::Key) => (&stranger, &stranger),
            Some(Forgery::Expired) | None => (own, own),
        };
        let ago_ms = match self.forgery {
            Some(Forgery::Expired) => 120 * DAY_MS,
            _ => 1000,
        };
        let mut attestation = Attestation {
            client_id: client,
            scheme: register.scheme,
            signature_key: register.signature_key.clone(),
            not_before: now_ms - ago_ms,
            not_after: now_ms - ago_ms + 90 * DAY_MS,
            key_id: key_id(named),
            signature: Signature::empty(),
        };
        let content = sign_content(label::ATTESTATION, &attestation.to_be_signed());
        attestation.signature = Signature::new(signer.sign(&content).unwrap()).unwrap();
        attestation
    }

    pub(super) fn verification_keys(&self, provider: &ProviderName) -> VerificationKeyResponse {
        let keys = self.attestation_keys.get(provider).into_iter().flatten();
        let keys = keys.map(|key| VerificationKey {
            key_id: key_id(key),
            scheme: SignatureScheme::ED25519,
            public_key: PublicKey::new(key.public()).unwrap(),
            not_before: 0,
            not_after: u64::MAX,
        });
        VerificationKeyResponse {
            version: DsProtocolVersion::MOH1,
            provider: provider.clone(),
            keys: List::new(keys.collect()).unwrap(),
        }
    }
}
