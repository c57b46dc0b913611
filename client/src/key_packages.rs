//! This client's KeyPackages, and those of others.

use moh_messages::client_api::{Boolean, ClientRequestBody, UploadKeyPackages};
use moh_messages::{
    CipherSuite, ClientId, ClientKeyPackageStatus, ConnectionKeyPackageRequest, DsProtocolVersion,
    DsResponse, DsResponseBody, Endpoint, GroupKeyPackageRequest, GroupType, KeyPackageBytes,
    KeyPackageResponse, List, Message, Opaque, ProviderAuth, UserId, UserKeyPackageStatus,
    UserKeyPackages,
};
use openmls::prelude::KeyPackage;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use tls_codec::DeserializeBytes;

use crate::attestations;
use crate::client::Client;
use crate::error::Error;
use crate::mls::{self, KeyPackageKind, LeafContent};
use crate::store::{KeyPackageRow, StoreError, Tx};

/// How many KeyPackages go into one upload.
const UPLOAD_BATCH: usize = 100;
/// A KeyPackage that ends within this time counts as gone, in seconds.
const ALMOST_OVER_S: u64 = 3 * 24 * 60 * 60;
/// How long private keys are kept after the end of their KeyPackage, for Welcomes that are still
/// on their way, in seconds.
const LATE_WELCOME_S: u64 = 30 * 24 * 60 * 60;

/// KeyPackages of a user's clients, checked.
pub(crate) struct Fetched {
    pub(crate) key_packages: Vec<KeyPackage>,
    pub(crate) clients: Vec<ClientId>,
    pub(crate) missing: Vec<ClientId>,
}

impl Client {
    /// Uploads so many KeyPackages that the provider has `count` of each kind to hand out: for
    /// groups, each of which lets somebody add this client to one, and for requests to connect.
    /// For when they are used up there is one of last resort of each kind. Call it after
    /// registering; from then on it is done again whenever they run low.
    ///
    /// # Errors
    /// When the provider refuses, there is no answer, or the state database cannot be used.
    pub async fn refill_key_packages(&self, count: usize) -> Result<(), Error> {
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        self.store()
            .run(move |tx| Ok::<_, Error>(tx.set_key_packages_wanted(wanted)?))
            .await?;
        self.refill(count, count).await?;
        Ok(())
    }

    /// Uploads so many KeyPackages that there are `count` of each kind of which there are fewer
    /// than `low`; how many that were.
    pub(crate) async fn refill(&self, count: usize, low: usize) -> Result<usize, Error> {
        let now_s = self.api().now_ms() / 1000;
        let rows = self
            .store()
            .run(move |tx| {
                forget_old(tx, now_s)?;
                Ok::<_, Error>(tx.key_packages()?)
            })
            .await?;
        let at_provider = self.counted_by_provider().await?;
        let mut uploaded = 0;
        for for_connections in [false, true] {
            let usable = |last_resort| {
                let kind = KeyPackageKind {
                    for_connections,
                    last_resort,
                };
                rows.iter()
                    .filter(|row| row.at_provider && row.kind == kind)
                    .filter(|row| row.not_after_s > now_s + ALMOST_OVER_S)
                    .count()
            };
            let kind = |last_resort| KeyPackageKind {
                for_connections,
                last_resort,
            };
            if usable(true) == 0 {
                self.upload(&[(kind(true), 1)], false).await?;
            }
            // Those that were handed out, and led to nothing here, are not there any more.
            let there = usable(false).min(at_provider(for_connections));
            if there >= low {
                continue;
            }
            let mut missing = count.saturating_sub(there);
            while missing > 0 {
                let batch = missing.min(UPLOAD_BATCH);
                self.upload(&[(kind(false), batch)], false).await?;
                missing -= batch;
                uploaded += batch;
            }
        }
        Ok(uploaded)
    }

