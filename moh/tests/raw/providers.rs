//! Who sent a request: signatures of providers and of clients, and requests that come again.

use moh_messages::client_api::{
    Boolean, ClientRequest, ClientRequestBody, ClientResponse, Forward, GetQueueConfigs, PATH,
    ReadQueue, Register, SetConsent, UploadKeyPackages,
};
use moh_messages::{
    DsAuth, DsRequest, DsRequestBody, DsResponseBody, Endpoint, GroupKeyPackageRequest, KeyId,
    KeyPackageResponse, List, Message, Nonce, Opaque, PublicKey, Signature, SignatureScheme,
    UserKeyPackageStatus,
};

use crate::common::answer::Answer;
use crate::common::device::{Device, new_key};
use crate::common::member::{encoded, key_package};
use crate::common::now_ms;
use crate::common::peer::{Peer, auth_of};
use crate::common::scene::{Scene, changed};
use crate::common::server::Server;

const MINUTE_MS: u64 = 60_000;

async fn operate(server: &Server, request: &[u8]) -> Answer {
    server.http().post("/group_operation", request).await
}

#[tokio::test]
async fn a_bad_provider_signature_is_unauthenticated() {
    let server = Server::start("a.example").await;
    let mut peer = Peer::of(&server).await;
    let endpoint = Endpoint::GroupOperation;
    let request = || peer.request_group_id(&server.name);
    let good = peer.signed(endpoint, request());
    assert!(matches!(
        operate(&server, &good).await.done(),
        DsResponseBody::GroupId { .. }
    ));

    let mut bad = Vec::new();
    // A bit of the signature, of what is signed, and none at all.
    let mut flipped = peer.signed(endpoint, request());
    *flipped.last_mut().unwrap() ^= 1;
    bad.push(flipped);
    let other_nonce = peer.signed(endpoint, request());
    bad.push(changed(&other_nonce, |request: &mut DsRequest| {
        auth_of(request).nonce = Nonce::new([9; 16]).unwrap();
    }));
    bad.push(request().encode());
    // A signature for another path.
    bad.push(peer.signed(Endpoint::WelcomeInformation, request()));
    // Nobody says who signed.
    let mut anonymous = request();
    anonymous.auth = DsAuth::Anonymous;
    bad.push(anonymous.encode());
    // Another key: under the provider's own key_id, and under its own, which nobody knows.
    let (mut under_ours, mut unknown) = (request(), request());
    auth_of(&mut unknown).key_id = KeyId::new([1; 32]).unwrap();
    auth_of(&mut under_ours).key_id = peer.key_id.clone();
    bad.push(peer.signed(endpoint, unknown.clone()));
    peer.signer = new_key();
    bad.push(peer.signed(endpoint, under_ours));
    bad.push(peer.signed(endpoint, unknown));
    for request in &bad {
        operate(&server, request)
            .await
            .refused(403, "unauthenticated");
    }
}

#[tokio::test]
async fn a_client_of_another_provider_cannot_be_spoken_for() {
    let (a, b) = Server::start_two().await;
    let (ours, peer) = (Peer::of(&a).await, Peer::of(&b).await);
    let endpoint = Endpoint::GroupOperation;
    // `a` says that it asks for a client of `b`.
    let mut request = ours.request_group_id(&a.name);
    let DsAuth::Provider { on_behalf_of, .. } = &mut request.auth else {
        unreachable!()
    };
    *on_behalf_of = "mimi://b.example/d/bob/phone".parse().unwrap();
    let answer = operate(&a, &ours.signed(endpoint, request)).await;
    answer.refused(403, "unauthenticated");
    // `b` may speak for them, and has its groups at home.
    let answer = operate(&a, &peer.signed(endpoint, peer.request_group_id(&a.name))).await;
    answer.refused(403, "unauthenticated");
    let mut request = peer.group_key_packages(&a.name);
    request.requester = "mimi://a.example/u/alice".parse().unwrap();
    ask_for_key_packages(&a, &peer, request)
        .await
        .refused(403, "unauthenticated");
}

async fn ask_for_key_packages(
    server: &Server,
    peer: &Peer,
    request: GroupKeyPackageRequest,
) -> Answer {
    let endpoint = Endpoint::GroupKeyPackages;
    let request = peer.signed(endpoint, request);
    server.http().post(endpoint.path(), &request).await
}

#[tokio::test]
async fn keys_of_another_provider_are_fetched_from_where_it_is() {
    let (a, b) = Server::start_two().await;
    let mut peer = Peer::of(&b).await;
    let request = peer.group_key_packages(&a.name);
    let answer = ask_for_key_packages(&a, &peer, request).await;
    let response: KeyPackageResponse = answer.message(200);
    assert_eq!(response.users[0].status, UserKeyPackageStatus::NoConsent);
    // A key of `b` that `a` has not heard of may be new; it has just asked.
    let mut request = peer.group_key_packages(&a.name);
    request.provider_auth.key_id = KeyId::new([1; 32]).unwrap();
    let answer = ask_for_key_packages(&a, &peer, request).await;
    answer.refused(503, "unavailable");
    // Nobody knows where this one is.
    let name = std::mem::replace(&mut peer.name, "nowhere.invalid".parse().unwrap());
    let request = peer.group_key_packages(&a.name);
    let answer = ask_for_key_packages(&a, &peer, request).await;
    answer.refused(503, "unavailable");
    // Somebody says to be `b`.
    peer.name = name;
    peer.signer = new_key();
    let request = peer.group_key_packages(&a.name);
    let answer = ask_for_key_packages(&a, &peer, request).await;
    answer.refused(403, "unauthenticated");
}

