//! HTTPS, with TLS 1.3 or higher.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moh_messages::{
    CONTENT_TYPE, MAX_ANSWER_BYTES as MAX_FORWARDED_BYTES, ProviderName, WELL_KNOWN_PATH,
    client_api,
};
use reqwest::header::{CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue};
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::OnceCell;

use super::websocket::WebSocket;
use super::{Answer, ConnectOptions, QueueSocket, Transport};
use crate::error::{Error, TransportError};

/// The longest answer that is read, in bytes: a forwarded one, with what is around it.
const MAX_ANSWER_BYTES: usize = MAX_FORWARDED_BYTES + 1024;
/// The longest answer of the well-known that is read, in bytes.
const MAX_DS_DOMAIN_BYTES: usize = 261;
/// How much of an error's text is kept, in bytes.
const MAX_ERROR_TEXT_BYTES: usize = 300;

/// A connection pool to one provider.
pub(crate) struct Https {
    options: ConnectOptions,
    client: reqwest::Client,
    /// For WebSockets: HTTP/1.1 only.
    tls: Arc<rustls::ClientConfig>,
    /// The host and port where the provider's DS is.
    ds_domain: OnceCell<String>,
}

impl Https {
    pub(crate) fn new(options: &ConnectOptions) -> Result<Self, Error> {
        let mut tls = tls_config(options)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .https_only(true)
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("moh-client/", env!("CARGO_PKG_VERSION")));
        for (host, addr) in &options.overrides {
            builder = builder.resolve(host, *addr);
        }
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            options: options.clone(),
            client: builder
                .build()
                .map_err(|error| Error::Tls(error.to_string()))?,
            tls: Arc::new(tls),
            ds_domain: OnceCell::new(),
        })
    }

    async fn ds_domain(&self) -> Result<&str, TransportError> {
        self.ds_domain
            .get_or_try_init(|| self.discover())
            .await
            .map(String::as_str)
    }

    async fn discover(&self) -> Result<String, TransportError> {
        let provider = &self.options.provider;
        let answer = self
            .client
            .get(format!("https://{provider}{WELL_KNOWN_PATH}"))
            .timeout(self.options.timeout)
            .send()
            .await
            .map_err(transport_error)?;
        let status = answer.status().as_u16();
        let body = read_body(answer, MAX_DS_DOMAIN_BYTES + 64).await?;
        match status {
            200 => parse_ds_domain(&body)
                .ok_or_else(|| TransportError::Discovery(format!("{provider} names no DS domain"))),
            404 => Ok(provider.to_string()),
            _ => Err(status_error(status, &body)),
        }
    }
}

#[async_trait]
impl Transport for Https {
    async fn post(&self, body: Vec<u8>, wait: Duration) -> Result<Answer, TransportError> {
        let domain = self.ds_domain().await?;
        let answer = self
            .client
            .post(format!("https://{domain}{}", client_api::PATH))
            .header(CONTENT_TYPE_HEADER, CONTENT_TYPE)
            .timeout(self.options.timeout.saturating_add(wait))
            .body(body)
            .send()
            .await
            .map_err(transport_error)?;
        let status = answer.status().as_u16();
        let is_octet_stream = answer
            .headers()
            .get(CONTENT_TYPE_HEADER)
            .is_some_and(is_octet_stream);
        let body = read_body(answer, MAX_ANSWER_BYTES).await?;
        Ok(Answer {
            status,
            is_octet_stream,
            body,
        })
    }

    async fn open_queue(&self) -> Result<Box<dyn QueueSocket>, TransportError> {
        let domain = self.ds_domain().await?;
        let connected = WebSocket::connect(domain, &self.options, Arc::clone(&self.tls));
        let socket = tokio::time::timeout(self.options.timeout, connected)
            .await
            .map_err(|_| TransportError::TimedOut)??;
        Ok(Box::new(socket))
    }
}

fn tls_config(options: &ConnectOptions) -> Result<rustls::ClientConfig, Error> {
    let tls = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let mut roots = Vec::new();
    for pem in &options.roots_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.push(certificate.map_err(|error| tls(&error))?);
        }
    }
    if roots.is_empty() && !options.roots_pem.is_empty() {
        return Err(tls(&"the PEM text has no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls_platform_verifier::Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
            .map_err(|error| tls(&error))?;
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| tls(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// `HOST` or `HOST:PORT`.
fn parse_ds_domain(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    if text.len() > MAX_DS_DOMAIN_BYTES {
        return None;
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (
            host,
            Some(port.parse::<u16>().ok().filter(|port| *port != 0)?),
        ),
        None => (text, None),
    };
    let host: ProviderName = host.parse().ok()?;
    Some(port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}")))
}

fn is_octet_stream(value: &HeaderValue) -> bool {
    value
        .to_str()
        .ok()
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case(CONTENT_TYPE))
}

async fn read_body(
    mut answer: reqwest::Response,
    max_bytes: usize,
) -> Result<Vec<u8>, TransportError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(transport_error)? {
        if body.len() + chunk.len() > max_bytes {
            return Err(TransportError::Connection(
                "the answer is too long".to_owned(),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn transport_error(error: reqwest::Error) -> TransportError {
    if error.is_timeout() {
        return TransportError::TimedOut;
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    TransportError::Connection(text)
}

/// An answer that is none of the protocol.
pub(crate) fn status_error(status: u16, body: &[u8]) -> TransportError {
    let shown = &body[..body.len().min(MAX_ERROR_TEXT_BYTES)];
    let text = String::from_utf8_lossy(shown)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    TransportError::Status { status, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ds_domains() {
        let parse = |text: &str| parse_ds_domain(text.as_bytes());
        assert_eq!(parse(" ds.a.example \n").as_deref(), Some("ds.a.example"));
        assert_eq!(
            parse("ds.a.example:8441").as_deref(),
            Some("ds.a.example:8441")
        );
        for bad in [
            "",
            "a.example:",
            "a.example:0",
            "a.example:70000",
            "a.example/x",
            "10.0.0.1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&"a".repeat(300)), None);
    }

    #[test]
    fn content_types() {
        let is = |text: &'static str| is_octet_stream(&HeaderValue::from_static(text));
        assert!(is("application/octet-stream") && is("Application/Octet-Stream; x=1"));
        assert!(!is("application/problem+json"));
    }

    #[test]
    fn roots_that_are_no_certificates_are_an_error() {
        let options = ConnectOptions::new("a.example".parse().unwrap());
        assert!(Https::new(&options.root_certificate_pem("nothing")).is_err());
    }
}
