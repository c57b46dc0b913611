//! Connection requests, and what their responders decide, as providers see it.

use moh_messages::client_api::{
    BlockTarget, ClientRequestBody, ClientResponseBody, ConnectionChanged, ConnectionDecision,
    ConnectionState, DeclineConnection, ListBlocks, ListConnections, QueueItemPayload, SetBlock,
    SetConsent,
};
use moh_messages::{
    CipherSuite, ConnectionKeyPackageRequest, DeliveryResult, DsErrorCode, DsProtocolVersion,
    Endpoint, GroupKeyPackageRequest, List, Message, MlsBytes, Opaque, ProviderAuth, QueuePayload,
};
use moh_server::{Environment, Limits};

use crate::raw::{Raw, boolean, code, full, invalid, message, named, request};
use crate::world::{Provider, World, user_id};

const ALICE: &str = "alice@a.example";
const BOB: &str = "bob@b.example";

async fn two() -> World {
    World::of(&["a.example", "b.example"]).await
}

fn both(world: &World) -> (&Provider, &Provider) {
    (world.provider("a.example"), world.provider("b.example"))
}

/// Who has asked, and who may add a user to groups.
async fn listed(b: &Provider, raw: &Raw) -> Vec<(String, ConnectionState)> {
    let list = ClientRequestBody::ListConnections(ListConnections { after: None });
    match raw.asks(b, list).await.unwrap() {
        ClientResponseBody::Connections { connections } => {
            let line = |c: &moh_messages::client_api::Connection| {
                let name = format!("{}@{}", c.peer.user(), c.peer.provider());
                (name, c.state)
            };
            connections.iter().map(line).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn asked(name: &str) -> (String, ConnectionState) {
    (name.to_owned(), ConnectionState::Asked)
}

fn consented(name: &str) -> (String, ConnectionState) {
    (name.to_owned(), ConnectionState::Consented)
}

fn decline(peer: &str) -> ClientRequestBody {
    let peer = user_id(peer);
    ClientRequestBody::DeclineConnection(DeclineConnection { peer })
}

fn allow(peer: &str, allowed: bool) -> ClientRequestBody {
    ClientRequestBody::SetConsent(SetConsent {
        peer: user_id(peer),
        allowed: boolean(allowed),
    })
}

fn block(target: BlockTarget, blocked: bool) -> ClientRequestBody {
    ClientRequestBody::SetBlock(SetBlock {
        target,
        blocked: boolean(blocked),
    })
}

fn alice() -> BlockTarget {
    BlockTarget::User(user_id(ALICE))
}

fn a() -> BlockTarget {
    BlockTarget::Provider("a.example".parse().unwrap())
}

/// What a client has in its queue, in short.
async fn heard(b: &Provider, raw: &Raw) -> Vec<String> {
    let line = |item| match item {
        QueueItemPayload::MlsMessage(message) => String::from_utf8(message.into_vec()).unwrap(),
        QueueItemPayload::ConnectionRequest(request) => {
            format!(
                "{} asks {}",
                request.requester.user(),
                request.responder.user()
            )
        }
        QueueItemPayload::ConnectionChanged(ConnectionChanged { peer, decision }) => {
            let decision = match decision {
                ConnectionDecision::Consented => "consented",
                ConnectionDecision::Declined => "declined",
                ConnectionDecision::Withdrawn => "withdrawn",
            };
            format!("{decision}: {}", peer.user())
        }
        QueueItemPayload::ClientChanged(_) => "another device".to_owned(),
        QueueItemPayload::KeyPackagesLow(_) => "low".to_owned(),
    };
    raw.reads(b).await.into_iter().map(line).collect()
}

#[tokio::test]
async fn a_request_is_taken_once_and_for_all_devices() {
    let mut world = two().await;
    let (a, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let laptop = bob.device(b, "laptop").await;
    let queues = [bob.queue(b).await, laptop.queue(b).await];
    let asks = request(full(&[&queues[0], &queues[1]]), ALICE, BOB);
    for _ in 0..2 {
        assert_eq!(a.requests(b, &asks).await, DeliveryResult::Ok);
        assert_eq!(heard(b, &bob).await, ["another device", "alice asks bob"]);
        assert_eq!(heard(b, &laptop).await, ["alice asks bob"]);
    }
    assert_eq!(listed(b, &bob).await, [asked(ALICE)]);
    // What comes after it, by the name of the audience.
    let named = || named(&[&queues[0], &queues[1]]);
    assert_eq!(
        a.sends(b, &message(named(), "hi")).await,
        DeliveryResult::Ok
    );
    let b = world.provider_mut("b.example");
    b.stop().await;
    b.start().await;
    let (a, b) = both(&world);
    assert_eq!(a.requests(b, &asks).await, DeliveryResult::Ok);
    assert_eq!(heard(b, &laptop).await, ["alice asks bob", "hi"]);
    assert_eq!(listed(b, &laptop).await, [asked(ALICE)]);
    world.end().await;
}

#[tokio::test]
async fn requests_that_are_not_right() {
    let world = two().await;
    let (a, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let ben = Raw::user(b, "ben@b.example").await;
    let (queue, bens) = (bob.queue(b).await, ben.queue(b).await);
    let policy = DsErrorCode::POLICY_VIOLATION;
    for (what, requester, responder) in [
        ("a responder of the sender's", ALICE, "amy@a.example"),
        (
            "a responder of a third provider's",
            ALICE,
            "carol@c.example",
        ),
        (
            "a requester of the responder's provider",
            "ben@b.example",
            BOB,
        ),
        ("a requester of a third provider's", "carol@c.example", BOB),
    ] {
        let asks = request(full(&[&queue]), requester, responder);
        assert_eq!(code(&a.requests(b, &asks).await), policy, "{what}");
    }
    let mut asks = request(full(&[&queue]), ALICE, BOB);
    asks.except = Some(1);
    assert_eq!(code(&a.requests(b, &asks).await), DsErrorCode::MALFORMED);
    let mut asks = request(full(&[&queue]), ALICE, BOB);
    if let QueuePayload::ConnectionRequest(request) = &mut asks.payload {
        request.welcome = MlsBytes::new(vec![7; (512 << 10) + 1]).unwrap();
    }
    let too_much = DsErrorCode::LIMIT_EXCEEDED;
    assert_eq!(code(&a.requests(b, &asks).await), too_much);
    // To the wrong endpoint, also among others.
    let wrong = Err(DsErrorCode::WRONG_ENDPOINT);
    let some = [
        message(full(&[&queue]), "x"),
        request(full(&[&queue]), ALICE, BOB),
    ];
    for endpoint in [Endpoint::DeliverMessage, Endpoint::ConnectionRequest] {
        assert_eq!(a.delivers(b, endpoint, &some).await, wrong);
    }
    // Queues of somebody else, of nobody, and the rest of them.
    let nobodys = Opaque::new(vec![7; 92]).unwrap();
    let recipients = full(&[&bens, &nobodys, &queue, &bens]);
    let asks = request(recipients, ALICE, BOB);
    assert_eq!(a.requests(b, &asks).await, invalid(&[0, 1, 3]));
    let asks = request(full(&[&bens, &nobodys]), ALICE, BOB);
    assert_eq!(a.requests(b, &asks).await, invalid(&[0, 1]));
    assert_eq!(heard(b, &bob).await, ["alice asks bob"]);
    assert_eq!(heard(b, &ben).await, Vec::<String>::new());
    assert_eq!(listed(b, &ben).await, []);
    // They were not taken from Ben by that.
    let later = a.sends(b, &message(full(&[&bens]), "a message")).await;
    assert_eq!(later, DeliveryResult::Ok);
    assert_eq!(heard(b, &ben).await, ["a message"]);
    world.end().await;
}

/// Who is in the audience has to be known one by one.
#[tokio::test]
async fn an_audience_by_its_name_is_not_enough() {
    let world = two().await;
    let (a, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let queue = bob.queue(b).await;
    let mut by_name = request(named(&[&queue]), ALICE, BOB);
    let unknown = DeliveryResult::UnknownAudience;
    assert_eq!(a.requests(b, &by_name).await, unknown);
    by_name.audience = full(&[&queue]);
    assert_eq!(a.requests(b, &by_name).await, DeliveryResult::Ok);
    assert_eq!(heard(b, &bob).await, ["alice asks bob"]);
    world.end().await;
}

/// Who names a queue of another group in a request gains nothing by what becomes of the request.
#[tokio::test]
async fn queues_of_other_groups() {
    let world = two().await;
    let (a_, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let (used, fresh) = (bob.queue(b).await, bob.queue(b).await);
    a_.sends(b, &message(full(&[&used]), "one")).await;
    let asks = request(full(&[&used, &fresh]), ALICE, BOB);
    assert_eq!(a_.requests(b, &asks).await, invalid(&[0]));
    bob.does(b, decline(ALICE)).await;
    bob.does(b, block(alice(), true)).await;
    let asks = request(full(&[&used]), ALICE, BOB);
    assert_eq!(a_.requests(b, &asks).await, invalid(&[0]));
    for (queue, result) in [(&used, DeliveryResult::Ok), (&fresh, invalid(&[0]))] {
        let later = a_.sends(b, &message(full(&[queue]), "two")).await;
        assert_eq!(later, result);
    }
    assert_eq!(heard(b, &bob).await, ["one", "alice asks bob", "two"]);
    world.end().await;
}

#[tokio::test]
async fn who_is_accepted() {
    let world = two().await;
    let (a, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let laptop = bob.device(b, "laptop").await;
    let queue = bob.queue(b).await;
    a.requests(b, &request(full(&[&queue]), ALICE, BOB)).await;
    for _ in 0..2 {
        bob.does(b, allow(ALICE, true)).await;
        assert_eq!(listed(b, &bob).await, [consented(ALICE)]);
    }
    // What was accepted cannot be declined.
    bob.does(b, decline(ALICE)).await;
    let after = message(full(&[&queue]), "after");
    assert_eq!(a.sends(b, &after).await, DeliveryResult::Ok);
    // The other device is told, once.
    assert_eq!(heard(b, &laptop).await, ["consented: alice"]);
    let expected = ["another device", "alice asks bob", "after"];
    assert_eq!(heard(b, &bob).await, expected);
    for _ in 0..2 {
        laptop.does(b, allow(ALICE, false)).await;
        assert_eq!(listed(b, &bob).await, []);
    }
    let last = heard(b, &bob).await.pop();
    assert_eq!(last.as_deref(), Some("withdrawn: alice"));
    assert_eq!(heard(b, &laptop).await, ["consented: alice"]);
    world.end().await;
}

#[tokio::test]
async fn who_is_declined() {
    let mut world = two().await;
    let (a, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let laptop = bob.device(b, "laptop").await;
    let ben = Raw::user(b, "ben@b.example").await;
    let (one, other) = (bob.queue(b).await, bob.queue(b).await);
    let bens = ben.queue(b).await;
    // Nothing to decline.
    bob.does(b, decline(ALICE)).await;
    for (queue, by, expected) in [
        (&one, ALICE, DeliveryResult::Ok),
        // A queue is for one group.
        (&one, ALICE, invalid(&[0])),
        (&other, "amy@a.example", DeliveryResult::Ok),
    ] {
        let asks = request(full(&[queue]), by, BOB);
        assert_eq!(a.requests(b, &asks).await, expected);
    }
    let both_of_them = || full(&[&one, &bens]);
    let before = message(both_of_them(), "before");
    assert_eq!(a.sends(b, &before).await, DeliveryResult::Ok);
    for _ in 0..2 {
        bob.does(b, decline(ALICE)).await;
        assert_eq!(listed(b, &bob).await, [asked("amy@a.example")]);
    }
    for round in 0..2 {
        let (a, b) = both(&world);
        let by_name = message(named(&[&one]), "late");
        // Nothing is kept of an audience of nobody.
        let unknown = DeliveryResult::UnknownAudience;
        assert_eq!(a.sends(b, &by_name).await, unknown, "{round}");
        let late = message(full(&[&one]), "late");
        assert_eq!(a.sends(b, &late).await, invalid(&[0]), "{round}");
        // Whoever else is in the audience is not concerned, nor another request.
        let to_ben = message(both_of_them(), "to ben");
        assert_eq!(a.sends(b, &to_ben).await, invalid(&[0]), "{round}");
        let to_other = message(full(&[&other]), "by amy");
        assert_eq!(a.sends(b, &to_other).await, DeliveryResult::Ok, "{round}");
        let again = request(full(&[&one]), ALICE, BOB);
        assert_eq!(a.requests(b, &again).await, invalid(&[0]), "{round}");
        let b = world.provider_mut("b.example");
        b.stop().await;
        b.start().await;
    }
    let (a, b) = both(&world);
    let expected = ["alice asks bob", "amy asks bob", "before"];
    assert_eq!(heard(b, &bob).await[1..4], expected);
    assert_eq!(heard(b, &bob).await[4..], ["by amy", "by amy"]);
    assert_eq!(heard(b, &ben).await, ["before", "to ben", "to ben"]);
    assert_eq!(heard(b, &laptop).await, ["declined: alice"]);
    // Who was declined may ask again.
    let fresh = bob.queue(b).await;
    let again = request(full(&[&fresh]), ALICE, BOB);
    assert_eq!(a.requests(b, &again).await, DeliveryResult::Ok);
    let expected = [asked(ALICE), asked("amy@a.example")];
    assert_eq!(listed(b, &bob).await, expected);
    world.end().await;
}

#[tokio::test]
async fn who_asks_while_the_other_asks() {
    let world = two().await;
    let (a, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let queue = bob.queue(b).await;
    // As the sending of his own request does.
    bob.does(b, allow(ALICE, true)).await;
    a.requests(b, &request(full(&[&queue]), ALICE, BOB)).await;
    assert_eq!(listed(b, &bob).await, [consented(ALICE)]);
    assert_eq!(heard(b, &bob).await, ["alice asks bob"]);
    // The request can still be declined; the consent stays.
    bob.does(b, decline(ALICE)).await;
    assert_eq!(listed(b, &bob).await, [consented(ALICE)]);
    let late = message(full(&[&queue]), "late");
    assert_eq!(a.sends(b, &late).await, invalid(&[0]));
    world.end().await;
}

/// What Alice's provider sees of somebody who never answers, in every case.
async fn as_if_nobody_answered(world: &World, bob: &Raw) -> Vec<DeliveryResult> {
    let (a, b) = both(world);
    let (queue, nobodys) = (bob.queue(b).await, Opaque::new(vec![7; 92]).unwrap());
    let recipients = [&queue, &nobodys];
    let asks = request(full(&recipients), ALICE, BOB);
    let mut results = Vec::new();
    for _ in 0..2 {
        results.push(a.requests(b, &asks).await);
        results.push(a.sends(b, &message(named(&recipients), "by name")).await);
        results.push(a.sends(b, &message(full(&[&queue]), "in full")).await);
    }
    results
}

#[tokio::test]
async fn who_is_blocked_sees_nobody_who_answers() {
    let mut world = two().await;
    let bob = Raw::user(world.provider("b.example"), BOB).await;
    let expected = as_if_nobody_answered(&world, &bob).await;
    let (_, b) = both(&world);
    bob.does(b, decline(ALICE)).await;
    let before = heard(b, &bob).await;
    assert_eq!(before.len(), 5, "{before:?}");
    for target in [alice(), a()] {
        bob.does(world.provider("b.example"), block(target.clone(), true))
            .await;
        let seen = as_if_nobody_answered(&world, &bob).await;
        assert_eq!(seen, expected, "{target:?}");
        let b = world.provider_mut("b.example");
        b.stop().await;
        b.start().await;
        assert_eq!(as_if_nobody_answered(&world, &bob).await, expected);
        let (_, b) = both(&world);
        assert_eq!(heard(b, &bob).await, before);
        assert_eq!(listed(b, &bob).await, []);
        bob.does(b, block(target, false)).await;
    }
    // Unblocked, he may be asked again.
    as_if_nobody_answered(&world, &bob).await;
    let (_, b) = both(&world);
    assert_eq!(listed(b, &bob).await, [asked(ALICE)]);
    assert_eq!(heard(b, &bob).await.len(), 10);
    world.end().await;
}

#[tokio::test]
async fn to_block_ends_what_there_was() {
    let world = two().await;
    let (a_, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let laptop = bob.device(b, "laptop").await;
    let (hers, amys) = (bob.queue(b).await, bob.queue(b).await);
    for (queue, by) in [(&hers, ALICE), (&amys, "amy@a.example")] {
        a_.requests(b, &request(full(&[queue]), by, BOB)).await;
    }
    bob.does(b, allow("amy@a.example", true)).await;
    bob.does(b, allow("carol@c.example", true)).await;
    for _ in 0..2 {
        bob.does(b, block(alice(), true)).await;
        let rest = [consented("amy@a.example"), consented("carol@c.example")];
        assert_eq!(listed(b, &bob).await, rest);
    }
    bob.does(b, block(a(), true)).await;
    assert_eq!(listed(b, &bob).await, [consented("carol@c.example")]);
    let told = [
        "consented: amy",
        "consented: carol",
        "declined: alice",
        "withdrawn: amy",
    ];
    assert_eq!(heard(b, &laptop).await, told);
    // What was asked is gone, and nobody can tell; what was accepted before goes on.
    for (queue, text) in [(&hers, "to nobody"), (&amys, "by amy")] {
        let late = message(full(&[queue]), text);
        assert_eq!(a_.sends(b, &late).await, DeliveryResult::Ok);
    }
    let expected = ["another device", "amy asks bob", "by amy"];
    assert_eq!(heard(b, &bob).await, expected);
    // Who is blocked cannot be let in.
    let policy = DsErrorCode::POLICY_VIOLATION;
    for blocked in [ALICE, "amy@a.example", "new@a.example"] {
        bob.is_refused(b, blocked, policy, allow(blocked, true))
            .await;
        bob.does(b, allow(blocked, false)).await;
    }
    let list = |after| ClientRequestBody::ListBlocks(ListBlocks { after });
    for (after, expected) in [(None, vec![alice(), a()]), (Some(alice()), vec![a()])] {
        let blocks = List::new(expected).unwrap();
        let expected = ClientResponseBody::Blocks { blocks };
        assert_eq!(laptop.asks(b, list(after)).await, Ok(expected));
    }
    world.end().await;
}

#[tokio::test]
async fn so_many_requests_wait_at_most() {
    let limits = Limits {
        max_pending_connection_requests: 2,
        max_connections_per_user: 3,
        max_blocks_per_user: 1,
        ..Limits::default()
    };
    let world = World::with_limits(&["a.example", "b.example"], limits).await;
    let (a_, b) = both(&world);
    let bob = Raw::user(b, BOB).await;
    let by = async |name: &str| {
        let queue = bob.queue(b).await;
        request(full(&[&queue]), &format!("{name}@a.example"), BOB)
    };
    let all = [
        by("one").await,
        by("two").await,
        by("three").await,
        by("one").await,
    ];
    let results = a_
        .delivers(b, Endpoint::ConnectionRequest, &all)
        .await
        .unwrap();
    // What follows is not looked at.
    assert_eq!(results[..2], [DeliveryResult::Ok, DeliveryResult::Ok]);
    assert_eq!(results.len(), 3);
    assert_eq!(code(&results[2]), DsErrorCode::RATE_LIMITED);
    // The same one may ask again, and does not count twice; but not for ever.
    for _ in 0..7 {
        assert_eq!(a_.requests(b, &by("one").await).await, DeliveryResult::Ok);
    }
    let limited = DsErrorCode::RATE_LIMITED;
    assert_eq!(code(&a_.requests(b, &by("one").await).await), limited);
    // When something is decided, the same delivery is taken.
    bob.does(b, allow("two@a.example", true)).await;
    assert_eq!(a_.requests(b, &all[2]).await, DeliveryResult::Ok);
    let expected = [
        asked("one@a.example"),
        asked("three@a.example"),
        consented("two@a.example"),
    ];
    assert_eq!(listed(b, &bob).await, expected);
    // Three in all.
    bob.does(b, allow("one@a.example", true)).await;
    assert_eq!(code(&a_.requests(b, &by("four").await).await), limited);
    let code = DsErrorCode::LIMIT_EXCEEDED;
    bob.is_refused(b, "a fourth", code, allow("four@a.example", true))
        .await;
    bob.does(b, block(a(), true)).await;
    bob.is_refused(b, "a second block", code, block(alice(), true))
        .await;
    world.end().await;
}

fn group_key_packages(a: &Provider, target: &str) -> Vec<u8> {
    let mut request = GroupKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: "a.example".parse().unwrap(),
        recipient: "b.example".parse().unwrap(),
        requester: user_id(ALICE),
        targets: List::new(vec![user_id(target)]).unwrap(),
        clients: List::empty(),
        cipher_suites: List::new(vec![CipherSuite::X25519_AES128GCM_ED25519]).unwrap(),
        connection_token: Opaque::empty(),
        provider_auth: ProviderAuth::blank(),
    };
    let (environment, endpoint) = (Environment::system(), Endpoint::GroupKeyPackages);
    a.keys()
        .sign_request(&environment, endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
    request.encode()
}

fn connection_key_packages(a: &Provider, target: &str) -> Vec<u8> {
    let mut request = ConnectionKeyPackageRequest {
        version: DsProtocolVersion::MOH1,
        sender: "a.example".parse().unwrap(),
        recipient: "b.example".parse().unwrap(),
        requester: user_id(ALICE),
        target: user_id(target),
        cipher_suites: List::new(vec![CipherSuite::X25519_AES128GCM_ED25519]).unwrap(),
        provider_auth: ProviderAuth::blank(),
    };
    let (environment, endpoint) = (Environment::system(), Endpoint::ConnectionKeyPackages);
    a.keys()
        .sign_request(&environment, endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
    request.encode()
}

/// Unknown, blocked, and without consent: the same bytes, but for the name that was asked for.
#[tokio::test]
async fn nobody_learns_who_exists() {
    let world = two().await;
    let (a_, b) = both(&world);
    // Names of one length.
    let there = ["bob0", "bob1", "bob2", "bob3"];
    for name in there {
        let client = world.user(&format!("{name}@b.example")).await;
        let alice = user_id(ALICE);
        match name {
            "bob1" => client.block_user(&alice).await.unwrap(),
            "bob2" => client.block_provider(&alice.provider()).await.unwrap(),
            "bob3" => client.set_consent(&alice, true).await.unwrap(),
            _ => {}
        }
    }
    let answer = async |endpoint, name: &str| {
        let target = format!("{name}@b.example");
        let body = match endpoint {
            Endpoint::GroupKeyPackages => group_key_packages(a_, &target),
            _ => connection_key_packages(a_, &target),
        };
        let answer = b.node().answer(endpoint, body.into()).await;
        let body = String::from_utf8_lossy(&answer.body).replace(name, "----");
        (answer.status, answer.retry_after_seconds, body)
    };
    let endpoint = Endpoint::GroupKeyPackages;
    let unknown = answer(endpoint, "bob9").await;
    for name in ["bob0", "bob1", "bob2"] {
        assert_eq!(answer(endpoint, name).await, unknown, "{name}");
    }
    assert_ne!(answer(endpoint, "bob3").await, unknown);
    let endpoint = Endpoint::ConnectionKeyPackages;
    let unknown = answer(endpoint, "bob9").await;
    for name in ["bob1", "bob2"] {
        assert_eq!(answer(endpoint, name).await, unknown, "{name}");
    }
    assert_ne!(answer(endpoint, "bob0").await, unknown);
    world.end().await;
}
