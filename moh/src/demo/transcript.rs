//! What a person, or a program, sees of the demonstration.

mod requests;
mod summary;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use moh_client::{ClientId, DsError, DsErrorCode, ProviderName, UserId};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::stage::{Answered, Stage};
use requests::Counted;

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// For people, with colours.
    Colour,
    /// For people, without.
    Plain,
    /// One object a line.
    Json,
}

impl Style {
    /// Colours where there is a terminal that has not been told otherwise.
    pub(super) fn of_terminal() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted && std::io::stdout().is_terminal() {
            Self::Colour
        } else {
            Self::Plain
        }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const UNDERLINED: &str = "1;4";
const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Writes down what happens.
pub(super) struct Transcript {
    style: Style,
    events: mpsc::UnboundedReceiver<Answered>,
    started: Instant,
    chapter: String,
    step: usize,
    title: String,
    /// What requests may be refused with in this step; and which of that has happened.
    allowed: Vec<DsErrorCode>,
    happened: BTreeSet<String>,
    devices: BTreeSet<ClientId>,
    /// Whose request its provider is passing on.
    passing_on: Option<(ClientId, ProviderName)>,
    counted: Counted,
    wrote: usize,
    read: usize,
    /// How many times what was written has to be read.
    expected: usize,
}

impl Transcript {
    pub(super) fn new(style: Style, events: mpsc::UnboundedReceiver<Answered>) -> Self {
        Self {
            style,
            events,
            started: Instant::now(),
            chapter: String::new(),
            step: 0,
            title: String::new(),
            allowed: Vec::new(),
            happened: BTreeSet::new(),
            devices: BTreeSet::new(),
            passing_on: None,
            counted: Counted::default(),
            wrote: 0,
            read: 0,
            expected: 0,
        }
    }

    /// Who plays.
    pub(super) fn opening(&mut self, stage: &Stage) {
        if self.style == Style::Json {
            for (name, address) in stage.addresses() {
                let more = json!({ "address": address });
                self.json("", name, "start", &more);
            }
            return;
        }
        self.line(&self.paint(BOLD, "Two providers, one conversation: MIMI over HTTPS"));
        self.line("");
        for (name, address) in stage.addresses() {
            self.line(&format!("  {name}  listens on https://{address}, TLS 1.3"));
        }
    }

    /// The next chapter begins.
    pub(super) fn chapter(&mut self, title: &str) {
        self.flush();
        title.clone_into(&mut self.chapter);
        if self.style != Style::Json {
            self.line("");
            self.line("");
            self.line(&self.paint(UNDERLINED, title));
        }
    }

    /// The next step begins, in which requests may be refused with these codes.
    pub(super) fn step(&mut self, title: &str, allowed: &[DsErrorCode]) {
        self.flush();
        self.step += 1;
        title.clone_into(&mut self.title);
        self.allowed = allowed.to_vec();
        self.happened.clear();
        if self.style != Style::Json {
            let heading = format!("{:>2}  {title}", self.step);
            self.line("");
            self.line(&self.paint(BOLD, &heading));
        }
    }

    /// A device that will be spoken of.
    pub(super) fn meet(&mut self, device: &ClientId) {
        self.devices.insert(device.clone());
    }

    /// A device wrote a text, which so many others have to read.
    pub(super) fn wrote(&mut self, who: &ClientId, text: &str, readers: usize) {
        self.wrote += 1;
        self.expected += readers;
        let more = json!({ "text": text, "readers": readers });
        self.said(
            who,
            who,
            "write",
            &more,
            &format!("writes  {}", quoted(text)),
        );
    }

    /// A device decrypted a text.
    pub(super) fn read(&mut self, who: &ClientId, from: &ClientId, text: &str, epoch: u64) {
        self.flush();
        self.read += 1;
        let more = json!({ "text": text, "epoch": epoch });
        let line = format!("reads   {}", quoted(text));
        self.said(from, who, "decrypt", &more, &line);
    }

    /// A device has joined.
    pub(super) fn joined(&mut self, who: &ClientId, epoch: u64, members: &[ClientId]) {
        self.flush();
        let more = json!({ "epoch": epoch, "members": members.len() });
        let text = format!("joined  at epoch {epoch}: {}", names(members));
        self.said(who, who, "join", &more, &text);
    }

