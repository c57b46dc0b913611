//! The provider's own users and their clients.

use moh_messages::client_api::{
    Boolean, ClientAuthorization, ClientInfo, Invitation as InvitationCode, Register,
};
use moh_messages::{Attestation, ClientId, List, QueueConfig, SignatureScheme, SignedLast, label};

use crate::change::{Change, Client, Expect, Pool, Write};
use crate::config::Registration;
use crate::crypto;
use crate::error::Refusal;
use crate::node::Node;

/// So many clients of a user may have been deleted; the user gets no further ones then.
const MAX_DELETED_CLIENTS: u64 = 1_000;
/// Why somebody is not registered, as they are told: strangers do not learn who is here.
const NOT_REGISTERED: Refusal = Refusal::Unauthorized(
    "not registered: the name is or was taken, or an invitation or the word of another client of \
     this user is missing, used, or not valid any more",
);

/// The most clients of a user, whatever the limit says (section 12 of the protocol).
const MAX_CLIENTS: u32 = 32;

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
        let admitted = self.commit_decided(|| self.admit(client_id, register));
        admitted.await.map_err(|refusal| match refusal {
            Refusal::Unauthorized(why) => {
                tracing::info!(%client_id, why, "not registered");
                NOT_REGISTERED
            }
            other => other,
        })
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
            invitation,
        } = register;
        let now = self.now_ms();
        let attestation = self.keys().attest(client_id, *scheme, signature_key, now);
        if let Some(client) = self.store().client(client_id).await? {
            if client.scheme != *scheme || client.signature_key != *signature_key {
                return Err(Refusal::Unauthorized("a client of this name is registered"));
            }
            return Ok((Change::default(), attestation));
        }
        if self.store().is_deleted(client_id).await? {
            return Err(Refusal::Unauthorized("this name was deleted"));
        }
        let user = client_id.user_id();
        let clients = self.store().clients(&user).await?;
        let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
        let mut change = match authorization {
            _ if count == 0 => self.admit_user(invitation, now).await?,
            Some(word) => self.admit_by(client_id, register, word).await?,
            None => {
                let what = "another client of this user has to authorize this one";
                return Err(Refusal::Unauthorized(what));
            }
        };
        // An answer with their KeyPackages holds not more.
        if count >= self.limits().max_clients_per_user.min(MAX_CLIENTS) {
            return Err(Refusal::LimitExceeded("this user has too many clients"));
        }
        // Names that were deleted are kept for ever.
        if self.store().deleted_clients(&user).await? >= MAX_DELETED_CLIENTS {
            return Err(Refusal::LimitExceeded("this user has had too many clients"));
        }
        let (scheme, signature_key) = (*scheme, signature_key.clone());
        let client = Client {
            scheme,
            signature_key,
            registered_at: now,
        };
        change.expect.extend([
            Expect::NoClient(client_id.clone()),
            Expect::ClientCount(user, count),
        ]);
        change.writes.push(Write::Client {
            client_id: client_id.clone(),
            client,
        });
        let told = self.client_changed(&clients, client_id, Boolean::True);
        change.writes.extend(told);
        Ok((change, attestation))
    }

    /// Whether somebody may become a user: what that is based on, and what follows from it.
    async fn admit_user(&self, code: &InvitationCode, now: u64) -> Result<Change, Refusal> {
        const NOT_VALID: Refusal = Refusal::Unauthorized("the invitation is not valid");
        match self.registration() {
            Registration::Open => return Ok(Change::default()),
            Registration::Invitation => {}
            Registration::Off => {
                return Err(Refusal::Unauthorized("this provider takes no new users"));
            }
        }
        if code.is_empty() {
            return Err(Refusal::Unauthorized("new users need an invitation"));
        }
        let invitation = self.keys().invitation(code.as_slice()).ok_or(NOT_VALID)?;
        if now > invitation.not_after {
            return Err(Refusal::Unauthorized("the invitation has expired"));
        }
        if self.store().invitation_is_used(&invitation.id).await? {
            return Err(Refusal::Unauthorized("the invitation has been used"));
        }
        Ok(Change {
            expect: vec![Expect::UnusedInvitation(invitation.id)],
            writes: vec![Write::UseInvitation {
                invitation: invitation.id,
                expires_at: invitation.not_after,
            }],
        })
    }

    /// Whether a user may have a further client by the word of another: what that is based on.
    async fn admit_by(
        &self,
        client_id: &ClientId,
        register: &Register,
        word: &ClientAuthorization,
    ) -> Result<Change, Refusal> {
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
        valid.then_some(()).ok_or(NOT_VALID)?;
        Ok(Change {
            // Who is deleted meanwhile has no word in this.
            expect: vec![Expect::Client(word.authorizer.clone())],
            writes: Vec::new(),
        })
    }

    /// The clients of a client's user, with what is left of their KeyPackages.
    ///
    /// # Errors
    /// `unavailable` when the store fails; `limit_exceeded`.
    pub async fn list_clients(&self, client: &ClientId) -> Result<List<ClientInfo, 256>, Refusal> {
        let now = self.now_ms();
        let mut infos = Vec::new();
        for client in self.store().clients(&client.user_id()).await? {
            let Some(known) = self.store().client(&client).await? else {
                continue;
            };
            let left = async |for_connections| {
                let client_id = client.clone();
                let pool = Pool {
                    client_id,
                    for_connections,
                };
                let left = self.store().key_packages(&pool, now).await?.left;
                Ok::<_, Refusal>(u32::try_from(left).unwrap_or(u32::MAX))
            };
            infos.push(ClientInfo {
                scheme: known.scheme,
                signature_key: known.signature_key,
                registered_at: known.registered_at,
                key_packages: left(false).await?,
                connection_key_packages: left(true).await?,
                client,
            });
        }
        List::new(infos).map_err(|_| Refusal::LimitExceeded("this user has too many clients"))
    }

    /// Deletes a client, at the word of itself or of another one of its user. With its last
    /// client, a user is gone. One that is not there is deleted already.
    ///
    /// # Errors
    /// `unauthorized` for a client of somebody else; `unavailable` when the store fails.
    pub async fn delete_client(&self, by: &ClientId, client: &ClientId) -> Result<(), Refusal> {
        if client.user_id() != by.user_id() {
            return Err(Refusal::Unauthorized("this client is of another user"));
        }
        self.commit_decided(|| self.dismiss(by, Some(client))).await
    }

    /// Deletes a client's user, with all of its clients.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn delete_account(&self, by: &ClientId) -> Result<(), Refusal> {
        self.commit_decided(|| self.dismiss(by, None)).await
    }

    /// What follows when one client of a user is to go, or all of them.
    async fn dismiss(
        &self,
        by: &ClientId,
        only: Option<&ClientId>,
    ) -> Result<(Change, ()), Refusal> {
        let (user, now) = (by.user_id(), self.now_ms());
        let clients = self.store().clients(&user).await?;
        if !clients.contains(by) {
            return Err(Refusal::Unauthenticated("no such client, or key"));
        }
        let is_to_go = |client: &ClientId| only.is_none_or(|only| only == client);
        let (gone, left): (Vec<_>, Vec<_>) = clients.iter().cloned().partition(is_to_go);
        let mut change = Change::default();
        if gone.is_empty() {
            return Ok((change, ()));
        }
        let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
        change.expect.push(Expect::ClientCount(user.clone(), count));
        let all = clients.into_iter().map(Expect::Client);
        change.expect.extend(all);
        for client_id in gone {
            let told = self.client_changed(&left, &client_id, Boolean::False);
            change.writes.extend(Self::deletion_writes(&client_id, now));
            change
                .writes
                .push(Write::DeleteClient { client_id, at: now });
            change.writes.extend(told);
        }
        if left.is_empty() {
            change.writes.push(Write::ForgetUser { user: user.clone() });
            change.writes.push(Write::DeleteUser { user, at: now });
        }
        Ok((change, ()))
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
