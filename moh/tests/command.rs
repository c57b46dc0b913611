//! The command, as its user meets it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn moh() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moh"));
    command.env_remove("MOH_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    moh().args(arguments).output().expect("moh runs")
}

/// What it said on stderr when it failed.
fn failure(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?} has to fail");
    String::from_utf8(output.stderr).expect("text")
}

/// A provider, ended when it is dropped.
struct Provider {
    child: Child,
    ready: String,
}

impl Provider {
    fn start(arguments: &[&str]) -> Self {
        let mut child = moh()
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("moh runs");
        let mut ready = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut ready).expect("a line");
        Self { child, ready }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demonstration_shows_that_everything_arrives() {
    let output = run(&["demo"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("everything arrived and was decrypted"),
        "{text}"
    );
    assert!(
        text.contains("bob/laptop    reads   “Hello Bob, this crosses two providers.”"),
        "{text}"
    );
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "too long: {line}");
    }
    assert!(
        !text.contains('\x1b'),
        "no colours where there is no terminal"
    );
}

/// All types of requests on groups but `re_initialize_group`.
const CARRIED_OUT: [&str; 15] = [
    "add_clients",
    "add_users",
    "client_deleted",
    "create_group",
    "delete_group",
    "external_commit_info",
    "external_join",
    "remove_clients",
    "remove_users",
    "request_group_id",
    "self_remove_client",
    "send_message",
    "set_roles",
    "update_client",
    "welcome_info",
];

/// What had to be refused: the request, and the code.
const REFUSED: [(&str, u64); 15] = [
    ("remove_users", 6),
    ("send_message", 7),
    ("update_client", 10),
    ("external_commit_info", 7),
    ("read_queue", 5),
    ("send_message", 11),
    ("welcome_info", 19),
    ("external_commit_info", 7),
    ("external_commit_info", 5),
    ("external_commit_info", 4),
    ("external_commit_info", 2),
    ("send_message", 12),
    ("self_remove_client", 15),
    ("delete_group", 6),
    ("send_message", 8),
];

#[test]
fn the_demonstration_in_json_goes_through_every_operation_and_through_refusals() {
    let output = run(&["demo", "--json"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    for line in &lines {
        for key in [
            "chapter",
            "step",
            "from",
            "to",
            "endpoint",
            "operation",
            "status",
            "result",
        ] {
            assert!(line.get(key).is_some(), "{key} is missing in {line}");
        }
        // What is refused is a request, and was expected to be.
        let is_expected = line["endpoint"].is_string() && line["expected"] == true;
        assert!(line["result"] == "ok" || is_expected, "{line}");
    }
    let happened = |endpoint: &str, operation: &str| {
        lines.iter().any(|line| {
            line["endpoint"] == endpoint && line["operation"] == operation && line["result"] == "ok"
        })
    };
    for operation in CARRIED_OUT {
        let endpoint = match operation {
            "welcome_info" => "/welcome_information",
            "external_commit_info" => "/external_commit_information",
            _ => "/group_operation",
        };
        assert!(happened(endpoint, operation), "{operation}");
    }
    for (endpoint, operation) in [
        ("/group_key_packages", "group_key_packages"),
        ("/connection_key_packages", "connection_key_packages"),
        ("/connection_request", "connection_request"),
        ("/verification_key", "verification_key"),
        ("/deliver_message", "deliver_message"),
    ] {
        assert!(happened(endpoint, operation), "{operation}");
    }
    let refusals: Vec<_> = lines
        .iter()
        .filter(|line| line["operation"] == "refusal")
        .map(|line| (line["request"].as_str(), line["code"].as_u64()))
        .collect();
    assert_eq!(
        refusals,
        REFUSED.map(|(request, code)| (Some(request), Some(code)))
    );
    check_summary(lines.last().expect("lines"));
}

fn check_summary(summary: &serde_json::Value) {
    assert_eq!(summary["operation"], "summary");
    assert_eq!(summary["decrypted"], summary["expected"]);
    assert_eq!(summary["requests_ok"], serde_json::json!(CARRIED_OUT));
    assert_eq!(summary["refusals"], REFUSED.len());
    let codes = [
        "epoch_not_kept",
        "group_deleted",
        "invalid_message",
        "pending_proposals",
        "policy_violation",
        "unauthenticated",
        "unauthorized",
        "unknown_group",
        "unsupported_version",
        "wrong_endpoint",
        "wrong_epoch",
    ];
    assert_eq!(summary["refused_with"], serde_json::json!(codes));
}

#[test]
fn a_configuration_that_init_wrote_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dev, home) = (folder.path().join("dev"), folder.path().join("home"));
    let text = |path: &Path| path.to_str().expect("text").to_owned();

    // The certificate of a provider for development will do.
    let listen = ["--listen", "127.0.0.1:0", "--name", "a.example"];
    drop(Provider::start(
        &[&["--dev", "--data", &text(&dev)], &listen[..]].concat(),
    ));
    assert!(
        run(&["init", &text(&home), "--name", "a.example"])
            .status
            .success()
    );
    for file in ["cert.pem", "key.pem"] {
        std::fs::copy(dev.join(file), home.join(file)).expect("copied");
    }
    let config = home.join("moh.toml");
    let written = std::fs::read_to_string(&config).expect("written");
    let written = written.replace("[::]:443", "127.0.0.1:0");
    std::fs::write(&config, written).expect("changed");

    let provider = Provider::start(&["--config", &text(&config)]);
    assert!(
        provider.ready.starts_with("ready https://127.0.0.1:"),
        "{}",
        provider.ready
    );
    assert!(
        provider.ready.ends_with(" name=a.example\n"),
        "{}",
        provider.ready
    );
}

