//! Who plays.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use moh_client::{Client, ClientId, Event, GroupId, NewDevice, UserId};
use tokio::time::Instant;

use super::line::Line;
use super::stage::Stage;

/// Everything that has to arrive in a step has to arrive within this.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A device waits this long for each answer to what is new.
const LOOK: Duration = Duration::from_secs(5);

/// A device of somebody.
pub(super) struct Device {
    pub(super) client: Client,
    pub(super) line: Line,
    /// What it was told, and has not been asked for.
    told: RefCell<VecDeque<Event>>,
    /// Groups of which it is not asked any more.
    aside: RefCell<Vec<GroupId>>,
}

/// Everybody.
pub(super) struct Cast {
    pub(super) alice: Device,
    pub(super) tablet: Device,
    pub(super) bob: Device,
    pub(super) laptop: Device,
    pub(super) carol: Device,
    pub(super) mallory: Device,
}

impl Cast {
    pub(super) fn all(&self) -> [&Device; 6] {
        [
            &self.alice,
            &self.tablet,
            &self.bob,
            &self.laptop,
            &self.carol,
            &self.mallory,
        ]
    }
}

impl Device {
    /// A user's first device.
    pub(super) async fn register(stage: &Stage, user: &UserId, device: &str) -> Result<Self> {
        let options = stage.connect(&user.provider());
        let line = Line::around(options.connect()?);
        let options = options.transport(line.clone());
        let path = stage.state_of(&format!("{}/{device}", user.user()));
        let client = Client::register(options, path, user, device).await?;
        Ok(Self::new(client, line))
    }

    /// A further device of the user of this one.
    pub(super) async fn link(&self, stage: &Stage, device: &str) -> Result<Self> {
        let user = self.client.user_id();
        let options = stage.connect(&user.provider());
        let line = Line::around(options.connect()?);
        let options = options.transport(line.clone());
        let path = stage.state_of(&format!("{}/{device}", user.user()));
        let new = NewDevice::prepare(options, path, ClientId::new(user, device)?).await?;
        let authorization = self.client.authorize(&new.request())?;
        let client = new.register(authorization).await?;
        Ok(Self::new(client, line))
    }

    fn new(client: Client, line: Line) -> Self {
        Self {
            client,
            line,
            told: RefCell::default(),
            aside: RefCell::default(),
        }
    }

    pub(super) fn id(&self) -> &ClientId {
        self.client.client_id()
    }

    /// The name of its user, as a person writes it.
    pub(super) fn name(&self) -> String {
        let mut letters = self.client.user_id().user().chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase())
            .into_iter()
            .chain(letters)
            .collect()
    }

    /// Its next event.
    pub(super) async fn next(&self) -> Result<Event> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(event) = self.told.borrow_mut().pop_front() {
                return Ok(event);
            }
            let events = self.client.receive(LOOK).await?;
            self.told.borrow_mut().extend(self.for_people(events));
        }
        bail!("{} got nothing for {} s", self.id(), PATIENCE.as_secs())
    }

    /// Its next event, which has to be what `pick` is for.
    pub(super) async fn expect<T>(
        &self,
        what: &str,
        pick: impl FnOnce(&Event) -> Option<T>,
    ) -> Result<T> {
        let missing = || format!("{} did not see {what}", self.id());
        let event = self.next().await.with_context(missing)?;
        pick(&event).with_context(|| format!("{} got {event:?} instead of {what}", self.id()))
    }

    /// Reads what is there; that has to be nothing for the application.
    pub(super) async fn expect_nothing(&self) -> Result<()> {
        self.expect_nothing_within(Duration::ZERO).await
    }

    /// Reads for so long, or until something is there; that has to be nothing for the application.
    pub(super) async fn expect_nothing_within(&self, wait: Duration) -> Result<()> {
        let mut events: Vec<_> = self.told.borrow_mut().drain(..).collect();
        events.extend(self.for_people(self.client.receive(wait).await?));
        if events.is_empty() {
            return Ok(());
        }
        bail!("{} got {events:?}, which nobody sent", self.id())
    }

    /// What happens in a group from now on is not part of the story.
    pub(super) fn set_aside(&self, group: &GroupId) {
        self.aside.borrow_mut().push(group.clone());
    }

    /// What a device does for itself is left out.
    fn for_people(&self, mut events: Vec<Event>) -> Vec<Event> {
        let is_upkeep = |event: &Event| {
            matches!(
                event,
                Event::KeyPackagesRefilled { .. } | Event::AttestationRenewed { .. }
            )
        };
        let aside = self.aside.borrow();
        let is_aside = |event: &Event| event.group().is_some_and(|group| aside.contains(group));
        events.retain(|event| !is_upkeep(event) && !is_aside(event));
        events
    }
}
