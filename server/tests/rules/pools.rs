//! KeyPackages: two pools, what is handed out of them, and when a client hears of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use moh_messages::client_api::{Boolean, KeyPackagesLow, QueueItemPayload};
use moh_messages::{
    CipherSuite, ClientId, ClientKeyPackageStatus, ConnectionKeyPackageRequest, DsErrorCode,
    DsProtocolVersion, DsResponse, DsResponseBody, Endpoint, GroupKeyPackageRequest,
    KeyPackageBytes, KeyPackageResponse, List, Message, Opaque, ProviderAuth, UserId,
    UserKeyPackageStatus, UserKeyPackages,
};
use moh_server::{Limits, Node};
use openmls::prelude::KeyPackage;

use crate::clock::{DAY_MS, HOUR_MS, MINUTE_MS};
use crate::device::{Device, Says, now_ms};
use crate::home::Home;
use crate::phone::{OK, Told, messages};
use crate::site::Site;

const INVALID: Told = Err(DsErrorCode::INVALID_KEY_PACKAGE);
const ONE: [CipherSuite; 1] = [CipherSuite::X25519_AES128GCM_ED25519];

/// Alice at a.example, with a client, and Bob at b.example, whom she lets add her to groups.
struct Pools {
    site: Site,
    alice: Arc<Device>,
    bob: Arc<Device>,
}

/// What a client's provider answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    One(KeyPackageBytes),
    Exhausted,
    NothingCompatible,
}

impl Pools {
    async fn set() -> Self {
        // Whoever does not ask for notices gets none.
        Self::set_with(Limits {
            low_key_packages: 0,
            ..Limits::default()
        })
        .await
    }

    async fn set_with(limits: Limits) -> Self {
        let site = Site::with_limits(limits).await;
        let alice = site.registered("alice/phone@a.example").await;
        let bob = site.device("bob/phone@b.example");
        alice.consents_to(&site.node, &bob).await;
        Self { site, alice, bob }
    }

    async fn upload(&self, key_packages: &[KeyPackage]) -> Told {
        let node = &self.site.node;
        self.alice.upload(node, key_packages, Boolean::False).await
    }

    async fn replace(&self, key_packages: &[KeyPackage]) -> Told {
        let node = &self.site.node;
        self.alice.upload(node, key_packages, Boolean::True).await
    }

    /// What Bob gets of Alice's client for a group.
    async fn for_group(&self) -> Got {
        let alice: &Device = &self.alice;
        let users = self.site.for_groups(&self.bob, &[alice], &[], &ONE).await;
        only(users[0].clone())
    }

    /// What Bob gets of Alice's client for a connection.
    async fn for_connection(&self) -> Got {
        only(self.site.for_connection(&self.bob, &self.alice).await)
    }

    fn low(for_connections: Boolean, left: u32) -> QueueItemPayload {
        QueueItemPayload::KeyPackagesLow(KeyPackagesLow {
            for_connections,
            left,
        })
    }
}

fn got(status: &ClientKeyPackageStatus) -> Got {
    match status {
        ClientKeyPackageStatus::Success { key_package } => Got::One(key_package.clone()),
        ClientKeyPackageStatus::Exhausted => Got::Exhausted,
        ClientKeyPackageStatus::NothingCompatible => Got::NothingCompatible,
    }
}

/// What there is for a user with one client.
fn only(user: UserKeyPackages) -> Got {
    let [client] = &user.clients[..] else {
        panic!("{user:?}");
    };
    let got = got(&client.status);
    let expected = match got {
        Got::One(_) => UserKeyPackageStatus::Success,
        _ => UserKeyPackageStatus::NothingCompatible,
    };
    assert_eq!(user.status, expected);
    got
}

fn one(key_package: &KeyPackage) -> Got {
    Got::One(messages(std::slice::from_ref(key_package)).remove(0))
}

fn last_resort(device: &Device, for_connections: bool) -> KeyPackage {
    device.last_resort_that_says(&Says {
        for_connections,
        ..device.says()
    })
}

fn suites(suites: &[CipherSuite]) -> List<CipherSuite, 32> {
    List::new(suites.to_vec()).unwrap()
}

