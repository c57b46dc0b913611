//! A connection to a provider that can be cut off: a TCP proxy, which stays when the provider is
//! killed, and leads to wherever it is started again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How many bytes are passed on at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passes {
    /// It is passed on.
    All,
    /// It gets stuck, and nobody is told.
    Stuck,
    /// Connections are refused.
    Refused,
}

/// Connections live as long as the number stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    number: u64,
    passes: Passes,
}

/// A proxy. Dropped, it ends with all of its connections.
pub(super) struct Wire {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    state: watch::Sender<State>,
    _task: AbortOnDropHandle<()>,
}

impl Wire {
    /// Listens on a port of its own. It leads nowhere yet.
    pub(super) async fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("there is no port to listen on")?;
        let address = listener.local_addr()?;
        let target = Arc::<Mutex<Option<SocketAddr>>>::default();
        let state = watch::Sender::new(State {
            number: 0,
            passes: Passes::All,
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&target), state.subscribe()));
        Ok(Self {
            address,
            target,
            state,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Where to connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections lead there.
    pub(super) fn lead_to(&self, address: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Breaks all connections; new ones are refused.
    pub(super) fn refuse(&self) {
        self.state.send_modify(|state| {
            state.number += 1;
            state.passes = Passes::Refused;
        });
    }

    /// Nothing gets through any more, and nobody is told.
    pub(super) fn get_stuck(&self) {
        self.state.send_modify(|state| state.passes = Passes::Stuck);
    }

    /// Everything gets through again. What was stuck goes on, or, with `forgetful`, its
    /// connections break.
    pub(super) fn mend(&self, forgetful: bool) {
        self.state.send_modify(|state| {
            state.number += u64::from(forgetful);
            state.passes = Passes::All;
        });
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<Option<SocketAddr>>>,
    state: watch::Receiver<State>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((from, _)) = listener.accept().await else {
            // The machine has no sockets left for now.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let now = *state.borrow();
        let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = target.filter(|_| now.passes != Passes::Refused) {
            let watch = Watch {
                state: state.clone(),
                number: now.number,
            };
            connections.spawn(connect(from, target, watch));
        }
    }
}

/// Passes everything on, both ways, until one side ends or the connection is broken.
async fn connect(from: TcpStream, target: SocketAddr, mut watch: Watch) {
    if watch.passes().await.is_err() {
        return;
    }
    let Ok(to) = TcpStream::connect(target).await else {
        return;
    };
    // What is small is not held back for more to come.
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    tokio::select! {
        () = pass(from_read, to_write, watch.clone()) => {}
        () = pass(to_read, from_write, watch) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut watch: Watch) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut breaks = watch.clone();
    let passing = async {
        loop {
            let length = match from.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(length) => length,
            };
            // What was on its way when it got stuck does not arrive before that is over.
            if watch.passes().await.is_err() || to.write_all(&chunk[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = passing => {}
        () = breaks.is_broken() => {}
    }
}

/// The connection is broken.
struct Broken;

/// What a connection knows of its wire.
#[derive(Clone)]
struct Watch {
    state: watch::Receiver<State>,
    number: u64,
}

impl Watch {
    /// Waits until something gets through.
    async fn passes(&mut self) -> Result<(), Broken> {
        let number = self.number;
        let done = |state: &State| state.number != number || state.passes != Passes::Stuck;
        match self.state.wait_for(done).await {
            Ok(state) if state.number == number => Ok(()),
            _ => Err(Broken),
        }
    }

    /// Waits until the connection is broken.
    async fn is_broken(&mut self) {
        let number = self.number;
        // Nobody can break it any more when the wire is gone; then it is.
        let _ = self.state.wait_for(|state| state.number != number).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_wire_is_cut_and_mended() {
        let wire = Wire::new().await.unwrap();
        wire.lead_to(echo().await);
        let connect = async || TcpStream::connect(wire.address()).await.unwrap();
        let mut first = connect().await;
        assert_eq!(says(&mut first, b"one").await.unwrap(), b"one");
        wire.refuse();
        assert!(says(&mut first, b"two").await.is_err());
        assert!(says(&mut connect().await, b"two").await.is_err());
        wire.mend(false);
        assert!(says(&mut first, b"two").await.is_err(), "it is broken");
        assert_eq!(says(&mut connect().await, b"two").await.unwrap(), b"two");
    }

    #[tokio::test]
    async fn what_is_stuck_goes_on_or_breaks() {
        let wire = Wire::new().await.unwrap();
        wire.lead_to(echo().await);
        for forgetful in [false, true] {
            let mut stream = TcpStream::connect(wire.address()).await.unwrap();
            says(&mut stream, b"one").await.unwrap();
            wire.get_stuck();
            {
                let answer = says(&mut stream, b"two");
                tokio::pin!(answer);
                let others = async {
                    for _ in 0..1000 {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    _ = &mut answer => panic!("it got through"),
                    () = others => {}
                }
                wire.mend(forgetful);
                assert_eq!(answer.await.is_err(), forgetful);
            }
        }
    }
}
