//! What has to be done for groups when nobody asks for it: when it is due, removals that are
//! wanted, the groups of a client, and the end.

use super::*;

fn created(name: &str, due_at: u64, members: &[&str]) -> Write {
    Write::CreateGroup {
        group_id: group_id(name),
        snapshot: b"at 0".to_vec(),
        due_at,
        members: members.iter().map(|name| client(name)).collect(),
    }
}

fn appended(name: &str, version: u64, due_at: u64, entered: &[&str], left: &[&str]) -> Write {
    Write::AppendGroup {
        group_id: group_id(name),
        version,
        epoch: version,
        entry: vec![1],
        snapshot: None,
        keep_from_epoch: 0,
        due_at,
        entered: entered.iter().map(|name| client(name)).collect(),
        left: left.iter().map(|name| client(name)).collect(),
    }
}

fn want(name: &str, group: Option<&str>, at: u64) -> Write {
    Write::WantRemoval {
        client_id: client(name),
        group_id: group.map(group_id),
        at,
    }
}

fn done(group: &str, names: &[&str]) -> Write {
    Write::RemovalsDone {
        group_id: group_id(group),
        clients: names.iter().map(|name| client(name)).collect(),
    }
}

fn postpone(group: &str, names: &[&str], until: u64) -> Write {
    Write::PostponeRemovals {
        group_id: group_id(group),
        clients: names.iter().map(|name| client(name)).collect(),
        until,
    }
}

fn forget(group: &str) -> Write {
    let group_id = group_id(group);
    Write::ForgetGroup { group_id }
}

pub(crate) async fn due(store: &dyn Store, now: u64, max: usize) -> Vec<String> {
    let groups = store.groups_due(now, max).await.unwrap();
    let name = |group: GroupId| String::from_utf8(group.as_slice().to_vec()).unwrap();
    groups.into_iter().map(name).collect()
}

async fn wanted(store: &dyn Store, group: &str) -> Vec<ClientId> {
    store.wanted_removals(&group_id(group)).await.unwrap()
}

pub(crate) async fn groups_are_due_at_their_time(data: &impl Data) {
    let store = data.open();
    let writes = vec![
        created("never", u64::MAX, &[]),
        created("late", 30, &[]),
        created("soon", 10, &[]),
        created("far", u64::MAX - 1, &[]),
    ];
    write(&*store, writes).await;
    assert_eq!(due(&*store, 9, 9).await, [""; 0]);
    assert_eq!(due(&*store, 10, 9).await, ["soon"]);
    assert_eq!(due(&*store, 30, 9).await, ["soon", "late"]);
    assert_eq!(due(&*store, 30, 1).await, ["soon"]);
    assert_eq!(due(&*store, 30, 0).await, [""; 0]);
    assert_eq!(due(&*store, u64::MAX, 9).await, ["soon", "late", "far"]);
    // The next version says when it is due next.
    write(&*store, vec![appended("soon", 1, 40, &[], &[])]).await;
    assert_eq!(due(&*store, 40, 9).await, ["late", "soon"]);
    write(&*store, vec![appended("late", 1, u64::MAX, &[], &[])]).await;
    assert_eq!(due(&*store, 40, 9).await, ["soon"]);
    drop(store);
    assert_eq!(due(&*data.open(), 40, 9).await, ["soon"]);
}

pub(crate) async fn a_removal_is_wanted_of_a_group_or_of_all(data: &impl Data) {
    let store = data.open();
    let writes = vec![
        created("g", u64::MAX, &["alice", "bob"]),
        created("h", 25, &["alice"]),
        created("i", u64::MAX, &["bob"]),
    ];
    write(&*store, writes).await;
    write(&*store, vec![want("bob", Some("g"), 20)]).await;
    assert_eq!(wanted(&*store, "g").await, [client("bob")]);
    assert_eq!(due(&*store, 19, 9).await, [""; 0]);
    assert_eq!(due(&*store, 20, 9).await, ["g"]);
    // From all of her groups; a group is named once, whatever it is due for.
    write(&*store, vec![want("alice", None, 10)]).await;
    assert_eq!(wanted(&*store, "g").await, [client("alice"), client("bob")]);
    assert_eq!(wanted(&*store, "h").await, [client("alice")]);
    assert_eq!(wanted(&*store, "i").await, []);
    assert_eq!(due(&*store, 9, 9).await, [""; 0]);
    let mut both = due(&*store, 30, 9).await;
    both.sort_unstable();
    assert_eq!(both, ["g", "h"]);
    assert_eq!(due(&*store, 30, 1).await.len(), 1);
    // The earlier time counts, of the one and of the other.
    write(
        &*store,
        vec![want("alice", None, 15), want("bob", Some("g"), 5)],
    )
    .await;
    assert_eq!(due(&*store, 5, 9).await, ["g"]);
    assert_eq!(due(&*store, 14, 9).await, ["g", "h"]);
    // Nothing is wanted of a group that is not there, or by who is in none.
    let nothing = vec![want("alice", Some("x"), 1), want("carol", None, 1)];
    write(&*store, nothing).await;
    assert_eq!(wanted(&*store, "x").await, []);
    assert_eq!(due(&*store, 1, 9).await, [""; 0]);
    // Also of who is not known to be in it.
    write(&*store, vec![want("carol", Some("i"), 1)]).await;
    assert_eq!(wanted(&*store, "i").await, [client("carol")]);
}

