//! Providers on real TLS sockets, and real clients of theirs.

#![allow(clippy::unwrap_used)]

mod accounts;
mod certificates;
mod claims;
mod clock;
mod concurrency;
mod connecting;
mod connections;
mod deliveries;
mod keys;
mod listen;
mod policy;
mod pool;
mod proxying;
mod queues;
mod raw;
mod restarts;
mod whole_path;
mod wire;
mod world;
