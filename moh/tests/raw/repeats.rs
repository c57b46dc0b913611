//! The same request again, as after an answer that was lost: it gets the first answer, and
//! nothing is delivered twice.

use moh_messages::{DsRequest, DsRequestBody, Message, Signature, SignedLast};

use crate::common::device::{Device, message_of};
use crate::common::member::{Member, decoded};
use crate::common::scene::{Scene, changed, invite};
use crate::common::server::Server;

#[tokio::test]
async fn a_repeated_message_gets_the_first_answer() {
    let mut scene = Scene::set().await;
    let (request, message) = scene.alice.message("once");
    let first = scene.operate(&request).await;
    first.ok();
    assert_eq!(message_of(&scene.bob.device.next_one().await), message);
    for _ in 0..3 {
        assert_eq!(
            scene.operate(&request).await.everything(),
            first.everything()
        );
    }
    // It is not for whoever has seen the message.
    let forged = changed(&request, |request: &mut DsRequest| {
        *request.signature_mut().unwrap() = Signature::new([1; 64]).unwrap();
    });
    scene.operate(&forged).await.refused(404, "unknown_group");
    // After a commit it still has that answer, with the epoch that was.
    scene.update().await;
    assert_eq!(
        scene.operate(&request).await.everything(),
        first.everything()
    );
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_repeated_commit_gets_the_first_answer() {
    let mut scene = Scene::set().await;
    let request = scene.alice.update_client();
    let first = scene.operate(&request).await;
    assert_eq!(first.ok().0, 2);
    scene.alice.merge();
    assert_eq!(
        scene.operate(&request).await.everything(),
        first.everything()
    );
    let item = scene.bob.device.next_one().await;
    scene.bob.receive(&item);
    // Epochs later, too.
    for _ in 0..3 {
        scene.update().await;
        assert_eq!(
            scene.operate(&request).await.everything(),
            first.everything()
        );
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn a_repeated_add_welcomes_once() {
    let mut scene = Scene::set().await;
    let mut carol = invite(&scene.server, "carol/phone", &scene.alice.device).await;
    let fetched = scene.alice.device.key_packages_of(&carol.user()).await;
    let key_package = decoded(&scene.alice.device, &fetched[0]);
    let add = scene.alice.add(vec![key_package]);
    let request = scene.alice.signed(DsRequestBody::AddUsers(add));
    let first = scene.operate(&request).await;
    assert_eq!(first.ok().0, 2);
    scene.alice.merge();
    assert_eq!(
        scene.operate(&request).await.everything(),
        first.everything()
    );
    let item = scene.bob.device.next_one().await;
    scene.bob.receive(&item);
    carol.next_one().await;
    scene.assert_unchanged().await;
    // Carol, whose key is of no message yet, has got the message that was sent since.
    assert_eq!(carol.next(1).await.len(), 1);
}

#[tokio::test]
async fn a_repeated_create_group_gets_the_first_answer() {
    let server = Server::start("a.example").await;
    let alice = Device::register(&server, "alice/phone").await;
    let (mut member, request) = Member::create(alice).await;
    let http = server.http();
    let first = http.post("/group_operation", &request).await;
    assert_eq!(first.ok().0, 0);
    let again = http.post("/group_operation", &request).await;
    assert_eq!(again.everything(), first.everything());
    let update = member.update_client();
    member.merge();
    let answer = http.post("/group_operation", &update).await;
    assert_eq!(answer.ok().0, 1);
    // The group is not created anew.
    let again = http.post("/group_operation", &request).await;
    assert_eq!(again.everything(), first.everything());
    let update = member.update_client();
    let answer = http.post("/group_operation", &update).await;
    assert_eq!(answer.ok().0, 2);
}

#[tokio::test]
async fn repetitions_at_once_are_one() {
    let mut scene = Scene::set().await;
    for round in 0..8 {
        let is_commit = round % 2 == 0;
        let request = if is_commit {
            scene.alice.update_client()
        } else {
            scene.alice.message("once").0
        };
        let all = (0..6).map(|_| scene.operate(&request));
        let answers = futures_util::future::join_all(all).await;
        for answer in &answers {
            answer.ok();
            assert_eq!(answer.everything(), answers[0].everything());
        }
        let item = scene.bob.device.next_one().await;
        scene.bob.receive(&item);
        if is_commit {
            scene.alice.merge();
        }
    }
    scene.assert_unchanged().await;
}

#[tokio::test]
async fn repetitions_are_known_after_a_restart() {
    let mut scene = Scene::set().await;
    let (message, _) = scene.alice.message("once");
    let answers = [scene.operate(&message).await];
    let commit = scene.alice.update_client();
    let [to_message] = answers;
    let to_commit = scene.operate(&commit).await;
    scene.alice.merge();
    to_commit.ok();
    scene.server.kill().await;
    scene.server.restart().await;
    for (request, first) in [(&message, &to_message), (&commit, &to_commit)] {
        let again = scene.operate(request).await;
        assert_eq!(again.everything(), first.everything());
    }
    let items = scene.bob.device.next(2).await;
    assert_eq!(items.len(), 2);
    for item in &items {
        scene.bob.receive(item);
    }
    scene.assert_unchanged().await;
    // All that was changed here is the signature's place in the encoding.
    assert!(DsRequest::decode(&message).is_ok());
}
