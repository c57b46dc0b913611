//! A person with a device: the client library, an application on it that keeps what it is given,
//! and the process of both, which may die and be started again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use moh_client::{
    Client, ConnectOptions, Error, Event, Events, NewDevice, Operation, Outcome, Work,
};
use moh_messages::client_api::QueueItem;
use moh_messages::{ClientId, GroupId};
use tokio::task::JoinHandle;

use crate::dice::Dice;
use crate::ledger::{Ledger, Text};
use crate::line::Line;
use crate::network::Network;
use crate::scene::{Said, Scene};
use crate::tally::Deed;
use crate::time::{Clock, Watch};
use crate::workload;

/// How long a client waits for its queue in one request.
const WAIT: Duration = Duration::from_secs(300);
/// How many KeyPackages of each kind a client has at its provider.
const KEY_PACKAGES: usize = 4;

/// What a person's application has.
#[derive(Default)]
pub(crate) struct Kept {
    /// What happened, each once: what was taken, and is kept.
    pub(crate) events: Vec<Event>,
    /// What was given last. It is kept when more is asked for.
    given: Vec<Event>,
    /// What was written, and has no final answer.
    pub(crate) writing: BTreeMap<GroupId, Text>,
    /// Groups in which something was sent again after a new start: it may be answered twice, so
    /// nothing else is written there.
    pub(crate) resent: BTreeSet<GroupId>,
    /// What was in the queue, by its place there.
    pub(crate) items: BTreeMap<Vec<u8>, QueueItem>,
    /// The account is to be deleted.
    pub(crate) is_ending: bool,
    /// The account is deleted.
    pub(crate) is_gone: bool,
    /// What must not happen to an application.
    pub(crate) complaints: Vec<String>,
}

/// A person, whether their device runs or not.
pub(crate) struct Person {
    pub(crate) id: ClientId,
    pub(crate) dice: Dice,
    pub(crate) watch: Arc<Watch>,
    /// Whether it reads its queue over a WebSocket; otherwise by long polls.
    has_socket: bool,
    path: PathBuf,
    network: Arc<Network>,
    ledger: Arc<Ledger>,
    kept: Arc<Mutex<Kept>>,
    client: Mutex<Option<Client>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    busy: Arc<AtomicUsize>,
}

/// Where events come from.
enum Source {
    Polls(Client),
    Socket(Events),
}

impl Source {
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        match self {
            Self::Polls(client) => client.receive(WAIT).await,
            Self::Socket(events) => Ok(vec![events.next().await?]),
        }
    }
}

