//! What goes out, as writes: to our own clients' audiences, and to other providers' outbox
//! rows, in the same change as what caused it.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use moh_messages::{
    AudienceDigest, ClientId, ClientQueueInformation, DeliveryId, DeliveryResult, GroupId, Message,
    ProviderName, QueuePayload, Recipients,
};

use crate::change::{Change, OutboxDelivery, Seat, Write, queue_digest};
use crate::clock::DAY_MS;
use crate::connections::{Asking, too_many_requests};
use crate::error::Refusal;
use crate::group::{Group, Outgoing};
use crate::node::Node;
use crate::queue::Members;
use crate::store::{StoreError, Takes};
use crate::tend::removals;

/// A name of an audience: who delivers to it, and its digest; or who it is at, and its digest.
type Named = (ProviderName, AudienceDigest);

impl Node {
    /// Adds to a change what makes messages of a group durable for everybody who gets them; with
    /// the removal of members of our own whose queues do not exist.
    ///
    /// # Errors
    /// `rate_limited` for a connection request to a user of ours who is asked too much;
    /// `unavailable` when the store cannot be read.
    pub(crate) async fn send(
        &self,
        group: &Group,
        outgoing: Vec<Outgoing>,
        now: u64,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        for outgoing in outgoing {
            if nobody_gets_it(outgoing.audience.recipients.len(), outgoing.except) {
                continue;
            }
            if outgoing.audience.destination == *self.name() {
                self.send_here(group, &outgoing, now, change).await?;
            } else {
                self.send_there(group.group_id(), &outgoing, now, change);
            }
        }
        Ok(())
    }

    async fn send_here(
        &self,
        group: &Group,
        outgoing: &Outgoing,
        now: u64,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        let Outgoing {
            audience,
            except,
            payload,
        } = outgoing;
        let recipients = &audience.recipients;
        let gone = match payload {
            QueuePayload::MlsMessage(_) => {
                let (sender, digest) = (self.name(), &audience.digest);
                let seated = self.seat(sender, recipients, digest, &mut change.writes);
                let gone = seated.await?.gone();
                change.writes.push(Write::Message {
                    sender: sender.clone(),
                    digest: digest.clone(),
                    except: *except,
                    received_at: now,
                    payload: payload.encode(),
                });
                gone
            }
            QueuePayload::ConnectionRequest(request) => {
                let asking = Asking {
                    sender: self.name(),
                    recipients,
                    except: *except,
                    request,
                };
                match self.ask(&asking, change).await? {
                    DeliveryResult::InvalidClientQueueInformation { recipients } => {
                        let position = |position: &u32| usize::try_from(*position).ok();
                        recipients.iter().filter_map(position).collect()
                    }
                    DeliveryResult::Error(_) => return Err(too_many_requests()),
                    DeliveryResult::Ok | DeliveryResult::UnknownAudience => Vec::new(),
                }
            }
        };
        let gone = queues_at(recipients, &gone);
        let removals = removals(group, self.name(), &gone, now);
        change.writes.extend(removals);
        Ok(())
    }

