//! The next version of a group, and everything that follows from it.

use std::collections::BTreeSet;

use moh_messages::{ClientId, ConnectionRequest, KeyPackageRef, QueuePayload, UserId};

use super::commit::CommitDecision;
use super::roster::{self, Member, Roster};
use super::storage::Storage;
use super::stored::{CommitStep, Entry, FORMAT, Pending, Step};
use super::welcome::Welcomes;
use super::{Fetching, Group, Outgoing, Unreadable};
use crate::change::Version;

/// A log smaller than this is not worth a snapshot.
const MIN_LOG_BYTES: usize = 16 << 10;

/// What is to become of a group; good for the version that it was made on.
pub struct Decision(pub(super) Change);

/// The ways in which a group changes.
pub(super) enum Change {
    /// A commit.
    Commit(Box<CommitDecision>),
    /// Proposals, which all hear of but this leaf.
    Propose {
        pending: Vec<Pending>,
        except: Option<u32>,
    },
    /// The client that was added with this KeyPackage fetches the tree.
    Fetch { reference: Vec<u8>, epoch: u64 },
    /// Nobody is left.
    End,
}

/// A client that a commit adds.
pub(super) struct Added {
    pub(super) reference: KeyPackageRef,
    pub(super) client: ClientId,
    pub(super) member: Member,
}

/// What a change of a group has to leave behind.
pub struct Applied {
    /// The group's new version.
    pub version: Version,
    /// The group's epoch now.
    pub epoch: u64,
    /// The epoch that whoever changed it is told.
    pub answered_epoch: u64,
    /// For the log.
    pub entry: Vec<u8>,
    /// The whole state, when the log has grown past it.
    pub snapshot: Option<Vec<u8>>,
    /// The first epoch whose tree somebody may still ask for.
    pub keep_from_epoch: u64,
    /// When the owner has to look after the group, in milliseconds since the Unix epoch.
    pub due_at: u64,
    /// Clients that have a leaf now and had none.
    pub entered: Vec<ClientId>,
    /// Clients that had a leaf and have none now.
    pub left: Vec<ClientId>,
    /// Clients that were about to be removed, which has lapsed and could not be proposed anew.
    pub lapsed: Vec<ClientId>,
    /// Who asks whom to be connected.
    pub asks: Option<Asks>,
    /// What goes out.
    pub outgoing: Vec<Outgoing>,
}

/// A user invites another one into a connection group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asks {
    /// The client that invites.
    pub requester: ClientId,
    /// Who is invited.
    pub responder: UserId,
}

/// What a step leads to, besides the group's own state.
#[derive(Default)]
struct Outcome {
    answered_epoch: u64,
    snapshot: Option<Vec<u8>>,
    entered: Vec<ClientId>,
    left: Vec<ClientId>,
    lapsed: Vec<ClientId>,
    asks: Option<Asks>,
    outgoing: Vec<Outgoing>,
}

impl Group {
    /// That a client fetches the tree of its Welcome for the first time.
    #[must_use]
    pub fn fetched(fetching: &Fetching<'_>) -> Decision {
        Decision(Change::Fetch {
            reference: fetching.reference.as_slice().to_vec(),
            epoch: fetching.epoch,
        })
    }

    /// The group after a decision that was made at `now`.
    ///
    /// # Errors
    /// When the decision is not of this group; the group is of no use then.
    pub fn apply(&mut self, decision: Decision, now: u64) -> Result<Applied, Unreadable> {
        let mut outcome = Outcome {
            answered_epoch: self.epoch(),
            ..Outcome::default()
        };
        let entry = |step| Entry {
            format: FORMAT,
            accepted_at: now,
            step,
        };
        let entry = match decision.0 {
            Change::Commit(decision) if decision.ends_group => {
                outcome.answered_epoch += 1;
                outcome.outgoing = self.to_all(decision.leaf_before, &decision.commit);
                entry(Step::End(decision.message))
            }
            Change::Commit(decision) => {
                return self.apply_commit(*decision, now);
            }
            Change::Propose { pending, except } => {
                outcome.outgoing = self.tell(&pending, except).ok_or(Unreadable)?;
                entry(Step::Propose(pending))
            }
            Change::Fetch { reference, epoch } => entry(Step::Fetch { reference, epoch }),
            Change::End => entry(Step::End(Vec::new())),
        };
        self.facts.follow(&entry);
        self.renew_references()?;
        self.applied(&entry, outcome, now)
    }

