//! The whole path: accounts, consent, a group, messages both ways, new keys, late joins.

use moh_client::{Error, Event};
use moh_messages::{Message, QueuePayload};

use crate::listen::{agree, hear_some, hear_until, hears_nothing, joined, say, texts};
use crate::world::{World, user_id};

#[tokio::test]
async fn two_providers_one_conversation() {
    let world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let laptop = world.device(&bob, "laptop").await;

    bob.set_consent(alice.user_id(), true).await.unwrap();
    let group = alice.create_group().await.unwrap();
    let added = alice.add_user(&group, bob.user_id()).await.unwrap();
    assert_eq!(
        (
            added.accepted.epoch,
            added.clients.len(),
            added.missing.len()
        ),
        (1, 2, 0)
    );
    for device in [&bob, &laptop] {
        let heard = hear_some(device, 1).await;
        assert!(joined(&heard[0], &group, 1), "{heard:?}");
        assert_eq!(device.owner(&group).await.unwrap().as_str(), "a.example");
    }
    say(&group, &alice, &[&bob, &laptop], "to b").await;
    say(&group, &bob, &[&alice, &laptop], "to a").await;
    say(&group, &laptop, &[&alice, &bob], "from the other device").await;

    let accepted = bob.update(&group).await.unwrap();
    assert_eq!(accepted.epoch, 2);
    for device in [&alice, &laptop] {
        let heard = hear_some(device, 1).await;
        let by_bob =
            matches!(&heard[0], Event::Updated { by, epoch: 2, .. } if by == bob.client_id());
        assert!(by_bob, "{heard:?}");
    }
    say(&group, &alice, &[&bob, &laptop], "in the new epoch").await;
    agree(&group, &[&alice, &bob, &laptop]).await;
    world.end().await;
}

#[tokio::test]
async fn who_fetches_the_welcome_late_reads_everything_since() {
    let world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let group = world.group(&alice, &[&bob]).await;
    let mut expected = Vec::new();
    // More epochs than messages are taken for.
    for round in 0..8 {
        let text = format!("round {round}");
        alice.send(&group, text.clone()).await.unwrap();
        expected.push((alice.client_id().clone(), text));
        alice.update(&group).await.unwrap();
    }
    alice.send(&group, "last").await.unwrap();
    expected.push((alice.client_id().clone(), "last".to_owned()));

    let heard = hear_until(&bob, "last").await;
    assert!(joined(&heard[0], &group, 1), "{heard:?}");
    assert_eq!(texts(&heard), expected);
    let updates = heard.iter().filter(|e| matches!(e, Event::Updated { .. }));
    assert_eq!(updates.count(), 8);
    assert_eq!(agree(&group, &[&alice, &bob]).await, 9);
    say(&group, &bob, &[&alice], "I have read it all").await;
    world.end().await;
}

#[tokio::test]
async fn several_groups_do_not_get_in_each_others_way() {
    let world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let amy = world.user("amy@a.example").await;
    let (members, alone, bob_alone) = ([&bob, &amy], [&alice], [&bob]);
    let (first, second, third) = tokio::join!(
        world.group(&alice, &members),
        world.group(&bob, &alone),
        world.group(&amy, &bob_alone),
    );
    let everybody = [&alice, &bob, &amy];
    for (group, from) in [(&first, &alice), (&second, &bob), (&third, &amy)] {
        from.send(group, format!("in the group of {}", from.user_id().user()))
            .await
            .unwrap();
    }
    for client in everybody {
        let own = client.user_id().user().to_owned();
        let expected: usize = if own == "bob" { 2 } else { 1 };
        let heard = crate::listen::hear(client, |heard| texts(heard).len() >= expected).await;
        let heard = texts(&heard);
        assert_eq!(heard.len(), expected, "{heard:?}");
        for (sender, text) in heard {
            assert_eq!(text, format!("in the group of {}", sender.user_id().user()));
        }
    }
    say(&second, &alice, &[&bob], "owned by b").await;
    agree(&first, &everybody).await;
    agree(&second, &[&alice, &bob]).await;
    agree(&third, &[&amy, &bob]).await;
    world.end().await;
}

