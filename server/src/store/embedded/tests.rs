//! What is particular to this backend: when a commit is durable, one row for a message, one
//! process for a file.

mod migrations;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::conformance::{
    Data, append, audience, change, conformance_tests, create, digest, group_id, message, payloads,
    provider, queue, write,
};

/// A directory with a database, for a test.
struct Temporary {
    directory: TempDir,
    options: EmbeddedOptions,
}

impl Temporary {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            options: EmbeddedOptions::default(),
        }
    }

    fn watched(observer: impl Fn(WriterEvent) + Send + Sync + 'static) -> Self {
        let mut temporary = Self::new();
        temporary.options.observer = Some(Arc::new(observer));
        temporary
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store.sqlite")
    }

    fn try_open(&self) -> Result<Embedded, StoreError> {
        Embedded::open(self.path(), self.options.clone())
    }

    /// What would be found if the machine died now.
    fn image(&self) -> Self {
        image_of(&self.path())
    }
}

fn image_of(path: &Path) -> Temporary {
    let image = Temporary::new();
    for suffix in ["", "-wal"] {
        let (mut from, mut to) = (path.as_os_str().to_owned(), image.path().into_os_string());
        from.push(suffix);
        to.push(suffix);
        std::fs::copy(from, to).unwrap();
    }
    image
}

impl Data for Temporary {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.try_open().unwrap())
    }
}

conformance_tests!(Temporary::new());

mod in_memory {
    use super::*;

    /// The same database, whoever opens it.
    struct InMemory(Arc<Embedded>);

    impl InMemory {
        fn new() -> Self {
            Self(Arc::new(
                Embedded::open_in_memory(EmbeddedOptions::default()).unwrap(),
            ))
        }
    }

    impl Data for InMemory {
        fn open(&self) -> Arc<dyn Store> {
            self.0.clone()
        }
    }

    conformance_tests!(InMemory::new());

    #[tokio::test]
    async fn what_is_asked_for_is_there_at_once() {
        let store = InMemory::new().open();
        let change = change(
            Vec::new(),
            vec![audience(1, &[Some("alice")]), message(1, None, "x")],
        );
        let mut commit = store.commit(change);
        assert!(matches!(
            futures_util::poll!(&mut commit),
            std::task::Poll::Ready(Ok(()))
        ));
        let name = provider("a");
        let digest = digest(1);
        let mut read = store.audience(&name, &digest);
        assert!(matches!(
            futures_util::poll!(&mut read),
            std::task::Poll::Ready(Ok(Some(members))) if members.len() == 1
        ));
        let mut sweep = store.sweep(2_000);
        assert!(futures_util::poll!(&mut sweep).is_ready());
        drop(sweep);
        assert!(queue(&*store, "alice", 0).await.is_empty());
    }
}

