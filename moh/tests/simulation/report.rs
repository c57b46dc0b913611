//! What is said in the end.

use std::process::ExitCode;
use std::time::Duration;

use crate::mutants::Mutant;
use crate::run::Outcome;
use crate::suite::Sum;
use crate::tally::{Deed, Fault};

/// So many things that are wrong are printed of each run.
const WRONGS: usize = 20;

/// After so many seeds it is said how far it is.
const EVERY: u64 = 100;

/// Says what came of it, and whether that is as it should be.
pub(crate) fn say(sum: &Sum, mutant: Option<Mutant>, took: Duration, is_enough: bool) -> ExitCode {
    if let Some(mutant) = mutant {
        return say_of_mutant(sum, mutant, took);
    }
    say_sum(sum, took);
    let missing: Vec<_> = Fault::ALL
        .iter()
        .filter(|(fault, _)| sum.counts.of(*fault) == 0)
        .map(|(_, words)| *words)
        .collect();
    if is_enough && !missing.is_empty() {
        println!("never: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    if sum.failures.is_empty() {
        println!("\nok: nothing lost, nothing twice, nothing out of order");
        ExitCode::SUCCESS
    } else {
        println!("\nFAILED: {} of {} seeds", sum.failures.len(), sum.seeds);
        ExitCode::FAILURE
    }
}

fn say_of_mutant(sum: &Sum, mutant: Mutant, took: Duration) -> ExitCode {
    let name = mutant.name();
    let seconds = took.as_secs_f64();
    match sum.failures.first() {
        Some(caught) => {
            let wrong = caught.wrongs.first().map_or("", String::as_str);
            println!(
                "{name}: caught by seed {} ({seconds:.1} s): {wrong}",
                caught.seed
            );
            ExitCode::SUCCESS
        }
        None => {
            println!("{name}: NOT CAUGHT by {} seeds ({seconds:.1} s)", sum.seeds);
            ExitCode::FAILURE
        }
    }
}

/// Says how far it is now and then, and what fails when it does.
pub(crate) fn say_progress(outcome: &Outcome, done: u64, of: u64) {
    if !outcome.wrongs.is_empty() {
        say_failure(outcome);
    }
    if done.is_multiple_of(EVERY) {
        println!("{done} of {of} seeds");
    }
}

fn say_failure(failure: &Outcome) {
    let seed = failure.seed;
    println!("seed {seed}: the last that happened:");
    for line in &failure.tail {
        println!("  {line}");
    }
    println!("seed {seed}: {} wrong:", failure.wrongs.len());
    for wrong in failure.wrongs.iter().take(WRONGS) {
        println!("  {wrong}");
    }
    println!("again: cargo test --release -p moh --test simulation -- --seed {seed} --trace\n");
}

fn say_sum(sum: &Sum, took: Duration) {
    let hours = sum.virtual_time.as_secs_f64() / 3600.0;
    println!(
        "{} seeds, {hours:.1} hours of virtual time in {:.1} s, {} steps, {} faults",
        sum.seeds,
        took.as_secs_f64(),
        sum.steps,
        sum.counts.all_faults(),
    );
    println!("\nWhat was done");
    for (deed, words) in Deed::ALL {
        println!("{:>10}  {words}", sum.counts.of_deed(*deed));
    }
    println!("\nWhat went wrong meanwhile");
    for (fault, words) in Fault::ALL {
        println!("{:>10}  {words}", sum.counts.of(*fault));
    }
}