/// A request to a.example for KeyPackages of these users for groups, signed.
fn group_request(
    home: &Home,
    requester: &UserId,
    targets: &[UserId],
    clients: &[ClientId],
    cipher_suites: &[CipherSuite],
) -> Vec<u8> {
    let mut request = GroupKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: requester.provider(),
        recipient: "a.example".parse().unwrap(),
        requester: requester.clone(),
        targets: List::new(targets.to_vec()).unwrap(),
        clients: List::new(clients.to_vec()).unwrap(),
        cipher_suites: suites(cipher_suites),
        connection_token: Opaque::empty(),
        provider_auth: ProviderAuth::blank(),
    };
    let endpoint = Endpoint::GroupKeyPackages;
    home.keys
        .sign_request(&home.environment, endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
    request.encode()
}

/// The same for a connection group.
fn connection_request(home: &Home, requester: &UserId, target: &UserId) -> Vec<u8> {
    let mut request = ConnectionKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: requester.provider(),
        recipient: "a.example".parse().unwrap(),
        requester: requester.clone(),
        target: target.clone(),
        cipher_suites: suites(&ONE),
        provider_auth: ProviderAuth::blank(),
    };
    let endpoint = Endpoint::ConnectionKeyPackages;
    home.keys
        .sign_request(&home.environment, endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
    request.encode()
}

async fn answer(
    node: &Node,
    endpoint: Endpoint,
    request: Vec<u8>,
) -> Result<Vec<UserKeyPackages>, DsErrorCode> {
    let answer = node.answer(endpoint, request.into()).await;
    if answer.status == 200 {
        let response = KeyPackageResponse::decode(&answer.body).unwrap();
        return Ok(response.users.into_vec());
    }
    match DsResponse::decode(&answer.body).unwrap().body {
        DsResponseBody::Error(error) => Err(error.code),
        other => panic!("{other:?}"),
    }
}

impl Site {
    async fn for_groups(
        &self,
        by: &Device,
        targets: &[&Device],
        clients: &[&Device],
        cipher_suites: &[CipherSuite],
    ) -> Vec<UserKeyPackages> {
        let targets: Vec<_> = targets.iter().map(|device| device.id.user_id()).collect();
        let clients: Vec<_> = clients.iter().map(|device| device.id.clone()).collect();
        let requester = by.id.user_id();
        let request = group_request(&by.home, &requester, &targets, &clients, cipher_suites);
        let users = answer(&self.node, Endpoint::GroupKeyPackages, request).await;
        let users = users.unwrap();
        let named: Vec<_> = users.iter().map(|user| user.user.clone()).collect();
        assert_eq!(named, targets);
        users
    }

    async fn for_connection(&self, by: &Device, target: &Device) -> UserKeyPackages {
        let target = target.id.user_id();
        let request = connection_request(&by.home, &by.id.user_id(), &target);
        let users = answer(&self.node, Endpoint::ConnectionKeyPackages, request).await;
        let [user] = <[_; 1]>::try_from(users.unwrap()).unwrap();
        assert_eq!(user.user, target);
        user
    }
}

#[tokio::test]
async fn each_endpoint_has_its_pool_and_its_last_resort() {
    let pools = Pools::set().await;
    let alice = &pools.alice;
    assert_eq!(pools.for_group().await, Got::Exhausted);
    assert_eq!(pools.for_connection().await, Got::Exhausted);
    let regular = [alice.key_package(), alice.key_package()];
    assert_eq!(pools.upload(&regular).await, OK);
    assert_eq!(pools.for_connection().await, Got::Exhausted);
    let connection = [
        alice.connection_key_package(),
        alice.connection_key_package(),
    ];
    assert_eq!(pools.upload(&connection).await, OK);
    assert_eq!(pools.for_connection().await, one(&connection[0]));
    assert_eq!(pools.for_group().await, one(&regular[0]));
    assert_eq!(pools.for_group().await, one(&regular[1]));
    assert_eq!(pools.for_group().await, Got::Exhausted);
    assert_eq!(pools.for_connection().await, one(&connection[1]));
    assert_eq!(pools.for_connection().await, Got::Exhausted);
    // The last resort of one is none of the other.
    let last = last_resort(alice, true);
    assert_eq!(pools.upload(std::slice::from_ref(&last)).await, OK);
    for _ in 0..3 {
        assert_eq!(pools.for_group().await, Got::Exhausted);
        assert_eq!(pools.for_connection().await, one(&last));
    }
    let regular_last = last_resort(alice, false);
    let further = alice.key_package();
    let uploaded = [regular_last.clone(), further.clone()];
    assert_eq!(pools.upload(&uploaded).await, OK);
    assert_eq!(pools.for_group().await, one(&further));
    for _ in 0..3 {
        assert_eq!(pools.for_group().await, one(&regular_last));
        assert_eq!(pools.for_connection().await, one(&last));
    }
    pools.site.end().await;
}

