//! The requests that the providers answer.

use std::collections::BTreeSet;

use moh_client::{ClientId, ProviderName};
use moh_messages::Endpoint;
use moh_server::observe::RequestEvent;
use serde_json::json;

use super::super::stage::{Answered, NAMES};
use super::{DIM, GREEN, RED, Style, Transcript, YELLOW, short, size};

/// What devices ask their own providers for all the time. It is left out for people.
const ALWAYS: [&str; 6] = [
    "get_queue_configs",
    "upload_key_packages",
    "read_queue",
    "acknowledge",
    "forward",
    "list_clients",
];

/// How wide a line is, and where it says what came of a request, unless that is long.
const COLUMNS: usize = 100;
const RESULT_COLUMN: usize = 66;

/// All requests taken together.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) requests: usize,
    pub(super) between_providers: usize,
    pub(super) left_out: usize,
    pub(super) bytes: usize,
    /// The DSRequestTypes that were carried out.
    pub(super) carried_out: BTreeSet<&'static str>,
    /// What requests were refused with, and how many.
    pub(super) refused_with: BTreeSet<String>,
    pub(super) refused: usize,
    /// Refusals that nobody expected.
    pub(super) unexpected: Vec<String>,
}

impl Transcript {
    /// The requests that were answered since the last time, in the order in which they came.
    pub(super) fn flush(&mut self) {
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
        let expected = self.count(event);
        if self.style == Style::Json {
            let line = json!({
                "chapter": self.chapter, "step": self.step, "title": self.title,
                "from": event.from.as_deref().unwrap_or(""), "to": event.provider.as_str(),
                "endpoint": event.endpoint, "operation": event.operation,
                "status": event.status, "result": event.result,
            });
            let more = json!({
                "request_bytes": event.request_bytes, "response_bytes": event.response_bytes,
                "duration_us": event.duration_us, "expected": expected,
            });
            self.json_line(line, &more);
            return;
        }
        let route = self.route(event);
        if event.endpoint == "/client" && event.result == "ok" && ALWAYS.contains(&event.operation)
        {
            self.counted.left_out += 1;
            return;
        }
        let (colour, result) = match &*event.result {
            "ok" => (GREEN, "ok".to_owned()),
            refused => {
                let colour = if expected { YELLOW } else { RED };
                (colour, format!("{} {refused}", event.status))
            }
        };
        let took = match event.duration_us / 1000 {
            0 => "<1 ms".to_owned(),
            ms => format!("{ms} ms"),
        };
        let numbers = format!(" {:>6} {took:>5}", size(event.request_bytes));
        let left = format!("    {route:<35} {}", event.operation);
        let right = result.chars().count() + numbers.chars().count();
        let space = COLUMNS.saturating_sub(right).min(RESULT_COLUMN);
        self.line(&format!(
            "{left:<space$}{}{}{}",
            self.paint(colour, &result),
            " ".repeat(COLUMNS.saturating_sub(space + right)),
            self.paint(DIM, &numbers)
        ));
    }

    /// Counts it. Whether that was to be expected.
    fn count(&mut self, event: &RequestEvent) -> bool {
        let from = event.from.as_deref().unwrap_or("");
        // A provider asks itself for its own clients; that is no request on the network.
        if from != event.provider.as_str() {
            self.counted.requests += 1;
            self.counted.bytes += event.request_bytes + event.response_bytes;
            let is_provider = NAMES.contains(&from) || from.is_empty();
            self.counted.between_providers += usize::from(is_provider);
        }
        if event.result == "ok" {
            let for_owners = [
                Endpoint::GroupOperation,
                Endpoint::WelcomeInformation,
                Endpoint::ExternalCommitInformation,
            ];
            if for_owners.iter().any(|e| e.path() == event.endpoint) {
                self.counted.carried_out.insert(event.operation);
            }
            return true;
        }
        self.counted.refused += 1;
        self.counted.refused_with.insert(event.result.clone());
        self.happened.insert(event.result.clone());
        let expected = self
            .allowed
            .iter()
            .any(|code| code.to_string() == event.result);
        if !expected {
            let what = format!("{} was refused: {}", event.operation, event.result);
            self.counted.unexpected.push(what);
        }
        expected
    }

    /// Which way a request went: what a provider passes on comes from a device.
    fn route(&mut self, event: &RequestEvent) -> String {
        let to = event.provider.as_str();
        let from = event.from.as_deref().unwrap_or("");
        if event.endpoint == "/client" {
            let Ok(device) = from.parse::<ClientId>() else {
                return format!("(nobody known) → {to}");
            };
            let route = format!("{} → {to}", short(&device));
            if event.operation == "forward" {
                self.passing_on = Some((device, event.provider.clone()));
            }
            return route;
        }
        let is_passed_on = [
            Endpoint::GroupOperation,
            Endpoint::WelcomeInformation,
            Endpoint::ExternalCommitInformation,
            Endpoint::GroupKeyPackages,
            Endpoint::ConnectionKeyPackages,
        ]
        .iter()
        .any(|endpoint| endpoint.path() == event.endpoint);
        let by = |(_, home): &mut (ClientId, ProviderName)| home.as_str() == from;
        match is_passed_on.then(|| self.passing_on.take_if(by)).flatten() {
            Some((device, home)) if home.as_str() == to => format!("{} → {to}", short(&device)),
            Some((device, home)) => format!("{} → {home} → {to}", short(&device)),
            // Who asks for keys does not say who it is; there are only two.
            None if from.is_empty() => {
                let other = NAMES.iter().find(|name| **name != to).unwrap_or(&"");
                format!("{other} → {to}")
            }
            None => format!("{from} → {to}"),
        }
    }
}