    /// How many the provider says that it has, for groups and for connection groups.
    async fn counted_by_provider(&self) -> Result<impl Fn(bool) -> usize + use<>, Error> {
        let devices = match self.devices().await {
            Ok(devices) => devices,
            Err(Error::Refused { error, .. }) => {
                tracing::debug!(%error, "the provider does not say how many KeyPackages it has");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let this = devices
            .into_iter()
            .find(|device| device.client == *self.client_id());
        Ok(move |for_connections| {
            let count = this.as_ref().map_or(u32::MAX, |this| {
                if for_connections {
                    this.connection_key_packages
                } else {
                    this.key_packages
                }
            });
            usize::try_from(count).unwrap_or(usize::MAX)
        })
    }

    /// Makes so many KeyPackages of each of these kinds, and uploads them; in place of all that
    /// the provider has, or beside them.
    pub(crate) async fn upload(
        &self,
        what: &[(KeyPackageKind, usize)],
        replace: bool,
    ) -> Result<(), Error> {
        let kinds: Vec<_> = what
            .iter()
            .flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count))
            .collect();
        let attestation = self.attestation().await?;
        let configs = self
            .queue_configs(u8::try_from(kinds.len()).unwrap_or(u8::MAX))
            .await?;
        let this = self.clone();
        // The private keys are durable before anybody gets to see the public ones.
        let made = self
            .store()
            .run(move |tx| {
                let mut made = Vec::new();
                for (queue_config, kind) in configs.into_iter().zip(kinds) {
                    let leaf = LeafContent {
                        attestation: attestation.clone(),
                        queue_config,
                    };
                    made.push(this.make_key_package(tx, &leaf, kind)?);
                }
                Ok::<_, Error>(made)
            })
            .await?;
        let (references, key_packages): (Vec<_>, Vec<KeyPackageBytes>) = made.into_iter().unzip();
        let upload = ClientRequestBody::UploadKeyPackages(UploadKeyPackages {
            replace: if replace {
                Boolean::True
            } else {
                Boolean::False
            },
            key_packages: List::new(key_packages)?,
        });
        let uploaded = match self.api().call_for_ok(upload).await {
            Ok(()) => Ok(()),
            Err(error @ Error::Refused { .. }) if !error.is_temporary() => Err(error),
            // The provider may have them: their keys stay, and they are not counted.
            Err(error) => return Err(error),
        };
        let keep = uploaded.is_ok();
        self.store()
            .run(move |tx| {
                for reference in &references {
                    if keep {
                        tx.key_package_is_at_provider(reference)?;
                    } else {
                        forget(tx, reference)?;
                    }
                }
                Ok::<_, Error>(())
            })
            .await?;
        uploaded
    }

    fn make_key_package(
        &self,
        tx: &Tx<'_>,
        leaf: &LeafContent,
        kind: KeyPackageKind,
    ) -> Result<(Vec<u8>, KeyPackageBytes), Error> {
        let (reference, not_after_s, bytes) =
            mls::create_key_package(tx, &self.identity(), leaf, kind, self.api().now_ms())?;
        tx.insert_key_package(&KeyPackageRow {
            reference: reference.clone(),
            kind,
            not_after_s,
            at_provider: false,
        })?;
        Ok((reference, bytes))
    }

