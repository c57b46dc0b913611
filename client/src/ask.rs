//! Requests that an application makes itself.

use moh_messages::{DsAuth, DsRequest, DsResponseBody, Endpoint, Message, SignedLast};

use crate::api::Reply;
use crate::client::Client;
use crate::error::Error;
use crate::group::signed_request;

impl Client {
    /// Passes a request on to the provider that it is for, and gives its answer; once, as it is,
    /// without a look at the state of any group, and without a change to it. It is for what this
    /// crate has no method for, and to see what becomes of requests that it would not make.
    ///
    /// Where a leaf or a KeyPackage is to sign and there is no signature, this client signs.
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer.
    pub async fn ask(
        &self,
        endpoint: Endpoint,
        request: DsRequest,
    ) -> Result<DsResponseBody, Error> {
        let recipient = request.recipient.clone();
        let is_unsigned = match &request.auth {
            DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => {
                request.signature().is_some_and(|s| s.as_slice().is_empty())
            }
            DsAuth::Anonymous | DsAuth::Provider { .. } => false,
        };
        let bytes = if is_unsigned {
            signed_request(self.api(), request)?
        } else {
            request.encode()
        };
        match self.api().ask_owner(&recipient, endpoint, bytes).await {
            Reply::Done(body) => Ok(body),
            Reply::Refused(error) | Reply::Unknown(error) => Err(error),
        }
    }
}