/// Codes are made from the keys of the provider, which need not run.
#[test]
fn invitations_are_made_for_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("home");
    let home = home.to_str().expect("text");
    assert!(run(&["init", home, "--name", "a.example"]).status.success());
    let config = format!("{home}/moh.toml");
    let output = run(&[
        "invite", "--config", &config, "--count", "3", "--days", "30",
    ]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    let codes: std::collections::BTreeSet<_> = text.lines().collect();
    assert_eq!(codes.len(), 3, "{text}");
    for code in codes {
        assert!(code.len() == 48 && hex::decode(code).is_ok(), "{code}");
    }
    let note = String::from_utf8(output.stderr).expect("text");
    assert!(note.contains("does not take them"), "{note}");

    let written = std::fs::read_to_string(&config).expect("written");
    let written = written.replace("#: registration = \"off\"", "registration = \"invitation\"");
    std::fs::write(&config, written).expect("changed");
    let output = run(&["invite", "--config", &config]);
    assert_eq!(output.stdout.iter().filter(|b| **b == b'\n').count(), 1);
    assert_eq!(String::from_utf8(output.stderr).expect("text"), "");

    assert!(failure(&["invite", "--config", &config, "--count", "0"]).contains("--count"));
    assert!(failure(&["invite", "--config", "nowhere.toml"]).contains("nowhere.toml"));
}

/// The key file has one more key, and the old ones; the server starts with it.
#[test]
fn keys_are_changed_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("home");
    let home = home.to_str().expect("text");
    assert!(run(&["init", home, "--name", "a.example"]).status.success());
    let config = format!("{home}/moh.toml");
    let values = |field: &str| -> Vec<String> {
        let keys = std::fs::read_to_string(format!("{home}/keys.toml")).expect("written");
        let lines = keys.lines().filter(|line| line.starts_with(field));
        lines.map(str::to_owned).collect()
    };
    let (seeds, groups) = (values("seed"), values("group_key_ed25519"));
    let output = run(&["rotate-keys", "--config", &config]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success() && text.contains("in 25 hours"),
        "{text}"
    );
    assert_eq!(
        (values("seed").len(), values("seed")[0].clone()),
        (2, seeds[0].clone())
    );
    assert_eq!(values("group_key_ed25519"), groups);
    let output = run(&["rotate-keys", "--config", &config, "--group-keys"]);
    assert!(output.status.success());
    assert_eq!(values("seed").len(), 3);
    assert_ne!(values("group_key_ed25519"), groups);
    assert_eq!(values("previous_group_keys_ed25519").len(), 1);
    assert!(
        run(&["invite", "--config", &config]).status.success(),
        "it can be read"
    );
    let before = values("");
    for _ in 3..16 {
        assert!(run(&["rotate-keys", "--config", &config]).status.success());
    }
    assert_ne!(values(""), before);
    let before = values("");
    assert!(failure(&["rotate-keys", "--config", &config]).contains("more than 16 keys"));
    assert_eq!(values(""), before);
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("text");
    let nowhere = folder.path().join("nowhere.toml");
    let nowhere = nowhere.to_str().expect("text");

    assert!(failure(&["serve"]).contains("--config"));
    assert!(failure(&["serve", "--dev", "--name", "Nobody"]).contains("not a provider name"));
    assert!(failure(&["serve", "--dev", "--peer", "b.example"]).contains("DOMAIN=ADDR"));
    assert!(failure(&["serve", "--config", nowhere]).contains("nowhere.toml"));
    let both = failure(&["serve", "--config", nowhere, "--name", "a.example"]);
    assert!(both.contains("cannot be used with"), "{both}");
    assert!(failure(&["init", data]).contains("--name"));

    let provider = Provider::start(&[
        "--dev",
        "--data",
        data,
        "--name",
        "a.example",
        "--listen",
        "127.0.0.1:0",
    ]);
    let address = provider
        .ready
        .strip_prefix("ready https://")
        .and_then(|rest| rest.split(' ').next())
        .expect("an address");
    let other = folder.path().join("other");
    let other = other.to_str().expect("text");
    let taken = failure(&["serve", "--dev", "--data", other, "--listen", address]);
    assert!(taken.contains(address), "{taken}");
    let twice = failure(&["serve", "--dev", "--data", data, "--listen", "127.0.0.1:0"]);
    assert!(twice.contains("in use"), "{twice}");
}
