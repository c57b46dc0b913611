//! What is asked for on the command line.

use clap::Parser;

use crate::mutants::Mutant;

/// Runs a whole federation in this process, on virtual time: each seed is another course of
/// events, and the same one each time.
#[derive(Parser, Debug)]
#[command(name = "simulation")]
pub(crate) struct Arguments {
    /// How many seeds; without this, a few of them, and some of those twice.
    #[arg(long)]
    pub(crate) seeds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) first: u64,
    /// One seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    pub(crate) seed: Option<u64>,
    /// Prints what happens.
    #[arg(long)]
    pub(crate) trace: bool,
    /// How many seeds run at once; without this, one on each processor.
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Puts a bug into all providers, which has to be caught.
    #[arg(long)]
    pub(crate) mutant: Option<Mutant>,
    /// Goes on after a failure.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Only if the name of this test has it in it, as other tests understand it.
    #[arg(hide = true)]
    pub(crate) filters: Vec<String>,
    /// As other tests understand it: nothing is held back here.
    #[arg(long, hide = true)]
    pub(crate) nocapture: bool,
}
