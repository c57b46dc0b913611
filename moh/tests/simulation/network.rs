//! The network: requests between processes, and what goes wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moh_messages::ProviderName;
use moh_server::Node;

use crate::dice::Dice;
use crate::life::Life;
use crate::rates::Rates;
use crate::tally::{Deed, Fault, Tally};
use crate::time::Time;
use crate::trace::Trace;
use crate::wire::{Call, Reply};

/// A provider's process that takes requests.
#[derive(Clone)]
pub(crate) struct Listening {
    pub(crate) node: Node,
    pub(crate) life: Life,
}

/// No answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Refused,
    Cut,
    TimedOut,
}

/// What lasts for a while.
#[derive(Default)]
struct Weather {
    is_healed: bool,
    /// Nothing gets from one to the other. A count, as there may be several reasons.
    cut: BTreeMap<(String, String), u32>,
    /// Providers whose answers take minutes.
    slow: BTreeSet<ProviderName>,
}

/// All links between all processes.
pub(crate) struct Network {
    pub(crate) time: Arc<Time>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) trace: Arc<Trace>,
    dice: Dice,
    rates: Rates,
    listening: Mutex<BTreeMap<ProviderName, Listening>>,
    weather: Mutex<Weather>,
    /// When something was asked, or answered, last, but for empty queues.
    busy_at_ms: AtomicU64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    CutBefore,
    CutDuring,
    CutAfter,
    ServerErrorBefore,
    ServerErrorAfter,
    TooMany,
    ProxyPage,
    Garbage,
    Truncated,
    WrongType,
    WrongStruct,
}

impl Fate {
    fn fault(self) -> Option<Fault> {
        Some(match self {
            Self::Passes => return None,
            Self::CutBefore => Fault::CutBefore,
            Self::CutDuring => Fault::CutDuring,
            Self::CutAfter => Fault::CutAfter,
            Self::ServerErrorBefore => Fault::ServerErrorBefore,
            Self::ServerErrorAfter => Fault::ServerErrorAfter,
            Self::TooMany => Fault::TooMany,
            Self::ProxyPage => Fault::ProxyPage,
            Self::Garbage => Fault::Garbage,
            Self::Truncated => Fault::Truncated,
            Self::WrongType => Fault::WrongType,
            Self::WrongStruct => Fault::WrongStruct,
        })
    }
}

impl Network {
    pub(crate) fn new(
        time: &Arc<Time>,
        tally: &Arc<Tally>,
        trace: &Arc<Trace>,
        dice: Dice,
        rates: Rates,
    ) -> Self {
        Self {
            time: Arc::clone(time),
            tally: Arc::clone(tally),
            trace: Arc::clone(trace),
            dice,
            rates,
            listening: Mutex::default(),
            weather: Mutex::new(Weather {
                is_healed: true,
                ..Weather::default()
            }),
            busy_at_ms: AtomicU64::new(0),
        }
    }

    /// From now on things go wrong.
    pub(crate) fn worsen(&self) {
        self.weather.lock().unwrap().is_healed = false;
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) {
        *self.weather.lock().unwrap() = Weather {
            is_healed: true,
            ..Weather::default()
        };
    }

    /// For how long nobody has asked anybody for anything.
    pub(crate) fn quiet_ms(&self) -> u64 {
        self.time.elapsed_ms() - self.busy_at_ms.load(Ordering::Relaxed)
    }

    fn is_busy(&self) {
        let now = self.time.elapsed_ms();
        self.busy_at_ms.store(now, Ordering::Relaxed);
    }

    /// A provider takes requests, or does not any more.
    pub(crate) fn listen(&self, provider: &ProviderName, process: Option<Listening>) {
        let mut listening = self.listening.lock().unwrap();
        match process {
            Some(process) => listening.insert(provider.clone(), process),
            None => listening.remove(provider),
        };
    }

    /// The process that takes requests.
    pub(crate) fn process(&self, provider: &ProviderName) -> Option<Listening> {
        let listening = self.listening.lock().unwrap();
        let process = listening.get(provider)?;
        (!process.life.is_over()).then(|| process.clone())
    }

