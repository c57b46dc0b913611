//! The provider's own keys: what it signs with, and what it seals for itself.

mod request;
mod secret;

pub use secret::{KeyFileError, SecretKeys};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce as AeadNonce, UnboundKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use moh_messages::{
    Attestation, BasicCredential, CipherSuite, ClientId, ClientQueueInformation, Endpoint,
    ExternalSender, GroupId, Nonce, Opaque, ProviderAuth, ProviderName, PublicKey, Signature,
    SignatureScheme, SignedLast, VerificationKeys, label, provider_sign_content, sign_content,
};

use self::request::RequestKeys;
use crate::clock::{DAY_MS, Environment, Random};
use crate::invitation::{self, Invitation};

/// How long an attestation is good for.
const ATTESTATION_LIFE_MS: u64 = 90 * DAY_MS;
/// A client that is a little ahead or behind can use its attestation at once.
const ATTESTATION_LEAD_MS: u64 = 5 * crate::clock::MINUTE_MS;

/// The keys of a provider, ready for use.
pub struct Keys {
    provider: ProviderName,
    request: RequestKeys,
    /// The current key first; then those that groups may still know.
    group_ed25519: Vec<Ed25519KeyPair>,
    group_p256: Vec<EcdsaKeyPair>,
    queue: LessSafeKey,
    group_id: hmac::Key,
    invitation: hmac::Key,
}

impl Keys {
    /// Prepares the secrets of `provider`.
    ///
    /// # Errors
    /// When one of them is not a key of its kind.
    pub fn new(provider: ProviderName, secret: &SecretKeys) -> Result<Self, KeyFileError> {
        let invalid = |what: &'static str| move || KeyFileError::Invalid(what.to_owned());
        let bytes = |text: &str, what| hex::decode(text).ok().ok_or_else(invalid(what));
        let ed25519 = |text: &str, what| {
            let seed = bytes(text, what)?;
            Ed25519KeyPair::from_seed_unchecked(&seed)
                .ok()
                .ok_or_else(invalid(what))
        };
        let p256 = |text: &str, what| {
            let pkcs8 = bytes(text, what)?;
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
                .ok()
                .ok_or_else(invalid(what))
        };
        let all_ed25519 = [&secret.group_key_ed25519].into_iter();
        let all_ed25519 = all_ed25519.chain(&secret.previous_group_keys_ed25519);
        let all_p256 = [&secret.group_key_p256].into_iter();
        let all_p256 = all_p256.chain(&secret.previous_group_keys_p256);
        let queue = bytes(&secret.queue_key, "queue_key")?;
        let queue = UnboundKey::new(&AES_256_GCM_SIV, &queue).ok();
        let group_id = bytes(&secret.group_id_key, "group_id_key")?;
        Ok(Self {
            provider,
            request: RequestKeys::new(&secret.all_request_keys())?,
            group_ed25519: all_ed25519
                .map(|key| ed25519(key, "group_key_ed25519"))
                .collect::<Result<_, _>>()?,
            group_p256: all_p256
                .map(|key| p256(key, "group_key_p256"))
                .collect::<Result<_, _>>()?,
            queue: LessSafeKey::new(queue.ok_or_else(invalid("queue_key"))?),
            invitation: invitation::key(&group_id),
            group_id: hmac::Key::new(hmac::HMAC_SHA256, &group_id),
        })
    }

    /// What other providers verify our requests and attestations with.
    #[must_use]
    pub fn verification_keys(&self, now: u64) -> VerificationKeys {
        self.request.published(now)
    }

    /// Signs a request to `endpoint` of another provider, in the place that `auth` names.
    pub fn sign_request<T: SignedLast>(
        &self,
        environment: &Environment,
        endpoint: Endpoint,
        request: &mut T,
        auth: fn(&mut T) -> Option<&mut ProviderAuth>,
    ) {
        let now = environment.now_ms();
        let key = self.request.signing(now);
        if let Some(auth) = auth(request) {
            *auth = ProviderAuth {
                timestamp: now,
                nonce: Nonce::new(environment.random.bytes::<16>()).expect("16 bytes"),
                key_id: key.key_id.clone(),
                signature: Signature::empty(),
            };
        }
        let content = provider_sign_content(endpoint.path(), &request.to_be_signed());
        if let Some(signature) = request.signature_mut() {
            *signature = key.sign(&content);
        }
    }

    /// Our word that a key is a client's.
    #[must_use]
    pub fn attest(
        &self,
        client_id: &ClientId,
        scheme: SignatureScheme,
        signature_key: &PublicKey,
        now: u64,
    ) -> Attestation {
        let key = self.request.signing(now);
        let not_before = now.saturating_sub(ATTESTATION_LEAD_MS);
        let mut attestation = Attestation {
            client_id: client_id.clone(),
            scheme,
            signature_key: signature_key.clone(),
            not_before,
            not_after: not_before + ATTESTATION_LIFE_MS,
            key_id: key.key_id.clone(),
            signature: Signature::empty(),
        };
        let content = sign_content(label::ATTESTATION, &attestation.to_be_signed());
        attestation.signature = key.sign(&content);
        attestation
    }

    /// What groups of a ciphersuite list as their external sender; none for one that is not
    /// ours.
    #[must_use]
    pub fn ds_sender(&self, suite: CipherSuite) -> Option<ExternalSender> {
        let key = match suite.signature_scheme()? {
            SignatureScheme::ED25519 => public(self.group_ed25519.first()?.public_key().as_ref()),
            _ => public(self.group_p256.first()?.public_key().as_ref()),
        };
        let identity = Opaque::new(self.provider.as_str().as_bytes()).expect("names are short");
        let credential = BasicCredential::Basic { identity };
        Some(ExternalSender {
            signature_key: key,
            credential,
        })
    }

