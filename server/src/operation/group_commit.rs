//! What all operations that are a commit have in common.

use moh_messages::{DsRequest, DsResponseBody, MlsBytes, MlsGroupUpdate};

use super::submission::Submission;
use crate::authenticate::Claimed;
use crate::change::Whose;
use crate::error::Refusal;
use crate::group::{
    Checks, CommitInput, CommitRules, Committer, Decision, Group, Submitter, Undecided,
    read_handshake,
};
use crate::node::Node;

/// A commit, and the rules of what it is sent as.
pub(super) struct Commit<'a> {
    pub(super) rules: &'a CommitRules,
    pub(super) update: &'a MlsGroupUpdate,
    pub(super) welcomes: &'a [MlsBytes],
}

pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    commit: Commit<'_>,
) -> Result<DsResponseBody, Refusal> {
    let bytes = commit.update.commit.as_slice();
    let group_id = || Ok(read_handshake(bytes)?.group_id);
    let submission = match commit.rules.by {
        Committer::Member => Submission::by_member(node, claimed, bytes, group_id)?,
        Committer::NewMember => Submission::by_anybody(node, claimed, bytes, group_id).await?,
    };
    let changed = node.change_group(
        &submission.group_id,
        |group, checks| decide(group, checks, &submission, &commit),
        |_, changed, whose| vec![submission.answered(changed.epoch, changed.accepted_at, whose)],
    );
    match changed.await {
        Ok(changed) => Ok(DsResponseBody::Ok {
            epoch: changed.epoch,
            accepted_at: changed.accepted_at,
        }),
        Err(refusal) => submission.first_answer_or(refusal).await,
    }
}

fn decide(
    group: &Group,
    checks: &Checks<'_>,
    submission: &Submission<'_>,
    commit: &Commit<'_>,
) -> Result<(Decision, Whose), Undecided> {
    let input = |by| CommitInput {
        rules: commit.rules,
        by,
        partial_group_info: &commit.update.partial_group_info,
        welcomes: commit.welcomes,
    };
    let handshake = || read_handshake(commit.update.commit.as_slice());
    if let Some(client) = submission.client() {
        group.admit(client)?;
        let input = input(Submitter::Client(client));
        let decision = group.commit(handshake()?, &input, checks)?;
        return Ok((decision, Whose::Provider(client.provider())));
    }
    let sender = submission.sender(group)?;
    let input = input(Submitter::Member(&sender));
    let decision = group.commit(handshake()?, &input, checks)?;
    Ok((decision, Whose::Key(sender.signature_key)))
}
