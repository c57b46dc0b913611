//! What the tests of processes have in common: `moh serve --dev` as a process, and clients that
//! speak to it with nothing but an HTTP client, MLS and the types of the protocol.

// Each test uses a part of it.
#![allow(dead_code)]

pub(crate) mod answer;
pub(crate) mod device;
pub(crate) mod member;
pub(crate) mod peer;
pub(crate) mod scene;
pub(crate) mod server;
pub(crate) mod stand_in;
pub(crate) mod tls;

use std::time::Duration;

/// How long anything may take, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // The processes have the system's clock, and so have we.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Waits for something that has to happen.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    use openmls_traits::OpenMlsProvider;
    use openmls_traits::random::OpenMlsRand;
    let provider = openmls_rust_crypto::OpenMlsRustCrypto::default();
    provider.rand().random_array().unwrap()
}
