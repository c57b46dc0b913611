//! Groups in memory are what is durable, also when there is no room for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use moh_messages::{DsErrorCode, DsResponseBody, GroupId, KeyPackageRef};
use moh_server::Limits;
use moh_server::store::{EmbeddedOptions, WriterEvent};

use crate::device::Plan;
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
