//! Signatures and hashes by aws-lc, for ourselves and for openmls.

use aws_lc_rs::{digest, signature as aws};
use moh_messages::{PublicKey, SignatureScheme, sign_content};
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig,
    HpkeKeyPair, KemOutput, SignatureScheme as MlsSignatureScheme,
};
use tls_codec::SecretVLBytes;

/// SHA-256.
#[must_use]
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Whether `signature` is one over exactly `content`; false for a scheme that is not ours.
#[must_use]
pub(crate) fn verify(
    scheme: SignatureScheme,
    key: &[u8],
    content: &[u8],
    signature: &[u8],
) -> bool {
    let algorithm: &dyn aws::VerificationAlgorithm = match scheme {
        SignatureScheme::ED25519 => &aws::ED25519,
        SignatureScheme::ECDSA_SECP256R1_SHA256 => &aws::ECDSA_P256_SHA256_ASN1,
        _ => return false,
    };
    aws::UnparsedPublicKey::new(algorithm, key)
        .verify(content, signature)
        .is_ok()
}

/// RFC 9420 section 5.1.2: `VerifyWithLabel`.
#[must_use]
pub(crate) fn verify_with_label(
    scheme: SignatureScheme,
    key: &PublicKey,
    label: &str,
    content: &[u8],
    signature: &[u8],
) -> bool {
    verify(
        scheme,
        key.as_slice(),
        &sign_content(label, content),
        signature,
    )
}

/// What openmls computes with. A provider verifies signatures and hashes trees; it has no secrets
/// of any group, and everything that is done with those is refused.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Crypto;

/// The ciphersuites of the profile.
const CIPHERSUITES: [Ciphersuite; 3] = [
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
];

/// A provider does not do that.
const NOT_HERE: CryptoError = CryptoError::CryptoLibraryError;

impl OpenMlsCrypto for Crypto {
    fn hash(&self, hash_type: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        match hash_type {
            HashType::Sha2_256 => Ok(digest::digest(&digest::SHA256, data).as_ref().to_vec()),
            HashType::Sha2_384 | HashType::Sha2_512 => Err(NOT_HERE),
        }
    }

    fn verify_signature(
        &self,
        alg: MlsSignatureScheme,
        data: &[u8],
        pk: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        if verify(SignatureScheme(alg as u16), pk, data, signature) {
            Ok(())
        } else {
            Err(CryptoError::InvalidSignature)
        }
    }

    fn supports(&self, ciphersuite: Ciphersuite) -> Result<(), CryptoError> {
        CIPHERSUITES
            .contains(&ciphersuite)
            .then_some(())
            .ok_or(NOT_HERE)
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        CIPHERSUITES.to_vec()
    }

    fn hkdf_extract(
        &self,
        _: HashType,
        _salt: &[u8],
        _ikm: &[u8],
    ) -> Result<SecretVLBytes, CryptoError> {
        Err(NOT_HERE)
    }

    fn hmac(
        &self,
        _: HashType,
        _key: &[u8],
        _message: &[u8],
    ) -> Result<SecretVLBytes, CryptoError> {
        Err(NOT_HERE)
    }

    fn hkdf_expand(
        &self,
        _: HashType,
        _prk: &[u8],
        _info: &[u8],
        _okm_len: usize,
    ) -> Result<SecretVLBytes, CryptoError> {
        Err(NOT_HERE)
    }

    fn aead_encrypt(
        &self,
        _: AeadType,
        _key: &[u8],
        _data: &[u8],
        _nonce: &[u8],
        _aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(NOT_HERE)
    }

    fn aead_decrypt(
        &self,
        _: AeadType,
        _key: &[u8],
        _ct_tag: &[u8],
        _nonce: &[u8],
        _aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(NOT_HERE)
    }

    fn signature_key_gen(&self, _: MlsSignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        Err(NOT_HERE)
    }

    fn sign(
        &self,
        _: MlsSignatureScheme,
        _data: &[u8],
        _key: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(NOT_HERE)
    }

    fn hpke_seal(
        &self,
        _: HpkeConfig,
        _pk_r: &[u8],
        _info: &[u8],
        _aad: &[u8],
        _ptxt: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        Err(NOT_HERE)
    }

    fn hpke_open(
        &self,
        _: HpkeConfig,
        _input: &HpkeCiphertext,
        _sk_r: &[u8],
        _info: &[u8],
        _aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(NOT_HERE)
    }

    fn hpke_setup_sender_and_export(
        &self,
        _: HpkeConfig,
        _pk_r: &[u8],
        _info: &[u8],
        _exporter_context: &[u8],
        _exporter_length: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        Err(NOT_HERE)
    }

    fn hpke_setup_receiver_and_export(
        &self,
        _: HpkeConfig,
        _enc: &[u8],
        _sk_r: &[u8],
        _info: &[u8],
        _exporter_context: &[u8],
        _exporter_length: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        Err(NOT_HERE)
    }

    fn derive_hpke_keypair(&self, _: HpkeConfig, _ikm: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        Err(NOT_HERE)
    }
}
