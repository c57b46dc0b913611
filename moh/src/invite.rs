//! `moh invite`: codes that let people become users of a provider.
//!
//! They are made from the provider's keys alone, whether it runs or not.

use std::path::PathBuf;

use anyhow::{Context, Result};
use moh_server::clock::DAY_MS;
use moh_server::config::Registration;
use moh_server::{Config, Environment, Keys, SecretKeys};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The provider's configuration; `moh init` writes one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How many; each is for one new user
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// For how many days they are good
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = Config::read(&arguments.config)?;
    let secret = SecretKeys::read(&config.keys)
        .with_context(|| format!("{} cannot be used", config.keys.display()))?;
    let keys = Keys::new(config.name.parse()?, &secret)
        .with_context(|| format!("{} cannot be used", config.keys.display()))?;
    let environment = Environment::system();
    let not_after = environment.now_ms() + u64::from(arguments.days) * DAY_MS;
    for _ in 0..arguments.count {
        println!("{}", keys.invite(&*environment.random, not_after));
    }
    match config.registration {
        Registration::Invitation => {}
        Registration::Open => eprintln!("note: nobody needs them: registration is \"open\""),
        Registration::Off => eprintln!(
            "note: {} does not take them: registration is \"off\", not \"invitation\"",
            config.name
        ),
    }
    Ok(())
}
