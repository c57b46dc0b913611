//! The provider as the owner of groups: what a group's decisions need of it, and how a decision
//! becomes durable.
//!
//! A group is taken out of the cache, decided on, everything that follows made durable in one
//! change, and the group put back. Whatever goes wrong in between, it is read from the store again.

use moh_messages::{CipherSuite, ExternalSender, GroupId, KeyId, ProviderName, Signature};

use crate::change::{Change, Expect, Version, Write};
use crate::error::Refusal;
use crate::group::{
    Applied, Checks, Decision, Group, KEPT_EPOCHS, KeyLookup, Owner, Undecided, Unreadable,
};
use crate::node::Node;
use crate::store::{CommitError, StoreError};

/// A change that others race with is tried this often.
pub(crate) const TRIES: usize = 16;

/// The provider, as it is at one moment.
pub(crate) struct AsOwner<'a> {
    pub(crate) node: &'a Node,
    /// Providers that have just been asked for their keys.
    pub(crate) fetched: &'a [ProviderName],
    pub(crate) now: u64,
}

impl Owner for AsOwner<'_> {
    fn is(&self, name: &ProviderName) -> bool {
        self.node.name() == name
    }

    fn key(&self, provider: &ProviderName, key_id: &KeyId) -> KeyLookup {
        let node = self.node;
        let is_own = provider == node.name();
        let found = if is_own {
            let ours = node.keys().verification_keys(self.now);
            ours.iter().find(|key| key.key_id == *key_id).cloned()
        } else {
            node.federation().key(provider, key_id)
        };
        match found {
            Some(key) => KeyLookup::Found(key),
            None if is_own || self.fetched.contains(provider) => KeyLookup::NoSuchKey,
            None => KeyLookup::NotFetched,
        }
    }

    fn ds_sender(&self, suite: CipherSuite) -> Option<ExternalSender> {
        self.node.keys().ds_sender(suite)
    }

    fn issued(&self, group_id: &GroupId) -> bool {
        self.node.keys().issued(group_id)
    }

    fn sign(&self, sender: &ExternalSender, content: &[u8]) -> Option<Signature> {
        self.node.keys().sign_as(sender, content)
    }
}

/// What became of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    /// The epoch that whoever asked for it is told.
    pub(crate) epoch: u64,
    /// In milliseconds since the Unix epoch.
    pub(crate) accepted_at: u64,
}

impl Node {
    /// Decides on a group, and makes durable what follows, with what `also` says. The decision
    /// is made again when the group has changed meanwhile, or keys had to be fetched.
    ///
    /// # Errors
    /// The refusal that was decided on; `unknown_group`; `unavailable` when the store or another
    /// provider fails, or others are faster every time.
    pub(crate) async fn change_group<T>(
        &self,
        group_id: &GroupId,
        decide: impl Fn(&Group, &Checks<'_>) -> Result<(Decision, T), Undecided>,
        also: impl Fn(&Group, Changed, T) -> Vec<Write>,
    ) -> Result<Changed, Refusal> {
        let mut fetched = Vec::new();
        for _ in 0..TRIES {
            let now = self.now_ms();
            let mut slot = self.groups().write(self.store(), group_id).await?;
            let mut group = slot.take().ok_or(Refusal::UnknownGroup)?;
            let before = group.version();
            let decided = self.decide(&group, now, &fetched, &decide);
            let (decision, rest) = match decided {
                Ok(decided) => decided,
                Err(undecided) => {
                    *slot = Some(group);
                    drop(slot);
                    self.overcome(undecided, group_id, before, &mut fetched)
                        .await?;
                    continue;
                }
            };
            let applied = group.apply(decision, now).map_err(|Unreadable| {
                StoreError("a change that was decided on cannot be applied".to_owned())
            })?;
            let changed = Changed {
                epoch: applied.answered_epoch,
                accepted_at: now,
            };
            let also = also(&group, changed, rest);
            let change = self.change(&group, before, applied, also, now).await?;
            match self.commit(change).await {
                Ok(()) => {
                    let bytes = group.weight_bytes();
                    *slot = Some(group);
                    drop(slot);
                    self.groups().weigh(group_id, bytes);
                    return Ok(changed);
                }
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict.into())
    }

    fn decide<T>(
        &self,
        group: &Group,
        now: u64,
        fetched: &[ProviderName],
        decide: impl Fn(&Group, &Checks<'_>) -> Result<T, Undecided>,
    ) -> Result<T, Undecided> {
        let owner = AsOwner {
            node: self,
            fetched,
            now,
        };
        let checks = Checks {
            now,
            limits: self.limits(),
            owner: &owner,
        };
        decide(group, &checks)
    }

    /// Does what has to be done before there can be a decision; a refusal stands when it was
    /// decided on the newest version.
    async fn overcome(
        &self,
        undecided: Undecided,
        group_id: &GroupId,
        version: Version,
        fetched: &mut Vec<ProviderName>,
    ) -> Result<(), Refusal> {
        match undecided {
            Undecided::NeedsKeys(provider) => self.fetch_more_keys(provider, fetched).await,
            Undecided::Refused(refusal) => {
                let groups = self.groups();
                if groups.is_newest(self.store(), group_id, version).await? {
                    Err(refusal)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Everything that follows from a change of a group.
    async fn change(
        &self,
        group: &Group,
        before: Version,
        applied: Applied,
        also: Vec<Write>,
        now: u64,
    ) -> Result<Change, Refusal> {
        let (group_id, epoch) = (group.group_id(), applied.epoch);
        let mut writes = vec![Write::AppendGroup {
            group_id: group_id.clone(),
            version: applied.version,
            epoch,
            entry: applied.entry,
            snapshot: applied.snapshot,
            keep_from_epoch: applied.keep_from_epoch,
            due_at: applied.due_at,
            entered: applied.entered,
            left: applied.left,
        }];
        let wanted = applied.lapsed.into_iter().map(|client_id| {
            tracing::warn!(%client_id, "we cannot sign for the owner's key that a group knows");
            Write::WantRemoval {
                client_id,
                group_id: Some(group_id.clone()),
                at: now,
            }
        });
        writes.extend(wanted);
        writes.extend(also);
        if let Some(before_epoch) = epoch.checked_sub(KEPT_EPOCHS).filter(|epoch| *epoch > 0) {
            writes.push(Write::ForgetAnswers {
                group_id: group_id.clone(),
                before_epoch,
            });
        }
        let mut change = Change {
            expect: vec![Expect::Group(group_id, Some(before))],
            writes,
        };
        if let Some(asks) = &applied.asks {
            self.consent_of_requester(asks, &mut change).await?;
        }
        self.send(group, applied.outgoing, now, &mut change).await?;
        self.bind_members(group, now, &mut change).await?;
        Ok(change)
    }
}
