//! The provider's own users: clients, KeyPackages, consent.

use super::*;

pub(crate) async fn clients_and_their_users(data: &impl Data) {
    let store = data.open();
    let second = ClientId::new(&user("alice"), "desk").unwrap();
    let register = |client_id: &ClientId, key: &str| Write::Client {
        client_id: client_id.clone(),
        client: known_client(key),
    };
    let writes = vec![
        register(&client("alice"), "one"),
        register(&second, "two"),
        register(&client("alicia"), "three"),
    ];
    write(&*store, writes).await;
    assert_eq!(
        store.clients(&user("alice")).await.unwrap(),
        [second.clone(), client("alice")]
    );
    assert_eq!(store.clients(&user("bob")).await.unwrap(), []);
    assert_eq!(
        store.client(&second).await.unwrap(),
        Some(known_client("two"))
    );
    assert_eq!(store.client(&client("bob")).await.unwrap(), None);
    // Another key.
    write(&*store, vec![register(&second, "four")]).await;
    assert_eq!(
        store.client(&second).await.unwrap(),
        Some(known_client("four"))
    );
    assert_eq!(store.clients(&user("alice")).await.unwrap().len(), 2);
    // Registered at once by many, with a limit of three clients.
    let attempts: Vec<_> = (0..16)
        .map(|number| {
            let store = Arc::clone(&store);
            let new = ClientId::new(&user("alice"), &format!("c{number}")).unwrap();
            let expect = vec![
                Expect::NoClient(new.clone()),
                Expect::ClientCount(user("alice"), 2),
            ];
            let register = register(&new, "k");
            tokio::spawn(async move { store.commit(change(expect, vec![register])).await.is_ok() })
        })
        .collect();
    let mut registered = 0;
    for attempt in attempts {
        registered += u32::from(attempt.await.unwrap());
    }
    assert_eq!(registered, 1);
    assert_eq!(store.clients(&user("alice")).await.unwrap().len(), 3);
}

pub(crate) async fn key_packages_in_the_order_of_use(data: &impl Data) {
    let store = data.open();
    let next = async |suites: &[u16], now| {
        let found = store.next_key_package(&client("alice"), suites, now).await;
        found
            .unwrap()
            .map(|package| package.reference.as_slice()[0])
    };
    let count = async |now| {
        let count = store.count_key_packages(&client("alice"), now).await;
        count.unwrap()
    };
    assert_eq!(next(&[1], 0).await, None);
    let packages = [
        key_package(9, 1, true, 100),
        key_package(8, 1, false, 50),
        key_package(3, 2, false, 100),
        key_package(4, 1, false, 100),
        key_package(2, 2, true, 100),
    ];
    for package in &packages {
        write(&*store, vec![Write::KeyPackage(package.clone())]).await;
    }
    // Said again, it is no other one.
    write(&*store, vec![Write::KeyPackage(packages[1].clone())]).await;
    assert_eq!(count(0).await, 5);
    assert_eq!(next(&[1], 0).await, Some(8));
    assert_eq!(next(&[2], 0).await, Some(3));
    assert_eq!(next(&[3, 2, 1], 0).await, Some(8));
    assert_eq!(next(&[3], 0).await, None);
    assert_eq!(next(&[], 0).await, None);
    let found = store
        .next_key_package(&client("alice"), &[2], 0)
        .await
        .unwrap();
    assert_eq!(found, Some(packages[2].clone()));
    // Expired at and after its time.
    assert_eq!(next(&[1], 49).await, Some(8));
    assert_eq!(next(&[1], 50).await, Some(4));
    assert_eq!(
        (count(49).await, count(50).await, count(100).await),
        (5, 4, 0)
    );
    // Handed out, until only the last resort is left.
    let take = |package: &KeyPackage| {
        change(
            vec![Expect::KeyPackage(package.reference.clone())],
            vec![Write::RemoveKeyPackage(package.reference.clone())],
        )
    };
    store.commit(take(&packages[3])).await.unwrap();
    assert!(store.commit(take(&packages[3])).await.is_err());
    assert_eq!(next(&[1], 50).await, Some(9));
    assert_eq!(next(&[1, 2], 50).await, Some(3));
    assert_eq!(next(&[1], 100).await, None);
    assert_eq!(
        store.count_key_packages(&client("bob"), 0).await.unwrap(),
        0
    );
    // A sweep forgets what expired before.
    store.sweep(51).await.unwrap();
    assert_eq!(count(0).await, 3);
}

pub(crate) async fn key_packages_far_in_the_future(data: &impl Data) {
    let store = data.open();
    let package = key_package(1, 1, false, u64::MAX);
    write(&*store, vec![Write::KeyPackage(package.clone())]).await;
    let found = store
        .next_key_package(&client("alice"), &[1], 1 << 60)
        .await;
    assert_eq!(found.unwrap(), Some(package));
}

pub(crate) async fn consent_is_given_and_taken_back(data: &impl Data) {
    let store = data.open();
    let peer = UserId::new(&provider("there"), "bob").unwrap();
    let may = async |user: &UserId, peer: &UserId| store.consent(user, peer).await.unwrap();
    for allowed in [true, true, false, false, true] {
        let consent = Write::Consent {
            user: user("alice"),
            peer: peer.clone(),
            allowed,
        };
        write(&*store, vec![consent]).await;
        assert_eq!(may(&user("alice"), &peer).await, allowed);
        assert!(!may(&peer, &user("alice")).await);
        assert!(!may(&user("carol"), &peer).await);
    }
}
