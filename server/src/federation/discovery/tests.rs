use super::super::scene::{Net, name, settle, status, text};
use super::*;

const B: &str = "b.example/.well-known/mimi/ds-domain";

fn discovery(net: &Arc<Net>) -> Arc<Discovery> {
    let transport: Arc<dyn Transport> = Arc::clone(net) as Arc<dyn Transport>;
    let deadline = Duration::from_secs(5);
    Discovery::new(
        transport,
        net.environment(),
        deadline,
        Background::default(),
    )
}

async fn find(discovery: &Arc<Discovery>) -> Result<String, String> {
    let b = name("b.example");
    let found = discovery.ds_domain(&b, Failures::Count).await;
    found.map_err(|error| error.0)
}

async fn finds(discovery: &Arc<Discovery>, expected: &str) {
    assert_eq!(find(discovery).await.as_deref(), Ok(expected));
}

#[test]
fn ds_domains() {
    assert_eq!(
        read_ds_domain(" ds.a.example \n").as_deref(),
        Some("ds.a.example")
    );
    assert_eq!(
        read_ds_domain("a.example:8443").as_deref(),
        Some("a.example:8443")
    );
    for bad in [
        "",
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "127.1",
        "a.example:0",
        "a.example:65536",
        "a.example:",
        "[::1]:1",
        "https://a.example",
        "a.example/x",
        "a.example:08",
        "A.example",
        "user@a.example",
        "a.example b.example",
    ] {
        assert_eq!(read_ds_domain(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn what_the_well_known_says_counts() {
    let net = Net::new();
    let discovery = discovery(&net);
    net.says(B, text("ds.b.example:8443\n", None));
    finds(&discovery, "ds.b.example:8443").await;
    net.clock.pass(DAY_MS);
    net.says(B, status(404));
    finds(&discovery, "b.example").await;
    // Nothing else is an answer.
    for (times, bad) in (0..).zip([
        status(301),
        status(302),
        status(500),
        status(403),
        text("127.0.0.1", None),
        text("", None),
        text("https://b.example", None),
    ]) {
        let of = name(&format!("x{times}.example"));
        net.says(&format!("{of}/.well-known/mimi/ds-domain"), bad);
        assert!(discovery.ds_domain(&of, Failures::Count).await.is_err());
    }
}

/// An answer is good for as long as it says, but at least a minute and at most a day; for an hour
/// where it says nothing.
#[tokio::test]
async fn the_life_of_an_answer_has_bounds() {
    for (max_age, life) in [
        (None, HOUR_MS),
        (Some(0), MINUTE_MS),
        (Some(59), MINUTE_MS),
        (Some(600), 10 * MINUTE_MS),
        (Some(86_400), DAY_MS),
        (Some(u64::MAX), DAY_MS),
    ] {
        let net = Net::new();
        let discovery = discovery(&net);
        net.says(B, text("one.example", max_age));
        finds(&discovery, "one.example").await;
        net.says(B, text("two.example", max_age));
        net.clock.pass(life / 4 * 3 - 1);
        finds(&discovery, "one.example").await;
        settle().await;
        assert_eq!(net.asked(B), 1, "{max_age:?}: fresh");
        net.clock.pass(life / 4 + 1);
        finds(&discovery, "two.example").await;
        assert_eq!(net.asked(B), 2, "{max_age:?}: over");
    }
}

/// In its last quarter whoever uses an answer gets it at once, and it is asked for again meanwhile.
#[tokio::test]
async fn an_answer_is_refreshed_before_it_is_over() {
    let net = Net::new();
    let discovery = discovery(&net);
    net.says(B, text("one.example", None));
    finds(&discovery, "one.example").await;
    net.says(B, text("two.example", None));
    net.clock.pass(HOUR_MS / 4 * 3);
    net.hold();
    for _ in 0..3 {
        finds(&discovery, "one.example").await;
        settle().await;
    }
    assert_eq!(net.asked(B), 2, "once");
    net.release();
    settle().await;
    finds(&discovery, "two.example").await;
    assert_eq!(net.asked(B), 2);
    // What is not used is not asked for.
    net.clock.pass(DAY_MS);
    settle().await;
    assert_eq!(net.asked(B), 2);
}

#[tokio::test]
async fn many_who_want_to_know_ask_once() {
    let net = Net::new();
    let discovery = discovery(&net);
    net.says(B, text("one.example", None));
    net.hold();
    let mut all: Vec<_> = (0..32)
        .map(|_| {
            let discovery = Arc::clone(&discovery);
            tokio::spawn(async move { find(&discovery).await })
        })
        .collect();
    settle().await;
    // The first ones do not wait for it, the one who began it among them.
    let waiting = all.split_off(16);
    all.iter().for_each(|gone| gone.abort());
    settle().await;
    net.release();
    for one in waiting {
        assert_eq!(one.await.unwrap().as_deref(), Ok("one.example"));
    }
    assert_eq!(net.asked(B), 1);
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 1);
}

/// Failures are remembered for 5 seconds, then 10, and so on, up to 5 minutes; and forgotten when
/// the provider is heard of.
#[tokio::test]
async fn failures_are_remembered_for_longer_and_longer() {
    let net = Net::new();
    let discovery = discovery(&net);
    let b = name("b.example");
    for (times, life) in (1..).zip([5, 10, 20, 40, 80, 160, 300, 300]) {
        assert!(find(&discovery).await.is_err());
        net.clock.pass(life * SECOND_MS - 1);
        assert!(find(&discovery).await.is_err());
        assert_eq!(net.asked(B), times, "not again within {life} s");
        net.clock.pass(1);
    }
    assert!(find(&discovery).await.is_err());
    let asked = net.asked(B);
    discovery.heard_of(&b);
    assert!(find(&discovery).await.is_err());
    assert_eq!(net.asked(B), asked + 1);
    net.clock.pass(5 * SECOND_MS);
    net.says(B, status(404));
    finds(&discovery, "b.example").await;
    assert_eq!(net.asked(B), asked + 2, "it begins with 5 seconds again");
    // Somebody with a reason to ask does not have to wait.
    let other = name("c.example");
    for times in 1..4 {
        let found = discovery.ds_domain(&other, Failures::AreOver);
        assert!(found.await.is_err());
        assert_eq!(net.asked("c.example/.well-known/mimi/ds-domain"), times);
    }
}

/// While discovery fails, the last good answer stands in for it: for a week from when it was given.
#[tokio::test]
async fn the_last_good_answer_is_kept_through_an_outage() {
    let net = Net::new();
    let discovery = discovery(&net);
    net.says(B, text("one.example", None));
    finds(&discovery, "one.example").await;
    net.is_down(B);
    net.clock.pass(HOUR_MS);
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 2, "it was tried");
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 2, "and not again at once");
    net.clock.pass(7 * DAY_MS - HOUR_MS - 1);
    finds(&discovery, "one.example").await;
    settle().await;
    net.clock.pass(1);
    assert!(find(&discovery).await.is_err());
    net.clock.pass(5 * MINUTE_MS);
    assert!(find(&discovery).await.is_err());
    net.clock.pass(5 * MINUTE_MS);
    net.says(B, text("two.example", None));
    finds(&discovery, "two.example").await;
}

/// Through an outage only the first request waits until discovery has failed.
#[tokio::test]
async fn the_last_good_answer_is_there_at_once() {
    let net = Net::new();
    let discovery = discovery(&net);
    let b = name("b.example");
    net.says(B, text("one.example", None));
    finds(&discovery, "one.example").await;
    net.is_down(B);
    net.clock.pass(HOUR_MS);
    finds(&discovery, "one.example").await;
    // The provider is there, and its well-known is not.
    discovery.heard_of(&b);
    net.hold();
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 2);
    net.clock.pass(5 * SECOND_MS);
    finds(&discovery, "one.example").await;
    settle().await;
    assert_eq!(net.asked(B), 3, "it is tried meanwhile");
    net.says(B, text("two.example", None));
    net.release();
    settle().await;
    finds(&discovery, "two.example").await;
    // Who is not where it was, and is heard of, is looked for at once.
    net.is_down(B);
    net.clock.pass(5 * SECOND_MS);
    discovery.doubt(&b, "two.example");
    finds(&discovery, "two.example").await;
    let asked = net.asked(B);
    finds(&discovery, "two.example").await;
    assert_eq!(net.asked(B), asked);
    discovery.heard_of(&b);
    net.says(B, text("three.example", None));
    finds(&discovery, "three.example").await;
}

