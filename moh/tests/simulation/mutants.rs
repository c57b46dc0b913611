//! Providers with a bug in them, to see whether the checks find it. They are made by what stands
//! between a provider and its store, so that the product has no code for this.

use moh_server::change::{Change, Expect, Write};
use moh_server::store::OutboxRow;

use crate::dice::Dice;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mutant {
    /// Deliveries that come again are not recognized.
    NoDedupe,
    /// What waits for another provider is sent in any order.
    NoOrder,
    /// What is to be sent is not in the commit of the group's change, but in one after it.
    OutboxApart,
}

impl Mutant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoDedupe => "no-dedupe",
            Self::NoOrder => "no-order",
            Self::OutboxApart => "outbox-apart",
        }
    }

    /// What a change becomes: the commits that are made of it, one after the other.
    pub(crate) fn commits(self, mut change: Change) -> Vec<Change> {
        match self {
            Self::NoDedupe => {
                let is_new = |expect: &Expect| matches!(expect, Expect::NewDelivery(..));
                change.expect.retain(|expect| !is_new(expect));
                let is_known = |write: &Write| matches!(write, Write::Delivered { .. });
                change.writes.retain(|write| !is_known(write));
                vec![change]
            }
            Self::NoOrder => vec![change],
            Self::OutboxApart => {
                let is_sent =
                    |write: &Write| matches!(write, Write::Outbox(_) | Write::OutboxBounds { .. });
                let (later, now) = change.writes.into_iter().partition(is_sent);
                change.writes = now;
                let later = Change {
                    expect: Vec::new(),
                    writes: later,
                };
                [change, later]
                    .into_iter()
                    .filter(|change| !change.writes.is_empty())
                    .collect()
            }
        }
    }

    /// What a delivery's first result becomes.
    pub(crate) fn delivered(self, result: Option<Vec<u8>>) -> Option<Vec<u8>> {
        result.filter(|_| self != Self::NoDedupe)
    }

    /// What becomes of what waits.
    pub(crate) fn outbox(self, mut rows: Vec<OutboxRow>, dice: &Dice) -> Vec<OutboxRow> {
        if self == Self::NoOrder {
            dice.shuffle(&mut rows);
        }
        rows
    }
}
