//! `create_group`: a new group with one member.

use moh_messages::{DsAuth, DsRequest, DsRequestBody, DsResponseBody};

use super::{TRIES, first_answer};
use crate::authenticate::Claimed;
use crate::change::{Answer, Change, Expect, Write};
use crate::crypto::sha256;
use crate::error::Refusal;
use crate::group::{Checks, Creation, Undecided, create};
use crate::node::Node;
use crate::store::CommitError;

pub(super) async fn run(
    node: &Node,
    claimed: Claimed<DsRequest>,
) -> Result<DsResponseBody, Refusal> {
    let request = &claimed.request;
    let (
        DsRequestBody::CreateGroup(body),
        DsAuth::Leaf {
            leaf_index,
            signature,
        },
    ) = (&request.body, &request.auth)
    else {
        return Err(Refusal::Unauthenticated(
            "the creator, leaf 0, signs this request",
        ));
    };
    let hash = sha256(body.group_info.as_slice());
    let group_id = &body.group_id;
    if let Some(answer) = first_answer(node, &claimed, group_id, &hash, signature).await? {
        return Ok(answer);
    }
    let creation = Creation {
        request,
        signed: &claimed.signed,
        leaf_index: *leaf_index,
        signature,
        body,
        ds_sender: &|suite| node.keys().ds_sender(suite),
    };
    let mut fetched = Vec::new();
    for _ in 0..TRIES {
        let now = node.now_ms();
        let keys = node.key_lookup(&fetched);
        let checks = Checks {
            now,
            keys: &keys,
            max_members: node.limits().max_members,
        };
        let created = create(&creation, &checks);
        drop(keys);
        let (group, snapshot) = match created {
            Ok(created) => created,
            Err(Undecided::Refused(refusal)) => return Err(refusal),
            Err(Undecided::NeedsKeys(provider)) => {
                node.fetch_keys(&provider).await?;
                fetched.push(provider);
                continue;
            }
        };
        if !node.keys().issued(group_id) {
            let what = "the group's name was not issued here";
            return Err(Refusal::PolicyViolation(what.to_owned()));
        }
        let creator = group.roster().member(0).ok_or(Refusal::UnknownGroup)?;
        let answer = Answer {
            epoch: 0,
            accepted_at: now,
            signature_key: creator.signature_key.clone(),
        };
        let change = Change {
            expect: vec![Expect::Group(group_id.clone(), None)],
            writes: vec![
                Write::CreateGroup {
                    group_id: group_id.clone(),
                    snapshot,
                },
                Write::Answer {
                    group_id: group_id.clone(),
                    message_hash: hash,
                    answer,
                },
            ],
        };
        match node.commit(change).await {
            Ok(()) => {
                node.groups().insert(group).await;
                return Ok(DsResponseBody::Ok {
                    epoch: 0,
                    accepted_at: now,
                });
            }
            Err(CommitError::Conflict) => {
                let answer = first_answer(node, &claimed, group_id, &hash, signature).await?;
                return answer.ok_or(Refusal::GroupIdInUse);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::Unauthenticated(
        "the attestations are by too many unknown keys",
    ))
}
