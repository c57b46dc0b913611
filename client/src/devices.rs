//! The devices of this client's user, and the end of them.

use std::time::Duration;

use moh_messages::client_api::{
    ClientInfo, ClientRequestBody, ClientResponseBody, DeleteAccount, DeleteClient, ListClients,
};
use moh_messages::{ClientId, DsErrorCode, PublicKey};

use crate::client::Client;
use crate::error::Error;

/// A device of this client's user, as their provider knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub client: ClientId,
    /// The key that it is registered with.
    pub signature_key: PublicKey,
    /// Since when, in milliseconds since the Unix epoch.
    pub registered_at_ms: u64,
    /// For how many groups it can be added to there are KeyPackages, without that of last resort.
    pub key_packages: u32,
    /// The same for connection groups.
    pub connection_key_packages: u32,
}

impl From<ClientInfo> for Device {
    fn from(info: ClientInfo) -> Self {
        Self {
            client: info.client,
            signature_key: info.signature_key,
            registered_at_ms: info.registered_at,
            key_packages: info.key_packages,
            connection_key_packages: info.connection_key_packages,
        }
    }
}

impl Client {
    /// The devices of this client's user, this one among them, by name.
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer.
    pub async fn devices(&self) -> Result<Vec<Device>, Error> {
        let list = ClientRequestBody::ListClients(ListClients {});
        match self.api().call(list, Duration::ZERO).await? {
            ClientResponseBody::Clients { clients } => {
                Ok(clients.into_iter().map(Device::from).collect())
            }
            _ => Err(self.api().bad_answer("no list of clients")),
        }
    }

    /// Deletes a device of this client's user: it is removed from all groups, can ask for nothing
    /// any more, and its name is not given again. Where it is this one, its state is deleted as
    /// by [`delete_account`](Self::delete_account).
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer; then the same call can be made again.
    pub async fn delete_device(&self, device: &ClientId) -> Result<(), Error> {
        let delete = ClientRequestBody::DeleteClient(DeleteClient {
            client: device.clone(),
        });
        if device == self.client_id() {
            self.end(delete).await
        } else {
            self.api().call_for_ok(delete).await
        }
    }

    /// Deletes the account of this client's user, with all devices and connections. The state
    /// that is stored here is deleted too: from then on every call ends in
    /// [`Error::AccountDeleted`], as does [`Client::open`].
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer; then the same call can be made again.
    pub async fn delete_account(&self) -> Result<(), Error> {
        self.end(ClientRequestBody::DeleteAccount(DeleteAccount {}))
            .await
    }

    /// Asks for the end of this client, and deletes its state when the provider has done so.
    async fn end(&self, request: ClientRequestBody) -> Result<(), Error> {
        let asked_before = self
            .store()
            .run(|tx| {
                let before = tx.is_ending()?;
                tx.set_ending()?;
                Ok::<_, Error>(before)
            })
            .await?;
        match self.api().call_for_ok(request).await {
            Ok(()) => {}
            // It was done, and the answer was lost.
            Err(Error::Refused { error, .. })
                if asked_before && error.code == DsErrorCode::UNAUTHENTICATED => {}
            Err(error) => return Err(error),
        }
        self.store().wipe().await?;
        self.api().end();
        self.new_events().notify_waiters();
        self.new_events().notify_one();
        Ok(())
    }
}
