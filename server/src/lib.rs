//! A provider of MIMI over HTTPS, as a library.
//!
//! A request takes this way through the modules:
//!
//! 1. [`http`]: routes, TLS, limits, content types; bytes come in.
//! 2. [`authenticate`]: from bytes to requests whose sender is known.
//! 3. [`face`] says what answers which endpoint. `operation`: one file for each type of request
//!    to the owner of a group; dispatch is one match. `inbox` takes deliveries by other
//!    providers. `client_face` is for the requests of our own clients.
//! 4. [`group`]: pure; a group, a request and the time make a new state and what goes out, or a
//!    refusal.
//! 5. [`change`]: what is to become durable, as data.
//! 6. [`store`]: typed reads, and `commit` of a change.
//! 7. [`outbox`]: durable deliveries to other providers.
//! 8. `queue`: our own clients' queues: read, acknowledge, wake. `notice` puts in what we have to
//!    say to them ourselves.
//!
//! Beside it stand [`federation`] (which other providers we talk to, where they are, and their
//! keys), [`tls`], [`keys`] (our own), `accounts`, `invitation`, `key_packages`, `connections`, [`limits`], [`clock`], [`observe`] and
//! [`error`]. [`node`] holds it all together.

pub mod http;

pub mod authenticate;

mod client_face;
pub mod face;
mod inbox;
mod operation;

pub mod group;
mod groups;
mod owner;
mod tend;

pub mod change;

pub mod store;

mod deliver;
pub mod outbox;

mod queue;

pub mod admin;

mod accounts;
mod connections;
mod invitation;
mod key_packages;
mod notice;

pub mod clock;
pub mod config;
mod crypto;
pub mod error;
pub mod federation;
pub mod keys;
pub mod limits;
pub mod node;
pub mod observe;
pub mod tls;

pub use clock::Environment;
pub use config::Config;
pub use keys::{Keys, SecretKeys};
pub use limits::Limits;
pub use node::{Node, Parts};
