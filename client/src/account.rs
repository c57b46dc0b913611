//! A client's registration with its provider, and further devices of a user.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moh_messages::client_api::{
    ClientAuthorization, ClientRequestBody, ClientResponseBody, ConnectionState, DeclineConnection,
    Invitation, Register,
};
use moh_messages::{
    Attestation, CipherSuite, ClientId, DsErrorCode, PublicKey, Signature, SignatureScheme,
    SignedLast, UserId, label,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider;

use crate::api::Api;
use crate::client::Client;
use crate::error::Error;
use crate::events::Event;
use crate::key_file::{self, KeyFile};
use crate::mls::{self, KeyPackageKind};
use crate::store::{AccountRow, ConnectionRow, Step, Store, StoreError, Tx};
use crate::transport::ConnectOptions;
use crate::upkeep::is_half_over;

/// How long an authorization for a new device can be used, in milliseconds.
const AUTHORIZATION_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// How many KeyPackages of each kind there are to be where it is not known how many there were.
const KEY_PACKAGES_AFTER_LOSS: u32 = 50;

/// What a new device shows to another device of its user, who should see that it is the same on
/// both: as a QR code, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// The new device.
    pub client: ClientId,
    /// How its key verifies.
    pub scheme: SignatureScheme,
    /// Its key.
    pub signature_key: PublicKey,
}

/// A device that is to become a further client of a user.
///
/// It has a key, which is stored, and no account yet.
pub struct NewDevice {
    store: Store,
    api: Api,
    account: AccountRow,
    /// The state of before is lost, and this does not replace it yet.
    is_new: bool,
}

impl std::fmt::Debug for NewDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewDevice")
            .field("client", &self.account.client)
            .finish_non_exhaustive()
    }
}

impl NewDevice {
    /// Makes a key for `client` and stores it at `path`. With the path of an earlier attempt
    /// for the same client, that one is taken up again.
    ///
    /// # Errors
    /// When the state database cannot be used, or belongs to another client.
    pub async fn prepare(
        options: ConnectOptions,
        path: impl AsRef<Path>,
        client: ClientId,
    ) -> Result<Self, Error> {
        create(&options, path.as_ref(), Some(client)).await
    }

    /// What to show to a device that is registered already: see [`Client::authorize`].
    ///
    /// # Panics
    /// Never: public keys are short.
    #[must_use]
    pub fn request(&self) -> DeviceRequest {
        DeviceRequest {
            client: self.account.client.clone(),
            scheme: scheme(self.account.cipher_suite),
            signature_key: PublicKey::new(self.api.signer.public()).expect("keys are short"),
        }
    }

    /// Registers the device.
    ///
    /// # Errors
    /// When the authorization is for something else, the provider refuses it, or there is no
    /// answer; then the same call can be made again.
    pub async fn register(self, authorization: ClientAuthorization) -> Result<Client, Error> {
        let request = self.request();
        if authorization.client != request.client
            || authorization.signature_key != request.signature_key
        {
            return Err(Error::WrongAuthorization);
        }
        self.complete(Some(authorization), Invitation::empty())
            .await
    }

    /// Registers the device, and makes up for what was lost, where something was.
    async fn complete(
        self,
        authorization: Option<ClientAuthorization>,
        invitation: Invitation,
    ) -> Result<Client, Error> {
        let suite = self.account.cipher_suite;
        let attestation = attest(&self.api, suite, authorization, invitation).await?;
        keep(&self.store, &attestation).await?;
        let client = Client::assemble(self.store, &self.account, self.api);
        if self.is_new {
            client.make_up_for_lost_state().await?;
        }
        Ok(client)
    }
}

/// Creates the account of `user`, with its first device.
pub(crate) async fn register_first(
    options: ConnectOptions,
    path: &Path,
    user: &UserId,
    device: &str,
) -> Result<Client, Error> {
    let client = ClientId::new(user, device)?;
    let invitation = Invitation::new(options.invitation.as_bytes())?;
    let device = create(&options, path, Some(client)).await?;
    device.complete(None, invitation).await
}

/// Opens the state of a client that is registered; or begins anew with its key, where all else is
/// lost.
pub(crate) async fn open(options: ConnectOptions, path: &Path) -> Result<Client, Error> {
    let device = create(&options, path, None).await?;
    if device.is_new {
        let opened = device.complete(None, Invitation::empty()).await;
        return opened.map_err(|error| match error.refusal() {
            // There is a key, and it was never registered.
            Some(refusal) if refusal.code == DsErrorCode::UNAUTHORIZED => Error::NotRegistered,
            _ => error,
        });
    }
    if device.account.attestation.is_none() {
        return Err(Error::NotRegistered);
    }
    Ok(Client::assemble(device.store, &device.account, device.api))
}

