//! What a person, or a program, sees of the demonstration.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use moh_client::ClientId;
use moh_server::observe::RequestEvent;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::stage::{Answered, Stage};

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
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

/// Writes down what happens.
pub(super) struct Transcript {
    style: Style,
    events: mpsc::UnboundedReceiver<Answered>,
    started: Instant,
    step: usize,
    title: String,
    devices: BTreeSet<ClientId>,
    requests: usize,
    between_providers: usize,
    bytes: usize,
    wrote: usize,
    read: usize,
}

impl Transcript {
    pub(super) fn new(style: Style, events: mpsc::UnboundedReceiver<Answered>) -> Self {
        Self {
            style,
            events,
            started: Instant::now(),
            step: 0,
            title: String::new(),
            devices: BTreeSet::new(),
            requests: 0,
            between_providers: 0,
            bytes: 0,
            wrote: 0,
            read: 0,
        }
    }

    /// Who plays.
    pub(super) fn opening(&mut self, stage: &Stage) {
        if self.style == Style::Json {
            for (name, address) in stage.addresses() {
                self.json(
                    "",
                    name,
                    None,
                    "start",
                    None,
                    "ok",
                    &json!({ "address": address }),
                );
            }
            return;
        }
        self.line(&self.paint(BOLD, "Two providers, one conversation: MIMI over HTTPS"));
        self.line("");
        for (name, address) in stage.addresses() {
            self.line(&format!("  {name}  listens on https://{address}, TLS 1.3"));
        }
    }

