//! Nonces: each is taken once, within the time in which its request counts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use moh_messages::Nonce;

use crate::change::{Change, Write};
use crate::clock::MINUTE_MS;
use crate::error::Refusal;
use crate::node::Node;
use crate::store::CommitError;

/// How far a timestamp may be from our clock, in milliseconds.
const WINDOW_MS: u64 = 5 * MINUTE_MS;
/// Nonces that are remembered in memory at once.
const MAX_NONCES: usize = 2_000_000;

/// What becomes of a request that somebody makes once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// It has another mark by which it is known, and no nonce is kept.
    Known,
    /// It changes nothing that the first one has not changed: its nonce is kept in memory.
    Useless,
    /// It would change something again: its nonce is durable before anything is done.
    Harmful,
}

impl Node {
    /// Takes a nonce, once.
    ///
    /// # Errors
    /// `replayed`: it was taken before, or its time is not ours. `unavailable` when that cannot
    /// be said.
    pub(super) async fn take_nonce(
        &self,
        who: &str,
        nonce: &Nonce,
        timestamp: u64,
        repeats: Repeats,
    ) -> Result<(), Refusal> {
        let now = self.now_ms();
        check_window(timestamp, now)?;
        if repeats == Repeats::Known {
            return Ok(());
        }
        self.nonces().take(who, nonce, timestamp, now)?;
        if repeats == Repeats::Useless {
            return Ok(());
        }
        let taken = Write::Nonce {
            who: who.to_owned(),
            nonce: nonce.clone(),
            until: timestamp + WINDOW_MS,
            now,
        };
        let change = Change {
            expect: Vec::new(),
            writes: vec![taken],
        };
        match self.commit(change).await {
            Err(CommitError::Conflict) => Err(taken_before(now)),
            result => Ok(result?),
        }
    }
}

fn check_window(timestamp: u64, now: u64) -> Result<(), Refusal> {
    if timestamp.abs_diff(now) <= WINDOW_MS {
        Ok(())
    } else {
        Err(Refusal::Replayed {
            reason: "the timestamp is not within 5 minutes of ours",
            now,
        })
    }
}

fn taken_before(now: u64) -> Refusal {
    Refusal::Replayed {
        reason: "this nonce was taken before",
        now,
    }
}

/// Nonces that were taken since the start, for as long as their timestamps count.
#[derive(Default)]
pub(crate) struct Nonces(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    /// With the time until which each has to be remembered.
    nonces: HashMap<(String, Nonce), u64>,
    sweep_at: u64,
}

impl Nonces {
    fn take(&self, who: &str, nonce: &Nonce, timestamp: u64, now: u64) -> Result<(), Refusal> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.sweep_at <= now {
            taken.nonces.retain(|_, until| *until >= now);
            taken.sweep_at = now + MINUTE_MS;
        }
        if taken.nonces.len() >= MAX_NONCES {
            return Err(Refusal::Unavailable {
                reason: "too many requests in the last minutes".to_owned(),
                retry_after_seconds: 60,
            });
        }
        let until = timestamp + WINDOW_MS;
        match taken.nonces.insert((who.to_owned(), nonce.clone()), until) {
            None => Ok(()),
            Some(_) => Err(taken_before(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_taken_once_within_the_window() {
        let start = 10 * WINDOW_MS;
        let nonces = Nonces::default();
        let nonce = |byte| Nonce::new([byte; 16]).unwrap();
        let take = |who, byte, timestamp, now| {
            check_window(timestamp, now)?;
            nonces.take(who, &nonce(byte), timestamp, now)
        };
        assert!(take("a", 1, start, start).is_ok());
        assert!(take("a", 1, start, start).is_err());
        assert!(take("b", 1, start, start).is_ok());
        assert!(take("a", 2, start, start + WINDOW_MS).is_ok());
        assert!(take("a", 3, start, start + WINDOW_MS + 1).is_err());
        // It is remembered until its timestamp is out of the window, and not for ever.
        let late = start + WINDOW_MS;
        assert!(take("a", 5, late, start).is_ok());
        assert!(take("a", 5, late, late + WINDOW_MS).is_err());
        assert!(take("a", 6, late + 3 * WINDOW_MS, late + 3 * WINDOW_MS).is_ok());
        assert_eq!(nonces.0.lock().unwrap().nonces.len(), 1);
    }
}
