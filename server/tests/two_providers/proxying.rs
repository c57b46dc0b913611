//! What a client asks of another provider goes through its own, which hands back the answer.

use moh_messages::client_api::ClientRequestBody;
use moh_messages::{
    CipherSuite, ConnectionKeyPackageRequest, DsAuth, DsErrorCode, DsProtocolVersion, DsRequest,
    DsRequestBody, DsResponse, DsResponseBody, Endpoint, ExternalCommitInfo, GroupId,
    GroupKeyPackageRequest, KeyPackageResponse, List, Message, Nonce, Opaque, ProviderAuth,
    ProviderName, RequestGroupId, Signature, UserKeyPackageStatus, VerificationKeyRequest,
    VerificationKeyResponse,
};

use crate::listen::{hear_some, joined};
use crate::raw::{Raw, forward, random};
use crate::world::{Provider, World, user_id};

fn name(provider: &str) -> ProviderName {
    provider.parse().unwrap()
}

/// What a provider answers to whoever asks it directly.
async fn directly(provider: &Provider, endpoint: Endpoint, body: &[u8]) -> (u16, Vec<u8>) {
    let body = bytes::Bytes::copy_from_slice(body);
    let answer = provider.node().answer(endpoint, body).await;
    (answer.status, answer.body)
}

/// The type of an answer, where it is one of the owner of a group.
fn answer(body: &[u8]) -> DsResponseBody {
    DsResponse::decode(body).unwrap().body
}

fn refused_with(body: &[u8]) -> DsErrorCode {
    match answer(body) {
        DsResponseBody::Error(error) => error.code,
        other => panic!("{other:?}"),
    }
}

/// A request of a client of b.example to a.example.
fn ds_request(body: DsRequestBody, auth: DsAuth) -> DsRequest {
    DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: name("b.example"),
        recipient: name("a.example"),
        group_state_key: Opaque::empty(),
        body,
        auth,
    }
}

fn group_name() -> DsRequestBody {
    DsRequestBody::RequestGroupId(RequestGroupId {
        cipher_suite: CipherSuite::X25519_AES128GCM_ED25519,
    })
}

fn info() -> DsRequestBody {
    let group_id = GroupId::new(vec![7; 32]).unwrap();
    DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id })
}

/// On behalf of a client, for its provider to sign.
fn for_client(client: &str, auth: ProviderAuth) -> DsAuth {
    DsAuth::Provider {
        on_behalf_of: client.parse().unwrap(),
        provider_auth: auth,
    }
}

fn filled() -> ProviderAuth {
    ProviderAuth {
        nonce: Nonce::new(random()).unwrap(),
        ..ProviderAuth::blank()
    }
}

fn for_groups(sender: &str, requester: &str, auth: ProviderAuth) -> Vec<u8> {
    let request = GroupKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: name(sender),
        recipient: name("a.example"),
        requester: user_id(requester),
        targets: List::new(vec![user_id("alice@a.example")]).unwrap(),
        clients: List::empty(),
        cipher_suites: List::new(vec![CipherSuite::X25519_AES128GCM_ED25519]).unwrap(),
        connection_token: Opaque::empty(),
        provider_auth: auth,
    };
    request.encode()
}

fn for_connections(sender: &str, requester: &str, auth: ProviderAuth) -> Vec<u8> {
    let request = ConnectionKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: name(sender),
        recipient: name("a.example"),
        requester: user_id(requester),
        target: user_id("alice@a.example"),
        cipher_suites: List::new(vec![CipherSuite::X25519_AES128GCM_ED25519]).unwrap(),
        provider_auth: auth,
    };
    request.encode()
}

