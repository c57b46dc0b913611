//! Results of deliveries: what was answered is removed, in order.

use std::collections::{BTreeMap, HashSet};

use moh_messages::{
    ClientQueueInformation, DeliveryResult, DsError, DsErrorCode, GroupId, List, Message,
    Recipients,
};

use super::{Attempt, Sender, Waiting};
use crate::change::{Ending, OutboxDelivery, Write};
use crate::store::StoreError;

impl Sender<'_> {
    /// Removes what was answered, in order, up to the first that was not.
    pub(super) async fn settle(
        &mut self,
        run: &[Waiting],
        in_full: &[bool],
        results: &[DeliveryResult],
    ) -> Result<Attempt, StoreError> {
        if results.is_empty() {
            return Ok(Attempt::later("no results", None));
        }
        let mut writes = Vec::new();
        let mut gone: BTreeMap<&GroupId, HashSet<ClientQueueInformation>> = BTreeMap::new();
        for ((waiting, in_full), result) in run.iter().zip(in_full).zip(results) {
            match result {
                DeliveryResult::Ok => {}
                DeliveryResult::InvalidClientQueueInformation { recipients } => {
                    let queues = self.queues_at(&waiting.row, recipients).await?;
                    gone.entry(&waiting.row.group_id)
                        .or_default()
                        .extend(queues);
                }
                DeliveryResult::UnknownAudience => {
                    self.destination.has_forgotten(&waiting.row.digest);
                    // It was told just now who they are: to say so again at once is of no use.
                    if *in_full {
                        let what = "an audience is not taken";
                        self.hold(&waiting.row.group_id, what, None, false);
                    }
                    break;
                }
                DeliveryResult::Error(error) if is_retryable(error.code) => {
                    let seconds = seconds_in(error);
                    self.hold(&waiting.row.group_id, &error.to_string(), seconds, false);
                    break;
                }
                DeliveryResult::Error(error) => {
                    writes.push(self.set_aside(waiting.id, Ending::Refused, &error.to_string()));
                    continue;
                }
            }
            self.destination.has_learnt(waiting.row.digest.clone());
            self.held.remove(&waiting.row.group_id);
            writes.push(Write::OutboxDone { id: waiting.id });
        }
        let destination = self.destination.name();
        for (group_id, queues) in gone {
            let wanted = self.node.want_removals(group_id, destination, &queues);
            writes.extend(wanted.await?);
        }
        if !writes.is_empty() {
            self.write(writes).await?;
        }
        Ok(Attempt::Answered)
    }

    /// The recipients of a delivery at these positions, which do not exist.
    async fn queues_at(
        &self,
        delivery: &OutboxDelivery,
        positions: &[u32],
    ) -> Result<HashSet<ClientQueueInformation>, StoreError> {
        let destination = self.destination.name();
        tracing::info!(%destination, invalid = positions.len(), "not all recipients exist");
        let audience = self.node.store().outbox_audience(&delivery.digest);
        let recipients = audience
            .await?
            .and_then(|bytes| Recipients::decode(&bytes).ok());
        let recipients = recipients.unwrap_or_else(List::empty);
        let at = |position: &u32| recipients.get(usize::try_from(*position).ok()?).cloned();
        Ok(positions.iter().filter_map(at).collect())
    }
}

/// When the destination wants to be asked again, where it says that.
pub(super) fn seconds_in(error: &DsError) -> Option<u32> {
    let says = matches!(
        error.code,
        DsErrorCode::UNAVAILABLE | DsErrorCode::RATE_LIMITED
    );
    let seconds = u32::decode(error.data.as_slice());
    seconds.ok().filter(|_| says)
}

pub(super) fn is_retryable(code: DsErrorCode) -> bool {
    matches!(
        code,
        DsErrorCode::UNAVAILABLE | DsErrorCode::RATE_LIMITED | DsErrorCode::REPLAYED
    )
}
