//! Who is in the group, and who says so; and who leaves it.

use std::time::Duration;

use anyhow::Result;
use moh_client::{DsErrorCode, Event, GroupId, UserId};

use super::{Change, Story};
use crate::demo::cast::{Cast, Device};

impl Story<'_> {
    /// Ends with Alice's phone and tablet, Bob's phone and his laptop in the group.
    pub(super) async fn who_is_there(&mut self, cast: &Cast, group: &GroupId) -> Result<()> {
        let Cast {
            alice,
            bob,
            laptop,
            carol,
            ..
        } = cast;
        self.transcript.chapter("Who is there, and who says so");
        self.step("Alice adds Carol");
        let her = carol.client.user_id();
        alice.client.add_user(group, her).await?;
        self.joins(group, carol, &[alice, bob, laptop, carol])
            .await?;
        self.see_change(group, &[bob, laptop], alice, Change::With(carol))
            .await?;

        let code = DsErrorCode::UNAUTHORIZED;
        self.step_with("Bob cannot remove her: he is no admin", &[code]);
        let removed = bob.client.remove_user(group, her).await;
        self.refused(bob, "remove_users", code, removed)?;

        self.step("Alice makes Bob an admin as well");
        let (one, other) = (alice.client.user_id(), bob.client.user_id());
        let admins = vec![one.clone(), other.clone()];
        alice.client.set_admins(group, &admins[..]).await?;
        self.see_admins(group, &[bob, laptop, carol], alice, &admins)
            .await?;

        self.step("Now Bob removes Carol");
        bob.client.remove_user(group, her).await?;
        self.see_change(group, &[alice, laptop], bob, Change::Without(carol))
            .await?;

        let code = DsErrorCode::UNKNOWN_GROUP;
        self.step_with("Carol has not heard of it, and writes", &[code]);
        let sent = carol.client.send(group, "Is anybody there?").await;
        self.refused(carol, "send_message", code, sent)?;
        self.is_out(group, carol, bob).await?;
        Box::pin(self.alices_tablet(cast, group)).await
    }

    async fn alices_tablet(&mut self, cast: &Cast, group: &GroupId) -> Result<()> {
        let Cast {
            alice,
            tablet,
            bob,
            laptop,
            mallory,
            ..
        } = cast;
        self.step("Alice adds her tablet");
        alice.client.add_device(group, tablet.id()).await?;
        self.joins(group, tablet, &[alice, tablet, bob, laptop])
            .await?;
        self.see_change(group, &[bob], alice, Change::With(tablet))
            .await?;

        let code = DsErrorCode::WRONG_EPOCH;
        let title = "Bob's laptop has not heard of it, and renews its keys: it comes second";
        self.step_with(title, &[code]);
        laptop.client.update(group).await?;
        let how = "sees    what came first, and does it again on top of that";
        self.overcame(laptop, "update_client", code, how)?;
        self.see_change(group, &[laptop], alice, Change::With(tablet))
            .await?;
        self.see_update(group, &[alice, tablet, bob], laptop)
            .await?;

        self.step("Alice's phone removes her tablet");
        alice.client.remove_device(group, tablet.id()).await?;
        self.is_out(group, tablet, alice).await?;
        self.see_change(group, &[bob, laptop], alice, Change::Without(tablet))
            .await?;

        self.step("The tablet joins by itself: its user is there already");
        let owner = alice.client.owner(group).await?;
        tablet.client.join_group(group, &owner).await?;
        self.see_change(group, &[alice, bob, laptop], tablet, Change::With(tablet))
            .await?;

        let code = DsErrorCode::UNKNOWN_GROUP;
        self.step_with("Mallory tries the same", &[code]);
        let joined = mallory.client.join_group(group, &owner).await;
        self.refused(mallory, "external_commit_info", code, joined)?;
        let text = "From the sofa, and to all of you.";
        self.says(group, tablet, &[alice, bob, laptop], text).await
    }

    async fn see_admins(
        &mut self,
        group: &GroupId,
        devices: &[&Device],
        by: &Device,
        expected: &[UserId],
    ) -> Result<()> {
        for device in devices {
            let changed = device.expect("the admins", |event| match event {
                Event::AdminsChanged {
                    group: changed,
                    by: who,
                    admins,
                    epoch,
                } if changed == group && who == by.id() && admins == expected => Some(*epoch),
                _ => None,
            });
            let epoch = changed.await?;
            self.transcript.learned_admins(device.id(), epoch, expected);
        }
        Ok(())
    }

    /// Ends with Alice's and Bob's phones in the group.
    pub(super) async fn who_leaves(&mut self, cast: &Cast, group: &GroupId) -> Result<()> {
        let Cast {
            alice,
            tablet,
            bob,
            laptop,
            ..
        } = cast;
        self.transcript.chapter("Leaving");
        self.step("The tablet leaves; a member that stays has to commit that");
        tablet.client.leave(group).await?;
        alice.expect_nothing().await?;
        self.transcript
            .note(alice.id(), "has     the proposal, which waits for a commit");

        self.step("Alice writes; before that, her phone commits it");
        let (text, readers) = ("My tablet is off now.", [bob, laptop]);
        self.transcript.wrote(alice.id(), text, readers.len());
        alice.client.send(group, text).await?;
        self.see_that_one_is_gone(group, tablet, alice, &readers, text)
            .await?;
        self.is_out(group, tablet, alice).await?;

        let code = DsErrorCode::UNAUTHENTICATED;
        self.step_with(
            "Bob's laptop is stolen; with his phone he deletes it",
            &[code],
        );
        bob.client.delete_device(laptop.id()).await?;
        self.learns_of(bob, laptop, false).await?;
        self.sees_leaving(bob, group, laptop).await?;
        self.transcript
            .note(bob.id(), "sees    that a.example proposes to remove it");
        let read = laptop.client.receive(Duration::ZERO).await;
        self.refused(laptop, "read_queue", code, read)?;

        let code = DsErrorCode::PENDING_PROPOSALS;
        self.step_with("Alice has not heard of it, and writes", &[code]);
        let text = "Bob, are you still there?";
        self.transcript.wrote(alice.id(), text, 1);
        alice.client.send(group, text).await?;
        let how = "commits what is pending, and sends it again";
        self.overcame(alice, "send_message", code, how)?;
        self.see_that_one_is_gone(group, laptop, alice, &[bob], text)
            .await
    }

    /// One has written, and committed before that `gone` is removed.
    async fn see_that_one_is_gone(
        &mut self,
        group: &GroupId,
        gone: &Device,
        from: &Device,
        readers: &[&Device],
        text: &str,
    ) -> Result<()> {
        let change = Change::Without(gone);
        self.see_change(group, &[from], from, change).await?;
        for reader in readers {
            self.see_change(group, &[reader], from, change).await?;
            self.all_read(group, from, &[reader], text).await?;
        }
        Ok(())
    }
}
