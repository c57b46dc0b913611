//! KeyPackages: which are taken, who gets them, and what is learned of people by asking for them.

use moh_messages::client_api::{
    BlockTarget, Boolean, ClientRequestBody, ClientResponseBody, DeleteAccount, Forward, SetBlock,
};
use moh_messages::{
    AddMembers, Attestation, ClientKeyPackageStatus, DsRequestBody, Endpoint, KeyPackageBytes,
    KeyPackageResponse, Message, Opaque, ProviderAuth, ProviderName, SignedLast, UserId,
    UserKeyPackageStatus, UserKeyPackages, label,
};
use openmls_rust_crypto::OpenMlsRustCrypto;

use crate::common::answer::Answer;
use crate::common::device::{Device, sign};
use crate::common::member::{
    Member, connection_key_package, decoded, encoded, key_package, request_group_id,
};
use crate::common::now_ms;
use crate::common::peer::Peer;
use crate::common::scene::{Scene, invite};
use crate::common::server::Server;

/// Attestations of a client of `a` that are none: one is over, and one is the word of `b`.
async fn bad_attestations(a: &Server, b: &Server, device: &Device) -> [Attestation; 2] {
    let (ours, other) = (Peer::of(a).await, Peer::of(b).await);
    let by = |peer: &Peer, mut attestation: Attestation| {
        attestation.key_id = peer.key_id.clone();
        let tbs = attestation.to_be_signed();
        attestation.signature = sign(&peer.signer, label::ATTESTATION, &tbs);
        attestation
    };
    let mut over = device.attestation.clone();
    over.not_after = now_ms() - 1;
    [by(&ours, over), by(&other, device.attestation.clone())]
}

/// How many KeyPackages are left of a user's only client, for groups and for connection groups.
async fn left(device: &Device) -> (u32, u32) {
    let clients = device.clients().await;
    assert_eq!(clients.len(), 1);
    (clients[0].key_packages, clients[0].connection_key_packages)
}

#[tokio::test]
async fn a_key_package_that_is_not_taken_takes_the_others_with_it() {
    let (a, b) = Server::start_two().await;
    let bob = Device::register(&a, "bob/phone").await;
    let alice = invite(&a, "alice/phone", &bob).await;
    let used = bob.key_packages_of(&alice.user()).await.remove(0);
    let queue = alice.queue_configs(1).await.remove(0);
    let fresh = || encoded(&key_package(&alice, &alice.attestation, &queue));
    let his_queue = bob.queue_configs(1).await.remove(0);
    let of_bob = encoded(&key_package(&bob, &bob.attestation, &his_queue));
    let bad = bad_attestations(&a, &b, &alice).await;
    let [over, foreign] = bad.map(|bad| encoded(&key_package(&alice, &bad, &queue)));
    assert_eq!(left(&alice).await, (0, 0));
    let good = fresh();
    for (bad, status, code) in [
        (used, 422, "invalid_key_package"),
        (of_bob, 422, "invalid_key_package"),
        (over, 403, "unauthenticated"),
        (foreign, 403, "unauthenticated"),
    ] {
        for batch in [vec![good.clone(), bad.clone()], vec![bad]] {
            alice.try_to_upload(batch).await.refused(status, code);
        }
    }
    let mut server = a;
    server.kill().await;
    server.restart().await;
    assert_eq!(left(&alice).await, (0, 0));
    // The good one was never taken; then it is, and handed out, and not taken again.
    alice.upload(vec![good.clone()]).await;
    assert_eq!(left(&alice).await, (1, 0));
    let fetched = bob.key_packages_of(&alice.user()).await;
    assert_eq!(fetched, std::slice::from_ref(&good));
    server.kill().await;
    server.restart().await;
    let again = alice.try_to_upload(vec![good]).await;
    again.refused(422, "invalid_key_package");
}

#[tokio::test]
async fn a_group_is_not_made_with_an_attestation_that_is_none() {
    let (a, b) = Server::start_two().await;
    let alice = Device::register(&a, "alice/phone").await;
    let (group_id, ds_sender) = request_group_id(&alice).await;
    let good = alice.attestation.clone();
    let mut device = alice;
    let post = async |request: &[u8]| {
        let path = Endpoint::GroupOperation.path();
        a.http().post(path, request).await
    };
    for bad in bad_attestations(&a, &b, &device).await {
        device.attestation = bad;
        let made = Member::create_as(device, a.name.clone(), &group_id, &ds_sender).await;
        post(&made.1).await.refused(403, "unauthenticated");
        device = made.0.device;
        device.mls = OpenMlsRustCrypto::default();
    }
    // Its name was not used up.
    device.attestation = good;
    let made = Member::create_as(device, a.name.clone(), &group_id, &ds_sender).await;
    assert_eq!(post(&made.1).await.ok().0, 0);
}

