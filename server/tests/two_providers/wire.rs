//! What is between a provider and the others: it records, and does harm when told to.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use moh_messages::{
    CONTENT_TYPE, Delivery, DeliveryResult, DsProtocolVersion, Endpoint, List, Message,
    QueueingServiceRequest, QueueingServiceResponse,
};
use moh_server::federation::{HttpsTransport, PeerRequest, PeerResponse, Transport, Unreachable};

/// HTTPS, with mishaps.
pub(crate) struct Wire {
    inner: HttpsTransport,
    sent: Mutex<Vec<PeerRequest>>,
    /// The last answer to a request that is no delivery of messages.
    answer: Mutex<Vec<u8>>,
    /// So many answers to deliveries get lost: the other side has acted on them.
    pub(crate) lose_answers: AtomicUsize,
    /// Every delivery is made twice at once.
    pub(crate) twice: AtomicBool,
    /// Batches of more deliveries than this are answered 413, as by a proxy; 0: none are.
    pub(crate) max_batch: AtomicUsize,
    /// Whatever the audience is, the other side says that it does not know it.
    pub(crate) no_audience: AtomicBool,
    /// These hosts do not answer.
    silent: Mutex<BTreeSet<String>>,
}

impl Wire {
    pub(crate) fn over(inner: HttpsTransport) -> Self {
        Self {
            inner,
            sent: Mutex::default(),
            answer: Mutex::default(),
            lose_answers: AtomicUsize::new(0),
            twice: AtomicBool::new(false),
            max_batch: AtomicUsize::new(0),
            no_audience: AtomicBool::new(false),
            silent: Mutex::default(),
        }
    }

    /// From now on this host takes connections and never answers.
    pub(crate) fn silence(&self, host: &str) {
        self.silent.lock().unwrap().insert(host.to_owned());
    }

    /// How many requests of any kind were made to a host.
    pub(crate) fn requests(&self, host: &str) -> usize {
        let sent = self.sent.lock().unwrap();
        let to_host = sent.iter().filter(|request| name_of(&request.host) == host);
        to_host.count()
    }

    /// How many requests to a path of a host were made.
    pub(crate) fn asked(&self, host: &str, endpoint: Endpoint) -> usize {
        let sent = self.sent.lock().unwrap();
        let all = sent
            .iter()
            .filter(|request| request.path == endpoint.path());
        all.filter(|request| name_of(&request.host) == host).count()
    }

    /// The bodies of requests that were made to a host on a path.
    pub(crate) fn bodies(&self, host: &str, endpoint: Endpoint) -> Vec<Vec<u8>> {
        let sent = self.sent.lock().unwrap();
        let is_it = |request: &&PeerRequest| {
            request.path == endpoint.path() && name_of(&request.host) == host
        };
        let bodies = sent.iter().filter(is_it);
        let bodies = bodies.filter_map(|request| Some(request.body.as_ref()?.to_vec()));
        bodies.collect()
    }

    /// The body of the last answer, if it was not to a delivery of messages.
    pub(crate) fn last_answer(&self) -> Vec<u8> {
        self.answer.lock().unwrap().clone()
    }

    /// Requests for deliveries that were made to a host, each attempt.
    pub(crate) fn batches(&self, host: &str) -> Vec<QueueingServiceRequest> {
        let sent = self.sent.lock().unwrap();
        let path = Endpoint::DeliverMessage.path();
        sent.iter()
            .filter(|request| request.path == path && name_of(&request.host) == host)
            .map(|request| {
                QueueingServiceRequest::decode(request.body.as_deref().unwrap()).unwrap()
            })
            .collect()
    }

    /// Deliveries that were made to a host, each attempt.
    pub(crate) fn deliveries(&self, host: &str) -> Vec<Delivery> {
        let batches = self.batches(host).into_iter();
        batches.flat_map(|batch| batch.deliveries).collect()
    }
}

impl Wire {
    /// An answer to a batch that is not asked for.
    fn instead(&self, body: &[u8]) -> Option<PeerResponse> {
        let batch = QueueingServiceRequest::decode(body).unwrap().deliveries;
        let max_batch = self.max_batch.load(Ordering::SeqCst);
        if max_batch > 0 && batch.len() > max_batch {
            return Some(answer(413, "text/plain", Vec::new()));
        }
        if self.no_audience.load(Ordering::SeqCst) {
            let response = QueueingServiceResponse {
                version: DsProtocolVersion::MOH1,
                results: List::new(vec![DeliveryResult::UnknownAudience]).unwrap(),
            };
            return Some(answer(200, CONTENT_TYPE, response.encode()));
        }
        None
    }
}

fn answer(status: u16, content_type: &str, body: Vec<u8>) -> PeerResponse {
    PeerResponse {
        status,
        content_type: Some(content_type.to_owned()),
        max_age_seconds: None,
        retry_after_seconds: None,
        body: body.into(),
    }
}

fn name_of(host: &str) -> &str {
    host.split(':').next().unwrap_or(host)
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: PeerRequest) -> Result<PeerResponse, Unreachable> {
        let is_silent = self.silent.lock().unwrap().contains(name_of(&request.host));
        self.sent.lock().unwrap().push(request.clone());
        if is_silent {
            return std::future::pending().await;
        }
        if request.path != Endpoint::DeliverMessage.path() {
            let answer = self.inner.send(request).await?;
            *self.answer.lock().unwrap() = answer.body.to_vec();
            return Ok(answer);
        }
        if let Some(answer) = self.instead(request.body.as_deref().unwrap_or_default()) {
            return Ok(answer);
        }
        if self.twice.load(Ordering::SeqCst) {
            let (first, second) =
                tokio::join!(self.inner.send(request.clone()), self.inner.send(request));
            return first.and(second);
        }
        let response = self.inner.send(request).await?;
        let left = |left: usize| left.checked_sub(1);
        let lost = self
            .lose_answers
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        match lost {
            Ok(_) => Err(Unreachable("the answer got lost".to_owned())),
            Err(_) => Ok(response),
        }
    }
}
