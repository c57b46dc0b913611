//! KeyPackages: taken from our own clients, handed out once to those who may have them.
//!
//! A client has two pools of them: for groups, and for connection groups. Each is handed out on
//! an endpoint of its own, and each has its own last resort.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use moh_messages::client_api::{Boolean, KeyPackagesLow, QueueItemPayload, UploadKeyPackages};
use moh_messages::{
    CipherSuite, ClientId, ClientKeyPackage, ClientKeyPackageStatus, ConnectionKeyPackageRequest,
    DsProtocolVersion, Endpoint, GroupKeyPackageRequest, KeyPackageBytes, KeyPackageRef,
    KeyPackageResponse, List, ProviderName, UserId, UserKeyPackageStatus, UserKeyPackages,
};
use tokio::sync::OwnedMutexGuard;

use crate::authenticate::{Claimed, Repeats};
use crate::change::{Change, Expect, KeyPackage, Pool, Seat, Write};
use crate::error::{Refusal, violation};
use crate::group::{Checks, check_key_package};
use crate::node::Node;
use crate::owner::AsOwner;

/// The most KeyPackages of last resort that a client has to be handed out: of three ciphersuites
/// in two pools, and as many again that take their place.
const MAX_LAST_RESORT: u64 = 12;
/// The most of them that are kept in mind. Queues of theirs are kept for as long as the client.
const MAX_LAST_RESORT_UPLOADS: u64 = 100;
/// For each KeyPackage that a client may have, so many are kept in mind.
const UPLOADS_PER_PLACE: u64 = 10;

/// A user's KeyPackages are handed out one after the other: who comes at the same time would
/// find the same one, and all but one would have to look again.
#[derive(Default)]
pub(crate) struct Turns {
    users: Mutex<HashMap<UserId, Arc<tokio::sync::Mutex<()>>>>,
}

/// A turn at some users, given up when it is dropped.
struct Turn<'a> {
    turns: &'a Turns,
    users: Vec<(UserId, OwnedMutexGuard<()>)>,
}

impl Turns {
    fn users(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, Arc<tokio::sync::Mutex<()>>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn at all of these; always in the same order, so that nobody waits for
    /// whoever waits for them.
    async fn take(&self, users: BTreeSet<UserId>) -> Turn<'_> {
        let mut turn = Turn {
            turns: self,
            users: Vec::new(),
        };
        for user in users {
            let lock = Arc::clone(self.users().entry(user.clone()).or_default());
            turn.users.push((user, lock.lock_owned().await));
        }
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut users = self.turns.users();
        for (user, guard) in self.users.drain(..) {
            drop(guard);
            // The map's own alone: nobody else waits.
            if users
                .get(&user)
                .is_some_and(|lock| Arc::strong_count(lock) == 1)
            {
                users.remove(&user);
            }
        }
    }
}

/// What somebody wants to have of our users.
struct Wanted<'a> {
    /// Who wants it.
    requester: &'a UserId,
    /// Whose user wants it.
    by: &'a ProviderName,
    /// Whether it is for a connection group.
    for_connections: bool,
    /// Only these clients; empty: all.
    clients: &'a [ClientId],
    cipher_suites: Vec<u16>,
}

impl Node {
    /// Takes KeyPackages of a client, all of them or none. One that is there already stays, also
    /// where they replace what is there: so an upload can be repeated when its answer was lost.
    ///
    /// # Errors
    /// `invalid_key_package`, or what else is wrong with the first that is not valid;
    /// `limit_exceeded`.
    pub async fn upload_key_packages(
        &self,
        client: &ClientId,
        upload: UploadKeyPackages,
    ) -> Result<(), Refusal> {
        let replace = upload.replace == Boolean::True;
        let checked = self.check_upload(client, upload).await?;
        let _turn = self.turns().take([client.user_id()].into()).await;
        self.commit_decided(|| self.take_in(client, &checked, replace))
            .await
    }

