//! `moh admin`, as an operator uses it: providers as processes, and the command as another one.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Output;

use common::device::Device;
use common::member::{Member, Received};
use common::scene::{add, invite};
use common::server::Server;
use common::stand_in::StandIn;
use common::{PATIENCE, in_time};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

const SOCKET: &str = "moh.sqlite.sock";
/// A request that will never be taken, and one that is to be made in an hour again.
const TOO_LARGE: &str = "HTTP/1.1 413 Payload Too Large";
const IN_AN_HOUR: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600";

/// `moh admin ARGUMENTS --socket ...`, for a provider.
async fn admin(server: &Server, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_moh"))
        .env_remove("MOH_LOG")
        .arg("admin")
        .args(arguments)
        .arg("--socket")
        .arg(server.path(SOCKET))
        .kill_on_drop(true)
        .output();
    in_time("moh admin", output).await.unwrap()
}

/// What it prints for people.
async fn text(server: &Server, arguments: &[&str]) -> String {
    let output = admin(server, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert_eq!(output.stderr, b"");
    String::from_utf8(output.stdout).unwrap()
}

/// What it prints for programs.
async fn json(server: &Server, arguments: &[&str]) -> Value {
    let text = text(server, &[arguments, &["--json"]].concat()).await;
    assert_eq!(text.lines().count(), 1, "one object, on one line");
    serde_json::from_str(&text).unwrap()
}

/// Why it failed.
async fn failure(server: &Server, arguments: &[&str]) -> String {
    let output = admin(server, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What it prints for programs, once that is as it has to become.
async fn until(server: &Server, arguments: &[&str], is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = json(server, arguments).await;
        if is_so(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{arguments:?}: still {answer}");
    }
}

/// b.example, as `moh admin peers` of a.example has it.
fn b_in(peers: &Value) -> &Value {
    let mut all = peers["peers"].as_array().unwrap().iter();
    all.find(|peer| peer["provider"] == "b.example")
        .unwrap_or(&Value::Null)
}

/// Alice at a.example, which owns the group, and Bob at b.example.
struct Pair {
    a: Server,
    b: Server,
    alice: Member,
    bob: Member,
}

impl Pair {
    async fn set() -> Self {
        let (a, b) = Server::start_two().await;
        let alice = Device::register(&a, "alice/phone").await;
        let bob = invite(&b, "bob/phone", &alice).await;
        let (mut alice, request) = Member::create(alice).await;
        let http = &alice.device.http;
        http.post("/group_operation", &request).await.ok();
        let bob = add(&mut alice, bob).await;
        Self { a, b, alice, bob }
    }

    /// A message of Alice's that her provider has taken; its bytes.
    async fn send(&mut self, text: &str) -> Vec<u8> {
        let (request, message) = self.alice.message(text);
        let http = &self.alice.device.http;
        http.post("/group_operation", &request).await.ok();
        message
    }

    /// The next that comes to Bob are these messages.
    async fn assert_come(&mut self, texts: &[&str]) {
        let items = self.bob.device.next(texts.len()).await;
        let got: Vec<_> = items.iter().map(|item| self.bob.receive(item)).collect();
        let expected = texts.iter().map(|text| Received::Text((*text).to_owned()));
        assert_eq!(got, expected.collect::<Vec<_>>());
    }

    /// Messages that Bob's provider seems to refuse for good: they are set aside. Their numbers.
    async fn have_refused(&mut self, texts: &[&str]) -> Vec<String> {
        self.b.kill().await;
        let stand_in = StandIn::of(&self.b, TOO_LARGE).await;
        for text in texts {
            self.send(text).await;
        }
        let count = |page: &Value| page["set_aside"].as_array().unwrap().len();
        let page = until(&self.a, &["outbox"], |page| count(page) == texts.len()).await;
        drop(stand_in);
        let all = page["set_aside"].as_array().unwrap().iter();
        all.map(|delivery| delivery["id"].to_string()).collect()
    }
}

#[tokio::test]
async fn a_provider_that_is_down_is_failing_until_it_is_back() {
    let mut pair = Pair::set().await;
    pair.b.kill().await;
    pair.send("while it is down").await;
    let peers = until(&pair.a, &["peers"], |peers| {
        b_in(peers)["state"] == "failing"
    })
    .await;
    assert_eq!(peers["provider"], "a.example");
    let b = b_in(&peers);
    let time = |value: &Value| value.as_u64().unwrap();
    let now = time(&peers["now_ms"]);
    assert_eq!(b["waiting"], 1);
    assert!(
        time(&b["waiting_bytes"]) > 0 && time(&b["failures"]) > 0,
        "{b}"
    );
    assert!(time(&b["oldest_at_ms"]) <= time(&b["since_ms"]), "{b}");
    assert!(time(&b["since_ms"]) <= now, "{b}");
    assert!(
        time(&b["last_alive_at_ms"]) <= time(&b["oldest_at_ms"]),
        "{b}"
    );
    assert!(b["next_try_at_ms"].is_u64() && !b["reason"].as_str().unwrap().is_empty());

    let table = text(&pair.a, &["peers"]).await;
    let lines: Vec<_> = table.lines().collect();
    assert!(
        lines[0].starts_with("PROVIDER   STATE    WAITING"),
        "{table}"
    );
    assert!(
        lines[1].starts_with("b.example  failing        1"),
        "{table}"
    );
    assert!(
        lines[2].contains("next try ") && lines[2].contains(" failure"),
        "{table}"
    );
    assert!(
        table.contains("1 provider, 1 failing; 1 delivery waits ("),
        "{table}"
    );
    assert!(
        lines.iter().all(|line| line.chars().count() <= 100),
        "{table}"
    );

    pair.b.restart().await;
    pair.assert_come(&["while it is down"]).await;
    let nothing_waits = |peers: &Value| b_in(peers)["waiting"].as_u64().unwrap_or(0) == 0;
    let peers = until(&pair.a, &["peers"], nothing_waits).await;
    assert_ne!(b_in(&peers)["state"], "failing");
}

#[tokio::test]
async fn a_provider_that_wants_to_be_left_alone_is_tried_when_the_operator_says_so() {
    let mut pair = Pair::set().await;
    pair.b.kill().await;
    let stand_in = StandIn::of(&pair.b, IN_AN_HOUR).await;
    pair.send("now").await;
    let in_an_hour = |peers: &Value| {
        let next = b_in(peers)["next_try_at_ms"].as_u64().unwrap_or(0);
        next > peers["now_ms"].as_u64().unwrap() + 3_500_000
    };
    until(&pair.a, &["peers"], in_an_hour).await;
    let table = text(&pair.a, &["peers"]).await;
    assert!(
        table.contains("next try in 59 min: ") || table.contains("next try in 1 h: "),
        "{table}"
    );
    drop(stand_in);
    pair.b.restart().await;
    let said = text(&pair.a, &["retry", "--now", "b.example"]).await;
    assert_eq!(said, "b.example is tried now\n");
    pair.assert_come(&["now"]).await;
    until(&pair.a, &["peers"], |peers| {
        b_in(peers)["waiting"].as_u64().unwrap_or(0) == 0
    })
    .await;
    assert_eq!(
        json(&pair.a, &["retry", "--now", "b.example"]).await,
        json!({"woken": false})
    );
}

/// What waits for a provider that is blocked is held back, and not lost.
#[tokio::test]
async fn a_provider_that_is_blocked_is_paused_until_it_is_not() {
    let mut pair = Pair::set().await;
    let (b, roots) = (&pair.b, [pair.a.path("ca.pem"), pair.b.path("ca.pem")]);
    let federation = format!(
        "[federation]\nallow_private_addresses = true\nextra_roots = {roots:?}\n\
         hosts = {{ \"b.example\" = \"{}\" }}\n",
        b.address
    );
    pair.a.configure(&federation).await;
    let config = pair.a.path("moh.toml");
    let open = std::fs::read_to_string(&config).unwrap();
    let blocked = open.replace("[federation]\n", "[federation]\nblock = [\"b.example\"]\n");
    std::fs::write(&config, blocked).unwrap();
    assert_eq!(json(&pair.a, &["reload"]).await["changed"], true);
    pair.send("held back").await;
    let peers = until(&pair.a, &["peers"], |peers| {
        b_in(peers)["state"] == "paused"
    })
    .await;
    assert_eq!(b_in(&peers)["waiting"], 1);
    let table = text(&pair.a, &["peers"]).await;
    assert!(table.contains("\nb.example  paused        1"), "{table}");
    assert_eq!(pair.bob.device.read(0).await, []);

    std::fs::write(&config, open).unwrap();
    assert_eq!(json(&pair.a, &["reload"]).await["changed"], true);
    pair.assert_come(&["held back"]).await;
}

#[tokio::test]
async fn what_was_refused_for_good_arrives_when_it_is_retried() {
    let mut pair = Pair::set().await;
    let ids = pair.have_refused(&["one", "two", "three"]).await;
    let page = json(&pair.a, &["outbox"]).await;
    let group = hex::encode(pair.alice.group.group_id().as_slice());
    for delivery in page["set_aside"].as_array().unwrap() {
        assert_eq!(delivery["provider"], "b.example");
        assert_eq!(delivery["kind"], "message");
        assert_eq!(delivery["group"], *group);
        assert_eq!(delivery["ending"], "request_refused");
        assert_eq!(delivery["can_be_retried"], true);
        assert!(delivery["bytes"].as_u64().unwrap() > 0);
        assert!(delivery["created_at_ms"].as_u64() <= delivery["set_aside_at_ms"].as_u64());
        assert!(
            delivery["reason"].as_str().unwrap().contains("413"),
            "{delivery}"
        );
    }
    let table = text(&pair.a, &["outbox"]).await;
    assert!(
        table.contains("RETRY\n") && table.contains("413"),
        "{table}"
    );
    assert!(table.contains("b.example  message"), "{table}");
    assert!(
        table.lines().all(|line| line.chars().count() <= 100),
        "{table}"
    );
    let summary = text(&pair.a, &["peers"]).await;
    assert!(
        summary.ends_with("3 set aside need you: moh admin outbox\n"),
        "{summary}"
    );

    // By pages, and by provider.
    let page = json(&pair.a, &["outbox", "--limit", "2"]).await;
    assert_eq!(page["set_aside"][1]["id"].to_string(), ids[1]);
    let after = page["next_after"].to_string();
    let rest = json(
        &pair.a,
        &["outbox", "--after", &after, "--peer", "b.example"],
    )
    .await;
    assert_eq!(rest["set_aside"][0]["id"].to_string(), ids[2]);
    assert_eq!(rest["next_after"], Value::Null);
    let other = text(&pair.a, &["outbox", "--peer", "c.example"]).await;
    assert_eq!(other, "nothing is set aside\n");

    // What is new goes first.
    pair.b.restart().await;
    pair.send("four").await;
    pair.assert_come(&["four"]).await;
    assert_eq!(
        text(&pair.a, &["retry", &ids[1]]).await,
        "1 delivery retried\n"
    );
    pair.assert_come(&["two"]).await;
    let all = json(&pair.a, &["retry", "--all", "b.example"]).await;
    assert_eq!(all, json!({"count": 2}));
    pair.assert_come(&["one", "three"]).await;
    assert_eq!(text(&pair.a, &["outbox"]).await, "nothing is set aside\n");
    let none = text(&pair.a, &["retry", "--all", "b.example"]).await;
    assert_eq!(none, "nothing is set aside for b.example\n");
    let why = failure(&pair.a, &["retry", &ids[0]]).await;
    assert!(why.contains("1 of 1 cannot be retried"), "{why}");
}

#[tokio::test]
async fn what_is_dropped_is_gone() {
    let mut pair = Pair::set().await;
    let ids = pair.have_refused(&["one", "two", "three", "four"]).await;
    assert_eq!(
        text(&pair.a, &["drop", &ids[0], &ids[2]]).await,
        "2 deliveries dropped\n"
    );
    let page = json(&pair.a, &["outbox"]).await;
    let left = page["set_aside"].as_array().unwrap().iter();
    let left: Vec<_> = left.map(|delivery| delivery["id"].to_string()).collect();
    assert_eq!(left, [ids[1].clone(), ids[3].clone()]);
    // Some are there, and some are not.
    let output = admin(&pair.a, &["drop", &ids[0], &ids[1], "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"{\"count\":1}\n");
    pair.b.restart().await;
    assert_eq!(
        text(&pair.a, &["retry", "--all", "b.example"]).await,
        "1 delivery retried\n"
    );
    pair.assert_come(&["four"]).await;
    pair.send("five").await;
    pair.assert_come(&["five"]).await;
}

#[tokio::test]
async fn the_socket_is_its_owners_and_goes_with_the_provider() {
    let mut server = Server::start("a.example").await;
    let socket = server.path(SOCKET);
    let about = std::fs::symlink_metadata(&socket).unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    let nothing = "nothing waits for another provider, and nothing is set aside\n";
    assert_eq!(text(&server, &["peers"]).await, nothing);

    // What is left behind by a process that was killed is in nobody's way.
    server.kill().await;
    assert!(socket.exists());
    let why = failure(&server, &["peers"]).await;
    assert!(
        why.contains("nobody listens on") && why.contains(SOCKET),
        "{why}"
    );
    server.restart().await;
    assert_eq!(text(&server, &["peers"]).await, nothing);

    server.signal(Signal::TERM);
    assert!(server.exit().await.success());
    assert!(!socket.exists());
    assert!(
        failure(&server, &["policy"])
            .await
            .contains("does the provider run?")
    );
}

#[tokio::test]
async fn a_socket_that_cannot_be_made_is_said_at_the_start() {
    let mut server = Server::start("a.example").await;
    server.kill().await;
    std::fs::remove_file(server.path(SOCKET)).unwrap();
    std::fs::write(server.path(SOCKET), "a letter").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_moh"))
        .args([
            "serve",
            "--dev",
            "--name",
            "a.example",
            "--listen",
            "127.0.0.1:0",
        ])
        .arg("--data")
        .arg(server.path(""))
        .kill_on_drop(true)
        .output();
    let output = in_time("the end", output).await.unwrap();
    assert!(!output.status.success());
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("not a socket"), "{why}");
    assert_eq!(std::fs::read(server.path(SOCKET)).unwrap(), b"a letter");
}

#[tokio::test]
async fn the_policy_is_read_again_when_the_operator_says_so() {
    let server = Server::start_with("a.example", "").await;
    let open = json!({"policy": "open", "allow": [], "block": []});
    assert_eq!(json(&server, &["policy"]).await, open);
    let path = server.path("moh.toml");
    let before = std::fs::read_to_string(&path).unwrap();

    let block = "[federation]\nblock = [\"spam.example\", \"*.bad.example\"]\n";
    std::fs::write(&path, format!("{before}{block}")).unwrap();
    assert_eq!(
        json(&server, &["policy"]).await,
        open,
        "it was not told yet"
    );
    let blocked = json!({
        "policy": "open", "allow": [], "block": ["spam.example", "*.bad.example"],
    });
    let reloaded = json(&server, &["reload"]).await;
    let expected = json!({"changed": true, "policy": blocked, "need_restart": []});
    assert_eq!(reloaded, expected);
    assert_eq!(json(&server, &["policy"]).await, blocked);

    // A mistake changes nothing, and is shown.
    let mistake = block.replace("*.bad", "*bad");
    std::fs::write(&path, format!("{before}{mistake}")).unwrap();
    let why = failure(&server, &["reload"]).await;
    assert!(
        why.contains("*bad.example") && why.contains("line"),
        "{why}"
    );
    assert_eq!(json(&server, &["policy"]).await, blocked);

    let more = format!("registration = \"open\"\n{before}{block}");
    std::fs::write(&path, more).unwrap();
    let said = text(&server, &["reload"]).await;
    assert!(
        said.starts_with("the policy is as it was:\npolicy  open"),
        "{said}"
    );
    assert!(said.ends_with("restart: registration\n"), "{said}");
}

/// `--config` finds the socket that the configuration names, with or without mistakes in it.
#[tokio::test]
async fn the_configuration_says_where_the_socket_is() {
    let server = Server::start_with("a.example", "[admin]\nsocket = \"operator\"").await;
    assert!(server.path("operator").exists());
    let config = server.path("moh.toml");
    let policy = async || {
        let output = Command::new(env!("CARGO_BIN_EXE_moh"))
            .args(["admin", "policy", "--config"])
            .arg(&config)
            .kill_on_drop(true)
            .output();
        in_time("moh admin", output).await.unwrap()
    };
    let open =
        "policy  open: all providers may, but those that are blocked\nallow   -\nblock   -\n";
    assert_eq!(String::from_utf8(policy().await.stdout).unwrap(), open);
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("colour = \"red\"\n{before}")).unwrap();
    assert_eq!(String::from_utf8(policy().await.stdout).unwrap(), open);
    std::fs::write(&config, before.replace("\"operator\"", "\"\"")).unwrap();
    let output = policy().await;
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("[admin] socket is off"), "{why}");
}

/// Programs may speak to the socket without the command.
#[tokio::test]
async fn what_the_socket_does_not_take_is_a_problem_with_its_reason() {
    let server = Server::start("a.example").await;
    let client = reqwest::Client::builder();
    let client = client.unix_socket(server.path(SOCKET)).build().unwrap();
    for (method, path, body, status, reason) in [
        ("GET", "/", "", 404, "nothing here"),
        ("POST", "/peers", "", 405, "method"),
        ("GET", "/peers/b.example/retry", "", 405, "method"),
        ("POST", "/peers/B/retry", "", 400, "B: "),
        ("GET", "/peers?limit=0", "", 400, "limit"),
        ("GET", "/peers?peer=b.example", "", 400, "after, limit"),
        ("GET", "/set-aside?after=x", "", 400, "not a number"),
        ("GET", "/set-aside?peer=B", "", 400, "B: "),
        ("POST", "/set-aside/drop", "", 400, "the body"),
        ("POST", "/set-aside/drop", "{}", 400, "the body"),
        (
            "POST",
            "/set-aside/drop",
            "{\"ids\": [\"1\"]}",
            400,
            "the body",
        ),
        ("POST", "/set-aside/retry", "{\"peer\": \"B\"}", 400, "B: "),
        ("POST", "/policy/reload", "", 409, "without a configuration"),
    ] {
        let request = client
            .request(method.parse().unwrap(), format!("http://localhost{path}"))
            .body(body)
            .send();
        let answer = in_time(path, request).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        let kind = &answer.headers()["content-type"];
        assert_eq!(kind, "application/problem+json");
        let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{method} {path}: {detail}");
    }
    let long = vec![b' '; (64 << 10) + 1];
    let request = client.post("http://localhost/set-aside/drop").body(long);
    let answer = in_time("a long body", request.send()).await.unwrap();
    assert_eq!(answer.status().as_u16(), 413);
}

#[tokio::test]
async fn the_command_says_what_it_wants() {
    let server = Server::start("a.example").await;
    for (arguments, expected) in [
        (&["retry"][..], "required"),
        (&["retry", "x"], "invalid value 'x'"),
        (&["retry", "1", "--all", "b.example"], "cannot be used with"),
        (
            &["retry", "--all", "b.example", "--now", "b.example"],
            "cannot be used with",
        ),
        (&["drop"], "required"),
        (&["drop", "--now", "b.example"], "--now"),
        (&["outbox", "--limit", "0"], "not a number from 1 to 1000"),
        (&["outbox", "--peer", "B"], "not a provider name"),
        (&["policy", "--config", "moh.toml"], "cannot be used with"),
    ] {
        let output = admin(&server, arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let why = String::from_utf8(output.stderr).unwrap();
        assert!(why.contains(expected), "{arguments:?}: {why}");
    }
    for command in ["", "peers", "outbox", "retry", "drop", "policy", "reload"] {
        let arguments = [command, "--help"]
            .into_iter()
            .filter(|word| !word.is_empty());
        let output = Command::new(env!("CARGO_BIN_EXE_moh"))
            .arg("admin")
            .args(arguments)
            .env("COLUMNS", "200")
            .output();
        let help = String::from_utf8(output.await.unwrap().stdout).unwrap();
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
    }
}
