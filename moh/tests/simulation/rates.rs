//! How often what goes wrong in a run. Each run has its own mixture: some things not at all, some
//! often, so that each can be alone with any other.

use crate::dice::Dice;

/// How often something goes wrong with a request, in a thousand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) delay: u64,
    pub(crate) duplicate_soon: u64,
    pub(crate) duplicate_late: u64,
    pub(crate) cut_before: u64,
    pub(crate) cut_during: u64,
    pub(crate) cut_after: u64,
    pub(crate) server_error: u64,
    pub(crate) too_many: u64,
    pub(crate) garbage: u64,
    /// A new incarnation of a provider dies within its first commits.
    pub(crate) crash: u64,
    /// A read or a write of a store takes its time.
    pub(crate) disk: u64,
    /// How often there is trouble of the kind that lasts, in seconds: on average, about.
    pub(crate) trouble_s: u64,
    /// Which kinds of that.
    pub(crate) partitions: bool,
    pub(crate) slowness: bool,
    pub(crate) restarts: bool,
    pub(crate) clients: bool,
    pub(crate) clocks: bool,
}

impl Rates {
    /// Those of a run.
    pub(crate) fn roll(dice: &Dice) -> Self {
        let some = |usual: &[u64]| *dice.pick(usual).unwrap();
        Self {
            delay: some(&[0, 20, 50]),
            duplicate_soon: some(&[0, 10, 40]),
            duplicate_late: some(&[0, 5, 15]),
            cut_before: some(&[0, 10, 50]),
            cut_during: some(&[0, 5, 20]),
            cut_after: some(&[0, 10, 50]),
            server_error: some(&[0, 5, 30]),
            too_many: some(&[0, 3, 15]),
            garbage: some(&[0, 5, 20]),
            crash: some(&[0, 500, 900]),
            disk: some(&[0, 50, 200]),
            trouble_s: some(&[20, 40, 90]),
            partitions: !dice.once_in(3),
            slowness: !dice.once_in(3),
            restarts: !dice.once_in(3),
            clients: !dice.once_in(3),
            clocks: !dice.once_in(3),
        }
    }
}