    fn apply_commit(&mut self, decision: CommitDecision, now: u64) -> Result<Applied, Unreadable> {
        let outgoing = self.to_all(decision.leaf_before, &decision.commit);
        let asks = decision.asks();
        let due = self.log_bytes + decision.size() > self.snapshot_bytes.max(MIN_LOG_BYTES);
        let storage = if due {
            Storage::catching()
        } else {
            Storage::discarding()
        };
        let merged = self.mls.merge_commit(&storage, decision.staged);
        merged.map_err(|_| Unreadable)?;
        let before = std::mem::take(&mut self.roster);
        self.renew_roster(&before)?;
        let (mut filled, blanked) = moved(&before, &self.roster);
        // Also where a client is added that was removed by the same commit.
        let added = decision.added.iter().map(|added| &added.client);
        filled.extend(added.filter_map(|client| self.roster.leaf_of(client)));
        filled.sort_unstable();
        filled.dedup();
        let clients = |of: &Roster, leaves: &[u32], gone_from: &Roster| -> Vec<ClientId> {
            let members = leaves.iter().filter_map(|leaf| of.member(*leaf));
            let clients = members.map(|member| member.client_id.clone());
            clients.filter(|c| gone_from.leaf_of(c).is_none()).collect()
        };
        let all_left: Vec<u32> = filled.iter().chain(&blanked).copied().collect();
        let left = clients(&before, &all_left, &self.roster);
        let is_lapsed =
            |leaf: &u32| decision.joins && !decision.proposed.iter().any(|p| p.target == *leaf);
        let lapsed = self.targets().into_iter().filter(is_lapsed);
        let lapsed = lapsed.filter_map(|leaf| self.roster.member(leaf));
        let lapsed = lapsed.map(|member| member.client_id.clone()).collect();
        let entry = Entry {
            format: FORMAT,
            accepted_at: now,
            step: Step::Commit(Box::new(CommitStep {
                message: decision.message,
                staged: decision.staged_bytes,
                partial_group_info: decision.partial_group_info,
                signer: decision.signer,
                committer: decision.committer.to_string(),
                rejoins: decision.leaf_before.is_some() && decision.joins,
                joiners: decision.joiners,
                invited: decision.invited.map(|user| user.to_string()),
                filled: filled.clone(),
                blanked,
                left: left.iter().map(ToString::to_string).collect(),
                proposed: decision.proposed,
            })),
        };
        let mut outcome = Outcome {
            answered_epoch: self.epoch(),
            snapshot: None,
            entered: clients(&self.roster, &filled, &before),
            left,
            lapsed,
            asks,
            outgoing,
        };
        self.facts.follow(&entry);
        self.references.clear();
        self.renew_references()?;
        let asks = outcome.asks.as_ref();
        let welcomes = self.welcome_all(&decision.added, &decision.welcomes, asks)?;
        outcome.outgoing.extend(welcomes);
        let proposed = self.tell(&self.facts.pending, None).ok_or(Unreadable)?;
        outcome.outgoing.extend(proposed);
        if due {
            outcome.snapshot = Some(self.encode_snapshot(storage.into_values()));
        }
        self.applied(&entry, outcome, now)
    }

    fn applied(
        &mut self,
        entry: &Entry,
        outcome: Outcome,
        now: u64,
    ) -> Result<Applied, Unreadable> {
        let bytes = postcard::to_stdvec(entry).map_err(|_| Unreadable)?;
        self.version += 1;
        match &outcome.snapshot {
            Some(snapshot) => {
                self.snapshot_bytes = snapshot.len();
                self.log_bytes = 0;
            }
            None => self.log_bytes += bytes.len(),
        }
        let keep = self.facts.keep_from_epoch(now).unwrap_or(u64::MAX);
        Ok(Applied {
            version: self.version,
            epoch: self.epoch(),
            answered_epoch: outcome.answered_epoch,
            entry: bytes,
            snapshot: outcome.snapshot,
            keep_from_epoch: keep.min(self.epoch()),
            due_at: self.due_at(),
            entered: outcome.entered,
            left: outcome.left,
            lapsed: outcome.lapsed,
            asks: outcome.asks,
            outgoing: outcome.outgoing,
        })
    }

    /// Each destination's part of the Welcomes, for the leaves there; a connection request where
    /// one user asks another.
    fn welcome_all(
        &self,
        added: &[Added],
        welcomes: &Welcomes,
        asks: Option<&Asks>,
    ) -> Result<Vec<Outgoing>, Unreadable> {
        let providers: BTreeSet<_> = added.iter().map(|a| a.client.provider()).collect();
        let mut outgoing = Vec::new();
        for provider in providers {
            let here: Vec<_> = added
                .iter()
                .filter(|a| a.client.provider() == provider)
                .collect();
            let references: Vec<_> = here.iter().map(|a| a.reference.clone()).collect();
            for (welcome, whom) in welcomes.split(&references) {
                let mut members = here
                    .iter()
                    .filter(|a| whom.contains(&a.reference))
                    .map(|a| self.roster.leaf_of(&a.client).map(|leaf| (leaf, &a.member)))
                    .collect::<Option<Vec<_>>>()
                    .ok_or(Unreadable)?;
                members.sort_by_key(|(leaf, _)| *leaf);
                let payload = match asks {
                    None => QueuePayload::MlsMessage(welcome),
                    Some(asks) => QueuePayload::ConnectionRequest(ConnectionRequest {
                        requester: asks.requester.user_id(),
                        responder: asks.responder.clone(),
                        welcome,
                    }),
                };
                outgoing.extend(roster::audiences(members.into_iter()).into_iter().map(|a| {
                    Outgoing {
                        audience: a.into(),
                        except: None,
                        payload: payload.clone(),
                    }
                }));
            }
        }
        Ok(outgoing)
    }
}

/// Leaves that another client has than before, and leaves that nobody has any more.
fn moved(before: &Roster, after: &Roster) -> (Vec<u32>, Vec<u32>) {
    let is_same = |leaf, member: &Member| {
        let had = before.member(leaf);
        had.is_some_and(|had| had.client_id == member.client_id)
    };
    let filled = after.members().filter(|(leaf, m)| !is_same(*leaf, m));
    let blanked = before.members().map(|(leaf, _)| leaf);
    let blanked = blanked.filter(|&leaf| after.member(leaf).is_none());
    (filled.map(|(leaf, _)| leaf).collect(), blanked.collect())
}
