//! `moh init`: the configuration and the keys of a new provider.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use moh_messages::ProviderName;
use moh_server::{Environment, SecretKeys};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder to write moh.toml and keys.toml to; it is made when it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The provider's name: the domain that users' names end in
    #[arg(long, value_name = "DOMAIN")]
    name: ProviderName,
}

/// The configuration with its comments; `{name}` stands for the provider's name.
const TEMPLATE: &str = include_str!("init.toml");

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = &arguments.folder;
    let (config, keys) = (folder.join("moh.toml"), folder.join("keys.toml"));
    for path in [&config, &keys] {
        if path.exists() {
            bail!("{} exists; it is not overwritten", path.display());
        }
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    SecretKeys::generate(&*Environment::system().random)
        .write(&keys)
        .with_context(|| format!("{} cannot be written", keys.display()))?;
    std::fs::write(&config, TEMPLATE.replace("{name}", arguments.name.as_str()))
        .with_context(|| format!("{} cannot be written", config.display()))?;
    println!("wrote {} and {}", config.display(), keys.display());
    println!();
    println!(
        "next: put a certificate for {} and its key where",
        arguments.name
    );
    println!("      {} says, and run", config.display());
    println!("      moh serve --config {}", config.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_a_configuration_with_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = Arguments {
            folder: folder.path().join("provider"),
            name: "a.example".parse().unwrap(),
        };
        run(&arguments).unwrap();
        let path = arguments.folder.join("moh.toml");
        let config = moh_server::Config::read(&path).unwrap();
        assert_eq!(config.name, "a.example");
        assert_eq!(config.limits, moh_server::Limits::default());
        assert!(SecretKeys::read(&arguments.folder.join("keys.toml")).is_ok());
        assert!(run(&arguments).is_err(), "nothing is overwritten");

        // What is commented out is the default too.
        let text = std::fs::read_to_string(&path).unwrap();
        let settings = text.lines().map(|line| match line.strip_prefix("#: ") {
            Some(setting) => setting,
            None => line,
        });
        std::fs::write(&path, settings.collect::<Vec<_>>().join("\n")).unwrap();
        let all = moh_server::Config::read(&path).unwrap();
        assert_eq!(all.limits, config.limits);
        assert_eq!(all.registration, config.registration);
        assert_eq!(all.federation, config.federation);
        assert_eq!(all.admin_socket(), config.admin_socket());
    }
}
