//! What all operations that are a commit have in common.

use moh_messages::{AddMembers, DsRequest, DsResponseBody, GroupUpdate, MlsBytes, MlsGroupUpdate};

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
struct Commit<'a> {
    rules: &'a CommitRules,
    update: &'a MlsGroupUpdate,
    welcomes: &'a [MlsBytes],
}

/// A commit that adds nobody.
pub(super) async fn run(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    rules: &CommitRules,
    body: &GroupUpdate,
) -> Result<DsResponseBody, Refusal> {
    let commit = Commit {
        rules,
        update: &body.group_update,
        welcomes: &[],
    };
    commit.run(node, claimed).await
}

/// A commit that adds somebody.
pub(super) async fn run_with_welcomes(
    node: &Node,
    claimed: &Claimed<DsRequest>,
    rules: &CommitRules,
    body: &AddMembers,
) -> Result<DsResponseBody, Refusal> {
    let commit = Commit {
        rules,
        update: &body.group_update,
        welcomes: &body.welcomes,
    };
    commit.run(node, claimed).await
}

impl Commit<'_> {
    async fn run(
        &self,
        node: &Node,
        claimed: &Claimed<DsRequest>,
    ) -> Result<DsResponseBody, Refusal> {
        let bytes = self.update.commit.as_slice();
        let group_id = || Ok(read_handshake(bytes)?.group_id);
        let submission = match self.rules.by {
            Committer::Member => Submission::by_member(node, claimed, bytes, group_id)?,
            Committer::NewMember => Submission::by_anybody(node, claimed, bytes, group_id).await?,
        };
        let changed = node.change_group(
            &submission.group_id,
            |group, checks| self.decide(group, checks, &submission),
            |_, changed, whose| {
                vec![submission.answered(changed.epoch, changed.accepted_at, whose)]
            },
        );
        submission.answer(changed.await).await
    }

    fn decide(
        &self,
        group: &Group,
        checks: &Checks<'_>,
        submission: &Submission<'_>,
    ) -> Result<(Decision, Whose), Undecided> {
        let input = |by| CommitInput {
            rules: self.rules,
            by,
            partial_group_info: &self.update.partial_group_info,
            welcomes: self.welcomes,
        };
        let handshake = || read_handshake(self.update.commit.as_slice());
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
}
