//! Clients against providers in memory.

#![allow(clippy::unwrap_used)]

mod accounts;
mod attestations;
mod basics;
mod connecting;
mod connections;
mod deceived;
mod fake;
mod joining;
mod leaving;
mod members;
mod resilience;
mod scene;
mod upkeep;
