//! What all operations that are a member's commit have in common: the group is taken out, the
//! decision made, everything that follows made durable in one change, and the group put back.

use moh_messages::{
    DsAuth, DsRequest, DsResponseBody, GroupId, MlsBytes, MlsGroupUpdate, ProviderName, Signature,
};

use super::{TRIES, first_answer};
use crate::authenticate::Claimed;
use crate::change::{Answer, Change, Expect, Write};
use crate::crypto::sha256;
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
    let DsAuth::Leaf {
        leaf_index,
        signature,
    } = &claimed.request.auth
    else {
        return Err(Refusal::Unauthenticated("a member signs this request"));
    };
    let group_id = read_handshake(commit.update.commit.as_slice())?.group_id;
    let hash = sha256(commit.update.commit.as_slice());
    let mut fetched = Vec::new();
    for _ in 0..TRIES {
        let now = node.now_ms();
        let mut slot = match node.groups().write(node.store(), &group_id).await {
            Ok(slot) => slot,
            Err(refusal) => {
                return repeated_or(refusal, node, claimed, &group_id, &hash, signature).await;
            }
        };
        // From here on the group is in nobody's hands but ours: if this is cut off anywhere
        // before it is put back, it is read from the store again.
        let mut group = slot.take().ok_or(Refusal::UnknownGroup)?;
        let decided = decide(node, &group, claimed, &commit, *leaf_index, now, &fetched);
        let (sender, decision) = match decided {
            Ok(decided) => decided,
            Err(undecided) => {
                *slot = Some(group);
                drop(slot);
                match undecided {
                    Undecided::Refused(refusal) => {
                        return repeated_or(refusal, node, claimed, &group_id, &hash, signature)
                            .await;
                    }
                    Undecided::NeedsKeys(provider) => {
                        node.fetch_keys(&provider).await?;
                        fetched.push(provider);
                        continue;
                    }
                }
            }
        };
        let version = group.version();
        let applied = group.apply(decision).map_err(|Unreadable| {
            StoreError("a commit that was decided on cannot be applied".to_owned())
        })?;
        let epoch = applied.epoch;
        let answer = Answer {
            epoch,
            accepted_at: now,
            signature_key: sender.signature_key,
        };
        let change = change(node, &group_id, version, applied, hash, answer);
        match node.commit(change).await {
            Ok(()) => {
                let bytes = group.weight_bytes();
                *slot = Some(group);
                drop(slot);
                node.groups().weigh(&group_id, bytes);
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
    node: &Node,
    group: &Group,
    claimed: &Claimed<DsRequest>,
    commit: &Commit<'_>,
    leaf_index: u32,
    now: u64,
    fetched: &[ProviderName],
) -> Result<(Sender, CommitDecision), Undecided> {
    let DsAuth::Leaf { signature, .. } = &claimed.request.auth else {
        return Err(Refusal::Unauthenticated("a member signs this request").into());
    };
    let sender =
        group.authenticate_leaf(&claimed.request, &claimed.signed, leaf_index, signature)?;
    let keys = node.key_lookup(fetched);
    let max_members = node.limits().max_members;
    let checks = Checks {
        now,
        keys: &keys,
        max_members,
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

fn change(
    node: &Node,
    group_id: &GroupId,
    version: u64,
    applied: Applied,
    message_hash: [u8; 32],
    answer: Answer,
) -> Change {
    let now = answer.accepted_at;
    let mut writes = vec![
        Write::AppendGroup {
            group_id: group_id.clone(),
            version: applied.version,
            epoch: applied.epoch,
            entry: applied.entry,
            snapshot: applied.snapshot,
            keep_from_epoch: applied.keep_from_epoch,
        },
        Write::Answer {
            group_id: group_id.clone(),
            message_hash,
            answer,
        },
    ];
    if applied.epoch > KEPT_EPOCHS {
        let before_epoch = applied.epoch - KEPT_EPOCHS;
        writes.push(Write::ForgetAnswers {
            group_id: group_id.clone(),
            before_epoch,
        });
    }
    writes.extend(node.deliver(group_id, applied.outgoing, now));
    Change {
        expect: vec![Expect::Group(group_id.clone(), Some(version))],
        writes,
    }
}

/// A refusal, unless the very same message was accepted before: then its first answer.
pub(super) async fn repeated_or(
    refusal: Refusal,
    node: &Node,
    claimed: &Claimed<DsRequest>,
    group_id: &GroupId,
    hash: &[u8; 32],
    signature: &Signature,
) -> Result<DsResponseBody, Refusal> {
    first_answer(node, claimed, group_id, hash, signature)
        .await?
        .ok_or(refusal)
}
