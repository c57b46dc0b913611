//! A client of a MIMI over HTTPS provider: accounts, groups and messages.
//!
//! A user has an account at a provider, and talks with users of any provider. Messages are
//! encrypted end to end with MLS; this crate keeps its state, in one SQLite file that survives
//! crashes at any moment, and asks the provider, which asks the other providers.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use moh_client::{Client, ConnectOptions, Event, UserId};
//!
//! # async fn example() -> Result<(), moh_client::Error> {
//! let alice: UserId = "mimi://a.example/u/alice".parse()?;
//! let bob: UserId = "mimi://b.example/u/bob".parse()?;
//!
//! let options = ConnectOptions::new(alice.provider());
//! let client = Client::register(options, "alice.db", &alice, "phone").await?;
//! client.refill_key_packages(50).await?; // so that others can reach Alice
//!
//! let chat = client.connect(&bob).await?; // Bob is asked, and may accept
//! client.send(&chat, "Hello, Bob").await?; // which he reads then
//!
//! loop {
//!     for event in client.receive(Duration::from_secs(30)).await? {
//!         match event {
//!             Event::Message { sender, content, .. } => {
//!                 println!("{sender}: {}", String::from_utf8_lossy(&content));
//!             }
//!             // From now on each may add the other to groups.
//!             Event::Connected { peer, .. } if peer == bob => {
//!                 let group = client.create_group().await?;
//!                 client.add_user(&group, &bob).await?;
//!             }
//!             Event::ConnectionRequested { peer, .. } => println!("{peer} wants to talk"),
//!             _ => {}
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! # What is promised
//!
//! - What [`Client::send`] and the other operations answer with `Ok` is durable at every
//!   recipient's provider.
//! - An answer that is lost does no harm: a request is stored, together with the state of MLS
//!   that it came from, before it goes out, and the same bytes go out until they are answered.
//!   The owner of the group takes them once. [`Error::Unsettled`] says that this is going on.
//! - Events are stored until the application has taken them: [`Client::receive`] gives those of
//!   the last call again after a crash. The application sees each at least once.
//! - Members who change a group at the same moment are put in order by its owner; the one who
//!   came second is told what the first one did, and what it wanted is done again on top.
//!
//! - What has to be done now and then is done while events are received ([`Client::receive`],
//!   [`Client::events`]): KeyPackages are refilled, attestations renewed, keys changed in every
//!   group, members verified by the keys of their providers, what could not be finished is, and
//!   groups that cannot be followed are joined again. [`Event`]s tell of it.
//! - The signature key is in a file of its own beside the state database. It is enough to be back:
//!   see [`Client::open`].
//!
//! A [`Client`] is cheap to clone, and its methods may be called at the same time. One process
//! at a time can open a state database.

mod account;
mod api;
mod ask;
mod attestations;
mod client;
mod clock;
mod connections;
mod devices;
mod error;
mod events;
mod external;
mod group;
mod key_file;
mod key_packages;
mod mls;
mod queue;
mod settle;
mod store;
mod stream;
mod transport;
mod upkeep;
mod waits;

pub use account::{DeviceRequest, NewDevice};
pub use client::Client;
pub use clock::{Clock, Random, SystemClock, SystemRandom, Work};
pub use connections::{Connection, ConnectionState};
pub use devices::Device;
pub use error::{Error, Fault, StoreError, TransportError};
pub use events::{DisconnectReason, Event, NotAttestedReason, Operation, Outcome, Reason};
pub use group::{Accepted, Added, GroupOptions};
pub use moh_messages::client_api::{BlockTarget, ClientAuthorization};
pub use moh_messages::{
    CipherSuite, ClientId, DsError, DsErrorCode, GroupId, GroupType, ProviderName, PublicKey,
    UserId,
};
pub use stream::Events;
pub use transport::{Answer, ConnectOptions, QueueSocket, Transport};
