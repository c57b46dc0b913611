//! The provider's own keys: what it signs with, and what it seals for itself.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce as AeadNonce, UnboundKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use moh_messages::{
    Attestation, BasicCredential, CipherSuite, ClientId, ClientQueueInformation, Endpoint,
    ExternalSender, GroupId, KeyId, Nonce, Opaque, ProviderAuth, ProviderName, PublicKey,
    Signature, SignatureScheme, SignedLast, VerificationKey, VerificationKeys, label,
    provider_sign_content, sign_content,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::clock::{DAY_MS, Environment, Random};
use crate::crypto::sha256;
use crate::invitation::{self, Invitation};

/// How long a published key counts before and after now, as other providers are told.
const KEY_LIFE_BEFORE_MS: u64 = 150 * DAY_MS;
const KEY_LIFE_AFTER_MS: u64 = 150 * DAY_MS;
/// How long an attestation is good for.
const ATTESTATION_LIFE_MS: u64 = 90 * DAY_MS;
/// A client that is a little ahead or behind can use its attestation at once.
const ATTESTATION_LEAD_MS: u64 = 5 * crate::clock::MINUTE_MS;

/// A file with keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is not what [`SecretKeys::write`] writes.
    #[error("not a key file: {0}")]
    Invalid(String),
    /// Others than its owner may read it.
    #[error("others than the owner can read it: chmod 600")]
    Permissions,
}

/// All secrets of a provider, in hexadecimal, as they stand in its key file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct SecretKeys {
    /// Seed of the Ed25519 key that signs requests and attestations.
    request_key: String,
    /// Seed of the Ed25519 key that groups of ciphersuites 1 and 3 know.
    group_key_ed25519: String,
    /// PKCS#8 of the P-256 key that groups of ciphersuite 2 know.
    group_key_p256: String,
    /// Earlier ones, which groups still know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous_group_keys_ed25519: Vec<String>,
    /// Earlier ones, which groups still know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous_group_keys_p256: Vec<String>,
    /// AES-256 key that seals clients' queue information.
    queue_key: String,
    /// HMAC-SHA-256 key that marks the names of groups.
    group_id_key: String,
}

impl SecretKeys {
    /// New keys.
    ///
    /// # Panics
    /// When no P-256 key can be made, which does not happen.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        let secret = || hex::encode(random.bytes::<32>());
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .and_then(|key| key.to_pkcs8v1())
            .expect("P-256 keys can be made");
        Self {
            request_key: secret(),
            group_key_ed25519: secret(),
            group_key_p256: hex::encode(p256.as_ref()),
            previous_group_keys_ed25519: Vec::new(),
            previous_group_keys_p256: Vec::new(),
            queue_key: secret(),
            group_id_key: secret(),
        }
    }

    /// The same, but for the keys that new groups know: those are new, and the ones until now
    /// are kept for the groups that know them.
    #[must_use]
    pub fn with_new_group_keys(&self, random: &dyn Random) -> Self {
        let new = Self::generate(random);
        let mut keys = self.clone();
        let ed25519 = std::mem::replace(&mut keys.group_key_ed25519, new.group_key_ed25519.clone());
        let p256 = std::mem::replace(&mut keys.group_key_p256, new.group_key_p256.clone());
        keys.previous_group_keys_ed25519.push(ed25519);
        keys.previous_group_keys_p256.push(p256);
        keys
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read, is not one, or others than its owner could read it.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            if std::fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
                return Err(KeyFileError::Permissions);
            }
        }
        let mut text = std::fs::read_to_string(path)?;
        let keys = toml::from_str(&text).map_err(|e| KeyFileError::Invalid(e.message().to_owned()));
        text.zeroize();
        keys
    }

    /// Writes a new key file, for its owner alone.
    ///
    /// # Errors
    /// When there is a file of that name, or it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyFileError> {
        use std::io::Write;
        // Whole or not at all: written beside it, then given its name, unless that is taken.
        let beside = path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut text = toml::to_string(self).map_err(|e| KeyFileError::Invalid(e.to_string()))?;
        let mut file = options.open(&beside)?;
        file.write_all(
            b"# The secret keys of a MoH provider. Whoever has them is the provider.\n",
        )?;
        file.write_all(text.as_bytes())?;
        text.zeroize();
        file.sync_all()?;
        let named = std::fs::hard_link(&beside, path);
        std::fs::remove_file(&beside)?;
        named?;
        Ok(())
    }
}

impl std::fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKeys")
    }
}

/// The keys of a provider, ready for use.
pub struct Keys {
    provider: ProviderName,
    request: Ed25519KeyPair,
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
            request: ed25519(&secret.request_key, "request_key")?,
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
        let public_key = public(self.request.public_key().as_ref());
        let key = VerificationKey {
            key_id: self.key_id(),
            scheme: SignatureScheme::ED25519,
            public_key,
            not_before: now.saturating_sub(KEY_LIFE_BEFORE_MS),
            not_after: now + KEY_LIFE_AFTER_MS,
        };
        VerificationKeys::new(vec![key]).expect("one key")
    }

    fn key_id(&self) -> KeyId {
        KeyId::new(sha256(self.request.public_key().as_ref())).expect("32 bytes")
    }

    fn sign(&self, content: &[u8]) -> Signature {
        Signature::new(self.request.sign(content).as_ref()).expect("64 bytes")
    }

    /// Signs a request to `endpoint` of another provider, in the place that `auth` names.
    pub fn sign_request<T: SignedLast>(
        &self,
        environment: &Environment,
        endpoint: Endpoint,
        request: &mut T,
        auth: fn(&mut T) -> Option<&mut ProviderAuth>,
    ) {
        if let Some(auth) = auth(request) {
            *auth = ProviderAuth {
                timestamp: environment.now_ms(),
                nonce: Nonce::new(environment.random.bytes::<16>()).expect("16 bytes"),
                key_id: self.key_id(),
                signature: Signature::empty(),
            };
        }
        let content = provider_sign_content(endpoint.path(), &request.to_be_signed());
        if let Some(signature) = request.signature_mut() {
            *signature = self.sign(&content);
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
        let not_before = now.saturating_sub(ATTESTATION_LEAD_MS);
        let mut attestation = Attestation {
            client_id: client_id.clone(),
            scheme,
            signature_key: signature_key.clone(),
            not_before,
            not_after: not_before + ATTESTATION_LIFE_MS,
            key_id: self.key_id(),
            signature: Signature::empty(),
        };
        let content = sign_content(label::ATTESTATION, &attestation.to_be_signed());
        attestation.signature = self.sign(&content);
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
    fn a_key_file_is_for_its_owner_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let secret = SecretKeys::generate(&*Environment::system().random);
        secret.write(&path).unwrap();
        assert!(SecretKeys::read(&path).unwrap() == secret);
        assert!(
            secret.write(&path).is_err(),
            "an existing file is not overwritten"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(
                SecretKeys::read(&path),
                Err(KeyFileError::Permissions)
            ));
        }
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
