//! The sum of it all.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Book, Ledger};
use crate::bench::outage::people::PEOPLE;

/// What became of all texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Counts {
    /// Texts that were answered `ok`.
    pub(in super::super) sent: u64,
    /// Those of them that everybody has who was to get them.
    pub(in super::super) delivered: u64,
    /// Those that somebody does not have.
    pub(in super::super) lost: u64,
    /// What somebody got twice: texts, and what was in a queue twice.
    pub(in super::super) duplicated: u64,
    /// Texts that came to somebody after one that was accepted later.
    pub(in super::super) reordered: u64,
    /// Texts that were refused, and nobody was to get.
    pub(in super::super) refused: u64,
    /// Texts of which nobody could say in the end whether they were taken.
    pub(in super::super) unanswered: u64,
    /// What nobody had sent, or was refused, and came all the same.
    pub(in super::super) unknown: u64,
    /// What else must not have happened.
    pub(in super::super) surprises: u64,
}

impl Counts {
    /// Whether everything is as it has to be.
    pub(in super::super) fn is_good(&self) -> bool {
        self.sent > 0
            && self.delivered == self.sent
            && [
                self.lost,
                self.duplicated,
                self.reordered,
                self.unanswered,
                self.unknown,
                self.surprises,
            ]
            .iter()
            .all(|count| *count == 0)
    }
}

impl Ledger {
    pub(in super::super) fn counts(&self) -> Counts {
        let book = self.book();
        let of = |answer| book.texts.iter().filter(move |text| text.answer == answer);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let sent = count(of(Answer::Ok).count());
        let lost = count(of(Answer::Ok).filter(|text| text.is_due()).count());
        let refused = of(Answer::Refused);
        let came_all_the_same = refused.filter(|text| !text.arrived.is_empty()).count();
        Counts {
            sent,
            delivered: sent - lost,
            lost,
            duplicated: count(book.repeated.len()) + book.items_repeated,
            reordered: count(book.reordered().len()),
            refused: count(of(Answer::Refused).count()),
            unanswered: count(of(Answer::None).count()),
            unknown: book.unknown + count(came_all_the_same),
            surprises: book.surprised,
        }
    }

    /// How many texts of the people at each provider were answered `ok`, and how many have arrived
    /// everywhere.
    pub(in super::super) fn by_place(&self, is_there: impl Fn(usize) -> bool) -> (u64, u64) {
        let book = self.book();
        let texts = book.texts.iter();
        let sent = texts.filter(|text| text.answer == Answer::Ok && is_there(text.from));
        sent.fold((0, 0), |(sent, delivered), text| {
            (sent + 1, delivered + u64::from(!text.is_due()))
        })
    }
}

impl Book {
    /// Texts that came to somebody after one that came before them in the owner's order, or that
    /// the same person had sent later. Each person sends a text of a group when the answer to the
    /// one before it is known.
    ///
    /// The owner's order is that in which a person who only reads, and is the owner's own user, got
    /// the texts of the group.
    fn reordered(&self) -> BTreeSet<usize> {
        let mut late = BTreeSet::new();
        for ((at, group), got) in &self.got {
            let owner = self.groups.get(*group).map(|group| group.owner);
            let witness = PEOPLE
                .iter()
                .position(|person| Some(person.place) == owner && !person.writes);
            let order: BTreeMap<usize, usize> = witness
                .filter(|witness| witness != at)
                .and_then(|witness| self.got.get(&(witness, *group)))
                .map(|got| got.iter().enumerate().map(|(at, text)| (*text, at)))
                .into_iter()
                .flatten()
                .collect();
            let (mut latest, mut latest_of) = (None, BTreeMap::new());
            for text in got {
                if let Some(place) = order.get(text) {
                    if latest.is_some_and(|latest| latest > place) {
                        late.insert(*text);
                    }
                    latest = latest.max(Some(place));
                }
                let from = self.texts[*text].from;
                let latest_of = latest_of.entry(from).or_insert(*text);
                if *latest_of > *text {
                    late.insert(*text);
                }
                *latest_of = (*latest_of).max(*text);
            }
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::tests::ledger;
    use super::*;

    /// Amy, Bob and Ben.
    const OTHERS: [usize; 3] = [1, 2, 3];

    fn everybody_gets(ledger: &Ledger, texts: &[usize]) {
        for at in OTHERS {
            for text in texts {
                ledger.gets(at, *text, 0, Instant::now());
            }
        }
    }

    #[tokio::test]
    async fn what_arrives_once_and_in_order_is_good() {
        let ledger = ledger();
        let texts = [ledger.says(), ledger.says()];
        assert!(!ledger.counts().is_good(), "nothing has arrived");
        everybody_gets(&ledger, &texts);
        let counts = ledger.counts();
        assert_eq!((counts.sent, counts.delivered), (2, 2));
        assert!(counts.is_good(), "{counts:?}");
        assert_eq!(ledger.by_place(|from| from == 0), (2, 2));
        assert_eq!(ledger.by_place(|from| from == 2), (0, 0));
    }

    #[tokio::test]
    async fn what_one_person_lacks_is_lost() {
        let ledger = ledger();
        let text = ledger.says();
        ledger.gets(1, text, 0, Instant::now());
        ledger.gets(2, text, 0, Instant::now());
        let counts = ledger.counts();
        assert_eq!((counts.sent, counts.delivered, counts.lost), (1, 0, 1));
        assert!(!counts.is_good());
    }

    #[tokio::test]
    async fn what_comes_twice_is_duplicated() {
        let ledger = ledger();
        let text = ledger.says();
        everybody_gets(&ledger, &[text]);
        ledger.gets(2, text, 0, Instant::now());
        let counts = ledger.counts();
        assert_eq!((counts.duplicated, counts.lost), (1, 0));
        assert!(!counts.is_good());
    }

    #[tokio::test]
    async fn what_comes_after_a_later_text_of_the_same_person_is_reordered() {
        let ledger = ledger();
        let [first, second, third] = [ledger.says(), ledger.says(), ledger.says()];
        everybody_gets(&ledger, &[second, first, third]);
        let counts = ledger.counts();
        assert_eq!(counts.reordered, 1, "nobody sees that they differ");
        assert!(!counts.is_good());
    }

    /// Alice's and Bob's texts have an order, too: that in which the owner took them.
    #[tokio::test]
    async fn what_comes_in_another_order_than_the_owners_is_reordered() {
        let ledger = ledger();
        let alices = ledger.says();
        let (bobs, _) = ledger.write(2, 0);
        ledger.answered(bobs, true);
        let now = Instant::now();
        for (at, text) in [(1, alices), (1, bobs), (3, bobs), (3, alices)] {
            ledger.gets(at, text, 0, now);
        }
        ledger.gets(0, bobs, 0, now);
        ledger.gets(2, alices, 0, now);
        let counts = ledger.counts();
        assert_eq!((counts.reordered, counts.lost), (1, 0));
    }

    #[tokio::test]
    async fn what_was_refused_must_not_come() {
        let ledger = ledger();
        let good = ledger.says();
        everybody_gets(&ledger, &[good]);
        let (refused, _) = ledger.write(0, 0);
        assert_eq!(ledger.counts().unanswered, 1);
        ledger.answered(refused, false);
        assert!(ledger.counts().is_good(), "{:?}", ledger.counts());
        assert_eq!(ledger.counts().refused, 1);
        ledger.gets(1, refused, 0, Instant::now());
        assert_eq!(ledger.counts().unknown, 1);
        ledger.surprise("an event".to_owned());
        assert_eq!(ledger.counts().surprises, 1);
    }
}
