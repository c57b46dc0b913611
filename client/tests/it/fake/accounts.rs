//! Users and their clients, at their provider.

use std::collections::VecDeque;

use moh_client::{ClientId, DsErrorCode};
use moh_messages::client_api::{
    Boolean, ClientChanged, ClientInfo, ClientResponseBody, QueueItemPayload, Register,
};
use moh_messages::{List, SignatureScheme, SignedLast, label};

use super::{Account, Failure, State, refuse, verify};

impl State {
    pub(super) fn register(
        &mut self,
        client: ClientId,
        register: Register,
        now_ms: u64,
    ) -> Result<ClientResponseBody, Failure> {
        let user = client.user_id();
        match self.clients.get(&client) {
            Some(account) if account.key != register.signature_key => {
                return Err(refuse(DsErrorCode::UNAUTHORIZED));
            }
            Some(_) => {}
            None if self.tombstones.contains(client.as_str())
                || self.tombstones.contains(user.as_str()) =>
            {
                return Err(refuse(DsErrorCode::UNAUTHORIZED));
            }
            None if self.clients.keys().any(|other| other.user_id() == user) => {
                let given = register
                    .authorization
                    .clone()
                    .ok_or(refuse(DsErrorCode::UNAUTHORIZED))?;
                let key = &self.clients[&given.authorizer].key;
                let tbs = given.to_be_signed();
                verify(label::CLIENT_AUTHORIZATION, &tbs, key, &given.signature)?;
                assert_eq!(
                    (&given.client, &given.signature_key),
                    (&client, &register.signature_key)
                );
            }
            None => {
                let code = String::from_utf8(register.invitation.as_slice().to_vec()).unwrap();
                let codes = self.invitations.as_mut();
                if codes.is_some_and(|codes| !codes.remove(&code)) {
                    return Err(refuse(DsErrorCode::UNAUTHORIZED));
                }
            }
        }
        if !self.clients.contains_key(&client) {
            self.tell_others(&client, true);
        }
        self.clients.entry(client.clone()).or_insert(Account {
            key: register.signature_key.clone(),
            registered_at: now_ms,
            queue: Vec::new(),
            acknowledged: 0,
            loses: false,
            key_packages: VecDeque::new(),
            told_low: [false; 2],
        });
        Ok(ClientResponseBody::Registered {
            attestation: self.attest(client, &register, now_ms),
        })
    }

    pub(super) fn list_clients(&self, of: &ClientId) -> ClientResponseBody {
        let clients = self
            .clients
            .iter()
            .filter(|(client, _)| client.user_id() == of.user_id())
            .map(|(client, account)| ClientInfo {
                client: client.clone(),
                scheme: SignatureScheme::ED25519,
                signature_key: account.key.clone(),
                registered_at: account.registered_at,
                key_packages: account.count(false),
                connection_key_packages: account.count(true),
            })
            .collect();
        ClientResponseBody::Clients {
            clients: List::new(clients).unwrap(),
        }
    }

    pub(super) fn delete_client(
        &mut self,
        by: &ClientId,
        client: &ClientId,
    ) -> Result<(), Failure> {
        if client.user_id() != by.user_id() {
            return Err(refuse(DsErrorCode::UNAUTHORIZED));
        }
        if self.clients.remove(client).is_some() {
            self.tombstones.insert(client.as_str().to_owned());
            self.tell_others(client, false);
            self.propose_removals_of(client);
        }
        Ok(())
    }

    pub(super) fn delete_account(&mut self, by: &ClientId) {
        let user = by.user_id();
        self.tombstones.insert(user.as_str().to_owned());
        self.consents.retain(|(by, _)| *by != user);
        self.asked.retain(|(by, _), _| *by != user);
        let clients = self.clients.keys();
        let clients: Vec<_> = clients.filter(|c| c.user_id() == user).cloned().collect();
        for client in &clients {
            self.clients.remove(client);
        }
        for client in &clients {
            self.propose_removals_of(client);
        }
    }

    /// The owners of groups are told.
    fn propose_removals_of(&mut self, client: &ClientId) {
        let groups = self.groups.iter();
        let groups: Vec<_> = groups
            .filter(|(_, group)| group.members().contains(client))
            .map(|(id, _)| id.clone())
            .collect();
        for group in groups {
            self.propose_removal(&group, client);
        }
    }

    /// The other clients of the user are told.
    fn tell_others(&mut self, client: &ClientId, registered: bool) {
        let notice = QueueItemPayload::ClientChanged(ClientChanged {
            client: client.clone(),
            registered: boolean(registered),
        });
        self.notify_user(client, &notice);
    }

    /// Puts a notice into the queues of all clients of a user but one.
    pub(super) fn notify_user(&mut self, but: &ClientId, notice: &QueueItemPayload) {
        let clients: Vec<_> = self
            .clients
            .keys()
            .filter(|other| other.user_id() == but.user_id() && *other != but)
            .cloned()
            .collect();
        for other in clients {
            self.enqueue(&other, &other.provider(), notice.clone());
        }
    }
}

pub(super) fn boolean(value: bool) -> Boolean {
    match value {
        true => Boolean::True,
        false => Boolean::False,
    }
}
