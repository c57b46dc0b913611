//! People connect, or do not: nobody is added to a group by a stranger.

use anyhow::{Result, bail, ensure};
use moh_client::{DisconnectReason, Error, Event, GroupId};

use super::Story;
use crate::demo::cast::{Cast, Device};

impl Story<'_> {
    /// Ends with Alice connected with Bob and with Carol.
    pub(super) async fn people_connect(&mut self, cast: &Cast) -> Result<()> {
        let Cast {
            alice,
            bob,
            laptop,
            carol,
            mallory,
            ..
        } = cast;
        self.transcript.chapter("Connections");
        self.step("Alice asks Bob to connect: an invitation into a group of the two");
        let group = self.asks(alice, &[bob, laptop]).await?;

        self.step("Bob accepts on his phone; his laptop follows, and Alice hears of it");
        bob.client.accept(alice.client.user_id()).await?;
        self.is_connected(&group, bob, alice).await?;
        self.is_connected(&group, laptop, alice).await?;
        // It is by new keys of Bob's phone that the others hear of it.
        self.see_update(&group, &[laptop, alice], bob).await?;
        self.is_connected(&group, alice, bob).await?;
        for device in [alice, bob, laptop] {
            device.set_aside(&group);
        }

        self.step("Carol is asked, and accepts");
        let group = self.asks(alice, &[carol]).await?;
        carol.client.accept(alice.client.user_id()).await?;
        self.is_connected(&group, carol, alice).await?;
        self.see_update(&group, &[alice], carol).await?;
        self.is_connected(&group, alice, carol).await?;

        self.step("Mallory asks Bob too, and Bob declines");
        let group = self.asks(mallory, &[bob, laptop]).await?;
        bob.client.decline(mallory.client.user_id()).await?;
        self.hears_of_declining(laptop, mallory).await?;

        self.step("Mallory writes all the same; Bob's queues are closed for that group");
        let text = "Bob? I know that you are there.";
        self.transcript.wrote(mallory.id(), text, 0);
        mallory.set_aside(&group);
        mallory.client.send(&group, text).await?;
        self.hears_of_declining(mallory, bob).await?;
        mallory.expect_nothing().await?;

        self.step("Mallory adds Bob to another group, which Bob has not agreed to");
        let group = mallory.client.create_group().await?;
        match mallory.client.add_user(&group, bob.client.user_id()).await {
            Err(Error::NoConsent(_)) => {}
            other => bail!("Mallory needs Bob's consent: {other:?}"),
        }
        let what = "gets no KeyPackage: Bob does not consent, or does not exist";
        self.transcript.note(mallory.id(), what);
        mallory.client.delete_group(&group).await?;
        Ok(())
    }

    /// One asks a user, all of whose devices are told.
    async fn asks(&mut self, by: &Device, devices: &[&Device]) -> Result<GroupId> {
        let group = by.client.connect(devices[0].client.user_id()).await?;
        for device in devices {
            let asked = device.expect("what it is asked", |event| match event {
                Event::ConnectionRequested {
                    peer, group: into, ..
                } if peer == by.client.user_id() && *into == group => Some(()),
                _ => None,
            });
            asked.await?;
            let what = format!("is asked by {}", by.name());
            self.transcript.note(device.id(), &what);
        }
        Ok(group)
    }

    /// Another device has declined.
    async fn hears_of_declining(&mut self, device: &Device, with: &Device) -> Result<()> {
        let declined = device.expect("what was decided", |event| match event {
            Event::Disconnected {
                peer,
                reason: DisconnectReason::Declined,
            } if peer == with.client.user_id() => Some(()),
            _ => None,
        });
        declined.await?;
        let what = format!("knows   that there is no connection with {}", with.name());
        self.transcript.note(device.id(), &what);
        Ok(())
    }

    async fn is_connected(&mut self, group: &GroupId, who: &Device, with: &Device) -> Result<()> {
        let connected = who.expect("the connection", |event| match event {
            Event::Connected { peer, group: there }
                if there == group && peer == with.client.user_id() =>
            {
                Some(())
            }
            _ => None,
        });
        connected.await?;
        let members = who.client.members(group).await?.len();
        ensure!(members >= 2, "nobody else is in the group of the two");
        let what = format!("is now  connected with {}", with.name());
        self.transcript.note(who.id(), &what);
        Ok(())
    }
}
