//! `moh rotate-keys`: a new key in the place of the one that a provider signs with.

use std::path::PathBuf;

use anyhow::{Context, Result};
use moh_server::clock::HOUR_MS;
use moh_server::{Config, Environment, SecretKeys};

#[derive(clap::Args)]
#[command(after_help = "\
The new key signs requests and attestations from 25 hours after this on. The provider has to be
started again within the first hour, so that it tells others of the key a day before that. What is
signed by the keys until now stays good: they are published for 150 days more.")]
pub(crate) struct Arguments {
    /// The provider's configuration; `moh init` writes one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Make new keys for groups, too; groups that there are keep the ones that they know
    #[arg(long)]
    group_keys: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = Config::read(&arguments.config)?;
    let path = &config.keys;
    let secret =
        SecretKeys::read(path).with_context(|| format!("{} cannot be used", path.display()))?;
    let environment = Environment::system();
    let (random, now) = (&*environment.random, environment.now_ms());
    let (mut secret, signs_from) = secret
        .with_new_request_key(random, now)
        .with_context(|| format!("{} stays as it is", path.display()))?;
    if arguments.group_keys {
        secret = secret.with_new_group_keys(random);
    }
    secret
        .replace(path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    let hours = (signs_from - now) / HOUR_MS;
    println!(
        "{} has a new key, which signs in {hours} hours",
        path.display()
    );
    println!("next: start the provider again within an hour; it reads its keys when it starts");
    if arguments.group_keys {
        println!("      groups that are made from then on know the new keys for groups");
    }
    println!("      back {} up", path.display());
    Ok(())
}
