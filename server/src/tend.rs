//! What the owner does with groups of its own accord: it proposes to remove clients that are gone
//! or were not heard of for long, and forgets groups that ended long ago.

use std::collections::HashSet;
use std::time::Duration;

use moh_messages::{ClientId, ClientQueueInformation, GroupId, ProviderName};

use crate::change::{Change, Expect, Version, Write};
use crate::error::Refusal;
use crate::group::{Checks, Group, Tending, Undecided};
use crate::node::Node;
use crate::owner::{AsOwner, TRIES};
use crate::store::{CommitError, StoreError};

/// How often the store is asked for groups that are due, when nobody says that one is.
const INTERVAL: Duration = Duration::from_secs(30);
/// A group with which something went wrong is left alone for so long, in milliseconds.
const RETRY_MS: u64 = 5 * 60 * 1000;
/// So many groups are looked after before the store is asked again.
const BATCH: usize = 100;

impl Node {
    /// Looks after groups until the provider stops.
    pub(crate) async fn run_tending(&self) {
        loop {
            let more = match self.tend_what_is_due().await {
                Ok(due) => due == BATCH,
                Err(error) => {
                    tracing::warn!(%error, "groups were not looked after");
                    false
                }
            };
            if self.stopping().is_cancelled() {
                return;
            }
            if more {
                continue;
            }
            tokio::select! {
                biased;
                () = self.stopping().cancelled() => return,
                () = self.due().notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// How many groups were due. What goes wrong with one of them does not keep the others
    /// waiting: it is left alone for a while.
    async fn tend_what_is_due(&self) -> Result<usize, Refusal> {
        let due = self.store().groups_due(self.now_ms(), BATCH).await?;
        for group_id in &due {
            if self.stopping().is_cancelled() {
                break;
            }
            let (node, id) = (self.clone(), group_id.clone());
            let tended = tokio::spawn(async move { node.tend_group(&id).await });
            let error = match tended.await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            let group = hex::encode(group_id.as_slice());
            tracing::warn!(%group, %error, "a group was not looked after");
            let clients = self.store().wanted_removals(group_id).await?;
            let later = Write::PostponeRemovals {
                group_id: group_id.clone(),
                clients,
                until: self.now_ms().saturating_add(RETRY_MS),
            };
            let change = Change {
                expect: Vec::new(),
                writes: vec![later],
            };
            self.commit(change).await?;
        }
        Ok(due.len())
    }

    async fn tend_group(&self, group_id: &GroupId) -> Result<(), Refusal> {
        for _ in 0..TRIES {
            let wanted = self.store().wanted_removals(group_id).await?;
            let (version, tending, done) = self.look_after(group_id, &wanted).await?;
            let writes = match tending {
                Tending::Change(_) => return self.propose_removes(group_id, &wanted).await,
                Tending::Wait(until) => postponed(group_id, &wanted, done, until),
                Tending::Forget => vec![Write::ForgetGroup {
                    group_id: group_id.clone(),
                }],
            };
            let change = Change {
                expect: vec![Expect::Group(group_id.clone(), Some(version))],
                writes,
            };
            let groups = self.groups();
            match self.commit(change).await {
                Err(CommitError::Conflict) => {
                    groups.is_newest(self.store(), group_id, version).await?;
                }
                Ok(()) if matches!(tending, Tending::Forget) => {
                    groups.drop_group(group_id).await;
                    return Ok(());
                }
                result => return Ok(result?),
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// What is to be done with a group, at which version; and of whom nothing more is wanted.
    async fn look_after(
        &self,
        group_id: &GroupId,
        wanted: &[ClientId],
    ) -> Result<(Version, Tending, Vec<ClientId>), Refusal> {
        let group = self.groups().read(self.store(), group_id).await?;
        let now = self.now_ms();
        let owner = AsOwner {
            node: self,
            fetched: &[],
            now,
        };
        let checks = Checks {
            now,
            limits: self.limits(),
            owner: &owner,
        };
        let tending = group.tend(wanted, &checks);
        Ok((group.version(), tending, done(&group, wanted)))
    }

    /// Proposes what is to be proposed, on the newest version.
    async fn propose_removes(
        &self,
        group_id: &GroupId,
        wanted: &[ClientId],
    ) -> Result<(), Refusal> {
        let nothing = || Refusal::PolicyViolation("nothing to do any more".to_owned());
        let changed = self.change_group(
            group_id,
            |group, checks| match group.tend(wanted, checks) {
                Tending::Change(decision) => Ok((decision, ())),
                Tending::Wait(_) | Tending::Forget => Err(Undecided::Refused(nothing())),
            },
            |group, _, ()| vec![removals_done(group, done(group, wanted))],
        );
        match changed.await {
            Err(refusal) if refusal == nothing() => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// The [`removals`] from a group of ours, if there is such a group.
    pub(crate) async fn want_removals(
        &self,
        group_id: &GroupId,
        provider: &ProviderName,
        queues: &HashSet<ClientQueueInformation>,
    ) -> Result<Vec<Write>, StoreError> {
        let group = match self.groups().read(self.store(), group_id).await {
            Ok(group) => group,
            Err(Refusal::UnknownGroup) => return Ok(Vec::new()),
            Err(error) => return Err(StoreError(error.to_string())),
        };
        Ok(removals(&group, provider, queues, self.now_ms()))
    }
}

/// The writes by which members of a group are to be removed whose queues, at a provider, do not
/// exist.
pub(crate) fn removals(
    group: &Group,
    provider: &ProviderName,
    queues: &HashSet<ClientQueueInformation>,
    now: u64,
) -> Vec<Write> {
    if queues.is_empty() {
        return Vec::new();
    }
    let members = group.roster().members().map(|(_, member)| member);
    let gone = members.filter(|member| {
        let queue = &member.queue_config;
        queue.provider == *provider && queues.contains(&queue.client_queue_information)
    });
    let want = gone.map(|member| Write::WantRemoval {
        client_id: member.client_id.clone(),
        group_id: Some(group.group_id()),
        at: now,
    });
    want.collect()
}

/// Clients of whom nothing more is wanted.
fn done(group: &Group, wanted: &[ClientId]) -> Vec<ClientId> {
    let done = wanted.iter().filter(|client| group.is_leaving(client));
    done.cloned().collect()
}

/// Nothing more is wanted of these; the others, and the group, have to wait.
fn postponed(
    group_id: &GroupId,
    wanted: &[ClientId],
    done: Vec<ClientId>,
    until: u64,
) -> Vec<Write> {
    let waiting = wanted.iter().filter(|client| !done.contains(client));
    let waiting = waiting.cloned().collect();
    vec![
        Write::RemovalsDone {
            group_id: group_id.clone(),
            clients: done,
        },
        Write::PostponeRemovals {
            group_id: group_id.clone(),
            clients: waiting,
            until,
        },
    ]
}

fn removals_done(group: &Group, clients: Vec<ClientId>) -> Write {
    Write::RemovalsDone {
        group_id: group.group_id(),
        clients,
    }
}
