//! What was sent, and what became of it: counted by texts, each of which is there once.

mod counts;
mod returns;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moh_client::GroupId;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) use counts::Counts;
pub(super) use returns::Return;

use super::people::{PEOPLE, Place};
use returns::Awaited;

/// How many surprises are told one by one.
const MAX_SURPRISES: usize = 10;

/// What is known of the answer to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing.
    None,
    /// The group's owner took it.
    Ok,
    /// The owner will never take it.
    Refused,
}

/// A text that somebody has sent.
#[derive(Clone, Debug)]
struct Text {
    group: usize,
    /// Whose it is, as an index of [`PEOPLE`].
    from: usize,
    answer: Answer,
    /// Who has it, by index.
    arrived: BTreeSet<usize>,
}

impl Text {
    /// Whether it was answered `ok`, and somebody does not have it.
    fn is_due(&self) -> bool {
        self.answer == Answer::Ok && self.arrived.len() < PEOPLE.len() - 1
    }
}

/// A group, as far as its texts go.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) id: GroupId,
    /// The provider that owns it.
    pub(super) owner: Place,
}

/// A text as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Who got it.
    pub(super) at: usize,
    /// Whom it is from.
    pub(super) from: usize,
    pub(super) group: usize,
    /// When the provider of who got it took it, in milliseconds since the Unix epoch.
    pub(super) received_at: u64,
}

#[derive(Default)]
struct Book {
    groups: Vec<Group>,
    texts: Vec<Text>,
    /// What each person got in each group, in that order.
    got: BTreeMap<(usize, usize), Vec<usize>>,
    /// Texts that somebody got more than once.
    repeated: BTreeSet<usize>,
    /// What was in each queue, and where.
    items: HashMap<(usize, [u8; 32]), Vec<u8>>,
    /// Items that were in a queue again, at another place.
    items_repeated: u64,
    /// What nobody has sent.
    unknown: u64,
    surprises: Vec<String>,
    surprised: u64,
    awaited: Option<Awaited>,
}

/// The book of what was sent. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    book: Arc<Mutex<Book>>,
    changed: Arc<Notify>,
}

impl Ledger {
    /// Texts are written in these groups.
    pub(super) fn open(&self, groups: Vec<Group>) {
        self.book().groups = groups;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new text, which no other one is like.
    pub(super) fn write(&self, from: usize, group: usize) -> (usize, String) {
        let texts = &mut self.book().texts;
        texts.push(Text {
            group,
            from,
            answer: Answer::None,
            arrived: BTreeSet::new(),
        });
        let number = texts.len() - 1;
        (number, format!("text {number}"))
    }

    /// The owner's answer to a text is known.
    pub(super) fn answered(&self, number: usize, is_ok: bool) {
        if let Some(text) = self.book().texts.get_mut(number) {
            text.answer = if is_ok { Answer::Ok } else { Answer::Refused };
        }
        self.changed.notify_waiters();
    }

    /// A text has arrived.
    pub(super) fn arrived(&self, content: &[u8], arrival: Arrival, now: Instant) {
        let mut book = self.book();
        let number = number_of(content);
        let known = |book: &Book, number: &usize| {
            book.texts
                .get(*number)
                .is_some_and(|text| (text.from, text.group) == (arrival.from, arrival.group))
        };
        let Some(number) = number.filter(|number| known(&book, number)) else {
            book.unknown += 1;
            return;
        };
        if !book.texts[number].arrived.insert(arrival.at) {
            book.repeated.insert(number);
        }
        let got = book.got.entry((arrival.at, arrival.group)).or_default();
        got.push(number);
        let has_all = !book.texts[number].is_due();
        if let Some(awaited) = &mut book.awaited {
            awaited.arrived(number, has_all, &arrival, now);
        }
        drop(book);
        self.changed.notify_waiters();
    }

    /// Something is in somebody's queue, after which the queue is read on at `cursor`.
    pub(super) fn queued(&self, at: usize, digest: [u8; 32], cursor: &[u8]) {
        let mut book = self.book();
        let before = book
            .items
            .entry((at, digest))
            .or_insert_with(|| cursor.to_vec());
        if before != cursor {
            *before = cursor.to_vec();
            book.items_repeated += 1;
        }
        drop(book);
        self.changed.notify_waiters();
    }

    /// Something happened that must not.
    pub(super) fn surprise(&self, what: String) {
        let mut book = self.book();
        book.surprised += 1;
        if book.surprises.len() < MAX_SURPRISES {
            book.surprises.push(what);
        }
    }

    /// The first of what must not have happened, and of what has not arrived.
    pub(super) fn complaints(&self) -> Vec<String> {
        let book = self.book();
        let texts = book.texts.iter().enumerate();
        let open = texts.filter(|(_, text)| text.is_due() || text.answer == Answer::None);
        let open = open.map(|(number, text)| {
            let owner = book.groups[text.group].owner.name();
            let from = PEOPLE[text.from].name;
            let got: Vec<_> = text.arrived.iter().map(|at| PEOPLE[*at].name).collect();
            let (group, answer, got) = (text.group, text.answer, got.join(" "));
            format!("text {number} of {from} in group {group} of {owner}: {answer:?}, with [{got}]")
        });
        let surprises = book.surprises.iter().cloned();
        surprises.chain(open.take(MAX_SURPRISES)).collect()
    }

    /// How many texts were answered `ok` and have not arrived everywhere; and how many things have
    /// arrived, in all.
    pub(super) fn due(&self) -> (usize, usize) {
        let book = self.book();
        let due = book.texts.iter().filter(|text| text.is_due()).count();
        (due, book.items.len())
    }

    /// Waits until `done` says so; it is asked whenever something was answered or has arrived.
    pub(super) async fn until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            // Listen first, look then: what comes in between is heard.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(self) {
                return;
            }
            changed.await;
        }
    }
}

