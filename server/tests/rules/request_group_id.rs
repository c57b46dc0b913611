//! request_group_id.

use moh_messages::{CipherSuite, DsErrorCode, DsRequestBody, RequestGroupId};

use crate::site::Site;

fn body(suite: u16) -> DsRequestBody {
    DsRequestBody::RequestGroupId(RequestGroupId {
        cipher_suite: CipherSuite(suite),
    })
}

#[tokio::test]
async fn for_clients_of_this_provider() {
    let site = Site::start().await;
    let code = DsErrorCode::UNAUTHENTICATED;
    let bob = site.device("bob/phone@b.example");
    let request = site.on_behalf_of(&bob, body(1));
    assert_eq!(site.ask(&request).await, Err(code), "another's client");
    let mut request = site.on_behalf_of(&bob, body(1));
    request.sender = "a.example".parse().unwrap();
    site.homes["a.example"].sign_request(&mut request);
    assert_eq!(site.ask(&request).await, Err(code), "spoken for by us");
    site.end().await;
}

#[tokio::test]
async fn for_ciphersuites_of_ours() {
    let site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    for suite in [0, 4, 5, 6, 7, 0x0a0a] {
        let request = site.on_behalf_of(&alice, body(suite));
        let code = DsErrorCode::POLICY_VIOLATION;
        assert_eq!(site.ask(&request).await, Err(code), "{suite}");
    }
    for suite in [1, 2, 3] {
        let request = site.on_behalf_of(&alice, body(suite));
        assert!(site.ask(&request).await.is_ok(), "{suite}");
    }
    site.end().await;
}

#[tokio::test]
async fn nothing_is_stored_and_no_name_is_given_out_twice() {
    let site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    let before = site.state();
    let (first, _) = site.group_id(&alice).await;
    let (second, _) = site.group_id(&alice).await;
    assert_ne!(first, second);
    assert!(before.changed_in(&site.state()).is_empty());
    site.end().await;
}
