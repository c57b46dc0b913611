//! `moh bench outage`: a short one of all kinds, and that nothing is left behind.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a run may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// `moh bench outage` with its temporary folder in `folder`.
fn start(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_moh"))
        .args(["bench", "outage"])
        .args(arguments)
        .env("TMPDIR", folder)
        .env_remove("MOH_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Neither a file below the folder, nor a process that works there.
fn assert_nothing_is_left(folder: &Path) {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(files.is_empty(), "{files:?}");
    assert_eq!(processes(folder), Vec::<String>::new());
}

/// The command lines of the processes that work below a folder.
fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap();
    let lines = all.filter_map(|process| {
        // One that has ended meanwhile has none.
        let line = std::fs::read(process.unwrap().path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(folder)).collect()
}

#[tokio::test]
async fn a_few_outages_of_all_kinds_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--json", "--outages", "6", "--seconds", "6", "--rate", "20"];
    let run = start(folder.path(), &arguments).wait_with_output();
    let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
    let (text, log) = (output.stdout, output.stderr);
    let text = String::from_utf8(text).unwrap();
    let log = String::from_utf8(log).unwrap();
    println!("{text}{log}");
    assert!(output.status.success());
    assert_eq!(text.lines().count(), 1);
    let names = [
        "sent",
        "delivered",
        "lost",
        "duplicated",
        "reordered",
        "first_after_ms",
        "drained_ms",
    ];
    let begins: String = text.split(|c: char| c.is_ascii_digit()).collect();
    let begin = names.map(|name| format!("\"{name}\":")).join(",");
    assert!(begins.starts_with(&format!("{{{begin}")), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    let number = |name: &str| json[name].as_u64().unwrap();
    assert!(number("sent") > 0);
    assert_eq!(number("delivered"), number("sent"));
    for name in ["lost", "duplicated", "reordered", "unanswered", "unknown"] {
        assert_eq!(number(name), 0, "{name}");
    }
    for name in ["stopped", "cut", "killed"] {
        assert_eq!(number(name), 2, "{name}");
    }
    assert!(number("drained_measured") > 0 && number("most_waiting") > 0);
    assert!(number("drained_worst_ms") >= number("drained_ms"));
    assert_nothing_is_left(folder.path());
}

#[tokio::test]
async fn who_interrupts_it_finds_nothing_left_behind() {
    for signal in [Signal::INT, Signal::TERM] {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["--kind", "stop", "--outages", "1000", "--seconds", "1000"];
        let mut bench = start(folder.path(), &arguments);
        let mut lines = BufReader::new(bench.stdout.take().unwrap()).lines();
        // A row of the table: everybody is at work.
        let begun = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("stopped  ") {
                    return;
                }
            }
            panic!("it has ended");
        };
        tokio::time::timeout(PATIENCE, begun).await.unwrap();
        assert_eq!(processes(folder.path()).len(), 2);
        let id = i32::try_from(bench.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
        let ended = tokio::time::timeout(PATIENCE, bench.wait()).await;
        assert_eq!(ended.unwrap().unwrap().code(), Some(1));
        assert_nothing_is_left(folder.path());
    }
}