    /// The queues of our own members of a group take deliveries from us, and from nobody else from
    /// the change on by which others see them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn bind_members(
        &self,
        group: &Group,
        now: u64,
        change: &mut Change,
    ) -> Result<(), StoreError> {
        let us = self.name();
        let audiences = group.roster().audiences().iter();
        for audience in audiences.filter(|audience| audience.destination == *us) {
            let (recipients, digest) = (&audience.recipients, &audience.digest);
            let seated = self.seat(us, recipients, digest, &mut change.writes);
            let gone = seated.await?.gone();
            let removals = removals(group, us, &queues_at(recipients, &gone), now);
            change.writes.extend(removals);
        }
        Ok(())
    }

    fn send_there(&self, group_id: GroupId, outgoing: &Outgoing, now: u64, change: &mut Change) {
        let Outgoing {
            audience,
            except,
            payload,
        } = outgoing;
        let (destination, digest) = (audience.destination.clone(), audience.digest.clone());
        let there = (destination, digest);
        if !self.written().is_fresh(&there, now) {
            change.writes.push(Write::OutboxAudience {
                digest: there.1.clone(),
                recipients: audience.recipients.encode(),
            });
        }
        let (destination, digest) = there;
        let bounds = self.outbox_bounds(&destination);
        change.writes.push(Write::Outbox(OutboxDelivery {
            destination,
            group_id,
            delivery_id: DeliveryId::new(self.random_bytes::<16>()).expect("16 bytes"),
            digest,
            except: *except,
            created_at: now,
            payload: payload.encode(),
        }));
        change.writes.push(bounds);
    }

    /// The members of an audience of our own clients that is said in full. Where it is new,
    /// `writes` has it afterwards.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn seat(
        &self,
        sender: &ProviderName,
        recipients: &Recipients,
        digest: &AudienceDigest,
        writes: &mut Vec<Write>,
    ) -> Result<Seated, StoreError> {
        if let Some(members) = written_before(writes, sender, digest) {
            return Ok(Seated::Known(members));
        }
        if let Some(members) = self.known_audience(sender, digest).await? {
            return Ok(Seated::Known(members));
        }
        let opened = self.open(sender, recipients).await?.into_iter();
        let seats: Vec<_> = opened.map(|seat| Some(seat?.0)).collect();
        let members = members_of(&seats);
        writes.push(Write::BoundAudience {
            sender: sender.clone(),
            digest: digest.clone(),
            seats,
        });
        Ok(Seated::New(members))
    }

    /// The members of an audience that was said before.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn known_audience(
        &self,
        sender: &ProviderName,
        digest: &AudienceDigest,
    ) -> Result<Option<Members>, StoreError> {
        let audience = (sender.clone(), digest.clone());
        // Where this is not so any more, the message is in conflict, and it is forgotten.
        if let Some(members) = self.queues().remembered(&audience) {
            return Ok(Some(members));
        }
        let reading = self.queues().reading();
        let members = self.store().audience(sender, digest).await?;
        let members = members.map(Members::from);
        if let Some(members) = &members {
            self.queues().remember(reading, audience, members.clone());
        }
        Ok(members)
    }

    /// The queues of ours behind queue information, and what they do with what comes; none where
    /// it is not valid for `sender`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn open(
        &self,
        sender: &ProviderName,
        recipients: &Recipients,
    ) -> Result<Vec<Option<(Seat, Takes)>>, StoreError> {
        let seat = |sealed| {
            let client_id = self.keys().open_queue(sealed)?;
            let queue = queue_digest(sealed);
            Some(Seat { client_id, queue })
        };
        let opened: Vec<_> = recipients.iter().map(seat).collect();
        let ours = opened.iter().flatten().cloned().collect();
        let takes = self.store().queues_take(sender, ours).await?;
        let mut takes = takes.into_iter();
        let seats = opened.into_iter().map(|seat| {
            let (seat, takes) = (seat?, takes.next()?);
            (takes != Takes::Nothing).then_some((seat, takes))
        });
        Ok(seats.collect())
    }

    /// The writes that go with the end of a client of ours, besides that of its name, key and
    /// KeyPackages: it is removed from our groups, its queues take nothing any more, and the
    /// other providers that know it are told.
    pub(crate) fn deletion_writes(client_id: &ClientId, now: u64) -> Vec<Write> {
        vec![
            Write::WantRemoval {
                client_id: client_id.clone(),
                group_id: None,
                at: now,
            },
            Write::CloseClient {
                client_id: client_id.clone(),
                at: now,
            },
        ]
    }
}

/// The members of an audience, and whether it is new.
pub(crate) enum Seated {
    Known(Members),
    New(Members),
}

impl Seated {
    pub(crate) fn into_members(self) -> Members {
        match self {
            Self::Known(members) | Self::New(members) => members,
        }
    }

    /// The positions in a new audience whose queues do not exist.
    fn gone(&self) -> Vec<usize> {
        let Self::New(members) = self else {
            return Vec::new();
        };
        let gone = members.iter().enumerate().filter(|(_, m)| m.is_none());
        gone.map(|(position, _)| position).collect()
    }
}

/// The queue information at these positions.
fn queues_at(recipients: &Recipients, at: &[usize]) -> HashSet<ClientQueueInformation> {
    at.iter()
        .filter_map(|at| recipients.get(*at))
        .cloned()
        .collect()
}

/// By position.
pub(crate) fn members_of(seats: &[Option<Seat>]) -> Members {
    let member = |seat: &Option<Seat>| seat.as_ref().map(|seat| seat.client_id.clone());
    seats.iter().map(member).collect()
}

/// The members of an audience that the same change makes.
pub(crate) fn written_before(
    writes: &[Write],
    by: &ProviderName,
    name: &AudienceDigest,
) -> Option<Members> {
    writes.iter().find_map(|write| match write {
        Write::BoundAudience {
            sender,
            digest,
            seats,
        } if sender == by && digest == name => Some(members_of(seats)),
        _ => None,
    })
}

/// Whether the only recipient is the one that sent it.
fn nobody_gets_it(recipients: usize, except: Option<u32>) -> bool {
    recipients == 0 || (recipients == 1 && except == Some(0))
}

/// Audiences at other providers that were written a short while ago, so that they need not be
/// written with every message: the cost of a message does not grow with its audience. The store
/// keeps them for much longer than they are thought to be there.
pub(crate) struct Written {
    at: Mutex<LruCache<Named, u64>>,
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

    /// Whether an audience at a destination is surely in the store.
    fn is_fresh(&self, audience: &Named, now: u64) -> bool {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.get(audience)
            .is_some_and(|at| now < at.saturating_add(FRESH_MS))
    }

    /// The audiences that a change needs: once it is durable, they surely are in the store.
    pub(crate) fn of(change: &Change) -> Vec<Named> {
        let mut audiences = Vec::new();
        for write in &change.writes {
            if let Write::Outbox(delivery) = write {
                audiences.push((delivery.destination.clone(), delivery.digest.clone()));
            }
        }
        audiences
    }

    /// A change was in conflict: perhaps because one of these is not in the store after all.
    pub(crate) fn forget(&self, audiences: &[Named]) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        for audience in audiences {
            at.pop(audience);
        }
    }

    /// A change is durable.
    pub(crate) fn note(&self, audiences: Vec<Named>, now: u64) {
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