    /// Nothing gets from one to the other any more, or as little as before.
    pub(crate) fn cut(&self, from: &str, to: &str, cut: bool) {
        let mut weather = self.weather.lock().unwrap();
        let count = weather.cut.entry((from.to_owned(), to.to_owned()));
        let count = count.or_default();
        *count = if cut {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }

    /// A provider is slow, or is not any more.
    pub(crate) fn slow(&self, provider: &ProviderName, is_slow: bool) {
        let slow = &mut self.weather.lock().unwrap().slow;
        if is_slow {
            slow.insert(provider.clone());
        } else {
            slow.remove(provider);
        }
    }

    fn is_healed(&self) -> bool {
        self.weather.lock().unwrap().is_healed
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let weather = self.weather.lock().unwrap();
        let cut = weather.cut.get(&(from.to_owned(), to.to_owned()));
        cut.is_some_and(|count| *count > 0)
    }

    /// How long something is on its way.
    fn delay_ms(&self) -> u64 {
        if !self.is_healed() && self.dice.per_mille(self.rates.delay) {
            self.tally.fault(Fault::Delay);
            return self.dice.between(1_000, 20_000);
        }
        self.dice.between(1, 40)
    }

    fn fate(&self) -> Fate {
        if self.is_healed() {
            return Fate::Passes;
        }
        let rates = &self.rates;
        let kinds = [
            (rates.cut_before, Fate::CutBefore),
            (rates.cut_during, Fate::CutDuring),
            (rates.cut_after, Fate::CutAfter),
            (rates.server_error, Fate::ServerErrorBefore),
            (rates.server_error, Fate::ServerErrorAfter),
            (rates.too_many, Fate::TooMany),
            (rates.too_many, Fate::ProxyPage),
            (rates.garbage, Fate::Garbage),
            (rates.garbage, Fate::Truncated),
            (rates.garbage, Fate::WrongType),
            (rates.garbage, Fate::WrongStruct),
        ];
        let mut rolled = self.dice.below(1000);
        for (rate, fate) in kinds {
            if rolled < rate {
                return fate;
            }
            rolled -= rate;
        }
        Fate::Passes
    }

    /// Asks a provider, and waits for so long for the answer.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        from: &str,
        to: &ProviderName,
        call: Call,
        patience: Duration,
    ) -> Result<Reply, Lost> {
        let (name, is_poll) = (call.name(), call.is_poll());
        self.tally.deed(Deed::Requests);
        if !is_poll {
            self.is_busy();
        }
        let asked = tokio::time::timeout(patience, self.attempt(from, to, call)).await;
        let (fate, result) = asked.unwrap_or((Fate::Passes, Err(Lost::TimedOut)));
        let mut outcome = match &result {
            Ok(reply) => reply.outcome(),
            Err(lost) => format!("{lost:?}"),
        };
        if fate != Fate::Passes {
            outcome = format!("{fate:?}, {outcome}");
        }
        self.trace
            .note(&format!("{from} > {to}: {name}: {outcome}"));
        let is_empty = is_poll && result.as_ref().is_ok_and(|reply| reply.body.len() < 8);
        if !is_empty {
            self.is_busy();
        }
        result
    }

    /// Opens a connection to a provider.
    pub(crate) async fn connect(
        &self,
        from: &str,
        to: &ProviderName,
        patience: Duration,
    ) -> Result<Listening, Lost> {
        self.is_busy();
        let opened = tokio::time::timeout(patience, self.carry(from, to.as_str())).await;
        let opened = opened.unwrap_or(Err(Lost::TimedOut)).and_then(|()| {
            self.process(to).ok_or_else(|| {
                self.tally.fault(Fault::Refused);
                Lost::Refused
            })
        });
        let outcome = opened
            .as_ref()
            .map_or_else(|lost| format!("{lost:?}"), |_| "open".into());
        self.trace
            .note(&format!("{from} > {to}: socket: {outcome}"));
        opened
    }

    /// Carries something along an open connection, unless that is cut, or nothing gets through.
    pub(crate) async fn carry(&self, from: &str, to: &str) -> Result<(), Lost> {
        let is_cut = !self.is_healed() && self.dice.per_mille(self.rates.cut_before);
        tokio::time::sleep(Duration::from_millis(self.delay_ms())).await;
        if self.is_cut(from, to) {
            std::future::pending::<()>().await;
        }
        if is_cut {
            self.tally.fault(Fault::CutBefore);
            return Err(Lost::Cut);
        }
        Ok(())
    }

