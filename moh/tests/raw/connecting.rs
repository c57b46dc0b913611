//! Requests to connect, as another provider brings them, and what becomes of them.

use moh_messages::client_api::{
    BlockTarget, Boolean, ClientRequestBody, ClientResponseBody, ConnectionState,
    DeclineConnection, QueueItemPayload, SetBlock,
};
use moh_messages::{
    ClientQueueInformation, ConnectionRequest, DeliveryResult, DsErrorCode, Endpoint, Message,
    MlsBytes, QueuePayload, QueueingServiceRequest, QueueingServiceResponse, UserId,
};

use crate::common::device::Device;
use crate::common::peer::Peer;
use crate::common::server::Server;

/// A client at `a`, with a queue of its own that nobody has delivered to.
struct Asked {
    device: Device,
    queue: ClientQueueInformation,
}

impl Asked {
    async fn at(a: &Server, user: &str) -> Self {
        let device = Device::register(a, &format!("{user}/phone")).await;
        let queue = queue_of(&device).await;
        Self { device, queue }
    }

    async fn call(&self, body: ClientRequestBody) {
        assert_eq!(self.device.call(body).await, ClientResponseBody::Ok);
    }

    /// The states of all connections of the user.
    async fn states(&self) -> Vec<(UserId, ConnectionState)> {
        let connections = self.device.connections().await.into_iter();
        connections.map(|c| (c.peer, c.state)).collect()
    }

    /// What has arrived since this was asked last.
    async fn arrived(&mut self) -> Vec<QueueItemPayload> {
        let items = self.device.read(0).await;
        if let Some(last) = items.last() {
            self.device.cursor = last.cursor.clone();
        }
        items.into_iter().map(|item| item.payload).collect()
    }

    /// Nobody has asked, and nothing has arrived.
    async fn assert_left_alone(&mut self) {
        assert_eq!(self.states().await, []);
        assert_eq!(self.arrived().await, []);
    }
}

async fn queue_of(device: &Device) -> ClientQueueInformation {
    let config = device.queue_configs(1).await.remove(0);
    config.client_queue_information
}

fn asks(requester: &UserId, responder: &UserId) -> QueuePayload {
    QueuePayload::ConnectionRequest(ConnectionRequest {
        requester: requester.clone(),
        responder: responder.clone(),
        welcome: MlsBytes::new(*b"a Welcome").unwrap(),
    })
}

fn says(text: &[u8]) -> QueuePayload {
    QueuePayload::MlsMessage(MlsBytes::new(text).unwrap())
}

/// A user of a provider.
fn user_of(peer: &Peer, name: &str) -> UserId {
    UserId::new(&peer.name, name).unwrap()
}

/// The results of a request with deliveries.
async fn results(
    server: &Server,
    peer: &Peer,
    request: QueueingServiceRequest,
) -> Vec<DeliveryResult> {
    let endpoint = match &request.deliveries[0].payload {
        QueuePayload::MlsMessage(_) => Endpoint::DeliverMessage,
        QueuePayload::ConnectionRequest(_) => Endpoint::ConnectionRequest,
    };
    let request = peer.signed(endpoint, request);
    let answer = server.http().post(endpoint.path(), &request).await;
    let response: QueueingServiceResponse = answer.message(200);
    response.results.into_vec()
}

