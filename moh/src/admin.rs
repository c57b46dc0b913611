//! `moh admin`: what an operator sees and does while the provider runs, through its socket.

mod show;
mod table;
mod words;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Subcommand};
use moh_messages::ProviderName;
use moh_server::admin::{Client, DEFAULT_PAGE, MAX_PAGE, Selection};
use moh_server::config::AdminConfig;
use serde::Serialize;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  moh admin peers --config /etc/moh/moh.toml
  moh admin outbox --config /etc/moh/moh.toml --peer b.example
  moh admin retry 17 18 --config /etc/moh/moh.toml
  moh admin reload --socket moh-dev/moh.sqlite.sock

The provider has to run, and you have to be the user that it runs as, or root. With --json each
command prints one JSON object; times in it are milliseconds since 1970.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Other providers: whether they are reached, what waits for them and since when
    #[command(after_help = PEERS_HELP)]
    Peers {
        #[command(flatten)]
        provider: Provider,
    },
    /// Deliveries that are set aside: their provider refused them for good, or they expired
    #[command(after_help = OUTBOX_HELP)]
    Outbox {
        #[command(flatten)]
        provider: Provider,
        /// Only what is for this provider
        #[arg(long, value_name = "DOMAIN")]
        peer: Option<ProviderName>,
        /// Only what comes after this one
        #[arg(long, value_name = "ID", default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = DEFAULT_PAGE, value_parser = page)]
        limit: usize,
    },
    /// Make deliveries that are set aside again; or try a provider now
    #[command(after_help = RETRY_HELP, override_usage = RETRY_USAGE, group = one_of("what", &["ids", "all", "now"]))]
    Retry {
        #[command(flatten)]
        provider: Provider,
        #[command(flatten)]
        which: Which,
        /// Try DOMAIN now, whenever its next try was, with what waits for it
        #[arg(long, value_name = "DOMAIN")]
        now: Option<ProviderName>,
    },
    /// Give up deliveries that are set aside: nobody gets them any more
    #[command(after_help = DROP_HELP, override_usage = DROP_USAGE, group = one_of("what", &["ids", "all"]))]
    Drop {
        #[command(flatten)]
        provider: Provider,
        #[command(flatten)]
        which: Which,
    },
    /// Show which providers may talk to this one
    Policy {
        #[command(flatten)]
        provider: Provider,
    },
    /// Have the provider read the policy in its configuration again, as SIGHUP does
    #[command(after_help = RELOAD_HELP)]
    Reload {
        #[command(flatten)]
        provider: Provider,
    },
}

const PEERS_HELP: &str = "\
Columns:
  STATE      idle: nothing waits; sending; failing: it is tried again, the line below says when and
             why; paused: the policy forbids to talk to it, what waits is kept until it expires
  WAITING    deliveries that it has not taken yet, and SIZE, their payloads together
  BEHIND     how long the oldest of them has waited
  SET ASIDE  deliveries that need you: see `moh admin outbox`
  LAST SEEN  its last answer, or request of its own";

const OUTBOX_HELP: &str = "\
What is set aside holds up nothing else. `moh admin retry ID` delivers it after all, once the other
side is mended, and `moh admin drop ID` gives it up; after [limits] keep_messages_days it goes by
itself. Where RETRY is `no`, only this record is left. The line below says why it was set aside:
  refused          by the other provider, this delivery; it would repeat that for the same delivery
  request refused  by the other provider, a request with nothing but this delivery in it
  expired          it was tried for as long as [limits] outbox_expiry_hours says
  crowded          more than [limits] max_outbox_bytes_per_peer waited, and this was the oldest
  unreadable       what the store has of it cannot be read: this is a mistake of ours

Examples:
  moh admin outbox --config moh.toml --peer b.example --limit 20
  moh admin outbox --config moh.toml --json | jq -r '.set_aside[].reason' | sort | uniq -c";

const RETRY_USAGE: &str = "\
moh admin retry <ID>... <--config <FILE>|--socket <PATH>>
       moh admin retry --all <DOMAIN> <--config <FILE>|--socket <PATH>>
       moh admin retry --now <DOMAIN> <--config <FILE>|--socket <PATH>>";

const RETRY_HELP: &str = "\
A delivery that was set aside comes after all others of its group that wait now. The command fails
when one of the numbers is not set aside, or only its record is left; the others are retried.

Examples:
  moh admin retry 17 18 --config moh.toml
  moh admin retry --all b.example --config moh.toml
  moh admin retry --now b.example --config moh.toml";

const DROP_USAGE: &str = "\
moh admin drop <ID>... <--config <FILE>|--socket <PATH>>
       moh admin drop --all <DOMAIN> <--config <FILE>|--socket <PATH>>";

const DROP_HELP: &str = "\
There is no way back. Clients that miss a commit of their group have to join it again. The command
fails when one of the numbers is not set aside; the others are dropped.

