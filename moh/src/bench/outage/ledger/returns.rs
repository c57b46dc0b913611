//! How long it takes after the provider's return until things arrive.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Arrival, Ledger};
use crate::bench::outage::people::{PEOPLE, Place};

/// What is waited for since the provider has returned.
pub(super) struct Awaited {
    since: Instant,
    /// The same in milliseconds since the Unix epoch.
    since_ms: u64,
    /// Texts that were answered `ok` before it, and somebody does not have.
    backlog: BTreeSet<usize>,
    /// Whether one of them is of a.example, and for b.example.
    crosses: bool,
    measured: Return,
}

/// What came of a return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Return {
    /// How many texts had been answered `ok`, and somebody did not have them.
    pub(in super::super) waiting: usize,
    /// Until the first text of the other provider was with one of its clients that it took after
    /// its return; none where no such text waited.
    pub(in super::super) first_after: Option<Duration>,
    /// Until all that waited was with everybody who was to get it.
    pub(in super::super) drained: Option<Duration>,
}

impl Awaited {
    pub(super) fn arrived(
        &mut self,
        number: usize,
        has_all: bool,
        arrival: &Arrival,
        now: Instant,
    ) {
        let took = now.saturating_duration_since(self.since);
        let crosses =
            PEOPLE[arrival.from].place == Place::A && PEOPLE[arrival.at].place == Place::B;
        // What it had taken before the outage says nothing about its return.
        if crosses && self.crosses && arrival.received_at >= self.since_ms {
            self.measured.first_after.get_or_insert(took);
        }
        if has_all && self.backlog.remove(&number) && self.backlog.is_empty() {
            self.measured.drained = Some(took);
        }
    }
}

impl Ledger {
    /// The receiving provider is back.
    pub(in super::super) fn returned(&self, now: Instant, now_ms: u64) {
        let mut book = self.book();
        let texts = book.texts.iter().enumerate();
        let backlog: BTreeSet<_> = texts
            .filter(|(_, text)| text.is_due())
            .map(|(number, _)| number)
            .collect();
        let measured = Return {
            waiting: backlog.len(),
            ..Return::default()
        };
        let is_there = |at: &usize| PEOPLE[*at].place == Place::B;
        let crosses = backlog.iter().any(|number| {
            let text = &book.texts[*number];
            let missing = (0..PEOPLE.len()).filter(|at| !text.arrived.contains(at));
            !is_there(&text.from) && missing.into_iter().any(|at| is_there(&at))
        });
        book.awaited = Some(Awaited {
            since: now,
            since_ms: now_ms,
            backlog,
            crosses,
            measured,
        });
    }

    /// What is known of the last return by now.
    pub(in super::super) fn last_return(&self) -> Return {
        let book = self.book();
        book.awaited
            .as_ref()
            .map(|awaited| awaited.measured)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ledger;
    use super::*;

    #[tokio::test]
    async fn a_return_is_measured_by_what_waited_and_comes_after_it() {
        let ledger = ledger();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let [one, two, three] = [ledger.says(), ledger.says(), ledger.says()];
        for at in [1, 2, 3] {
            ledger.gets(at, one, 900, after(0));
        }
        ledger.gets(1, two, 950, after(0));
        ledger.returned(after(100), 1_000);
        assert_eq!(ledger.last_return().waiting, 2);
        // At home, and taken before the return: neither is a delivery after it.
        ledger.gets(1, three, 1_200, after(110));
        ledger.gets(2, two, 990, after(120));
        assert_eq!(ledger.last_return().first_after, None);
        ledger.gets(3, two, 1_030, after(130));
        let later = ledger.says();
        ledger.gets(2, later, 1_040, after(140));
        ledger.gets(2, three, 1_050, after(150));
        assert_eq!(ledger.last_return().drained, None);
        ledger.gets(3, three, 1_060, after(160));
        let measured = Return {
            waiting: 2,
            first_after: Some(Duration::from_millis(30)),
            drained: Some(Duration::from_millis(60)),
        };
        assert_eq!(
            ledger.last_return(),
            measured,
            "what came later does not count"
        );
    }

    #[tokio::test]
    async fn where_nothing_waited_nothing_is_measured() {
        let (ledger, now) = (ledger(), Instant::now());
        ledger.returned(now, 1_000);
        let text = ledger.says();
        for at in [1, 2, 3] {
            ledger.gets(at, text, 2_000, now);
        }
        assert_eq!(ledger.last_return(), Return::default());
    }
}
