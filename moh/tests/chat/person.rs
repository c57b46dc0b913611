//! Somebody at a chat: `moh chat --plain`, with a hand on the keyboard and an eye on each line.

use std::process::{ExitStatus, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::common::in_time;
use super::common::server::Server;

/// A person, with a device and a chat on it.
pub(crate) struct Person {
    pub(crate) name: String,
    device: String,
    state: TempDir,
    connect: String,
    root: std::path::PathBuf,
    chat: Option<Chat>,
    /// All that was ever shown.
    pub(crate) shown: Vec<String>,
}

struct Chat {
    child: Child,
    keys: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Person {
    /// Registers with a provider, and has a chat open: `alice` is `alice@a.example` there.
    pub(crate) async fn at(server: &Server, user: &str) -> Self {
        let mut person = Self::on(server, user, "terminal");
        person.open().await;
        person
    }

    /// A person with a device where nothing is open yet.
    pub(crate) fn on(server: &Server, user: &str, device: &str) -> Self {
        Self {
            name: format!("{user}@{}", server.name),
            device: device.to_owned(),
            state: tempfile::tempdir().unwrap(),
            connect: server.address.to_string(),
            root: server.path("ca.pem"),
            chat: None,
            shown: Vec::new(),
        }
    }

    /// Starts the chat, until it takes commands; what it has shown.
    pub(crate) async fn open(&mut self) -> Vec<String> {
        self.start();
        let mut lines = self.until("ready ").await;
        // What is said at the beginning comes before the answer to the first command.
        self.types("/frobnicate").await;
        lines.extend(self.until("error: there is no /frobnicate").await);
        lines
    }

    pub(crate) fn start(&mut self) {
        assert!(self.chat.is_none(), "it is open");
        let mut child = Command::new(env!("CARGO_BIN_EXE_moh"))
            .args(["chat", "--plain", &self.name, "--device", &self.device])
            .args(["--connect", &self.connect, "--root"])
            .arg(&self.root)
            .arg("--state")
            .arg(self.state.path())
            .env_remove("MOH_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let keys = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        self.chat = Some(Chat { child, keys, lines });
    }

    /// Where the keys and the history are.
    pub(crate) fn state(&self) -> &std::path::Path {
        self.state.path()
    }

    /// Whether the library has a request that has no answer yet, by a copy of its database. A copy
    /// that was made during a write may be of no use.
    pub(crate) fn has_pending(&self) -> bool {
        let folder = self.state.path().join(&self.name).join(&self.device);
        let copies = tempfile::tempdir().unwrap();
        for end in ["db", "db-wal"] {
            let name = format!("keys.{end}");
            std::fs::copy(folder.join(&name), copies.path().join(&name)).unwrap();
        }
        let copy = copies.path().join("keys.db");
        let count = rusqlite::Connection::open(copy).and_then(|conn| {
            conn.query_row("SELECT count(*) FROM pending", [], |row| {
                row.get::<_, i64>(0)
            })
        });
        count.is_ok_and(|count| count > 0)
    }

    /// The library's database is gone; the key beside it is not.
    pub(crate) fn loses_state(&self) {
        let folder = self.state.path().join(&self.name).join(&self.device);
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("keys.db") && !name.ends_with(".key") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn chat(&mut self) -> &mut Chat {
        self.chat.as_mut().unwrap()
    }

    /// Types a line.
    pub(crate) async fn types(&mut self, line: &str) {
        let keys = self.chat().keys.as_mut().unwrap();
        keys.write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        keys.flush().await.unwrap();
    }

    /// Reads until a line that begins so; all lines up to it.
    pub(crate) async fn until(&mut self, beginning: &str) -> Vec<String> {
        self.until_all(&[beginning]).await
    }

    /// Reads until there was a line for each of these beginnings, in any order.
    pub(crate) async fn until_all(&mut self, beginnings: &[&str]) -> Vec<String> {
        let mut missing = beginnings.to_vec();
        let mut lines: Vec<String> = Vec::new();
        while !missing.is_empty() {
            let what = format!("{} sees {missing:?} after {:#?}", self.name, self.shown);
            let line = in_time(&what, self.chat().lines.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the end of the chat: {what}"));
            assert!(
                !line.chars().any(char::is_control),
                "what a terminal acts upon: {line:?}"
            );
            self.shown.push(line.clone());
            if let Some(at) = missing
                .iter()
                .position(|beginning| line.starts_with(beginning))
            {
                missing.remove(at);
            }
            lines.push(line);
        }
        lines
    }

    /// Types a command; the lines up to its `ok`.
    pub(crate) async fn does(&mut self, line: &str) -> Vec<String> {
        self.types(line).await;
        self.until("ok").await
    }

    /// Types a command that does not work; the reason.
    pub(crate) async fn fails(&mut self, line: &str) -> String {
        self.types(line).await;
        let lines = self.until("error: ").await;
        lines.last().unwrap()["error: ".len()..].to_owned()
    }

    /// Writes to the conversation that is open, until it is sent.
    pub(crate) async fn writes(&mut self, text: &str) {
        self.types(text).await;
        self.until("sent ").await;
    }

    /// Opens a conversation by its title.
    pub(crate) async fn opens(&mut self, title: &str) {
        self.does(&format!("/open {title}")).await;
    }

    /// SIGKILL.
    pub(crate) async fn is_killed(&mut self) {
        let mut chat = self.chat.take().unwrap();
        chat.child.kill().await.unwrap();
    }

    /// The end of what is typed; how the chat ends, and what it shows until then.
    pub(crate) async fn closes(&mut self) -> (ExitStatus, Vec<String>) {
        let mut chat = self.chat.take().unwrap();
        drop(chat.keys.take());
        let mut lines = Vec::new();
        let what = format!("{} ends", self.name);
        while let Some(line) = in_time(&what, chat.lines.next_line()).await.unwrap() {
            self.shown.push(line.clone());
            lines.push(line);
        }
        let status = in_time(&what, chat.child.wait()).await.unwrap();
        (status, lines)
    }
}

/// The texts of the messages among these lines, in order.
pub(crate) fn texts(lines: &[String]) -> Vec<String> {
    let text = |line: &String| {
        let mut words = line.splitn(5, ' ');
        (words.next() == Some("message")).then(|| words.nth(3).unwrap_or_default().to_owned())
    };
    lines.iter().filter_map(text).collect()
}

/// Has two people connected, `a` having asked.
pub(crate) async fn connect(a: &mut Person, b: &mut Person) {
    a.does(&format!("/connect {}", b.name)).await;
    b.until(&format!("request {}", a.name)).await;
    b.does(&format!("/accept {}", a.name)).await;
    a.until("connected ").await;
}
