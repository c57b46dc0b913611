//! What happens in the demonstration, step by step, and what has to come of each step.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use moh_client::{Client, ClientId, Event, GroupId, NewDevice, UserId};
use tokio::time::Instant;

use super::stage::Stage;
use super::transcript::Transcript;

/// Everything that has to arrive in a step has to arrive within this.
const PATIENCE: Duration = Duration::from_secs(20);
/// A device waits this long for each answer to what is new.
const LOOK: Duration = Duration::from_secs(5);
/// KeyPackages that each device hands to its provider.
const KEY_PACKAGES: usize = 5;

/// A device of somebody, and how it is called in the transcript.
struct Device {
    client: Client,
}

impl Device {
    fn id(&self) -> &ClientId {
        self.client.client_id()
    }
}

/// The story, as far as it has been told.
pub(super) struct Story<'a> {
    stage: &'a Stage,
    transcript: &'a mut Transcript,
}

impl<'a> Story<'a> {
    pub(super) fn new(stage: &'a Stage, transcript: &'a mut Transcript) -> Self {
        Self { stage, transcript }
    }

    /// Tells it. An error says why the step that was last begun failed.
    pub(super) async fn play(mut self) -> Result<()> {
        let (alice, bob): (UserId, UserId) = (
            "mimi://a.example/u/alice".parse()?,
            "mimi://b.example/u/bob".parse()?,
        );

        self.step("Alice becomes a user of a.example, Bob one of b.example");
        let alice_phone = self.register(&alice, "phone").await?;
        let bob_phone = self.register(&bob, "phone").await?;

        self.step("Bob links his laptop; his phone vouches for it");
        let bob_laptop = self.link(&bob_phone, "laptop").await?;

        self.step("Each device leaves KeyPackages with its provider; Bob lets Alice fetch his");
        for device in [&alice_phone, &bob_phone, &bob_laptop] {
            device.client.refill_key_packages(KEY_PACKAGES).await?;
        }
        bob_phone.client.set_consent(&alice, true).await?;

        self.step("Alice creates a group at a.example");
        let group = alice_phone.client.create_group().await?;

        self.step("Alice adds Bob, with both of his devices, and they join");
        alice_phone.client.add_user(&group, &bob).await?;
        for device in [&bob_phone, &bob_laptop] {
            self.joins(device, &group).await?;
        }

        let everyone = [&alice_phone, &bob_phone, &bob_laptop];
        self.says(
            &group,
            &alice_phone,
            &everyone,
            "Hello Bob, this crosses two providers.",
        )
        .await?;
        self.says(
            &group,
            &bob_phone,
            &everyone,
            "Hello Alice! I read you on both devices.",
        )
        .await?;
        self.says(
            &group,
            &bob_laptop,
            &everyone,
            "And this is from my laptop.",
        )
        .await?;

        self.step("Bob's phone renews its keys; everybody moves on to the next epoch");
        bob_phone.client.update(&group).await?;
        for device in [&alice_phone, &bob_laptop] {
            self.sees_update(device, &group, bob_phone.id()).await?;
        }

        self.says(
            &group,
            &alice_phone,
            &everyone,
            "New keys, same conversation.",
        )
        .await?;
        self.says(&group, &bob_laptop, &everyone, "Good night, Alice.")
            .await?;

        self.step("All devices agree");
        self.agree(&group, &everyone).await
    }

    fn step(&mut self, title: &str) {
        self.transcript.step(title);
    }

    async fn register(&mut self, user: &UserId, device: &str) -> Result<Device> {
        let options = self.stage.connect(&user.provider());
        let path = self.stage.state_of(&format!("{}/{device}", user.user()));
        let client = Client::register(options, path, user, device).await?;
        self.transcript.meet(client.client_id());
        Ok(Device { client })
    }

    async fn link(&mut self, with: &Device, device: &str) -> Result<Device> {
        let user = with.client.user_id();
        let options = self.stage.connect(&user.provider());
        let path = self.stage.state_of(&format!("{}/{device}", user.user()));
        let new = NewDevice::prepare(options, path, ClientId::new(user, device)?).await?;
        let authorization = with.client.authorize(&new.request())?;
        let client = new.register(authorization).await?;
        self.transcript.meet(client.client_id());
        Ok(Device { client })
    }

    async fn joins(&mut self, device: &Device, group: &GroupId) -> Result<()> {
        let event = self
            .next(device)
            .await
            .context("the Welcome did not arrive")?;
        let Event::Joined {
            group: joined,
            members,
            epoch,
            ..
        } = &event
        else {
            bail!("{} got {event:?} instead of a Welcome", device.id());
        };
        ensure!(joined == group, "{} joined another group", device.id());
        self.transcript.joined(device.id(), *epoch, members);
        Ok(())
    }

    /// One device writes; every other one has to read it, once.
    async fn says(
        &mut self,
        group: &GroupId,
        from: &Device,
        everyone: &[&Device],
        text: &str,
    ) -> Result<()> {
        let who = from.id();
        self.step(&format!(
            "{} writes from the {}",
            capitalized(who),
            who.device()
        ));
        self.transcript.wrote(who, text);
        from.client.send(group, text).await?;
        for device in everyone.iter().filter(|device| device.id() != who) {
            let event = self
                .next(device)
                .await
                .context("the message did not arrive")?;
            let Event::Message {
                sender,
                content,
                epoch,
                ..
            } = &event
            else {
                bail!("{} got {event:?} instead of the message", device.id());
            };
            let read = String::from_utf8_lossy(content);
            ensure!(
                sender == who && read == text,
                "{} read {read:?} by {sender}",
                device.id()
            );
            self.transcript.read(device.id(), sender, &read, *epoch);
        }
        Ok(())
    }

    async fn sees_update(
        &mut self,
        device: &Device,
        group: &GroupId,
        who: &ClientId,
    ) -> Result<()> {
        let event = self
            .next(device)
            .await
            .context("the commit did not arrive")?;
        let Event::Updated {
            group: updated,
            by,
            epoch,
        } = &event
        else {
            bail!("{} got {event:?} instead of the commit", device.id());
        };
        ensure!(
            updated == group && by == who,
            "{} saw another commit",
            device.id()
        );
        self.transcript.moved_on(device.id(), *epoch);
        Ok(())
    }

    async fn agree(&mut self, group: &GroupId, everyone: &[&Device]) -> Result<()> {
        let mut seen = Vec::new();
        for device in everyone {
            let late = device.client.receive(Duration::ZERO).await?;
            ensure!(
                late.is_empty(),
                "{} got {late:?}, which nobody sent",
                device.id()
            );
            let epoch = device.client.epoch(group).await?;
            let members = device.client.members(group).await?;
            self.transcript.is_at(device.id(), epoch, members.len());
            seen.push((epoch, members));
        }
        ensure!(
            seen.windows(2).all(|two| two[0] == two[1]),
            "the devices do not agree: {seen:?}"
        );
        Ok(())
    }

    /// The next event of a device, which is the only one that has arrived.
    async fn next(&mut self, device: &Device) -> Result<Event> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut events = device.client.receive(LOOK).await?;
            match events.len() {
                0 => {}
                1 => return Ok(events.remove(0)),
                _ => bail!("{} got {events:?} at once", device.id()),
            }
        }
        bail!("{} got nothing for {} s", device.id(), PATIENCE.as_secs())
    }
}

/// The name of a client's user, as a person writes it.
fn capitalized(client: &ClientId) -> String {
    let user = client.user_id();
    let mut letters = user.user().chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(letters)
        .collect()
}
