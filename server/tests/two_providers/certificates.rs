//! A provider that demands certificates of others.

use std::sync::Arc;

use moh_messages::{DsErrorCode, DsResponse, DsResponseBody, Endpoint, Message};
use moh_server::federation::{HttpsOptions, HttpsTransport, PeerRequest, Transport as _};
use moh_server::tls::Trust;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::claims::for_group;
use crate::listen::{agree, hear_some, joined, say};
use crate::policy::{for_info, of_nobody};
use crate::world::{Certificate, World, authority, user_id};

/// A world in which a.example demands certificates.
async fn demanding() -> World {
    let mut world = World::of(&["a.example", "b.example", "c.example"]).await;
    let trust = world.trust();
    let a = world.provider_mut("a.example");
    a.demand_certificates(trust).await;
    world
}

/// A request that b.example has signed.
fn signed(world: &World) -> Vec<u8> {
    let (alice, bob) = (user_id("alice@a.example"), user_id("bob@b.example"));
    for_group(world.provider("b.example"), &bob, &alice)
}

fn result(body: &[u8]) -> Result<(), DsErrorCode> {
    match DsResponse::decode(body).map(|response| response.body) {
        Ok(DsResponseBody::Error(error)) => Err(error.code),
        _ => Ok(()),
    }
}

/// What a.example says to a request by somebody who has this certificate, over HTTP/2 and over
/// HTTP/1.1.
async fn says(
    world: &World,
    identity: Option<&Certificate>,
    endpoint: Endpoint,
    body: impl Fn() -> Vec<u8>,
) -> Result<(), DsErrorCode> {
    let transport = HttpsTransport::new(&HttpsOptions {
        identity: identity.map(Certificate::identity),
        ..world.https()
    });
    let request = PeerRequest {
        get: false,
        host: "a.example".to_owned(),
        path: endpoint.path(),
        body: Some(body().into()),
        max_answer_bytes: 1 << 20,
    };
    let answer = transport.unwrap().send(request).await.unwrap();
    let over_http2 = result(&answer.body);

    let ca = reqwest::Certificate::from_pem(world.ca_pem().as_bytes()).unwrap();
    let address = world.provider("a.example").address;
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .tls_certs_only([ca])
        .resolve("a.example", address);
    if let Some(identity) = identity {
        let identity = reqwest::Identity::from_pem(identity.pem().as_bytes());
        builder = builder.identity(identity.unwrap());
    }
    let url = format!("https://a.example:{}{}", address.port(), endpoint.path());
    let request = builder.build().unwrap().post(url).body(body());
    let request = request.header("content-type", moh_messages::CONTENT_TYPE);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    let over_http1 = result(&answer.bytes().await.unwrap());
    assert_eq!(over_http1, over_http2);
    over_http2
}

#[tokio::test]
async fn a_request_counts_with_the_certificate_of_its_sender_alone() {
    let world = demanding().await;
    let endpoint = Endpoint::GroupKeyPackages;
    let refused = Err(DsErrorCode::UNAUTHENTICATED);
    let ask = async |identity: Option<&Certificate>| {
        says(&world, identity, endpoint, || signed(&world)).await
    };
    let right = world.certificate(&["b.example"]);
    assert_eq!(ask(Some(&right)).await, Ok(()));
    let among_others = world.certificate(&["x.example", "b.example"]);
    assert_eq!(ask(Some(&among_others)).await, Ok(()));
    assert_eq!(ask(None).await, refused, "none");
    for names in [&["c.example"][..], &["x.b.example"], &["a.example"]] {
        let another = world.certificate(names);
        assert_eq!(ask(Some(&another)).await, refused, "{names:?}");
    }
    let untrusted = Certificate::of(&["b.example"], &authority());
    assert_eq!(ask(Some(&untrusted)).await, refused, "by another authority");
    world.end().await;
}

/// What members sign comes from their provider as well; what anybody may ask needs no certificate.
#[tokio::test]
async fn every_request_with_a_sender() {
    let world = demanding().await;
    let refused = Err(DsErrorCode::UNAUTHENTICATED);
    let right = world.certificate(&["b.example"]);
    let another = world.certificate(&["c.example"]);
    let info = Endpoint::ExternalCommitInformation;
    let ask = async |identity| says(&world, identity, info, || for_info(of_nobody())).await;
    assert_eq!(ask(Some(&right)).await, Err(DsErrorCode::UNKNOWN_GROUP));
    assert_eq!(ask(Some(&another)).await, refused);
    assert_eq!(ask(None).await, refused);
    let keys = Endpoint::VerificationKey;
    let ask = says(&world, None, keys, Vec::new).await;
    assert_eq!(ask, Ok(()));
    world.end().await;
}

/// A certificate is public: who shows it has to have its key.
#[tokio::test]
async fn a_certificate_without_its_key_is_none() {
    let world = demanding().await;
    let right = world.certificate(&["b.example"]);
    for (key_of, works) in [(&right, true), (&world.certificate(&["b.example"]), false)] {
        let key = PrivateKeyDer::from_pem_slice(key_of.pem().as_bytes()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let chain = CertificateDer::from_pem_slice(right.chain().as_bytes()).unwrap();
        let shown = Shown(Arc::new(CertifiedKey::new(vec![chain], key)));
        assert_eq!(is_let_in(&world, shown).await, works);
    }
    world.end().await;
}

/// Shows a certificate, whether or not the key is that of it.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether anything is answered to whoever shows this.
async fn is_let_in(world: &World, shown: Shown) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(world.ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(shown));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(world.provider("a.example").address);
    let name = ServerName::try_from("a.example").unwrap();
    let mut tls = connector.connect(name, tcp.await.unwrap()).await.unwrap();
    let request = b"GET /verification_key HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    tls.write_all(request).await.is_ok()
        && tls.read_to_end(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}

/// Users' clients need no certificate, and providers that show theirs work together as ever.
#[tokio::test]
async fn with_certificates_everything_goes_on() {
    let mut world = demanding().await;
    let trust = world.trust();
    let b = world.provider_mut("b.example");
    b.demand_certificates(trust).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let group = world.group(&alice, &[&bob]).await;
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    say(&group, &alice, &[&bob], "there").await;
    say(&group, &bob, &[&alice], "and back").await;
    bob.update(&group).await.unwrap();
    hear_some(&alice, 1).await;
    assert_eq!(agree(&group, &[&alice, &bob]).await, 2);
    for provider in ["a.example", "b.example"] {
        let refusals = world.provider(provider).answers.refusals();
        assert!(refusals.is_empty(), "{refusals:?}");
    }
    // Who does not trust their authority does not let them in.
    let trust = Trust::new(&[authority().pem().into_bytes()]).unwrap();
    let a = world.provider_mut("a.example");
    a.demand_certificates(trust).await;
    assert!(bob.send(&group, "once more").await.is_err());
    let key = ("group_operation", "unauthenticated".to_owned());
    let refusals = world.provider("a.example").answers.refusals();
    assert!(refusals.contains_key(&key), "{refusals:?}");
    world.end().await;
}
