//! Which providers are talked to.

use moh_client::Error;
use moh_messages::{
    DsAuth, DsErrorCode, DsProtocolVersion, DsRequest, DsRequestBody, DsResponse, DsResponseBody,
    Endpoint, ExternalCommitInfo, GroupId, Message, Opaque, ProviderAuth, Signature,
};
use moh_server::federation::{Admission, PeerPolicy};

use crate::claims::{for_connection, for_group};
use crate::listen::{hear_some, hear_until, hears_nothing, joined, say, texts, until};
use crate::raw::{Raw, forward, full, message, request};
use crate::world::{Provider, World, user_id};

/// Everybody but these.
fn all_but(blocked: &[&str]) -> PeerPolicy {
    PeerPolicy {
        block: blocked.iter().map(|p| p.parse().unwrap()).collect(),
        ..PeerPolicy::default()
    }
}

/// Nobody but these.
fn only(allowed: &[&str]) -> PeerPolicy {
    PeerPolicy {
        admission: Admission::AllowListed,
        allow: allowed.iter().map(|p| p.parse().unwrap()).collect(),
        ..PeerPolicy::default()
    }
}

async fn ask(of: &Provider, endpoint: Endpoint, body: Vec<u8>) -> Result<(), DsErrorCode> {
    let answer = of.node().answer(endpoint, body.into()).await;
    match DsResponse::decode(&answer.body).map(|response| response.body) {
        Ok(DsResponseBody::Error(error)) => {
            assert_eq!(Some(answer.status), error.code.http_status());
            Err(error.code)
        }
        _ => Ok(()),
    }
}

/// A request for a group of a.example by a client of b.example.
pub(crate) fn for_info(auth: DsAuth) -> Vec<u8> {
    let group_id = GroupId::new(vec![7; 32]).unwrap();
    let request = DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: "b.example".parse().unwrap(),
        recipient: "a.example".parse().unwrap(),
        group_state_key: Opaque::empty(),
        body: DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id }),
        auth,
    };
    request.encode()
}

/// A signature of a leaf that is not there.
pub(crate) fn of_nobody() -> DsAuth {
    DsAuth::Leaf {
        leaf_index: 0,
        signature: Signature::new(vec![7; 64]).unwrap(),
    }
}

/// Whatever a provider that is not talked to asks is refused, before anything is fetched from it or
/// verified: here its signatures are none.
#[tokio::test]
async fn who_is_not_talked_to_is_refused_at_every_endpoint() {
    let world = World::of(&["a.example", "b.example"]).await;
    let (a, b) = (world.provider("a.example"), world.provider("b.example"));
    let (alice, bob) = (user_id("alice@a.example"), user_id("bob@b.example"));
    let raw = Raw::user(a, "alice@a.example").await;
    let queue = raw.queue(a).await;
    let by_provider = DsAuth::Provider {
        on_behalf_of: "mimi://b.example/d/bob/phone".parse().unwrap(),
        provider_auth: ProviderAuth::blank(),
    };
    let info = Endpoint::ExternalCommitInformation;
    let requests = [
        (info, for_info(of_nobody()), Err(DsErrorCode::UNKNOWN_GROUP)),
        (
            info,
            for_info(by_provider),
            Err(DsErrorCode::UNAUTHENTICATED),
        ),
        (
            Endpoint::GroupKeyPackages,
            for_group(b, &bob, &alice),
            Ok(()),
        ),
        (
            Endpoint::ConnectionKeyPackages,
            for_connection(b, &bob, &alice),
            Ok(()),
        ),
    ];
    let deliveries = [
        (Endpoint::DeliverMessage, message(full(&[&queue]), "x")),
        (
            Endpoint::ConnectionRequest,
            request(full(&[&queue]), "bob@b.example", "alice@a.example"),
        ),
    ];
    for policy in [all_but(&["b.example"]), only(&["c.example", "*.b.example"])] {
        a.node().set_peer_policy(policy).await;
        assert!(!a.node().may_talk_to(b.node().name()));
        assert!(a.node().may_talk_to(a.node().name()), "to itself");
        for (endpoint, body, _) in &requests {
            let refused = ask(a, *endpoint, body.clone()).await;
            assert_eq!(refused, Err(DsErrorCode::UNAUTHORIZED), "{endpoint:?}");
        }
        for (endpoint, delivery) in &deliveries {
            let refused = b.delivers(a, *endpoint, std::slice::from_ref(delivery));
            assert_eq!(refused.await, Err(DsErrorCode::UNAUTHORIZED));
        }
        // Its keys it tells everybody: there is no knowing who asks.
        let told = ask(a, Endpoint::VerificationKey, Vec::new()).await;
        assert_eq!(told, Ok(()));
    }
    assert_eq!(a.wire.requests("b.example"), 0, "nothing was fetched");
    assert_eq!(raw.reads(a).await.len(), 0);
    // The same requests, when it is talked to.
    a.node().set_peer_policy(only(&["b.example"])).await;
    for (endpoint, body, expected) in requests {
        assert_eq!(ask(a, endpoint, body).await, expected, "{endpoint:?}");
    }
    for (endpoint, delivery) in deliveries {
        assert!(b.delivers(a, endpoint, &[delivery]).await.is_ok());
    }
    world.end().await;
}

