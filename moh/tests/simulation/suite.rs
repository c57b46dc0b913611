//! Many runs, on several threads.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::arguments::Arguments;
use crate::mutants::Mutant;
use crate::report;
use crate::run::{self, Outcome};
use crate::tally::Counts;

/// So many seeds are run where nobody says how many.
const FEW: u64 = 4;
/// So many of them are run twice.
const TWICE: u64 = 2;
/// In so many seeds each kind of fault has to be there.
const ENOUGH: u64 = 200;

/// What came of many runs.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) seeds: u64,
    pub(crate) counts: Counts,
    pub(crate) virtual_time: Duration,
    pub(crate) steps: u64,
    pub(crate) failures: Vec<Outcome>,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.counts.add(&outcome.counts);
        self.virtual_time += outcome.virtual_time;
        self.steps += outcome.steps;
        if !outcome.wrongs.is_empty() {
            self.failures.push(outcome);
        }
    }
}

/// Does what is asked for.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    run::note_panics();
    let started = tokio::time::Instant::now();
    if let Some(seed) = arguments.seed {
        let outcome = run::run(seed, arguments.mutant, arguments.trace);
        let mut sum = Sum::default();
        report::say_progress(&outcome, 1, 1);
        sum.add(outcome);
        return report::say(&sum, arguments.mutant, started.elapsed(), false);
    }
    let seeds = arguments.seeds.unwrap_or(FEW);
    let stops = arguments.mutant.is_some() || !arguments.keep_going;
    let sum = run_all(arguments, seeds, stops);
    let told = report::say(&sum, arguments.mutant, started.elapsed(), seeds >= ENOUGH);
    if arguments.seeds.is_none() && !runs_repeat(arguments.first) {
        return ExitCode::FAILURE;
    }
    told
}

/// Runs seeds until all are done, or, where that is asked for, one has failed.
fn run_all(arguments: &Arguments, seeds: u64, stops: bool) -> Sum {
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first + seeds;
    let is_over = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let outcome = run_guarded(seed, arguments.mutant);
                    if stops && !outcome.wrongs.is_empty() {
                        is_over.store(true, Ordering::Relaxed);
                    }
                    let mut sum = sum.lock().unwrap();
                    if arguments.mutant.is_none() {
                        report::say_progress(&outcome, sum.seeds + 1, seeds);
                    }
                    sum.add(outcome);
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap();
    sum.failures.sort_by_key(|failure| failure.seed);
    sum
}

/// Runs a seed on a thread of its own: what it leaves behind is gone with it.
fn run_guarded(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let guarded = move || {
        let run = std::panic::catch_unwind(|| run::run(seed, mutant, false));
        run.unwrap_or_else(|_| run::broke_off(seed))
    };
    let thread = std::thread::Builder::new()
        .name(format!("seed {seed}"))
        .stack_size(8 << 20)
        .spawn(guarded);
    thread.expect("a thread").join().expect("it is caught")
}

/// Whether the same seed is the same run.
fn runs_repeat(first: u64) -> bool {
    let mut digests = BTreeMap::new();
    for seed in [first, first].iter().flat_map(|s| *s..*s + TWICE) {
        let outcome = run_guarded(seed, None);
        let digest = (outcome.digest, outcome.steps);
        let before = digests.insert(seed, digest);
        if before.is_some_and(|before| before != digest) {
            println!("seed {seed} is not the same run twice: {before:?}, then {digest:?}");
            return false;
        }
    }
    println!("{TWICE} seeds were run again, and were the same runs.");
    true
}
