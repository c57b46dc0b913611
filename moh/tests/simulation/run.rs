//! A run: the same for the same seed.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use moh_server::store::Store as _;

use crate::checks;
use crate::dice::Dice;
use crate::mutants::Mutant;
use crate::scene::Scene;
use crate::tally::Counts;
use crate::trouble::Trouble;
use crate::workload;

/// For so long nobody may ask for anything, for it to be quiet, in milliseconds: longer than
/// clients wait before they try again.
const QUIET_MS: u64 = 200_000;
/// It has to be quiet within this time after everything is healed.
const PATIENCE: Duration = Duration::from_secs(6 * 60 * 60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) counts: Counts,
    /// All that happened, as one number.
    pub(crate) digest: u64,
    /// How many things happened.
    pub(crate) steps: u64,
    /// How long it took, in virtual time.
    pub(crate) virtual_time: Duration,
    pub(crate) wrongs: Vec<String>,
    /// The last things that happened.
    pub(crate) tail: Vec<String>,
}

thread_local! {
    /// What has panicked on this thread. Tasks that do are not waited for by everybody.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on it is noted which thread panics, and why.
pub(crate) fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = format!("a panic: {panic}").replace('\n', " ");
        PANICS.with_borrow_mut(|panics| panics.push(what));
    }));
}

/// Runs a seed, on this thread.
pub(crate) fn run(seed: u64, mutant: Option<Mutant>, prints: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut outcome = runtime.block_on(live(seed, mutant, prints));
    outcome.wrongs.extend(PANICS.take());
    outcome
}

/// What came of a run that broke off, on its thread.
pub(crate) fn broke_off(seed: u64) -> Outcome {
    Outcome {
        seed,
        counts: Counts::default(),
        digest: 0,
        steps: 0,
        virtual_time: Duration::ZERO,
        wrongs: PANICS.take(),
        tail: Vec::new(),
    }
}

async fn live(seed: u64, mutant: Option<Mutant>, prints: bool) -> Outcome {
    let (scene, deaths) = Scene::new(seed, mutant, prints);
    for provider in &scene.providers {
        provider.start(None).await;
    }
    for person in &scene.people {
        person.register(&scene).await;
    }
    workload::begin(&scene).await;
    let trouble = Trouble::begin(&scene, Dice::new(seed, "trouble"), deaths);
    workload::go_on(&scene).await;
    trouble.heal().await;
    let mut wrongs = Vec::new();
    let mut is_quiet = become_quiet(&scene).await;
    if is_quiet {
        workload::agree(&scene).await;
        is_quiet = become_quiet(&scene).await;
    }
    if is_quiet {
        workload::end(&scene).await;
        is_quiet = become_quiet(&scene).await;
    }
    if !is_quiet {
        wrongs.push("it does not become quiet".to_owned());
    }
    wrongs.extend(checks::check(&scene).await);
    let (digest, steps) = scene.trace.digest();
    let outcome = Outcome {
        seed,
        counts: scene.tally.counts(),
        digest,
        steps,
        virtual_time: scene.time.elapsed(),
        wrongs,
        tail: scene.trace.tail(),
    };
    end(&scene).await;
    outcome
}

/// Waits until nobody asks for anything any more, and nothing waits to be sent.
async fn become_quiet(scene: &Arc<Scene>) -> bool {
    let end = scene.time.elapsed() + PATIENCE;
    while scene.time.elapsed() < end {
        tokio::time::sleep(LOOK).await;
        let is_busy = scene.people.iter().any(|person| person.busy() > 0);
        if is_busy || scene.network.quiet_ms() < QUIET_MS {
            continue;
        }
        let mut waits = false;
        for provider in &scene.providers {
            let waiting = provider.disk.content.outbox_lanes().await.unwrap();
            waits |= !waiting.is_empty();
        }
        if !waits {
            return true;
        }
    }
    false
}

/// Lets go of everything.
async fn end(scene: &Arc<Scene>) {
    for person in &scene.people {
        person.die().await;
    }
    for provider in &scene.providers {
        scene.network.listen(&provider.name, None);
        provider.forget();
    }
}
