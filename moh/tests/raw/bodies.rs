//! Bodies that are not requests to this provider.

use moh_messages::client_api::{ClientRequestBody, GetQueueConfigs, PATH};
use moh_messages::{
    ConnectionRequest, DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, Endpoint,
    ExternalCommitInfo, GroupUpdate, Message, MlsBytes, Opaque, ProviderName, QueuePayload,
    SelfRemoveClient, Signature, VerificationKeyRequest, WelcomeInfo,
};

use crate::common::member::send_message;
use crate::common::peer::Peer;
use crate::common::scene::Scene;

const GROUP_OPERATION: &str = "/group_operation";

/// One request for each path, well-formed, and for this provider.
fn requests(scene: &mut Scene, peer: &Peer) -> Vec<(&'static str, Vec<u8>)> {
    let us = scene.server.name.clone();
    let (message, _) = scene.alice.message("not to be seen");
    let device = &scene.alice.device;
    let get = ClientRequestBody::GetQueueConfigs(GetQueueConfigs { count: 1 });
    let welcome_info = DsRequestBody::WelcomeInfo(WelcomeInfo {
        group_id: scene.group_id(),
        epoch: 1,
    });
    let commit_info = DsRequestBody::ExternalCommitInfo(ExternalCommitInfo {
        group_id: scene.group_id(),
    });
    let key_package_ref = Opaque::new([7; 32]).unwrap();
    let auth = DsAuth::KeyPackage {
        key_package_ref,
        signature: Signature::empty(),
    };
    let welcome_info = device.signed(device.ds_request(&us, welcome_info, auth));
    vec![
        (GROUP_OPERATION, message),
        ("/welcome_information", welcome_info),
        (
            "/external_commit_information",
            scene.alice.signed(commit_info),
        ),
        ("/verification_key", keys_request(&us)),
        (
            "/connection_request",
            delivery(peer, &us, connection_request()),
        ),
        ("/deliver_message", delivery(peer, &us, mls_message())),
        (
            "/connection_key_packages",
            peer.signed(
                Endpoint::ConnectionKeyPackages,
                peer.connection_key_packages(&us),
            ),
        ),
        (
            "/group_key_packages",
            peer.signed(Endpoint::GroupKeyPackages, peer.group_key_packages(&us)),
        ),
        (PATH, device.request(get).encode()),
    ]
}

fn keys_request(recipient: &ProviderName) -> Vec<u8> {
    VerificationKeyRequest {
        version: DsProtocolVersion::MOH1,
        recipient: recipient.clone(),
    }
    .encode()
}

fn mls_message() -> QueuePayload {
    QueuePayload::MlsMessage(MlsBytes::new(*b"whatever").unwrap())
}

fn connection_request() -> QueuePayload {
    QueuePayload::ConnectionRequest(ConnectionRequest {
        requester: "mimi://a.example/u/alice".parse().unwrap(),
        responder: "mimi://a.example/u/bob".parse().unwrap(),
        welcome: MlsBytes::new(*b"whatever").unwrap(),
    })
}

fn delivery(peer: &Peer, recipient: &ProviderName, payload: QueuePayload) -> Vec<u8> {
    let endpoint = match payload {
        QueuePayload::MlsMessage(_) => Endpoint::DeliverMessage,
        QueuePayload::ConnectionRequest(_) => Endpoint::ConnectionRequest,
    };
    peer.signed(endpoint, peer.delivery(recipient, &[], payload))
}

