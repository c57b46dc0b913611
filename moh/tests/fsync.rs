//! Nothing is answered before it is durable, as the kernel sees it; and the ends of a process.
//!
//! Where strace cannot run, that test says so and shows nothing; with `MOH_REQUIRE_STRACE=1` in
//! the environment it fails instead.

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::answer::Answer;
use common::device::{Device, message_of};
use common::in_time;
use common::scene::Scene;
use common::server::Server;
use common::tls::Connection;
use moh_messages::client_api::{
    ClientRequestBody, ClientResponse, ClientResponseBody, Cursor, PATH, ReadQueue,
};
use moh_messages::{DsResponse, DsResponseBody, List, Message};
use rustix::process::Signal;

/// How often is looked for what cannot be waited for.
const POLL: Duration = Duration::from_millis(10);

/// A system call that was traced, without `\x`: names of files and bytes are in hexadecimal.
#[derive(Clone, Debug)]
enum Call {
    /// It begins, with all its arguments.
    Begins { name: String, arguments: String },
    /// It has returned this.
    Returned {
        name: String,
        arguments: String,
        result: String,
    },
}

impl Call {
    fn is_to(&self, names: &[&str], place: &str) -> bool {
        let (Self::Begins { name, arguments }
        | Self::Returned {
            name, arguments, ..
        }) = self;
        names.contains(&name.as_str()) && arguments.contains(place)
    }
}

/// Reads what strace writes with `-f`: calls of several threads, which may be cut in two.
fn read_trace(text: &str) -> Vec<Call> {
    let mut unfinished = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let line = line.replace("\\x", "");
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((name, arguments)) = unfinished.remove(thread) else {
                continue;
            };
            let result = resumed.rsplit_once(" = ").map_or("?", |(_, result)| result);
            calls.push(returned(name, arguments, result));
        } else if let Some((name, rest)) = rest.split_once('(') {
            let (name, rest) = (name.to_owned(), rest.to_owned());
            let arguments = rest.clone();
            calls.push(Call::Begins {
                name: name.clone(),
                arguments,
            });
            if rest.ends_with("<unfinished ...>") {
                unfinished.insert(thread.to_owned(), (name, rest));
            } else if let Some((arguments, result)) = rest.rsplit_once(" = ") {
                calls.push(returned(name, arguments.to_owned(), result));
            }
        }
    }
    calls
}

fn returned(name: String, arguments: String, result: &str) -> Call {
    let result = result.to_owned();
    Call::Returned {
        name,
        arguments,
        result,
    }
}

#[test]
fn a_trace_is_read_whatever_is_cut_in_two() {
    let text = "\
7 pwrite64(9<\\x2d\\x77\\x61\\x6c>, \"\\x01\\x02\", 2, 0) = 2
8 fdatasync(9<\\x2d\\x77\\x61\\x6c> <unfinished ...>
7 sendto(6<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\\x68\", 1, 0, NULL, 0) = 1
8 <... fdatasync resumed>) = 0
8 +++ exited with 0 +++
";
    let calls = read_trace(text);
    let is = |at: usize, name| calls[at].is_to(&[name], "");
    assert_eq!(calls.len(), 6);
    assert!(calls[0].is_to(&["pwrite64"], WAL) && is(1, "pwrite64"));
    assert!(calls[2].is_to(&["fdatasync"], WAL) && is(3, "sendto"));
    let place = "->127.0.0.1:2]>";
    assert!(calls[4].is_to(&["sendto"], place) && !calls[4].is_to(&["sendto"], WAL));
    let Call::Returned { result, .. } = &calls[5] else {
        panic!("{:?}", calls[5]);
    };
    assert!(calls[5].is_to(&["fdatasync"], WAL) && result == "0");
}

/// `-wal>`, the end of the name of SQLite's write-ahead log.
const WAL: &str = "2d77616c>";
const WRITES: [&str; 4] = ["write", "writev", "pwrite64", "pwritev"];
const SENDS: [&str; 5] = ["write", "writev", "sendto", "sendmsg", "sendmmsg"];
const SYNCS: [&str; 2] = ["fdatasync", "fsync"];

fn strace(into: &Path) -> Vec<OsString> {
    // The process is our child, not strace's.
    let mut words: Vec<OsString> = ["strace", "-D", "-f", "-yy", "-qq", "-xx", "-s", "100000"]
        .map(OsString::from)
        .into();
    let calls = [&WRITES[..], &SENDS, &SYNCS].concat().join(",");
    words.extend(["-e".into(), format!("trace={calls}").into()]);
    words.extend(["-o".into(), into.into()]);
    words
}

/// Whether strace runs here, with these options.
async fn can_trace(folder: &Path) -> bool {
    let probe = folder.join("probe");
    let words = strace(&probe);
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args(["sh", "-c", "echo"])
        .output();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let works = loop {
        let ran = output.as_ref().is_ok_and(|output| output.status.success());
        let traced = std::fs::read_to_string(&probe).is_ok_and(|text| text.contains("write("));
        if !ran || traced || tokio::time::Instant::now() > deadline {
            break ran && traced;
        }
        tokio::time::sleep(POLL).await;
    };
    if !works {
        let required = std::env::var("MOH_REQUIRE_STRACE").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "strace is required, and does not run: {output:?}"
        );
        // Not by a macro: what those print of a test that passes is not shown.
        let mut stderr = std::io::stderr();
        let _ = writeln!(
            stderr,
            "SKIPPED: strace does not run here, so it is not shown that an fdatasync lies between \
             a write and its ok: {output:?}"
        );
    }
    works
}