/// The state of a client that is to be registered, or is already; without a name, that of the
/// client whose state, or key, there is. Its key is durable when this returns, in the database
/// and in a file of its own.
async fn create(
    options: &ConnectOptions,
    path: &Path,
    client: Option<ClientId>,
) -> Result<NewDevice, Error> {
    let (work, key_path) = (options.work, key_file::path_beside(path));
    let (at, there) = (key_path.clone(), path.exists());
    let (kept, unreadable) = match work.run(move || KeyFile::read(&at)).await {
        Ok(kept) => (kept, None),
        Err(error) => (None, Some(error)),
    };
    if let Some(error) = unreadable
        && !there
    {
        return Err(error.into());
    }
    if client.is_none() && kept.is_none() && !there {
        return Err(Error::NotRegistered);
    }
    let client = match (client, &kept) {
        (Some(client), Some(kept)) if client != kept.client => {
            return Err(Error::OtherClient(kept.client.clone()));
        }
        (Some(client), _) => Some(client),
        (None, kept) => kept.as_ref().map(|kept| kept.client.clone()),
    };
    if client
        .as_ref()
        .is_some_and(|client| client.provider() != options.provider)
    {
        return Err(Error::Name(moh_messages::InvalidName::Client));
    }
    let cipher_suite = kept
        .as_ref()
        .map_or(options.cipher_suite, |kept| kept.cipher_suite);
    if cipher_suite.signature_scheme().is_none() {
        return Err(Error::CipherSuite(cipher_suite));
    }
    let kept_public = kept.as_ref().map(|kept| kept.signer.to_public_vec());
    let store = Store::open(path, Arc::clone(&options.random), work).await?;
    let (account, signer, is_new) = store
        .run(move |tx| first_state(tx, client, cipher_suite, kept))
        .await?;
    if kept_public.as_ref() != Some(&account.signature_key) {
        let (client, suite) = (account.client.clone(), account.cipher_suite);
        // One that does not belong to this database may belong to another.
        let at = key_path.clone();
        work.run(move || KeyFile::set_aside(&at)).await?;
        work.run(move || KeyFile::write(&key_path, &client, suite, &signer))
            .await?;
    }
    let row = account.clone();
    let signer = store.run(move |tx| signer_of(tx.storage(), &row)).await?;
    let api = api(options, &account, signer)?;
    Ok(NewDevice {
        store,
        api,
        account,
        is_new,
    })
}

/// Takes the state that there is, or begins one; whether that is because the one of before is
/// lost.
fn first_state(
    tx: &Tx<'_>,
    client: Option<ClientId>,
    cipher_suite: CipherSuite,
    kept: Option<KeyFile>,
) -> Result<(AccountRow, SignatureKeyPair, bool), Error> {
    if let Some(account) = tx.account()? {
        if client.is_some_and(|client| account.client != client) {
            return Err(Error::OtherClient(account.client));
        }
        match kept {
            // Nobody knows the other key.
            Some(kept) if account.attestation.is_none() => {
                kept.signer.store(tx.storage())?;
                let account = AccountRow {
                    cipher_suite: kept.cipher_suite,
                    signature_key: kept.signer.to_public_vec(),
                    ..account
                };
                tx.set_key(&account)?;
                return Ok((account, kept.signer, tx.is_new()?));
            }
            _ => {}
        }
        let signer = signer_of(tx.storage(), &account)?;
        return Ok((account, signer, tx.is_new()?));
    }
    let client = client.ok_or(Error::NotRegistered)?;
    let is_new = kept.is_some();
    let signer = match kept {
        Some(kept) => kept.signer,
        None => {
            let scheme = mls::ciphersuite(cipher_suite)?.signature_algorithm();
            mls::new_signature_key(tx, scheme)?
        }
    };
    signer.store(tx.storage())?;
    let account = AccountRow {
        client,
        cipher_suite,
        signature_key: signer.to_public_vec(),
        attestation: None,
    };
    tx.insert_account(&account, is_new)?;
    Ok((account, signer, is_new))
}

fn signer_of(
    storage: &crate::store::Kv<'_>,
    account: &AccountRow,
) -> Result<SignatureKeyPair, Error> {
    let scheme = mls::ciphersuite(account.cipher_suite)?.signature_algorithm();
    SignatureKeyPair::read(storage, &account.signature_key, scheme)
        .ok_or(StoreError::Incomplete("the client's signature key").into())
}

fn api(
    options: &ConnectOptions,
    account: &AccountRow,
    signer: SignatureKeyPair,
) -> Result<Api, Error> {
    Ok(Api::new(
        account.client.clone(),
        signer,
        options.connect()?,
        Arc::clone(&options.clock),
        Arc::clone(&options.random),
    ))
}