/// What Bob's client signs itself leaves as it is, and the answer comes back as it is: those that
/// are `ok`, and those that are not.
#[tokio::test]
async fn the_same_bytes_as_asked_directly() {
    let world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let group = world.group(&alice, &[&bob]).await;
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    bob.send(&group, "hello").await.unwrap();
    let (a, b) = (world.provider("a.example"), world.provider("b.example"));
    let raw = Raw::user(b, "raw@b.example").await;

    // By a leaf, and by a KeyPackage: what Bob has asked, once more.
    let mut bodies = Vec::new();
    for endpoint in [Endpoint::GroupOperation, Endpoint::WelcomeInformation] {
        for body in b.wire.bodies("a.example", endpoint) {
            bodies.push((endpoint, body));
        }
    }
    let kinds: Vec<_> = bodies
        .iter()
        .map(|(_, body)| DsRequest::decode(body).unwrap().body.name())
        .collect();
    assert_eq!(kinds, ["send_message", "welcome_info"]);
    let mut results = Vec::new();
    for (endpoint, body) in &bodies {
        results.push((*endpoint, body.clone(), true));
        // Signed by nobody.
        let mut request = DsRequest::decode(body).unwrap();
        match &mut request.auth {
            DsAuth::Leaf { signature, .. } | DsAuth::KeyPackage { signature, .. } => {
                *signature = Signature::new(vec![7; 64]).unwrap();
            }
            other => panic!("{other:?}"),
        }
        results.push((*endpoint, request.encode(), false));
    }
    for (endpoint, body, is_good) in results {
        let before = b.wire.bodies("a.example", endpoint).len();
        let forwarded = raw.forwards(b, "a.example", endpoint, &body).await.unwrap();
        let sent = b.wire.bodies("a.example", endpoint).split_off(before);
        assert_eq!(sent, std::slice::from_ref(&body), "it leaves as it is");
        assert_eq!(forwarded.1, b.wire.last_answer(), "it comes back as it is");
        let expected = directly(a, endpoint, &body).await;
        match (answer(&forwarded.1), answer(&expected.1)) {
            // With the keys come times, which go on.
            (
                DsResponseBody::WelcomeInfo { ratchet_tree, .. },
                DsResponseBody::WelcomeInfo {
                    ratchet_tree: tree, ..
                },
            ) => assert_eq!((is_good, ratchet_tree), (true, tree)),
            _ => assert_eq!(forwarded, expected),
        }
        match is_good {
            true => assert_eq!(forwarded.0, 200),
            false => assert_eq!(refused_with(&forwarded.1), DsErrorCode::UNKNOWN_GROUP),
        }
    }
    // At its own provider too.
    let body = b
        .wire
        .bodies("a.example", Endpoint::GroupOperation)
        .remove(0);
    let own = Raw::user(a, "own@a.example").await;
    let mut request = DsRequest::decode(&body).unwrap();
    request.sender = name("a.example");
    let body = request.encode();
    let endpoint = Endpoint::GroupOperation;
    let forwarded = own.forwards(a, "a.example", endpoint, &body).await.unwrap();
    assert_eq!(forwarded, directly(a, endpoint, &body).await);
    world.end().await;
}

#[tokio::test]
async fn keys_of_another_provider() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (a, b) = (world.provider("a.example"), world.provider("b.example"));
    let raw = Raw::user(b, "raw@b.example").await;
    let body = VerificationKeyRequest {
        version: DsProtocolVersion::MOH1,
        recipient: name("a.example"),
    }
    .encode();
    let endpoint = Endpoint::VerificationKey;
    for body in [body.as_slice(), &[]] {
        let forwarded = raw.forwards(b, "a.example", endpoint, body).await.unwrap();
        assert_eq!((forwarded.0, &forwarded.1), (200, &b.wire.last_answer()));
        let response = VerificationKeyResponse::decode(&forwarded.1).unwrap();
        let (_, expected) = directly(a, endpoint, body).await;
        let expected = VerificationKeyResponse::decode(&expected).unwrap();
        // But for times, which go on.
        assert_eq!(response.provider, expected.provider);
        let keys = |response: &VerificationKeyResponse| {
            let keys = response.keys.iter().map(|key| key.public_key.clone());
            keys.collect::<Vec<_>>()
        };
        assert_eq!(keys(&response), keys(&expected));
    }
    // It is for those, and nothing else leaves by it.
    let before = b.wire.requests("a.example");
    let what = "something else";
    let malformed = DsErrorCode::MALFORMED;
    let body = [body, vec![0]].concat();
    raw.is_refused(b, what, malformed, forward("a.example", endpoint, &body))
        .await;
    let to_b = VerificationKeyRequest {
        version: DsProtocolVersion::MOH1,
        recipient: name("b.example"),
    };
    let wrong = DsErrorCode::WRONG_RECIPIENT;
    raw.is_refused(
        b,
        what,
        wrong,
        forward("a.example", endpoint, &to_b.encode()),
    )
    .await;
    assert_eq!(b.wire.requests("a.example"), before);
    world.end().await;
}