#[tokio::test]
async fn what_has_expired_is_not_handed_out() {
    let mut pools = Pools::set().await;
    let alice = &pools.alice;
    let now_s = now_ms() / 1000;
    let until = |days: u64| Says {
        lifetime: (now_s - 3600, now_s + days * 24 * 60 * 60),
        ..alice.says()
    };
    let (short, long) = (until(2), until(20));
    let [soon, late] = [&short, &long].map(|says| alice.key_package_that_says(says));
    let last = alice.last_resort_that_says(&short);
    let uploaded = [soon.clone(), last.clone(), late.clone()];
    assert_eq!(pools.upload(&uploaded).await, OK);
    let next = alice.key_package_that_says(&until(2));
    pools.site.pass(3 * DAY_MS).await;
    pools.site.restart().await;
    assert_eq!(pools.for_group().await, one(&late));
    assert_eq!(pools.for_group().await, Got::Exhausted);
    assert_eq!(pools.upload(&[next]).await, INVALID);
    // The attestation in it ends before it does.
    let ends = pools.alice.says();
    let end_ms = ends.attestation.not_after;
    let of_old = Says {
        lifetime: (now_s - 3600, now_s + 99 * 24 * 60 * 60),
        ..ends
    };
    let package = pools.alice.key_package_that_says(&of_old);
    assert_eq!(pools.upload(&[package]).await, OK);
    pools.site.pass(end_ms - pools.site.clock.now_ms()).await;
    assert_eq!(pools.for_group().await, Got::Exhausted);
    pools.site.end().await;
}

#[tokio::test]
async fn what_was_handed_out_is_not_taken_again() {
    let mut pools = Pools::set().await;
    let (first, second) = (pools.alice.key_package(), pools.alice.key_package());
    let both = [first.clone(), second.clone()];
    assert_eq!(pools.upload(&both).await, OK);
    // Once more, as when the answer was lost: there is each once all the same.
    assert_eq!(pools.upload(&both).await, OK);
    assert_eq!(
        pools.alice.clients(&pools.site.node).await[0].key_packages,
        2
    );
    assert_eq!(pools.for_group().await, one(&first));
    let third = pools.alice.key_package();
    let refused = [third.clone(), first.clone()];
    for restart in [false, true] {
        if restart {
            pools.site.restart().await;
        }
        assert_eq!(pools.upload(&both).await, INVALID);
        assert_eq!(pools.upload(&refused).await, INVALID);
        assert_eq!(pools.replace(&refused).await, INVALID);
        // All or none.
        let clients = pools.alice.clients(&pools.site.node).await;
        assert_eq!(clients[0].key_packages, 1);
    }
    let twice = [third.clone(), third];
    assert_eq!(pools.upload(&twice).await, INVALID);
    assert_eq!(pools.for_group().await, one(&second));
    assert_eq!(pools.for_group().await, Got::Exhausted);
    pools.site.end().await;
}

#[tokio::test]
async fn what_is_replaced_is_neither_handed_out_nor_taken_again() {
    let pools = Pools::set().await;
    let alice = &pools.alice;
    let old = [
        alice.key_package(),
        alice.connection_key_package(),
        last_resort(alice, false),
        last_resort(alice, true),
    ];
    assert_eq!(pools.upload(&old).await, OK);
    let kept = alice.key_package();
    assert_eq!(pools.upload(std::slice::from_ref(&kept)).await, OK);
    let new = [kept.clone(), last_resort(alice, true)];
    // Twice, as when the answer was lost.
    for _ in 0..2 {
        assert_eq!(pools.replace(&new).await, OK);
    }
    assert_eq!(pools.for_group().await, one(&kept));
    assert_eq!(pools.for_group().await, Got::Exhausted);
    assert_eq!(pools.for_connection().await, one(&new[1]));
    for package in old {
        assert_eq!(pools.upload(&[package]).await, INVALID);
    }
    assert_eq!(pools.replace(&[]).await, OK);
    assert_eq!(pools.for_connection().await, Got::Exhausted);
    pools.site.end().await;
}