#[tokio::test]
async fn what_does_not_decode_is_malformed() {
    let mut scene = Scene::set().await;
    let peer = Peer::of(&scene.server).await;
    let http = scene.server.http();
    for (path, request) in requests(&mut scene, &peer) {
        let mut bad: Vec<Vec<u8>> = vec![
            vec![0],
            vec![0, 1],
            vec![0, 1, 0xff, 0xff, 0xff, 0xff],
            [&request[..], &[0]].concat(),
        ];
        // Cut off, in every sixteenth place and just before the end.
        let cuts = (2..request.len()).step_by(request.len() / 16 + 1);
        bad.extend(
            cuts.chain([request.len() - 1])
                .map(|end| request[..end].to_vec()),
        );
        for body in bad {
            http.post(path, &body).await.refused(400, "malformed");
        }
    }
    http.post(GROUP_OPERATION, &[])
        .await
        .refused(400, "malformed");
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn an_unknown_type_or_a_length_that_is_not_minimal_is_malformed() {
    let mut scene = Scene::set().await;
    let (request, _) = scene.alice.message("not to be seen");
    // version, sender, recipient, group_state_key; then the type.
    let type_at = 2 + 2 * (1 + "a.example".len()) + 1;
    assert_eq!(request[type_at], 10);
    for unknown in [11, 12, 13, 15, 20, 255] {
        let mut request = request.clone();
        request[type_at] = unknown;
        scene.operate(&request).await.refused(400, "malformed");
    }
    let long = [&request[..2], &[0x40], &request[2..]].concat();
    scene.operate(&long).await.refused(400, "malformed");
    let mut upper = request;
    upper[3] = b'A';
    scene.operate(&upper).await.refused(400, "malformed");
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn another_version_is_told_ours() {
    let mut scene = Scene::set().await;
    let peer = Peer::of(&scene.server).await;
    let http = scene.server.http();
    for (path, mut request) in requests(&mut scene, &peer) {
        for version in [0u16, 2, 0xffff] {
            request[..2].copy_from_slice(&version.to_be_bytes());
            // What follows may be anything in another version.
            for body in [&request[..], &request[..2], b"\0\x02 another protocol"] {
                let answer = http.post(path, body).await;
                let error = answer.refused(400, "unsupported_version");
                assert_eq!(error.data.as_slice(), [2, 0, 1], "a list with version 1");
            }
        }
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_request_for_another_provider_is_misdirected() {
    let mut scene = Scene::set().await;
    let peer = Peer::of(&scene.server).await;
    let http = scene.server.http();
    for (path, request) in requests(&mut scene, &peer) {
        let has_sender = !["/verification_key", PATH].contains(&path);
        let length = "a.example".len() + 1;
        let at = 2 + if has_sender { length } else { 0 } + 1;
        assert_eq!(&request[at..at + 9], b"a.example");
        let mut other = request.clone();
        other[at] = b'b';
        http.post(path, &other)
            .await
            .refused(421, "wrong_recipient");
        // That comes before what cannot be read of the rest.
        other.truncate(at + 9);
        http.post(path, &other)
            .await
            .refused(421, "wrong_recipient");
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_request_at_another_endpoint_is_refused() {
    let mut scene = Scene::set().await;
    let peer = Peer::of(&scene.server).await;
    let all = requests(&mut scene, &peer);
    let http = scene.server.http();
    let paths = [
        GROUP_OPERATION,
        "/welcome_information",
        "/external_commit_information",
    ];
    for (at, request) in all.iter().filter(|(path, _)| paths.contains(path)) {
        for other in paths.iter().filter(|path| *path != at) {
            let answer = http.post(other, request).await;
            let error = answer.refused(400, "wrong_endpoint");
            assert!(error.detail().contains(at), "{}", error.detail());
        }
    }
    let endpoint = Endpoint::DeliverMessage;
    let request = peer.delivery(&scene.server.name, &[], connection_request());
    let answer = scene.post(endpoint, &peer.signed(endpoint, request)).await;
    answer.refused(400, "wrong_endpoint");
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_commit_that_is_sent_as_something_else_is_refused() {
    let mut scene = Scene::set().await;
    let group_update = scene.alice.update();
    scene.alice.discard();
    let update = GroupUpdate { group_update };
    let proposal = update.group_update.commit.clone();
    let operations = [
        (
            DsRequestBody::DeleteGroup(update.clone()),
            422,
            "policy_violation",
        ),
        (
            DsRequestBody::RemoveUsers(update.clone()),
            422,
            "policy_violation",
        ),
        (
            DsRequestBody::RemoveClients(update.clone()),
            422,
            "policy_violation",
        ),
        (
            DsRequestBody::SelfRemoveClient(SelfRemoveClient { proposal }),
            422,
            "policy_violation",
        ),
        (
            DsRequestBody::ExternalJoin(update.clone()),
            422,
            "invalid_message",
        ),
        (
            DsRequestBody::ReInitializeGroup(update.clone()),
            422,
            "policy_violation",
        ),
        (DsRequestBody::SetRoles(update), 422, "policy_violation"),
        (DsRequestBody::ClientDeleted, 403, "unauthenticated"),
    ];
    for (body, status, code) in operations {
        let answer = scene.operate(&scene.alice.signed(body)).await;
        answer.refused(status, code);
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn fields_that_are_reserved_are_empty() {
    let mut scene = Scene::set().await;
    let message = scene.alice.encrypt("not to be seen");
    let device = &scene.alice.device;
    let auth = DsAuth::Leaf {
        leaf_index: 0,
        signature: Signature::empty(),
    };
    let mut request: DsRequest =
        device.ds_request(&scene.server.name, send_message(&message), auth);
    request.group_state_key = Opaque::new([1; 16]).unwrap();
    let answer = scene.operate(&device.signed(request)).await;
    answer.refused(422, "policy_violation");
    scene.assert_unchanged().await;
}
