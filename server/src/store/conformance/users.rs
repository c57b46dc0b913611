//! The provider's own users: clients, invitations, consent.

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

pub(crate) async fn who_is_deleted_is_gone_for_good(data: &impl Data) {
    let mut store = data.open();
    let second = ClientId::new(&user("alice"), "desk").unwrap();
    let register = |client_id: &ClientId| Write::Client {
        client_id: client_id.clone(),
        client: known_client("k"),
    };
    let delete = |client_id: &ClientId| Write::DeleteClient {
        client_id: client_id.clone(),
        at: 7,
    };
    let may_be_new = async |store: &dyn Store, client_id: &ClientId| {
        let expect = vec![Expect::NoClient(client_id.clone())];
        store.commit(change(expect, Vec::new())).await.is_ok()
    };
    let phone = client("alice");
    write(&*store, vec![register(&phone), register(&second)]).await;
    write(
        &*store,
        vec![
            Write::KeyPackage(key_package(1, 1, false, 100)),
            Write::ToldLow {
                pool: pool("alice"),
                told: true,
            },
        ],
    )
    .await;
    write(&*store, vec![delete(&phone)]).await;
    // Once.
    conflicts(&*store, Vec::new(), vec![delete(&phone)]).await;
    conflicts(&*store, Vec::new(), vec![delete(&client("bob"))]).await;
    let clients = store.clients(&user("alice")).await.unwrap();
    assert_eq!(clients, std::slice::from_ref(&second));
    assert_eq!(store.client(&phone).await.unwrap(), None);
    let pool = store.key_packages(&pool("alice"), 0).await.unwrap();
    assert_eq!(pool, PoolState::default());
    assert!(store.is_deleted(&phone).await.unwrap());
    assert!(!store.is_deleted(&second).await.unwrap());
    assert!(!may_be_new(&*store, &phone).await);
    let third = ClientId::new(&user("alice"), "third").unwrap();
    assert!(may_be_new(&*store, &third).await);
    let deleted = async |store: &dyn Store, name: &str| {
        let deleted = store.deleted_clients(&user(name)).await;
        deleted.unwrap()
    };
    assert_eq!(deleted(&*store, "alice").await, 1);
    // With the user, all names that it can have.
    let gone = Write::DeleteUser {
        user: user("alice"),
        at: 8,
    };
    write(&*store, vec![delete(&second), gone]).await;
    drop(store);
    store = data.open();
    for client_id in [&phone, &second, &third] {
        assert!(store.is_deleted(client_id).await.unwrap());
        assert!(!may_be_new(&*store, client_id).await);
    }
    assert_eq!(deleted(&*store, "alice").await, 2);
    for name in ["alic", "alicia", "alice0", "bob"] {
        assert_eq!(deleted(&*store, name).await, 0);
    }
    let other = ClientId::new(&user("alicia"), "phone").unwrap();
    assert!(!store.is_deleted(&other).await.unwrap());
    store.sweep(1 << 40).await.unwrap();
    assert!(store.is_deleted(&phone).await.unwrap());
}

pub(crate) async fn a_nonce_is_taken_once(data: &impl Data) {
    let mut store = data.open();
    let take = |who: &str, number: u8, until, now| Write::Nonce {
        who: who.to_owned(),
        nonce: Nonce::new([number; 16]).unwrap(),
        until,
        now,
    };
    let attempts: Vec<_> = (0..16)
        .map(|_| {
            let (store, write) = (Arc::clone(&store), take("a", 1, 100, 0));
            tokio::spawn(async move { store.commit(change(Vec::new(), vec![write])).await.is_ok() })
        })
        .collect();
    let mut taken = 0;
    for attempt in attempts {
        taken += u32::from(attempt.await.unwrap());
    }
    assert_eq!(taken, 1);
    write(&*store, vec![take("b", 1, 100, 0), take("a", 2, 100, 0)]).await;
    drop(store);
    store = data.open();
    // It is remembered until its time is over, whatever else comes.
    for number in 3..20 {
        write(&*store, vec![take("a", number, 100, 100)]).await;
    }
    for (who, number) in [("a", 1), ("b", 1), ("a", 2)] {
        conflicts(&*store, Vec::new(), vec![take(who, number, 100, 100)]).await;
    }
}

pub(crate) async fn an_invitation_is_used_once(data: &impl Data) {
    let mut store = data.open();
    let used = |number: u8| Write::UseInvitation {
        invitation: [number; 12],
        expires_at: 100,
    };
    let is_used = async |store: &dyn Store, number: u8| {
        let is_used = store.invitation_is_used(&[number; 12]).await;
        is_used.unwrap()
    };
    assert!(!is_used(&*store, 1).await);
    let attempts: Vec<_> = (0..16)
        .map(|_| {
            let (store, write) = (Arc::clone(&store), used(1));
            tokio::spawn(async move { store.commit(change(Vec::new(), vec![write])).await.is_ok() })
        })
        .collect();
    let mut taken = 0;
    for attempt in attempts {
        taken += u32::from(attempt.await.unwrap());
    }
    assert_eq!(taken, 1);
    assert!(is_used(&*store, 1).await && !is_used(&*store, 2).await);
    drop(store);
    store = data.open();
    conflicts(&*store, Vec::new(), vec![used(1)]).await;
    // It is remembered as long as it is good for anything.
    store.sweep(100).await.unwrap();
    assert!(is_used(&*store, 1).await);
    store.sweep(101).await.unwrap();
    assert!(!is_used(&*store, 1).await);
}
