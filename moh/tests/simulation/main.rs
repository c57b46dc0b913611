//! A whole federation in one process, on virtual time, from one seed: providers with their stores,
//! clients with their MLS, and a network between them in which everything goes wrong that can.
//!
//! ```text
//! cargo test --release -p moh --test simulation -- --seeds 1000
//! cargo test --release -p moh --test simulation -- --seed 7 --trace
//! cargo test --release -p moh --test simulation -- --seeds 100 --mutant no-dedupe
//! ```
//!
//! Data flows one way. `dice` decides, with `rates`, what happens when (`time`). `network` and
//! `disk` carry what providers (`provider`) and people (`person`) want of each other, and make it go
//! wrong; `trouble` is what goes wrong for longer. `workload` has people do things. What owners
//! accept is owed, and stands in the `ledger`; `checks` compares it with what has arrived. A `run`
//! is all of that once; `suite` makes many of them, and `report` says what came of it.

#![allow(clippy::unwrap_used)]

mod arguments;
mod checks;
mod dice;
mod disk;
mod ledger;
mod life;
mod line;
mod mutants;
mod network;
mod person;
mod provider;
mod rates;
mod report;
mod run;
mod scene;
mod suite;
mod tally;
mod time;
mod trace;
mod trouble;
mod wire;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let is_meant = |filter: &String| "simulation".contains(filter.as_str());
    if !arguments.filters.is_empty() && !arguments.filters.iter().any(is_meant) {
        return ExitCode::SUCCESS;
    }
    suite::run(&arguments)
}