fn count(path: &Path, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    let connection = Connection::open(path).unwrap();
    connection.query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_message_is_one_row_however_many_get_it() {
    let data = Temporary::new();
    let store = data.open();
    let names: Vec<String> = (0..1000).map(|number| format!("u{number}")).collect();
    let members: Vec<_> = names.iter().map(|name| Some(name.as_str())).collect();
    write(&*store, vec![audience(1, &members)]).await;
    let rows = || {
        [
            "messages",
            "audiences",
            "audience_lists",
            "audience_members",
        ]
        .map(|table| count(&data.path(), table))
    };
    assert_eq!(rows(), [0, 1, 1, 1000]);
    for number in 0..10 {
        // A sender may say the audience again.
        let writes = vec![audience(1, &members), message(1, Some(number), "x")];
        write(&*store, writes).await;
    }
    assert_eq!(rows(), [10, 1, 1, 1000]);
    assert_eq!(queue(&*store, "u0", 0).await.len(), 9);
    assert_eq!(queue(&*store, "u999", 0).await.len(), 10);
    // Nobody needs them any more, and the audience has not been used for long.
    store.sweep(2_000).await.unwrap();
    assert_eq!(rows(), [0, 0, 0, 0]);
}

#[tokio::test]
async fn a_file_has_one_owner() {
    let data = Temporary::new();
    let store = data.open();
    let error = data.try_open().err().unwrap().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    drop(store);
    data.try_open().unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let data = Temporary::new();
    let store = data.open();
    write(&*store, vec![audience(1, &[])]).await;
    let files: Vec<_> = std::fs::read_dir(data.directory.path()).unwrap().collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn files_of_others_are_refused() {
    let data = Temporary::new();
    drop(data.open());
    let connection = Connection::open(data.path()).unwrap();
    let newest = schema::SCHEMA_VERSION;
    for (version, words) in [
        (1, "version 1, which was never released".to_owned()),
        (
            newest + 1,
            format!("this software knows {newest} and older: use a newer one"),
        ),
    ] {
        connection
            .pragma_update(None, "user_version", version)
            .unwrap();
        let error = data.try_open().err().unwrap().to_string();
        assert!(error.contains(&words), "{error}");
    }
    drop(connection);

    let data = Temporary::new();
    let connection = Connection::open(data.path()).unwrap();
    connection
        .execute_batch("CREATE TABLE cats (name)")
        .unwrap();
    let error = data.try_open().err().unwrap().to_string();
    assert!(error.contains("not a database of this server"), "{error}");

    let data = Temporary::new();
    std::fs::write(data.path(), "no database at all, but a text file\n").unwrap();
    assert!(data.try_open().is_err());
}

/// What is asked for again and again looks at what it needs, by an index, and sorts nothing.
#[tokio::test]
async fn upkeep_is_by_index() {
    let data = Temporary::new();
    drop(data.open());
    let connection = Connection::open(data.path()).unwrap();
    let some = [
        upkeep::DUE,
        upkeep::WANT_FROM_ALL,
        upkeep::POSTPONE,
        upkeep::DEFER,
        bindings::RENAME,
        bindings::RENAME_ALL,
        bindings::TELL_PEERS,
    ];
    for sql in some.iter().chain(&upkeep::FORGET) {
        let mut plan = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let nothing = vec![rusqlite::types::Null; plan.parameter_count()];
        let steps = plan.query_map(rusqlite::params_from_iter(nothing), |row| row.get(3));
        for step in steps.unwrap() {
            let step: String = step.unwrap();
            assert!(!step.starts_with("SCAN"), "{sql}: {step}");
            assert!(!step.contains("TEMP B-TREE"), "{sql}: {step}");
        }
    }
}

/// Lets the writer go on when it is told to.
fn gate() -> (Arc<AtomicBool>, Arc<Mutex<Vec<WriterEvent>>>, Temporary) {
    let open = Arc::new(AtomicBool::new(true));
    let events = Arc::new(Mutex::new(Vec::new()));
    let (gate, seen) = (Arc::clone(&open), Arc::clone(&events));
    let data = Temporary::watched(move |event| {
        seen.lock().unwrap().push(event);
        while matches!(event, WriterEvent::Begin(_)) && !gate.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    });
    (open, events, data)
}

async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

#[tokio::test]
async fn what_queues_up_is_committed_together_and_fails_alone() {
    let (open, events, data) = gate();
    let store = data.open();
    write(&*store, vec![create("g"), audience(1, &[Some("alice")])]).await;
    open.store(false, Ordering::SeqCst);
    events.lock().unwrap().clear();
    let commits: Vec<_> = (0..10_u64)
        .map(|number| {
            let mut writes = vec![message(1, None, &number.to_string())];
            // Every third cannot be made.
            if number % 3 == 2 {
                writes.push(append("g", 99, 1, None, 0));
            }
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.commit(change(Vec::new(), writes)).await.is_ok() })
        })
        .collect();
    settle().await;
    assert!(!commits.iter().any(tokio::task::JoinHandle::is_finished));
    open.store(true, Ordering::SeqCst);
    let mut made = Vec::new();
    for (number, commit) in commits.into_iter().enumerate() {
        if commit.await.unwrap() {
            made.push(number.to_string());
        }
    }
    assert_eq!(made, ["0", "1", "3", "4", "6", "7", "9"]);
    let rows = queue(&*store, "alice", 0).await;
    let mut found = payloads(&rows);
    found.sort_unstable();
    assert_eq!(found, made);
    let batches = |event: &WriterEvent| matches!(event, WriterEvent::Begin(_));
    let batches = events
        .lock()
        .unwrap()
        .iter()
        .copied()
        .filter(batches)
        .count();
    assert!(batches <= 2, "{batches} batches");
}

#[tokio::test]
async fn dropping_waits_for_what_is_queued() {
    let (open, _, data) = gate();
    let store = data.open();
    write(&*store, vec![audience(1, &[Some("alice")])]).await;
    open.store(false, Ordering::SeqCst);
    for number in 0..10 {
        let store = Arc::clone(&store);
        let writes = vec![message(1, None, &number.to_string())];
        // Nobody waits for these.
        let commit = tokio::spawn(async move { store.commit(change(Vec::new(), writes)).await });
        settle().await;
        commit.abort();
    }
    settle().await;
    open.store(true, Ordering::SeqCst);
    drop(store);
    assert_eq!(queue(&*data.open(), "alice", 0).await.len(), 10);
}

