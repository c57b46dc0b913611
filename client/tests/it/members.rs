//! Removals, roles, and the end of a group.

use moh_client::{DsErrorCode, Error, Event, GroupOptions, Operation, Outcome, Reason};

use crate::fake::Mishap;
use crate::scene::{Scene, add, received, texts};

fn code(error: &Error) -> Option<DsErrorCode> {
    error.refusal().map(|refusal| refusal.code)
}

#[tokio::test]
async fn a_removed_user_is_told_once_and_hears_no_more() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    let (carols, her) = (carol.client.client_id(), carol.client.user_id());
    assert_eq!(
        alice.client.remove_user(&group, her).await.unwrap().epoch,
        3
    );
    let events = received(&bob).await;
    assert!(matches!(
        &events[..],
        [Event::MembersChanged { removed, epoch: 3, .. }] if removed == std::slice::from_ref(carols)
    ));
    // What her provider delivers for the group nevertheless is nothing to talk about.
    let commit = last_item(&scene, carols);
    scene.world.deliver(carols, "a.example", commit);
    let events = received(&carol).await;
    assert!(matches!(&events[..], [Event::Removed { by, .. }] if by == alice.client.client_id()));
    assert_eq!(carol.client.groups().await.unwrap(), []);
    let again = alice.client.remove_user(&group, her).await;
    assert!(matches!(again, Err(Error::NotMember(_))));
    let own = alice.client.user_id();
    let oneself = alice.client.remove_user(&group, own).await;
    assert!(matches!(oneself, Err(Error::Oneself)));

    add(&bob, &group, &carol).await;
    received(&carol).await;
    carol.client.send(&group, "back").await.unwrap();
    assert_eq!(texts(&received(&alice).await), ["back"]);
}

fn last_item(scene: &Scene, client: &moh_client::ClientId) -> Vec<u8> {
    scene.world.state.lock().unwrap().last_item(client)
}

#[tokio::test]
async fn a_user_is_removed_with_all_devices_and_a_device_alone() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let tablet = scene.device(&bob, "tablet").await;
    let laptop = scene.device(&bob, "laptop").await;
    for device in [&tablet, &laptop] {
        let id = device.client.client_id();
        bob.client.add_device(&group, id).await.unwrap();
        received(device).await;
    }
    let id = laptop.client.client_id();
    bob.client.remove_device(&group, id).await.unwrap();
    assert!(matches!(
        &received(&laptop).await[..],
        [Event::Removed { .. }]
    ));
    let own = bob.client.client_id();
    let oneself = bob.client.remove_device(&group, own).await;
    assert!(matches!(oneself, Err(Error::Oneself)));
    let user = bob.client.user_id();
    alice.client.remove_user(&group, user).await.unwrap();
    for device in [&bob, &tablet] {
        let events = received(device).await;
        assert!(matches!(events.last(), Some(Event::Removed { .. })));
    }
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_removal_whose_answer_is_lost_happens_once() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    scene.world.plan("remove_users", Mishap::LoseAnswer);
    let her = carol.client.user_id();
    let error = alice.client.remove_user(&group, her).await.unwrap_err();
    assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    received(&bob).await;
    bob.client.send(&group, "without her").await.unwrap();
    let alice = scene.restart(alice).await;
    let events = received(&alice).await;
    assert!(matches!(
        &events[0],
        Event::Settled {
            operation: Operation::Remove,
            outcome: Outcome::Accepted,
            ..
        }
    ));
    assert_eq!(texts(&events), ["without her"]);
    let sent = scene.world.seen("remove_users");
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
}

#[tokio::test]
async fn a_removal_that_comes_second_is_made_anew() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    bob.client.update(&group).await.unwrap();
    let her = carol.client.user_id();
    alice.client.remove_user(&group, her).await.unwrap();
    // And one that somebody else has made meanwhile is not needed.
    let second = bob.client.remove_user(&group, her).await;
    assert!(matches!(second, Err(Error::NotMember(_))), "{second:?}");
}

#[tokio::test]
async fn only_admins_change_who_is_there() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    let carol = scene.party("c.example", "carol").await;
    let (her, him) = (alice.client.user_id(), bob.client.user_id());
    let options = GroupOptions {
        admins: vec![her.clone()],
        ..GroupOptions::default()
    };
    let group = alice.client.create_group_with(options).await.unwrap();
    add(&alice, &group, &bob).await;
    add(&alice, &group, &carol).await;
    received(&bob).await;
    let error = bob.client.remove_user(&group, her).await.unwrap_err();
    assert_eq!(code(&error), Some(DsErrorCode::UNAUTHORIZED));
    let admins = vec![her.clone(), him.clone()];
    alice.client.set_admins(&group, &admins[..]).await.unwrap();
    let events = received(&bob).await;
    assert!(
        matches!(&events[..], [Event::AdminsChanged { admins: now, .. }] if *now == admins),
        "{events:?}"
    );
    assert_eq!(bob.client.admins(&group).await.unwrap(), Some(admins));
    bob.client.remove_user(&group, her).await.unwrap();
    assert!(matches!(
        &received(&alice).await[..],
        [Event::Removed { .. }]
    ));
}

