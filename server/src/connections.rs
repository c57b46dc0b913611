//! Our own users and their peers: who asks to be connected, who is let in, who is blocked.
//!
//! A request is a Welcome into a connection group, whose owner is the requester's provider. What
//! a user decides on it is the user's alone: a requester who is declined finds the queues of the
//! responder gone; one who is blocked sees what they would see if nobody ever answered.

use std::collections::{BTreeMap, BTreeSet};

use moh_messages::client_api::{
    BlockTarget, Connection, ConnectionChanged, ConnectionDecision, ConnectionState, MAX_LISTED,
    QueueItemPayload,
};
use moh_messages::{
    AudienceDigest, ClientId, ConnectionRequest, DeliveryResult, DsError, List, Message,
    ProviderName, QueuePayload, Recipients, UserId, audience_digest,
};

use crate::change::{Change, Decided, Expect, QueueDigest, Seat, Write};
use crate::crypto::sha256;
use crate::deliver::{members_of, written_before};
use crate::error::{Refusal, violation};
use crate::group::Asks;
use crate::inbox::result_for;
use crate::node::Node;
use crate::store::{Relation, Takes};

/// So many requests of one peer wait at most until one of them is decided on.
const MAX_REQUESTS_OF_ONE: u64 = 8;
/// When a provider may try again whose user asks somebody who is asked too much.
const RETRY_SECONDS: u32 = 3600;

/// A connection request on its way to our own users.
pub(crate) struct Asking<'a> {
    /// The owner of the connection group.
    pub(crate) sender: &'a ProviderName,
    pub(crate) recipients: &'a Recipients,
    pub(crate) except: Option<u32>,
    pub(crate) request: &'a ConnectionRequest,
}

impl Node {
    /// Records whether `peer` may fetch KeyPackages of a client's user. To let them is to accept
    /// what they have asked for.
    ///
    /// # Errors
    /// `policy_violation` for somebody who is blocked; `limit_exceeded`; `unavailable` when the
    /// store fails.
    pub async fn set_consent(
        &self,
        by: &ClientId,
        peer: &UserId,
        allowed: bool,
    ) -> Result<(), Refusal> {
        self.commit_decided(|| self.decide_consent(by, peer, allowed))
            .await
    }

    async fn decide_consent(
        &self,
        by: &ClientId,
        peer: &UserId,
        allowed: bool,
    ) -> Result<(Change, ()), Refusal> {
        let user = by.user_id();
        let relation = self.store().relation(&user, peer).await?;
        let consents = relation.state == Some(ConnectionState::Consented);
        let mut change = self.change_by(by).await?;
        if allowed && relation.blocked {
            return Err(violation("this user is blocked: unblock them first"));
        }
        if allowed {
            self.may_have_more(&relation)?;
            change.expect.push(Expect::Blocked {
                user: user.clone(),
                peer: peer.clone(),
                blocked: false,
            });
        }
        let accepts = allowed && relation.requests > 0;
        if accepts {
            change.writes.push(Write::Decided {
                user: user.clone(),
                peer: peer.clone(),
                decision: Decided::Accepted,
            });
        }
        if allowed != consents {
            change.writes.push(Write::Consent {
                user,
                peer: peer.clone(),
                allowed,
                at: self.now_ms(),
            });
        }
        // Where both have asked, the consent is there already, and what was asked is accepted now.
        if accepts || allowed != consents {
            let decision = match allowed {
                true => ConnectionDecision::Consented,
                false => ConnectionDecision::Withdrawn,
            };
            let told = self.connection_changed(by, peer, decision).await?;
            change.writes.extend(told);
        }
        Ok((change, ()))
    }

    fn may_have_more(&self, relation: &Relation) -> Result<(), Refusal> {
        let is_new = relation.state.is_none();
        if is_new && relation.connections >= self.limits().max_connections_per_user {
            return Err(Refusal::LimitExceeded("this user has too many connections"));
        }
        Ok(())
    }