/// What a provider, or the client of one, was told about one user.
fn about(answer: &Answer, user: &UserId) -> UserKeyPackages {
    let response: KeyPackageResponse = answer.message(200);
    let [about] = &response.users[..] else {
        panic!("{response:?}");
    };
    assert_eq!(about.user, *user);
    about.clone()
}

/// The KeyPackages in an answer.
fn key_packages(about: &UserKeyPackages) -> Vec<KeyPackageBytes> {
    let package = |status: &ClientKeyPackageStatus| match status {
        ClientKeyPackageStatus::Success { key_package } => Some(key_package.clone()),
        _ => None,
    };
    let clients = about.clients.iter();
    clients.filter_map(|c| package(&c.status)).collect()
}

/// What a provider is told that asks for KeyPackages of a user, for Alice, its user.
async fn ask(server: &Server, peer: &Peer, endpoint: Endpoint, target: &UserId) -> Answer {
    let request = if endpoint == Endpoint::GroupKeyPackages {
        let mut request = peer.group_key_packages(&server.name);
        request.targets = vec![target.clone()].try_into().unwrap();
        peer.signed(endpoint, request)
    } else {
        let mut request = peer.connection_key_packages(&server.name);
        request.target = target.clone();
        peer.signed(endpoint, request)
    };
    server.http().post(endpoint.path(), &request).await
}

const BOTH: [Endpoint; 2] = [Endpoint::GroupKeyPackages, Endpoint::ConnectionKeyPackages];

#[tokio::test]
async fn key_packages_for_connections_are_kept_apart() {
    let mut scene = Scene::set().await;
    let carol = invite(&scene.server, "carol/phone", &scene.alice.device).await;
    let peer = Peer::of(&scene.server).await;
    let queue = carol.queue_configs(1).await.remove(0);
    let marked = connection_key_package(&carol, &queue);
    carol.upload(vec![encoded(&marked)]).await;
    assert_eq!(left(&carol).await, (1, 1));
    // Each is handed out at its endpoint, once, and never at the other.
    let mut handed_out = Vec::new();
    for endpoint in BOTH {
        let answer = ask(&scene.server, &peer, endpoint, &carol.user()).await;
        let first = about(&answer, &carol.user());
        assert_eq!(first.status, UserKeyPackageStatus::Success);
        handed_out.extend(key_packages(&first));
        let answer = ask(&scene.server, &peer, endpoint, &carol.user()).await;
        let second = about(&answer, &carol.user());
        assert_eq!(second.status, UserKeyPackageStatus::NothingCompatible);
        assert_eq!(second.clients[0].status, ClientKeyPackageStatus::Exhausted);
    }
    assert_eq!(handed_out.len(), 2);
    assert_eq!(handed_out[1], encoded(&marked));
    assert_eq!(left(&carol).await, (0, 0));
    // A member may not add anybody with it to a regular group.
    let add = |scene: &mut Scene, bytes: &KeyPackageBytes| -> AddMembers {
        let key_package = decoded(&scene.alice.device, bytes);
        scene.alice.add(vec![key_package])
    };
    let marked = add(&mut scene, &handed_out[1]);
    scene.alice.discard();
    let request = scene.alice.signed(DsRequestBody::AddUsers(marked));
    let answer = scene.operate(&request).await;
    answer.refused(422, "policy_violation");
    assert_eq!(carol.read(0).await, []);
    scene.assert_unchanged().await;
    let regular = add(&mut scene, &handed_out[0]);
    scene.alice.discard();
    let request = scene.alice.signed(DsRequestBody::AddUsers(regular));
    scene.operate(&request).await.ok();
}

