//! Everything that there is in one run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use moh_messages::{ClientId, GroupId, ProviderName, UserId};
use moh_server::store::{Embedded, EmbeddedOptions};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::dice::Dice;
use crate::disk::Disk;
use crate::ledger::{Ledger, Text};
use crate::mutants::Mutant;
use crate::network::Network;
use crate::person::Person;
use crate::provider::Provider;
use crate::rates::Rates;
use crate::tally::{Fault, Tally};
use crate::time::{Time, Watch};
use crate::trace::Trace;

const PROVIDERS: [&str; 3] = ["a.example", "b.example", "c.example"];
const USERS: [&str; 4] = ["ann", "bob", "cid", "dan"];
const DEVICES: &[&str] = &["phone", "tablet"];

/// All clients: one user of each provider has two.
fn clients() -> impl Iterator<Item = ClientId> {
    let users = PROVIDERS.into_iter().flat_map(|provider| {
        let of = move |user| UserId::new(&provider.parse().unwrap(), user).unwrap();
        USERS.into_iter().map(of)
    });
    users.flat_map(|user| {
        let devices = if user.user() == USERS[0] { 2 } else { 1 };
        let named = move |device: &&str| ClientId::new(&user, device).unwrap();
        DEVICES[..devices].iter().map(named).collect::<Vec<_>>()
    })
}

/// How wrong the clock of a provider is, at most. Two of them, and the way between them, have to
/// be within the five minutes in which a request is taken.
pub(crate) const PROVIDER_SKEW_MS: u64 = 130_000;
/// How wrong the clock of a client is, at most: it asks its provider what time it is.
pub(crate) const CLIENT_SKEW_MS: u64 = 14_400_000;

/// What became of something that an application wrote.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) by: ClientId,
    pub(crate) answer: Said,
}

/// What the client library said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing, or that it is not known yet.
    Nothing,
    Accepted,
    Refused,
}

/// One run.
pub(crate) struct Scene {
    pub(crate) dice: Dice,
    pub(crate) rates: Rates,
    pub(crate) time: Arc<Time>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) network: Arc<Network>,
    pub(crate) providers: Vec<Arc<Provider>>,
    pub(crate) people: Vec<Arc<Person>>,
    written: Mutex<Vec<Written>>,
    /// What users decide about connections that they are asked for, with all of their devices.
    decided: Mutex<BTreeMap<(UserId, GroupId), bool>>,
    _folder: TempDir,
}

/// Where files are that are gone when the machine is: nothing here needs to survive that.
fn folder() -> TempDir {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() {
        tempfile::tempdir_in(shared)
    } else {
        tempfile::tempdir()
    }
    .unwrap()
}

impl Scene {
    /// Providers and people who have not begun yet; and who has died, as it happens.
    pub(crate) fn new(
        seed: u64,
        mutant: Option<Mutant>,
        prints: bool,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<ProviderName>) {
        let dice = Dice::new(seed, "scene");
        let time = Time::begin();
        let tally = Arc::<Tally>::default();
        let trace = Arc::new(Trace::new(&time, prints));
        let ledger = Arc::<Ledger>::default();
        let rates = Rates::roll(&Dice::new(seed, "rates"));
        let network = Network::new(
            &time,
            &tally,
            &trace,
            Dice::new(seed, "network"),
            rates.clone(),
        );
        let network = Arc::new(network);
        let (died, deaths) = mpsc::unbounded_channel();
        let folder = folder();
        let provider = |name: &&str| {
            let options = EmbeddedOptions::default();
            let disk = Disk {
                provider: name.parse().unwrap(),
                content: Embedded::open_in_memory(options).unwrap(),
                dice: Dice::new(seed, &format!("disk of {name}")),
                mutant,
                ledger: Arc::clone(&ledger),
                tally: Arc::clone(&tally),
                trace: Arc::clone(&trace),
                rate: rates.disk,
                is_slow: AtomicBool::new(false),
                is_healed: AtomicBool::new(true),
                crash: Mutex::default(),
                died: died.clone(),
            };
            let own = Dice::new(seed, name);
            let watch = watch(&time, &dice, PROVIDER_SKEW_MS, &tally);
            Arc::new(Provider::new(Arc::new(disk), watch, &network, own))
        };
        let providers = PROVIDERS.iter().map(provider).collect();
        let person = |client: ClientId| {
            let file = format!("{}-{}", client.user_id().user(), client.device());
            let path = folder.path().join(format!("{file}-{}", client.provider()));
            let watch = watch(&time, &dice, CLIENT_SKEW_MS, &tally);
            let own = Dice::new(seed, client.as_str());
            Arc::new(Person::new(client, path, watch, own, &network, &ledger))
        };
        let people = clients().map(person).collect();
        let scene = Self {
            dice,
            rates,
            time,
            tally,
            trace,
            ledger,
            network,
            providers,
            people,
            written: Mutex::default(),
            decided: Mutex::default(),
            _folder: folder,
        };
        (Arc::new(scene), deaths)
    }

    pub(crate) fn provider(&self, name: &ProviderName) -> &Arc<Provider> {
        let mut providers = self.providers.iter();
        providers
            .find(|provider| provider.name == *name)
            .expect("there are no others")
    }

    /// A device that a person has besides this one.
    pub(crate) fn other_device(&self, of: &ClientId) -> Option<&Arc<Person>> {
        let mut people = self.people.iter();
        people.find(|person| person.id != *of && person.id.user_id() == of.user_id())
    }

    /// Whether a user agrees to a connection that they are asked for: mostly, and always the same.
    pub(crate) fn agrees(&self, user: &UserId, group: &GroupId) -> bool {
        let mut decided = self.decided.lock().unwrap();
        let decision = decided.entry((user.clone(), group.clone()));
        *decision.or_insert_with(|| !self.dice.once_in(8))
    }

    /// Whether a user was asked for a connection, and did not agree.
    pub(crate) fn has_declined(&self, user: &UserId, group: &GroupId) -> bool {
        let decided = self.decided.lock().unwrap();
        decided.get(&(user.clone(), group.clone())) == Some(&false)
    }

    /// Somebody is about to write something: what it says.
    pub(crate) fn text(&self, by: &ClientId) -> Text {
        let mut written = self.written.lock().unwrap();
        let text = Text::try_from(written.len()).unwrap();
        written.push(Written {
            by: by.clone(),
            answer: Said::Nothing,
        });
        text
    }

    /// What the client library said about it.
    pub(crate) fn said(&self, text: Text, answer: Said) {
        self.written.lock().unwrap()[text as usize].answer = answer;
    }

    /// Everything that was written, by its number.
    pub(crate) fn written(&self) -> Vec<Written> {
        self.written.lock().unwrap().clone()
    }

    /// A clock that may be wrong from now on.
    pub(crate) fn skew_ms(dice: &Dice, most: u64) -> i64 {
        let skew = i64::try_from(dice.between(0, 2 * most)).unwrap();
        skew - i64::try_from(most).unwrap()
    }
}

fn watch(time: &Arc<Time>, dice: &Dice, most: u64, tally: &Tally) -> Arc<Watch> {
    if dice.once_in(3) {
        return Watch::new(time, 0);
    }
    tally.fault(Fault::Skew);
    Watch::new(time, Scene::skew_ms(dice, most))
}