    /// A device has applied a commit, and this is what it was about.
    pub(super) fn moved_on(&mut self, who: &ClientId, epoch: u64, why: &str) {
        self.flush();
        let text = format!(
            "is now  at epoch {epoch}{}{why}",
            if why.is_empty() { "" } else { ": " }
        );
        let more = json!({ "epoch": epoch, "why": why });
        self.said(who, who, "merge", &more, &text);
    }

    /// A device learns who the admins are.
    pub(super) fn learned_admins(&mut self, who: &ClientId, epoch: u64, admins: &[UserId]) {
        let names: Vec<_> = admins.iter().map(UserId::user).collect();
        self.moved_on(who, epoch, &format!("admins are {}", names.join(", ")));
    }

    /// A device is in the group no longer.
    pub(super) fn is_out(&mut self, who: &ClientId, why: &str) {
        self.flush();
        self.said(
            who,
            who,
            "leave",
            &json!({ "why": why }),
            &format!("is out  {why}"),
        );
    }

    /// Something that a device does, or is told.
    pub(super) fn note(&mut self, who: &ClientId, what: &str) {
        self.flush();
        self.said(who, who, "note", &json!({ "note": what }), what);
    }

    /// A request of a device was refused, as it had to be.
    pub(super) fn refused(&mut self, who: &ClientId, request: &str, error: &DsError) {
        self.flush();
        let detail = error.detail();
        let more = json!({
            "request": request, "code": error.code.0, "name": error.code.to_string(),
            "detail": detail, "overcome": false,
        });
        let said = match &*detail {
            "" => "is refused".to_owned(),
            detail => format!("is told {}", quoted(detail)),
        };
        let text = format!("{said} ({} {})", error.code.0, error.code);
        self.said(who, who, "refusal", &more, &text);
    }

    /// A device was refused, and its library has dealt with that.
    pub(super) fn overcame(&mut self, who: &ClientId, request: &str, code: DsErrorCode, how: &str) {
        self.flush();
        let more = json!({
            "request": request, "code": code.0, "name": code.to_string(), "detail": how,
            "overcome": true,
        });
        self.said(who, who, "refusal", &more, how);
    }

    /// Whether a request was refused with this code in this step.
    pub(super) fn has_seen(&mut self, code: DsErrorCode) -> bool {
        self.flush();
        self.happened.contains(&code.to_string())
    }

    /// What a device thinks of the group.
    pub(super) fn is_at(&mut self, who: &ClientId, epoch: u64, members: usize) {
        self.flush();
        let more = json!({ "epoch": epoch, "members": members });
        let text = format!("sees    epoch {epoch}, {members} members, nothing undelivered");
        self.said(who, who, "agree", &more, &text);
    }

    fn said(&mut self, from: &ClientId, to: &ClientId, what: &str, more: &Value, text: &str) {
        if self.style == Style::Json {
            self.json(from.as_str(), to.as_str(), what, more);
        } else {
            let name = format!("{:<13}", short(to));
            self.line(&format!("    {} {text}", self.paint(CYAN, &name)));
        }
    }

    /// A line about something that is no request.
    fn json(&self, from: &str, to: &str, operation: &str, more: &Value) {
        let line = json!({
            "chapter": self.chapter, "step": self.step, "title": self.title,
            "from": from, "to": to, "endpoint": null, "operation": operation,
            "status": null, "result": "ok",
        });
        self.json_line(line, more);
    }

    fn json_line(&self, mut line: Value, more: &Value) {
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        self.line(&line.to_string());
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.style {
            Style::Colour => format!("\x1b[{colour}m{text}\x1b[0m"),
            Style::Plain | Style::Json => text.to_owned(),
        }
    }

    #[allow(clippy::unused_self, reason = "everything is written here")]
    fn line(&self, text: &str) {
        // A reader that has gone away is no failure of the demonstration.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// `alice/phone` for `mimi://a.example/d/alice/phone`.
pub(super) fn short(client: &ClientId) -> String {
    format!("{}/{}", client.user_id().user(), client.device())
}

/// Clients, as people call them.
pub(super) fn names(clients: &[ClientId]) -> String {
    let names: Vec<_> = clients.iter().map(short).collect();
    names.join(", ")
}

fn quoted(text: &str) -> String {
    format!("“{text}”")
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{}.{} kB", bytes / 1000, bytes % 1000 / 100),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}