    async fn check_upload(
        &self,
        client: &ClientId,
        upload: UploadKeyPackages,
    ) -> Result<Vec<(KeyPackage, Seat)>, Refusal> {
        let (node, owner, now) = (self.clone(), client.clone(), self.now_ms());
        let checked = self.environment().work.run(move || {
            // Attestations of others are not fetched for: this is for our own clients.
            let us = AsOwner {
                node: &node,
                fetched: &[],
                now,
            };
            let checks = Checks {
                now,
                limits: node.limits(),
                owner: &us,
            };
            let owner_of = |sealed: &_| node.keys().open_queue(sealed);
            let check = |bytes: &KeyPackageBytes| {
                check_key_package(bytes.as_slice(), &owner, owner_of, &checks)
            };
            let all = upload.key_packages.iter().map(check);
            all.collect::<Result<Vec<_>, _>>()
        });
        let checked = checked
            .await
            .map_err(|_| Refusal::not_built("the check"))??;
        let references: BTreeSet<_> = checked
            .iter()
            .map(|(p, _)| p.reference.as_slice())
            .collect();
        if references.len() < checked.len() {
            let what = "the same KeyPackage twice".to_owned();
            return Err(Refusal::InvalidKeyPackage(what));
        }
        Ok(checked)
    }

    async fn take_in(
        &self,
        client: &ClientId,
        uploaded: &[(KeyPackage, Seat)],
        replace: bool,
    ) -> Result<(Change, ()), Refusal> {
        if self.store().client(client).await?.is_none() {
            return Err(Refusal::Unauthenticated("no such client, or key"));
        }
        let references: Vec<_> = uploaded.iter().map(|(p, _)| p.reference.clone()).collect();
        let known = self.store().known_key_packages(&references).await?;
        if known.iter().any(|(_, is_there)| !is_there) {
            let what = "a KeyPackage that was handed out, or replaced, is not taken again";
            return Err(Refusal::InvalidKeyPackage(what.to_owned()));
        }
        let is_known = |reference: &KeyPackageRef| known.iter().any(|(k, _)| k == reference);
        let is_new = |(package, _): &&(KeyPackage, Seat)| !is_known(&package.reference);
        let new: Vec<_> = uploaded.iter().filter(is_new).cloned().collect();
        let now = self.now_ms();
        self.check_room(client, &new, known.len(), replace, now)
            .await?;
        // All that there is counts: what has expired is looked at no more.
        let mut change = Change {
            expect: vec![Expect::Client(client.clone())],
            writes: vec![Write::DropExpired {
                client_id: client.clone(),
                now,
            }],
        };
        if replace {
            change.writes.push(Write::KeepKeyPackages {
                client_id: client.clone(),
                only: references,
            });
        }
        for for_connections in [false, true] {
            if new
                .iter()
                .any(|(p, _)| p.for_connections == for_connections && !p.last_resort)
            {
                let pool = pool_of(client, for_connections);
                change.writes.push(Write::ToldLow { pool, told: false });
            }
        }
        for (package, queue) in new {
            change.writes.push(match package.last_resort {
                true => Write::SharedQueue(queue),
                false => Write::KeyPackageQueue {
                    reference: package.reference.clone(),
                    seat: queue,
                    for_connections: package.for_connections,
                    expires_at: package.expires_at,
                },
            });
            change.writes.push(Write::KeyPackage(package));
        }
        Ok((change, ()))
    }

    /// Whether a client may have these, too: beside `known` of them that are there, and all others
    /// unless they are replaced.
    async fn check_room(
        &self,
        client: &ClientId,
        new: &[(KeyPackage, Seat)],
        known: usize,
        replace: bool,
        now: u64,
    ) -> Result<(), Refusal> {
        let max = self.limits().max_key_packages_per_client;
        let (mut there, mut last_resort) = (known as u64, 0);
        if !replace {
            there = 0;
            for for_connections in [false, true] {
                let pool = pool_of(client, for_connections);
                let state = self.store().key_packages(&pool, now).await?;
                (there, last_resort) = (there + state.all(), last_resort + state.last_resort);
            }
        }
        let is_last_resort = |(package, _): &&(KeyPackage, Seat)| package.last_resort;
        let new_last_resort = new.iter().filter(is_last_resort).count() as u64;
        if there + new.len() as u64 > max || last_resort + new_last_resort > MAX_LAST_RESORT {
            return Err(Refusal::LimitExceeded(
                "this client has too many KeyPackages",
            ));
        }
        // What was handed out, replaced or has expired is kept in mind for some time.
        let uploads = self.store().uploads(client).await?;
        if uploads.all + new.len() as u64 > max.saturating_mul(UPLOADS_PER_PLACE)
            || uploads.last_resort + new_last_resort > MAX_LAST_RESORT_UPLOADS
        {
            return Err(Refusal::LimitExceeded(
                "this client has uploaded too many KeyPackages of late",
            ));
        }
        Ok(())
    }