#[tokio::test]
async fn a_client_keeps_as_many_as_the_limit_says() {
    let pools = Pools::set_with(Limits {
        max_key_packages_per_client: 3,
        ..Limits::default()
    })
    .await;
    let alice = &pools.alice;
    let refused: Told = Err(DsErrorCode::LIMIT_EXCEEDED);
    let three = [
        alice.key_package(),
        alice.connection_key_package(),
        last_resort(alice, false),
    ];
    assert_eq!(pools.upload(&three).await, OK);
    assert_eq!(
        pools.upload(&three).await,
        OK,
        "they are no more than they were"
    );
    assert_eq!(pools.upload(&[alice.key_package()]).await, refused);
    let others = [(); 4].map(|()| alice.key_package());
    assert_eq!(pools.replace(&others).await, refused);
    assert_eq!(pools.replace(&others[1..]).await, OK);
    pools.site.end().await;
}

/// What has expired neither counts nor stays.
#[tokio::test]
async fn what_has_expired_takes_no_room() {
    let pools = Pools::set_with(Limits {
        max_key_packages_per_client: 3,
        ..Limits::default()
    })
    .await;
    let alice = &pools.alice;
    for round in 1..4 {
        let end = pools.site.clock.now_ms() / 1000 + 60;
        let says = Says {
            lifetime: (now_ms() / 1000 - 3600, end),
            ..alice.says()
        };
        let three = [(); 3].map(|()| alice.key_package_that_says(&says));
        assert_eq!(pools.upload(&three).await, OK);
        assert_eq!(pools.site.state().rows("key_packages"), 3);
        assert_eq!(pools.site.state().rows("known_key_packages"), 3 * round);
        pools.site.clock.pass(MINUTE_MS + 1_000);
        assert_eq!(pools.for_group().await, Got::Exhausted);
    }
    pools.site.end().await;
}

/// What is kept in mind of a client is bounded, whatever it replaces.
#[tokio::test]
async fn a_client_does_not_upload_without_end() {
    let pools = Pools::set_with(Limits {
        max_key_packages_per_client: 20,
        ..Limits::default()
    })
    .await;
    let alice = &pools.alice;
    let refused: Told = Err(DsErrorCode::LIMIT_EXCEEDED);
    let last = |count| -> Vec<_> { (0..count).map(|_| last_resort(alice, true)).collect() };
    assert_eq!(pools.upload(&last(13)).await, refused);
    assert_eq!(pools.upload(&last(12)).await, OK);
    assert_eq!(pools.upload(&last(1)).await, refused);
    for _ in 0..8 {
        assert_eq!(pools.replace(&last(11)).await, OK);
    }
    assert_eq!(
        pools.replace(&last(1)).await,
        refused,
        "a hundred are known"
    );
    let twenty = || -> Vec<_> { (0..20).map(|_| alice.key_package()).collect() };
    for _ in 0..5 {
        assert_eq!(pools.replace(&twenty()).await, OK);
    }
    assert_eq!(pools.replace(&[alice.key_package()]).await, refused);
    assert_eq!(pools.site.state().rows("known_key_packages"), 200);
    pools.site.end().await;
}

