//! Requests to other providers, over TLS 1.3, to addresses that may be asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use moh_messages::CONTENT_TYPE;
use reqwest::header;

use super::addresses::{Addresses, Dns, Resolver, SystemDns};
use super::doors::{self, Doors};
use super::transport::{PeerRequest, PeerResponse, Transport, Unreachable};
use crate::tls::{self, Identity, Trust};

/// A host whose address is not asked of the DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The host.
    pub host: String,
    /// Its address. The port is that of requests whose URL names none.
    pub address: SocketAddr,
}

/// How other providers are reached.
#[derive(Clone, Debug)]
pub struct HttpsOptions {
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// What is shown to those that ask who connects.
    pub identity: Option<Identity>,
    /// Hosts whose addresses are given.
    pub overrides: Vec<Override>,
    /// Whether private, loopback and link-local addresses may be connected to.
    pub allow_private_addresses: bool,
    /// How long one request may take.
    pub timeout: Duration,
    /// How long it may take to connect, the DNS included.
    pub connect_timeout: Duration,
}

impl HttpsOptions {
    /// The usual ones.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            identity: None,
            overrides: Vec::new(),
            allow_private_addresses: false,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Connections to a host that are kept although nothing goes over them.
const MAX_IDLE: usize = 32;
/// How often a connection is tried, and how long that may take until it is given up: who went away
/// silently does not hold up for long what is sent next.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTPS by reqwest: HTTP/2 where the other side has it, one connection for many requests.
pub struct HttpsTransport {
    client: reqwest::Client,
    doors: Doors,
    timeout: Duration,
    connect_timeout: Duration,
}

impl HttpsTransport {
    /// Prepares it.
    ///
    /// # Errors
    /// When our certificate and its key do not belong together, or the system has no configuration
    /// for the DNS.
    pub fn new(options: &HttpsOptions) -> Result<Self, Unreachable> {
        Self::with_dns(options, Arc::new(SystemDns::new()?))
    }

    /// Prepares it, with another DNS than the system's.
    ///
    /// # Errors
    /// When our certificate and its key do not belong together.
    pub fn with_dns(options: &HttpsOptions, dns: Arc<dyn Dns>) -> Result<Self, Unreachable> {
        let failed = |e: &dyn std::fmt::Display| Unreachable(e.to_string());
        let given = options.overrides.iter();
        let addresses = Addresses {
            dns,
            given: given.map(|o| (o.host.clone(), o.address)).collect(),
            allow_private: options.allow_private_addresses,
        };
        let tls = tls::client_config(&options.trust, options.identity.clone());
        let tls = tls.map_err(|e| failed(&e))?;
        let client = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(Resolver(Arc::new(addresses))))
            .no_proxy()
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(doors::IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build()
            .map_err(|e| failed(&e))?;
        Ok(Self {
            client,
            doors: Doors::new(),
            timeout: options.timeout,
            connect_timeout: options.connect_timeout,
        })
    }
}

#[async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let too_slow = format!("{} took too long", request.host);
        let sent = tokio::time::timeout(self.timeout, self.send_in_turn(request)).await;
        sent.unwrap_or(Err(Unreachable(too_slow)))
    }
}

impl HttpsTransport {
    async fn send_in_turn(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let door = self.doors.to(&request.host);
        let _place = door.places.acquire().await;
        let first = door.pass(self.connect_timeout).await;
        let sent = self.begin(&request).send().await;
        door.came_through(sent.is_ok());
        drop(first);
        let response = sent.map_err(|e| Unreachable(explain(&e)))?;
        read(response, &request).await
    }

    fn begin(&self, request: &PeerRequest) -> reqwest::RequestBuilder {
        let url = format!("https://{}{}", request.host, request.path);
        let builder = match request.get {
            true => self.client.get(url),
            false => self.client.post(url),
        };
        match &request.body {
            Some(body) => builder
                .header(header::CONTENT_TYPE, CONTENT_TYPE)
                .body(body.clone()),
            None => builder,
        }
    }
}

/// Reads an answer, up to the length that is taken.
async fn read(
    mut response: reqwest::Response,
    request: &PeerRequest,
) -> Result<PeerResponse, Unreachable> {
    let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
    let content_type = text(header::CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase());
    let max_age_seconds = text(header::CACHE_CONTROL).and_then(max_age);
    let retry_after_seconds =
        text(header::RETRY_AFTER).and_then(|value| retry_after(value, text(header::DATE)));
    let status = response.status().as_u16();
    let mut body = BytesMut::new();
    let failed = |e: reqwest::Error| Unreachable(explain(&e));
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > request.max_answer_bytes {
            return Err(Unreachable(format!("{} says too much", request.host)));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(PeerResponse {
        status,
        content_type,
        max_age_seconds,
        retry_after_seconds,
        body: body.freeze(),
    })
}

/// An error with its causes, which is where the reason is.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn max_age(cache_control: &str) -> Option<u64> {
    cache_control.split(',').find_map(|directive| {
        directive
            .trim()
            .strip_prefix("max-age=")
            .and_then(|seconds| seconds.parse().ok())
    })
}

/// `Retry-After` is a number of seconds or a date. A date counts from that of the answer, so that
/// it does not matter whose clock is right; without one it says nothing.
fn retry_after(value: &str, date: Option<&str>) -> Option<u32> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(value.parse().unwrap_or(u32::MAX));
    }
    let then = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(date?.trim()).ok()?;
    let seconds = then.duration_since(now).unwrap_or_default().as_secs();
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_is_found_among_other_directives() {
        assert_eq!(max_age("public, max-age=60"), Some(60));
        assert_eq!(max_age("no-store"), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = |minute, second| format!("Sun, 06 Nov 1994 08:{minute:02}:{second:02} GMT");
        let now = date(49, 37);
        for (value, now, expected) in [
            ("7", None, Some(7)),
            (" 120 ", None, Some(120)),
            ("99999999999999999999", None, Some(u32::MAX)),
            (date(50, 7).as_str(), Some(now.as_str()), Some(30)),
            (date(48, 0).as_str(), Some(now.as_str()), Some(0)),
            (date(50, 7).as_str(), None, None),
            (date(50, 7).as_str(), Some("then"), None),
            ("-1", Some(now.as_str()), None),
            ("1.5", Some(now.as_str()), None),
            ("", Some(now.as_str()), None),
        ] {
            assert_eq!(retry_after(value, now), expected, "{value}");
        }
    }
}
