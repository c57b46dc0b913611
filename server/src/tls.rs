//! TLS 1.3: what we show, and whom we trust.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_platform_verifier::Verifier;

use crate::clock::MINUTE_MS;

/// How long a certificate that was valid for a domain is not looked at again on its connection.
const VALID_MS: u64 = MINUTE_MS;

/// A certificate, a key, or what is made of them cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

fn failed(error: impl Display) -> TlsError {
    TlsError(error.to_string())
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate, with the others of its chain, and its key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Identity {
    /// Reads both as PEM.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(chain_pem)?;
        if chain.is_empty() {
            return Err(failed("there is no certificate in the file"));
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(failed)?;
        Ok(Self { chain, key })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem);
    certificates.collect::<Result<_, _>>().map_err(failed)
}

/// Whose certificates are trusted: those by the authorities that the system trusts, and by some
/// others.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Verifier>);

impl Trust {
    /// Trusts these as well, each one or more as PEM.
    ///
    /// # Errors
    /// When one is not a certificate, or there are none at all.
    pub fn new(extra_roots_pem: &[Vec<u8>]) -> Result<Self, TlsError> {
        let mut roots = Vec::new();
        for pem in extra_roots_pem {
            roots.extend(certificates(pem)?);
        }
        let verifier = match roots.is_empty() {
            true => Verifier::new(crypto()),
            false => Verifier::new_with_extra_roots(roots, crypto()),
        };
        verifier.map(|v| Self(Arc::new(v))).map_err(failed)
    }

    /// Whether a server that shows this chain is the one of that domain, at `now_ms` after the Unix
    /// epoch.
    fn trusts(&self, chain: &[CertificateDer<'_>], domain: &str, now_ms: u64) -> bool {
        let (Some((first, others)), Ok(name)) = (chain.split_first(), ServerName::try_from(domain))
        else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
        let verified = self.0.verify_server_cert(first, others, &name, &[], now);
        verified.is_ok()
    }
}

/// How we connect: HTTP/2 or HTTP/1.1, showing who we are to those that ask.
///
/// # Errors
/// When certificate and key do not belong together.
pub(crate) fn client_config(
    trust: &Trust,
    identity: Option<Identity>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&trust.0) as _);
    let mut config = match identity {
        Some(Identity { chain, key }) => {
            builder.with_client_auth_cert(chain, key).map_err(failed)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether those who connect are asked for a certificate. They may have none in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// They are not asked.
    NotAsked,
    /// They are.
    Asked,
}

/// What is shown to whoever connects, with HTTP/2 and HTTP/1.1 and no early data.
///
/// # Errors
/// When certificate and key do not belong together.
pub(crate) fn server_config(
    identity: Identity,
    certificates: Certificates,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?;
    let builder = match certificates {
        Certificates::NotAsked => builder.with_no_client_auth(),
        Certificates::Asked => {
            let algorithms = crypto().signature_verification_algorithms;
            builder.with_client_cert_verifier(Arc::new(HasItsKey(algorithms)))
        }
    };
    let Identity { chain, key } = identity;
    let mut config = builder.with_single_cert(chain, key).map_err(failed)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(config)
}

/// Asks for a certificate, and verifies that whoever shows it has its key. Whose it is, and whether
/// it is trusted, is looked at when a request says who sends it; our own clients need none.
#[derive(Debug)]
struct HasItsKey(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for HasItsKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// The certificate that whoever connected has shown, and has the key of.
#[derive(Clone, Debug)]
pub struct Presented(Arc<Shown>);

#[derive(Debug)]
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    /// The domain that it was valid for the last time, and until when that counts.
    valid: Mutex<Option<(String, u64)>>,
}

impl Presented {
    /// What was shown in a handshake, if anything was.
    pub(crate) fn of(connection: &rustls::ServerConnection) -> Option<Self> {
        let chain = connection.peer_certificates()?;
        let chain = chain.iter().map(|c| c.clone().into_owned()).collect();
        let valid = Mutex::default();
        Some(Self(Arc::new(Shown { chain, valid })))
    }

    /// Whether it is trusted as that of a domain, at `now_ms` after the Unix epoch.
    pub(crate) fn is_of(&self, trust: &Trust, domain: &str, now_ms: u64) -> bool {
        let Shown { chain, valid } = &*self.0;
        let lock = || valid.lock().unwrap_or_else(PoisonError::into_inner);
        let was_valid = lock().as_ref().is_some_and(|(of, until)| {
            of == domain && (until.saturating_sub(VALID_MS)..*until).contains(&now_ms)
        });
        if was_valid {
            return true;
        }
        let is_valid = trust.trusts(chain, domain, now_ms);
        if is_valid {
            *lock() = Some((domain.to_owned(), now_ms + VALID_MS));
        }
        is_valid
    }
}