    /// Declines what `peer` has asked a client's user for: what comes of it is not taken any more.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn decline_connection(&self, by: &ClientId, peer: &UserId) -> Result<(), Refusal> {
        self.commit_decided(async || {
            let user = by.user_id();
            let mut change = self.change_by(by).await?;
            if self.store().relation(&user, peer).await?.requests > 0 {
                change.writes.push(Write::Decided {
                    user,
                    peer: peer.clone(),
                    decision: Decided::Declined,
                });
                let declined = ConnectionDecision::Declined;
                let told = self.connection_changed(by, peer, declined).await?;
                change.writes.extend(told);
            }
            Ok((change, ()))
        })
        .await
    }

    /// Blocks somebody for a client's user, or does not any more.
    ///
    /// # Errors
    /// `limit_exceeded`; `unavailable` when the store fails.
    pub async fn set_block(
        &self,
        by: &ClientId,
        target: &BlockTarget,
        blocked: bool,
    ) -> Result<(), Refusal> {
        self.commit_decided(|| self.decide_block(by, target, blocked))
            .await
    }

    async fn decide_block(
        &self,
        by: &ClientId,
        target: &BlockTarget,
        blocked: bool,
    ) -> Result<(Change, ()), Refusal> {
        let user = by.user_id();
        let blocks = self.store().blocks(&user, None, usize::MAX).await?;
        let mut change = self.change_by(by).await?;
        if blocks.contains(target) == blocked {
            return Ok((change, ()));
        }
        if blocked && blocks.len() as u64 >= self.limits().max_blocks_per_user {
            return Err(Refusal::LimitExceeded("this user blocks too many"));
        }
        change.writes.push(Write::Block {
            user: user.clone(),
            target: target.clone(),
            blocked,
        });
        if blocked {
            let connections = self.store().connections(&user, None, usize::MAX).await?;
            let is_meant = |peer: &UserId| match target {
                BlockTarget::User(user) => peer == user,
                BlockTarget::Provider(provider) => peer.provider() == *provider,
            };
            let meant = connections.iter().filter(|c| is_meant(&c.peer));
            for connection in meant.take(MAX_LISTED) {
                let decision = match connection.state {
                    ConnectionState::Asked => ConnectionDecision::Declined,
                    ConnectionState::Consented => ConnectionDecision::Withdrawn,
                };
                let told = self.connection_changed(by, &connection.peer, decision);
                change.writes.extend(told.await?);
            }
        }
        Ok((change, ()))
    }

    /// Connections of a client's user, by the name of the peer.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn list_connections(
        &self,
        of: &ClientId,
        after: Option<&UserId>,
    ) -> Result<List<Connection, MAX_LISTED>, Refusal> {
        let found = self
            .store()
            .connections(&of.user_id(), after, MAX_LISTED)
            .await?;
        Ok(List::new(found).expect("not more than were asked for"))
    }

    /// Whom a client's user blocks: users by name, then providers by name.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn list_blocks(
        &self,
        of: &ClientId,
        after: Option<&BlockTarget>,
    ) -> Result<List<BlockTarget, MAX_LISTED>, Refusal> {
        let found = self
            .store()
            .blocks(&of.user_id(), after, MAX_LISTED)
            .await?;
        Ok(List::new(found).expect("not more than were asked for"))
    }

    /// Whether `user` wants to hear nothing of `peer`.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn is_blocked(&self, user: &UserId, peer: &UserId) -> Result<bool, Refusal> {
        Ok(self.store().blocked(user, peer).await?)
    }

    /// Whether `peer` may fetch KeyPackages of `user`; everybody may fetch their own.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn consents(&self, user: &UserId, peer: &UserId) -> Result<bool, Refusal> {
        Ok(user == peer || self.store().consent(user, peer).await?)
    }

    /// A change that a client wants; who is deleted meanwhile has no word in it.
    async fn change_by(&self, by: &ClientId) -> Result<Change, Refusal> {
        if self.store().client(by).await?.is_none() {
            return Err(Refusal::Unauthenticated("no such client, or key"));
        }
        Ok(Change {
            expect: vec![Expect::Client(by.clone())],
            writes: Vec::new(),
        })
    }

    /// The writes that tell the other clients of a client's user what was decided.
    async fn connection_changed(
        &self,
        by: &ClientId,
        peer: &UserId,
        decision: ConnectionDecision,
    ) -> Result<Vec<Write>, Refusal> {
        let payload = QueueItemPayload::ConnectionChanged(ConnectionChanged {
            peer: peer.clone(),
            decision,
        });
        let clients = self.store().clients(&by.user_id()).await?;
        let others = clients.iter().filter(|client| *client != by);
        let told = others.flat_map(|other| self.notice(other, &payload));
        Ok(told.collect())
    }

    /// Whoever asks consents: what that takes, in the change that sends the request.
    ///
    /// # Errors
    /// `policy_violation` when the requester has blocked the responder; `limit_exceeded`.
    pub(crate) async fn consent_of_requester(
        &self,
        asks: &Asks,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        let (by, peer) = (&asks.requester, &asks.responder);
        let user = by.user_id();
        if by.provider() != *self.name() {
            return Ok(());
        }
        let relation = self.store().relation(&user, peer).await?;
        if relation.blocked {
            return Err(violation("this user is blocked: unblock them first"));
        }
        self.may_have_more(&relation)?;
        change.expect.push(Expect::Blocked {
            user: user.clone(),
            peer: peer.clone(),
            blocked: false,
        });
        if relation.state != Some(ConnectionState::Consented) {
            change.writes.push(Write::Consent {
                user,
                peer: peer.clone(),
                allowed: true,
                at: self.now_ms(),
            });
            let consented = ConnectionDecision::Consented;
            let told = self.connection_changed(by, peer, consented).await?;
            change.writes.extend(told);
        }
        Ok(())
    }

    /// Takes a connection request for a user of ours. The result is the same whether the
    /// requester is blocked or not. `rate_limited`: it is not taken.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub(crate) async fn ask(
        &self,
        asking: &Asking<'_>,
        change: &mut Change,
    ) -> Result<DeliveryResult, Refusal> {
        let Asking {
            sender,
            recipients,
            except,
            request,
        } = asking;
        let (user, peer) = (&request.responder, &request.requester);
        let relation = self.store().relation(user, peer).await?;
        let relation = with_those_before(relation, user, peer, &change.writes);
        let opened = self.open(sender, recipients).await?;
        let Fresh { seats, new, is_all } = fresh(&opened, user, &change.writes);
        let result = result_for(&members_of(&seats), *except);
        change.expect.push(Expect::Blocked {
            user: user.clone(),
            peer: peer.clone(),
            blocked: relation.blocked,
        });
        if seats.iter().all(Option::is_none) {
            return Ok(result);
        }
        if self.is_too_much(&relation) {
            return Ok(DeliveryResult::Error(DsError::from(too_many_requests())));
        }
        let mut digest = audience_digest(recipients);
        if !is_all {
            digest = part_of(&digest, user);
        }
        let now = self.now_ms();
        if relation.blocked {
            change.writes.push(Write::Mute {
                sender: (*sender).clone(),
                seats: new.into_values().collect(),
            });
            self.make_known(sender, &digest, seats, change).await?;
            return Ok(result);
        }
        change.writes.push(Write::Asked {
            user: user.clone(),
            peer: peer.clone(),
            sender: (*sender).clone(),
            audience: digest.clone(),
            queues: new.into_keys().collect(),
            at: now,
        });
        self.make_known(sender, &digest, seats, change).await?;
        change.writes.push(Write::Message {
            sender: (*sender).clone(),
            digest,
            except: *except,
            received_at: now,
            payload: QueuePayload::ConnectionRequest((*request).clone()).encode(),
        });
        Ok(result)
    }

    /// Whether a peer has to wait with a further request until the user decides on some.
    fn is_too_much(&self, relation: &Relation) -> bool {
        let limits = self.limits();
        let most = limits.max_pending_connection_requests;
        // One provider, which can invent users, does not keep out all others.
        let from_one_provider = (most / 10).max(most.min(100));
        let is_new = relation.state.is_none();
        relation.requests >= MAX_REQUESTS_OF_ONE
            || (is_new && relation.asked >= most)
            || (is_new && relation.asked_from_there >= from_one_provider)
            || (is_new && relation.connections >= limits.max_connections_per_user)
    }

    async fn make_known(
        &self,
        sender: &ProviderName,
        digest: &AudienceDigest,
        seats: Vec<Option<Seat>>,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        let is_known = written_before(&change.writes, sender, digest).is_some()
            || self.known_audience(sender, digest).await?.is_some();
        if !is_known {
            change.writes.push(Write::BoundAudience {
                sender: sender.clone(),
                digest: digest.clone(),
                seats,
            });
        }
        Ok(())
    }
}

