//! People meet, and talk.

use anyhow::{Result, ensure};
use moh_client::{Error, Event, GroupId, GroupOptions, Operation, Outcome, UserId};

use super::Story;
use crate::demo::cast::{Cast, Device};

/// KeyPackages that each device hands to its provider.
const KEY_PACKAGES: usize = 5;

impl Story<'_> {
    pub(super) async fn people_meet(&mut self) -> Result<Cast> {
        self.transcript.chapter("People, devices, keys");
        self.step("Alice and Mallory become users of a.example; Bob and Carol, of b.example");
        let user = |name: &str| name.parse::<UserId>();
        let alice = self.register(&user("mimi://a.example/u/alice")?).await?;
        let mallory = self.register(&user("mimi://a.example/u/mallory")?).await?;
        let bob = self.register(&user("mimi://b.example/u/bob")?).await?;
        let carol = self.register(&user("mimi://b.example/u/carol")?).await?;

        self.step("Alice links a tablet, Bob a laptop; their phones vouch for them");
        let tablet = alice.link(self.stage, "tablet").await?;
        let laptop = bob.link(self.stage, "laptop").await?;
        self.learns_of(&alice, &tablet, true).await?;
        self.learns_of(&bob, &laptop, true).await?;
        let cast = Cast {
            alice,
            tablet,
            bob,
            laptop,
            carol,
            mallory,
        };
        for device in cast.all() {
            self.transcript.meet(device.id());
        }

        self.step("All leave KeyPackages with their providers, for groups and for connections");
        for device in cast.all() {
            device.client.refill_key_packages(KEY_PACKAGES).await?;
        }
        Ok(cast)
    }

    async fn register(&mut self, user: &UserId) -> Result<Device> {
        Device::register(self.stage, user, "phone").await
    }

    /// Ends with Alice's phone, Bob's phone and his laptop in a group.
    pub(super) async fn a_conversation(&mut self, cast: &Cast) -> Result<GroupId> {
        let Cast {
            alice, bob, laptop, ..
        } = cast;
        self.transcript.chapter("A conversation");
        self.step("Alice creates a group at a.example, and is its admin");
        let options = GroupOptions {
            admins: vec![alice.client.user_id().clone()],
            ..GroupOptions::default()
        };
        let group = alice.client.create_group_with(options).await?;

        self.step("Alice adds Bob, with both of his devices, and they join");
        alice.client.add_user(&group, bob.client.user_id()).await?;
        for device in [bob, laptop] {
            self.joins(&group, device, &[alice, bob, laptop]).await?;
        }
        let hello = "Hello Bob, this crosses two providers.";
        self.says(&group, alice, &[bob, laptop], hello).await?;
        let both = "Hello Alice! I read you on both devices.";
        self.says(&group, bob, &[alice, laptop], both).await?;

        self.step("Bob's phone renews its keys; everybody moves on to the next epoch");
        bob.client.update(&group).await?;
        self.see_update(&group, &[alice, laptop], bob).await?;
        self.an_answer_is_lost(cast, &group).await?;
        Ok(group)
    }

    async fn an_answer_is_lost(&mut self, cast: &Cast, group: &GroupId) -> Result<()> {
        let Cast {
            alice, bob, laptop, ..
        } = cast;
        self.step("Bob's laptop loses an answer, sends the same bytes again, and gets it");
        let text = "And this is from my laptop.";
        self.transcript.wrote(laptop.id(), text, 2);
        laptop.line.lose(Some("send_message"));
        let sent = laptop.client.send(group, text).await;
        ensure!(
            matches!(sent, Err(Error::Unsettled { .. })) && laptop.line.lost() == 1,
            "no answer was lost: {sent:?}"
        );
        laptop.line.lose(None);
        let settled = laptop.expect("the first answer", |event| match event {
            Event::Settled {
                operation: Operation::Message,
                outcome: Outcome::Accepted,
                ..
            } => Some(()),
            _ => None,
        });
        settled.await?;
        self.transcript
            .note(laptop.id(), "knows   that it was taken the first time");
        self.all_read(group, laptop, &[alice, bob], text).await
    }
}
