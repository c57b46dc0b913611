//! What all operations that are a member's commit have in common: the group is taken out, the
//! decision made, everything that follows made durable in one change, and the group put back.

use moh_messages::{DsRequest, DsResponseBody, MlsBytes, MlsGroupUpdate, ProviderName, PublicKey};

use super::TRIES;
use super::submission::Submission;
use crate::authenticate::Claimed;
use crate::change::{Change, Expect, Version, Write};
use crate::error::Refusal;
use crate::group::{
    Applied, Checks, CommitDecision, CommitInput, CommitKind, Group, KEPT_EPOCHS, Sender,
    Undecided, Unreadable, read_handshake,
};
use crate::node::Node;
use crate::store::{CommitError, StoreError};

/// A commit, and what it is sent as.
pub(super) struct Commit<'a> {
    pub(super) kind: CommitKind,
    pub(super) update: &'a MlsGroupUpdate,
    pub(super) welcomes: &'a [MlsBytes],
}

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    commit: Commit<'_>,
) -> Result<DsResponseBody, Refusal> {
    let bytes = commit.update.commit.as_slice();
    let read = || Ok((read_handshake(bytes)?.group_id, ()));
    let (submission, ()) = Submission::new(node, claimed, bytes, read)?;
    let group_id = &submission.group_id;
    let mut fetched = Vec::new();
    for _ in 0..TRIES {
        let now = node.now_ms();
        let mut slot = match node.groups().write(node.store(), group_id).await {
            Ok(slot) => slot,
            Err(refusal) => return submission.first_answer_or(refusal).await,
        };
        // From here on the group is in nobody's hands but ours: if this is cut off anywhere
        // before it is put back, it is read from the store again.
        let mut group = slot.take().ok_or(Refusal::UnknownGroup)?;
        let (sender, decision) = match decide(&group, &submission, &commit, now, &fetched) {
            Ok(decided) => decided,
            Err(undecided) => {
                let version = group.version();
                *slot = Some(group);
                drop(slot);
                match undecided {
                    Undecided::Refused(refusal) => {
                        if node
                            .groups()
                            .is_newest(node.store(), group_id, version)
                            .await?
                        {
                            return submission.first_answer_or(refusal).await;
                        }
                        continue;
                    }
                    Undecided::NeedsKeys(provider) => {
                        node.fetch_more_keys(provider, &mut fetched).await?;
                        continue;
                    }
                }
            }
        };
        let before = group.version();
        let applied = group.apply(decision).map_err(|Unreadable| {
            StoreError("a commit that was decided on cannot be applied".to_owned())
        })?;
        let epoch = applied.epoch;
        let change = change(&submission, before, applied, now, sender.signature_key);
        match node.commit(change).await {
            Ok(()) => {
                let bytes = group.weight_bytes();
                *slot = Some(group);
                drop(slot);
                node.groups().weigh(group_id, bytes);
                return Ok(DsResponseBody::Ok {
                    epoch,
                    accepted_at: now,
                });
            }
            Err(CommitError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommitError::Conflict.into())
}

fn decide(
    group: &Group,
    submission: &Submission<'_>,
    commit: &Commit<'_>,
    now: u64,
    fetched: &[ProviderName],
) -> Result<(Sender, CommitDecision), Undecided> {
    let Submission {
        node,
        claimed,
        leaf_index,
        signature,
        ..
    } = submission;
    let sender =
        group.authenticate_leaf(&claimed.request, &claimed.signed, *leaf_index, signature)?;
    let keys = node.key_lookup(fetched);
    let checks = Checks {
        now,
        keys: &keys,
        max_members: node.limits().max_members,
    };
    let input = CommitInput {
        kind: commit.kind,
        sender: &sender,
        partial_group_info: &commit.update.partial_group_info,
        welcomes: commit.welcomes,
    };
    let handshake = read_handshake(commit.update.commit.as_slice())?;
    let decision = group.commit(handshake, &input, &checks)?;
    Ok((sender, decision))
}

/// Everything that follows from a commit.
fn change(
    submission: &Submission<'_>,
    before: Version,
    applied: Applied,
    now: u64,
    signature_key: PublicKey,
) -> Change {
    let group_id = &submission.group_id;
    let epoch = applied.epoch;
    let mut writes = vec![
        Write::AppendGroup {
            group_id: group_id.clone(),
            version: applied.version,
            epoch,
            entry: applied.entry,
            snapshot: applied.snapshot,
            keep_from_epoch: applied.keep_from_epoch,
            due_at: u64::MAX,
            entered: Vec::new(),
            left: Vec::new(),
        },
        submission.answered(epoch, now, signature_key),
    ];
    if let Some(before_epoch) = epoch.checked_sub(KEPT_EPOCHS).filter(|epoch| *epoch > 0) {
        writes.push(Write::ForgetAnswers {
            group_id: group_id.clone(),
            before_epoch,
        });
    }
    writes.extend(submission.node.deliver(group_id, applied.outgoing, now));
    Change {
        expect: vec![Expect::Group(group_id.clone(), Some(before))],
        writes,
    }
}