/// The result of one delivery.
async fn deliver(
    server: &Server,
    peer: &Peer,
    queues: &[&ClientQueueInformation],
    payload: QueuePayload,
) -> DeliveryResult {
    let queues: Vec<_> = queues.iter().map(|queue| (*queue).clone()).collect();
    let request = peer.delivery(&server.name, &queues, payload);
    let mut results = results(server, peer, request).await;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

fn invalid(positions: &[u32]) -> DeliveryResult {
    DeliveryResult::InvalidClientQueueInformation {
        recipients: positions.to_vec().try_into().unwrap(),
    }
}

#[track_caller]
fn assert_error(result: &DeliveryResult, code: DsErrorCode) {
    let DeliveryResult::Error(error) = result else {
        panic!("{result:?}");
    };
    assert_eq!(error.code, code);
}

#[tokio::test]
async fn a_request_is_by_a_user_of_the_sender_for_the_responders_clients() {
    let (a, b) = Server::start_two().await;
    let peer = Peer::of(&b).await;
    let alice = user_of(&peer, "alice");
    let mut carol = Asked::at(&a, "carol").await;
    let mut david = Asked::at(&a, "david").await;
    let (to_carol, to_david) = (carol.device.user(), david.device.user());
    let nobody: UserId = "mimi://a.example/u/nobody".parse().unwrap();
    let abroad: UserId = "mimi://b.example/u/bob".parse().unwrap();
    for (requester, responder) in [
        (&to_david, &to_carol),
        (&"mimi://c.example/u/alice".parse().unwrap(), &to_carol),
        (&alice, &abroad),
    ] {
        let result = deliver(&a, &peer, &[&carol.queue], asks(requester, responder)).await;
        assert_error(&result, DsErrorCode::POLICY_VIOLATION);
    }
    // A queue of somebody else is none, nor is what was not sealed here, nor one of nobody.
    let garbage = ClientQueueInformation::new([7; 92]).unwrap();
    for (queue, responder) in [
        (&david.queue, &to_carol),
        (&garbage, &to_carol),
        (&carol.queue, &nobody),
    ] {
        let result = deliver(&a, &peer, &[queue], asks(&alice, responder)).await;
        assert_eq!(result, invalid(&[0]));
    }
    carol.assert_left_alone().await;
    david.assert_left_alone().await;
    // Who is theirs among others is asked.
    let queues = [&david.queue, &carol.queue, &garbage];
    let result = deliver(&a, &peer, &queues, asks(&alice, &to_carol)).await;
    assert_eq!(result, invalid(&[0, 2]));
    let asked = (alice.clone(), ConnectionState::Asked);
    assert_eq!(carol.states().await, [asked]);
    let [QueueItemPayload::ConnectionRequest(request)] = &carol.arrived().await[..] else {
        panic!("no request");
    };
    assert_eq!(
        (&request.requester, &request.responder),
        (&alice, &to_carol)
    );
    david.assert_left_alone().await;
}

#[tokio::test]
async fn a_request_needs_the_signature_of_its_sender_for_this_endpoint() {
    let (a, b) = Server::start_two().await;
    let (peer, ours) = (Peer::of(&b).await, Peer::of(&a).await);
    let mut carol = Asked::at(&a, "carol").await;
    let payload = asks(&user_of(&peer, "alice"), &carol.device.user());
    let queue = carol.queue.clone();
    let request = || peer.delivery(&a.name, std::slice::from_ref(&queue), payload.clone());
    let right = Endpoint::ConnectionRequest;
    let post = async |body: &[u8]| a.http().post(right.path(), body).await;
    let elsewhere = peer.signed(Endpoint::DeliverMessage, request());
    let mut by_another = request();
    by_another.provider_auth.key_id = ours.key_id.clone();
    let by_another = ours.signed(right, by_another);
    for body in [elsewhere, request().encode()] {
        post(&body).await.refused(403, "unauthenticated");
    }
    // A key that `b` may have made since it was asked last.
    post(&by_another).await.refused(503, "unavailable");
    let body = peer.signed(Endpoint::DeliverMessage, request());
    let answer = a.http().post(Endpoint::DeliverMessage.path(), &body).await;
    answer.refused(400, "wrong_endpoint");
    carol.assert_left_alone().await;
    // The same delivery counts once, however often it is brought.
    let mut request = request();
    for _ in 0..3 {
        request.provider_auth = peer.auth();
        assert_eq!(
            results(&a, &peer, request.clone()).await,
            [DeliveryResult::Ok]
        );
    }
    assert_eq!(carol.arrived().await.len(), 1);
    assert_eq!(carol.states().await.len(), 1);
}

/// Carol declines, David accepts, Emily blocks whoever asks; and then comes a message.
#[tokio::test]
async fn what_comes_after_a_request_is_taken_as_the_user_decides() {
    let (mut a, b) = Server::start_two().await;
    let (peer, ours) = (Peer::of(&b).await, Peer::of(&a).await);
    let alice = user_of(&peer, "alice");
    let (mut carol, mut david) = (Asked::at(&a, "carol").await, Asked::at(&a, "david").await);
    let mut emily = Asked::at(&a, "emily").await;
    for asked in [&mut carol, &mut david, &mut emily] {
        let payload = asks(&alice, &asked.device.user());
        let result = deliver(&a, &peer, &[&asked.queue], payload).await;
        assert_eq!(result, DeliveryResult::Ok);
        assert_eq!(asked.arrived().await.len(), 1);
    }
    let decline = DeclineConnection {
        peer: alice.clone(),
    };
    carol
        .call(ClientRequestBody::DeclineConnection(decline))
        .await;
    david.device.consent(alice.clone()).await;
    let set = SetBlock {
        target: BlockTarget::User(alice.clone()),
        blocked: Boolean::True,
    };
    emily.call(ClientRequestBody::SetBlock(set)).await;
    assert_eq!(carol.states().await, []);
    let consented = (alice.clone(), ConnectionState::Consented);
    assert_eq!(david.states().await, [consented]);
    assert_eq!(emily.states().await, []);
    a.kill().await;
    a.restart().await;
    for (asked, result, arrives) in [
        (&mut carol, invalid(&[0]), 0),
        (&mut david, DeliveryResult::Ok, 1),
        (&mut emily, DeliveryResult::Ok, 0),
    ] {
        let told = deliver(&a, &peer, &[&asked.queue], says(b"hello")).await;
        assert_eq!(told, result);
        assert_eq!(asked.arrived().await.len(), arrives);
        // The queue is for the provider that came first, and nobody else.
        let told = deliver(&a, &ours, &[&asked.queue], says(b"hello")).await;
        assert_eq!(told, invalid(&[0]));
        assert_eq!(asked.arrived().await, []);
    }
}

#[tokio::test]
async fn who_is_blocked_cannot_tell() {
    let (a, b) = Server::start_two().await;
    let peer = Peer::of(&b).await;
    let alice = user_of(&peer, "alice");
    let mut users = Vec::new();
    for (name, target) in [
        ("carol", None),
        ("david", Some(BlockTarget::User(alice.clone()))),
        ("emily", Some(BlockTarget::Provider(b.name.clone()))),
    ] {
        let asked = Asked::at(&a, name).await;
        if let Some(target) = target.clone() {
            let blocked = Boolean::True;
            let set = SetBlock { target, blocked };
            asked.call(ClientRequestBody::SetBlock(set)).await;
        }
        users.push((asked, target.is_some()));
    }
    let garbage = ClientQueueInformation::new([7; 92]).unwrap();
    for (asked, is_blocked) in &mut users {
        // Also what is wrong is told as to anybody, and at a repetition.
        let queues = [asked.queue.clone(), garbage.clone()];
        let payload = asks(&alice, &asked.device.user());
        let mut request = peer.delivery(&a.name, &queues, payload);
        for _ in 0..2 {
            request.provider_auth = peer.auth();
            assert_eq!(results(&a, &peer, request.clone()).await, [invalid(&[1])]);
        }
        let told = deliver(&a, &peer, &[&asked.queue], says(b"hello")).await;
        assert_eq!(told, DeliveryResult::Ok);
        if *is_blocked {
            asked.assert_left_alone().await;
        } else {
            assert_eq!(asked.arrived().await.len(), 2);
            assert_eq!(asked.states().await.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_user_has_so_many_requests_to_decide_on_at_most() {
    let settings = "registration = \"open\"\n[limits]\nmax_pending_connection_requests = 1";
    let a = Server::start_with("a.example", settings).await;
    let peer = Peer::of(&a).await;
    let (first, second) = (user_of(&peer, "first"), user_of(&peer, "second"));
    let mut carol = Asked::at(&a, "carol").await;
    let result = deliver(
        &a,
        &peer,
        &[&carol.queue],
        asks(&first, &carol.device.user()),
    )
    .await;
    assert_eq!(result, DeliveryResult::Ok);
    assert_eq!(carol.arrived().await.len(), 1);
    // What is to be brought again ends the results.
    let queue = queue_of(&carol.device).await;
    let payload = asks(&second, &carol.device.user());
    let mut request = peer.delivery(&a.name, &[queue], payload);
    let mut deliveries = request.deliveries.clone().into_vec();
    let mut other = deliveries[0].clone();
    other.delivery_id = moh_messages::DeliveryId::new([1; 16]).unwrap();
    deliveries.push(other);
    request.deliveries = deliveries.try_into().unwrap();
    let told = results(&a, &peer, request.clone()).await;
    assert_eq!(told.len(), 1);
    assert_error(&told[0], DsErrorCode::RATE_LIMITED);
    assert_eq!(carol.arrived().await, []);
    assert_eq!(
        carol.states().await,
        [(first.clone(), ConnectionState::Asked)]
    );
    // Once there is room, the same deliveries are looked at: the first is taken, and its queue is
    // not there for another request.
    let decline = DeclineConnection { peer: first };
    carol
        .call(ClientRequestBody::DeclineConnection(decline))
        .await;
    request.provider_auth = peer.auth();
    let told = results(&a, &peer, request).await;
    let recipients = vec![0].try_into().unwrap();
    let used = DeliveryResult::InvalidClientQueueInformation { recipients };
    assert_eq!(told, [DeliveryResult::Ok, used]);
    assert_eq!(carol.arrived().await.len(), 1);
    assert_eq!(carol.states().await, [(second, ConnectionState::Asked)]);
}