Examples:
  moh admin drop 17 18 --config moh.toml
  moh admin drop --all gone.example --config moh.toml";

const RELOAD_HELP: &str = "\
These settings can be changed so: [federation] policy, allow and block. Others need a restart; those
that differ are named. A configuration with a mistake changes nothing, and the mistake is shown.";

/// Which provider is asked, and how the answer is shown.
#[derive(clap::Args)]
#[group(skip)]
#[command(group = one_of("provider", &["config", "socket"]))]
struct Provider {
    /// The provider's configuration, where it has one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its socket: DIR/moh.sqlite.sock after `moh serve --dev --data DIR`
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Which of the deliveries that are set aside.
#[derive(clap::Args)]
#[group(skip)]
struct Which {
    /// Their numbers, as `moh admin outbox` shows them
    #[arg(value_name = "ID")]
    ids: Vec<u64>,
    /// All that are set aside for DOMAIN
    #[arg(long, value_name = "DOMAIN")]
    all: Option<ProviderName>,
}

fn one_of(name: &'static str, arguments: &'static [&'static str]) -> ArgGroup {
    ArgGroup::new(name).required(true).args(arguments)
}

fn page(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
    number.ok_or_else(|| format!("not a number from 1 to {MAX_PAGE}"))
}

impl Provider {
    fn client(&self) -> Result<Client> {
        let socket = match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(config)) => AdminConfig::socket_named_in(config)?
                .with_context(|| format!("{}: [admin] socket is off", config.display()))?,
            (None, None) => bail!("neither --config nor --socket"),
        };
        Ok(Client::new(&socket))
    }

    /// Prints an answer, or what people read of it.
    fn print<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let text = if self.json {
            format!("{}\n", serde_json::to_string(answer)?)
        } else {
            text(answer)
        };
        match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads it has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }
}

impl Which {
    fn selection(&self) -> Selection {
        match &self.all {
            Some(peer) => Selection::Peer(peer.to_string()),
            None => Selection::Ids(self.ids.clone()),
        }
    }

    /// Prints how many there were. It is a failure when some of those that were named were not.
    fn print(
        &self,
        provider: &Provider,
        count: moh_server::admin::Count,
        done: &str,
    ) -> Result<()> {
        provider.print(&count, |count| {
            show::counted(count.count, self.all.as_ref(), done)
        })?;
        let mut ids = self.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let missing = (ids.len() as u64).saturating_sub(count.count);
        if missing > 0 {
            bail!(
                "{missing} of {} cannot be {done}: see `moh admin outbox`",
                ids.len()
            );
        }
        Ok(())
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    match &arguments.command {
        Command::Peers { provider } => {
            let peers = provider.client()?.peers().await?;
            provider.print(&peers, show::peers)
        }
        Command::Outbox {
            provider,
            peer,
            after,
            limit,
        } => {
            let client = provider.client()?;
            let page = client.set_aside(peer.as_ref(), *after, *limit).await?;
            provider.print(&page, show::set_aside)
        }
        Command::Retry {
            provider,
            now: Some(peer),
            ..
        } => {
            let woken = provider.client()?.retry_peer(peer).await?;
            provider.print(&woken, |woken| show::woken(peer, woken.woken))
        }
        Command::Retry {
            provider, which, ..
        } => {
            let client = provider.client()?;
            let count = client.retry_set_aside(&which.selection()).await?;
            which.print(provider, count, "retried")
        }
        Command::Drop { provider, which } => {
            let client = provider.client()?;
            let count = client.drop_set_aside(&which.selection()).await?;
            which.print(provider, count, "dropped")
        }
        Command::Policy { provider } => {
            let policy = provider.client()?.policy().await?;
            provider.print(&policy, show::policy)
        }
        Command::Reload { provider } => {
            let reloaded = provider.client()?.reload().await?;
            provider.print(&reloaded, show::reloaded)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// Every command that is shown to people can be typed as it stands there.
    #[test]
    fn what_is_shown_as_a_command_is_one() {
        let guide = include_str!("../../docs/operating.md");
        let mut shown = 0;
        for text in [
            guide,
            PEERS_HELP,
            OUTBOX_HELP,
            RETRY_HELP,
            DROP_HELP,
            RELOAD_HELP,
        ] {
            for line in text.lines().map(str::trim) {
                let Some(command) = line.strip_prefix("moh admin ") else {
                    continue;
                };
                let command = command.split('|').next().unwrap_or_default();
                let words = ["moh", "admin"]
                    .into_iter()
                    .chain(command.split_whitespace());
                if let Err(error) = crate::Arguments::try_parse_from(words) {
                    panic!("{line}: {error}");
                }
                shown += 1;
            }
        }
        assert!(shown > 10, "only {shown} were found");
    }
}