/// The queues of a request.
struct Fresh {
    /// By position; none where it is not for this request.
    seats: Vec<Option<Seat>>,
    /// Those that nobody has used yet, each once.
    new: BTreeMap<QueueDigest, Seat>,
    /// Whether these are all that are queues of ours.
    is_all: bool,
}

/// What of an audience a request to a user is for. A queue is for one group: one that is used
/// already, also in the same change, is not for this one.
fn fresh(opened: &[Option<(Seat, Takes)>], user: &UserId, writes: &[Write]) -> Fresh {
    let used = queues_in(writes);
    let is_fresh = |seat: &Seat, takes| match takes {
        Takes::First => !used.contains(&seat.queue),
        Takes::Shared => true,
        Takes::Bound | Takes::Nothing => false,
    };
    let mut found = Fresh {
        seats: Vec::new(),
        new: BTreeMap::new(),
        is_all: true,
    };
    for opened in opened {
        let seat = opened.as_ref().and_then(|(seat, takes)| {
            let is_theirs = seat.client_id.user_id() == *user;
            if is_theirs && *takes == Takes::First && is_fresh(seat, *takes) {
                found.new.insert(seat.queue, seat.clone());
            }
            (is_theirs && is_fresh(seat, *takes)).then(|| seat.clone())
        });
        found.is_all &= seat.is_some() || opened.is_none();
        found.seats.push(seat);
    }
    found
}