/// What a provider signs for its client: the answer is the destination's.
#[tokio::test]
async fn what_the_provider_signs() {
    let world = World::of(&["a.example", "b.example"]).await;
    let b = world.provider("b.example");
    let raw = Raw::user(b, "raw@b.example").await;
    let client = raw.id.as_str();
    let request = ds_request(info(), for_client(client, ProviderAuth::blank()));
    let endpoint = Endpoint::ExternalCommitInformation;
    let (status, body) = raw
        .forwards(b, "a.example", endpoint, &request.encode())
        .await
        .unwrap();
    let code = DsErrorCode::UNKNOWN_GROUP;
    assert_eq!(
        (Some(status), refused_with(&body)),
        (code.http_status(), code)
    );
    let sent = b.wire.bodies("a.example", endpoint).pop().unwrap();
    let sent = DsRequest::decode(&sent).unwrap();
    let DsAuth::Provider { provider_auth, .. } = &sent.auth else {
        panic!("{sent:?}");
    };
    assert!(!provider_auth.is_blank());
    // Who asks for KeyPackages of somebody unknown is answered by their provider.
    let requester = "raw@b.example";
    for (endpoint, body, status) in [
        (
            Endpoint::GroupKeyPackages,
            for_groups("b.example", requester, ProviderAuth::blank()),
            UserKeyPackageStatus::NoConsent,
        ),
        (
            Endpoint::ConnectionKeyPackages,
            for_connections("b.example", requester, ProviderAuth::blank()),
            UserKeyPackageStatus::NothingCompatible,
        ),
    ] {
        let answer = raw.forwards(b, "a.example", endpoint, &body).await.unwrap();
        assert_eq!(answer.0, 200);
        let response = KeyPackageResponse::decode(&answer.1).unwrap();
        assert_eq!(response.users[0].status, status);
    }
    world.end().await;
}