#[tokio::test]
async fn a_request_of_a_provider_counts_once_and_in_time() {
    let server = Server::start("a.example").await;
    let peer = Peer::of(&server).await;
    let endpoint = Endpoint::GroupOperation;
    let request = peer.signed(endpoint, peer.request_group_id(&server.name));
    operate(&server, &request).await.done();
    for _ in 0..2 {
        let before = now_ms();
        let error = operate(&server, &request).await.refused(403, "replayed");
        let told = u64::decode(error.data.as_slice()).unwrap();
        assert!((before..=now_ms()).contains(&told), "the receiver's time");
    }
    for offset in [-6, 6] {
        let mut request = peer.request_group_id(&server.name);
        let time = &mut auth_of(&mut request).timestamp;
        *time = time.wrapping_add_signed(offset * 60_000);
        let answer = operate(&server, &peer.signed(endpoint, request)).await;
        answer.refused(403, "replayed");
    }
    // A bad signature uses up no nonce: the good one with it is taken.
    let good = peer.signed(endpoint, peer.request_group_id(&server.name));
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    operate(&server, &bad).await.refused(403, "unauthenticated");
    operate(&server, &good).await.done();
}

#[tokio::test]
async fn what_would_do_harm_twice_is_not_taken_again_after_a_restart() {
    let mut server = Server::start("a.example").await;
    let peer = Peer::of(&server).await;
    let alice = Device::register(&server, "alice/phone").await;
    let endpoint = Endpoint::GroupKeyPackages;
    let by_provider = peer.signed(endpoint, peer.group_key_packages(&server.name));
    let consent = |allowed| {
        let peer = "mimi://b.example/u/bob".parse().unwrap();
        ClientRequestBody::SetConsent(SetConsent { peer, allowed })
    };
    let by_client = alice.request(consent(Boolean::True)).encode();
    let at = endpoint.path();
    let answer = server.http().post(at, &by_provider).await;
    answer.message::<KeyPackageResponse>(200);
    let answer = alice.http.post(PATH, &by_client).await;
    answer.message::<ClientResponse>(200);
    // Signed, and not sent before the end.
    let (late, by_late) = (
        peer.signed(endpoint, peer.group_key_packages(&server.name)),
        alice.request(consent(Boolean::False)).encode(),
    );
    server.kill().await;
    server.restart().await;
    let http = server.http();
    for _ in 0..2 {
        let again = http.post(at, &by_provider).await;
        again.refused(403, "replayed");
        let again = http.post(PATH, &by_client).await;
        again.refused(403, "replayed");
    }
    let answer = http.post(at, &late).await;
    answer.message::<KeyPackageResponse>(200);
    let answer = http.post(PATH, &by_late).await;
    answer.message::<ClientResponse>(200);
}

#[tokio::test]
async fn a_client_is_who_has_its_key() {
    let server = Server::start("a.example").await;
    let mut alice = Device::register(&server, "alice/phone").await;
    let get = || ClientRequestBody::GetQueueConfigs(GetQueueConfigs { count: 1 });
    let request = alice.request(get()).encode();
    let http = server.http();
    http.post(PATH, &request)
        .await
        .message::<ClientResponse>(200);
    http.post(PATH, &request).await.refused(403, "replayed");
    let old = changed(&alice.request(get()).encode(), |r: &mut ClientRequest| {
        r.timestamp -= 6 * MINUTE_MS;
    });
    http.post(PATH, &old).await.refused(403, "unauthenticated");

    let read = |wait_ms| {
        ClientRequestBody::ReadQueue(ReadQueue {
            cursor: Opaque::empty(),
            wait_ms,
        })
    };
    let empty = changed(&alice.request(read(0)).encode(), |r: &mut ClientRequest| {
        r.signature = Signature::empty();
    });
    http.post(PATH, &empty)
        .await
        .refused(403, "unauthenticated");
    let nobody = changed(&alice.request(read(0)).encode(), |r: &mut ClientRequest| {
        r.client = "mimi://a.example/d/nobody/phone".parse().unwrap();
    });
    let refused = http.post(PATH, &nobody).await;
    refused.refused(403, "unauthenticated");
    alice.signer = new_key();
    let forged = alice.ask(read(0)).await;
    forged.refused(403, "unauthenticated");
    assert_eq!(
        forged.everything(),
        refused.everything(),
        "who exists is not told"
    );
}

