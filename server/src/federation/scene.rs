//! For tests: a network that does what it is told, and a clock that is set.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use moh_messages::ProviderName;
use tokio::sync::Semaphore;

use super::transport::{PeerRequest, PeerResponse, Transport, Unreachable};
use crate::clock::{Clock, Environment};

/// What time it is in a test.
pub(super) struct SetClock(AtomicU64);

impl SetClock {
    pub(super) fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(super) fn go_back(&self, ms: u64) {
        self.0.fetch_sub(ms, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

type Answer = Result<PeerResponse, Unreachable>;

/// Answers by host and path, and writes down what it is asked.
pub(super) struct Net {
    pub(super) clock: Arc<SetClock>,
    answers: Mutex<BTreeMap<String, Answer>>,
    asked: Mutex<Vec<String>>,
    /// So many answers may be given; none, when it is to hold them back.
    gate: Semaphore,
}

impl Net {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::new(SetClock(AtomicU64::new(1_000_000_000))),
            answers: Mutex::default(),
            asked: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS / 2),
        })
    }

    pub(super) fn environment(&self) -> Environment {
        Environment {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ..Environment::system()
        }
    }

    /// From now on, this is answered at this URL, without its scheme; with `GET ` before it, to that
    /// method alone.
    pub(super) fn says(&self, url: &str, answer: PeerResponse) {
        self.answers
            .lock()
            .unwrap()
            .insert(url.to_owned(), Ok(answer));
    }

    /// From now on, nobody answers there.
    pub(super) fn is_down(&self, url: &str) {
        self.answers.lock().unwrap().remove(url);
    }

    /// How often this was asked.
    pub(super) fn asked(&self, url: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| *asked == url).count()
    }

    /// How many questions there were.
    pub(super) fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// From now on answers are held back.
    pub(super) fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets them go, and all further ones.
    pub(super) fn release(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

#[async_trait]
impl Transport for Net {
    async fn send(&self, request: PeerRequest) -> Answer {
        let url = format!("{}{}", request.host, request.path);
        let by_get = format!("GET {url}");
        let is_apart = request.get && self.answers.lock().unwrap().contains_key(&by_get);
        let url = if is_apart { by_get } else { url };
        self.asked.lock().unwrap().push(url.clone());
        let _permit = self.gate.acquire().await.unwrap();
        let answers = self.answers.lock().unwrap();
        let nobody = || Err(Unreachable(format!("nobody at {url}")));
        answers.get(&url).cloned().unwrap_or_else(nobody)
    }
}

/// An answer of this status, without a body.
pub(super) fn status(status: u16) -> PeerResponse {
    PeerResponse {
        status,
        content_type: None,
        max_age_seconds: None,
        retry_after_seconds: None,
        body: Vec::new().into(),
    }
}

/// A text that is good for as long.
pub(super) fn text(body: &str, max_age_seconds: Option<u64>) -> PeerResponse {
    PeerResponse {
        max_age_seconds,
        body: body.to_owned().into(),
        ..status(200)
    }
}

pub(super) fn name(name: &str) -> ProviderName {
    name.parse().unwrap()
}

/// Lets everything that can go on go on.
pub(super) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
