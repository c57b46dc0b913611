//! Whoever came too late learns first what the others did.

use std::time::Duration;

use moh_messages::{DsErrorCode, GroupId, HandshakeBytes, List, Message};
use tokio::time::Instant;

use crate::client::Client;
use crate::clock::below;
use crate::error::Error;
use crate::queue::{epoch_of, store_proposal};

/// How long somebody who was outrun for the first time waits, at most, in milliseconds.
const FIRST_PAUSE_MS: u64 = 100;
/// How long anybody who was outrun waits, at most, in milliseconds.
const MAX_PAUSE_MS: u64 = 1600;
/// Who was outrun as often as this has waited for long, and hurries from then on.
const PATIENCE: u32 = 8;
/// The longest wait of those who hurry, in milliseconds.
const HURRY_MS: u64 = 50;

/// How long the queue is read in the hope that it brings what the owner knows already.
const CATCH_UP_TIME: Duration = Duration::from_secs(10);
/// How long one read of it waits, in milliseconds.
const READ_MS: u64 = 500;
/// How long what is missing may be on its way, before the group is joined again, in milliseconds.
const PATIENCE_MS: u64 = 60_000;
/// How often the queue is read, at most: a provider may answer at once.
const MAX_READS: u32 = 100;

/// What somebody whose request came too late has to learn first.
pub(super) enum Behind {
    /// The group is in this epoch.
    Epoch(u64),
    /// These proposals, as MLSMessages, have to be committed.
    Proposals(Vec<HandshakeBytes>),
}

impl Behind {
    pub(super) fn of(error: &Error) -> Option<Self> {
        let Error::Refused { error, .. } = error else {
            return None;
        };
        let data = error.data.as_slice();
        match error.code {
            DsErrorCode::WRONG_EPOCH => Some(Self::Epoch(u64::decode(data).unwrap_or(0))),
            DsErrorCode::PENDING_PROPOSALS => {
                let proposals = List::<HandshakeBytes, 256>::decode(data).unwrap_or_default();
                Some(Self::Proposals(proposals.into_vec()))
            }
            _ => None,
        }
    }
}

/// How long to wait before trying again, at most, in milliseconds. Those who were outrun spread
/// out, the more the more there are of them; but who was outrun often waits for less than others,
/// so that nobody is left to the end for ever.
fn max_pause_ms(losses: u32) -> u64 {
    if losses < PATIENCE {
        (FIRST_PAUSE_MS << losses.min(10)).min(MAX_PAUSE_MS)
    } else {
        (MAX_PAUSE_MS >> (losses - PATIENCE).min(10)).max(HURRY_MS)
    }
}

impl Client {
    /// Learns what was missing, and waits for a little: whoever else was outrun is about to try
    /// again too. `losses` is how often that was so before.
    pub(super) async fn catch_up(
        &self,
        group: &GroupId,
        behind: Behind,
        losses: u32,
    ) -> Result<(), Error> {
        match behind {
            Behind::Epoch(epoch) => {
                self.pause(losses).await;
                self.reach(group, epoch).await
            }
            Behind::Proposals(proposals) => {
                // They may be of an epoch that this client has not heard of.
                let epoch = proposals
                    .iter()
                    .filter_map(|p| epoch_of(p.as_slice()))
                    .max();
                self.reach(group, epoch.unwrap_or(0)).await?;
                let id = group.clone();
                self.store()
                    .run(move |tx| {
                        proposals
                            .iter()
                            .try_for_each(|proposal| store_proposal(tx, &id, proposal.as_slice()))
                    })
                    .await
            }
        }
    }

    /// Waits for a little, as somebody who was outrun as often as this before.
    pub(crate) async fn pause(&self, losses: u32) {
        let pause_ms = below(&*self.api().random, max_pause_ms(losses));
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }

    /// Reads the queue until it has led to this epoch.
    async fn reach(&self, group: &GroupId, epoch: u64) -> Result<(), Error> {
        let end = Instant::now() + CATCH_UP_TIME;
        let mut known = self.epoch(group).await?;
        for _ in 0..MAX_READS {
            if known >= epoch || Instant::now() >= end {
                break;
            }
            self.pull(Duration::from_millis(READ_MS)).await?;
            known = self.epoch(group).await?;
        }
        if known >= epoch {
            return Ok(());
        }
        let (id, now_ms) = (group.clone(), self.api().now_ms());
        self.store()
            .run(move |tx| match tx.owner(&id)? {
                Some(owner) => {
                    tx.want_rejoin(&id, &owner, known, now_ms, PATIENCE_MS)?;
                    Ok(())
                }
                None => Ok::<_, Error>(()),
            })
            .await?;
        Err(Error::LeftBehind {
            group: group.clone(),
            known,
            current: epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_outrun_spreads_out_at_first_and_hurries_in_the_end() {
        let pauses: Vec<_> = [0, 1, 4, 7, 8, 9, 12, 40, u32::MAX]
            .map(max_pause_ms)
            .to_vec();
        assert_eq!(pauses, [100, 200, 1600, 1600, 1600, 800, 100, 50, 50]);
    }
}
