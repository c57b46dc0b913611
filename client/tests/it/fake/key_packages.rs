//! The KeyPackages that providers hand out.

use moh_client::{CipherSuite, UserId};
use moh_messages::{
    ClientKeyPackage, ClientKeyPackageStatus, DsProtocolVersion, GroupKeyPackageRequest,
    KeyPackageBytes, KeyPackageResponse, List, UserKeyPackageStatus, UserKeyPackages,
};
use openmls::prelude::{KeyPackageIn, MlsMessageBodyIn, MlsMessageIn};
use openmls_rust_crypto::RustCrypto;
use tls_codec::DeserializeBytes;

use super::State;

impl State {
    pub(super) fn key_packages(&mut self, request: &GroupKeyPackageRequest) -> KeyPackageResponse {
        let user = request.targets[0].clone();
        let same = user == request.requester;
        if !same
            && !self
                .consents
                .contains(&(user.clone(), request.requester.clone()))
        {
            return key_package_response(user, UserKeyPackageStatus::NoConsent, Vec::new());
        }
        let mut clients = Vec::new();
        for (client, account) in &mut self.clients {
            let wanted = request.clients.is_empty() || request.clients.contains(client);
            if client.user_id() != user || !wanted {
                continue;
            }
            let once = account
                .key_packages
                .iter()
                .position(|(last_resort, _)| !last_resort);
            // An MLSMessage's version and format, a KeyPackage's version, and then its suite.
            let fits = |bytes: &KeyPackageBytes| {
                let suite = bytes.as_slice()[6..8].try_into().unwrap();
                let suite = CipherSuite(u16::from_be_bytes(suite));
                request.cipher_suites.contains(&suite)
            };
            if !account.key_packages.iter().all(|(_, bytes)| fits(bytes)) {
                clients.push(ClientKeyPackage {
                    client: client.clone(),
                    status: ClientKeyPackageStatus::NothingCompatible,
                });
                continue;
            }
            let key_package = match once {
                Some(at) => account.key_packages.remove(at).map(|(_, bytes)| bytes),
                None => account.key_packages.front().map(|(_, bytes)| bytes.clone()),
            };
            clients.push(ClientKeyPackage {
                client: client.clone(),
                status: key_package.map_or(ClientKeyPackageStatus::Exhausted, |key_package| {
                    ClientKeyPackageStatus::Success { key_package }
                }),
            });
        }
        key_package_response(user, UserKeyPackageStatus::Success, clients)
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

pub(super) fn is_last_resort(bytes: &KeyPackageBytes) -> bool {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice()).unwrap();
    let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
        panic!("not a KeyPackage");
    };
    let version = openmls::prelude::ProtocolVersion::Mls10;
    KeyPackageIn::validate(key_package, &RustCrypto::default(), version)
        .unwrap()
        .last_resort()
}
