//! `moh demo`: two providers, one conversation, and whether everything arrived.

mod cast;
mod clock;
mod line;
mod stage;
mod story;
mod transcript;

use std::process;

use anyhow::{Context, Result};

use stage::Stage;
use story::Story;
use transcript::{Style, Transcript};

#[derive(clap::Args)]
#[command(after_help = "\
Alice and Mallory are users of a.example, Bob and Carol of b.example. Both providers run in this
process, on loopback ports, with a throw-away certificate authority and stores in a temporary
folder; everything between them and their clients is HTTPS. They go through every operation on
groups, and through what has to be refused.

Exits with 0 only when every message arrived and was decrypted, and everything that had to be
refused was; otherwise it says which step failed, and why, and exits with 1.")]
pub(crate) struct Arguments {
    /// Print one JSON object a line instead of a transcript
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let style = if arguments.json {
        Style::Json
    } else {
        Style::of_terminal()
    };
    let (stage, events) = Stage::set().await.context("the providers do not start")?;
    let mut transcript = Transcript::new(style, events);
    transcript.opening(&stage);
    let played = Box::pin(Story::new(&stage, &mut transcript).play()).await;
    let summary = transcript.close(played.as_ref().err());
    stage.strike().await;
    if !summary {
        // What went wrong has been said.
        process::exit(1);
    }
    Ok(())
}
