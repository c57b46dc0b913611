//! A device that comes too late, and helps itself.

use anyhow::{Result, ensure};
use moh_client::{DsErrorCode, Event, GroupId, Reason};
use tokio::time::{Duration, Instant};

use super::{Change, Story};
use crate::demo::cast::{Cast, PATIENCE};

/// How long Carol looks at once, while she gets no answer.
const A_LOOK: Duration = Duration::from_millis(200);

impl Story<'_> {
    /// Ends with Alice's, Bob's and Carol's phones in the group.
    pub(super) async fn a_day_is_lost(&mut self, cast: &Cast, group: &GroupId) -> Result<()> {
        let Cast {
            alice, bob, carol, ..
        } = cast;
        self.transcript.chapter("Too late");
        self.step("Alice adds Carol again; no answer with the tree of the group reaches her");
        carol.line.lose(Some("welcome_info"));
        let before = carol.line.lost();
        alice.client.add_user(group, carol.client.user_id()).await?;
        let deadline = Instant::now() + PATIENCE;
        while carol.line.lost() == before {
            ensure!(Instant::now() < deadline, "no Welcome for Carol");
            carol.expect_nothing_within(A_LOOK).await?;
        }
        self.transcript
            .note(carol.id(), "has     a Welcome, and cannot join yet");
        self.see_change(group, &[bob], alice, Change::With(carol))
            .await?;

        let code = DsErrorCode::EPOCH_NOT_KEPT;
        let title = "A day later: a.example does not keep that tree any more";
        self.step_with(title, &[code]);
        self.stage.clock().next_day();
        carol.line.lose(None);
        let refused = carol.expect("that it is too late", |event| match event {
            Event::Undecodable {
                reason: Reason::JoinRefused,
                ..
            } => Some(()),
            _ => None,
        });
        refused.await?;
        let how = "is told that it is too late, and reports it";
        self.overcame(carol, "welcome_info", code, how)?;

        self.step("She joins by herself, in place of the leaf that she was given");
        let owner = alice.client.owner(group).await?;
        carol.client.join_group(group, &owner).await?;
        self.see_update(group, &[alice, bob], carol).await?;
        let text = "Better late than never.";
        self.says(group, carol, &[alice, bob], text).await
    }
}
