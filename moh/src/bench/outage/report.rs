//! What a person, or a program, sees of the outages.

use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;

use super::dice::Outage;
use super::ledger::{Counts, Return};
use super::people::{GROUPS, PEOPLE, Place};
use super::{Arguments, Kind};

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

/// An outage that is over.
pub(super) struct Row {
    pub(super) number: usize,
    pub(super) outage: Outage,
    pub(super) came: Return,
}

/// What is known in the end.
pub(super) struct Summary {
    pub(super) counts: Counts,
    /// Texts from a.example that were sent, and that were delivered.
    pub(super) from_a: (u64, u64),
    /// The same of b.example.
    pub(super) from_b: (u64, u64),
    /// How long all took, with the preparations.
    pub(super) took: Duration,
}

/// Writes down what happens.
pub(super) struct Report {
    arguments: Arguments,
    seed: u64,
    has_colours: bool,
    rows: Vec<Row>,
}

/// The object that a program reads.
#[derive(Serialize)]
struct Json {
    sent: u64,
    delivered: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    first_after_ms: Option<u64>,
    drained_ms: Option<u64>,
    first_after_worst_ms: Option<u64>,
    drained_worst_ms: Option<u64>,
    /// Outages after which these times were measured.
    first_after_measured: usize,
    drained_measured: usize,
    most_waiting: usize,
    outages: usize,
    stopped: usize,
    cut: usize,
    killed: usize,
    refused: u64,
    unanswered: u64,
    unknown: u64,
    surprises: u64,
    seconds: f64,
    seed: u64,
    result: &'static str,
}

impl Report {
    pub(super) fn new(arguments: &Arguments, seed: u64) -> Self {
        let wants = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let report = Self {
            arguments: arguments.clone(),
            seed,
            has_colours: wants && std::io::stdout().is_terminal(),
            rows: Vec::new(),
        };
        report.line("Two providers start, and four people join six groups ...");
        report
    }

    /// Everything is ready.
    pub(super) fn opening(&self) {
        let Arguments { outages, rate, .. } = &self.arguments;
        let what = match self.arguments.kind.list()[..] {
            [kind] => word(kind),
            _ => "stopped, cut off or killed",
        };
        let (people, b) = (PEOPLE.len(), Place::B.name());
        self.line(&format!(
            "{people} people in {GROUPS} groups write {rate} texts a second, both ways, while {b}"
        ));
        let times = if *outages == 1 { "time" } else { "times" };
        self.line(&format!(
            "is {what}, {outages} {times}. Seed {}.",
            self.seed
        ));
        self.line("");
        let head = format!(
            "{:>4}  {:<7}  {:<13}  {:>7}  {:>13}  {:>11}  {:>12}",
            "#", "what", "how", "for", "texts waiting", "first after", "all after"
        );
        self.line(&self.paint(DIM, &head));
    }

    /// One outage is over.
    pub(super) fn row(&mut self, row: &Row) {
        let Row {
            number,
            outage,
            came,
        } = row;
        let how = match outage.kind {
            Kind::Stop | Kind::Kill => "",
            Kind::Cut if !outage.is_stuck => "refused",
            Kind::Cut if outage.is_forgotten => "stuck, broken",
            Kind::Cut => "stuck",
        };
        let all = match (came.waiting, came.drained) {
            (0, _) => "-".to_owned(),
            (_, Some(time)) => ms(time),
            (_, None) => "struck again".to_owned(),
        };
        let first = came.first_after.map_or("-".to_owned(), ms);
        let (what, waiting) = (word(outage.kind), came.waiting);
        let lasts = ms(outage.lasts);
        self.line(&format!(
            "{number:>4}  {what:<7}  {how:<13}  {lasts:>7}  {waiting:>13}  {first:>11}  {all:>12}",
        ));
        self.rows.push(Row { ..*row });
    }

    /// All that there is to be said.
    pub(super) fn closing(&self, summary: &Summary) {
        if self.arguments.json {
            let json = serde_json::to_string(&self.json(summary));
            println!("{}", json.unwrap_or_default());
        } else {
            self.table(summary);
        }
    }

    fn times(&self, pick: impl Fn(&Return) -> Option<Duration>) -> Times {
        Times::of(self.rows.iter().filter_map(|row| pick(&row.came)).collect())
    }

