use std::time::Duration;

use moh_messages::{CONTENT_TYPE, List, Message, PublicKey, SignatureScheme};

use super::super::discovery::Discovery;
use super::super::scene::{Net, name, settle, status};
use super::super::transport::{PeerResponse, Transport};
use super::*;
use crate::clock::MINUTE_MS;

const KEYS: &str = "b.example/verification_key";

fn keys_of(net: &Arc<Net>) -> Arc<PeerKeys> {
    let transport: Arc<dyn Transport> = Arc::clone(net) as Arc<dyn Transport>;
    let (environment, background) = (net.environment(), Background::default());
    let discovery = Discovery::new(
        Arc::clone(&transport),
        environment.clone(),
        Duration::from_secs(5),
        background.clone(),
    );
    let asking = Asking::new(transport, discovery, 1 << 20);
    PeerKeys::new(asking, environment, background)
}

fn key(byte: u8) -> VerificationKey {
    let public_key = PublicKey::new(vec![byte; 32]).unwrap();
    VerificationKey {
        key_id: KeyId::new(sha256(public_key.as_slice())).unwrap(),
        scheme: SignatureScheme::ED25519,
        public_key,
        not_before: 0,
        not_after: u64::MAX,
    }
}

/// From now on a provider is at its name, and has these keys.
fn has(net: &Net, provider: &str, keys: &[u8], max_age_seconds: Option<u64>) {
    net.says(
        &format!("{provider}/.well-known/mimi/ds-domain"),
        status(404),
    );
    let response = VerificationKeyResponse {
        version: DsProtocolVersion::MOH1,
        provider: name(provider),
        keys: List::new(keys.iter().map(|byte| key(*byte)).collect()).unwrap(),
    };
    let answer = PeerResponse {
        content_type: Some(CONTENT_TYPE.to_owned()),
        max_age_seconds,
        body: response.encode().into(),
        ..status(200)
    };
    net.says(&format!("{provider}/verification_key"), answer);
}

fn knows(keys: &Arc<PeerKeys>, byte: u8) -> bool {
    keys.key(&name("b.example"), &key(byte).key_id).is_some()
}

/// When to try again, in milliseconds.
async fn refused(keys: &Arc<PeerKeys>, provider: &str) -> u64 {
    let fetched = keys.fetch(&name(provider)).await;
    fetched.unwrap_err().retry_after_ms
}

#[tokio::test]
async fn the_life_of_keys_has_bounds() {
    for (max_age, life) in [
        (None, HOUR_MS),
        (Some(0), 10 * SECOND_MS),
        (Some(600), 10 * MINUTE_MS),
        (Some(u64::MAX), DAY_MS),
    ] {
        let net = Net::new();
        let keys = keys_of(&net);
        has(&net, "b.example", &[1, 2], max_age);
        assert!(!knows(&keys, 1));
        keys.fetch(&name("b.example")).await.unwrap();
        assert!(knows(&keys, 1) && knows(&keys, 2) && !knows(&keys, 3));
        assert_eq!(keys.all(&name("b.example")).len(), 2);
        net.clock.pass(life - 1);
        net.is_down(KEYS);
        assert!(knows(&keys, 1), "{max_age:?}");
        settle().await;
        net.clock.pass(1);
        assert!(!knows(&keys, 1), "{max_age:?}");
        assert!(keys.all(&name("b.example")).is_empty());
    }
}

/// In their last quarter keys that are used are fetched again, and a failure of that does no harm.
#[tokio::test]
async fn keys_are_refreshed_before_they_are_over() {
    let net = Net::new();
    let keys = keys_of(&net);
    has(&net, "b.example", &[1], None);
    keys.fetch(&name("b.example")).await.unwrap();
    net.clock.pass(HOUR_MS / 4 * 3 - 1);
    assert!(knows(&keys, 1));
    settle().await;
    assert_eq!(net.asked(KEYS), 1, "fresh");
    net.clock.pass(1);
    net.is_down(KEYS);
    for _ in 0..3 {
        assert!(knows(&keys, 1));
        settle().await;
    }
    assert_eq!(net.asked(KEYS), 2, "once in an interval");
    net.clock.pass(INTERVAL_MS);
    has(&net, "b.example", &[1, 2], None);
    assert_eq!(keys.all(&name("b.example")).len(), 1);
    settle().await;
    assert_eq!(net.asked(KEYS), 2, "who only tells them does not use them");
    assert!(knows(&keys, 1));
    settle().await;
    assert!(knows(&keys, 2));
    net.clock.pass(HOUR_MS / 4 * 3 - 1);
    assert!(knows(&keys, 2), "they are good for as long again");
}