/// A request that is not the client's is refused, and nothing leaves.
#[tokio::test]
async fn requests_that_are_not_the_clients() {
    let world = World::of(&["a.example", "b.example"]).await;
    let b = world.provider("b.example");
    let raw = Raw::user(b, "raw@b.example").await;
    let other = Raw::user(b, "other@b.example").await;
    let unauthorized = DsErrorCode::UNAUTHORIZED;
    let before = b.wire.requests("a.example");
    let own = raw.id.as_str();
    let blank = ProviderAuth::blank;
    let mut refusals: Vec<(&str, DsErrorCode, ClientRequestBody)> = Vec::new();
    let operation = Endpoint::GroupOperation;
    let mut add = |what, code, endpoint, body: Vec<u8>| {
        refusals.push((what, code, forward("a.example", endpoint, &body)));
    };
    for client in [
        other.id.as_str(),
        "mimi://b.example/d/raw/laptop",
        "mimi://a.example/d/raw/phone",
    ] {
        let request = ds_request(group_name(), for_client(client, blank()));
        add(client, unauthorized, operation, request.encode());
        let request = ds_request(info(), for_client(client, blank()));
        let endpoint = Endpoint::ExternalCommitInformation;
        add(client, unauthorized, endpoint, request.encode());
    }
    let mut request = ds_request(group_name(), for_client(own, blank()));
    request.sender = name("a.example");
    let what = "another sender";
    add(what, unauthorized, operation, request.encode());
    request.auth = DsAuth::Leaf {
        leaf_index: 0,
        signature: Signature::new(vec![7; 64]).unwrap(),
    };
    let what = "another sender, by a leaf";
    add(what, unauthorized, operation, request.encode());
    let request = ds_request(DsRequestBody::ClientDeleted, for_client(own, blank()));
    let what = "only providers say that";
    add(what, unauthorized, operation, request.encode());
    let policy = DsErrorCode::POLICY_VIOLATION;
    let request = ds_request(group_name(), for_client(own, filled()));
    add("filled in", policy, operation, request.encode());
    let mut request = ds_request(group_name(), for_client(own, blank()));
    request.recipient = name("c.example");
    let wrong = DsErrorCode::WRONG_RECIPIENT;
    add("another recipient", wrong, operation, request.encode());
    for (what, code, body) in refusals {
        raw.is_refused(b, what, code, body).await;
    }
    assert_eq!(b.wire.requests("a.example"), before);
    world.end().await;
}

/// Likewise for KeyPackages, and for what only providers ask.
#[tokio::test]
async fn key_packages_for_somebody_else() {
    let world = World::of(&["a.example", "b.example"]).await;
    let b = world.provider("b.example");
    let raw = Raw::user(b, "raw@b.example").await;
    let (unauthorized, policy) = (DsErrorCode::UNAUTHORIZED, DsErrorCode::POLICY_VIOLATION);
    let before = b.wire.requests("a.example");
    let blank = ProviderAuth::blank;
    let mut refusals: Vec<(&str, DsErrorCode, ClientRequestBody)> = Vec::new();
    let mut add = |what, code, endpoint, body: Vec<u8>| {
        refusals.push((what, code, forward("a.example", endpoint, &body)));
    };
    for (endpoint, body) in [
        (
            Endpoint::GroupKeyPackages,
            for_groups as fn(&str, &str, ProviderAuth) -> Vec<u8>,
        ),
        (Endpoint::ConnectionKeyPackages, for_connections),
    ] {
        for (what, sender, requester) in [
            ("for another user", "b.example", "other@b.example"),
            (
                "for a user of another provider",
                "b.example",
                "raw@a.example",
            ),
            ("by another sender", "a.example", "raw@b.example"),
        ] {
            add(
                what,
                unauthorized,
                endpoint,
                body(sender, requester, blank()),
            );
        }
        let filled = body("b.example", "raw@b.example", filled());
        add("filled in", policy, endpoint, filled);
        add("not one", DsErrorCode::MALFORMED, endpoint, vec![0, 1]);
    }
    for endpoint in [Endpoint::DeliverMessage, Endpoint::ConnectionRequest] {
        add("a delivery", unauthorized, endpoint, Vec::new());
    }
    for (what, code, body) in refusals {
        raw.is_refused(b, what, code, body).await;
    }
    assert_eq!(b.wire.requests("a.example"), before);
    world.end().await;
}

#[tokio::test]
async fn a_provider_that_is_not_there() {
    let mut world = World::of(&["a.example", "b.example"]).await;
    world.provider_mut("a.example").unplug().await;
    let b = world.provider("b.example");
    let raw = Raw::user(b, "raw@b.example").await;
    let body = for_groups("b.example", "raw@b.example", ProviderAuth::blank());
    let endpoint = Endpoint::GroupKeyPackages;
    let unavailable = DsErrorCode::UNAVAILABLE;
    let what = "nobody answers";
    raw.is_refused(b, what, unavailable, forward("a.example", endpoint, &body))
        .await;
    world.end().await;
}
