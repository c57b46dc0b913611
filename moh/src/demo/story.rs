//! What happens in the demonstration, step by step, and what has to come of each step.

mod beginning;
mod connecting;
mod end;
mod forgeries;
mod members;
mod trouble;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use moh_client::{ClientId, DsErrorCode, Error, Event, GroupId};
use tokio::time::{Duration, Instant, sleep};

use super::cast::{Device, PATIENCE};
use super::stage::Stage;
use super::transcript::{Transcript, names};

/// How long to wait before looking again.
const A_MOMENT: Duration = Duration::from_millis(20);

/// Who is there now, or is there no longer.
#[derive(Clone, Copy)]
enum Change<'a> {
    With(&'a Device),
    Without(&'a Device),
}

impl Change<'_> {
    /// Who was added, and who was removed.
    fn lists(self) -> (Vec<ClientId>, Vec<ClientId>) {
        match self {
            Self::With(device) => (vec![device.id().clone()], Vec::new()),
            Self::Without(device) => (Vec::new(), vec![device.id().clone()]),
        }
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
        let cast = Box::pin(self.people_meet()).await?;
        Box::pin(self.people_connect(&cast)).await?;
        let group = Box::pin(self.a_conversation(&cast)).await?;
        Box::pin(self.who_is_there(&cast, &group)).await?;
        Box::pin(self.who_leaves(&cast, &group)).await?;
        Box::pin(self.a_day_is_lost(&cast, &group)).await?;
        Box::pin(self.what_is_refused(&cast, &group)).await?;
        Box::pin(self.the_end(&cast, &group)).await
    }

    fn step(&mut self, title: &str) {
        self.transcript.step(title, &[]);
    }

    /// A step in which requests have to be refused with these codes.
    fn step_with(&mut self, title: &str, codes: &[DsErrorCode]) {
        self.transcript.step(title, codes);
    }

    /// A request that had to be refused, and with what.
    fn refused<T>(
        &mut self,
        who: &Device,
        request: &str,
        code: DsErrorCode,
        result: Result<T, Error>,
    ) -> Result<()> {
        match result {
            Ok(_) => bail!("{request} by {} was not refused", who.id()),
            Err(error) => match error.refusal() {
                Some(refusal) if refusal.code == code => {
                    self.transcript.refused(who.id(), request, refusal);
                    Ok(())
                }
                _ => Err(error).with_context(|| format!("{request} has to be refused: {code}")),
            },
        }
    }

    /// A request was refused at first, and the client's library has seen to it.
    fn overcame(
        &mut self,
        who: &Device,
        request: &str,
        code: DsErrorCode,
        how: &str,
    ) -> Result<()> {
        ensure!(
            self.transcript.has_seen(code),
            "{request} by {} has to be refused at first: {code}",
            who.id()
        );
        self.transcript.overcame(who.id(), request, code, how);
        Ok(())
    }

    /// A device joins, and sees all of these there.
    async fn joins(&mut self, group: &GroupId, device: &Device, there: &[&Device]) -> Result<()> {
        let expected: BTreeSet<_> = there.iter().map(|device| device.id()).collect();
        let joined = device.expect("its Welcome", |event| match event {
            Event::Joined {
                group: joined,
                members,
                epoch,
                ..
            } if joined == group && members.iter().collect::<BTreeSet<_>>() == expected => {
                Some((*epoch, members.clone()))
            }
            _ => None,
        });
        let (epoch, members) = joined.await?;
        self.transcript.joined(device.id(), epoch, &members);
        Ok(())
    }

    /// These see a commit by which the members changed.
    async fn see_change(
        &mut self,
        group: &GroupId,
        devices: &[&Device],
        by: &Device,
        change: Change<'_>,
    ) -> Result<()> {
        let (with, without) = change.lists();
        let why = match change {
            Change::With(_) => format!("with {}", names(&with)),
            Change::Without(_) => format!("without {}", names(&without)),
        };
        for device in devices {
            let change = device.expect("the change", |event| match event {
                Event::MembersChanged {
                    group: changed,
                    by: who,
                    added,
                    removed,
                    epoch,
                } if changed == group
                    && who == by.id()
                    && *added == with
                    && *removed == without =>
                {
                    Some(*epoch)
                }
                _ => None,
            });
            let epoch = change.await?;
            self.transcript.moved_on(device.id(), epoch, &why);
        }
        Ok(())
    }

    /// These see that somebody has new keys.
    async fn see_update(
        &mut self,
        group: &GroupId,
        devices: &[&Device],
        by: &Device,
    ) -> Result<()> {
        for device in devices {
            let update = device.expect("the commit", |event| match event {
                Event::Updated {
                    group: updated,
                    by: who,
                    epoch,
                } if updated == group && who == by.id() => Some(*epoch),
                _ => None,
            });
            let epoch = update.await?;
            self.transcript.moved_on(device.id(), epoch, "");
        }
        Ok(())
    }

    /// A device sees that it is in the group no longer.
    async fn is_out(&mut self, group: &GroupId, device: &Device, by: &Device) -> Result<()> {
        let removed = device.expect("its removal", |event| match event {
            Event::Removed {
                group: left,
                by: who,
            } if left == group && who == by.id() => Some(()),
            _ => None,
        });
        removed.await?;
        let why = format!("by a commit of {}", by.name());
        self.transcript.is_out(device.id(), &why);
        Ok(())
    }

    /// One device writes; every other one has to read it, once.
    async fn says(
        &mut self,
        group: &GroupId,
        from: &Device,
        readers: &[&Device],
        text: &str,
    ) -> Result<()> {
        let who = from.id();
        self.step(&format!("{} writes from the {}", from.name(), who.device()));
        self.transcript.wrote(who, text, readers.len());
        from.client.send(group, text).await?;
        self.all_read(group, from, readers, text).await
    }

    async fn all_read(
        &mut self,
        group: &GroupId,
        from: &Device,
        readers: &[&Device],
        text: &str,
    ) -> Result<()> {
        for device in readers {
            let read = device.expect("the message", |event| match event {
                Event::Message {
                    group: written_in,
                    sender,
                    content,
                    epoch,
                    ..
                } if written_in == group && sender == from.id() && content == text.as_bytes() => {
                    Some(*epoch)
                }
                _ => None,
            });
            let epoch = read.await?;
            self.transcript.read(device.id(), from.id(), text, epoch);
        }
        Ok(())
    }

    /// Waits until somebody knows that another one is about to be removed.
    async fn sees_leaving(&self, device: &Device, group: &GroupId, gone: &Device) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !device.client.leaving(group).await?.contains(gone.id()) {
            ensure!(
                Instant::now() < deadline,
                "nobody proposed to remove {}",
                gone.id()
            );
            device.expect_nothing().await?;
            sleep(A_MOMENT).await;
        }
        Ok(())
    }

    /// A device is told that its user has one more, or one less.
    async fn learns_of(&mut self, device: &Device, other: &Device, is_new: bool) -> Result<()> {
        let told = device.expect("the change of devices", |event| match event {
            Event::DevicesChanged { client, added } if client == other.id() && *added == is_new => {
                Some(())
            }
            _ => None,
        });
        told.await
    }

    async fn agree(&mut self, group: &GroupId, everyone: &[&Device]) -> Result<()> {
        let mut seen = Vec::new();
        for device in everyone {
            device.expect_nothing().await?;
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
}
