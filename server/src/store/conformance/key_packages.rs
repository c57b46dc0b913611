//! KeyPackages, of which each is handed out once.

use super::*;

pub(crate) async fn key_packages_in_the_order_of_use(data: &impl Data) {
    let store = data.open();
    let next = async |suites: &[u16], now| {
        let found = store.next_key_package(&pool("alice"), suites, now).await;
        found
            .unwrap()
            .map(|package| package.reference.as_slice()[0])
    };
    let count = async |now| count_key_packages(&*store, now).await;
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
    // Nothing is there twice.
    let again = vec![Write::KeyPackage(packages[1].clone())];
    conflicts(&*store, Vec::new(), again).await;
    assert_eq!(count(0).await, 5);
    assert_eq!(next(&[1], 0).await, Some(8));
    assert_eq!(next(&[2], 0).await, Some(3));
    assert_eq!(next(&[3, 2, 1], 0).await, Some(8));
    assert_eq!(next(&[3], 0).await, None);
    assert_eq!(next(&[], 0).await, None);
    let found = store
        .next_key_package(&pool("alice"), &[2], 0)
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
        store.key_packages(&pool("bob"), 0).await.unwrap(),
        PoolState::default()
    );
    // A sweep forgets what expired before.
    store.sweep(51).await.unwrap();
    assert_eq!(count(0).await, 3);
}

pub(crate) async fn key_packages_far_in_the_future(data: &impl Data) {
    let store = data.open();
    let package = key_package(1, 1, false, u64::MAX);
    write(&*store, vec![Write::KeyPackage(package.clone())]).await;
    let found = store.next_key_package(&pool("alice"), &[1], 1 << 60).await;
    assert_eq!(found.unwrap(), Some(package));
}

/// A KeyPackage of alice's for connection groups.
fn for_connections(number: u8, last_resort: bool) -> KeyPackage {
    KeyPackage {
        for_connections: true,
        ..key_package(number, 1, last_resort, 100)
    }
}

/// The pool of alice's for connection groups.
fn connection_pool() -> Pool {
    Pool {
        for_connections: true,
        ..pool("alice")
    }
}

pub(crate) async fn pools_are_apart(data: &impl Data) {
    let store = data.open();
    let next = async |pool: &Pool| {
        let found = store.next_key_package(pool, &[1], 0).await.unwrap();
        found.map(|package| package.reference.as_slice()[0])
    };
    let state = async |pool: &Pool| {
        let state = store.key_packages(pool, 0).await.unwrap();
        (state.left, state.last_resort)
    };
    let (groups, connections) = (pool("alice"), connection_pool());
    write(&*store, vec![Write::KeyPackage(for_connections(1, true))]).await;
    assert_eq!(
        (next(&groups).await, next(&connections).await),
        (None, Some(1))
    );
    write(
        &*store,
        vec![
            Write::KeyPackage(key_package(2, 1, false, 100)),
            Write::KeyPackage(key_package(3, 1, true, 100)),
            Write::KeyPackage(for_connections(4, false)),
            Write::KeyPackage(for_connections(5, false)),
        ],
    )
    .await;
    assert_eq!(
        (next(&groups).await, next(&connections).await),
        (Some(2), Some(4))
    );
    assert_eq!(
        (state(&groups).await, state(&connections).await),
        ((1, 1), (2, 1))
    );
    let found = store.next_key_package(&connections, &[1], 0).await;
    assert_eq!(found.unwrap(), Some(for_connections(4, false)));
    for number in [2, 4, 5] {
        let reference = key_package(number, 1, false, 0).reference;
        write(&*store, vec![Write::RemoveKeyPackage(reference)]).await;
    }
    assert_eq!(
        (next(&groups).await, next(&connections).await),
        (Some(3), Some(1))
    );
    assert_eq!(
        (state(&groups).await, state(&connections).await),
        ((0, 1), (0, 1))
    );
}

