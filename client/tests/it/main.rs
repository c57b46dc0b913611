//! Clients against providers in memory.

#![allow(clippy::unwrap_used)]

mod basics;
mod fake;
mod resilience;
mod scene;