fn scheme(suite: CipherSuite) -> SignatureScheme {
    suite.signature_scheme().unwrap_or(SignatureScheme::ED25519)
}

async fn keep(store: &Store, attestation: &Attestation) -> Result<(), Error> {
    let attestation = attestation.clone();
    store
        .run(move |tx| Ok(tx.set_attestation(&attestation)?))
        .await
}

/// Registers the client's key, or has it attested anew.
async fn attest(
    api: &Api,
    suite: CipherSuite,
    authorization: Option<ClientAuthorization>,
    invitation: Invitation,
) -> Result<Attestation, Error> {
    let signature_key = PublicKey::new(api.signer.public())?;
    let register = ClientRequestBody::Register(Register {
        scheme: scheme(suite),
        signature_key: signature_key.clone(),
        authorization,
        invitation,
    });
    match api.call(register, Duration::ZERO).await? {
        ClientResponseBody::Registered { attestation }
            if attestation.client_id == api.client
                && attestation.signature_key == signature_key =>
        {
            Ok(attestation)
        }
        _ => Err(api.bad_answer("no attestation of this client and key")),
    }
}

impl Client {
    /// What came in on the state that is lost is of no use any more: its KeyPackages are replaced.
    /// Groups come back when something arrives for them; who is connected the provider knows.
    async fn make_up_for_lost_state(&self) -> Result<(), Error> {
        let last_resort = |for_connections| KeyPackageKind {
            for_connections,
            last_resort: true,
        };
        let kinds = [(last_resort(false), 1), (last_resort(true), 1)];
        self.upload(&kinds, true).await?;
        let connections = self.connections_at_provider().await?;
        for connection in &connections {
            // What they sent cannot be read any more; they may ask again.
            if connection.state == ConnectionState::Asked {
                let peer = connection.peer.clone();
                let decline = ClientRequestBody::DeclineConnection(DeclineConnection { peer });
                self.api().call_for_ok(decline).await?;
            }
        }
        let now_ms = self.api().now_ms();
        self.store()
            .run(move |tx| {
                for connection in connections {
                    let (peer, since_ms) = (connection.peer, connection.since);
                    if connection.state == ConnectionState::Consented
                        && tx.connection(&peer)?.is_none()
                    {
                        let row = ConnectionRow::new(peer, Step::Connected, since_ms, None);
                        tx.put_connection(&row)?;
                    }
                }
                tx.set_key_packages_wanted(KEY_PACKAGES_AFTER_LOSS)?;
                tx.insert_event(&Event::StateLost)?;
                Ok::<_, Error>(tx.set_not_new(now_ms)?)
            })
            .await
    }

    /// This device's word that the new device is its user's, for [`NewDevice::register`].
    ///
    /// Ask your user first whether `request` is what the new device shows.
    ///
    /// # Errors
    /// When the new device is to be another user's.
    pub fn authorize(&self, request: &DeviceRequest) -> Result<ClientAuthorization, Error> {
        if request.client.user_id() != *self.user_id() {
            return Err(Error::WrongAuthorization);
        }
        let mut authorization = ClientAuthorization {
            authorizer: self.client_id().clone(),
            client: request.client.clone(),
            scheme: request.scheme,
            signature_key: request.signature_key.clone(),
            not_after: self.api().now_ms() + AUTHORIZATION_LIFE_MS,
            signature: Signature::empty(),
        };
        authorization.signature = self
            .api()
            .sign(label::CLIENT_AUTHORIZATION, &authorization.to_be_signed())?;
        Ok(authorization)
    }

    /// An attestation that is good for some time yet; a new one where half of its life is over.
    pub(crate) async fn attestation(&self) -> Result<Attestation, Error> {
        let stored = self.store().run(|tx| Ok::<_, Error>(tx.account()?)).await?;
        let stored = stored
            .and_then(|account| account.attestation)
            .ok_or(Error::NotRegistered)?;
        let now_ms = self.api().now_ms();
        if !is_half_over(&stored, now_ms) {
            return Ok(stored);
        }
        match attest(self.api(), self.cipher_suite(), None, Invitation::empty()).await {
            Ok(attestation) => {
                let row = attestation.clone();
                self.store()
                    .run(move |tx| {
                        tx.set_attestation(&row)?;
                        let not_after_ms = row.not_after;
                        tx.insert_event(&Event::AttestationRenewed { not_after_ms })?;
                        Ok::<_, Error>(())
                    })
                    .await?;
                self.new_events().notify_one();
                Ok(attestation)
            }
            Err(error) if now_ms < stored.not_after => {
                tracing::warn!(%error, "the attestation could not be renewed yet");
                Ok(stored)
            }
            Err(error) => Err(error),
        }
    }
}
