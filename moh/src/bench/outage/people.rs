//! Who writes and who reads, at both providers.

mod at_work;
mod tap;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use moh_client::{Client, ConnectOptions, Event, UserId};

use super::ledger::{Group, Ledger};
pub(super) use at_work::AtWork;
use tap::Tap;

/// How many groups there are; everybody is in each.
pub(super) const GROUPS: usize = 6;
/// One of so many groups is owned by b.example, and the others by a.example.
const OWNED_THERE: usize = 3;
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long everybody may take to join the groups.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long somebody waits for a Welcome in one request.
const LOOK: Duration = Duration::from_secs(5);
/// KeyPackages of each: more than there are groups, so that none is made later.
const KEY_PACKAGES: usize = 40;

/// One of the two providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// It stays.
    A,
    /// It is stopped, cut off and killed.
    B,
}

impl Place {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::A => "a.example",
            Self::B => "b.example",
        }
    }
}

/// Somebody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// Otherwise they read only, and can tell the order in which their provider took the texts.
    pub(super) writes: bool,
}

/// Everybody.
pub(super) const PEOPLE: [Person; 4] = {
    const fn person(name: &'static str, place: Place, writes: bool) -> Person {
        Person {
            name,
            place,
            writes,
        }
    }
    [
        person("alice", Place::A, true),
        person("amy", Place::A, false),
        person("bob", Place::B, true),
        person("ben", Place::B, false),
    ]
};

impl Person {
    fn user(&self) -> Result<UserId> {
        let name = format!("mimi://{}/u/{}", self.place.name(), self.name);
        Ok(name.parse()?)
    }
}

/// Everybody, in their groups.
pub(super) struct People {
    /// In the order of [`PEOPLE`].
    clients: Vec<Client>,
    groups: Vec<Group>,
    ledger: Ledger,
}

impl People {
    /// Registers everybody, with their state in `folder`, and has them join the groups.
    pub(super) async fn gather(folder: &Path, way: impl Fn(Place) -> Result<Way>) -> Result<Self> {
        let ledger = Ledger::default();
        let mut clients = Vec::new();
        for (at, person) in PEOPLE.iter().enumerate() {
            let options = way(person.place)?.options(person.place)?;
            let tap = Tap::around(options.connect()?, ledger.clone(), at);
            let path = folder.join(format!("{}.sqlite", person.name));
            let (options, user) = (options.transport(tap), person.user()?);
            let client = Client::register(options, path, &user, "phone").await?;
            client.refill_key_packages(KEY_PACKAGES).await?;
            clients.push(client);
        }
        for client in &clients {
            for peer in &clients {
                if peer.user_id() != client.user_id() {
                    client.set_consent(peer.user_id(), true).await?;
                }
            }
        }
        let mut groups = Vec::new();
        for number in 0..GROUPS {
            groups.push(make_group(&clients, number).await?);
        }
        for client in &clients {
            let joined = tokio::time::timeout(PATIENCE, join_all(client, &groups)).await;
            let late = || format!("{} is not in all groups", client.client_id());
            joined
                .map_err(anyhow::Error::from)
                .and_then(|joined| joined)
                .with_context(late)?;
        }
        ledger.open(groups.clone());
        Ok(Self {
            clients,
            groups,
            ledger,
        })
    }
}

/// How a provider is reached.
pub(super) struct Way {
    pub(super) address: SocketAddr,
    pub(super) ca_pem: Vec<u8>,
}

impl Way {
    fn options(&self, place: Place) -> Result<ConnectOptions> {
        Ok(ConnectOptions::new(place.name().parse()?)
            .root_certificate_pem(self.ca_pem.clone())
            .resolve(place.name(), self.address)
            .timeout(TIMEOUT))
    }
}

/// A group of one of those who write, with everybody else.
async fn make_group(clients: &[Client], number: usize) -> Result<Group> {
    let owner = match number % OWNED_THERE {
        2 => Place::B,
        _ => Place::A,
    };
    let is_creator = |person: &Person| person.place == owner && person.writes;
    let creator = PEOPLE.iter().position(is_creator).map(|at| &clients[at]);
    let creator = creator.context("nobody writes there")?;
    let id = creator.create_group().await?;
    for other in clients {
        if other.user_id() != creator.user_id() {
            let added = creator.add_user(&id, other.user_id()).await?;
            if !added.missing.is_empty() {
                bail!("{} cannot be added", other.user_id());
            }
        }
    }
    Ok(Group { id, owner })
}

async fn join_all(client: &Client, groups: &[Group]) -> Result<()> {
    loop {
        let there = client.groups().await?;
        let mut is_complete = true;
        for group in groups {
            is_complete &=
                there.contains(&group.id) && client.members(&group.id).await?.len() == PEOPLE.len();
        }
        if is_complete {
            return Ok(());
        }
        for event in client.receive(LOOK).await? {
            if let Event::Undecodable { reason, .. } = event {
                bail!("something cannot be read: {reason:?}");
            }
        }
    }
}
