//! What is asked of a peer once, however many wait for the answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use moh_messages::ProviderName;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What runs beside the requests, and ends with the provider.
#[derive(Clone, Default)]
pub(crate) struct Background {
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
}

/// What is being asked at the moment, at most once of each peer. It is asked to the end, even if
/// whoever wanted to know goes away.
pub(super) struct Flights<T> {
    running: Mutex<BTreeMap<ProviderName, Flight<T>>>,
    background: Background,
}

/// Something that is being asked. Those who wait for it go on in the order in which they came.
pub(super) struct Flight<T>(Arc<Course<T>>);

struct Course<T> {
    answer: OnceLock<T>,
    /// There is an answer, or there will be none.
    over: CancellationToken,
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Flight<T> {
    /// What came of it; none when the provider stops.
    pub(super) async fn landed(self) -> Option<T> {
        self.0.over.cancelled().await;
        self.0.answer.get().cloned()
    }
}

/// Held by whoever asks; given up, also where that breaks off, the flight is over.
struct Pilot<T>(Flight<T>);

impl<T> Drop for Pilot<T> {
    fn drop(&mut self) {
        self.0.0.over.cancel();
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(super) fn new(background: Background) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            background,
        })
    }

    /// What is being asked of this peer, or else what `start` begins, if it does.
    ///
    /// # Errors
    /// What `start` says against it.
    pub(super) fn join<E, F>(
        self: &Arc<Self>,
        name: &ProviderName,
        start: impl FnOnce() -> Result<F, E>,
    ) -> Result<Flight<T>, E>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // One that broke off has let go of its end.
        let flight = running.get(name).filter(|f| !f.0.over.is_cancelled());
        if let Some(flight) = flight {
            return Ok(flight.clone());
        }
        let asking = start()?;
        let flight = Flight(Arc::new(Course {
            answer: OnceLock::new(),
            over: CancellationToken::new(),
        }));
        let pilot = Pilot(flight.clone());
        running.insert(name.clone(), flight.clone());
        let (flights, name) = (Arc::clone(self), name.clone());
        let stopping = self.background.stopping.clone();
        self.background.tasks.spawn(async move {
            let answer = tokio::select! {
                biased;
                () = stopping.cancelled() => None,
                answer = asking => Some(answer),
            };
            let mut running = flights
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            running.remove(&name);
            if let Some(answer) = answer {
                // Nobody else sets it.
                let _ = pilot.0.0.answer.set(answer);
            }
            drop(pilot);
        });
        Ok(flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ProviderName {
        "b.example".parse().unwrap()
    }

    async fn land<F>(flights: &Arc<Flights<u8>>, answer: F) -> Option<u8>
    where
        F: Future<Output = u8> + Send + 'static,
    {
        let flight = flights.join(&name(), || Ok::<_, ()>(answer));
        flight.unwrap().landed().await
    }

    #[tokio::test]
    async fn nothing_is_left_of_what_has_landed_or_broken_off() {
        let background = Background::default();
        let flights = Flights::new(background.clone());
        assert_eq!(land(&flights, async { 1 }).await, Some(1));
        assert!(flights.running.lock().unwrap().is_empty());
        assert_eq!(land(&flights, async { panic!("broken off") }).await, None);
        assert_eq!(land(&flights, async { 2 }).await, Some(2));
        let refused = flights.join(&name(), || Err::<std::future::Ready<u8>, _>("not now"));
        assert_eq!(refused.err(), Some("not now"));
        assert!(flights.running.lock().unwrap().is_empty());
        background.stopping.cancel();
        assert_eq!(land(&flights, std::future::pending()).await, None);
        assert!(flights.running.lock().unwrap().is_empty());
        background.tasks.close();
        background.tasks.wait().await;
    }
}
