//! What ends a chat, and what does not.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::common::server::Server;
use super::person::Person;

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_moh"))
        .arg("chat")
        .args(arguments)
        .env_remove("MOH_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(input.as_bytes()).unwrap();
    drop(keys);
    child.wait_with_output().unwrap()
}

#[test]
fn wrong_arguments_end_it_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    for arguments in [
        &[][..],
        &["alice"],
        &["alice@a.example", "--frobnicate"],
        &["alice@a.example", "--plain", "--device", "My Phone"],
        // There is no terminal.
        &["alice@a.example", "--state", state],
    ] {
        let output = run(arguments, "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("error: "), "{said}");
    }
}

#[test]
fn a_provider_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let nowhere = ["--plain", "--state", state, "--connect", "127.0.0.1:1"];
    let output = run(&[&["alice@a.example"], &nowhere[..]].concat(), "");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    // Once, and in words for people.
    assert_eq!(said.matches("Connection refused").count(), 1, "{said}");
    assert!(
        said.starts_with("moh: a.example cannot be reached: Connection refused"),
        "{said}"
    );
    let root = folder.path().join("nothing.pem");
    let root = ["--root", root.to_str().unwrap()];
    for _ in 0..2 {
        // It is not there; then it has no certificate in it.
        let output = run(&[&["alice@a.example"], &nowhere[..], &root].concat(), "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("nothing.pem"), "{said}");
        std::fs::write(root[1], "nothing").unwrap();
    }
}

#[tokio::test]
async fn a_provider_that_is_not_trusted_is_said_and_how_to_trust_it() {
    let server = Server::start("a.example").await;
    let folder = tempfile::tempdir().unwrap();
    let connect = server.address.to_string();
    let arguments = [
        "alice@a.example",
        "--plain",
        "--state",
        folder.path().to_str().unwrap(),
        "--connect",
        &connect,
    ];
    let output = run(&arguments, "");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "moh: a.example cannot be reached: invalid peer certificate: UnknownIssuer \
         (to trust it: --root CERT.pem)\n"
    );
}

#[tokio::test]
async fn mistakes_do_not_end_it_and_the_end_of_stdin_does() {
    let server = Server::start("a.example").await;
    let mut alice = Person::on(&server, "alice", "terminal");
    alice.start();
    for line in [
        "/frobnicate",
        "/connect",
        "hello",
        "/open 7",
        "/new \"x",
        "",
        "/new x",
        "hello",
    ] {
        alice.types(line).await;
    }
    let (status, lines) = alice.closes().await;
    assert!(status.success());
    let errors = lines
        .iter()
        .filter(|line| line.starts_with("error: "))
        .count();
    assert_eq!(errors, 5, "{lines:#?}");
    // What was under way is done.
    assert_eq!(lines.last().unwrap(), "sent 1 hello");
    let begins: Vec<_> = lines.iter().take(2).collect();
    let device = "alice@a.example/terminal";
    assert_eq!(
        begins,
        [&format!("registered {device}"), &format!("ready {device}")]
    );

    // A second chat of the same device would use the same keys twice.
    alice.open().await;
    let state = alice.state();
    let connect = server.address.to_string();
    let root = server.path("ca.pem");
    let arguments = [
        "alice@a.example",
        "--plain",
        "--state",
        state.to_str().unwrap(),
        "--connect",
        &connect,
        "--root",
        root.to_str().unwrap(),
    ];
    let output = run(&arguments, "");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is running already"), "{said}");
    alice.types("/quit").await;
    let (status, _) = alice.closes().await;
    assert!(status.success());
}