pub(crate) async fn key_packages_are_known_until_they_expire(data: &impl Data) {
    let mut store = data.open();
    let references: Vec<_> = (1..=3)
        .map(|number| key_package(number, 1, false, 0).reference)
        .collect();
    let known = async |store: &dyn Store| {
        let known = store.known_key_packages(&references).await.unwrap();
        let known = known.into_iter();
        known
            .map(|(reference, is_there)| (reference.as_slice()[0], is_there))
            .collect::<Vec<_>>()
    };
    assert_eq!(known(&*store).await, []);
    let add = |number: u8, expires_at| Write::KeyPackage(key_package(number, 1, false, expires_at));
    write(&*store, vec![add(1, 50), add(3, 100)]).await;
    assert_eq!(known(&*store).await, [(1, true), (3, true)]);
    write(
        &*store,
        vec![Write::RemoveKeyPackage(references[0].clone())],
    )
    .await;
    drop(store);
    store = data.open();
    assert_eq!(known(&*store).await, [(1, false), (3, true)]);
    conflicts(&*store, Vec::new(), vec![add(1, 50)]).await;
    conflicts(&*store, Vec::new(), vec![add(2, 50), add(3, 50)]).await;
    store.sweep(50).await.unwrap();
    assert_eq!(known(&*store).await, [(1, false), (3, true)]);
    store.sweep(51).await.unwrap();
    assert_eq!(known(&*store).await, [(3, true)]);
}

pub(crate) async fn key_packages_that_are_not_kept_go(data: &impl Data) {
    let store = data.open();
    let add = |number: u8| Write::KeyPackage(key_package(number, 1, false, 100));
    let bobs = KeyPackage {
        client_id: client("bob"),
        ..key_package(9, 1, false, 100)
    };
    let all = vec![
        add(1),
        add(2),
        add(3),
        Write::KeyPackage(for_connections(4, false)),
        Write::KeyPackage(bobs.clone()),
    ];
    write(&*store, all).await;
    let keep = Write::KeepKeyPackages {
        client_id: client("alice"),
        only: [2, 7].map(|n| key_package(n, 1, false, 0).reference).into(),
    };
    write(&*store, vec![keep, add(5)]).await;
    assert_eq!(count_key_packages(&*store, 0).await, 2);
    let of_bob = store.next_key_package(&pool("bob"), &[1], 0).await;
    assert_eq!(of_bob.unwrap(), Some(bobs));
    let mut left = Vec::new();
    while let Some(package) = store
        .next_key_package(&pool("alice"), &[1], 0)
        .await
        .unwrap()
    {
        left.push(package.reference.as_slice()[0]);
        let taken = Write::RemoveKeyPackage(package.reference);
        write(&*store, vec![taken]).await;
    }
    assert_eq!(left, [2, 5]);
}

pub(crate) async fn what_has_expired_can_be_dropped(data: &impl Data) {
    let store = data.open();
    let add = |number: u8, expires_at| Write::KeyPackage(key_package(number, 1, false, expires_at));
    let bobs = KeyPackage {
        client_id: client("bob"),
        ..key_package(9, 1, true, 50)
    };
    let last = Write::KeyPackage(key_package(4, 1, true, 50));
    let all = vec![add(1, 50), add(2, 51), last, Write::KeyPackage(bobs)];
    write(&*store, all).await;
    let drop_expired = Write::DropExpired {
        client_id: client("alice"),
        now: 50,
    };
    write(&*store, vec![drop_expired]).await;
    assert_eq!(count_key_packages(&*store, 0).await, 1);
    let of_bob = store.key_packages(&pool("bob"), 0).await.unwrap();
    assert_eq!(of_bob.last_resort, 1);
    // It is dropped, and not forgotten.
    conflicts(&*store, Vec::new(), vec![add(1, 50)]).await;
    let uploads = store.uploads(&client("alice")).await.unwrap();
    assert_eq!((uploads.all, uploads.last_resort), (3, 1));
    store.sweep(51).await.unwrap();
    let uploads = store.uploads(&client("alice")).await.unwrap();
    assert_eq!((uploads.all, uploads.last_resort), (1, 0));
}

pub(crate) async fn a_pool_is_told_to_be_low_once(data: &impl Data) {
    let mut store = data.open();
    let tell = |pool: Pool, told| Write::ToldLow { pool, told };
    let told = async |store: &dyn Store, pool: &Pool| {
        let state = store.key_packages(pool, 0).await;
        state.unwrap().told_low
    };
    let (groups, connections) = (pool("alice"), connection_pool());
    write(&*store, vec![tell(groups.clone(), false)]).await;
    assert!(!told(&*store, &groups).await);
    write(&*store, vec![tell(groups.clone(), true)]).await;
    assert!(told(&*store, &groups).await && !told(&*store, &connections).await);
    conflicts(&*store, Vec::new(), vec![tell(groups.clone(), true)]).await;
    drop(store);
    store = data.open();
    assert!(told(&*store, &groups).await);
    let writes = vec![tell(groups.clone(), false), tell(connections.clone(), true)];
    write(&*store, writes).await;
    assert!(!told(&*store, &groups).await && told(&*store, &connections).await);
}
