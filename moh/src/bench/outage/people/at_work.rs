//! People write, and read, whatever happens to their provider.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use moh_client::{Client, Error, Event, GroupId, Operation, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{GROUPS, PEOPLE, People};
use crate::bench::outage::dice::Dice;
use crate::bench::outage::ledger::{Arrival, Ledger};

/// How long somebody waits for something new in one request.
const LOOK: Duration = Duration::from_secs(20);
/// How long somebody waits when there was no answer.
const PAUSE: Duration = Duration::from_millis(50);

/// What came of requests that had no answer at first, by group.
type Settled = BTreeMap<usize, mpsc::UnboundedSender<bool>>;

/// Everybody, busy. Dropped, they stop at once.
pub(in super::super) struct AtWork {
    ledger: Ledger,
    writers: JoinSet<Result<()>>,
    readers: JoinSet<Result<()>>,
    is_over: watch::Sender<bool>,
}

/// Somebody who writes in one group, one text after the other.
struct Writer {
    client: Client,
    from: usize,
    group: usize,
    id: GroupId,
    ledger: Ledger,
    settled: mpsc::UnboundedReceiver<bool>,
    dice: Dice,
    /// The longest pause between two texts.
    longest_pause: Duration,
}

/// Somebody who reads.
struct Reader {
    client: Client,
    at: usize,
    groups: Vec<GroupId>,
    ledger: Ledger,
    settled: Settled,
}

impl People {
    /// They begin to read, and to write about `rate` texts a second.
    pub(in super::super) fn begin(self, rate: u32, seed: u64) -> AtWork {
        let ids: Vec<_> = self.groups.iter().map(|group| group.id.clone()).collect();
        let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
        let is_over = watch::Sender::new(false);
        let all = PEOPLE.iter().filter(|person| person.writes).count() * GROUPS;
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let longest_pause = Duration::from_secs(2) * all / rate;
        let mut dice = Dice::new(seed);
        for (at, client) in self.clients.into_iter().enumerate() {
            let mut settled = Settled::new();
            for (group, id) in ids.iter().enumerate().filter(|_| PEOPLE[at].writes) {
                let (sender, receiver) = mpsc::unbounded_channel();
                settled.insert(group, sender);
                let writer = Writer {
                    client: client.clone(),
                    from: at,
                    group,
                    id: id.clone(),
                    ledger: self.ledger.clone(),
                    settled: receiver,
                    dice: dice.fork(),
                    longest_pause,
                };
                writers.spawn(writer.run(is_over.subscribe()));
            }
            let reader = Reader {
                client,
                at,
                groups: ids.clone(),
                ledger: self.ledger.clone(),
                settled,
            };
            readers.spawn(reader.run());
        }
        AtWork {
            ledger: self.ledger,
            writers,
            readers,
            is_over,
        }
    }
}

impl AtWork {
    pub(in super::super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Waits until somebody cannot go on; why.
    pub(in super::super) async fn failed(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            ended = self.writers.join_next() => ended,
            ended = self.readers.join_next() => ended,
        };
        match ended {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) | None => anyhow!("somebody has stopped"),
        }
    }

    /// Nobody writes any more; everybody who does not know yet what came of a text gets to know
    /// it, or `patience` is over.
    pub(in super::super) async fn stop_writing(&mut self, patience: Duration) -> Result<()> {
        self.is_over.send_replace(true);
        let all_know = async {
            while let Some(ended) = self.writers.join_next().await {
                ended??;
            }
            Ok(())
        };
        // Who does not know yet is counted.
        tokio::time::timeout(patience, all_know)
            .await
            .unwrap_or(Ok(()))
    }
}

impl Writer {
    async fn run(mut self, mut is_over: watch::Receiver<bool>) -> Result<()> {
        loop {
            let pause = self.dice.between(Duration::ZERO, self.longest_pause);
            tokio::select! {
                over = is_over.wait_for(|is_over| *is_over) => {
                    over.context("nobody says when it is over")?;
                    return Ok(());
                }
                () = tokio::time::sleep(pause) => {}
            }
            let (number, text) = self.ledger.write(self.from, self.group);
            let is_ok = self.insist(&text).await?;
            self.ledger.answered(number, is_ok);
        }
    }

    /// Sends a text, however long it takes; whether the owner took it.
    async fn insist(&mut self, text: &str) -> Result<bool> {
        loop {
            match self.client.send(&self.id, text).await {
                Ok(_) => return Ok(true),
                // The same request goes out until it is answered.
                Err(Error::Unsettled { .. }) => {
                    let settled = self.settled.recv().await;
                    return settled.context("nobody reads any more");
                }
                // It did not go out.
                Err(error) if error.is_temporary() => tokio::time::sleep(PAUSE).await,
                Err(Error::Refused { .. }) => return Ok(false),
                Err(error) => return Err(error).context("a text cannot be sent"),
            }
        }
    }
}

impl Reader {
    /// Goes on until that is impossible.
    async fn run(self) -> Result<()> {
        loop {
            let events = match self.client.receive(LOOK).await {
                Ok(events) => events,
                Err(error @ (Error::Store(_) | Error::AccountDeleted)) => {
                    return Err(error).context(self.client.client_id().to_string());
                }
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let now = Instant::now();
            for event in events {
                self.see(event, now);
            }
        }
    }

    fn see(&self, event: Event, now: Instant) {
        let number_of = |id: &GroupId| self.groups.iter().position(|group| group == id);
        let from = |sender: &moh_client::ClientId| {
            let user = sender.user_id();
            PEOPLE
                .iter()
                .position(|person| person.user().is_ok_and(|other| other == user))
        };
        match &event {
            Event::Message {
                group,
                sender,
                content,
                received_at,
                ..
            } => {
                if let (Some(group), Some(from)) = (number_of(group), from(sender)) {
                    let arrival = Arrival {
                        at: self.at,
                        from,
                        group,
                        received_at: *received_at,
                    };
                    return self.ledger.arrived(content, arrival, now);
                }
            }
            Event::Settled {
                group,
                operation: Operation::Message,
                outcome,
            } => {
                let writer = number_of(group).and_then(|group| self.settled.get(&group));
                if let Some(writer) = writer {
                    // Who has stopped writing has given up on it.
                    let _ = writer.send(*outcome == Outcome::Accepted);
                    return;
                }
            }
            Event::KeyPackagesRefilled { .. }
            | Event::AttestationRenewed { .. }
            | Event::Updated { .. } => return,
            _ => {}
        }
        let who = self.client.client_id();
        self.ledger.surprise(format!("{who} saw {event:?}"));
    }
}
