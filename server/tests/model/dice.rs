//! Randomness that can be had again: a generator of one number (SplitMix64).

/// What decides which steps there are, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Of a sequence and one of its steps: leaving a step out leaves the others as they are.
    pub(crate) fn of(seed: u64, step: u64) -> Self {
        let mut dice = Self(seed ^ 0x6d6f_6800_6d6f_6465);
        let start = dice
            .next()
            .wrapping_add(step.wrapping_mul(0xd134_2543_de82_ef95));
        Self(start)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From nothing to one less than `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap();
        usize::try_from(self.next() % bound).unwrap()
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// Up to `most` of them, at least one where there is one.
    pub(crate) fn some<T>(&mut self, mut from: Vec<T>, most: usize) -> Vec<T> {
        let count = 1 + self.below(most);
        let mut chosen = Vec::new();
        while chosen.len() < count && !from.is_empty() {
            chosen.push(from.remove(self.below(from.len())));
        }
        chosen
    }
}
