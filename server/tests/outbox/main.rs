//! The outbox on virtual time: a provider with a real store, and others as a test wants them.

#![allow(clippy::unwrap_used)]

mod bounds;
mod failures;
mod lanes;
mod operator;
mod peer;
mod world;