/// The queues that a change names already.
fn queues_in(writes: &[Write]) -> BTreeSet<QueueDigest> {
    let mut queues = BTreeSet::new();
    for write in writes {
        match write {
            Write::BoundAudience { seats, .. } => {
                queues.extend(seats.iter().flatten().map(|seat| seat.queue));
            }
            Write::Mute { seats, .. } => queues.extend(seats.iter().map(|seat| seat.queue)),
            _ => {}
        }
    }
    queues
}

/// What there is when requests before this one, in the same change, are taken. Who has asked
/// before counts as one more: it is tried again when there is room.
fn with_those_before(
    mut relation: Relation,
    user: &UserId,
    peer: &UserId,
    writes: &[Write],
) -> Relation {
    let mut others = BTreeSet::new();
    for write in writes {
        match write {
            Write::Asked {
                user: asked,
                peer: by,
                ..
            } if asked == user => {
                if by == peer {
                    relation.requests += 1;
                    relation.state.get_or_insert(ConnectionState::Asked);
                } else {
                    others.insert(by);
                }
            }
            _ => {}
        }
    }
    relation.asked += others.len() as u64;
    relation.asked_from_there += others.len() as u64;
    relation.connections += others.len() as u64;
    relation
}

/// Somebody is asked too much.
pub(crate) fn too_many_requests() -> Refusal {
    Refusal::RateLimited {
        reason: "this user has too many requests to decide on",
        retry_after_seconds: RETRY_SECONDS,
    }
}

/// The name of those in an audience who are clients of a user: nobody else names it.
fn part_of(audience: &AudienceDigest, user: &UserId) -> AudienceDigest {
    let name = [audience.as_slice(), user.as_str().as_bytes()].concat();
    AudienceDigest::new(sha256(&name)).expect("32 bytes")
}
