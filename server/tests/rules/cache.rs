//! Groups in memory are what is durable, also when there is no room for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use moh_messages::{DsErrorCode, DsResponseBody, GroupId, KeyPackageRef};
use moh_server::Limits;
use moh_server::store::{EmbeddedOptions, WriterEvent};

use crate::member::Plan;
use crate::site::Site;

/// Holds the store up before it commits.
struct Gate {
    closed: AtomicBool,
    reached: mpsc::Sender<()>,
    opened: Mutex<mpsc::Receiver<()>>,
}

impl Gate {
    fn pass(&self, event: WriterEvent) {
        if event == WriterEvent::BeforeCommit && self.closed.swap(false, Ordering::SeqCst) {
            self.reached.send(()).unwrap();
            self.opened.lock().unwrap().recv().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_that_is_being_changed_is_not_loaded_beside_that() {
    let (reached, is_reached) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let gate = Arc::new(Gate {
        closed: AtomicBool::new(false),
        reached,
        opened: Mutex::new(opened),
    });
    let limits = Limits {
        max_cached_groups_bytes: 1,
        ..Limits::default()
    };
    let at_gate = Arc::clone(&gate);
    let options = EmbeddedOptions {
        observer: Some(Arc::new(move |event| at_gate.pass(event))),
        ..EmbeddedOptions::default()
    };
    let site = Arc::new(Site::with(limits, options).await);
    let alice = site.device("alice/phone@a.example");
    let bob = site.device("bob/phone@b.example");
    let mut member = site.group_of(&alice).await;
    let other = site.group_of(&alice).await;
    let key_package = bob.key_package();
    let reference = bob.reference(&key_package);
    let made = member.commit(Plan {
        add: vec![key_package],
        ..Plan::default()
    });
    let ask = |request| {
        let site = Arc::clone(&site);
        tokio::spawn(async move { site.ask(&request).await })
    };
    let stranger = KeyPackageRef::new([1; 32]).unwrap();
    let id = GroupId::new(member.group.group_id().as_slice()).unwrap();
    let other_id = GroupId::new(other.group.group_id().as_slice()).unwrap();

    gate.closed.store(true, Ordering::SeqCst);
    let commit = ask(member.ask(made.as_add()));
    tokio::task::spawn_blocking(move || is_reached.recv().unwrap())
        .await
        .unwrap();
    // The commit is decided on, and not durable. Now there is no room for its group, ...
    let refused = ask(bob.welcome_info(&other_id, 0, &stranger)).await;
    assert_eq!(refused.unwrap(), Err(DsErrorCode::UNKNOWN_GROUP));
    // ... which somebody wants to see.
    let mut looks = ask(bob.welcome_info(&id, 0, &stranger));
    let looked = tokio::time::timeout(Duration::from_millis(300), &mut looks).await;
    open.send(()).unwrap();
    let committed = commit.await.unwrap();
    assert!(matches!(committed, Ok(DsResponseBody::Ok { epoch: 1, .. })));
    let looked = match looked {
        Ok(looked) => looked,
        Err(_) => looks.await,
    };
    assert_eq!(looked.unwrap(), Err(DsErrorCode::UNKNOWN_GROUP));
    member.accept();
    let tree = site.ask(&bob.welcome_info(&id, 1, &reference)).await;
    assert!(
        matches!(tree, Ok(DsResponseBody::WelcomeInfo { .. })),
        "{tree:?}"
    );
    site.update(&mut member, &mut []).await;
    site.node.stop().await;
}

/// What one node remembers is older than what another one made durable: nobody is refused for
/// that, whatever they ask.
#[tokio::test]
async fn another_node_has_changed_the_group() {
    let mut site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    let mut alice = site.group_of(&alice).await;
    let bob = site.device("bob/phone@b.example");
    let (mut added, _) = site.add(&mut alice, &[&bob]).await;
    let mut bob = added.remove(0);
    let mut other = site.another_node().await;

    for round in 0..3 {
        std::mem::swap(&mut site.node, &mut other);
        site.update(&mut alice, &mut [&mut bob]).await;
        std::mem::swap(&mut site.node, &mut other);
        // Its copy is an epoch behind.
        match round {
            0 => {
                let message = bob.message("from a later epoch");
                let sent = site.ask(&bob.ask(message)).await;
                assert!(matches!(sent, Ok(DsResponseBody::Ok { .. })), "{sent:?}");
            }
            1 => site.update(&mut bob, &mut [&mut alice]).await,
            _ => {
                std::mem::swap(&mut site.node, &mut other);
                let carol = site.device("carol/phone@c.example");
                let key_package = carol.key_package();
                let reference = carol.reference(&key_package);
                let made = alice.commit(Plan {
                    add: vec![key_package],
                    ..Plan::default()
                });
                site.ask(&alice.ask(made.as_add())).await.unwrap();
                alice.accept();
                std::mem::swap(&mut site.node, &mut other);
                let id = GroupId::new(alice.group.group_id().as_slice()).unwrap();
                let tree = site
                    .ask(&carol.welcome_info(&id, alice.epoch(), &reference))
                    .await;
                assert!(
                    matches!(tree, Ok(DsResponseBody::WelcomeInfo { .. })),
                    "{tree:?}"
                );
            }
        }
    }
    other.stop().await;
    site.end().await;
}
