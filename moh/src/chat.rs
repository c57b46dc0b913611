//! `moh chat`: a client for people, in a terminal.

mod account;
mod command;
mod content;
mod driver;
mod history;
mod link;
mod model;
mod names;
mod plain;
mod time;
mod tui;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use moh_client::{ConnectOptions, SystemClock, SystemRandom};
use moh_messages::{ClientId, UserId};
use tokio::sync::mpsc::unbounded_channel;

use crate::escape;

use account::{Asks, Place, Way};
use driver::Driver;
use history::History;
use link::Watched;
use plain::Plain;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  moh chat alice@a.example
  moh chat alice@localhost --connect localhost:8443 --root moh-dev/ca.pem

At the first start the user is registered with the provider. In the chat, /help shows the commands.
With --plain they come from stdin, and each line of stdout begins with a word that says what it is:
ready, online, request, connected, message, event, sent, ok, error: and so on.")]
pub(crate) struct Arguments {
    /// Who you are, as in alice@a.example
    #[arg(value_name = "USER", value_parser = names::parse_user)]
    user: UserId,
    /// The name of this device among yours
    #[arg(long, value_name = "NAME", default_value = "terminal")]
    device: String,
    /// Where keys and messages are kept; ~/.local/share/moh unless said
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where the provider is, instead of asking the DNS
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Certificates to trust besides the system's; may be repeated
    #[arg(long, value_name = "CERT.pem")]
    root: Vec<PathBuf>,
    /// The code by which the provider takes a new user
    #[arg(long, value_name = "CODE")]
    invitation: Option<String>,
    /// Lines instead of a full screen: commands from stdin, what happens to stdout
    #[arg(long)]
    plain: bool,
}

impl Arguments {
    /// Whether the terminal belongs to the chat, and nobody else may write there.
    pub(crate) fn takes_the_screen(&self) -> bool {
        !self.plain
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    // What a provider says may be in it.
    Box::pin(begin(arguments))
        .await
        .map_err(|error| anyhow!(escape::line(&told(&error))))
}

/// Whether nobody reads stdout any more: `head`, say, has what it wanted.
fn is_unread(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// What ends the chat. The library's errors say themselves what is behind them.
fn told(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(error) => driver::words(error),
        None => format!("{error:#}"),
    }
}

async fn begin(arguments: Arguments) -> Result<()> {
    let Ok(client) = ClientId::new(&arguments.user, &arguments.device) else {
        usage(&format!(
            "{}: not a device: lower-case letters, digits and ._~- alone, at most 64",
            arguments.device
        ));
    };
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !arguments.plain && !is_terminal {
        usage("this is not a terminal: see --plain");
    }
    let place = Place::of(arguments.state.as_deref(), &client)?;
    let way = Way {
        connect: arguments.connect,
        roots: arguments.root,
        invitation: arguments.invitation,
    };
    let options = way.options(&arguments.user).await?;
    if arguments.plain {
        let mut plain = Plain::new();
        let ready = Box::pin(open(options, &place, &client, &mut plain)).await?;
        let end = plain.run(ready.0, ready.1).await;
        end.or_else(|error| {
            if is_unread(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })
    } else {
        let mut asks = tui::Questions;
        let ready = Box::pin(open(options, &place, &client, &mut asks)).await?;
        tui::run(ready.0, ready.1).await
    }
}

/// Wrong arguments end as clap ends them.
fn usage(text: &str) -> ! {
    eprintln!("error: {text}");
    std::process::exit(2);
}

type Ready = (Driver<SystemClock, SystemRandom>, Vec<model::Report>);

async fn open(
    options: ConnectOptions,
    place: &Place,
    client: &ClientId,
    asks: &mut impl Asks,
) -> Result<Ready> {
    let (to, from) = unbounded_channel();
    let watched = Watched {
        inner: options.connect()?,
        to: to.clone(),
    };
    let options = options.transport(watched);
    // Whoever cannot have the history is not to be registered.
    let history = History::open(&place.history)?;
    let (client, is_new) = Box::pin(account::open(&options, place, client, asks)).await?;
    let parts = (SystemClock, SystemRandom);
    let (driver, mut reports) = Driver::start(client.clone(), history, parts, (to, from)).await?;
    if is_new {
        reports.insert(0, model::Report::Registered(client.client_id().clone()));
    }
    Ok((driver, reports))
}
