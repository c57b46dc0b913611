//! send_message.

use moh_messages::{
    DsAuth, DsErrorCode, DsRequest, DsRequestBody, DsResponseBody, Message, Opaque, SendMessage,
    Signature,
};
use moh_server::store::Store;

use crate::device::{Member, Plan};
use crate::site::Site;

struct Scene {
    site: Site,
    alice: Member,
    bob: Member,
}

impl Scene {
    async fn set() -> Self {
        let site = Site::start().await;
        let alice = site.device("alice/phone@a.example");
        let mut alice = site.group_of(&alice).await;
        let bob = site.device("bob/phone@b.example");
        let (mut added, _) = site.add(&mut alice, &[&bob]).await;
        let bob = added.remove(0);
        Self { site, alice, bob }
    }

    async fn epochs(&mut self, count: usize) {
        let Self { site, alice, bob } = self;
        for _ in 0..count {
            site.update(alice, &mut [bob]).await;
        }
    }

    async fn refuses(&self, what: &str, code: DsErrorCode, request: &DsRequest) {
        let id = self.bob.group.group_id().as_slice();
        let clients = [&self.alice.device.id, &self.bob.device.id];
        let before = self.site.state(id, &clients).await;
        assert_eq!(self.site.ask(request).await, Err(code), "{what}");
        assert_eq!(before, self.site.state(id, &clients).await, "{what}");
    }
}

fn of(message: impl Into<Vec<u8>>) -> DsRequestBody {
    DsRequestBody::SendMessage(SendMessage {
        message: Opaque::new(message).unwrap(),
    })
}

fn bytes(body: DsRequestBody) -> Vec<u8> {
    let DsRequestBody::SendMessage(send) = body else {
        panic!("{body:?}");
    };
    send.message.into_vec()
}

/// In an MLSMessage with a PrivateMessage of a group whose name has 32 bytes.
const EPOCH: std::ops::Range<usize> = 37..45;
const CONTENT_TYPE: usize = 45;

#[tokio::test]
async fn messages_that_are_no_application_messages() {
    let mut scene = Scene::set().await;
    let message = bytes(scene.bob.message("hello"));
    let made = scene.bob.commit(Plan::default());
    scene.bob.forget();
    let ask = |body| scene.bob.ask(body);
    let (violation, invalid) = (DsErrorCode::POLICY_VIOLATION, DsErrorCode::INVALID_MESSAGE);
    scene
        .refuses("a PublicMessage", violation, &ask(of(made.commit)))
        .await;
    for content_type in [2, 3] {
        let mut handshake = message.clone();
        assert_eq!(handshake[CONTENT_TYPE], 1);
        handshake[CONTENT_TYPE] = content_type;
        scene
            .refuses("a handshake message", violation, &ask(of(handshake)))
            .await;
    }
    scene.refuses("no bytes", invalid, &ask(of([]))).await;
    let long = [&message[..], &[0]].concat();
    scene.refuses("with a rest", invalid, &ask(of(long))).await;
    let short = &message[..message.len() - 1];
    scene.refuses("cut short", invalid, &ask(of(short))).await;
    let mut elsewhere = message.clone();
    elsewhere[10] ^= 1;
    let unknown = DsErrorCode::UNKNOWN_GROUP;
    scene
        .refuses("another group", unknown, &ask(of(elsewhere)))
        .await;
    assert!(scene.site.ask(&ask(of(message))).await.is_ok());
    scene.site.end().await;
}

#[tokio::test]
async fn epochs() {
    let mut scene = Scene::set().await;
    let old = scene.bob.message("five epochs ago");
    let later = scene.bob.message("six epochs ago");
    let mut future = bytes(scene.bob.message("to come"));
    future[EPOCH][7] += 1;
    assert_eq!(future[EPOCH][7], 2);
    let code = DsErrorCode::WRONG_EPOCH;
    let future = scene.bob.ask(of(future));
    scene.refuses("an epoch to come", code, &future).await;
    scene.epochs(5).await;
    let taken = scene.site.ask(&scene.bob.ask(old)).await;
    assert!(matches!(taken, Ok(DsResponseBody::Ok { epoch: 6, .. })));
    scene.epochs(1).await;
    let later = scene.bob.ask(later);
    scene.refuses("six epochs ago", code, &later).await;
    scene.site.end().await;
}

#[tokio::test]
async fn who_sends_it() {
    let mut scene = Scene::set().await;
    let body = scene.bob.message("hello");
    let (stranger, unauthenticated) = (DsErrorCode::UNKNOWN_GROUP, DsErrorCode::UNAUTHENTICATED);
    let carol = scene.site.device("carol/phone@c.example");
    for leaf in [0, 1, 2] {
        let request = carol.as_leaf(leaf, body.clone());
        scene.refuses("not a member", stranger, &request).await;
    }
    let device = &scene.bob.device;
    let request = device.as_leaf(0, body.clone());
    scene.refuses("at another's leaf", stranger, &request).await;
    let request = device.request(body.clone(), DsAuth::Anonymous);
    scene.refuses("nobody", unauthenticated, &request).await;
    let auth = DsAuth::KeyPackage {
        key_package_ref: Opaque::new([1; 32]).unwrap(),
        signature: Signature::empty(),
    };
    let request = device.sign(device.request(body.clone(), auth));
    scene
        .refuses("a KeyPackage", unauthenticated, &request)
        .await;
    let mut request = scene.bob.ask(body.clone());
    request.sender = "a.example".parse().unwrap();
    let request = device.sign(request);
    scene
        .refuses("another sender", unauthenticated, &request)
        .await;
    let mut request = scene.bob.ask(body.clone());
    request.recipient = "c.example".parse().unwrap();
    let wrong = DsErrorCode::WRONG_RECIPIENT;
    let request = device.sign(request);
    scene.refuses("another recipient", wrong, &request).await;
    scene.site.end().await;
}

#[tokio::test]
async fn a_message_goes_to_all_others_once() {
    let mut scene = Scene::set().await;
    let amy = scene.site.device("amy/phone@a.example");
    let Scene { site, alice, bob } = &mut scene;
    let (_, made) = site.add(alice, &[&amy]).await;
    bob.hear(&made.commit);
    let message = bob.message("hello");
    let payload =
        moh_messages::QueuePayload::MlsMessage(Opaque::new(bytes(message.clone())).unwrap());
    let request = bob.ask(message);
    let first = site.ask(&request).await.unwrap();
    assert_eq!(site.ask(&request).await, Ok(first));
    let count = |payloads: Vec<Vec<u8>>| {
        let same = payloads.iter().filter(|p| **p == payload.encode());
        same.count()
    };
    for id in [&alice.device.id, &amy.id] {
        let rows = site.store.queue(id, 0, 100, 1 << 30).await.unwrap();
        assert_eq!(
            count(rows.into_iter().map(|r| r.payload).collect()),
            1,
            "{id}"
        );
    }
    // Bob is the only one at his provider.
    let rows = site
        .store
        .outbox(&"b.example".parse().unwrap(), 100, 1 << 30)
        .await;
    let payloads = rows.unwrap().into_iter().map(|r| r.delivery.payload);
    assert_eq!(count(payloads.collect()), 0);
    scene.site.end().await;
}
