use super::scene::{Net, name, settle, status, text};
use super::*;
use crate::clock::SECOND_MS;

const WELL_KNOWN: &str = "b.example/.well-known/mimi/ds-domain";

fn federation(net: &Arc<Net>) -> Federation {
    Federation::new(
        PeerPolicy::default(),
        Arc::clone(net) as Arc<dyn Transport>,
        &net.environment(),
        &Limits::default(),
        &Background::default(),
    )
}

async fn is_at(federation: &Federation, domain: &str) -> Result<bool, Unreachable> {
    let b = name("b.example");
    federation.is_at(&b, |at| at == domain).await
}

/// Who has moved since it was looked up is looked up again, at most every few seconds.
#[tokio::test]
async fn where_a_provider_is() {
    let net = Net::new();
    let federation = federation(&net);
    net.says(WELL_KNOWN, text("one.example:8443", None));
    assert!(is_at(&federation, "one.example").await.unwrap());
    assert!(!is_at(&federation, "two.example").await.unwrap());
    assert_eq!(net.asked(WELL_KNOWN), 1);
    net.says(WELL_KNOWN, text("two.example", None));
    net.clock.pass(5 * SECOND_MS);
    assert!(is_at(&federation, "one.example").await.unwrap());
    assert_eq!(net.asked(WELL_KNOWN), 1);
    assert!(is_at(&federation, "two.example").await.unwrap());
    assert_eq!(net.asked(WELL_KNOWN), 2);
    assert!(!is_at(&federation, "one.example").await.unwrap());
    net.is_down(WELL_KNOWN);
    net.clock.pass(5 * SECOND_MS);
    assert!(
        !is_at(&federation, "one.example").await.unwrap(),
        "the last good answer"
    );
    let asked = net.asked(WELL_KNOWN);
    assert!(!is_at(&federation, "one.example").await.unwrap());
    assert_eq!(
        net.asked(WELL_KNOWN),
        asked,
        "nor is that asked for again at once"
    );
    let nobody = name("c.example");
    assert!(federation.is_at(&nobody, |_| true).await.is_err());
}

/// Only so many requests make us look for providers at once.
#[tokio::test]
async fn few_are_looked_for_at_once() {
    let net = Net::new();
    let federation = Arc::new(federation(&net));
    net.says("known.example/.well-known/mimi/ds-domain", status(404));
    let known = name("known.example");
    assert!(federation.is_at(&known, |_| true).await.unwrap());
    net.hold();
    let looking: Vec<_> = (0..MAX_LOOKING)
        .map(|number| {
            let federation = Arc::clone(&federation);
            let of = name(&format!("x{number}.example"));
            tokio::spawn(async move { federation.is_at(&of, |_| true).await })
        })
        .collect();
    settle().await;
    assert_eq!(net.questions(), MAX_LOOKING + 1);
    assert!(is_at(&federation, "b.example").await.is_err());
    let known = federation.is_at(&known, |at| at == "known.example");
    assert!(known.await.unwrap(), "those that are known are let in");
    assert_eq!(net.questions(), MAX_LOOKING + 1);
    net.release();
    for one in looking {
        assert!(one.await.unwrap().is_err());
    }
    net.says(WELL_KNOWN, status(404));
    assert!(is_at(&federation, "b.example").await.unwrap());
}

/// Whom we do not talk to is not asked for anything.
#[tokio::test]
async fn who_is_blocked_is_not_asked() {
    let net = Net::new();
    let federation = federation(&net);
    net.says(WELL_KNOWN, status(404));
    net.says("b.example/deliver_message", status(200));
    let b = name("b.example");
    let ask = || federation.ask(&b, Endpoint::DeliverMessage, Bytes::new());
    assert!(ask().await.is_ok());
    let asked = net.questions();
    federation.set_policy(PeerPolicy {
        block: ["b.example".parse().unwrap()].into(),
        ..PeerPolicy::default()
    });
    assert!(!federation.allows(&b));
    assert!(ask().await.is_err());
    assert_eq!(net.questions(), asked);
}
