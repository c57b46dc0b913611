//! Randomness that can be had again: each use has a stream of its own, which follows from the seed
//! and its name, so that one use more of one leaves the others as they are.

use std::sync::{Arc, Mutex};

/// A stream of random numbers (SplitMix64). Clones are the same stream.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    /// The stream of a seed with this name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut state = mix(seed ^ 0x6d6f_6820_7369_6d75);
        for byte in name.bytes() {
            state = mix(state ^ u64::from(byte));
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// Any number.
    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(*state)
    }

    /// From 0 to one less than `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// From `least` to `most`.
    pub(crate) fn between(&self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// An index of something with this length.
    pub(crate) fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    /// True `n` times in a thousand.
    pub(crate) fn per_mille(&self, n: u64) -> bool {
        n > 0 && self.below(1000) < n
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them, where there is one.
    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.index(from.len().max(1)))
    }

    /// Puts them into any order.
    pub(crate) fn shuffle<T>(&self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.index(last + 1));
        }
    }
}

fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fill(dice: &Dice, bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&dice.next().to_be_bytes()[..chunk.len()]);
    }
}

impl moh_server::clock::Random for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        fill(self, bytes);
    }
}

impl moh_client::Random for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        fill(self, bytes);
    }
}