#[tokio::test]
async fn a_name_belongs_to_the_first_key() {
    let server = Server::start("a.example").await;
    let mut alice = Device::register(&server, "alice/phone").await;
    let register = |device: &Device| {
        ClientRequestBody::Register(Register {
            scheme: SignatureScheme::ED25519,
            signature_key: PublicKey::new(device.signer.public()).unwrap(),
            authorization: None,
            invitation: Opaque::empty(),
        })
    };
    // Again with the same key is fine; with another one, or a second client without the word of
    // the first, is not.
    let again = alice.ask(register(&alice)).await;
    again.message::<ClientResponse>(200);
    let old = std::mem::replace(&mut alice.signer, new_key());
    alice
        .ask(register(&alice))
        .await
        .refused(403, "unauthorized");
    alice.client = "mimi://a.example/d/alice/laptop".parse().unwrap();
    alice
        .ask(register(&alice))
        .await
        .refused(403, "unauthorized");
    alice.client = "mimi://b.example/d/alice/phone".parse().unwrap();
    let mut abroad = alice.request(register(&alice));
    abroad.recipient = server.name.clone();
    let bytes = abroad.encode();
    server
        .http()
        .post(PATH, &bytes)
        .await
        .refused(403, "unauthenticated");
    alice.client = "mimi://a.example/d/alice/phone".parse().unwrap();
    alice.signer = old;
    assert_eq!(alice.queue_configs(1).await.len(), 1);
    let laptop = Device::register_beside(&server, "alice/laptop", &alice).await;
    assert_eq!(laptop.queue_configs(1).await.len(), 1);
}

#[tokio::test]
async fn key_packages_of_others_are_not_taken() {
    let server = Server::start("a.example").await;
    let alice = Device::register(&server, "alice/phone").await;
    let bob = Device::register(&server, "bob/phone").await;
    let (hers, his) = (alice.queue_configs(1).await, bob.queue_configs(1).await);
    let upload = async |bytes| {
        let key_packages = List::new(vec![bytes]).unwrap();
        let replace = Boolean::False;
        let upload = UploadKeyPackages {
            replace,
            key_packages,
        };
        alice
            .ask(ClientRequestBody::UploadKeyPackages(upload))
            .await
    };
    let of_bob = key_package(&bob, &bob.attestation, &his[0]);
    let answer = upload(encoded(&of_bob)).await;
    answer.refused(422, "invalid_key_package");
    let to_bob = key_package(&alice, &alice.attestation, &his[0]);
    let answer = upload(encoded(&to_bob)).await;
    answer.refused(422, "invalid_key_package");
    let as_bob = key_package(&alice, &bob.attestation, &hers[0]);
    let answer = upload(encoded(&as_bob)).await;
    answer.refused(403, "unauthenticated");
    let good = encoded(&key_package(&alice, &alice.attestation, &hers[0]));
    let mut bad = good.as_slice().to_vec();
    *bad.last_mut().unwrap() ^= 1;
    let answer = upload(Opaque::new(bad).unwrap()).await;
    answer.refused(422, "invalid_key_package");
    alice.consent(bob.user()).await;
    upload(good).await.message::<ClientResponse>(200);
    assert_eq!(bob.key_packages_of(&alice.user()).await.len(), 1);
}

#[tokio::test]
async fn a_client_cannot_have_forwarded_what_is_not_its_own() {
    let mut scene = Scene::set().await;
    let us = scene.server.name.clone();
    let peer = Peer::of(&scene.server).await;
    let forward = |endpoint, request: Vec<u8>| {
        ClientRequestBody::Forward(Forward {
            destination: us.clone(),
            endpoint,
            request: Opaque::new(request).unwrap(),
        })
    };
    let endpoint = Endpoint::GroupOperation;
    let alice = &scene.alice.device;
    let mut request = peer.request_group_id(&us);
    *auth_of(&mut request) = moh_messages::ProviderAuth::blank();
    let answer = alice.ask(forward(endpoint, request.encode())).await;
    answer.refused(403, "unauthorized");
    let DsAuth::Provider {
        on_behalf_of,
        provider_auth,
    } = &mut request.auth
    else {
        unreachable!()
    };
    *on_behalf_of = alice.client.clone();
    // That a client is deleted is for its provider to say, of its own accord.
    let mut deleted = peer.request_group_id(&us);
    deleted.body = DsRequestBody::ClientDeleted;
    deleted.auth = DsAuth::Provider {
        on_behalf_of: alice.client.clone(),
        provider_auth: moh_messages::ProviderAuth::blank(),
    };
    let answer = alice.ask(forward(endpoint, deleted.encode())).await;
    answer.refused(403, "unauthorized");
    provider_auth.timestamp = 1;
    let answer = alice.ask(forward(endpoint, request.encode())).await;
    answer.refused(422, "policy_violation");
    for endpoint in [Endpoint::DeliverMessage, Endpoint::ConnectionRequest] {
        let answer = alice.ask(forward(endpoint, request.encode())).await;
        answer.refused(403, "unauthorized");
    }
    let mut request = peer.request_group_id(&us);
    request.recipient = "b.example".parse().unwrap();
    let answer = alice.ask(forward(endpoint, request.encode())).await;
    answer.refused(421, "wrong_recipient");
    scene.assert_unchanged().await;
}
