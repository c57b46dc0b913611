//! What goes wrong for a while: partitions, slow peers and disks, processes that die or are
//! stopped, clocks that jump.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use moh_messages::ProviderName;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dice::Dice;
use crate::disk::{Crash, Moment};
use crate::provider::Provider;
use crate::scene::{CLIENT_SKEW_MS, PROVIDER_SKEW_MS, Scene};
use crate::tally::Fault;
use crate::workload;

/// Within so many writes a process dies that is to die.
const CRASH_WRITES: u64 = 40;

/// Everything that goes wrong, until it is healed.
pub(crate) struct Trouble {
    scene: Arc<Scene>,
    dice: Dice,
    tasks: TaskTracker,
    healing: CancellationToken,
}

impl Trouble {
    /// From now on things go wrong.
    pub(crate) fn begin(
        scene: &Arc<Scene>,
        dice: Dice,
        deaths: mpsc::UnboundedReceiver<ProviderName>,
    ) -> Arc<Self> {
        let this = Arc::new(Self {
            scene: Arc::clone(scene),
            dice,
            tasks: TaskTracker::new(),
            healing: CancellationToken::new(),
        });
        scene.network.worsen();
        for provider in &scene.providers {
            provider.disk.is_healed.store(false, Ordering::Relaxed);
            *provider.disk.crash.lock().unwrap() = this.crash();
        }
        this.spawn(|this| async move { this.revive(deaths).await });
        this.spawn(|this| async move { this.cause().await });
        this
    }

    /// Ends all of it.
    pub(crate) async fn heal(&self) {
        for provider in &self.scene.providers {
            *provider.disk.crash.lock().unwrap() = None;
            provider.disk.is_healed.store(true, Ordering::Relaxed);
        }
        self.healing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.scene.network.heal();
        for provider in &self.scene.providers {
            if !provider.is_running() {
                provider.start(None).await;
            }
        }
        self.scene.trace.note("healed");
    }

    fn spawn<F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(work(Arc::clone(self)));
    }

    /// Waits for so long, or until things are healed.
    async fn wait_ms(&self, least: u64, most: u64) {
        let wait = Duration::from_millis(self.dice.between(least, most));
        tokio::select! {
            biased;
            () = self.healing.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// When a new process dies, if it does.
    fn crash(&self) -> Option<Crash> {
        self.dice.per_mille(self.scene.rates.crash).then(|| Crash {
            writes: self.dice.below(CRASH_WRITES),
            moment: if self.dice.once_in(2) {
                Moment::BeforeCommit
            } else {
                Moment::AfterCommit
            },
        })
    }

    /// Starts processes again that have died.
    async fn revive(self: &Arc<Self>, mut deaths: mpsc::UnboundedReceiver<ProviderName>) {
        loop {
            let died = tokio::select! {
                biased;
                () = self.healing.cancelled() => return,
                died = deaths.recv() => died.expect("disks stay"),
            };
            self.spawn(|this| async move {
                this.wait_ms(500, 120_000).await;
                let provider = this.scene.provider(&died);
                if !provider.is_running() {
                    this.start(provider).await;
                }
            });
        }
    }

    async fn start(&self, provider: &Provider) {
        let crash = self.crash().filter(|_| !self.healing.is_cancelled());
        provider.start(crash).await;
        let what = format!("{} is started", provider.name);
        self.scene.trace.note(&what);
    }

    /// Causes trouble, of the kinds that there are in this run.
    async fn cause(self: &Arc<Self>) {
        let rates = &self.scene.rates;
        loop {
            self.wait_ms(0, 2000 * rates.trouble_s).await;
            if self.healing.is_cancelled() {
                return;
            }
            match self.dice.below(8) {
                0 | 1 if rates.partitions => self.spawn(|this| async move { this.part().await }),
                2 if rates.clients => self.spawn(|this| async move { this.cut_off().await }),
                3 if rates.clients => self.spawn(|this| async move { this.client_dies().await }),
                4 if rates.slowness => self.spawn(|this| async move { this.slow_peer().await }),
                5 if rates.slowness => self.spawn(|this| async move { this.slow_disk().await }),
                6 if rates.restarts => self.spawn(|this| async move { this.restart().await }),
                7 if rates.clocks => self.jump(),
                _ => {}
            }
        }
    }

    fn any_provider(&self) -> Arc<Provider> {
        Arc::clone(self.dice.pick(&self.scene.providers).unwrap())
    }

    /// Two providers do not reach each other, or one not the other.
    async fn part(&self) {
        let (one, other) = (self.any_provider(), self.any_provider());
        if one.name == other.name {
            return;
        }
        let both = self.dice.once_in(2);
        let (tally, network) = (&self.scene.tally, &self.scene.network);
        tally.fault(if both {
            Fault::PartitionBoth
        } else {
            Fault::PartitionOneWay
        });
        let cut = |is_cut| {
            network.cut(one.name.as_str(), other.name.as_str(), is_cut);
            if both {
                network.cut(other.name.as_str(), one.name.as_str(), is_cut);
            }
        };
        let what = format!("{} and {} are parted: {both}", one.name, other.name);
        self.scene.trace.note(&what);
        cut(true);
        self.wait_ms(5_000, 300_000).await;
        cut(false);
    }

    /// A client does not reach its provider.
    async fn cut_off(&self) {
        let person = self.dice.pick(&self.scene.people).unwrap();
        let (client, provider) = (person.id.as_str(), person.id.provider());
        self.scene.tally.fault(Fault::CutOff);
        self.scene.network.cut(client, provider.as_str(), true);
        self.wait_ms(1_000, 200_000).await;
        self.scene.network.cut(client, provider.as_str(), false);
    }

    async fn client_dies(&self) {
        let person = self.dice.pick(&self.scene.people).unwrap();
        if person.client().is_none() || person.kept().is_gone {
            return;
        }
        self.scene.tally.fault(Fault::ClientCrash);
        person.die().await;
        self.scene.trace.note(&format!("{} dies", person.id));
        self.wait_ms(10, 100_000).await;
        self.scene.trace.note(&format!("{} is back", person.id));
        person.open(&self.scene).await;
        workload::resume(&self.scene, person);
    }

    async fn slow_peer(&self) {
        let provider = self.any_provider();
        self.scene.tally.fault(Fault::Slow);
        self.scene.network.slow(&provider.name, true);
        self.wait_ms(30_000, 240_000).await;
        self.scene.network.slow(&provider.name, false);
    }

    async fn slow_disk(&self) {
        let provider = self.any_provider();
        self.scene.tally.fault(Fault::SlowDisk);
        provider.disk.is_slow.store(true, Ordering::Relaxed);
        self.wait_ms(30_000, 180_000).await;
        provider.disk.is_slow.store(false, Ordering::Relaxed);
    }

    async fn restart(&self) {
        let provider = self.any_provider();
        if !provider.is_running() {
            return;
        }
        self.scene.tally.fault(Fault::Restart);
        self.scene
            .trace
            .note(&format!("{} is stopped", provider.name));
        provider.stop().await;
        self.wait_ms(100, 60_000).await;
        if !provider.is_running() {
            self.start(&provider).await;
        }
    }

    fn jump(&self) {
        self.scene.tally.fault(Fault::ClockJump);
        if self.dice.once_in(2) {
            let skew = Scene::skew_ms(&self.dice, PROVIDER_SKEW_MS);
            self.any_provider().watch.set(skew);
        } else {
            let person = self.dice.pick(&self.scene.people).unwrap();
            person.watch.set(Scene::skew_ms(&self.dice, CLIENT_SKEW_MS));
        }
    }
}