/// Statuses of users and clients, for the ciphersuites that are asked for.
#[tokio::test]
async fn several_users_and_ciphersuites() {
    let Pools { site, alice, bob } = Pools::set().await;
    let (one_suite, three) = (ONE[0], CipherSuite::X25519_CHACHA20POLY1305_ED25519);
    let two = CipherSuite::P256_AES128GCM;
    let laptop = site.device_with("alice/laptop@a.example", three);
    laptop.register_by(&site.node, &alice).await.unwrap();
    let amy = site.registered("amy/phone@a.example").await;
    let ann = site.registered("ann/phone@a.example").await;
    let nobody = site.device("nobody/phone@a.example");
    ann.consents_to(&site.node, &bob).await;
    let phones = alice.key_package();
    let uploaded = alice.upload(&site.node, std::slice::from_ref(&phones), Boolean::False);
    assert_eq!(uploaded.await, OK);
    for _ in 0..2 {
        let some = [laptop.key_package()];
        assert_eq!(laptop.upload(&site.node, &some, Boolean::False).await, OK);
    }
    let summary = |users: Vec<UserKeyPackages>| -> Vec<_> {
        let of = |user: UserKeyPackages| {
            let clients = user.clients.iter();
            let clients = clients.map(|c| match got(&c.status) {
                Got::One(_) => (c.client.device().to_owned(), "one"),
                Got::Exhausted => (c.client.device().to_owned(), "exhausted"),
                Got::NothingCompatible => (c.client.device().to_owned(), "other suites"),
            });
            (user.status, clients.collect::<Vec<_>>())
        };
        users.into_iter().map(of).collect()
    };
    let all = [&*ann, &*alice, &*amy, &*nobody];
    let device = |name: &str, what| (name.to_owned(), what);
    use UserKeyPackageStatus::{NoConsent, NothingCompatible, Partial, Success};
    // Amy did not consent, and nobody is nobody; Ann's client has none.
    let users = site.for_groups(&bob, &all, &[], &[two]).await;
    let none = vec![
        device("laptop", "other suites"),
        device("phone", "other suites"),
    ];
    let empty = (NothingCompatible, vec![device("phone", "exhausted")]);
    let expected = [
        empty.clone(),
        (NothingCompatible, none),
        (NoConsent, vec![]),
        (NoConsent, vec![]),
    ];
    assert_eq!(summary(users), expected);
    let users = site.for_groups(&bob, &all[..2], &[], &[three, two]).await;
    let some = vec![device("laptop", "one"), device("phone", "other suites")];
    assert_eq!(summary(users), [empty.clone(), (Partial, some)]);
    // Only one of the clients.
    let (only, some) = ([&*alice], [three, one_suite]);
    let users = site.for_groups(&bob, &all[1..2], &only, &some).await;
    assert_eq!(got(&users[0].clients[0].status), one(&phones));
    assert_eq!(summary(users), [(Success, vec![device("phone", "one")])]);
    let users = site
        .for_groups(&bob, &all[..2], &[&amy], &[one_suite])
        .await;
    let none = (NothingCompatible, vec![]);
    assert_eq!(summary(users), [none.clone(), none]);
    let users = site.for_groups(&bob, &all[1..2], &[], &some).await;
    let rest = vec![device("laptop", "one"), device("phone", "exhausted")];
    assert_eq!(summary(users), [(Partial, rest)]);
    site.end().await;
}

#[tokio::test]
async fn what_cannot_be_asked_for() {
    let Pools { site, alice, bob } = Pools::set().await;
    let some = [alice.key_package(), alice.connection_key_package()];
    assert_eq!(alice.upload(&site.node, &some, Boolean::False).await, OK);
    let before = site.state();
    let (requester, target) = (bob.id.user_id(), alice.id.user_id());
    let foreign: UserId = "mimi://c.example/u/carol".parse().unwrap();
    let groups = Endpoint::GroupKeyPackages;
    let twice = [target.clone(), target.clone()];
    let request = group_request(&bob.home, &requester, &twice, &[], &ONE);
    let violation = Err(DsErrorCode::POLICY_VIOLATION);
    assert_eq!(answer(&site.node, groups, request).await, violation);
    let others = [target.clone(), foreign.clone()];
    let request = group_request(&bob.home, &requester, &others, &[], &ONE);
    assert_eq!(answer(&site.node, groups, request).await, violation);
    let connections = Endpoint::ConnectionKeyPackages;
    let request = connection_request(&bob.home, &requester, &foreign);
    assert_eq!(answer(&site.node, connections, request).await, violation);
    // Signed by another provider than the requester's, whose keys are asked for anew.
    site.clock.pass(HOUR_MS);
    let home = &site.homes["c.example"];
    let unauthenticated = Err(DsErrorCode::UNAUTHENTICATED);
    let request = group_request(home, &requester, std::slice::from_ref(&target), &[], &ONE);
    assert_eq!(answer(&site.node, groups, request).await, unauthenticated);
    site.clock.pass(HOUR_MS);
    let request = connection_request(home, &requester, &target);
    assert_eq!(
        answer(&site.node, connections, request).await,
        unauthenticated
    );
    assert!(site.state() == before);
    // And the same request twice.
    let request = connection_request(&bob.home, &requester, &target);
    assert!(
        answer(&site.node, connections, request.clone())
            .await
            .is_ok()
    );
    let replayed = Err(DsErrorCode::REPLAYED);
    assert_eq!(answer(&site.node, connections, request).await, replayed);
    site.end().await;
}

/// Nothing but its own name tells an unknown user from one that is there, and nothing comes of
/// asking.
#[tokio::test]
async fn who_is_not_there_looks_like_who_does_not_consent() {
    let Pools { site, bob, .. } = Pools::set().await;
    let amy = site.registered("amy/phone@a.example").await;
    let nil = site.device("nil/phone@a.example");
    let package = [amy.key_package()];
    assert_eq!(amy.upload(&site.node, &package, Boolean::False).await, OK);
    let before = site.state();
    let mut answers = BTreeSet::new();
    for device in [&amy, &nil] {
        let users = site.for_groups(&bob, &[device], &[], &ONE).await;
        let name = UserId::new(site.node.name(), "xxx").unwrap();
        let user = UserKeyPackages {
            user: name,
            ..users[0].clone()
        };
        assert_eq!(user.status, UserKeyPackageStatus::NoConsent);
        answers.insert(user.encode());
    }
    assert_eq!(answers.len(), 1);
    let user = site.for_connection(&bob, &nil).await;
    let none = UserKeyPackageStatus::NothingCompatible;
    assert_eq!((user.status, user.clients), (none, List::empty()));
    assert!(site.state() == before);
    site.end().await;
}

