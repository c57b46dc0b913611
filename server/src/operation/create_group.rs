//! `create_group`: a new group with one member.

use moh_messages::{CreateGroup, DsRequest, DsResponseBody};

use super::submission::Submission;
use crate::authenticate::Claimed;
use crate::change::{Change, Expect, Whose, Write};
use crate::error::Refusal;
use crate::group::{Checks, Creation, Group, Undecided, create};
use crate::node::Node;
use crate::owner::{AsOwner, TRIES};
use crate::store::CommitError;

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    body: &CreateGroup,
) -> Result<DsResponseBody, Refusal> {
    let info = body.group_info.as_slice();
    let group_id = || Ok(body.group_id.clone());
    let submission = Submission::by_member(node, claimed, info, group_id)?;
    if let Some(answer) = submission.first_answer().await? {
        return Ok(answer);
    }
    let now = node.now_ms();
    let (group, snapshot) = decide(&submission, body, now).await?;
    let creator = group.roster().member(0).ok_or(Refusal::UnknownGroup)?;
    for _ in 0..TRIES {
        // Its attestation may be good for months.
        if node.store().is_deleted(&creator.client_id).await? {
            return Err(Refusal::Unauthenticated("this client has been deleted"));
        }
        let mut change = Change {
            expect: vec![
                Expect::Group(body.group_id.clone(), None),
                Expect::NotDeleted(creator.client_id.clone()),
            ],
            writes: vec![
                Write::CreateGroup {
                    group_id: body.group_id.clone(),
                    snapshot: snapshot.clone(),
                    due_at: group.due_at(),
                    members: vec![creator.client_id.clone()],
                },
                submission.answered(0, now, Whose::Key(creator.signature_key.clone())),
            ],
        };
        node.bind_members(&group, now, &mut change).await?;
        match node.commit(change).await {
            Ok(()) => {
                node.groups().insert(group).await;
                return Ok(DsResponseBody::Ok {
                    epoch: 0,
                    accepted_at: now,
                });
            }
            Err(CommitError::Conflict) => {
                let there = node.store().group_version(&body.group_id).await?;
                if there.is_some() {
                    return submission.first_answer_or(Refusal::GroupIdInUse).await;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommitError::Conflict.into())
}

async fn decide(
    submission: &Submission<'_>,
    body: &CreateGroup,
    now: u64,
) -> Result<(Group, Vec<u8>), Refusal> {
    let node = submission.node;
    let (leaf_index, signature) = submission.leaf().ok_or(Refusal::UnknownGroup)?;
    let creation = Creation {
        request: &submission.claimed.request,
        signed: &submission.claimed.signed,
        leaf_index,
        signature,
        body,
    };
    let mut fetched = Vec::new();
    for _ in 0..TRIES {
        let created = {
            let owner = AsOwner {
                node,
                fetched: &fetched,
                now,
            };
            let checks = Checks {
                now,
                limits: node.limits(),
                owner: &owner,
            };
            create(&creation, &checks)
        };
        match created {
            Ok(created) => return Ok(created),
            Err(Undecided::Refused(refusal)) => return Err(refusal),
            Err(Undecided::NeedsKeys(provider)) => {
                node.fetch_more_keys(provider, &mut fetched).await?;
            }
        }
    }
    Err(Refusal::Unauthenticated(
        "the attestations are by too many unknown keys",
    ))
}
