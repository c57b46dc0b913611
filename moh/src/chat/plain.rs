//! The chat by lines: commands in, what happens out. For pipes, tests and screen readers.
//!
//! Each line begins with a word that says what it is. `N` is the number of a conversation; what is
//! said last in a line may have spaces. Text is escaped as in the string literals of Rust: a line
//! break is `\n`, a backslash `\\`, and what a terminal would act upon is `\u{1b}`, say.
//!
//! ```text
//! registered USER/DEVICE               a new device
//! ready USER/DEVICE                    commands are taken
//! online | offline REASON              whether the provider is reached
//! open N TITLE                         at the beginning: where text goes
//! unread N COUNT TITLE                 at the beginning: what was not read
//! conversation N TITLE                 a conversation is new, or has another name
//! request USER                         USER asks to connect
//! connected N USER | disconnected USER REASON
//! message N USER/DEVICE TIME TEXT      somebody wrote
//! event N TEXT                         something happened in a conversation
//! sending N TEXT                       a message is kept, and goes out until it is known that
//! sent N TEXT | failed N TEXT          it was sent, or refused
//! note TEXT                            good to know
//! ok TEXT                              a command was carried out
//! error: TEXT                          a command was not carried out, or a message not sent
//! ask TEXT                             a line is wanted: an invitation code, say
//! ```
//!
//! The rows that a command lists (`person`, `conversation`, `member`, `device`, `history`, `help`,
//! `authorization`) come before its `ok`. The next command is read when the one before is done, or
//! goes on by itself. At the end of stdin the chat ends as soon as everything is sent, or after 20
//! seconds; what is left goes out next time.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::Result;
use moh_client::{Clock, Random};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use super::account::Asks;
use super::command::parse;
use super::driver::Driver;
use super::escape::reversible;
use super::model::{Input, Line, LineBody, Link, Model, Report, Sending};
use super::names::{short, short_client};
use super::time;

/// How long what is not sent yet is waited for at the end.
const LAST_WAIT: Duration = Duration::from_secs(20);

/// Lines from stdin, and lines to stdout.
pub(crate) struct Plain {
    lines: UnboundedReceiver<String>,
    is_at_end: bool,
}

impl Asks for Plain {
    async fn ask(&mut self, text: &str) -> Option<String> {
        for line in text.lines() {
            say(&format!("ask {}", reversible(line))).ok()?;
        }
        self.lines.recv().await
    }
}

impl Plain {
    pub(crate) fn new() -> Self {
        let (to, lines) = unbounded_channel();
        // A thread of its own: one that waits for stdin must not hold up the end.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().split(b'\n') {
                let Ok(line) = line else { break };
                if to
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        Self {
            lines,
            is_at_end: false,
        }
    }

    /// Until `/quit`, a signal, or the end of stdin and of what is under way.
    pub(crate) async fn run<C: Clock, R: Random>(
        mut self,
        mut driver: Driver<C, R>,
        reports: Vec<Report>,
    ) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        show(&driver.model, &reports)?;
        for line in opening(&driver.model) {
            say(&line)?;
        }
        let mut last_moment = None;
        while !driver.is_over {
            let is_idle = driver.model.is_idle();
            let is_offline = matches!(driver.model.link, Link::Offline(_));
            if self.is_at_end && is_idle && (driver.model.unsent() == 0 || is_offline) {
                break;
            }
            if self.is_at_end && last_moment.is_none() {
                last_moment = Some(Instant::now() + LAST_WAIT);
            }
            let reports = tokio::select! {
                // What has happened goes before what is typed.
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                message = driver.next() => driver.take(message)?,
                () = at(last_moment) => break,
                line = self.lines.recv(), if is_idle && !self.is_at_end => match line {
                    Some(line) => typed(&mut driver, &line)?,
                    None => {
                        self.is_at_end = true;
                        Vec::new()
                    }
                },
            };
            show(&driver.model, &reports)?;
        }
        if driver.model.unsent() > 0 {
            let count = driver.model.unsent();
            say(&format!(
                "note {count} not sent yet: that goes on next time"
            ))?;
        }
        Ok(())
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn typed<C: Clock, R: Random>(driver: &mut Driver<C, R>, line: &str) -> Result<Vec<Report>> {
    match parse(line) {
        Ok(Some(command)) => driver.input(Input::Command(command)),
        Ok(None) => Ok(Vec::new()),
        Err(text) => Ok(vec![Report::Error(text)]),
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

fn show(model: &Model, reports: &[Report]) -> Result<()> {
    for report in reports {
        for line in lines(model, report) {
            say(&line)?;
        }
    }
    Ok(())
}

/// What is said at the beginning.
pub(crate) fn opening(model: &Model) -> Vec<String> {
    let mut lines = vec![format!("ready {}", short_client(&model.me))];
    let title = |conversation| reversible(&model.title(conversation));
    if let Some(open) = model.opened() {
        lines.push(format!("open {} {}", open.number, title(open)));
    }
    for c in model.conversations.iter().filter(|c| c.unread > 0) {
        lines.push(format!("unread {} {} {}", c.number, c.unread, title(c)));
    }
    lines
}

/// A report as lines.
pub(crate) fn lines(model: &Model, report: &Report) -> Vec<String> {
    let line = match report {
        Report::Done(text) => format!("ok {}", reversible(text)),
        Report::Error(text) => format!("error: {}", reversible(text)),
        Report::Note(text) => format!("note {}", reversible(text)),
        Report::Link(Link::Connecting) => return Vec::new(),
        Report::Link(Link::Online) => "online".to_owned(),
        Report::Link(Link::Offline(reason)) => format!("offline {}", reversible(reason)),
        Report::Registered(client) => format!("registered {}", short_client(client)),
        Report::Asks(user) => format!("request {}", short(user)),
        Report::Connected(user, number) => format!("connected {number} {}", short(user)),
        Report::Disconnected(user, reason) => {
            format!("disconnected {} {}", short(user), reversible(reason))
        }
        Report::Conversation(number) => match model.conversation(*number) {
            Some(c) => format!("conversation {number} {}", reversible(&model.title(c))),
            None => return Vec::new(),
        },
        Report::Line(number, line) => match &line.body {
            LineBody::Event(text) => format!("event {number} {}", reversible(text)),
            LineBody::Said {
                sending: Some(Sending::UnderWay),
                text,
                ..
            } => format!("sending {number} {}", reversible(text)),
            LineBody::Said { sender, text, .. } => format!(
                "message {number} {} {} {}",
                short_client(sender),
                time::utc(line.at_ms),
                reversible(text)
            ),
        },
        Report::Sent(number, line) => return sent(*number, line),
        Report::Listing { rows, .. } => {
            let row = |row: &super::model::Row| {
                let cells: Vec<_> = row.cells.iter().map(|cell| reversible(cell)).collect();
                format!("{} {}", row.kind, cells.join(" "))
                    .trim_end()
                    .to_owned()
            };
            let mut lines: Vec<String> = rows.iter().map(row).collect();
            lines.push("ok".to_owned());
            return lines;
        }
    };
    vec![line]
}

fn sent(number: u32, line: &Line) -> Vec<String> {
    let LineBody::Said { text, sending, .. } = &line.body else {
        return Vec::new();
    };
    let text = reversible(text);
    match sending {
        Some(Sending::Sent) => vec![format!("sent {number} {text}")],
        Some(Sending::Failed(reason)) => vec![
            format!("failed {number} {text}"),
            format!("error: not sent: {}", reversible(reason)),
        ],
        Some(Sending::UnderWay) | None => Vec::new(),
    }
}
