//! A provider at work: everything that requests need.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moh_messages::{
    AudienceDigest, ClientId, List, ProviderKeys, ProviderName, VerificationKey, VerificationKeys,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authenticate::Nonces;
use crate::change::{Change, Write, outbox_lane};
use crate::clock::{DAY_MS, Environment, Random};
use crate::config::Registration;
use crate::deliver::{Written, members_of};
use crate::error::Refusal;
use crate::federation::{Background, Federation, PeerPolicy, PeerRules, Transport};
use crate::groups::Groups;
use crate::key_packages::Turns;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::observe::Observer;
use crate::outbox::Outbox;
use crate::queue::{Members, Queues};
use crate::store::{CommitError, Store, StoreError};
use crate::tls::Trust;

/// A decision that others race with is made this often.
const TRIES: usize = 64;
/// How often what nobody needs any more is removed from the store.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// What a provider consists of.
pub struct Parts {
    /// Its name.
    pub name: ProviderName,
    /// Where it can be reached: a domain, with `:port` where it is not 443.
    pub ds_domain: String,
    /// Its keys.
    pub keys: Keys,
    /// What it takes.
    pub limits: Limits,
    /// Who may become a user.
    pub registration: Registration,
    /// What it demands of other providers.
    pub peers: PeerRules,
    /// Time, randomness, and where heavy work runs.
    pub environment: Environment,
    /// What is durable.
    pub store: Arc<dyn Store>,
    /// How it reaches other providers.
    pub transport: Arc<dyn Transport>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
}

/// What is done when a change is durable.
#[derive(Default)]
struct Follows {
    /// Audiences that it makes.
    made: Vec<((ProviderName, AudienceDigest), Members)>,
    /// Audiences that get something.
    audiences: BTreeSet<(ProviderName, AudienceDigest)>,
    /// Lanes of other providers that get something.
    lanes: BTreeSet<(ProviderName, u8)>,
    /// Clients that are no more.
    gone: Vec<ClientId>,
    wants_removals: bool,
    /// Queues are closed: audiences may have to be said anew.
    closes: bool,
    /// Something waits for other providers, whoever they are: a client is gone, or something is
    /// tried again.
    tells: bool,
}

