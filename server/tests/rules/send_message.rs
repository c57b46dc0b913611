//! send_message.

use moh_messages::{
    DsErrorCode, DsRequestBody, Message, MlsBytes, Opaque, QueuePayload, SendMessage,
};

use crate::member::{Heard, Plan};
use crate::scene::{ALICE, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::{Mail, waiting_for};

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
    let message = bytes(scene.members[BOB].message("hello"));
    let made = scene.made(BOB, Plan::default());
    let violation = DsErrorCode::POLICY_VIOLATION;
    scene
        .refuses(BOB, "a PublicMessage", violation, of(made.commit))
        .await;
    for content_type in [2, 3] {
        let mut handshake = message.clone();
        assert_eq!(handshake[CONTENT_TYPE], 1);
        handshake[CONTENT_TYPE] = content_type;
        scene
            .refuses(BOB, "a handshake message", violation, of(handshake))
            .await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn messages_that_are_none() {
    let mut scene = Scene::set().await;
    let message = bytes(scene.members[BOB].message("hello"));
    for (what, bytes) in [
        ("no bytes", Vec::new()),
        ("with a rest", [&message[..], &[0]].concat()),
        ("cut short", message[..message.len() - 1].to_vec()),
    ] {
        let code = DsErrorCode::INVALID_MESSAGE;
        scene.refuses(BOB, what, code, of(bytes)).await;
    }
    let mut elsewhere = message;
    elsewhere[10] ^= 1;
    let unknown = DsErrorCode::UNKNOWN_GROUP;
    scene
        .refuses(BOB, "another group", unknown, of(elsewhere))
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn of_the_current_epoch_or_one_of_the_last_five() {
    let mut scene = Scene::set().await;
    let old = scene.members[BOB].message("five epochs ago");
    let later = scene.members[BOB].message("six epochs ago");
    let mut future = bytes(scene.members[BOB].message("to come"));
    future[EPOCH][7] += 1;
    assert_eq!(future[EPOCH][7], 2);
    let code = DsErrorCode::WRONG_EPOCH;
    let what = "an epoch to come";
    let error = scene.refuses(BOB, what, code, of(future)).await;
    assert_eq!(u64::decode(error.data.as_slice()), Ok(1));
    scene.epochs(5).await;
    let request = scene.members[BOB].ask(old);
    scene.accepts("five epochs ago", 6, &request).await;
    scene.hear().await;
    scene.epochs(1).await;
    let error = scene.refuses(BOB, "six epochs ago", code, later).await;
    assert_eq!(u64::decode(error.data.as_slice()), Ok(7));
    scene.site.end().await;
}

#[tokio::test]
async fn who_receives_what() {
    let mut scene = Scene::set().await;
    let before = scene.site.mail().await;
    let body = scene.members[BOB].message("hello");
    let message = bytes(body.clone());
    let request = scene.members[BOB].ask(body);
    scene.accepts("a message", 1, &request).await;
    let others = scene.devices(&[ALICE, AMY, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&message]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    for (member, heard) in scene.hear().await.into_iter().enumerate() {
        let expected = match member {
            BOB => vec![],
            _ => vec![Heard::Text(b"hello".to_vec())],
        };
        assert_eq!(heard, expected, "{member}");
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn who_is_alone_at_a_provider_has_nothing_sent_there() {
    let mut scene = Scene::set().await;
    let body = scene.members[CAROL].message("hello");
    let payload = QueuePayload::MlsMessage(MlsBytes::new(bytes(body.clone())).unwrap()).encode();
    let request = scene.members[CAROL].ask(body);
    scene.accepts("a message", 1, &request).await;
    for (destination, expected) in [("b.example", 1), ("c.example", 0)] {
        let destination = destination.parse().unwrap();
        let rows = waiting_for(&*scene.site.store, &destination).await;
        let rows = rows.into_iter();
        let same = rows.filter(|row| row.delivery().unwrap().payload == payload);
        assert_eq!(same.count(), expected, "{destination}");
    }
    scene.site.end().await;
}
