//! What is stored of a group: a snapshot, and the entries of the log after it.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::storage::Values;

/// The tag of what is stored. Another format gets another tag.
pub(super) const FORMAT: u16 = 2;

/// For so long after it was fetched is the tree of a Welcome kept, in milliseconds.
const KEEP_FETCHED_MS: u64 = 24 * 60 * 60 * 1000;
/// The time over which re-joins are counted, in milliseconds.
pub(super) const REJOIN_WINDOW_MS: u64 = 60 * 60 * 1000;

/// A client that was added and may ask for the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Joiner {
    pub(super) reference: Vec<u8>,
    /// The epoch that its Welcome leads to.
    pub(super) epoch: u64,
    pub(super) client: String,
    pub(super) signature_key: Vec<u8>,
    /// When its KeyPackage does, in milliseconds since the Unix epoch; or when no KeyPackage
    /// should live any longer.
    pub(super) expires_at: u64,
    /// When it first fetched the tree.
    pub(super) fetched_at: Option<u64>,
    /// Whether it has no leaf any more.
    pub(super) left: bool,
}

impl Joiner {
    /// Whether the tree is still there for it.
    pub(super) fn may_fetch(&self, now: u64) -> bool {
        let over = |at: u64| now >= at.saturating_add(KEEP_FETCHED_MS);
        now < self.expires_at && !self.fetched_at.is_some_and(over)
    }
}

/// A proposal that waits to be committed: a Remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// The MLSMessage.
    pub(super) message: Vec<u8>,
    /// The leaf that it removes.
    pub(super) target: u32,
    /// Whether it is the owner's own, and not the leaf's.
    pub(super) by_owner: bool,
}

/// What we know of a group that its tree does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) joiners: Vec<Joiner>,
    /// The GroupInfo's part that came with the last commit, and which leaf signed it.
    pub(super) partial_group_info: Vec<u8>,
    pub(super) signer: u32,
    /// When each leaf entered the tree or committed last.
    pub(super) active: BTreeMap<u32, u64>,
    /// In the order in which they came.
    pub(super) pending: Vec<Pending>,
    /// When the owner last proposed Removes.
    pub(super) last_batch_at: u64,
    /// Who joined again lately, and when.
    pub(super) rejoins: Vec<(String, u64)>,
    /// Who was invited into a connection group.
    pub(super) invited: Option<String>,
    /// When the group ended.
    pub(super) ended_at: Option<u64>,
}

impl Facts {
    /// Of a new group.
    pub(super) fn new(partial_group_info: Vec<u8>, now: u64) -> Self {
        Self {
            joiners: Vec::new(),
            partial_group_info,
            signer: 0,
            active: BTreeMap::from([(0, now)]),
            pending: Vec::new(),
            last_batch_at: 0,
            rejoins: Vec::new(),
            invited: None,
            ended_at: None,
        }
    }

    /// After an entry of the log.
    pub(super) fn follow(&mut self, entry: &Entry) {
        let at = entry.accepted_at;
        match &entry.step {
            Step::Commit(commit) => self.follow_commit(commit, at),
            Step::Propose(proposed) => {
                if proposed.iter().any(|pending| pending.by_owner) {
                    self.last_batch_at = at;
                }
                self.pending.extend(proposed.iter().cloned());
            }
            Step::Fetch { reference, epoch } => {
                for joiner in &mut self.joiners {
                    if joiner.reference == *reference && joiner.epoch == *epoch {
                        joiner.fetched_at.get_or_insert(at);
                    }
                }
            }
            Step::End(_) => self.ended_at = Some(at),
        }
    }

    fn follow_commit(&mut self, commit: &CommitStep, at: u64) {
        let left: HashSet<&String> = commit.left.iter().collect();
        for joiner in &mut self.joiners {
            joiner.left |= left.contains(&joiner.client);
        }
        // Who has committed has the tree; a member who comes too late is told so.
        self.joiners.retain(|joiner| {
            joiner.client != commit.committer && (joiner.may_fetch(at) || !joiner.left)
        });
        self.joiners.extend(commit.joiners.iter().cloned());
        self.partial_group_info
            .clone_from(&commit.partial_group_info);
        self.signer = commit.signer;
        for leaf in &commit.blanked {
            self.active.remove(leaf);
        }
        for leaf in commit.filled.iter().chain([&commit.signer]) {
            self.active.insert(*leaf, at);
        }
        self.rejoins
            .retain(|(_, before)| before.saturating_add(REJOIN_WINDOW_MS) > at);
        if commit.rejoins {
            self.rejoins.push((commit.committer.clone(), at));
        }
        if commit.invited.is_some() {
            self.invited.clone_from(&commit.invited);
        }
        self.pending.clone_from(&commit.proposed);
    }

    /// The first epoch whose tree somebody may still fetch.
    pub(super) fn keep_from_epoch(&self, now: u64) -> Option<u64> {
        let fetching = self.joiners.iter().filter(|joiner| joiner.may_fetch(now));
        fetching.map(|joiner| joiner.epoch).min()
    }
}

/// The whole state.
#[derive(Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) format: u16,
    pub(super) group_id: Vec<u8>,
    pub(super) values: Values,
    pub(super) facts: Facts,
}

/// One step from a version to the next.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) format: u16,
    pub(super) accepted_at: u64,
    pub(super) step: Step,
}

/// What happened.
#[derive(Serialize, Deserialize)]
pub(super) enum Step {
    /// A commit, which made the next epoch.
    Commit(Box<CommitStep>),
    /// Proposals, which are pending.
    Propose(Vec<Pending>),
    /// The tree of a Welcome was fetched for the first time: the KeyPackageRef, and the epoch that
    /// the Welcome leads to.
    Fetch { reference: Vec<u8>, epoch: u64 },
    /// The group ended, by this commit; or, where that is empty, for want of members.
    End(Vec<u8>),
}

/// A commit, and what follows from it.
#[derive(Serialize, Deserialize)]
pub(super) struct CommitStep {
    /// As it came, should the format of the rest ever have to change.
    pub(super) message: Vec<u8>,
    /// openmls's own idea of it: the nodes that change.
    pub(super) staged: Vec<u8>,
    pub(super) partial_group_info: Vec<u8>,
    /// The committer's leaf after it.
    pub(super) signer: u32,
    pub(super) committer: String,
    /// Whether the committer had a leaf, and joins again.
    pub(super) rejoins: bool,
    pub(super) joiners: Vec<Joiner>,
    pub(super) invited: Option<String>,
    /// Leaves that another client has now, and those that nobody has any more.
    pub(super) filled: Vec<u32>,
    pub(super) blanked: Vec<u32>,
    /// Clients that have no leaf any more.
    pub(super) left: Vec<String>,
    /// What the owner proposes anew.
    pub(super) proposed: Vec<Pending>,
}
