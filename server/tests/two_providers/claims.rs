//! KeyPackages, asked for by another provider.

use std::collections::BTreeMap;

use moh_messages::{
    CipherSuite, ClientKeyPackageStatus, ConnectionKeyPackageRequest, DsProtocolVersion, Endpoint,
    GroupKeyPackageRequest, KeyPackageResponse, List, Message, Opaque, ProviderAuth, UserId,
    UserKeyPackageStatus,
};
use moh_server::Limits;
use moh_server::change::Pool;
use moh_server::federation::{PeerRequest, Transport as _};
use moh_server::store::Store as _;

use crate::world::{Provider, World, user_id};

const SUITE: CipherSuite = CipherSuite::X25519_AES128GCM_ED25519;

/// A request of a provider for KeyPackages of a user of another, signed.
pub(crate) fn for_group(by: &Provider, requester: &UserId, target: &UserId) -> Vec<u8> {
    let mut request = GroupKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: requester.provider(),
        recipient: target.provider(),
        requester: requester.clone(),
        targets: List::new(vec![target.clone()]).unwrap(),
        clients: List::empty(),
        cipher_suites: List::new(vec![SUITE]).unwrap(),
        connection_token: Opaque::empty(),
        provider_auth: ProviderAuth::blank(),
    };
    let endpoint = Endpoint::GroupKeyPackages;
    by.keys()
        .sign_request(by.environment(), endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
    request.encode()
}

/// The same for a connection group.
pub(crate) fn for_connection(by: &Provider, requester: &UserId, target: &UserId) -> Vec<u8> {
    let mut request = ConnectionKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: requester.provider(),
        recipient: target.provider(),
        requester: requester.clone(),
        target: target.clone(),
        cipher_suites: List::new(vec![SUITE]).unwrap(),
        provider_auth: ProviderAuth::blank(),
    };
    let endpoint = Endpoint::ConnectionKeyPackages;
    by.keys()
        .sign_request(by.environment(), endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
    request.encode()
}

/// The KeyPackage of a user's only client, in an answer.
fn only(body: &[u8]) -> Vec<u8> {
    let response = KeyPackageResponse::decode(body).unwrap();
    let [user] = &response.users[..] else {
        panic!("{response:?}");
    };
    assert_eq!(user.status, UserKeyPackageStatus::Success);
    let [client] = &user.clients[..] else {
        panic!("{response:?}");
    };
    match &client.status {
        ClientKeyPackageStatus::Success { key_package } => key_package.as_slice().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// A thousand that ask at once, of both endpoints, over the wire: each KeyPackage is handed out
/// once, but for the last resort of each kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_is_handed_out_once() {
    const HANDED_OUT: usize = 100;
    const FOR_GROUPS: usize = 1_000;
    const FOR_CONNECTIONS: usize = 250;
    let world = World::with_limits(&["a.example", "b.example"], Limits::default()).await;
    let bob = world.user("bob@b.example").await;
    bob.refill_key_packages(HANDED_OUT).await.unwrap();
    let alice = user_id("alice@a.example");
    bob.set_consent(&alice, true).await.unwrap();
    let (a, b) = (world.provider("a.example"), world.provider("b.example"));
    let asked = (0..FOR_GROUPS + FOR_CONNECTIONS).map(|number| {
        // In between each other.
        let is_for_connection = number % 5 == 4;
        let (endpoint, body) = if is_for_connection {
            let request = for_connection(a, &alice, bob.user_id());
            (Endpoint::ConnectionKeyPackages, request)
        } else {
            let request = for_group(a, &alice, bob.user_id());
            (Endpoint::GroupKeyPackages, request)
        };
        let request = PeerRequest {
            get: false,
            host: format!("b.example:{}", b.address.port()),
            path: endpoint.path(),
            body: Some(body.into()),
            max_answer_bytes: 1 << 20,
        };
        let wire = a.wire.clone();
        let answer = tokio::spawn(async move { wire.send(request).await });
        (is_for_connection, answer)
    });
    let mut answers: [BTreeMap<Vec<u8>, usize>; 2] = Default::default();
    for (is_for_connection, answer) in asked.collect::<Vec<_>>() {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status, 200);
        let times = answers[usize::from(is_for_connection)].entry(only(&answer.body));
        *times.or_default() += 1;
    }
    for (for_connections, asked) in [(false, FOR_GROUPS), (true, FOR_CONNECTIONS)] {
        let answers = &answers[usize::from(for_connections)];
        assert_eq!(
            answers.len(),
            HANDED_OUT + 1,
            "one of them is the last resort"
        );
        let mut times: Vec<_> = answers.values().copied().collect();
        times.sort_unstable();
        let mut expected = vec![1; HANDED_OUT];
        expected.push(asked - HANDED_OUT);
        assert_eq!(
            times, expected,
            "the last resort alone comes more than once"
        );
        let pool = Pool {
            client_id: bob.client_id().clone(),
            for_connections,
        };
        let left = b.store().key_packages(&pool, b.environment().now_ms());
        let left = left.await.unwrap();
        assert_eq!((left.left, left.last_resort, left.told_low), (0, 1, true));
    }
    let [groups, connections] = &answers;
    assert!(
        groups
            .keys()
            .all(|package| !connections.contains_key(package))
    );
    world.end().await;
}

#[tokio::test]
async fn no_consent_and_no_such_user_are_the_same_answer() {
    let world = World::of(&["a.example", "b.example"]).await;
    world.user("bob@b.example").await;
    let alice = user_id("alice@a.example");
    let mut answers = Vec::new();
    for name in ["bob@b.example", "bab@b.example"] {
        let body = for_group(world.provider("a.example"), &alice, &user_id(name));
        let b = world.provider("b.example").node();
        let answer = b.answer(Endpoint::GroupKeyPackages, body.into()).await;
        let mut response = KeyPackageResponse::decode(&answer.body)
            .unwrap()
            .users
            .into_vec();
        let user = response.pop().unwrap();
        assert_eq!(user.user, user_id(name));
        answers.push((answer.status, user.status, user.clients));
    }
    let none = (200, UserKeyPackageStatus::NoConsent, List::empty());
    assert_eq!(answers, [none.clone(), none]);
    world.end().await;
}