/// A provider. Clones are the same one.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: ProviderName,
    ds_domain: String,
    keys: Keys,
    limits: Limits,
    registration: Registration,
    environment: Environment,
    store: Arc<dyn Store>,
    federation: Federation,
    demands_certificates: Option<Trust>,
    observer: Arc<dyn Observer>,
    groups: Groups,
    queues: Queues,
    outbox: Outbox,
    written: Written,
    nonces: Nonces,
    turns: Turns,
    /// A group is due to be looked after.
    due: Notify,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Node {
    /// Starts a provider: what waits in its outbox is delivered from now on. To be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(parts: Parts) -> Result<Self, StoreError> {
        let background = Background::default();
        let node = Self(Arc::new(Inner {
            name: parts.name,
            ds_domain: parts.ds_domain,
            keys: parts.keys,
            groups: Groups::new(parts.limits.max_cached_groups_bytes, parts.environment.work),
            registration: parts.registration,
            federation: Federation::new(
                parts.peers.policy,
                parts.transport,
                &parts.environment,
                &parts.limits,
                &background,
            ),
            demands_certificates: parts.peers.certificates,
            limits: parts.limits,
            environment: parts.environment,
            store: parts.store,
            observer: parts.observer,
            queues: Queues::new(),
            outbox: Outbox::default(),
            written: Written::new(),
            nonces: Nonces::default(),
            turns: Turns::default(),
            due: Notify::new(),
            tasks: background.tasks,
            stopping: background.stopping,
        }));
        for (destination, lane) in node.store().outbox_lanes().await? {
            node.wake_outbox(&destination, lane);
        }
        let sweeper = node.clone();
        node.tasks().spawn(async move { sweeper.run_sweep().await });
        let tender = node.clone();
        node.tasks()
            .spawn(async move { tender.run_tending().await });
        Ok(node)
    }

    /// Ends all tasks: who waits for a queue gets an answer, what waits in the outbox waits for
    /// the next start.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    async fn run_sweep(&self) {
        // Delivery ids are remembered for 8 days at least.
        let days = self.limits().keep_messages_days.max(8);
        let keep_ms = days.saturating_mul(DAY_MS);
        loop {
            tokio::select! {
                biased;
                () = self.0.stopping.cancelled() => return,
                () = tokio::time::sleep(SWEEP_INTERVAL) => {}
            }
            let before = self.now_ms().saturating_sub(keep_ms);
            if let Err(error) = self.store().sweep(before).await {
                tracing::warn!(%error, "the store was not swept");
            }
            // Of a change that seemed to fail, and is durable after all, nobody was told.
            self.wake_all_lanes().await;
        }
    }

    /// Makes a change durable, and then tells those who wait for what it holds. That is done to
    /// the end, even if whoever asked for it goes away.
    pub(crate) async fn commit(&self, change: Change) -> Result<(), CommitError> {
        let node = self.clone();
        let done = tokio::spawn(async move {
            let reading = node.queues().reading();
            let needed = Written::of(&change);
            let follows = Self::what_follows(&change);
            if let Err(error) = node.store().commit(change).await {
                node.written().forget(&needed);
                node.queues().forget(&follows.audiences);
                return Err(error);
            }
            node.written().note(needed, node.now_ms());
            node.follow(reading, follows).await;
            Ok(())
        });
        done.await.unwrap_or_else(|error| {
            Err(CommitError::Failed(StoreError(format!(
                "a commit was cut off: {error}"
            ))))
        })
    }

    /// A change is durable: those who wait for what it holds are told.
    async fn follow(&self, reading: u64, follows: Follows) {
        if follows.closes {
            self.queues().forget_all();
        }
        for (audience, members) in follows.made {
            self.queues().remember(reading, audience, members);
        }
        for (sender, digest) in follows.audiences {
            match self.known_audience(&sender, &digest).await {
                Ok(members) => self.queues().wake(&members.unwrap_or_default()),
                Err(error) => tracing::warn!(%error, "clients wait although there is something"),
            }
        }
        if follows.tells {
            self.wake_all_lanes().await;
        }
        for client in follows.gone {
            self.queues().wake(&[Some(client)]);
        }
        for (destination, lane) in follows.lanes {
            self.wake_outbox(&destination, lane);
        }
        if follows.wants_removals {
            self.due().notify_one();
        }
    }

    /// Decides and commits; decides again on fresh state while others change what the decision
    /// was based on.
    ///
    /// # Errors
    /// The refusal that was decided on; `unavailable` when the store fails, or others are faster
    /// every time.
    pub(crate) async fn commit_decided<T, F>(&self, decide: impl Fn() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<(Change, T), Refusal>>,
    {
        for _ in 0..TRIES {
            let (change, answer) = decide().await?;
            if change.writes.is_empty() {
                return Ok(answer);
            }
            match self.commit(change).await {
                Ok(()) => return Ok(answer),
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict.into())
    }

    fn what_follows(change: &Change) -> Follows {
        let mut follows = Follows::default();
        for write in &change.writes {
            match write {
                Write::BoundAudience {
                    sender,
                    digest,
                    seats,
                } => {
                    let audience = (sender.clone(), digest.clone());
                    follows.made.push((audience, members_of(seats)));
                }
                Write::Message { sender, digest, .. } => {
                    follows.audiences.insert((sender.clone(), digest.clone()));
                }
                Write::Outbox(delivery) => {
                    let lane = outbox_lane(delivery.group_id.as_slice());
                    follows.lanes.insert((delivery.destination.clone(), lane));
                }
                Write::WantRemoval { .. } => follows.wants_removals = true,
                Write::CloseClient { .. } => (follows.closes, follows.tells) = (true, true),
                Write::OutboxRetry { .. } => follows.tells = true,
                Write::Decided { .. } => follows.closes = true,
                // Who is gone waits no longer.
                Write::DeleteClient { client_id, .. } => follows.gone.push(client_id.clone()),
                _ => {}
            }
        }
        follows
    }

    /// Which providers it talks to.
    #[must_use]
    pub fn peer_policy(&self) -> PeerPolicy {
        self.federation().policy()
    }

    /// Changes which providers it talks to, from the next request on. What waited for one that may
    /// be talked to now is sent.
    pub async fn set_peer_policy(&self, policy: PeerPolicy) {
        self.federation().set_policy(policy);
        self.wake_all_lanes().await;
    }

    /// Whether it talks to this provider: takes its requests, and makes requests to it.
    #[must_use]
    pub fn may_talk_to(&self, provider: &ProviderName) -> bool {
        provider == self.name() || self.federation().allows(provider)
    }

    /// The keys of a provider, as far as they are known.
    pub(crate) fn known_keys(&self, provider: &ProviderName) -> Vec<VerificationKey> {
        if provider == self.name() {
            self.keys().verification_keys(self.now_ms()).into_vec()
        } else {
            self.federation().known_keys(provider)
        }
    }

    /// The same of several.
    ///
    /// # Errors
    /// `limit_exceeded` when an answer does not hold so many.
    pub(crate) fn provider_keys<const MAX: usize>(
        &self,
        providers: BTreeSet<ProviderName>,
    ) -> Result<List<ProviderKeys, MAX>, Refusal> {
        let keys_of = |provider| ProviderKeys {
            keys: VerificationKeys::new(self.known_keys(&provider)).unwrap_or_default(),
            provider,
        };
        let all = providers.into_iter().map(keys_of).collect();
        List::new(all).map_err(|_| Refusal::LimitExceeded("members of too many providers"))
    }
}

/// The parts, for the modules that work with them.
impl Node {
    /// The provider's name.
    #[must_use]
    pub fn name(&self) -> &ProviderName {
        &self.0.name
    }

    /// Where it can be reached.
    #[must_use]
    pub fn ds_domain(&self) -> &str {
        &self.0.ds_domain
    }

    /// What it takes.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn registration(&self) -> Registration {
        self.0.registration
    }
    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.0.observer
    }
    pub(crate) fn environment(&self) -> &Environment {
        &self.0.environment
    }
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.environment.now_ms()
    }
    pub(crate) fn random(&self) -> &dyn Random {
        &*self.0.environment.random
    }
    pub(crate) fn random_bytes<const N: usize>(&self) -> [u8; N] {
        self.random().bytes()
    }
    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.store
    }
    pub(crate) fn federation(&self) -> &Federation {
        &self.0.federation
    }
    pub(crate) fn demands_certificates(&self) -> Option<&Trust> {
        self.0.demands_certificates.as_ref()
    }
    pub(crate) fn groups(&self) -> &Groups {
        &self.0.groups
    }
    pub(crate) fn queues(&self) -> &Queues {
        &self.0.queues
    }
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }
    pub(crate) fn written(&self) -> &Written {
        &self.0.written
    }
    pub(crate) fn nonces(&self) -> &Nonces {
        &self.0.nonces
    }
    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }
    pub(crate) fn due(&self) -> &Notify {
        &self.0.due
    }
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.name())
    }
}