    /// The next step begins.
    pub(super) fn step(&mut self, title: &str) {
        self.flush();
        self.step += 1;
        title.clone_into(&mut self.title);
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

    /// A device wrote a text.
    pub(super) fn wrote(&mut self, who: &ClientId, text: &str) {
        self.wrote += 1;
        self.said(
            who,
            who,
            "write",
            &json!({ "text": text }),
            &format!("writes  {}", quoted(text)),
        );
    }

    /// A device decrypted a text.
    pub(super) fn read(&mut self, who: &ClientId, from: &ClientId, text: &str, epoch: u64) {
        self.flush();
        self.read += 1;
        let more = json!({ "text": text, "epoch": epoch });
        self.said(
            from,
            who,
            "decrypt",
            &more,
            &format!("reads   {}", quoted(text)),
        );
    }

    /// A device has joined.
    pub(super) fn joined(&mut self, who: &ClientId, epoch: u64, members: &[ClientId]) {
        self.flush();
        let names: Vec<_> = members.iter().map(short).collect();
        let more = json!({ "epoch": epoch, "members": members.len() });
        let text = format!("joined  at epoch {epoch}, with {}", names.join(", "));
        self.said(who, who, "join", &more, &text);
    }

    /// A device has applied a commit.
    pub(super) fn moved_on(&mut self, who: &ClientId, epoch: u64) {
        self.flush();
        let text = format!("is now  at epoch {epoch}");
        self.said(who, who, "merge", &json!({ "epoch": epoch }), &text);
    }

    /// What a device thinks of the group.
    pub(super) fn is_at(&mut self, who: &ClientId, epoch: u64, members: usize) {
        self.flush();
        let more = json!({ "epoch": epoch, "members": members });
        let text = format!("sees    epoch {epoch}, {members} members, nothing undelivered");
        self.said(who, who, "agree", &more, &text);
    }

    /// The end: whether everything arrived, and what did not.
    pub(super) fn close(&mut self, failure: Option<&anyhow::Error>) -> bool {
        self.flush();
        let seconds = self.started.elapsed().as_secs_f64();
        // Each text is for every device but the one that wrote it.
        let expected = self.wrote * self.devices.len().saturating_sub(1);
        let complete = failure.is_none() && self.read == expected;
        let why = match failure {
            Some(error) => format!("{error:#}"),
            None => format!("{} of {expected} texts were decrypted", self.read),
        };
        if self.style == Style::Json {
            let result = if complete { "ok" } else { "failed" };
            let mut more = json!({
                "messages": self.wrote, "decrypted": self.read, "expected": expected,
                "devices": self.devices.len(), "requests": self.requests,
                "between_providers": self.between_providers, "bytes": self.bytes,
                "seconds": seconds,
            });
            if !complete {
                more["reason"] = why.into();
            }
            self.json("", "", None, "summary", None, result, &more);
            return complete;
        }
        self.line("");
        if complete {
            let done = self.paint(GREEN, "everything arrived and was decrypted");
            self.line(&format!(
                "{done}: {} texts, {} times read by {} devices",
                self.wrote,
                self.read,
                self.devices.len()
            ));
        } else {
            let failed = format!("failed in step {}, {:?}", self.step, self.title);
            self.line(&format!("{}: {why}", self.paint(RED, &failed)));
        }
        self.line(&format!(
            "{} HTTPS requests, {} of them between the providers; {} in {seconds:.1} s",
            self.requests,
            self.between_providers,
            size(self.bytes),
        ));
        complete
    }

    fn said(&mut self, from: &ClientId, to: &ClientId, what: &str, more: &Value, text: &str) {
        if self.style == Style::Json {
            self.json(from.as_str(), to.as_str(), None, what, None, "ok", more);
        } else {
            let name = format!("{:<11}", short(to));
            self.line(&format!("    {} {text}", self.paint(CYAN, &name)));
        }
    }

    /// The requests that were answered since the last time, in the order in which they came.
    fn flush(&mut self) {
        let mut answered = Vec::new();
        while let Ok(one) = self.events.try_recv() {
            answered.push(one);
        }
        answered.sort_by_key(|one: &Answered| one.began);
        for one in answered {
            self.request(&one.event);
        }
    }

    fn request(&mut self, event: &RequestEvent) {
        let to = event.provider.as_str();
        let from = event.from.as_deref().unwrap_or("");
        let device = self
            .devices
            .iter()
            .find(|device| device.as_str() == from)
            .map(short);
        // A provider asks itself for its own clients; that is no request on the network.
        let inside = device.is_none() && from == to;
        if !inside {
            self.requests += 1;
            self.bytes += event.request_bytes + event.response_bytes;
            let is_provider = super::stage::NAMES.contains(&from);
            self.between_providers += usize::from(is_provider || from.is_empty());
        }
        if self.style == Style::Json {
            let more = json!({
                "request_bytes": event.request_bytes, "response_bytes": event.response_bytes,
                "duration_us": event.duration_us,
            });
            let endpoint = Some(event.endpoint);
            self.json(
                from,
                to,
                endpoint,
                event.operation,
                Some(event.status),
                &event.result,
                &more,
            );
            return;
        }
        let from = match device {
            Some(device) => device,
            None if from.is_empty() => "a provider".to_owned(),
            None if from.starts_with("mimi://") => from
                .parse::<ClientId>()
                .map_or_else(|_| from.to_owned(), |c| short(&c)),
            None => from.to_owned(),
        };
        let arrow = if inside {
            format!("{:<11}   {to}", "")
        } else {
            format!("{from:<11} → {to}")
        };
        let call = if event.endpoint.trim_start_matches('/') == event.operation {
            event.endpoint.to_owned()
        } else {
            format!("{} {}", event.endpoint, event.operation)
        };
        let result = if event.result == "ok" {
            self.paint(GREEN, "ok")
        } else {
            self.paint(RED, &format!("{} {}", event.status, event.result))
        };
        let sizes = format!(
            "{:>8} → {:>8}",
            size(event.request_bytes),
            size(event.response_bytes)
        );
        let micros = event.duration_us;
        let time = format!("{:>5}.{} ms", micros / 1000, micros % 1000 / 100);
        let numbers = self.paint(DIM, &format!("{sizes} {time}"));
        self.line(&format!("    {arrow:<25} {call:<38} {result}  {numbers}"));
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the columns of a line, each of its own kind"
    )]
    fn json(
        &self,
        from: &str,
        to: &str,
        endpoint: Option<&str>,
        operation: &str,
        status: Option<u16>,
        result: &str,
        more: &Value,
    ) {
        let mut line = json!({
            "step": self.step, "title": self.title, "from": from, "to": to,
            "endpoint": endpoint, "operation": operation, "status": status, "result": result,
        });
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
fn short(client: &ClientId) -> String {
    format!("{}/{}", client.user_id().user(), client.device())
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