#[tokio::test]
async fn other_members_and_other_admins_are_both_told() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let bob = scene.party("b.example", "bob").await;
    let carol = scene.party("c.example", "carol").await;
    let (her, him) = (alice.client.user_id(), bob.client.user_id());
    let options = GroupOptions {
        admins: vec![her.clone()],
        ..GroupOptions::default()
    };
    let group = alice.client.create_group_with(options).await.unwrap();
    add(&alice, &group, &bob).await;
    add(&alice, &group, &carol).await;
    received(&bob).await;
    received(&carol).await;
    carol.client.leave(&group).await.unwrap();
    let both = vec![her.clone(), him.clone()];
    alice.client.set_admins(&group, &both[..]).await.unwrap();
    let events = received(&bob).await;
    assert!(
        matches!(
            &events[..],
            [
                Event::MembersChanged { removed, epoch: 3, .. },
                Event::AdminsChanged { admins, epoch: 3, .. }
            ] if removed == std::slice::from_ref(carol.client.client_id()) && *admins == both
        ),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_deleted_group_ends_for_all() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    alice.client.delete_group(&group).await.unwrap();
    assert_eq!(alice.client.groups().await.unwrap(), []);
    assert!(matches!(&received(&bob).await[..], [Event::Removed { .. }]));
    // Carol has not heard of it when she writes.
    scene.world.plan(
        "send_message",
        Mishap::Refuse(moh_client::DsError::new(DsErrorCode::GROUP_DELETED, "")),
    );
    let error = carol.client.send(&group, "hello?").await.unwrap_err();
    assert_eq!(code(&error), Some(DsErrorCode::GROUP_DELETED));
    let events = received(&carol).await;
    assert_eq!(events, [Event::Deleted { group }]);
    assert_eq!(carol.client.groups().await.unwrap(), []);
}

#[tokio::test]
async fn a_group_of_one_can_be_deleted_and_the_answer_may_be_lost() {
    let scene = Scene::new();
    let alice = scene.party("a.example", "alice").await;
    let group = alice.client.create_group().await.unwrap();
    scene.world.plan("delete_group", Mishap::LoseAnswer);
    let error = alice.client.delete_group(&group).await.unwrap_err();
    assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    let alice = scene.restart(alice).await;
    let events = received(&alice).await;
    assert!(matches!(
        &events[..],
        [Event::Settled {
            operation: Operation::Delete,
            outcome: Outcome::Accepted,
            ..
        }]
    ));
    assert_eq!(alice.client.groups().await.unwrap(), []);
}

#[tokio::test]
async fn the_owners_key_is_put_in_place_where_it_is_another_one() {
    let scene = Scene::new();
    let (alice, bob, carol, group) = scene.trio().await;
    assert_eq!(alice.client.refresh_owner_key(&group).await.unwrap(), None);
    scene.world.renew_sender_key("a.example");
    assert!(
        alice
            .client
            .refresh_owner_key(&group)
            .await
            .unwrap()
            .is_some()
    );
    received(&bob).await;
    scene
        .world
        .propose_removal(&group, carol.client.client_id());
    received(&bob).await;
    bob.client.send(&group, "she is gone").await.unwrap();
    assert_eq!(bob.client.members(&group).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_unknown_group_is_not_given_up() {
    let scene = Scene::new();
    let (alice, bob, group) = scene.alice_and_bob().await;
    let unknown = moh_client::DsError::new(DsErrorCode::UNKNOWN_GROUP, "");
    scene.world.plan("send_message", Mishap::Refuse(unknown));
    let error = alice.client.send(&group, "?").await.unwrap_err();
    assert_eq!(code(&error), Some(DsErrorCode::UNKNOWN_GROUP));
    alice.client.send(&group, "still here").await.unwrap();
    assert_eq!(texts(&received(&bob).await), ["still here"]);
    let stranger = scene.party("c.example", "carol").await;
    let items = last_item(&scene, bob.client.client_id());
    let to = stranger.client.client_id();
    scene.world.deliver(to, "a.example", items);
    assert!(matches!(
        &received(&stranger).await[..],
        [Event::Undecodable {
            reason: Reason::UnknownGroup,
            ..
        }]
    ));
}
