//! Requests to the client's own provider, and through it to the owners of groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use moh_messages::client_api::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, Forward,
};
use moh_messages::{
    ClientId, DsError, DsErrorCode, DsProtocolVersion, DsResponse, DsResponseBody, Endpoint,
    Message, Nonce, Opaque, ProviderName, Signature, SignedLast, label, sign_content,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer;

use crate::clock::{Clock, Random};
use crate::error::{Error, TransportError, is_temporary};
use crate::transport::{Answer, Transport};

/// Signs and sends what one client asks of its provider.
pub(crate) struct Api {
    pub(crate) client: ClientId,
    pub(crate) provider: ProviderName,
    pub(crate) signer: SignatureKeyPair,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) transport: Arc<dyn Transport>,
    /// The provider's clock minus ours, in milliseconds.
    clock_offset_ms: AtomicI64,
    /// The client was deleted.
    is_over: AtomicBool,
}

/// What became of a request to a group's owner.
pub(crate) enum Reply {
    /// The owner did it.
    Done(DsResponseBody),
    /// It was refused for good: the owner will not do it.
    Refused(Error),
    /// The owner may have done it, or may do it later: the same request again will tell.
    Unknown(Error),
}

impl Api {
    pub(crate) fn new(
        client: ClientId,
        signer: SignatureKeyPair,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            provider: client.provider(),
            client,
            signer,
            clock,
            random,
            transport,
            clock_offset_ms: AtomicI64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// The time as the provider sees it.
    pub(crate) fn now_ms(&self) -> u64 {
        let offset = self.clock_offset_ms.load(Ordering::Relaxed);
        self.clock.now_ms().saturating_add_signed(offset)
    }

    /// Asks for nothing any more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Signs something of the protocol with this client's key.
    pub(crate) fn sign(&self, label: &str, tbs: &[u8]) -> Result<Signature, Error> {
        let signature = self
            .signer
            .sign(&sign_content(label, tbs))
            .map_err(|error| Error::Mls(format!("signing: {error:?}")))?;
        Ok(Signature::new(signature)?)
    }

    /// The bytes of a request, signed now.
    pub(crate) fn signed(&self, body: ClientRequestBody) -> Result<Vec<u8>, Error> {
        let mut request = self.unsigned(body);
        self.sign_again(&mut request)?;
        Ok(request.encode())
    }

    fn unsigned(&self, body: ClientRequestBody) -> ClientRequest {
        ClientRequest {
            version: DsProtocolVersion::MOH1,
            recipient: self.provider.clone(),
            client: self.client.clone(),
            timestamp: 0,
            nonce: Nonce::new([0; 16]).expect("16 bytes"),
            body,
            signature: Signature::empty(),
        }
    }

    fn sign_again(&self, request: &mut ClientRequest) -> Result<(), Error> {
        let mut nonce = [0; 16];
        self.random.fill(&mut nonce);
        request.nonce = Nonce::new(nonce).expect("16 bytes");
        request.timestamp = self.now_ms();
        request.signature = self.sign(label::CLIENT_REQUEST, &request.to_be_signed())?;
        Ok(())
    }

    /// Asks the provider. `wait` is how long it may take on purpose.
    pub(crate) async fn call(
        &self,
        body: ClientRequestBody,
        wait: Duration,
    ) -> Result<ClientResponseBody, Error> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(Error::AccountDeleted);
        }
        let mut request = self.unsigned(body);
        let mut clock_is_corrected = false;
        loop {
            self.sign_again(&mut request)?;
            let answer = self
                .transport
                .post(request.encode(), wait)
                .await
                .map_err(|source| self.unreachable(source))?;
            match self.read(answer) {
                Err(Error::Refused { error, .. })
                    if !clock_is_corrected && self.corrects_clock(&error) =>
                {
                    clock_is_corrected = true;
                }
                result => return result,
            }
        }
    }

    pub(crate) async fn call_for_ok(&self, body: ClientRequestBody) -> Result<(), Error> {
        match self.call(body, Duration::ZERO).await? {
            ClientResponseBody::Ok => Ok(()),
            _ => Err(self.bad_answer("not ok")),
        }
    }

    /// Whether this says that our clock is wrong, and by how much.
    pub(crate) fn corrects_clock(&self, error: &DsError) -> bool {
        if error.code != DsErrorCode::REPLAYED {
            return false;
        }
        let Ok(theirs) = u64::decode(error.data.as_slice()) else {
            return false;
        };
        let offset = i128::from(theirs) - i128::from(self.clock.now_ms());
        let Ok(offset) = i64::try_from(offset) else {
            return false;
        };
        self.clock_offset_ms.store(offset, Ordering::Relaxed);
        true
    }

    fn read(&self, answer: Answer) -> Result<ClientResponseBody, Error> {
        if !answer.is_octet_stream {
            let source = crate::transport::status_error(answer.status, &answer.body);
            return Err(self.unreachable(source));
        }
        if (200..300).contains(&answer.status) {
            return self.read_response(&answer.body);
        }
        match DsResponse::decode(&answer.body).map(|response| response.body) {
            Ok(DsResponseBody::Error(error)) => Err(Error::Refused {
                by: self.provider.clone(),
                error,
            }),
            _ => Err(self.bad_answer("an error that is none")),
        }
    }

    /// The content of a [`ClientResponse`].
    pub(crate) fn read_response(&self, bytes: &[u8]) -> Result<ClientResponseBody, Error> {
        match ClientResponse::decode(bytes) {
            Ok(response) if response.version == DsProtocolVersion::MOH1 => Ok(response.body),
            Ok(_) => Err(self.bad_answer("another version")),
            Err(error) => Err(self.bad_answer(&error.to_string())),
        }
    }

    /// The error that came where something else was expected, and what it says about our clock.
    pub(crate) fn refusal_in(&self, bytes: &[u8]) -> Option<Error> {
        match DsResponse::decode(bytes).ok()?.body {
            DsResponseBody::Error(error) => {
                self.corrects_clock(&error);
                Some(Error::Refused {
                    by: self.provider.clone(),
                    error,
                })
            }
            _ => None,
        }
    }

    pub(crate) fn unreachable(&self, source: TransportError) -> Error {
        Error::Unreachable {
            provider: self.provider.clone(),
            source,
        }
    }

    pub(crate) fn bad_answer(&self, detail: &str) -> Error {
        Error::BadAnswer {
            by: self.provider.clone(),
            detail: detail.to_owned(),
        }
    }

    /// Has a request forwarded; the status and body of what the other provider answered.
    pub(crate) async fn forward(
        &self,
        destination: &ProviderName,
        endpoint: Endpoint,
        request: Vec<u8>,
    ) -> Result<(u16, Vec<u8>), Error> {
        let forward = Forward {
            destination: destination.clone(),
            endpoint,
            request: Opaque::new(request)?,
        };
        match self
            .call(ClientRequestBody::Forward(forward), Duration::ZERO)
            .await?
        {
            ClientResponseBody::Forwarded {
                http_status,
                response,
            } => Ok((http_status, response.into_vec())),
            _ => Err(self.bad_answer("not forwarded")),
        }
    }

    /// Sends a DSRequest to the owner of a group.
    pub(crate) async fn ask_owner(
        &self,
        owner: &ProviderName,
        endpoint: Endpoint,
        request: Vec<u8>,
    ) -> Reply {
        let (status, body) = match self.forward(owner, endpoint, request).await {
            Ok(answer) => answer,
            Err(error) if was_never_forwarded(&error) => return Reply::Refused(error),
            Err(error) => return Reply::Unknown(error),
        };
        match DsResponse::decode(&body).map(|response| response.body) {
            Ok(DsResponseBody::Error(error)) => {
                let temporary = is_temporary(error.code)
                    || error.code.name().is_none() && (status == 429 || status >= 500);
                let refused = Error::Refused {
                    by: owner.clone(),
                    error,
                };
                if temporary {
                    Reply::Unknown(refused)
                } else {
                    Reply::Refused(refused)
                }
            }
            Ok(body) => Reply::Done(body),
            Err(error) => Reply::Unknown(Error::BadAnswer {
                by: owner.clone(),
                detail: format!("HTTP status {status}: {error}"),
            }),
        }
    }
}

/// Whether our own provider refused to forward, for a reason that lies in the request.
fn was_never_forwarded(error: &Error) -> bool {
    match error {
        Error::TooLong(_) => true,
        Error::Refused { error, .. } => matches!(
            error.code,
            DsErrorCode::MALFORMED
                | DsErrorCode::WRONG_ENDPOINT
                | DsErrorCode::LIMIT_EXCEEDED
                | DsErrorCode::POLICY_VIOLATION
        ),
        _ => false,
    }
}
