//! People connect, or do not: nobody is added to a group by a stranger.

use anyhow::{Result, bail, ensure};
use moh_client::{Error, Event, GroupId};

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
        for (device, with) in [(bob, alice), (laptop, alice), (alice, bob)] {
            self.is_connected(&group, device, with).await?;
        }

        self.step("Carol is asked, and accepts");
        let group = self.asks(alice, &[carol]).await?;
        carol.client.accept(alice.client.user_id()).await?;
        for (device, with) in [(carol, alice), (alice, carol)] {
            self.is_connected(&group, device, with).await?;
        }

        self.step("Mallory asks Bob, who declines, and adds him to a group all the same");
        self.asks(mallory, &[bob, laptop]).await?;
        bob.client.decline(mallory.client.user_id()).await?;
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

    async fn is_connected(&mut self, group: &GroupId, who: &Device, with: &Device) -> Result<()> {
        // Besides, there are new keys in the group that accepting is shown by.
        loop {
            match who.next().await? {
                Event::Updated { group: there, .. } if there == *group => {}
                Event::Connected { peer, group: there }
                    if there == *group && peer == *with.client.user_id() =>
                {
                    break;
                }
                other => bail!("{} got {other:?} instead of a connection", who.id()),
            }
        }
        let members = who.client.members(group).await?.len();
        ensure!(members >= 2, "nobody else is in the group of the two");
        let what = format!("is now  connected with {}", with.name());
        self.transcript.note(who.id(), &what);
        Ok(())
    }
}