/// The writer dies at an event, in its second batch.
async fn die_at(fatal: WriterEvent) -> Temporary {
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let mut data = Temporary::watched(move |event| {
        assert!(
            event != fatal || !is_armed.load(Ordering::SeqCst),
            "dies here"
        );
    });
    let store = data.open();
    write(&*store, vec![audience(1, &[Some("alice")])]).await;
    armed.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let writes = vec![
            create("g"),
            message(1, None, "one"),
            message(1, None, "two"),
        ];
        let result = store.commit(change(Vec::new(), writes)).await;
        assert!(matches!(result, Err(CommitError::Failed(_))), "{result:?}");
    }
    // What is durable can still be read.
    assert!(
        store
            .audience(&provider("a"), &digest(1))
            .await
            .unwrap()
            .is_some()
    );
    assert!(store.sweep(0).await.is_err());
    drop(store);
    data.options.observer = None;
    data
}

#[tokio::test]
async fn a_writer_that_dies_before_the_commit_leaves_nothing() {
    let data = die_at(WriterEvent::BeforeCommit).await;
    let store = data.open();
    assert_eq!(store.group(&group_id("g")).await.unwrap(), None);
    assert_eq!(queue(&*store, "alice", 0).await, []);
}

#[tokio::test]
async fn a_writer_that_dies_after_the_commit_leaves_all_of_it() {
    let data = die_at(WriterEvent::BeforeReply).await;
    let store = data.open();
    assert_eq!(store.group_version(&group_id("g")).await.unwrap(), Some(0));
    assert_eq!(payloads(&queue(&*store, "alice", 0).await), ["one", "two"]);
}

/// At each event of the writer, what a crash would leave then is what was answered, and
/// nothing but whole changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_leaves_what_was_answered() {
    const CHANGES: u64 = 60;
    let path: Arc<Mutex<Option<PathBuf>>> = Arc::default();
    let answered = Arc::new(Mutex::new(Vec::<u64>::new()));
    let images = Arc::new(Mutex::new(Vec::new()));
    let data = {
        let (path, answered, images) = (path.clone(), answered.clone(), images.clone());
        Temporary::watched(move |event| {
            if let Some(path) = &*path.lock().unwrap() {
                let answered = answered.lock().unwrap().clone();
                images
                    .lock()
                    .unwrap()
                    .push((event, answered, image_of(path)));
            }
        })
    };
    let store = data.open();
    write(&*store, vec![audience(1, &[Some("alice"), Some("bob")])]).await;
    *path.lock().unwrap() = Some(data.path());
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (store, answered) = (Arc::clone(&store), Arc::clone(&answered));
            tokio::spawn(async move {
                for number in (task..CHANGES).step_by(4) {
                    let two = vec![
                        message(1, Some(1), &number.to_string()),
                        message(1, Some(0), &number.to_string()),
                    ];
                    write(&*store, two).await;
                    answered.lock().unwrap().push(number);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    *path.lock().unwrap() = None;
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert!(images.len() >= 45);
    for (event, answered, image) in images {
        let store = image.open();
        let (alice, bob) = (
            queue(&*store, "alice", 0).await,
            queue(&*store, "bob", 0).await,
        );
        assert_eq!(payloads(&alice), payloads(&bob), "{event:?}");
        for number in answered {
            let number = number.to_string();
            assert!(payloads(&alice).contains(&number.as_str()), "{event:?}");
        }
    }
    let all = data.image();
    assert_eq!(queue(&*all.open(), "alice", 0).await.len() as u64, CHANGES);
}

/// A disk that is full: each change is answered as what became of it.
#[tokio::test]
async fn a_full_disk_fails_what_does_not_fit() {
    let data = Temporary::new();
    let store = data.open();
    write(&*store, vec![audience(1, &[Some("alice")])]).await;
    drop(store);
    let connection = schema::open_writer(&data.path()).unwrap();
    let pages: i64 = connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    connection
        .query_row(
            &format!("PRAGMA max_page_count = {}", pages + 20),
            [],
            |_| Ok(()),
        )
        .unwrap();
    let (jobs, queued) = mpsc::channel(100);
    let mut answers = Vec::new();
    for number in 0..12 {
        let size = if number % 4 == 1 { 200_000 } else { 3_000 };
        let payload = format!("{number} {}", "x".repeat(size));
        let (reply, answer) = oneshot::channel();
        let change = change(Vec::new(), vec![message(1, None, &payload)]);
        jobs.send(Job::Commit(change, reply)).await.ok().unwrap();
        answers.push((payload, answer));
    }
    drop(jobs);
    let writer = Writer::new(connection, queued, EmbeddedOptions::default());
    tokio::task::spawn_blocking(|| writer.run()).await.unwrap();
    let mut made = Vec::new();
    for (payload, answer) in answers {
        if answer.await.unwrap().is_ok() {
            made.push(payload);
        }
    }
    assert!(made.len() < 12);
    assert_eq!(payloads(&queue(&*data.open(), "alice", 0).await), made);
}