pub(crate) async fn removals_are_done_or_wait(data: &impl Data) {
    let store = data.open();
    let three = ["alice", "bob", "carol"];
    write(&*store, vec![created("g", u64::MAX, &three)]).await;
    write(&*store, vec![created("h", u64::MAX, &three)]).await;
    write(&*store, three.map(|name| want(name, None, 10)).to_vec()).await;
    write(&*store, vec![done("g", &["bob", "dave"])]).await;
    let without_bob = [client("alice"), client("carol")];
    assert_eq!(wanted(&*store, "g").await, without_bob);
    assert_eq!(wanted(&*store, "h").await.len(), 3);
    write(&*store, vec![postpone("g", &["alice", "bob"], 50)]).await;
    assert_eq!(wanted(&*store, "g").await, without_bob);
    // Carol's was not postponed.
    assert_eq!(due(&*store, 49, 9).await.len(), 2);
    write(
        &*store,
        vec![postpone("g", &three, 50), postpone("x", &three, 50)],
    )
    .await;
    assert_eq!(wanted(&*store, "g").await, without_bob);
    assert_eq!(due(&*store, 49, 9).await, ["h"]);
    assert_eq!(due(&*store, 50, 9).await, ["h", "g"]);
    // Nothing becomes earlier by it.
    write(&*store, vec![postpone("g", &three, 30)]).await;
    assert_eq!(due(&*store, 49, 9).await, ["h"]);
    // What is wanted afterwards has its own time.
    write(&*store, vec![want("bob", Some("g"), 20)]).await;
    assert_eq!(due(&*store, 20, 9).await, ["h", "g"]);
    let all = vec![done("g", &three), done("h", &three), done("x", &three)];
    write(&*store, all).await;
    assert_eq!(due(&*store, u64::MAX, 9).await, [""; 0]);
    assert_eq!(wanted(&*store, "g").await, []);
}

pub(crate) async fn the_groups_of_a_client_follow_its_leaves(data: &impl Data) {
    let store = data.open();
    let groups = async |name: &'static str| {
        write(&*store, vec![want(name, None, 1)]).await;
        let found = due(&*store, 1, 9).await;
        let done = found.iter().map(|group| done(group, &[name]));
        write(&*store, done.collect()).await;
        found
    };
    write(&*store, vec![created("g", u64::MAX, &["alice", "bob"])]).await;
    assert_eq!(groups("alice").await, ["g"]);
    assert_eq!(groups("carol").await, [""; 0]);
    let never = u64::MAX;
    write(&*store, vec![appended("g", 1, never, &["carol"], &["bob"])]).await;
    assert_eq!(groups("bob").await, [""; 0]);
    assert_eq!(groups("carol").await, ["g"]);
    // Who leaves and enters with the same version stays; who is there may enter again.
    let both = &["alice", "carol"];
    write(&*store, vec![appended("g", 2, never, both, &["alice"])]).await;
    assert_eq!(groups("alice").await, ["g"]);
    write(&*store, vec![appended("g", 3, never, &[], both)]).await;
    assert_eq!(groups("alice").await, [""; 0]);
    assert_eq!(groups("carol").await, [""; 0]);
}

pub(crate) async fn a_group_that_is_forgotten_leaves_its_name(data: &impl Data) {
    let store = data.open();
    let answer = |name: &str| Write::Answer {
        group_id: group_id(name),
        message_hash: [1; 32],
        answer: an_answer(1),
    };
    for name in ["g", "h"] {
        let writes = vec![
            created(name, 10, &["alice"]),
            append(name, 1, 1, Some(()), 0),
            appended(name, 2, 10, &["bob"], &[]),
            answer(name),
            want("alice", Some(name), 10),
        ];
        write(&*store, writes).await;
    }
    let still_there = store.group(&group_id("h")).await.unwrap();
    write(&*store, vec![forget("g"), forget("x")]).await;
    for _ in 0..2 {
        assert_eq!(store.group(&group_id("g")).await.unwrap(), None);
        for epoch in 0..3 {
            let found = store.group_at_epoch(&group_id("g"), epoch).await;
            assert_eq!(found.unwrap(), None);
        }
        let answer = store.answer(&group_id("g"), &[1; 32]).await.unwrap();
        assert_eq!(answer, None);
        assert_eq!(wanted(&*store, "g").await, []);
        assert_eq!(due(&*store, u64::MAX, 9).await, ["h"]);
        // Its members are in one group less, and nothing can be wanted of it.
        write(&*store, vec![want("bob", None, 1)]).await;
        write(&*store, vec![want("bob", Some("g"), 1)]).await;
        // Forgotten once more, it is as it was.
        write(&*store, vec![forget("g")]).await;
    }
    // The name stays taken, and there is nothing to go on with.
    let version = store.group_version(&group_id("g")).await.unwrap();
    assert_eq!(version, Some(2));
    for version in [None, Some(0), Some(2), Some(3)] {
        conflicts(&*store, vec![Expect::Group(group_id("g"), version)], vec![]).await;
    }
    for writes in [
        vec![created("g", 1, &[])],
        vec![appended("g", 3, 1, &["carol"], &[])],
    ] {
        assert!(store.commit(change(vec![], writes)).await.is_err());
    }
    assert_eq!(store.group(&group_id("h")).await.unwrap(), still_there);
    let answer = store.answer(&group_id("h"), &[1; 32]).await.unwrap();
    assert_eq!(answer, Some(an_answer(1)));
    let both = [client("alice"), client("bob")];
    assert_eq!(wanted(&*store, "h").await, both);
    drop(store);
    let store = data.open();
    assert_eq!(store.group(&group_id("g")).await.unwrap(), None);
    let free = vec![Expect::Group(group_id("g"), None)];
    conflicts(&*store, free, vec![]).await;
}
