//! What goes out, as writes: to our own clients' audiences, and to other providers' outbox
//! rows, in the same change as what caused it.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use moh_messages::{
    AudienceDigest, DeliveryId, GroupId, Message, ProviderName, QueuePayload, Recipients,
};

use crate::change::{Change, OutboxDelivery, Write};
use crate::clock::DAY_MS;
use crate::group::Outgoing;
use crate::node::Node;
use crate::queue::Members;

impl Node {
    /// The writes that make messages of a group durable for everybody who gets them.
    pub(crate) fn deliver(
        &self,
        group_id: &GroupId,
        outgoing: Vec<Outgoing>,
        now: u64,
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        for Outgoing {
            audience,
            except,
            payload,
        } in outgoing
        {
            if nobody_gets_it(audience.recipients.len(), except) {
                continue;
            }
            let digest = audience.digest.clone();
            if audience.destination == *self.name() {
                let recipients = &audience.recipients;
                let (_, own) =
                    self.enqueue(self.name(), recipients, &digest, except, &payload, now);
                writes.extend(own);
                continue;
            }
            if !self
                .written()
                .is_fresh(&(audience.destination.clone(), digest.clone()), now)
            {
                let recipients = audience.recipients.encode();
                writes.push(Write::OutboxAudience {
                    digest: digest.clone(),
                    recipients,
                });
            }
            writes.push(Write::Outbox(OutboxDelivery {
                destination: audience.destination.clone(),
                group_id: group_id.clone(),
                delivery_id: DeliveryId::new(self.random_bytes::<16>()).expect("16 bytes"),
                digest,
                except,
                created_at: now,
                payload: payload.encode(),
            }));
        }
        writes
    }

    /// The writes that put a message into the queues of clients of our own.
    pub(crate) fn enqueue(
        &self,
        sender: &ProviderName,
        recipients: &Recipients,
        digest: &AudienceDigest,
        except: Option<u32>,
        payload: &QueuePayload,
        now: u64,
    ) -> (Members, Vec<Write>) {
        let members = self.queues().members(sender, digest, || {
            recipients
                .iter()
                .map(|sealed| self.keys().open_queue(sealed))
                .collect()
        });
        let mut writes = Vec::new();
        if !self
            .written()
            .is_fresh(&(sender.clone(), digest.clone()), now)
        {
            let (sender, digest) = (sender.clone(), digest.clone());
            writes.push(Write::Audience {
                sender,
                digest,
                members: members.to_vec(),
            });
        }
        writes.push(Write::Message {
            sender: sender.clone(),
            digest: digest.clone(),
            except,
            received_at: now,
            payload: payload.encode(),
        });
        (members, writes)
    }
}

/// Whether the only recipient is the one that sent it.
fn nobody_gets_it(recipients: usize, except: Option<u32>) -> bool {
    recipients == 0 || (recipients == 1 && except == Some(0))
}

/// Audiences that were written a short while ago, so that they need not be written with every
/// message: the cost of a message does not grow with its audience. The store keeps them for
/// much longer than they are thought to be there.
pub(crate) struct Written {
    at: Mutex<LruCache<(ProviderName, AudienceDigest), u64>>,
}

/// Audiences that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// For how long.
const FRESH_MS: u64 = DAY_MS;

impl Written {
    /// None.
    pub(crate) fn new() -> Self {
        Self {
            at: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// Whether an audience is surely in the store. Who is named is its sender, for our own
    /// clients', and its destination otherwise.
    fn is_fresh(&self, audience: &(ProviderName, AudienceDigest), now: u64) -> bool {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.get(audience)
            .is_some_and(|at| now < at.saturating_add(FRESH_MS))
    }

    /// The audiences that a change needs: once it is durable, they surely are in the store.
    pub(crate) fn of(change: &Change) -> Vec<(ProviderName, AudienceDigest)> {
        let mut audiences = Vec::new();
        for write in &change.writes {
            match write {
                Write::Message { sender, digest, .. } => {
                    audiences.push((sender.clone(), digest.clone()));
                }
                Write::Outbox(delivery) => {
                    audiences.push((delivery.destination.clone(), delivery.digest.clone()));
                }
                _ => {}
            }
        }
        audiences
    }

    /// A change was in conflict: perhaps because one of these is not in the store after all.
    pub(crate) fn forget(&self, audiences: &[(ProviderName, AudienceDigest)]) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        for audience in audiences {
            at.pop(audience);
        }
    }

    /// A change is durable.
    pub(crate) fn note(&self, audiences: Vec<(ProviderName, AudienceDigest)>, now: u64) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        for audience in audiences {
            if at
                .get(&audience)
                .is_none_or(|at| now >= at.saturating_add(FRESH_MS))
            {
                at.put(audience, now);
            }
        }
    }
}
