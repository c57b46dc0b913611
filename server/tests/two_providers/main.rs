//! Providers on real TLS sockets, and real clients of theirs.

#![allow(clippy::unwrap_used)]

mod listen;
mod whole_path;
mod wire;
mod world;