    /// Signs as the external sender that a group knows; none when that is not us.
    #[must_use]
    pub fn sign_as(&self, sender: &ExternalSender, content: &[u8]) -> Option<Signature> {
        let key = sender.signature_key.as_slice();
        let mut ed25519 = self.group_ed25519.iter();
        if let Some(pair) = ed25519.find(|pair| pair.public_key().as_ref() == key) {
            return Signature::new(pair.sign(content).as_ref()).ok();
        }
        let mut p256 = self.group_p256.iter();
        let pair = p256.find(|pair| pair.public_key().as_ref() == key)?;
        let signature = pair.sign(&SystemRandom::new(), content).ok()?;
        Signature::new(signature.as_ref()).ok()
    }

    /// A name for a new group. It carries a mark, so that nothing need be stored.
    #[must_use]
    pub fn issue_group_id(&self, random: &dyn Random) -> GroupId {
        let mut id = random.bytes::<16>().to_vec();
        let mark = hmac::sign(&self.group_id, &id);
        id.extend_from_slice(&mark.as_ref()[..16]);
        GroupId::new(id).expect("32 bytes")
    }

    /// Whether a name was issued here.
    #[must_use]
    pub fn issued(&self, group_id: &GroupId) -> bool {
        let Some((random, mark)) = group_id.as_slice().split_at_checked(16) else {
            return false;
        };
        let expected = hmac::sign(&self.group_id, random);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..16], mark).is_ok()
    }

    /// A new invitation, good until `not_after`, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn invite(&self, random: &dyn Random, not_after: u64) -> String {
        invitation::issue(&self.invitation, random, not_after)
    }

    /// What a code says that was issued here.
    pub(crate) fn invitation(&self, code: &[u8]) -> Option<Invitation> {
        invitation::read(&self.invitation, code)
    }

    /// Where a client's queue is, for others to hold and nobody but us to read; different at
    /// every call.
    #[must_use]
    pub fn seal_queue(&self, random: &dyn Random, client: &ClientId) -> ClientQueueInformation {
        const BLOCK: usize = 64;
        let nonce = random.bytes::<12>();
        // Padded, so that the length does not tell who it is.
        let mut bytes = client.as_str().as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        self.queue
            .seal_in_place_append_tag(
                AeadNonce::assume_unique_for_key(nonce),
                Aad::from(self.provider.as_str().as_bytes()),
                &mut bytes,
            )
            .expect("names are short");
        ClientQueueInformation::new([&nonce[..], &bytes].concat()).expect("names are short")
    }

    /// Whose queue was sealed.
    #[must_use]
    pub fn open_queue(&self, sealed: &ClientQueueInformation) -> Option<ClientId> {
        let (nonce, bytes) = sealed.as_slice().split_at_checked(12)?;
        let mut bytes = bytes.to_vec();
        let nonce = AeadNonce::try_assume_unique_for_key(nonce).ok()?;
        let aad = Aad::from(self.provider.as_str().as_bytes());
        let opened = self.queue.open_in_place(nonce, aad, &mut bytes).ok()?;
        std::str::from_utf8(opened)
            .ok()?
            .trim_end_matches('\0')
            .parse()
            .ok()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.provider)
    }
}

fn public(bytes: &[u8]) -> PublicKey {
    PublicKey::new(bytes).expect("public keys are short")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto;

    fn keys() -> (Environment, Keys) {
        let environment = Environment::system();
        let secret = SecretKeys::generate(&*environment.random);
        (
            environment,
            Keys::new("a.example".parse().unwrap(), &secret).unwrap(),
        )
    }

    #[test]
    fn sealed_queues_differ_and_open_here_alone() {
        let (environment, keys) = keys();
        let (_, others) = self::keys();
        let client: ClientId = "mimi://a.example/d/alice/phone".parse().unwrap();
        let first = keys.seal_queue(&*environment.random, &client);
        let second = keys.seal_queue(&*environment.random, &client);
        assert_ne!(first, second);
        assert_eq!(keys.open_queue(&first), Some(client.clone()));
        assert_eq!(keys.open_queue(&second), Some(client));
        assert_eq!(others.open_queue(&first), None);
        let mut cut = first.into_vec();
        cut.pop();
        assert_eq!(
            keys.open_queue(&ClientQueueInformation::new(cut).unwrap()),
            None
        );
        assert_eq!(keys.open_queue(&ClientQueueInformation::empty()), None);
    }

    #[test]
    fn group_names_are_known_as_our_own() {
        let (environment, keys) = keys();
        let id = keys.issue_group_id(&*environment.random);
        assert!(keys.issued(&id));
        let mut other = id.into_vec();
        other[0] ^= 1;
        assert!(!keys.issued(&GroupId::new(other).unwrap()));
        assert!(!keys.issued(&GroupId::empty()));
    }

    #[test]
    fn attestations_verify_under_the_published_key() {
        let (_, keys) = keys();
        let now = 1_000 * DAY_MS;
        let client = "mimi://a.example/d/alice/phone".parse().unwrap();
        let key = PublicKey::new([7; 32]).unwrap();
        let attestation = keys.attest(&client, SignatureScheme::ED25519, &key, now);
        let published = &keys.verification_keys(now)[0];
        assert_eq!(published.key_id, attestation.key_id);
        assert!(crypto::verify_with_label(
            published.scheme,
            &published.public_key,
            label::ATTESTATION,
            &attestation.to_be_signed(),
            attestation.signature.as_slice(),
        ));
        let life = attestation.not_after - attestation.not_before;
        assert_eq!(life, moh_messages::MAX_ATTESTATION_LIFE_MS);
    }
}