    /// `/group_key_packages`.
    pub(crate) async fn group_key_packages(
        &self,
        claimed: Claimed<GroupKeyPackageRequest>,
    ) -> Result<KeyPackageResponse, Refusal> {
        let request = self
            .authenticate_provider(Endpoint::GroupKeyPackages, claimed, Repeats::Harmful)
            .await?
            .into_request();
        if request.requester.provider() != request.sender {
            return Err(Refusal::Unauthenticated(
                "the requester is of another provider",
            ));
        }
        if !request.connection_token.is_empty() {
            return Err(violation("there are no connection tokens yet"));
        }
        if request.targets.iter().any(|t| t.provider() != *self.name()) {
            return Err(violation("a target is of another provider"));
        }
        let targets: BTreeSet<_> = request.targets.iter().cloned().collect();
        if targets.len() < request.targets.len() {
            return Err(violation("a target is named twice"));
        }
        let wanted = Wanted {
            requester: &request.requester,
            by: &request.sender,
            for_connections: false,
            clients: &request.clients,
            cipher_suites: numbers(&request.cipher_suites),
        };
        let _turn = self.turns().take(targets).await;
        let decide = async || {
            let (mut change, mut users) = (Change::default(), Vec::new());
            for target in &request.targets {
                users.push(if self.consents(target, &request.requester).await? {
                    let none = UserKeyPackageStatus::NoConsent;
                    self.hand_out(target, &wanted, none, &mut change).await?
                } else {
                    nothing(target, UserKeyPackageStatus::NoConsent)
                });
            }
            Ok((change, users))
        };
        Ok(response(self.commit_decided(decide).await?))
    }

    /// `/connection_key_packages`.
    pub(crate) async fn connection_key_packages(
        &self,
        claimed: Claimed<ConnectionKeyPackageRequest>,
    ) -> Result<KeyPackageResponse, Refusal> {
        let request = self
            .authenticate_provider(Endpoint::ConnectionKeyPackages, claimed, Repeats::Harmful)
            .await?
            .into_request();
        if request.requester.provider() != request.sender {
            return Err(Refusal::Unauthenticated(
                "the requester is of another provider",
            ));
        }
        let target = &request.target;
        if target.provider() != *self.name() {
            return Err(violation("the target is of another provider"));
        }
        let wanted = Wanted {
            requester: &request.requester,
            by: &request.sender,
            for_connections: true,
            clients: &[],
            cipher_suites: numbers(&request.cipher_suites),
        };
        let _turn = self.turns().take([target.clone()].into()).await;
        let decide = async || {
            // Who is blocked, and who is not there, look the same.
            let none = UserKeyPackageStatus::NothingCompatible;
            let mut change = Change::default();
            let user = if self.is_blocked(target, &request.requester).await? {
                nothing(target, none)
            } else {
                self.hand_out(target, &wanted, none, &mut change).await?
            };
            Ok((change, vec![user]))
        };
        Ok(response(self.commit_decided(decide).await?))
    }