#[tokio::test]
async fn nobody_asks_for_users_of_others() {
    let (a, b) = Server::start_two().await;
    let peer = Peer::of(&b).await;
    let alice = Device::register(&a, "alice/phone").await;
    let bob = invite(&a, "bob/phone", &alice).await;
    // A provider for a user of another one: of this, or of a third.
    for requester in [alice.user(), "mimi://c.example/u/alice".parse().unwrap()] {
        let mut request = peer.group_key_packages(&a.name);
        request.requester = requester.clone();
        let bytes = peer.signed(Endpoint::GroupKeyPackages, request);
        let answer = a.http().post(BOTH[0].path(), &bytes).await;
        answer.refused(403, "unauthenticated");
        let mut request = peer.connection_key_packages(&a.name);
        request.requester = requester;
        let bytes = peer.signed(Endpoint::ConnectionKeyPackages, request);
        let answer = a.http().post(BOTH[1].path(), &bytes).await;
        answer.refused(403, "unauthenticated");
    }
    // And of users that are not here.
    for endpoint in BOTH {
        let abroad = "mimi://b.example/u/bob".parse().unwrap();
        let answer = ask(&a, &peer, endpoint, &abroad).await;
        answer.refused(422, "policy_violation");
    }
    // A client for another user of its provider, or of another one.
    let ours = Peer::of(&a).await;
    for requester in [bob.user(), "mimi://b.example/u/alice".parse().unwrap()] {
        let mut for_groups = ours.group_key_packages(&a.name);
        let mut to_connect = ours.connection_key_packages(&a.name);
        for_groups.requester = requester.clone();
        for_groups.provider_auth = ProviderAuth::blank();
        to_connect.requester = requester;
        to_connect.provider_auth = ProviderAuth::blank();
        let requests = [for_groups.encode(), to_connect.encode()];
        for (endpoint, request) in BOTH.into_iter().zip(requests) {
            let answer = forwarded(&alice, &a.name, endpoint, request).await;
            answer.refused(403, "unauthorized");
        }
    }
    assert_eq!(left(&bob).await, (1, 0), "nobody got any");
}

async fn forwarded(
    device: &Device,
    destination: &ProviderName,
    endpoint: Endpoint,
    request: Vec<u8>,
) -> Answer {
    let forward = Forward {
        destination: destination.clone(),
        endpoint,
        request: Opaque::new(request).unwrap(),
    };
    device.ask(ClientRequestBody::Forward(forward)).await
}

/// All of an answer but for the name in it.
fn but_for(answer: &Answer, user: &UserId) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let name = user.as_str().as_bytes();
    let mut everything = answer.everything();
    let body = &mut everything.2;
    let at = body.windows(name.len()).position(|w| w == name).unwrap();
    body[at..at + name.len()].fill(b'?');
    everything
}

async fn block(device: &Device, target: BlockTarget) {
    let blocked = Boolean::True;
    let set = ClientRequestBody::SetBlock(SetBlock { target, blocked });
    assert_eq!(device.call(set).await, ClientResponseBody::Ok);
}

#[tokio::test]
async fn who_is_not_there_does_not_consent_or_blocks_looks_the_same() {
    let (a, b) = Server::start_two().await;
    let peer = Peer::of(&b).await;
    let alice = Device::register(&b, "alice/phone").await;
    let mut users: Vec<UserId> = vec!["mimi://a.example/u/nobody".parse().unwrap()];
    // All others have KeyPackages of both kinds, and have consented.
    for name in ["blocks", "bigger", "was_in", "no_yes"] {
        let device = invite(&a, &format!("{name}/phone"), &alice).await;
        let queue = device.queue_configs(1).await.remove(0);
        let marked = connection_key_package(&device, &queue);
        device.upload(vec![encoded(&marked)]).await;
        match name {
            "blocks" => block(&device, BlockTarget::User(alice.user())).await,
            "bigger" => block(&device, BlockTarget::Provider(b.name.clone())).await,
            "was_in" => {
                let gone = ClientRequestBody::DeleteAccount(DeleteAccount {});
                assert_eq!(device.call(gone).await, ClientResponseBody::Ok);
            }
            _ => device.withdraw(alice.user()).await,
        }
        users.push(device.user());
    }
    for (endpoint, status, alike) in [
        (BOTH[0], UserKeyPackageStatus::NoConsent, 5),
        (BOTH[1], UserKeyPackageStatus::NothingCompatible, 4),
    ] {
        let nobody = ask(&a, &peer, endpoint, &users[0]).await;
        let expected = but_for(&nobody, &users[0]);
        assert_eq!(about(&nobody, &users[0]).status, status);
        for user in &users[1..alike] {
            let answer = ask(&a, &peer, endpoint, user).await;
            assert_eq!(but_for(&answer, user), expected, "{user} {endpoint:?}");
        }
    }
    // Without consent there are some to connect with; so it is not for want of them.
    let answer = ask(&a, &peer, BOTH[1], &users[4]).await;
    let got = about(&answer, &users[4]);
    assert_eq!(got.status, UserKeyPackageStatus::Success);
    assert_eq!(key_packages(&got).len(), 1);
}
