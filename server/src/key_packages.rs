//! KeyPackages: taken from our own clients, handed out once to those who may have them.

use moh_messages::client_api::UploadKeyPackages;
use moh_messages::{
    ClientId, ClientKeyPackage, ClientKeyPackageStatus, DsProtocolVersion, Endpoint,
    GroupKeyPackageRequest, KeyPackageBytes, KeyPackageResponse, List, UserId,
    UserKeyPackageStatus, UserKeyPackages,
};

use crate::authenticate::{Claimed, Repeats};
use crate::change::{Change, Expect, Write};
use crate::error::Refusal;
use crate::group::{Checks, check_key_package};
use crate::node::Node;
use crate::owner::AsOwner;

impl Node {
    /// Takes KeyPackages of a client, all of them or none.
    ///
    /// # Errors
    /// `invalid_key_package`, or what else is wrong with the first that is not valid;
    /// `limit_exceeded`.
    pub async fn upload_key_packages(
        &self,
        client: &ClientId,
        upload: UploadKeyPackages,
    ) -> Result<(), Refusal> {
        let now = self.now_ms();
        let stored = self.store().count_key_packages(client, now).await?;
        if stored + upload.key_packages.len() as u64 > self.limits().max_key_packages_per_client {
            return Err(Refusal::LimitExceeded(
                "this client has too many KeyPackages",
            ));
        }
        let (node, owner) = (self.clone(), client.clone());
        let checked = tokio::task::spawn_blocking(move || {
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
            upload
                .key_packages
                .iter()
                .map(check)
                .collect::<Result<Vec<_>, _>>()
        });
        let checked = checked
            .await
            .map_err(|_| Refusal::not_built("the check"))??;
        let writes = checked.into_iter().map(Write::KeyPackage).collect();
        Ok(self
            .commit(Change {
                expect: Vec::new(),
                writes,
            })
            .await?)
    }

    /// `/group_key_packages`.
    pub(crate) async fn group_key_packages(
        &self,
        claimed: Claimed<GroupKeyPackageRequest>,
    ) -> Result<KeyPackageResponse, Refusal> {
        let request = self
            .authenticate_provider(Endpoint::GroupKeyPackages, claimed, Repeats::Refused)
            .await?
            .into_request();
        if request.requester.provider() != request.sender {
            return Err(Refusal::Unauthenticated(
                "the requester is of another provider",
            ));
        }
        if !request.connection_token.is_empty() {
            return Err(Refusal::PolicyViolation(
                "there are no connection tokens yet".to_owned(),
            ));
        }
        if request
            .targets
            .iter()
            .any(|target| target.provider() != *self.name())
        {
            return Err(Refusal::PolicyViolation(
                "a target is of another provider".to_owned(),
            ));
        }
        let users = self.commit_decided(|| self.hand_out(&request)).await?;
        let users = List::new(users).expect("as many as targets");
        Ok(KeyPackageResponse {
            version: DsProtocolVersion::MOH1,
            users,
        })
    }

    async fn hand_out(
        &self,
        request: &GroupKeyPackageRequest,
    ) -> Result<(Change, Vec<UserKeyPackages>), Refusal> {
        let mut change = Change::default();
        let mut users = Vec::new();
        for target in &request.targets {
            users.push(self.user_key_packages(target, request, &mut change).await?);
        }
        Ok((change, users))
    }

    async fn user_key_packages(
        &self,
        target: &UserId,
        request: &GroupKeyPackageRequest,
        change: &mut Change,
    ) -> Result<UserKeyPackages, Refusal> {
        let user = target.clone();
        let clients = self.store().clients(target).await?;
        if clients.is_empty() || !self.consents(target, &request.requester).await? {
            let status = UserKeyPackageStatus::NoConsent;
            return Ok(UserKeyPackages {
                user,
                status,
                clients: List::empty(),
            });
        }
        let mut key_packages = Vec::new();
        for client in clients {
            if request.clients.is_empty() || request.clients.contains(&client) {
                let status = self.client_key_package(&client, request, change).await?;
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
        let clients = List::new(key_packages).map_err(too_many)?;
        Ok(UserKeyPackages {
            user,
            status,
            clients,
        })
    }

    async fn client_key_package(
        &self,
        client: &ClientId,
        request: &GroupKeyPackageRequest,
        change: &mut Change,
    ) -> Result<ClientKeyPackageStatus, Refusal> {
        let suites: Vec<u16> = request.cipher_suites.iter().map(|suite| suite.0).collect();
        let now = self.now_ms();
        let Some(found) = self.store().next_key_package(client, &suites, now).await? else {
            let left = self.store().count_key_packages(client, now).await?;
            return Ok(match left {
                0 => ClientKeyPackageStatus::Exhausted,
                _ => ClientKeyPackageStatus::NothingCompatible,
            });
        };
        if !found.last_resort
            && change
                .expect
                .iter()
                .any(|e| *e == Expect::KeyPackage(found.reference.clone()))
        {
            return Err(Refusal::PolicyViolation(
                "a target is named twice".to_owned(),
            ));
        }
        if !found.last_resort {
            change
                .expect
                .push(Expect::KeyPackage(found.reference.clone()));
            change.writes.push(Write::RemoveKeyPackage(found.reference));
        }
        let key_package = KeyPackageBytes::new(found.bytes)
            .map_err(|_| Refusal::LimitExceeded("a KeyPackage is too long"))?;
        Ok(ClientKeyPackageStatus::Success { key_package })
    }
}