    fn json(&self, summary: &Summary) -> Json {
        let counts = &summary.counts;
        let first = self.times(|came| came.first_after);
        let drained = self.times(|came| came.drained);
        let whole = |time: Option<Duration>| {
            time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        let of = |kind| {
            let rows = self.rows.iter();
            rows.filter(|row| row.outage.kind == kind).count()
        };
        Json {
            sent: counts.sent,
            delivered: counts.delivered,
            lost: counts.lost,
            duplicated: counts.duplicated,
            reordered: counts.reordered,
            first_after_ms: whole(first.median),
            drained_ms: whole(drained.median),
            first_after_worst_ms: whole(first.worst),
            drained_worst_ms: whole(drained.worst),
            first_after_measured: first.count,
            drained_measured: drained.count,
            most_waiting: self.most_waiting(),
            outages: self.rows.len(),
            stopped: of(Kind::Stop),
            cut: of(Kind::Cut),
            killed: of(Kind::Kill),
            refused: counts.refused,
            unanswered: counts.unanswered,
            unknown: counts.unknown,
            surprises: counts.surprises,
            seconds: summary.took.as_secs_f64(),
            seed: self.seed,
            result: if counts.is_good() { "ok" } else { "failed" },
        }
    }

    fn most_waiting(&self) -> usize {
        let waiting = self.rows.iter().map(|row| row.came.waiting);
        waiting.max().unwrap_or(0)
    }

    fn table(&self, summary: &Summary) {
        let counts = &summary.counts;
        self.line("");
        let head = format!("{:<24}{:>10}{:>12}{:>8}", "", "sent", "delivered", "lost");
        self.line(&self.paint(DIM, &head));
        let sums = (counts.sent, counts.delivered);
        for (what, (sent, delivered)) in [
            ("written at a.example", summary.from_a),
            ("written at b.example", summary.from_b),
            ("all", sums),
        ] {
            let lost = sent - delivered;
            self.line(&format!("{what:<24}{sent:>10}{delivered:>12}{lost:>8}"));
        }
        self.line("");
        self.line(&format!(
            "duplicated {}, reordered {}",
            counts.duplicated, counts.reordered
        ));
        for (what, times) in [
            ("first text after", self.times(|came| came.first_after)),
            ("all texts after", self.times(|came| came.drained)),
        ] {
            if let (Some(median), Some(worst)) = (times.median, times.worst) {
                let (median, worst, count) = (ms(median), ms(worst), times.count);
                self.line(&format!(
                    "{what:<17} median {median}, worst {worst}, of {count} outages"
                ));
            }
        }
        for (count, what) in [
            (
                counts.unanswered,
                "texts of which nobody knows what came of them",
            ),
            (
                counts.unknown,
                "texts that nobody had sent, or were refused, arrived",
            ),
            (counts.surprises, "other things happened that must not"),
        ] {
            if count > 0 {
                self.line(&self.paint(RED, &format!("{count} {what}")));
            }
        }
        self.line("");
        let (outages, seconds) = (self.rows.len(), summary.took.as_secs());
        let verdict = if counts.is_good() {
            self.paint(GREEN, "nothing was lost, duplicated or reordered")
        } else {
            self.paint(RED, "failed")
        };
        let verdict = self.paint(BOLD, &verdict);
        self.line(&format!("{verdict}: {outages} outages, {seconds} s"));
    }

    fn line(&self, text: &str) {
        if !self.arguments.json {
            println!("{text}");
        }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.has_colours {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Some times, in two numbers.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    count: usize,
    median: Option<Duration>,
    worst: Option<Duration>,
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let count = all.len();
        // Of an even number the greater one of the two in the middle.
        Self {
            count,
            median: all.get(count / 2).copied(),
            worst: all.last().copied(),
        }
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Stop => "stopped",
        Kind::Cut => "cut off",
        Kind::Kill => "killed",
    }
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_two_numbers() {
        let of = |all: &[u64]| Times::of(all.iter().copied().map(Duration::from_millis).collect());
        let expected = |count, median, worst| Times {
            count,
            median: Some(Duration::from_millis(median)),
            worst: Some(Duration::from_millis(worst)),
        };
        assert_eq!(of(&[5]), expected(1, 5, 5));
        assert_eq!(of(&[30, 10, 20]), expected(3, 20, 30));
        assert_eq!(of(&[4, 3, 2, 1]), expected(4, 3, 4));
        assert_eq!(of(&[]).worst, None);
    }
}