/// Nor is it asked for anything in the name of our clients.
#[tokio::test]
async fn who_is_not_talked_to_is_not_asked() {
    let world = World::of(&["a.example", "b.example"]).await;
    let b = world.provider("b.example");
    let raw = Raw::user(b, "raw@b.example").await;
    b.node().set_peer_policy(all_but(&["a.example"])).await;
    let endpoint = Endpoint::VerificationKey;
    let ask = || forward("a.example", endpoint, &[]);
    let unauthorized = DsErrorCode::UNAUTHORIZED;
    raw.is_refused(b, "blocked", unauthorized, ask()).await;
    assert_eq!(b.wire.requests("a.example"), 0, "not even where it is");
    b.node().set_peer_policy(PeerPolicy::default()).await;
    let (status, _) = raw.forwards(b, "a.example", endpoint, &[]).await.unwrap();
    assert_eq!(status, 200);
    world.end().await;
}

/// What is for a provider that is not talked to any more waits, and goes out when it is again.
#[tokio::test]
async fn what_is_for_a_blocked_provider_waits() {
    let world = World::of(&["a.example", "b.example", "c.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let carol = world.user("carol@c.example").await;
    let group = world.group(&alice, &[&bob, &carol]).await;
    assert!(joined(&hear_some(&carol, 1).await[0], &group, 2));
    hear_some(&bob, 2).await;
    let a = world.provider("a.example");
    let batches = a.wire.batches("b.example").len();
    a.node().set_peer_policy(all_but(&["b.example"])).await;
    for text in ["one", "two", "three"] {
        say(&group, &alice, &[&carol], text).await;
    }
    assert_eq!(a.wire.batches("b.example").len(), batches, "nothing left");
    hears_nothing(&bob).await;
    a.node().set_peer_policy(PeerPolicy::default()).await;
    let heard = texts(&hear_until(&bob, "three").await);
    let heard: Vec<_> = heard.into_iter().map(|(_, text)| text).collect();
    assert_eq!(heard, ["one", "two", "three"]);
    world.end().await;
}

/// Who blocks by mistake loses nothing: the other side keeps what it has.
#[tokio::test]
async fn what_a_blocked_provider_has_for_us_stays_with_it() {
    let world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let group = world.group(&alice, &[&bob]).await;
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    let (a, b) = (world.provider("a.example"), world.provider("b.example"));
    b.node().set_peer_policy(all_but(&["a.example"])).await;
    let before = a.wire.batches("b.example").len();
    alice.send(&group, "one").await.unwrap();
    // It has been refused at least once.
    until("it is refused", async || {
        let refused = b.answers.refusals();
        let key = ("deliver_message", "unauthorized".to_owned());
        refused.contains_key(&key)
    })
    .await;
    assert!(a.wire.batches("b.example").len() > before);
    hears_nothing(&bob).await;
    b.node().set_peer_policy(PeerPolicy::default()).await;
    alice.send(&group, "two").await.unwrap();
    let heard = texts(&hear_until(&bob, "two").await);
    assert_eq!(heard.len(), 2, "{heard:?}");
    world.end().await;
}

/// A client of a provider that the owner does not talk to does not get into a group of its, whoever
/// adds it; those who are in it stay.
#[tokio::test]
async fn clients_of_a_blocked_provider_are_not_added() {
    let world = World::of(&["a.example", "b.example", "c.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let [carol, chloe] = [
        world.user("carol@c.example").await,
        world.user("chloe@c.example").await,
    ];
    let group = world.group(&alice, &[&bob, &carol]).await;
    hear_some(&bob, 2).await;
    hear_some(&carol, 1).await;
    let a = world.provider("a.example");
    let asked = || a.wire.asked("c.example", Endpoint::VerificationKey);
    let before = asked();
    assert!(before > 0, "its keys are known");
    a.node().set_peer_policy(all_but(&["c.example"])).await;
    chloe.set_consent(bob.user_id(), true).await.unwrap();
    let refused = bob.add_user(&group, chloe.user_id()).await.unwrap_err();
    let is_unauthorized = matches!(
        &refused,
        Error::Refused { error, .. } if error.code == DsErrorCode::UNAUTHORIZED
    );
    assert!(is_unauthorized, "{refused:?}");
    assert_eq!(asked(), before);
    say(&group, &bob, &[&alice], "we go on").await;
    a.node().set_peer_policy(PeerPolicy::default()).await;
    bob.add_user(&group, chloe.user_id()).await.unwrap();
    assert!(joined(&hear_some(&chloe, 1).await[0], &group, 3));
    world.end().await;
}
