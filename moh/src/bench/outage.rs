//! `moh bench outage`: two providers as processes, people on both who write to each other, and one
//! provider that is stopped, cut off and killed at any moment; then everything is counted.

mod dice;
mod ledger;
mod people;
mod provider;
mod report;
mod scene;
mod wire;

use std::time::Duration;

use anyhow::{Result, bail};
use moh_server::Environment;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use dice::{Outage, plan};
use ledger::{Ledger, Return};
use people::{AtWork, People};
use report::{Report, Row, Summary};
use scene::Scene;

/// When so long nothing has arrived of what is missing, it is lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// In the end nothing more may arrive for so long.
const QUIET: Duration = Duration::from_millis(500);

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  moh bench outage
  moh bench outage --kind kill --outages 10 --seconds 30
  moh bench outage --json | jq .lost

Two providers, a.example and b.example, run as processes of their own, `moh serve`, in a temporary
folder. Four people, two on each side, are in six groups, four of a.example and two of b.example;
one on each side writes in all of them, one reads. Meanwhile b.example is, again and again,

  stopped  by SIGSTOP, until SIGCONT;
  cut off  from a.example: connections break and are refused, or what is sent gets stuck;
  killed   by SIGKILL, and started again.

Once in four times it strikes while the last outage is still being caught up on. Each text is
there once. A text is sent when its group's owner has answered `ok`, and delivered when all three
others have it; otherwise it is lost. It is duplicated when somebody got it twice, or has the same
item in their queue twice, and reordered when somebody got it after one that the group's owner
accepted later, or the same person sent later. first_after_ms is the time from b.example's return
until a client of it has a text of a.example that b.example took after its return, and drained_ms
the time until everything that was sent before the return is delivered: the medians over all
outages, with the worst beside them. These clocks begin with SIGCONT, the mended connection, or
the `ready` line of the new process.

Exits with 0 only when nothing was lost, duplicated or reordered, and nothing else went wrong.")]
pub(crate) struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// About how long it all takes, besides the start and the end
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// How many outages there are
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    outages: u32,
    /// What happens: stop, cut, kill, or all of them, shuffled
    #[arg(long, value_enum, default_value_t = Kinds::All, hide_possible_values = true)]
    kind: Kinds,
    /// How many texts are written a second, all in all
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// What happens, and when, follows from this number; random unless given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// What happens to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Stop,
    Cut,
    Kill,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Stop, Self::Cut, Self::Kill];
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kinds {
    Stop,
    Cut,
    Kill,
    All,
}

impl Kinds {
    fn list(self) -> Vec<Kind> {
        match self {
            Self::Stop => vec![Kind::Stop],
            Self::Cut => vec![Kind::Cut],
            Self::Kill => vec![Kind::Kill],
            Self::All => Kind::ALL.to_vec(),
        }
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let folder = tempfile::Builder::new().prefix("moh-bench-").tempdir()?;
    let mut scene = Scene::new(folder.path()).await?;
    let measured = tokio::select! {
        measured = Box::pin(measure(&arguments, &mut scene)) => measured,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    // Whatever has happened, nothing is left.
    scene.end().await;
    folder.close()?;
    let (counts, complaints) = measured?;
    if counts.is_good() {
        return Ok(());
    }
    for complaint in complaints {
        eprintln!("moh: {complaint}");
    }
    bail!("not everything arrived as it has to");
}

/// The whole run; its result, and what is wrong with it.
async fn measure(
    arguments: &Arguments,
    scene: &mut Scene,
) -> Result<(ledger::Counts, Vec<String>)> {
    let environment = Environment::system();
    let random = || u64::from(u32::from_be_bytes(environment.random.bytes()));
    let seed = arguments.seed.unwrap_or_else(random);
    let mut report = Report::new(arguments, seed);
    let began = Instant::now();
    scene.begin().await?;
    let people = People::gather(scene.folder(), |place| scene.way(place)).await?;
    report.opening();
    let mut at_work = people.begin(arguments.rate, seed);
    let ledger = at_work.ledger().clone();
    let slot = Duration::from_secs(arguments.seconds.into()) / arguments.outages;
    let outages = usize::try_from(arguments.outages)?;
    let plan = plan(seed, &arguments.kind.list(), outages, slot);
    tokio::select! {
        done = strike_all(&plan, scene, &ledger, &environment, &mut report) => done?,
        error = at_work.failed() => return Err(error),
    }
    finish(&mut at_work, &ledger).await?;
    let counts = ledger.counts();
    let there = |place| ledger.by_place(|from| people::PEOPLE[from].place == place);
    report.closing(&Summary {
        counts: counts.clone(),
        from_a: there(people::Place::A),
        from_b: there(people::Place::B),
        took: began.elapsed(),
    });
    Ok((counts, ledger.complaints()))
}

async fn strike_all(
    plan: &[Outage],
    scene: &mut Scene,
    ledger: &Ledger,
    environment: &Environment,
    report: &mut Report,
) -> Result<()> {
    tokio::time::sleep(plan.first().map_or(Duration::ZERO, |first| first.after)).await;
    for (number, outage) in plan.iter().enumerate() {
        scene.strike(outage).await?;
        tokio::time::sleep(outage.lasts).await;
        let since = scene.prepare_return(outage).await?;
        ledger.returned(since, environment.now_ms());
        scene.return_from(outage)?;
        let next = plan.get(number + 1);
        tokio::time::sleep(next.map_or(Duration::ZERO, |next| next.after)).await;
        if next.is_none_or(|next| next.waits) {
            let has_come = ledger.until(|ledger| ledger.last_return().is_complete());
            // What does not come is counted in the end.
            let _ = tokio::time::timeout(PATIENCE, has_come).await;
        }
        report.row(&Row {
            number: number + 1,
            outage: *outage,
            came: ledger.last_return(),
        });
    }
    Ok(())
}

/// Nobody writes any more; waits until everything has arrived, or nothing arrives any more.
async fn finish(at_work: &mut AtWork, ledger: &Ledger) -> Result<()> {
    at_work.stop_writing(PATIENCE).await?;
    loop {
        let (_, before) = ledger.due();
        let all = ledger.until(|ledger| ledger.due().0 == 0);
        let in_time = tokio::time::timeout(PATIENCE, all).await.is_ok();
        if in_time {
            // What would come twice comes now.
            tokio::time::sleep(QUIET).await;
        }
        if ledger.due().1 == before {
            return Ok(());
        }
    }
}

impl Return {
    /// Whether there is nothing more to be measured.
    fn is_complete(&self) -> bool {
        self.waiting == 0 || self.drained.is_some()
    }
}
