//! Chance that can be repeated: what happens to the provider, when and for how long, follows from
//! one number.

use std::time::Duration;

use super::Kind;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Dice that fall otherwise than these.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Yes, once in `times`.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Anything between the two, to the microsecond.
    pub(super) fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let span = longest.saturating_sub(shortest).as_micros();
        let span = u64::try_from(span).unwrap_or(u64::MAX).saturating_add(1);
        shortest + Duration::from_micros(self.below(span))
    }
}

/// What happens to the provider in one outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) kind: Kind,
    /// How long it goes on.
    pub(super) lasts: Duration,
    /// How long there is quiet before it, at least.
    pub(super) after: Duration,
    /// Whether everything of the outage before has to have arrived first. Otherwise this one may
    /// strike while that is being caught up on.
    pub(super) waits: bool,
    /// Of a cut: whether what is sent gets stuck, or connections are refused.
    pub(super) is_stuck: bool,
    /// Of one that gets stuck: whether its connections break in the end.
    pub(super) is_forgotten: bool,
}

/// All outages of a run, each kind as often as the others.
pub(super) fn plan(seed: u64, kinds: &[Kind], outages: usize, slot: Duration) -> Vec<Outage> {
    let mut dice = Dice::new(seed);
    let mut order: Vec<Kind> = kinds.iter().copied().cycle().take(outages).collect();
    for last in (1..order.len()).rev() {
        let other = usize::try_from(dice.below(last as u64 + 1)).unwrap_or(0);
        order.swap(last, other);
    }
    let outage = |kind| Outage {
        kind,
        lasts: dice.between(slot / 10, slot * 7 / 10),
        after: dice.between(Duration::ZERO, slot / 2),
        waits: !dice.once_in(4),
        is_stuck: dice.once_in(2),
        is_forgotten: dice.once_in(2),
    };
    order.into_iter().map(outage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_has_all_kinds() {
        let slot = Duration::from_secs(2);
        let of = |seed| plan(seed, &Kind::ALL, 50, slot);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let plan = of(7);
        assert_eq!(plan.len(), 50);
        for kind in Kind::ALL {
            let count = plan.iter().filter(|outage| outage.kind == kind).count();
            assert!((16..=17).contains(&count), "{count} of {kind:?}");
        }
        assert!(plan.iter().any(|outage| !outage.waits));
        for outage in plan {
            assert!(outage.lasts >= slot / 10 && outage.lasts <= slot * 7 / 10);
            assert!(outage.after <= slot / 2);
        }
    }
}
