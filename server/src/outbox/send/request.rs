//! Requests to a destination, and what their answers mean as a whole.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use moh_messages::{
    Audience, ClientId, Delivery, DsAuth, DsErrorCode, DsProtocolVersion, DsRequest, DsRequestBody,
    DsResponse, DsResponseBody, Endpoint, List, Message, Opaque, ProviderAuth,
    QueueingServiceRequest, QueueingServiceResponse, Recipients,
};
use tls_codec::Size as _;
use tokio::time::timeout;

use super::settle::{is_retryable, seconds_in};
use super::{Attempt, Sender, UNREADABLE, Waiting};
use crate::change::{Ending, Write};
use crate::store::StoreError;

/// The most bytes of the deliveries in one request, audiences included, where there are several.
const MAX_REQUEST_BYTES: usize = 7 << 20;

impl Sender<'_> {
    /// What waits as deliveries, as many as one request holds; and what becomes of those whose
    /// audience cannot be read.
    pub(super) async fn batch(
        &self,
        run: &[Waiting],
    ) -> Result<(Vec<Delivery>, Vec<Write>), StoreError> {
        let mut deliveries = Vec::new();
        let mut unreadable = Vec::new();
        let mut bytes = 0;
        // Said once in full, an audience is known to the deliveries after it.
        let mut said = HashSet::new();
        for waiting in run {
            let digest = &waiting.row.digest;
            let audience = if self.destination.knows(digest) || said.contains(digest) {
                Some(Audience::Digest {
                    audience_digest: digest.clone(),
                })
            } else {
                let recipients = self.node.store().outbox_audience(digest).await?;
                let recipients = recipients.and_then(|bytes| Recipients::decode(&bytes).ok());
                recipients.map(|recipients| Audience::Full { recipients })
            };
            let Some(audience) = audience else {
                unreadable.push(self.set_aside(waiting.id, Ending::Unreadable, UNREADABLE));
                continue;
            };
            let delivery = Delivery {
                delivery_id: waiting.row.delivery_id.clone(),
                audience,
                except: waiting.row.except,
                payload: waiting.payload.clone(),
            };
            bytes += delivery.tls_serialized_len();
            if bytes > MAX_REQUEST_BYTES && !deliveries.is_empty() {
                break;
            }
            said.insert(digest);
            deliveries.push(delivery);
        }
        Ok((deliveries, unreadable))
    }

    pub(super) async fn attempt(
        &mut self,
        run: &[Waiting],
        deliveries: Vec<Delivery>,
    ) -> Result<Attempt, StoreError> {
        let mut request = QueueingServiceRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.node.name().clone(),
            recipient: self.destination.name().clone(),
            deliveries: List::new(deliveries).expect("not more than were read"),
            provider_auth: ProviderAuth::blank(),
        };
        let endpoint = run[0].endpoint();
        let environment = self.node.environment();
        self.node
            .keys()
            .sign_request(environment, endpoint, &mut request, |r| {
                Some(&mut r.provider_auth)
            });
        let is_full = |d: &Delivery| matches!(d.audience, Audience::Full { .. });
        let in_full: Vec<bool> = request.deliveries.iter().map(is_full).collect();
        match self
            .ask(endpoint, request.encode(), is_about_the_content)
            .await
        {
            Err(attempt) => Ok(attempt),
            Ok(body) => match QueueingServiceResponse::decode(&body) {
                Ok(response) => self.settle(run, &in_full, &response.results).await,
                Err(error) => {
                    let what = format!("the answer does not decode: {error}");
                    Ok(Attempt::later(what, None))
                }
            },
        }
    }

    /// Tells the owner of groups that a client of ours is gone, so that it is removed from them.
    pub(super) async fn tell(&self, id: u64, client: &ClientId) -> Result<Attempt, StoreError> {
        let mut request = DsRequest {
            version: DsProtocolVersion::MOH1,
            sender: self.node.name().clone(),
            recipient: self.destination.name().clone(),
            group_state_key: Opaque::empty(),
            body: DsRequestBody::ClientDeleted,
            auth: DsAuth::Provider {
                on_behalf_of: client.clone(),
                provider_auth: ProviderAuth::blank(),
            },
        };
        let (endpoint, environment) = (Endpoint::GroupOperation, self.node.environment());
        self.node
            .keys()
            .sign_request(environment, endpoint, &mut request, |r| match &mut r.auth {
                DsAuth::Provider { provider_auth, .. } => Some(provider_auth),
                DsAuth::Anonymous | DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. } => None,
            });
        match self
            .ask(endpoint, request.encode(), is_final_for_client)
            .await
        {
            Err(attempt) => Ok(attempt),
            Ok(body) => match DsResponse::decode(&body).map(|response| response.body) {
                Ok(DsResponseBody::Ok { .. }) => {
                    self.write(vec![Write::OutboxDone { id }]).await?;
                    Ok(Attempt::Answered)
                }
                _ => Ok(Attempt::later("the answer is not ok", None)),
            },
        }
    }

    /// The body of the destination's answer; or what came of it, where it is none of success.
    async fn ask(
        &self,
        endpoint: Endpoint,
        body: Vec<u8>,
        is_final: fn(DsErrorCode) -> bool,
    ) -> Result<Bytes, Attempt> {
        let federation = self.node.federation();
        let asking = federation.ask(self.destination.name(), endpoint, body.into());
        // Whatever is between us and the destination: no answer is waited for for ever.
        let patience = self.node.limits().peer_request_ms.saturating_mul(2);
        let answer = timeout(Duration::from_millis(patience), asking).await;
        let answer = answer.map_err(|_| Attempt::unreachable("no answer in time"))?;
        let answer = answer.map_err(Attempt::unreachable)?;
        let after_seconds = answer.retry_after_seconds;
        let later = |reason| Attempt::later(reason, after_seconds);
        if matches!(answer.status, 413 | 415) {
            return Err(Attempt::Refused(format!("answered {}", answer.status)));
        }
        let Some(body) = answer.body else {
            let what = format!("answered {} without a message", answer.status);
            return Err(later(what));
        };
        if (200..300).contains(&answer.status) {
            return Ok(body);
        }
        Err(
            match DsResponse::decode(&body).map(|response| response.body) {
                Ok(DsResponseBody::Error(error)) if is_final(error.code) => {
                    Attempt::Refused(error.to_string())
                }
                Ok(DsResponseBody::Error(error)) => {
                    Attempt::later(&error, after_seconds.max(seconds_in(&error)))
                }
                _ => later(format!("answered {}", answer.status)),
            },
        )
    }
}

/// Whether another request with the same content would be refused again.
fn is_about_the_content(code: DsErrorCode) -> bool {
    matches!(
        code,
        DsErrorCode::MALFORMED
            | DsErrorCode::WRONG_ENDPOINT
            | DsErrorCode::INVALID_MESSAGE
            | DsErrorCode::POLICY_VIOLATION
            | DsErrorCode::LIMIT_EXCEEDED
    )
}

/// Whether an owner that is told of a client that is gone will never say anything else.
fn is_final_for_client(code: DsErrorCode) -> bool {
    let may_change = matches!(
        code,
        DsErrorCode::UNAUTHENTICATED | DsErrorCode::UNAUTHORIZED
    );
    !is_retryable(code) && !may_change
}