#[tokio::test]
async fn one_provider_needs_no_other() {
    let world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let amy = world.user("amy@a.example").await;
    let group = world.group(&alice, &[&amy]).await;
    assert!(joined(&hear_some(&amy, 1).await[0], &group, 1));
    say(&group, &alice, &[&amy], "here").await;
    say(&group, &amy, &[&alice], "and there").await;
    amy.update(&group).await.unwrap();
    hear_some(&alice, 1).await;
    say(&group, &alice, &[&amy], "still here").await;
    agree(&group, &[&alice, &amy]).await;
    assert!(
        world
            .provider("a.example")
            .wire
            .batches("b.example")
            .is_empty()
    );
    world.end().await;
}

/// The references of the KeyPackages that a Welcome has secrets for: how many.
fn welcomed(payload: &QueuePayload) -> Option<usize> {
    use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
    use tls_codec::DeserializeBytes;
    let QueuePayload::MlsMessage(bytes) = payload else {
        return None;
    };
    match MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
        .unwrap()
        .extract()
    {
        MlsMessageBodyIn::Welcome(welcome) => Some(welcome.secrets().len()),
        _ => None,
    }
}

#[tokio::test]
async fn three_providers_in_one_group() {
    let world = World::of(&["a.example", "b.example", "c.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let laptop = world.device(&bob, "laptop").await;
    let carol = world.user("carol@c.example").await;
    let group = world.group(&alice, &[&bob]).await;
    // A member of b adds one of c to the group at a.
    carol.set_consent(bob.user_id(), true).await.unwrap();
    for device in [&bob, &laptop] {
        assert!(joined(&hear_some(device, 1).await[0], &group, 1));
    }
    bob.add_user(&group, carol.user_id()).await.unwrap();
    assert!(joined(&hear_some(&carol, 1).await[0], &group, 2));
    for client in [&alice, &laptop] {
        let heard = hear_some(client, 1).await;
        let is_it = matches!(&heard[0], Event::MembersChanged { by, added, .. }
            if by == bob.client_id() && added == &[carol.client_id().clone()]);
        assert!(is_it, "{heard:?}");
    }
    let everybody = [&alice, &bob, &laptop, &carol];
    for from in everybody {
        let others: Vec<_> = everybody
            .into_iter()
            .filter(|client| client.client_id() != from.client_id())
            .collect();
        say(&group, from, &others, &format!("by {}", from.client_id())).await;
    }
    agree(&group, &everybody).await;

    // Each destination got the Welcome of its own clients, once, and none of the others'.
    let a = world.provider("a.example");
    for (destination, clients) in [("b.example", 2), ("c.example", 1)] {
        let deliveries = a.wire.deliveries(destination);
        let welcomes: Vec<_> = deliveries
            .iter()
            .filter_map(|delivery| welcomed(&delivery.payload))
            .collect();
        assert_eq!(welcomes, [clients], "{destination}");
        let mut ids: Vec<_> = deliveries.iter().map(|d| d.delivery_id.encode()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), deliveries.len(), "{destination}");
    }
    for other in ["b.example", "c.example"] {
        let others = &world.provider(other).wire;
        let sent = ["a.example", "b.example", "c.example"].map(|to| others.batches(to).len());
        assert_eq!(sent, [0; 3], "only the owner delivers");
    }
    world.end().await;
}

#[tokio::test]
async fn without_consent_a_user_does_not_exist() {
    let world = World::of(&["a.example", "b.example"]).await;
    let alice = world.user("alice@a.example").await;
    let bob = world.user("bob@b.example").await;
    let nobody = user_id("nobody@b.example");
    let group = alice.create_group().await.unwrap();
    for user in [bob.user_id(), &nobody] {
        let refused = alice.add_user(&group, user).await.unwrap_err();
        assert!(matches!(&refused, Error::NoConsent(who) if who == user));
    }
    assert_eq!(alice.epoch(&group).await.unwrap(), 0);

    // Consent for somebody else, and consent that was taken back, are no consent.
    bob.set_consent(&user_id("amy@a.example"), true)
        .await
        .unwrap();
    let refused = alice.add_user(&group, bob.user_id()).await.unwrap_err();
    assert!(matches!(refused, Error::NoConsent(_)));
    bob.set_consent(alice.user_id(), true).await.unwrap();
    bob.set_consent(alice.user_id(), false).await.unwrap();
    let refused = alice.add_user(&group, bob.user_id()).await.unwrap_err();
    assert!(matches!(refused, Error::NoConsent(_)));
    bob.set_consent(alice.user_id(), true).await.unwrap();
    alice.add_user(&group, bob.user_id()).await.unwrap();
    assert!(joined(&hear_some(&bob, 1).await[0], &group, 1));
    hears_nothing(&bob).await;
    world.end().await;
}
