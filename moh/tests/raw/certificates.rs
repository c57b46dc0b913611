//! Providers that demand certificates of each other, by their configuration.

use moh_messages::{DsError, DsErrorCode, DsResponse, DsResponseBody, Endpoint, Message};
use moh_messages::{KeyPackageResponse, ProviderAuth};

use crate::common::device::Device;
use crate::common::peer::Peer;
use crate::common::server::Server;

/// How a provider reaches another one, and further settings of `[federation]`.
fn settings(this: &Server, other: &Server, more: &str) -> String {
    let roots = [this, other].map(|server| server.path("ca.pem"));
    format!(
        "registration = \"open\"\n[federation]\nextra_roots = {roots:?}\n{more}\n\
         [federation.hosts]\n\"{}\" = \"{}\"",
        other.name, other.address
    )
}

#[tokio::test]
async fn who_demands_certificates_is_asked_by_those_who_offer_theirs() {
    let (mut a, mut b) = Server::start_two().await;
    let demands = settings(&a, &b, "require_client_certificate = true");
    a.configure(&demands).await;
    let alice = Device::register(&b, "alice/phone").await;
    let mut request = Peer::of(&b).await.group_key_packages(&a.name);
    request.provider_auth = ProviderAuth::blank();
    let request = request.encode();
    let ask = async |alice: &Device| {
        let endpoint = Endpoint::GroupKeyPackages;
        let (status, body) = alice.forward(&a.name, endpoint, request.clone()).await;
        match DsResponse::decode(&body).map(|response| response.body) {
            Ok(DsResponseBody::Error(DsError { code, .. })) => Err((status, code)),
            _ => Ok(KeyPackageResponse::decode(&body).unwrap().users.len()),
        }
    };
    let refused = Err((403, DsErrorCode::UNAUTHENTICATED));
    for (client_certificate, expected) in [("none", refused), ("offer", Ok(1))] {
        let offers = format!("client_certificate = \"{client_certificate}\"");
        b.configure(&settings(&b, &a, &offers)).await;
        assert_eq!(ask(&alice).await, expected, "{client_certificate}");
    }
}
