//! The end of the group.

use anyhow::{Result, ensure};
use moh_client::{DsErrorCode, Event, GroupId};

use super::Story;
use crate::demo::cast::Cast;

impl Story<'_> {
    pub(super) async fn the_end(&mut self, cast: &Cast, group: &GroupId) -> Result<()> {
        let Cast {
            alice, bob, carol, ..
        } = cast;
        self.transcript.chapter("The end");
        self.says(group, bob, &[alice, carol], "Good night, all.")
            .await?;
        self.step("All who are left agree");
        self.agree(group, &[alice, bob, carol]).await?;

        let code = DsErrorCode::UNAUTHORIZED;
        self.step_with("Carol cannot delete the group: she is no admin", &[code]);
        let deleted = carol.client.delete_group(group).await;
        self.refused(carol, "delete_group", code, deleted)?;

        self.step("Alice deletes the group");
        alice.client.delete_group(group).await?;
        self.is_out(group, carol, alice).await?;

        let code = DsErrorCode::GROUP_DELETED;
        self.step_with("Bob has not heard of it, and writes", &[code]);
        let sent = bob.client.send(group, "One more thing").await;
        self.refused(bob, "send_message", code, sent)?;
        let ended = bob.expect("the end", |event| match event {
            Event::Deleted { group: ended } if ended == group => Some(()),
            _ => None,
        });
        ended.await?;
        self.transcript
            .is_out(bob.id(), "because there is no such group any more");
        for device in [alice, bob, carol] {
            let groups = device.client.groups().await?;
            ensure!(groups.is_empty(), "{} is still in {groups:?}", device.id());
        }

        self.step("Nobody was told anything else, nor those who had left, nor Mallory");
        for device in cast.all() {
            // The laptop is not told anything any more.
            if device.id() != cast.laptop.id() {
                device.expect_nothing().await?;
            }
        }
        Ok(())
    }
}