/// Somebody is at something.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Person {
    pub(crate) fn new(
        id: ClientId,
        path: PathBuf,
        watch: Arc<Watch>,
        dice: Dice,
        network: &Arc<Network>,
        ledger: &Arc<Ledger>,
    ) -> Self {
        Self {
            id,
            has_socket: dice.once_in(2),
            dice,
            watch,
            path,
            network: Arc::clone(network),
            ledger: Arc::clone(ledger),
            kept: Arc::default(),
            client: Mutex::default(),
            tasks: Mutex::default(),
            busy: Arc::default(),
        }
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// The client, while the device runs and has an account.
    pub(crate) fn client(&self) -> Option<Client> {
        self.client.lock().unwrap().clone()
    }

    /// How many things are being done.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    fn options(&self) -> ConnectOptions {
        let random = Dice::new(self.dice.next(), "client");
        ConnectOptions::new(self.id.provider())
            .clock(Clock(Arc::clone(&self.watch)))
            .random(random)
            .work(Work::Inline)
            .transport(self.line())
    }

    fn line(&self) -> Line {
        Line {
            id: self.id.clone(),
            network: Arc::clone(&self.network),
            ledger: Arc::clone(&self.ledger),
            kept: Arc::clone(&self.kept),
        }
    }

    /// Becomes a user, or another device of one.
    pub(crate) async fn register(self: &Arc<Self>, scene: &Arc<Scene>) {
        let first = scene
            .other_device(&self.id)
            .and_then(|other| other.client());
        let registered = match first {
            None => {
                let (user, device) = (self.id.user_id(), self.id.device());
                Client::register(self.options(), &self.path, &user, device).await
            }
            Some(first) => {
                let id = self.id.clone();
                let new = NewDevice::prepare(self.options(), &self.path, id).await;
                let new = new.unwrap();
                let authorization = first.authorize(&new.request()).unwrap();
                new.register(authorization).await
            }
        };
        let client = registered.unwrap();
        client.refill_key_packages(KEY_PACKAGES).await.unwrap();
        self.go_on(scene, client);
    }

    /// The device is switched on again.
    pub(crate) async fn open(self: &Arc<Self>, scene: &Arc<Scene>) {
        match Client::open(self.options(), &self.path).await {
            Ok(client) => self.go_on(scene, client),
            Err(Error::AccountDeleted) => self.kept().is_gone = true,
            Err(error) => self.complain(&format!("cannot be opened: {error}")),
        }
    }

    fn go_on(self: &Arc<Self>, scene: &Arc<Scene>, client: Client) {
        *self.client.lock().unwrap() = Some(client.clone());
        let (this, scene) = (Arc::clone(self), Arc::clone(scene));
        let task = tokio::spawn(async move { this.listen(&scene, client).await });
        self.tasks.lock().unwrap().push(task);
    }

    /// The process of the device dies: whatever it was at is cut off.
    pub(crate) async fn die(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        *self.client.lock().unwrap() = None;
        // It was not kept.
        self.kept().given.clear();
    }

    /// Does something, in this process of the device.
    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let busy = Busy(Arc::clone(&self.busy));
        let mut tasks = self.tasks.lock().unwrap();
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(async move {
            let _busy = busy;
            work.await;
        }));
    }

    pub(crate) fn complain(&self, what: &str) {
        let complaint = format!("{}: {what}", self.id);
        self.kept().complaints.push(complaint);
    }

    /// Takes what happens, as long as the process lives.
    async fn listen(self: &Arc<Self>, scene: &Arc<Scene>, client: Client) {
        let mut source = if self.has_socket {
            Source::Socket(client.events())
        } else {
            Source::Polls(client)
        };
        loop {
            {
                let mut kept = self.kept();
                let given = std::mem::take(&mut kept.given);
                kept.events.extend(given);
            }
            match source.next().await {
                Ok(events) => {
                    events.iter().for_each(|event| self.sees(scene, event));
                    self.kept().given = events;
                }
                Err(Error::AccountDeleted) => {
                    self.kept().is_gone = true;
                    return;
                }
                Err(error @ (Error::Store(_) | Error::Mls(_))) => {
                    self.complain(&format!("cannot receive: {error}"));
                    return;
                }
                Err(_) => {
                    let pause = self.dice.between(200, 5_000);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }

    fn sees(self: &Arc<Self>, scene: &Arc<Scene>, event: &Event) {
        scene
            .trace
            .note(&format!("{}: {}", self.id, summary(event)));
        match event {
            Event::Settled {
                group,
                operation: Operation::Message,
                outcome,
            } => {
                let said = match outcome {
                    Outcome::Accepted => Said::Accepted,
                    Outcome::Refused(_) => Said::Refused,
                };
                let mut kept = self.kept();
                if kept.resent.contains(group) {
                    return;
                }
                if let Some(text) = kept.writing.remove(group) {
                    scene.said(text, said);
                }
            }
            Event::Removed { group, .. } | Event::Deleted { group } => {
                self.kept().writing.remove(group);
            }
            Event::ConnectionRequested { peer, group, .. } => {
                workload::is_asked(scene, self, peer, group);
            }
            Event::Connected { .. } => scene.tally.deed(Deed::Connected),
            _ => {}
        }
    }
}

/// What happened, in a few words that are the same in each run of a seed.
fn summary(event: &Event) -> String {
    match event {
        Event::Joined { epoch, members, .. } => {
            format!("joined in epoch {epoch} with {}", members.len())
        }
        Event::Message {
            sender,
            epoch,
            content,
            ..
        } => {
            let text = String::from_utf8_lossy(content);
            format!("reads {text} by {sender} of epoch {epoch}")
        }
        Event::MembersChanged { by, epoch, .. } => format!("members changed by {by}: {epoch}"),
        Event::Updated { by, epoch, .. } => format!("updated by {by}: {epoch}"),
        Event::Settled {
            operation, outcome, ..
        } => match outcome {
            Outcome::Accepted => format!("settled {operation:?}: accepted"),
            Outcome::Refused(error) => format!("settled {operation:?}: {}", error.code),
        },
        Event::Undecodable { reason, .. } => format!("undecodable: {reason:?}"),
        Event::Rejoined { epoch, .. } => format!("joined again in epoch {epoch}"),
        Event::Removed { by, .. } => format!("removed by {by}"),
        Event::Deleted { .. } => "group deleted".to_owned(),
        Event::GroupLost { .. } => "group lost".to_owned(),
        Event::ConnectionRequested { peer, .. } => format!("asked by {peer}"),
        Event::Connected { peer, .. } => format!("connected with {peer}"),
        Event::Disconnected { peer, reason } => format!("not connected with {peer}: {reason}"),
        Event::NotAttested { client, reason, .. } => format!("{client} not attested: {reason}"),
        Event::KeyPackagesRefilled { count } => format!("{count} KeyPackages"),
        other => format!("{other:?}").chars().take(24).collect(),
    }
}
