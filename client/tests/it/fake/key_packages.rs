//! The KeyPackages that providers hand out.

use moh_client::{CipherSuite, ClientId, UserId};
use moh_messages::client_api::{
    BlockTarget, Boolean, KeyPackagesLow, QueueItemPayload, UploadKeyPackages,
};
use moh_messages::{
    ClientKeyPackage, ClientKeyPackageStatus, ConnectionKeyPackageRequest, DsProtocolVersion,
    GroupKeyPackageRequest, KeyPackageBytes, KeyPackageResponse, List, UserKeyPackageStatus,
    UserKeyPackages, extension_type,
};
use openmls::prelude::{KeyPackageIn, MlsMessageBodyIn, MlsMessageIn};
use openmls_rust_crypto::RustCrypto;
use tls_codec::DeserializeBytes;

use super::accounts::boolean;
use super::{Account, State};

/// What a KeyPackage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyPackageKind {
    pub(super) last_resort: bool,
    pub(super) for_connections: bool,
}

impl Account {
    /// How many there are, without that of last resort.
    pub(super) fn count(&self, for_connections: bool) -> u32 {
        let kind = KeyPackageKind {
            last_resort: false,
            for_connections,
        };
        let count = self.key_packages.iter().filter(|(k, _)| *k == kind).count();
        u32::try_from(count).unwrap()
    }

    /// Takes one for a group of one of these ciphersuites.
    fn hand_out(
        &mut self,
        for_connections: bool,
        suites: &[CipherSuite],
    ) -> ClientKeyPackageStatus {
        // An MLSMessage's version and format, a KeyPackage's version, and then its suite.
        let fits = |bytes: &KeyPackageBytes| {
            let suite = bytes.as_slice()[6..8].try_into().unwrap();
            suites.contains(&CipherSuite(u16::from_be_bytes(suite)))
        };
        if !self.key_packages.iter().all(|(_, bytes)| fits(bytes)) {
            return ClientKeyPackageStatus::NothingCompatible;
        }
        let of_kind = |last_resort| KeyPackageKind {
            last_resort,
            for_connections,
        };
        let find = |kind| self.key_packages.iter().position(|(k, _)| *k == kind);
        let key_package = match (find(of_kind(false)), find(of_kind(true))) {
            (Some(at), _) => self.key_packages.remove(at).map(|(_, bytes)| bytes),
            (None, Some(at)) => Some(self.key_packages[at].1.clone()),
            (None, None) => None,
        };
        key_package.map_or(ClientKeyPackageStatus::Exhausted, |key_package| {
            ClientKeyPackageStatus::Success { key_package }
        })
    }
}

impl State {
    pub(super) fn upload(&mut self, client: &ClientId, upload: UploadKeyPackages) {
        let account = self.clients.get_mut(client).unwrap();
        if upload.replace == Boolean::True {
            account.key_packages.clear();
        }
        for key_package in upload.key_packages {
            let is_new = self.uploaded.insert(key_package.as_slice().to_vec());
            assert!(is_new, "a KeyPackage for the second time");
            let kind = kind_of(&key_package);
            account.told_low[usize::from(kind.for_connections)] = false;
            account.key_packages.push_back((kind, key_package));
        }
    }

    pub(super) fn key_packages(&mut self, request: &GroupKeyPackageRequest) -> KeyPackageResponse {
        let user = request.targets[0].clone();
        let same = user == request.requester;
        let consent = (user.clone(), request.requester.clone());
        if !same && !self.consents.contains(&consent) {
            return key_package_response(user, UserKeyPackageStatus::NoConsent, Vec::new());
        }
        let is_wanted =
            |client: &ClientId| request.clients.is_empty() || request.clients.contains(client);
        let clients = self.hand_out(&user, false, &request.cipher_suites, is_wanted);
        key_package_response(user, UserKeyPackageStatus::Success, clients)
    }

    pub(super) fn connection_key_packages(
        &mut self,
        request: &ConnectionKeyPackageRequest,
    ) -> KeyPackageResponse {
        let user = request.target.clone();
        let clients = match self.is_blocked(&user, &request.requester) {
            true => Vec::new(),
            false => self.hand_out(&user, true, &request.cipher_suites, |_| true),
        };
        let status = match clients.is_empty() {
            true => UserKeyPackageStatus::NothingCompatible,
            false => UserKeyPackageStatus::Success,
        };
        key_package_response(user, status, clients)
    }

    fn hand_out(
        &mut self,
        user: &UserId,
        for_connections: bool,
        suites: &[CipherSuite],
        is_wanted: impl Fn(&ClientId) -> bool,
    ) -> Vec<ClientKeyPackage> {
        let low = self.low_key_packages;
        let mut given = Vec::new();
        let mut notices = Vec::new();
        for (client, account) in &mut self.clients {
            if client.user_id() != *user || !is_wanted(client) {
                continue;
            }
            given.push(ClientKeyPackage {
                client: client.clone(),
                status: account.hand_out(for_connections, suites),
            });
            let left = account.count(for_connections);
            let told = &mut account.told_low[usize::from(for_connections)];
            if usize::try_from(left).unwrap() < low && !std::mem::replace(told, true) {
                notices.push((client.clone(), left));
            }
        }
        for (client, left) in notices {
            let for_connections = boolean(for_connections);
            let notice = QueueItemPayload::KeyPackagesLow(KeyPackagesLow {
                for_connections,
                left,
            });
            self.enqueue(&client, &client.provider(), notice);
        }
        given
    }

    pub(super) fn is_blocked(&self, user: &UserId, peer: &UserId) -> bool {
        let targets = [
            BlockTarget::User(peer.clone()),
            BlockTarget::Provider(peer.provider()),
        ];
        let mut targets = targets.into_iter();
        targets.any(|target| self.blocks.contains(&(user.clone(), target)))
    }
}

fn key_package_response(
    user: UserId,
    status: UserKeyPackageStatus,
    clients: Vec<ClientKeyPackage>,
) -> KeyPackageResponse {
    KeyPackageResponse {
        version: DsProtocolVersion::MOH1,
        users: List::new(vec![UserKeyPackages {
            user,
            status,
            clients: List::new(clients).unwrap(),
        }])
        .unwrap(),
    }
}

fn kind_of(bytes: &KeyPackageBytes) -> KeyPackageKind {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice()).unwrap();
    let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
        panic!("not a KeyPackage");
    };
    let version = openmls::prelude::ProtocolVersion::Mls10;
    let key_package = KeyPackageIn::validate(key_package, &RustCrypto::default(), version).unwrap();
    let marker = extension_type::CONNECTION_KEY_PACKAGE;
    KeyPackageKind {
        last_resort: key_package.last_resort(),
        for_connections: key_package
            .leaf_node()
            .extensions()
            .unknown(marker)
            .is_some(),
    }
}