/// What was traced so far, once everything that these were sent is in it.
async fn read_trace_until(path: &Path, bytes: &str, places: &[String]) -> Vec<Call> {
    let wait = async {
        loop {
            let calls = read_trace(&std::fs::read_to_string(path).unwrap());
            let written = calls
                .iter()
                .position(|call| call.is_to(&WRITES, WAL) && has(call, bytes));
            let sent = |place: &String| {
                let last = calls.iter().rposition(|call| call.is_to(&SENDS, place));
                written.is_some() && last > written
            };
            if places.iter().all(sent) {
                return calls;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    in_time("the trace of the answers", wait).await
}

fn has(call: &Call, bytes: &str) -> bool {
    let (Call::Begins { arguments, .. } | Call::Returned { arguments, .. }) = call;
    arguments.contains(bytes)
}

#[tokio::test]
async fn an_fdatasync_lies_between_the_write_and_its_ok() {
    let folder = tempfile::tempdir().unwrap();
    if !can_trace(folder.path()).await {
        return;
    }
    let trace = folder.path().join("trace");
    let server = Server::start_under("a.example", strace(&trace)).await;
    let mut scene = Scene::set_at(server).await;
    // On these connections the server sends nothing but its answers: HTTP/1.1, and the handshake
    // is over.
    let mut by_alice = Connection::to(&scene.server).await;
    let mut by_bob = Connection::to(&scene.server).await;
    let places = [&by_alice, &by_bob].map(|c| format!("->{}]>", c.local_address()));
    for _ in 0..5 {
        // Bob waits for the message: his answer too is one before which it is to be durable.
        let read = scene.bob.device.request(read_queue(&scene.bob.device));
        by_bob.post(PATH, &read.encode()).await;
        let (request, message) = scene.alice.message("durable");
        by_alice.post("/group_operation", &request).await;
        let answer = DsResponse::decode(&by_alice.body().await).unwrap();
        assert!(matches!(answer.body, DsResponseBody::Ok { .. }));
        let answer = ClientResponse::decode(&by_bob.body().await).unwrap();
        let ClientResponseBody::Queue { items } = answer.body else {
            panic!("{answer:?}");
        };
        assert_eq!(items.iter().map(message_of).collect::<Vec<_>>(), [&message]);
        scene.bob.device.cursor = items[0].cursor.clone();

        let part = hex::encode(&message[message.len() - 24..]);
        let calls = read_trace_until(&trace, &part, &places).await;
        for place in &places {
            assert_durable_before(&calls, &part, place);
        }
    }
    scene.server.signal(Signal::TERM);
    assert!(scene.server.exit().await.success());
}

/// The write of these bytes to the log; then a synchronization of the log that succeeds; then
/// whatever is sent to that place.
#[track_caller]
fn assert_durable_before(calls: &[Call], bytes: &str, place: &str) {
    let returned = |call: &Call| matches!(call, Call::Returned { .. });
    let first = calls
        .iter()
        .position(|call| call.is_to(&WRITES, WAL) && has(call, bytes))
        .expect("the message is written to the log");
    let calls = &calls[first..];
    let written = calls
        .iter()
        .position(|call| returned(call) && call.is_to(&WRITES, WAL) && has(call, bytes))
        .expect("the write returns");
    let sync_begins = calls[written..]
        .iter()
        .position(|call| !returned(call) && call.is_to(&SYNCS, WAL))
        .map(|at| at + written)
        .expect("the log is synchronized after the write");
    let synchronized = calls[sync_begins..]
        .iter()
        .position(|call| {
            matches!(call, Call::Returned { result, .. } if result == "0")
                && call.is_to(&SYNCS, WAL)
        })
        .map(|at| at + sync_begins)
        .expect("that succeeds");
    let sent = calls
        .iter()
        .position(|call| !returned(call) && call.is_to(&SENDS, place))
        .expect("something is sent after the write");
    assert!(
        written < sync_begins && synchronized < sent,
        "sent before it was durable: {:#?}",
        &calls[..=synchronized]
    );
}

fn read_queue(device: &Device) -> ClientRequestBody {
    let (cursor, wait_ms) = (device.cursor.clone(), 60_000);
    ClientRequestBody::ReadQueue(ReadQueue { cursor, wait_ms })
}

/// Waits for an empty queue, and is sure to be waited for when this returns.
async fn wait_for_queue(scene: &Scene) -> tokio::task::JoinHandle<Answer> {
    let bob = &scene.bob.device;
    let request = bob.request(read_queue(bob)).encode();
    let twins = [(); 2].map(|()| {
        let (http, request) = (scene.server.http(), request.clone());
        tokio::spawn(async move { http.post(PATH, &request).await })
    });
    // The nonce is taken once: when one is refused, the other has been let in.
    let [mut first, mut second] = twins;
    let (refused, waits) = tokio::select! {
        answer = &mut first => (answer, second),
        answer = &mut second => (answer, first),
    };
    refused.unwrap().refused(403, "replayed");
    waits
}

#[tokio::test]
async fn a_signal_ends_it_cleanly_and_who_waits_is_answered() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut scene = Scene::set().await;
        let waits = wait_for_queue(&scene).await;
        scene.server.signal(signal);
        let answer = in_time("the answer to who waits", waits).await.unwrap();
        let response: ClientResponse = answer.message(200);
        let items = List::empty();
        assert_eq!(response.body, ClientResponseBody::Queue { items });
        let status = scene.server.exit().await;
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
        assert_eq!(scene.server.log(), "", "nothing to complain of");
        // It starts again where it was.
        scene.server.restart().await;
        scene.assert_unchanged().await;
        let kept = scene.bob.device.read_after(Cursor::empty(), 0).await;
        assert_eq!(kept.len(), 2, "the Welcome and one message");
    }
}