/// Whoever claims to be a provider makes us ask that one at most once in an interval, whatever
/// comes of it.
#[tokio::test]
async fn a_provider_is_asked_once_in_an_interval() {
    let net = Net::new();
    let keys = keys_of(&net);
    // It does not answer.
    assert_eq!(refused(&keys, "b.example").await, INTERVAL_MS);
    let well_known = "b.example/.well-known/mimi/ds-domain";
    net.clock.pass(INTERVAL_MS - 1_500);
    assert_eq!(refused(&keys, "b.example").await, 1_500);
    assert_eq!(net.asked(well_known), 1);
    net.clock.pass(1_500);
    for times in 2..6 {
        assert_eq!(refused(&keys, "b.example").await, INTERVAL_MS);
        assert_eq!(net.asked(well_known), times);
        net.clock.pass(INTERVAL_MS);
    }
    // It does again: nothing that failed before stands in the way.
    has(&net, "b.example", &[1], None);
    keys.fetch(&name("b.example")).await.unwrap();
    assert!(knows(&keys, 1));
    // A key that it does not have is asked for in vain, at most once.
    for _ in 0..3 {
        net.clock.pass(1);
        assert_eq!(refused(&keys, "b.example").await / 1_000, 9);
    }
    assert_eq!(net.asked(KEYS), 1);
    net.clock.pass(INTERVAL_MS);
    keys.fetch(&name("b.example")).await.unwrap();
    assert_eq!(net.asked(KEYS), 2);
    net.clock.go_back(HOUR_MS);
    keys.fetch(&name("b.example")).await.unwrap();
    assert_eq!(net.asked(KEYS), 3, "a clock that was put back");
}

#[tokio::test]
async fn many_who_want_to_know_ask_once() {
    let net = Net::new();
    let keys = keys_of(&net);
    has(&net, "b.example", &[1], None);
    net.hold();
    let all: Vec<_> = (0..32)
        .map(|_| {
            let keys = Arc::clone(&keys);
            tokio::spawn(async move { keys.fetch(&name("b.example")).await })
        })
        .collect();
    settle().await;
    net.release();
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(net.asked(KEYS), 1);
}

/// Who claims to be many providers makes us ask only so many at once; and those that we know are
/// asked all the same.
#[tokio::test]
async fn few_strangers_are_asked_at_once() {
    let net = Net::new();
    let keys = keys_of(&net);
    has(&net, "b.example", &[1], None);
    keys.fetch(&name("b.example")).await.unwrap();
    net.clock.pass(INTERVAL_MS);
    let asked = net.questions();
    net.hold();
    let stranger = |number: usize| format!("x{number}.example");
    let waiting: Vec<_> = (0..MAX_AT_ONCE)
        .map(|number| {
            let keys = Arc::clone(&keys);
            tokio::spawn(async move { keys.fetch(&name(&stranger(number))).await })
        })
        .collect();
    settle().await;
    assert_eq!(net.questions(), asked + MAX_AT_ONCE);
    assert_eq!(refused(&keys, "late.example").await, BUSY_MS);
    assert_eq!(net.questions(), asked + MAX_AT_ONCE);
    let known = {
        let keys = Arc::clone(&keys);
        tokio::spawn(async move { keys.fetch(&name("b.example")).await })
    };
    settle().await;
    assert_eq!(net.questions(), asked + MAX_AT_ONCE + 1);
    net.release();
    known.await.unwrap().unwrap();
    for stranger in waiting {
        assert!(stranger.await.unwrap().is_err());
    }
    // There is room again.
    has(&net, "late.example", &[7], None);
    keys.fetch(&name("late.example")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_waited_for_long() {
    let net = Net::new();
    let keys = keys_of(&net);
    has(&net, "b.example", &[1], None);
    let of = name("b.example");
    let domain = keys.asking.ask(
        &of,
        Endpoint::GroupOperation,
        Vec::new().into(),
        Failures::Count,
    );
    assert!(
        domain.await.is_err(),
        "it is found, and has no such endpoint"
    );
    net.hold();
    let begun = tokio::time::Instant::now();
    let error = keys.fetch(&of).await.unwrap_err();
    assert!(error.reason.contains("too long"), "{error}");
    assert_eq!(begun.elapsed(), DEADLINE);
    net.release();
    net.clock.pass(INTERVAL_MS);
    keys.fetch(&of).await.unwrap();
}

/// What is no answer of that provider leaves what is known as it is.
#[tokio::test]
async fn only_a_provider_itself_tells_its_keys() {
    let net = Net::new();
    let keys = keys_of(&net);
    has(&net, "b.example", &[1], None);
    keys.fetch(&name("b.example")).await.unwrap();
    let response = |provider: &str, key: VerificationKey| {
        let response = VerificationKeyResponse {
            version: DsProtocolVersion::MOH1,
            provider: name(provider),
            keys: List::new(vec![key]).unwrap(),
        };
        PeerResponse {
            content_type: Some(CONTENT_TYPE.to_owned()),
            body: response.encode().into(),
            ..status(200)
        }
    };
    let good = response("b.example", key(2));
    for bad in [
        response("c.example", key(2)),
        PeerResponse {
            status: 500,
            ..good.clone()
        },
        PeerResponse {
            content_type: Some("text/html".to_owned()),
            ..good.clone()
        },
        PeerResponse {
            body: good.body.slice(1..),
            ..good.clone()
        },
    ] {
        net.clock.pass(INTERVAL_MS);
        net.says(KEYS, bad);
        assert!(keys.fetch(&name("b.example")).await.is_err());
        assert!(knows(&keys, 1) && !knows(&keys, 2));
    }
    // A key whose id is not its own is none.
    net.clock.pass(INTERVAL_MS);
    let misnamed = VerificationKey {
        key_id: key(3).key_id,
        ..key(2)
    };
    net.says(KEYS, response("b.example", misnamed));
    keys.fetch(&name("b.example")).await.unwrap();
    assert!(keys.all(&name("b.example")).is_empty());
}