    /// A KeyPackage of each client of `user`, or of these only, for a group of this ciphersuite.
    pub(crate) async fn fetch_key_packages(
        &self,
        user: &UserId,
        only: Vec<ClientId>,
        suite: CipherSuite,
    ) -> Result<Fetched, Error> {
        let provider = user.provider();
        let request = GroupKeyPackageRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.api().provider.clone(),
            recipient: provider.clone(),
            requester: self.user_id().clone(),
            targets: List::new(vec![user.clone()])?,
            clients: List::new(only)?,
            cipher_suites: List::new(vec![suite])?,
            connection_token: Opaque::empty(),
            provider_auth: ProviderAuth::blank(),
        };
        let endpoint = Endpoint::GroupKeyPackages;
        let answer = self.ask_for_key_packages(user, endpoint, request.encode());
        let fetched = check(user, answer.await?, suite, GroupType::Regular)?;
        self.verify_attestations(&fetched).await?;
        Ok(fetched)
    }

    /// Whether the user's provider vouches for the clients. Nobody is added for whom it does not.
    async fn verify_attestations(&self, fetched: &Fetched) -> Result<(), Error> {
        for (key_package, client) in fetched.key_packages.iter().zip(&fetched.clients) {
            let scheme = mls::suite_of(key_package.ciphersuite()).signature_scheme();
            let verdict = match attestations::shown(key_package.leaf_node(), scheme) {
                Ok(attestation) => self.verify_now(&attestation).await?,
                Err(reason) => Err(reason),
            };
            verdict.map_err(|reason| Error::BadKeyPackage {
                client: client.clone(),
                detail: reason.to_string(),
            })?;
        }
        Ok(())
    }

    /// A KeyPackage of each client of `user`, for a connection group of this ciphersuite.
    pub(crate) async fn fetch_connection_key_packages(
        &self,
        user: &UserId,
        suite: CipherSuite,
    ) -> Result<Fetched, Error> {
        let request = ConnectionKeyPackageRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.api().provider.clone(),
            recipient: user.provider(),
            requester: self.user_id().clone(),
            target: user.clone(),
            cipher_suites: List::new(vec![suite])?,
            provider_auth: ProviderAuth::blank(),
        };
        let endpoint = Endpoint::ConnectionKeyPackages;
        let answer = self.ask_for_key_packages(user, endpoint, request.encode());
        let answer = answer.await?;
        if answer.clients.is_empty() {
            return Err(Error::NoSuchUser(user.clone()));
        }
        let fetched = check(user, answer, suite, GroupType::Connection)?;
        self.verify_attestations(&fetched).await?;
        Ok(fetched)
    }

    async fn ask_for_key_packages(
        &self,
        user: &UserId,
        endpoint: Endpoint,
        request: Vec<u8>,
    ) -> Result<UserKeyPackages, Error> {
        let provider = user.provider();
        let (status, body) = self.api().forward(&provider, endpoint, request).await?;
        let bad_answer = |detail: String| Error::BadAnswer {
            by: provider.clone(),
            detail,
        };
        if !(200..300).contains(&status) {
            return Err(
                match DsResponse::decode(&body).map(|response| response.body) {
                    Ok(DsResponseBody::Error(error)) => Error::Refused {
                        by: provider,
                        error,
                    },
                    _ => bad_answer(format!("HTTP status {status}")),
                },
            );
        }
        let response =
            KeyPackageResponse::decode(&body).map_err(|error| bad_answer(error.to_string()))?;
        match response.users.into_vec().pop() {
            Some(answer) if answer.user == *user => Ok(answer),
            _ => Err(bad_answer(
                "no answer for the user that was asked for".to_owned(),
            )),
        }
    }
}

fn check(
    user: &UserId,
    answer: UserKeyPackages,
    suite: CipherSuite,
    group_type: GroupType,
) -> Result<Fetched, Error> {
    if answer.status == UserKeyPackageStatus::NoConsent {
        return Err(Error::NoConsent(user.clone()));
    }
    let crypto = RustCrypto::default();
    let mut fetched = Fetched {
        key_packages: Vec::new(),
        clients: Vec::new(),
        missing: Vec::new(),
    };
    for of_client in answer.clients {
        let client = of_client.client;
        let ClientKeyPackageStatus::Success { key_package } = of_client.status else {
            fetched.missing.push(client);
            continue;
        };
        let key_package =
            mls::check_key_package(&crypto, user, &client, &key_package, suite, group_type)?;
        fetched.key_packages.push(key_package);
        fetched.clients.push(client);
    }
    if fetched.key_packages.is_empty() {
        return Err(Error::NoKeyPackage(user.clone()));
    }
    Ok(fetched)
}

/// Deletes the keys of KeyPackages that nobody can use any more.
fn forget_old(tx: &Tx<'_>, now_s: u64) -> Result<(), StoreError> {
    for row in tx.key_packages()? {
        if row.not_after_s.saturating_add(LATE_WELCOME_S) < now_s {
            forget(tx, &row.reference)?;
        }
    }
    Ok(())
}

/// Deletes a KeyPackage and its private keys.
pub(crate) fn forget(tx: &Tx<'_>, reference: &[u8]) -> Result<(), StoreError> {
    use openmls_traits::storage::StorageProvider;
    let key = key_package_ref(reference)?;
    tx.storage().delete_key_package(&key)?;
    tx.delete_key_package_row(reference)
}

fn key_package_ref(
    reference: &[u8],
) -> Result<openmls::prelude::hash_ref::KeyPackageRef, StoreError> {
    let encoded = Opaque::<64>::new(reference)
        .map_err(|_| StoreError::Incomplete("a KeyPackageRef of at most 64 bytes"))?
        .encode();
    openmls::prelude::hash_ref::KeyPackageRef::tls_deserialize_exact_bytes(&encoded)
        .map_err(|_| StoreError::Incomplete("a KeyPackageRef"))
}