    async fn attempt(
        self: &Arc<Self>,
        from: &str,
        to: &ProviderName,
        call: Call,
    ) -> (Fate, Result<Reply, Lost>) {
        let fate = self.fate();
        if let Some(fault) = fate.fault() {
            self.tally.fault(fault);
        }
        (fate, self.pass(from, to, call, fate).await)
    }

    async fn pass(
        self: &Arc<Self>,
        from: &str,
        to: &ProviderName,
        call: Call,
        fate: Fate,
    ) -> Result<Reply, Lost> {
        let sleep = |ms| tokio::time::sleep(Duration::from_millis(ms));
        sleep(self.delay_ms()).await;
        if self.is_cut(from, to.as_str()) {
            return nothing().await;
        }
        match fate {
            Fate::CutBefore => return Err(Lost::Cut),
            Fate::ServerErrorBefore => return Ok(Reply::page(503)),
            Fate::ProxyPage => return Ok(Reply::page([403, 404, 407][self.dice.index(3)])),
            Fate::TooMany => {
                let seconds = u32::try_from(self.dice.between(1, 90)).unwrap();
                return Ok(Reply::too_many(seconds, self.dice.once_in(2)));
            }
            Fate::Garbage => return Ok(Reply::garbage(&self.dice)),
            Fate::WrongStruct => return Ok(Reply::other_struct(&call)),
            _ => {}
        }
        self.repeat(to, &call);
        let is_slow = self.weather.lock().unwrap().slow.contains(to);
        if is_slow {
            sleep(self.dice.between(5_000, 120_000)).await;
        }
        let Some(process) = self.process(to) else {
            self.tally.fault(Fault::Refused);
            return Err(Lost::Refused);
        };
        let served = serve(process, call);
        let reply = if fate == Fate::CutDuring {
            let until = Duration::from_millis(self.dice.between(0, 40));
            match tokio::time::timeout(until, served).await {
                Ok(reply) => reply?,
                Err(_) => return Err(Lost::Cut),
            }
        } else {
            served.await?
        };
        sleep(self.delay_ms()).await;
        if self.is_cut(to.as_str(), from) {
            return nothing().await;
        }
        match fate {
            Fate::CutAfter => Err(Lost::Cut),
            Fate::ServerErrorAfter => Ok(Reply::page(500)),
            Fate::WrongType => Ok(Reply {
                content_type: Some("text/plain"),
                ..reply
            }),
            Fate::Truncated => {
                let length = self.dice.index(reply.body.len().max(1));
                Ok(Reply {
                    body: reply.body.slice(..length),
                    ..reply
                })
            }
            _ => Ok(reply),
        }
    }

    /// A request arrives again, by and by.
    fn repeat(self: &Arc<Self>, to: &ProviderName, call: &Call) {
        if self.is_healed() || call.is_poll() {
            return;
        }
        let later_ms = if self.dice.per_mille(self.rates.duplicate_soon) {
            self.tally.fault(Fault::DuplicateSoon);
            self.dice.between(0, 500)
        } else if self.dice.per_mille(self.rates.duplicate_late) {
            self.tally.fault(Fault::DuplicateLate);
            self.dice.between(30_000, 900_000)
        } else {
            return;
        };
        let (this, to, call) = (Arc::clone(self), to.clone(), call.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(later_ms)).await;
            let Some(process) = this.process(&to) else {
                return;
            };
            let name = call.name();
            let outcome = match serve(process, call).await {
                Ok(reply) => reply.outcome(),
                Err(lost) => format!("{lost:?}"),
            };
            this.trace.note(&format!("again > {to}: {name}: {outcome}"));
        });
    }
}

/// What a process answers, unless it dies.
async fn serve(process: Listening, call: Call) -> Result<Reply, Lost> {
    let Listening { node, life } = process;
    tokio::select! {
        biased;
        () = life.over() => Err(Lost::Cut),
        reply = call.serve(node) => Ok(reply),
    }
}

/// Nothing comes, until whoever waits has waited for long enough.
async fn nothing() -> Result<Reply, Lost> {
    std::future::pending().await
}
