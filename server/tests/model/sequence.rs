//! Sequences: run beside each other, and cut down to what matters where one fails.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use moh_messages::CipherSuite;
use tokio::time::Instant;

use crate::Check;
use crate::dice::Dice;
use crate::run::Run;
use crate::tally::Tally;
use crate::world::{PATIENCE, Setting};

/// Which sequences are run.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) sequences: usize,
    pub(crate) steps: usize,
    pub(crate) skip: BTreeSet<usize>,
}

/// Where a sequence went wrong, and how.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: usize,
    pub(crate) error: String,
    pub(crate) journal: Vec<String>,
}

const SUITES: [CipherSuite; 3] = [CipherSuite(1), CipherSuite(2), CipherSuite(3)];

/// Runs one sequence.
pub(crate) async fn run(seed: u64, steps: usize, skip: &BTreeSet<usize>) -> Result<Tally, Failure> {
    let mut dice = Dice::of(seed, u64::MAX);
    let suite = *dice.pick(&SUITES).unwrap();
    let setting = Setting {
        nodes: crate::variable("MOH_MODEL_NODES").unwrap_or(1),
        tiny_cache: dice.once_in(2),
    };
    let mut run = Run::new(suite, setting, dice).await;
    run.note(format!("ciphersuite {}, {setting:?}", suite.0));
    let mut at = 0;
    let result = AssertUnwindSafe(all_steps(&mut run, seed, steps, skip, &mut at))
        .catch_unwind()
        .await;
    let error = match result {
        Ok(Ok(())) => {
            let tally = std::mem::take(&mut run.tally);
            run.world.end().await;
            return Ok(tally);
        }
        Ok(Err(error)) => error,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.unwrap_or_else(|| "a panic; its message is above".to_owned())
        }
    };
    let journal = std::mem::take(&mut run.journal);
    run.world.end().await;
    Err(Failure {
        step: at,
        error,
        journal,
    })
}

async fn all_steps(
    run: &mut Run,
    seed: u64,
    steps: usize,
    skip: &BTreeSet<usize>,
    at: &mut usize,
) -> Check {
    for step in (0..steps).filter(|step| !skip.contains(step)) {
        *at = step;
        run.dice = Dice::of(seed, u64::try_from(step).unwrap());
        run.note(format!("step {step}:"));
        Box::pin(run.step()).await?;
        Box::pin(run.check()).await?;
    }
    *at = steps;
    run.dice = Dice::of(seed, u64::MAX - 1);
    Box::pin(run.finish()).await
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// Runs them all.
///
/// # Panics
/// When one of them fails; says how it is run again.
pub(crate) fn run_all(plan: &Plan) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.lock().unwrap().is_none() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= plan.sequences {
                        break;
                    }
                    let seed = plan.seed.wrapping_add(u64::try_from(number).unwrap());
                    match block_on(run(seed, plan.steps, &plan.skip)) {
                        Ok(tally) => all.lock().unwrap().add(&tally),
                        Err(failure) => *failed.lock().unwrap() = Some((seed, failure)),
                    }
                }
            });
        }
    });
    if let Some((seed, failure)) = failed.into_inner().unwrap() {
        report(seed, plan, failure);
    }
    all.into_inner().unwrap()
}

/// Leaves out steps for as long as the sequence goes wrong, and says what is left.
fn report(seed: u64, plan: &Plan, first: Failure) -> ! {
    let mut skip = plan.skip.clone();
    let mut failure = first;
    let steps = |failure: &Failure| (failure.step + 1).min(plan.steps);
    let enough = Instant::now() + PATIENCE;
    for step in (0..failure.step).rev() {
        let mut without = skip.clone();
        if !without.insert(step) || Instant::now() > enough {
            continue;
        }
        if let Err(again) = block_on(run(seed, steps(&failure), &without)) {
            (skip, failure) = (without, again);
        }
    }
    let skipped: Vec<_> = skip
        .iter()
        .filter(|step| **step < failure.step)
        .map(ToString::to_string)
        .collect();
    panic!(
        "step {} of sequence {seed}: {}\n{}\nagain: MOH_MODEL_SEED={seed} MOH_MODEL_SEQUENCES=1 \
         MOH_MODEL_STEPS={} MOH_MODEL_SKIP={} cargo test -p moh-server --test model -- random\n",
        failure.step,
        failure.error,
        failure.journal.join("\n"),
        steps(&failure),
        skipped.join(","),
    );
}