/// The number that is in a text.
fn number_of(content: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(content).ok()?;
    text.strip_prefix("text ")?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One group of a.example.
    pub(super) fn ledger() -> Ledger {
        let ledger = Ledger::default();
        ledger.open(vec![Group {
            id: GroupId::new(*b"group").unwrap(),
            owner: Place::A,
        }]);
        ledger
    }

    impl Ledger {
        /// Alice's next text.
        pub(super) fn says(&self) -> usize {
            let (number, _) = self.write(0, 0);
            self.answered(number, true);
            number
        }

        pub(super) fn gets(&self, at: usize, number: usize, received_at: u64, now: Instant) {
            let from = self.book().texts[number].from;
            let arrival = Arrival {
                at,
                from,
                group: 0,
                received_at,
            };
            self.arrived(format!("text {number}").as_bytes(), arrival, now);
        }
    }

    #[tokio::test]
    async fn what_nobody_sent_is_unknown() {
        let (ledger, now) = (ledger(), Instant::now());
        let number = ledger.says();
        let arrival = |from, group| Arrival {
            at: 1,
            from,
            group,
            received_at: 0,
        };
        let text = format!("text {number}");
        ledger.arrived(b"text 9", arrival(0, 0), now);
        ledger.arrived(b"another text", arrival(0, 0), now);
        ledger.arrived(text.as_bytes(), arrival(2, 0), now);
        ledger.arrived(text.as_bytes(), arrival(0, 1), now);
        assert_eq!(ledger.counts().unknown, 4);
        ledger.arrived(text.as_bytes(), arrival(0, 0), now);
        assert_eq!(ledger.counts().unknown, 4);
        assert_eq!(ledger.due().0, 1, "two others have not got it");
    }

    #[tokio::test]
    async fn an_item_is_in_a_queue_once() {
        let ledger = ledger();
        ledger.queued(1, [1; 32], b"1");
        ledger.queued(1, [1; 32], b"1");
        ledger.queued(2, [1; 32], b"9");
        ledger.queued(1, [2; 32], b"2");
        assert_eq!(ledger.counts().duplicated, 0, "it may be read again");
        ledger.queued(1, [1; 32], b"3");
        assert_eq!(ledger.counts().duplicated, 1);
    }
}
