//! Clients against providers in memory.

#![allow(clippy::unwrap_used)]

mod basics;
mod fake;
mod members;
mod resilience;
mod scene;
