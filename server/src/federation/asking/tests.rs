use std::time::Duration;

use super::super::flights::Background;
use super::super::scene::{Net, name, status, text};
use super::*;
use crate::clock::SECOND_MS;

const WELL_KNOWN: &str = "b.example/.well-known/mimi/ds-domain";

fn asking(net: &Arc<Net>) -> Arc<Asking> {
    let transport: Arc<dyn Transport> = Arc::clone(net) as Arc<dyn Transport>;
    let discovery = Discovery::new(
        Arc::clone(&transport),
        net.environment(),
        Duration::from_secs(5),
        Background::default(),
    );
    Asking::new(transport, discovery, 1 << 20)
}

fn of_protocol(status: u16) -> PeerResponse {
    PeerResponse {
        content_type: Some(CONTENT_TYPE.to_owned()),
        ..super::super::scene::status(status)
    }
}

async fn ask(asking: &Asking, endpoint: Endpoint) -> Result<PeerAnswer, Unreachable> {
    let (b, body) = (name("b.example"), Bytes::from_static(b"body"));
    asking.ask(&b, endpoint, body, Failures::Count).await
}

/// Where nobody answers, or somebody who is not meant, the provider has moved.
#[tokio::test]
async fn a_provider_that_has_moved_is_found() {
    let operation = Endpoint::GroupOperation;
    for moved in [None, Some(of_protocol(421)), Some(status(421))] {
        let net = Net::new();
        let asking = asking(&net);
        net.says(WELL_KNOWN, text("one.example", None));
        net.says("one.example/group_operation", of_protocol(200));
        assert!(ask(&asking, operation).await.is_ok());
        net.clock.pass(5 * SECOND_MS);
        match moved {
            None => net.is_down("one.example/group_operation"),
            Some(answer) => net.says("one.example/group_operation", answer),
        }
        net.says(WELL_KNOWN, text("two.example", None));
        net.says("two.example/group_operation", of_protocol(200));
        let first = ask(&asking, operation).await;
        assert!(first.is_err() || first.unwrap().status == 421);
        assert_eq!(net.asked(WELL_KNOWN), 1);
        assert_eq!(ask(&asking, operation).await.unwrap().status, 200);
        assert_eq!(
            (
                net.asked(WELL_KNOWN),
                net.asked("two.example/group_operation")
            ),
            (2, 1)
        );
    }
    // Any other answer is one.
    let net = Net::new();
    let asking = asking(&net);
    net.says(WELL_KNOWN, text("one.example", None));
    for code in [200, 403, 404, 500, 503] {
        net.says("one.example/group_operation", of_protocol(code));
        net.clock.pass(5 * SECOND_MS);
        assert_eq!(ask(&asking, operation).await.unwrap().status, code);
    }
    assert_eq!(net.asked(WELL_KNOWN), 1);
}

/// Who is where it was is not doubted any longer, even while its well-known is down.
#[tokio::test]
async fn a_provider_that_answers_again_is_where_it_was() {
    let operation = Endpoint::GroupOperation;
    let net = Net::new();
    let asking = asking(&net);
    net.says(WELL_KNOWN, text("one.example", None));
    assert!(ask(&asking, operation).await.is_err());
    net.clock.pass(5 * SECOND_MS);
    assert!(ask(&asking, operation).await.is_err());
    net.is_down(WELL_KNOWN);
    net.says("one.example/group_operation", of_protocol(200));
    assert!(ask(&asking, operation).await.is_ok());
    assert_eq!(net.asked(WELL_KNOWN), 2);
    net.clock.pass(5 * SECOND_MS);
    assert!(ask(&asking, operation).await.is_ok());
    assert_eq!(net.asked(WELL_KNOWN), 2);
}

/// Only bodies of the protocol are handed on, with everything else that counts.
#[tokio::test]
async fn what_an_answer_holds() {
    let net = Net::new();
    let asking = asking(&net);
    net.says(WELL_KNOWN, status(404));
    let answer = PeerResponse {
        max_age_seconds: Some(7),
        retry_after_seconds: Some(8),
        body: Bytes::from_static(b"answer"),
        ..of_protocol(503)
    };
    net.says("b.example/deliver_message", answer.clone());
    let got = ask(&asking, Endpoint::DeliverMessage).await.unwrap();
    let numbers = (got.status, got.max_age_seconds, got.retry_after_seconds);
    assert_eq!(numbers, (503, Some(7), Some(8)));
    assert_eq!(got.body.as_deref(), Some(&b"answer"[..]));
    let of_a_proxy = PeerResponse {
        content_type: Some("text/html".to_owned()),
        ..answer
    };
    net.says("b.example/deliver_message", of_a_proxy);
    let got = ask(&asking, Endpoint::DeliverMessage).await.unwrap();
    assert_eq!((got.body, got.retry_after_seconds), (None, Some(8)));
}

/// Where something on the way refuses a GET with a body, POST is used, and from then on.
#[tokio::test]
async fn who_refuses_get_is_asked_by_post() {
    let info = Endpoint::WelcomeInformation;
    for refusal in [400, 403, 405, 411, 415, 501] {
        let net = Net::new();
        let asking = asking(&net);
        net.says(WELL_KNOWN, status(404));
        net.says("GET b.example/welcome_information", status(refusal));
        net.says("b.example/welcome_information", of_protocol(200));
        for _ in 0..2 {
            assert_eq!(ask(&asking, info).await.unwrap().status, 200);
        }
        let asked = net.asked("GET b.example/welcome_information");
        assert_eq!((asked, net.asked("b.example/welcome_information")), (1, 2));
    }
    for answer in [of_protocol(403), status(404), status(503)] {
        let net = Net::new();
        let asking = asking(&net);
        net.says(WELL_KNOWN, status(404));
        net.says("GET b.example/welcome_information", answer.clone());
        assert_eq!(ask(&asking, info).await.unwrap().status, answer.status);
        assert_eq!(net.asked("b.example/welcome_information"), 0);
    }
}
