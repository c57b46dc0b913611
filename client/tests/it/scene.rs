//! Users with clients, at providers in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moh_client::{CipherSuite, Client, ClientId, Event, GroupId, NewDevice, UserId};
use tempfile::TempDir;

use crate::fake::World;

pub(crate) struct Party {
    pub(crate) client: Client,
    pub(crate) path: PathBuf,
    pub(crate) provider: &'static str,
}

pub(crate) struct Scene {
    pub(crate) world: Arc<World>,
    pub(crate) dir: TempDir,
}

pub(crate) const SOON: Duration = Duration::from_millis(20);

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            world: World::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) async fn party(&self, provider: &'static str, user: &str) -> Party {
        self.party_of(provider, user, CipherSuite(1)).await
    }

    pub(crate) async fn party_of(
        &self,
        provider: &'static str,
        user: &str,
        suite: CipherSuite,
    ) -> Party {
        let id = user_id(provider, user);
        let path = self.dir.path().join(user);
        let options = self.world.options(provider).cipher_suite(suite);
        let client = Client::register(options, &path, &id, "phone")
            .await
            .unwrap();
        client.refill_key_packages(2).await.unwrap();
        Party {
            client,
            path,
            provider,
        }
    }

    /// As after a crash: what is not in the database is gone.
    pub(crate) async fn restart(&self, party: Party) -> Party {
        let Party {
            client,
            path,
            provider,
        } = party;
        drop(client);
        let client = Client::open(self.world.options(provider), &path)
            .await
            .unwrap();
        Party {
            client,
            path,
            provider,
        }
    }

    /// Alice of a.example with a group in which Bob of b.example is.
    pub(crate) async fn alice_and_bob(&self) -> (Party, Party, GroupId) {
        let alice = self.party("a.example", "alice").await;
        let bob = self.party("b.example", "bob").await;
        bob.client
            .set_consent(alice.client.user_id(), true)
            .await
            .unwrap();
        let group = alice.client.create_group().await.unwrap();
        let added = alice
            .client
            .add_user(&group, bob.client.user_id())
            .await
            .unwrap();
        assert_eq!(added.clients, [bob.client.client_id().clone()]);
        assert_eq!(added.accepted.epoch, 1);
        let events = bob.client.receive(SOON).await.unwrap();
        assert!(
            matches!(&events[..], [Event::Joined { epoch: 1, members, .. }] if members.len() == 2)
        );
        (alice, bob, group)
    }

    /// The same, with Carol of c.example.
    pub(crate) async fn trio(&self) -> (Party, Party, Party, GroupId) {
        let (alice, bob, group) = self.alice_and_bob().await;
        let carol = self.party("c.example", "carol").await;
        add(&alice, &group, &carol).await;
        received(&bob).await;
        received(&carol).await;
        (alice, bob, carol, group)
    }

    /// A further device of somebody, in no group yet.
    pub(crate) async fn device(&self, of: &Party, name: &str) -> Party {
        let device = self.device_without_key_packages(of, name).await;
        device.client.refill_key_packages(2).await.unwrap();
        device
    }

    pub(crate) async fn device_without_key_packages(&self, of: &Party, name: &str) -> Party {
        let id = ClientId::new(of.client.user_id(), name).unwrap();
        let path = self.dir.path().join(id.as_str().replace('/', "-"));
        let options = self.world.options(of.provider);
        let device = NewDevice::prepare(options, &path, id).await.unwrap();
        let authorization = of.client.authorize(&device.request()).unwrap();
        let client = device.register(authorization).await.unwrap();
        Party {
            client,
            path,
            provider: of.provider,
        }
    }
}

/// Adds somebody, who consents to it.
pub(crate) async fn add(by: &Party, group: &GroupId, new: &Party) {
    let (user, adder) = (new.client.user_id(), by.client.user_id());
    new.client.set_consent(adder, true).await.unwrap();
    by.client.add_user(group, user).await.unwrap();
}

pub(crate) fn user_id(provider: &str, user: &str) -> UserId {
    UserId::new(&provider.parse().unwrap(), user).unwrap()
}

pub(crate) fn texts(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Message { content, .. } => Some(String::from_utf8_lossy(content).into_owned()),
            _ => None,
        })
        .collect()
}

/// All that there is to receive.
pub(crate) async fn received(party: &Party) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let events = party.client.receive(SOON).await.unwrap();
        if events.is_empty() {
            return all;
        }
        all.extend(events);
    }
}
