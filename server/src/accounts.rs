//! The provider's own users and their clients.

use moh_messages::client_api::{Boolean, ClientAuthorization, Register};
use moh_messages::{Attestation, ClientId, List, QueueConfig, SignatureScheme, SignedLast, label};

use crate::change::{Change, Client, Expect, Write};
use crate::crypto;
use crate::error::Refusal;
use crate::node::Node;

impl Node {
    /// Registers a client, whose request is signed by the key that it brings. The first client
    /// of a user makes the user; a further one needs the word of another.
    ///
    /// # Errors
    /// `unauthorized` when registration is closed, the name is taken or the word is missing;
    /// `policy_violation` for a key that is not of a known scheme; `limit_exceeded`.
    pub async fn register(
        &self,
        client_id: &ClientId,
        register: &Register,
    ) -> Result<Attestation, Refusal> {
        let scheme = &register.scheme;
        let known = [
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_SECP256R1_SHA256,
        ];
        if !known.contains(scheme) {
            return Err(Refusal::PolicyViolation(
                "keys are Ed25519 or ECDSA P-256".to_owned(),
            ));
        }
        if client_id.provider() != *self.name() {
            return Err(Refusal::Unauthorized("this client is of another provider"));
        }
        self.commit_decided(|| self.admit(client_id, register))
            .await
    }

    async fn admit(
        &self,
        client_id: &ClientId,
        register: &Register,
    ) -> Result<(Change, Attestation), Refusal> {
        let Register {
            scheme,
            signature_key,
            authorization,
            invitation: _,
        } = register;
        let now = self.now_ms();
        let attestation = self.keys().attest(client_id, *scheme, signature_key, now);
        if let Some(client) = self.store().client(client_id).await? {
            if client.scheme != *scheme || client.signature_key != *signature_key {
                return Err(Refusal::Unauthorized("a client of this name is registered"));
            }
            return Ok((Change::default(), attestation));
        }
        let user = client_id.user_id();
        let clients = self.store().clients(&user).await?;
        let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
        match authorization {
            _ if count == 0 && self.registration_is_open() => {}
            _ if count == 0 => {
                return Err(Refusal::Unauthorized("this provider takes no new users"));
            }
            Some(word) => self.check_authorization(client_id, register, word).await?,
            None => {
                let what = "another client of this user has to authorize this one";
                return Err(Refusal::Unauthorized(what));
            }
        }
        if count >= self.limits().max_clients_per_user {
            return Err(Refusal::LimitExceeded("this user has too many clients"));
        }
        let (scheme, signature_key) = (*scheme, signature_key.clone());
        let client = Client {
            scheme,
            signature_key,
            registered_at: now,
        };
        let mut writes = vec![Write::Client {
            client_id: client_id.clone(),
            client,
        }];
        writes.extend(self.client_changed(&clients, client_id, Boolean::True));
        let change = Change {
            expect: vec![
                Expect::NoClient(client_id.clone()),
                Expect::ClientCount(user, count),
            ],
            writes,
        };
        Ok((change, attestation))
    }

    async fn check_authorization(
        &self,
        client_id: &ClientId,
        register: &Register,
        word: &ClientAuthorization,
    ) -> Result<(), Refusal> {
        const NOT_VALID: Refusal = Refusal::Unauthorized("the authorization is not valid");
        let is_for_this = word.client == *client_id
            && word.scheme == register.scheme
            && word.signature_key == register.signature_key
            && word.not_after >= self.now_ms()
            && word.authorizer.user_id() == client_id.user_id();
        if !is_for_this {
            return Err(NOT_VALID);
        }
        let authorizer = self
            .store()
            .client(&word.authorizer)
            .await?
            .ok_or(NOT_VALID)?;
        let valid = crypto::verify_with_label(
            authorizer.scheme,
            &authorizer.signature_key,
            label::CLIENT_AUTHORIZATION,
            &word.to_be_signed(),
            word.signature.as_slice(),
        );
        valid.then_some(()).ok_or(NOT_VALID)
    }

    /// Queue configs for a client's leaf nodes, no two alike.
    #[must_use]
    pub fn queue_configs(&self, client_id: &ClientId, count: u8) -> List<QueueConfig, 255> {
        let one = |_| QueueConfig {
            provider: self.name().clone(),
            client_queue_information: self.keys().seal_queue(self.random(), client_id),
        };
        List::new((0..count).map(one).collect()).expect("at most 255")
    }
}