    /// One KeyPackage of each client of a user; `none` where there is no such user.
    async fn hand_out(
        &self,
        user: &UserId,
        wanted: &Wanted<'_>,
        none: UserKeyPackageStatus,
        change: &mut Change,
    ) -> Result<UserKeyPackages, Refusal> {
        let clients = self.store().clients(user).await?;
        if clients.is_empty() {
            return Ok(nothing(user, none));
        }
        let mut key_packages = Vec::new();
        for client in clients {
            if wanted.clients.is_empty() || wanted.clients.contains(&client) {
                let status = self.hand_out_one(&client, wanted, change).await?;
                key_packages.push(ClientKeyPackage { client, status });
            }
        }
        let is_success =
            |c: &&ClientKeyPackage| matches!(c.status, ClientKeyPackageStatus::Success { .. });
        let status = match key_packages.iter().filter(is_success).count() {
            0 => UserKeyPackageStatus::NothingCompatible,
            n if n == key_packages.len() => UserKeyPackageStatus::Success,
            _ => UserKeyPackageStatus::Partial,
        };
        let too_many = |_| Refusal::LimitExceeded("this user has too many clients");
        Ok(UserKeyPackages {
            user: user.clone(),
            status,
            clients: List::new(key_packages).map_err(too_many)?,
        })
    }

    async fn hand_out_one(
        &self,
        client: &ClientId,
        wanted: &Wanted<'_>,
        change: &mut Change,
    ) -> Result<ClientKeyPackageStatus, Refusal> {
        let (store, now) = (self.store(), self.now_ms());
        let pool = pool_of(client, wanted.for_connections);
        let state = store.key_packages(&pool, now).await?;
        let found = store
            .next_key_package(&pool, &wanted.cipher_suites, now)
            .await?;
        let taken = found.as_ref().filter(|found| !found.last_resort);
        let left = state.left.saturating_sub(u64::from(taken.is_some()));
        change.expect.push(Expect::Client(client.clone()));
        change.expect.push(Expect::KeyPackagesLeft {
            pool: pool.clone(),
            now,
            left: state.left,
        });
        if let Some(taken) = taken {
            let reference = &taken.reference;
            change.expect.push(Expect::KeyPackage(reference.clone()));
            change
                .writes
                .push(Write::RemoveKeyPackage(reference.clone()));
            change.writes.push(Write::HandedOut {
                reference: reference.clone(),
                peer: wanted.requester.clone(),
            });
        }
        if found.is_some() && wanted.by != self.name() {
            change.writes.push(Write::ClientPeer {
                client_id: client.clone(),
                provider: wanted.by.clone(),
            });
        }
        if left < self.limits().low_key_packages && !state.told_low {
            let low = KeyPackagesLow {
                for_connections: match wanted.for_connections {
                    true => Boolean::True,
                    false => Boolean::False,
                },
                left: u32::try_from(left).unwrap_or(u32::MAX),
            };
            let told = self.notice(client, &QueueItemPayload::KeyPackagesLow(low));
            change.writes.push(Write::ToldLow { pool, told: true });
            change.writes.extend(told);
        }
        match found {
            Some(found) => {
                let key_package = KeyPackageBytes::new(found.bytes)
                    .map_err(|_| Refusal::LimitExceeded("a KeyPackage is too long"))?;
                Ok(ClientKeyPackageStatus::Success { key_package })
            }
            None if state.all() == 0 => Ok(ClientKeyPackageStatus::Exhausted),
            None => Ok(ClientKeyPackageStatus::NothingCompatible),
        }
    }
}

fn pool_of(client: &ClientId, for_connections: bool) -> Pool {
    Pool {
        client_id: client.clone(),
        for_connections,
    }
}

fn numbers(suites: &[CipherSuite]) -> Vec<u16> {
    suites.iter().map(|suite| suite.0).collect()
}

/// An answer without clients.
fn nothing(user: &UserId, status: UserKeyPackageStatus) -> UserKeyPackages {
    UserKeyPackages {
        user: user.clone(),
        status,
        clients: List::empty(),
    }
}

fn response(users: Vec<UserKeyPackages>) -> KeyPackageResponse {
    KeyPackageResponse {
        version: DsProtocolVersion::MOH1,
        users: List::new(users).expect("as many as targets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_had_a_turn_takes_no_room() {
        let turns = Turns::default();
        let user = |name| {
            format!("mimi://a.example/u/{name}")
                .parse::<UserId>()
                .unwrap()
        };
        let first = turns.take([user("alice"), user("bob")].into()).await;
        let second = turns.take([user("bob")].into());
        tokio::pin!(second);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        assert_eq!(turns.users().len(), 1, "bob is waited for");
        drop(second.await);
        assert_eq!(turns.users().len(), 0);
    }
}