/// A failed refresh leaves what there is as it is.
#[tokio::test]
async fn a_refresh_that_fails_does_no_harm() {
    let net = Net::new();
    let discovery = discovery(&net);
    net.says(B, text("one.example", None));
    finds(&discovery, "one.example").await;
    net.is_down(B);
    net.clock.pass(HOUR_MS - MINUTE_MS);
    for _ in 0..3 {
        finds(&discovery, "one.example").await;
        settle().await;
    }
    assert_eq!(net.asked(B), 2, "it is not tried again at once");
    net.clock.pass(5 * SECOND_MS);
    finds(&discovery, "one.example").await;
    settle().await;
    assert_eq!(net.asked(B), 3);
}

/// Where nobody answers any more the provider may have moved.
#[tokio::test]
async fn a_failed_connection_leads_to_a_new_discovery() {
    let net = Net::new();
    let discovery = discovery(&net);
    let b = name("b.example");
    net.says(B, text("one.example", None));
    finds(&discovery, "one.example").await;
    discovery.doubt(&b, "one.example");
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 1, "that was only just found out");
    net.clock.pass(5 * SECOND_MS);
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 1);
    // It has not moved, or nobody can say, or it has.
    discovery.doubt(&b, "one.example");
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 2);
    net.clock.pass(5 * SECOND_MS);
    net.is_down(B);
    discovery.doubt(&b, "one.example");
    finds(&discovery, "one.example").await;
    assert_eq!(net.asked(B), 3);
    net.clock.pass(5 * SECOND_MS);
    net.says(B, text("two.example", None));
    finds(&discovery, "two.example").await;
    assert_eq!(net.asked(B), 4);
    // Who was on the way to where it was says nothing about where it is.
    net.clock.pass(5 * SECOND_MS);
    discovery.doubt(&b, "one.example");
    finds(&discovery, "two.example").await;
    assert_eq!(net.asked(B), 4);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_waited_for_long() {
    let net = Net::new();
    let discovery = discovery(&net);
    net.hold();
    let begun = tokio::time::Instant::now();
    let error = find(&discovery).await.unwrap_err();
    assert!(error.contains("too long"), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test]
async fn a_clock_that_is_put_back_does_not_make_anything_last() {
    let net = Net::new();
    let discovery = discovery(&net);
    assert!(find(&discovery).await.is_err());
    net.clock.go_back(DAY_MS);
    net.says(B, text("one.example", None));
    finds(&discovery, "one.example").await;
    net.clock.go_back(DAY_MS);
    net.says(B, text("two.example", None));
    finds(&discovery, "two.example").await;
}

/// Names that lead nowhere do not displace those that lead somewhere.
#[tokio::test]
async fn failures_displace_only_failures() {
    let net = Net::new();
    let discovery = discovery(&net);
    net.says(B, text("one.example", None));
    finds(&discovery, "one.example").await;
    for number in 0..MAX_PEERS.get() + 1 {
        let of = name(&format!("x{number}.example"));
        assert!(discovery.ds_domain(&of, Failures::Count).await.is_err());
    }
    assert_eq!(discovery.known().failed.len(), MAX_PEERS.get());
    let asked = net.questions();
    finds(&discovery, "one.example").await;
    assert_eq!(net.questions(), asked);
}
