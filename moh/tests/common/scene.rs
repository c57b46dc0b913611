//! One provider, and a group of two of its users.

use moh_messages::{DsRequestBody, Endpoint, GroupId, GroupUpdate, Message, MlsGroupUpdate};

use super::answer::Answer;
use super::device::{Device, message_of};
use super::member::{self, Member, Received};
use super::server::Server;

/// Alice, who made the group, and Bob, whom she added: it is at epoch 1.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) alice: Member,
    pub(crate) bob: Member,
}

/// A client with one KeyPackage at its provider, who lets `peer` fetch it.
pub(crate) async fn invite(server: &Server, name: &str, peer: &Device) -> Device {
    let device = Device::register(server, name).await;
    let queue = device.queue_configs(1).await.remove(0);
    let key_package = member::key_package(&device, &device.attestation, &queue);
    device.upload(vec![member::encoded(&key_package)]).await;
    device.consent(peer.user()).await;
    device
}

/// Adds a user, with the KeyPackage that their provider hands out, and has their client join.
pub(crate) async fn add(alice: &mut Member, mut device: Device) -> Member {
    let fetched = alice.device.key_packages_of(&device.user()).await;
    let key_packages = fetched
        .iter()
        .map(|bytes| member::decoded(&alice.device, bytes))
        .collect();
    let add = alice.add(key_packages);
    let request = alice.signed(DsRequestBody::AddUsers(add));
    let http = &alice.device.http;
    let answer = http.post(Endpoint::GroupOperation.path(), &request).await;
    alice.merge();
    assert_eq!(answer.ok().0, alice.epoch());
    let welcome = device.next_one().await;
    assert_eq!(welcome.sender, alice.owner);
    Member::join(device, message_of(&welcome), alice.owner.clone()).await
}

impl Scene {
    pub(crate) async fn set() -> Self {
        Self::set_at(Server::start("a.example").await).await
    }

    pub(crate) async fn set_at(server: Server) -> Self {
        let alice = Device::register(&server, "alice/phone").await;
        let bob = invite(&server, "bob/phone", &alice).await;
        let (mut alice, request) = Member::create(alice).await;
        let http = &alice.device.http;
        let answer = http.post(Endpoint::GroupOperation.path(), &request).await;
        assert_eq!(answer.ok().0, 0);
        let bob = add(&mut alice, bob).await;
        Self { server, alice, bob }
    }

    pub(crate) fn group_id(&self) -> GroupId {
        GroupId::new(self.alice.group.group_id().as_slice()).unwrap()
    }

    /// The answer to a request for the owner of the group.
    pub(crate) async fn operate(&self, request: &[u8]) -> Answer {
        self.post(Endpoint::GroupOperation, request).await
    }

    pub(crate) async fn post(&self, endpoint: Endpoint, request: &[u8]) -> Answer {
        self.alice.device.http.post(endpoint.path(), request).await
    }

    /// The answer to an update by Alice, changed before she signs the request; whatever it is, she
    /// is at the epoch before it.
    pub(crate) async fn bad_update(&mut self, change: impl FnOnce(&mut MlsGroupUpdate)) -> Answer {
        let mut group_update = self.alice.update();
        change(&mut group_update);
        self.alice.discard();
        let body = DsRequestBody::UpdateClient(GroupUpdate { group_update });
        self.operate(&self.alice.signed(body)).await
    }

    /// Alice renews her keys, and Bob learns of it.
    pub(crate) async fn update(&mut self) {
        let request = self.alice.update_client();
        let answer = self.operate(&request).await;
        self.alice.merge();
        assert_eq!(answer.ok().0, self.alice.epoch());
        let item = self.bob.device.next_one().await;
        let received = self.bob.receive(&item);
        assert_eq!(received, Received::Commit(self.alice.epoch()));
    }

    /// The group is at the epoch that its members know, and nothing is in anybody's queue: the
    /// next message is accepted at that epoch, and is the next that comes.
    pub(crate) async fn assert_unchanged(&mut self) {
        let (request, message) = self.alice.message("still here");
        let answer = self.operate(&request).await;
        assert_eq!(answer.ok().0, self.alice.epoch());
        let item = self.bob.device.next_one().await;
        assert_eq!(message_of(&item), message);
        let received = self.bob.receive(&item);
        assert_eq!(received, Received::Text("still here".to_owned()));
        assert_eq!(self.alice.device.read(0).await, []);
        assert_eq!(self.bob.device.read(0).await, []);
    }
}

/// A request with one field changed, its bytes.
pub(crate) fn changed<T: Message>(bytes: &[u8], change: impl FnOnce(&mut T)) -> Vec<u8> {
    let mut request = T::decode(bytes).unwrap();
    change(&mut request);
    request.encode()
}
