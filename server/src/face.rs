//! The protocol's face: a request to one of its endpoints, and the answer.

use std::time::Instant;

use bytes::Bytes;
use moh_messages::{
    DsError, DsProtocolVersion, DsRequest, DsResponse, Endpoint, Message, Request as _,
    VerificationKeyRequest, VerificationKeyResponse,
};

use crate::authenticate::{Claimed, FromProvider};
use crate::error::Refusal;
use crate::node::Node;
use crate::observe::RequestEvent;
use crate::operation;
use crate::tls::Presented;

/// The answer to a request: an HTTP status and a body of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, of type `application/octet-stream`.
    pub body: Vec<u8>,
    /// When to come again, in seconds, where the status says that.
    pub retry_after_seconds: Option<u32>,
    /// `ok`, or the name of the error.
    pub result: String,
}

impl Answer {
    pub(crate) fn of<T: Message>(result: Result<T, Refusal>) -> Self {
        match result {
            Ok(body) => Self {
                status: 200,
                body: body.encode(),
                retry_after_seconds: None,
                result: "ok".to_owned(),
            },
            Err(refusal) => Self::refusal(refusal),
        }
    }

    fn refusal(refusal: Refusal) -> Self {
        let retry_after_seconds = match &refusal {
            Refusal::Unavailable {
                retry_after_seconds,
                ..
            }
            | Refusal::RateLimited {
                retry_after_seconds,
                ..
            } => Some(*retry_after_seconds),
            _ => None,
        };
        let error = DsError::from(refusal);
        Self {
            status: error.code.http_status().unwrap_or(500),
            result: error.code.to_string(),
            body: DsResponse::from(error).encode(),
            retry_after_seconds,
        }
    }
}

/// What is known of a request for those who watch.
pub(crate) struct Seen {
    pub(crate) from: Option<String>,
    pub(crate) operation: &'static str,
}

impl Node {
    /// Answers a request to one of the protocol's endpoints, by somebody who has shown no
    /// certificate. It is run to its end, even if whoever asked goes away meanwhile.
    pub async fn answer(&self, endpoint: Endpoint, body: Bytes) -> Answer {
        self.answer_over(endpoint, body, None).await
    }

    /// The same, over a connection on which this certificate was shown.
    pub async fn answer_over(
        &self,
        endpoint: Endpoint,
        body: Bytes,
        presented: Option<Presented>,
    ) -> Answer {
        let node = self.clone();
        let run = async move {
            let started = tokio::time::Instant::now();
            let operation = name_of(endpoint);
            let mut seen = Seen {
                from: None,
                operation,
            };
            let presented = presented.as_ref();
            let answer = Box::pin(node.dispatch(endpoint, &body, presented, &mut seen)).await;
            node.observe(
                endpoint.path(),
                &seen,
                body.len(),
                &answer,
                started.into_std(),
            );
            answer
        };
        tokio::spawn(run).await.unwrap_or_else(|error| {
            tracing::error!(%error, endpoint = endpoint.path(), "a request broke off");
            let reason = "something went wrong here".to_owned();
            Answer::refusal(Refusal::Unavailable {
                reason,
                retry_after_seconds: 5,
            })
        })
    }

    async fn dispatch(
        &self,
        endpoint: Endpoint,
        body: &[u8],
        presented: Option<&Presented>,
        seen: &mut Seen,
    ) -> Answer {
        match endpoint {
            Endpoint::GroupOperation
            | Endpoint::WelcomeInformation
            | Endpoint::ExternalCommitInformation => {
                let claimed = self.claim::<DsRequest>(body, presented, seen).await;
                let claimed = match claimed {
                    Ok(claimed) => claimed,
                    Err(refusal) => return Answer::refusal(refusal),
                };
                seen.operation = claimed.request.body.name();
                let result = Box::pin(operation::run(self, endpoint, claimed)).await;
                Answer::of(result.map(DsResponse::new))
            }
            Endpoint::VerificationKey => Answer::of(self.verification_key(body)),
            Endpoint::DeliverMessage | Endpoint::ConnectionRequest => {
                match self.claim(body, presented, seen).await {
                    Ok(claimed) => Answer::of(Box::pin(self.deliver(endpoint, claimed)).await),
                    Err(refusal) => Answer::refusal(refusal),
                }
            }
            Endpoint::GroupKeyPackages => match self.claim(body, presented, seen).await {
                Ok(claimed) => Answer::of(Box::pin(self.group_key_packages(claimed)).await),
                Err(refusal) => Answer::refusal(refusal),
            },
            Endpoint::ConnectionKeyPackages => match self.claim(body, presented, seen).await {
                Ok(claimed) => Answer::of(Box::pin(self.connection_key_packages(claimed)).await),
                Err(refusal) => Answer::refusal(refusal),
            },
        }
    }

    /// Reads a request, and sees to it that we talk to whoever it says that it is from, and that
    /// this one has connected.
    async fn claim<T: FromProvider>(
        &self,
        body: &[u8],
        presented: Option<&Presented>,
        seen: &mut Seen,
    ) -> Result<Claimed<T>, Refusal> {
        let claimed = Claimed::<T>::read(self.name(), body)?;
        let sender = claimed.request.sender();
        seen.from = Some(sender.to_string());
        self.check_peer(sender)?;
        self.check_certificate(sender, presented).await?;
        Ok(claimed)
    }

    fn verification_key(&self, body: &[u8]) -> Result<VerificationKeyResponse, Refusal> {
        if !body.is_empty() {
            VerificationKeyRequest::decode_for(self.name(), body)?;
        }
        Ok(VerificationKeyResponse {
            version: DsProtocolVersion::MOH1,
            provider: self.name().clone(),
            keys: self.keys().verification_keys(self.now_ms()),
        })
    }

    pub(crate) fn observe(
        &self,
        endpoint: &'static str,
        seen: &Seen,
        request_bytes: usize,
        answer: &Answer,
        started: Instant,
    ) {
        let event = RequestEvent {
            provider: self.name().clone(),
            from: seen.from.clone(),
            endpoint,
            operation: seen.operation,
            status: answer.status,
            result: answer.result.clone(),
            request_bytes,
            response_bytes: answer.body.len(),
            duration_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        tracing::debug!(
            endpoint,
            operation = event.operation,
            status = event.status,
            result = event.result,
            duration_us = event.duration_us,
            "answered"
        );
        self.observer().answered(&event);
    }
}

fn name_of(endpoint: Endpoint) -> &'static str {
    endpoint.path().trim_start_matches('/')
}
