//! Random sequences of operations by clients of three providers, on openmls and on mls-rs.
//!
//! A model says what becomes of each request, and who is to get what. After each step the owner of
//! a group and all of its members agree on it, and exactly its members read what is said in it.
//!
//! ```text
//! MOH_MODEL_SEED=7 MOH_MODEL_SEQUENCES=1 cargo test -p moh-server --test model
//! ```
//!
//! runs one sequence again. `MOH_MODEL_SEQUENCES` and `MOH_MODEL_STEPS` say how many there are, and
//! how long; `MOH_MODEL_SKIP=3,5` leaves steps out. `MOH_MODEL_NODES=2` runs two nodes of each
//! provider, on one store.

#![allow(clippy::unwrap_used)]

mod acts;
mod checks;
mod creating;
mod device;
mod dice;
mod entering;
mod forbidden;
mod leaving;
mod mls;
mod others;
mod outages;
mod races;
mod requests;
mod room;
mod run;
mod sequence;
mod steps;
mod tally;
mod with_mls_rs;
mod with_openmls;
mod world;

/// What was looked for; or what is wrong.
pub(crate) type Check<T = ()> = Result<T, String>;

use std::collections::BTreeSet;

use moh_server::Environment;

const SEQUENCES: usize = 200;
const STEPS: usize = 30;

pub(crate) fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn skipped() -> BTreeSet<usize> {
    let list = std::env::var("MOH_MODEL_SKIP").unwrap_or_default();
    list.split(',').filter_map(|n| n.parse().ok()).collect()
}

#[test]
fn random_sequences() {
    let random = || u64::from(u32::from_be_bytes(Environment::system().random.bytes()));
    let plan = sequence::Plan {
        seed: variable("MOH_MODEL_SEED").unwrap_or_else(random),
        sequences: variable("MOH_MODEL_SEQUENCES").unwrap_or(SEQUENCES),
        steps: variable("MOH_MODEL_STEPS").unwrap_or(STEPS),
        skip: skipped(),
    };
    println!("seeds from {}, {} sequences", plan.seed, plan.sequences);
    let tally = sequence::run_all(&plan);
    println!("{tally}");
    if plan.sequences >= SEQUENCES && plan.steps >= STEPS {
        let never: Vec<_> = steps::names().filter(|step| tally.of(step) == 0).collect();
        assert!(never.is_empty(), "never: {never:?}");
    }
}
