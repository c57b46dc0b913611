//! `moh bench`: what providers do under load, and when things go wrong, measured.

mod outage;

use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Stop, cut off and kill the receiving provider under load, and count what arrives
    Outage(outage::Arguments),
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        What::Outage(arguments) => Box::pin(outage::run(arguments)).await,
    }
}