#[tokio::test]
async fn a_client_hears_once_that_a_pool_is_low() {
    let mut pools = Pools::set_with(Limits {
        low_key_packages: 2,
        ..Limits::default()
    })
    .await;
    let of = |pools: &Pools, count| -> Vec<_> {
        (0..count).map(|_| pools.alice.key_package()).collect()
    };
    let (no, yes) = (Boolean::False, Boolean::True);
    let mut expected = Vec::new();
    let four = of(&pools, 4);
    assert_eq!(pools.upload(&four).await, OK);
    for left in [3, 2, 1, 0, 0, 0] {
        pools.for_group().await;
        if left == 1 {
            expected.push(Pools::low(no, left));
            pools.site.restart().await;
        }
        assert_eq!(
            pools.alice.notices(&pools.site.node).await,
            expected,
            "{left}"
        );
    }
    // The other pool is another matter.
    assert_eq!(pools.for_connection().await, Got::Exhausted);
    expected.push(Pools::low(yes, 0));
    pools.for_connection().await;
    assert_eq!(pools.alice.notices(&pools.site.node).await, expected);
    // A last resort fills nothing up; whatever else comes does.
    let last = last_resort(&pools.alice, false);
    assert_eq!(pools.upload(&[last]).await, OK);
    pools.for_group().await;
    assert_eq!(pools.alice.notices(&pools.site.node).await, expected);
    for (uploaded, left) in [(1, 0), (2, 1), (3, 2), (0, 1)] {
        if uploaded > 0 {
            let some = of(&pools, uploaded);
            assert_eq!(pools.upload(&some).await, OK);
        }
        pools.for_group().await;
        if left < 2 {
            expected.push(Pools::low(no, left));
        }
        assert_eq!(pools.alice.notices(&pools.site.node).await, expected);
        if left == 0 || uploaded == 2 {
            // Empty again, and told already.
            while pools.alice.clients(&pools.site.node).await[0].key_packages > 0 {
                pools.for_group().await;
            }
            assert_eq!(pools.alice.notices(&pools.site.node).await, expected);
        }
    }
    pools.site.end().await;
}

/// Also when many ask at once, at two nodes that know nothing of each other: each for KeyPackages
/// of another ciphersuite, so that they do not ask for the same ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_hears_once_however_many_ask_at_once() {
    const PACKAGES: usize = 12;
    let pools = Pools::set_with(Limits {
        low_key_packages: 6,
        ..Limits::default()
    })
    .await;
    let Pools { site, alice, bob } = &pools;
    let also = alice.in_suite(CipherSuite::X25519_CHACHA20POLY1305_ED25519);
    let other = site.another_node().await;
    let mut rounds = 0;
    for round in 1..=12 {
        let packages = (0..PACKAGES).map(|number| [alice, &also][number % 2].key_package());
        assert_eq!(pools.upload(&packages.collect::<Vec<_>>()).await, OK);
        let asked = (0..PACKAGES).map(|number| {
            let (node, suite) = [(&site.node, alice.suite), (&other, also.suite)][number % 2];
            let target = [alice.id.user_id()];
            let request = group_request(&bob.home, &bob.id.user_id(), &target, &[], &[suite]);
            let node = node.clone();
            tokio::spawn(async move { answer(&node, Endpoint::GroupKeyPackages, request).await })
        });
        let mut all = BTreeSet::new();
        for asked in asked.collect::<Vec<_>>() {
            match only(asked.await.unwrap().unwrap().remove(0)) {
                Got::One(package) => assert!(all.insert(package.into_vec())),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(all.len(), PACKAGES);
        rounds += 1;
        let notices = alice.notices(&site.node).await;
        assert_eq!(notices.len(), rounds, "round {round}: {notices:?}");
        assert_eq!(notices[rounds - 1], Pools::low(Boolean::False, 5));
    }
    other.stop().await;
    pools.site.end().await;
}
