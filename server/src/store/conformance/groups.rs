//! Groups: snapshot, log, what is restored, what is forgotten, answers.

use super::*;
use crate::store::StoredGroup;

/// The next version of a group, with an entry and a snapshot that name it.
pub(crate) fn append(
    name: &str,
    version: u64,
    epoch: u64,
    snapshot: Option<()>,
    keep_from_epoch: u64,
) -> Write {
    Write::AppendGroup {
        group_id: group_id(name),
        version,
        epoch,
        entry: format!("to {version}").into_bytes(),
        snapshot: snapshot.map(|()| format!("at {version}").into_bytes()),
        keep_from_epoch,
        due_at: u64::MAX,
        entered: Vec::new(),
        left: Vec::new(),
    }
}

/// A group at `version`, from the snapshot at `snapshot_version`.
fn stored(snapshot_version: u64, version: u64) -> Option<StoredGroup> {
    Some(StoredGroup {
        version,
        snapshot_version,
        snapshot: format!("at {snapshot_version}").into_bytes(),
        log: (snapshot_version + 1..=version)
            .map(|version| format!("to {version}").into_bytes())
            .collect(),
    })
}

pub(crate) async fn a_group_is_its_snapshot_and_its_log(data: &impl Data) {
    let store = data.open();
    let group = async || store.group(&group_id("g")).await.unwrap();
    assert_eq!(group().await, None);
    assert_eq!(store.group_version(&group_id("g")).await.unwrap(), None);
    write(&*store, vec![create("g")]).await;
    write(&*store, vec![create("h")]).await;
    assert_eq!(group().await, stored(0, 0));
    // Two versions in one change.
    write(
        &*store,
        vec![append("g", 1, 1, None, 0), append("g", 2, 1, None, 0)],
    )
    .await;
    assert_eq!(group().await, stored(0, 2));
    write(&*store, vec![append("g", 3, 2, Some(()), 0)]).await;
    assert_eq!(group().await, stored(3, 3));
    write(&*store, vec![append("g", 4, 3, None, 0)]).await;
    assert_eq!(group().await, stored(3, 4));
    assert_eq!(store.group_version(&group_id("g")).await.unwrap(), Some(4));
    assert_eq!(store.group_version(&group_id("h")).await.unwrap(), Some(0));
    let again = change(Vec::new(), vec![create("g")]);
    let result = store.commit(again).await;
    assert!(result.is_err());
    assert_eq!(group().await, stored(3, 4));
}

pub(crate) async fn a_group_as_it_was_at_an_epoch(data: &impl Data) {
    let store = data.open();
    let at = async |epoch| store.group_at_epoch(&group_id("g"), epoch).await.unwrap();
    assert_eq!(at(0).await, None);
    write(&*store, vec![create("g")]).await;
    write(&*store, vec![create("h")]).await;
    // Versions 1 to 8 are of the epochs 0 1 1 2 2 2 3 3, with a snapshot at version 5.
    for (version, epoch) in (1..).zip([0, 1, 1, 2, 2, 2, 3, 3]) {
        let snapshot = (version == 5).then_some(());
        write(&*store, vec![append("g", version, epoch, snapshot, 0)]).await;
    }
    assert_eq!(at(0).await, stored(0, 0));
    assert_eq!(at(1).await, stored(0, 2));
    assert_eq!(at(2).await, stored(5, 5));
    assert_eq!(at(3).await, stored(5, 7));
    assert_eq!(at(4).await, None);
    assert_eq!(at(u64::MAX).await, None);
}

pub(crate) async fn what_leads_to_old_epochs_alone_is_forgotten(data: &impl Data) {
    let store = data.open();
    let at = async |epoch| store.group_at_epoch(&group_id("g"), epoch).await.unwrap();
    write(&*store, vec![create("g")]).await;
    // Version and epoch are the same, with a snapshot at every fourth.
    for version in 1..=11 {
        let snapshot = (version % 4 == 0).then_some(());
        write(&*store, vec![append("g", version, version, snapshot, 0)]).await;
    }
    assert_eq!(at(1).await, stored(0, 1));
    // Without a snapshot nothing is forgotten; with one, what is older than the snapshot at 4.
    write(&*store, vec![append("g", 12, 12, Some(()), 6)]).await;
    for epoch in 0..4 {
        assert_eq!(at(epoch).await, None, "epoch {epoch}");
    }
    for epoch in 4..=12 {
        assert_eq!(at(epoch).await, stored(epoch - epoch % 4, epoch));
    }
    assert_eq!(store.group(&group_id("g")).await.unwrap(), stored(12, 12));
    // Everything but the newest.
    write(&*store, vec![append("g", 13, 13, Some(()), u64::MAX)]).await;
    assert_eq!(at(12).await, None);
    assert_eq!(at(13).await, stored(13, 13));
    assert_eq!(store.group(&group_id("g")).await.unwrap(), stored(13, 13));
}

pub(crate) async fn a_version_that_does_not_follow_fails(data: &impl Data) {
    let store = data.open();
    write(&*store, vec![create("g")]).await;
    write(&*store, vec![append("g", 1, 1, None, 0)]).await;
    for (name, version) in [("g", 0), ("g", 1), ("g", 3), ("g", u64::MAX), ("h", 1)] {
        let writes = vec![append(name, version, 2, Some(()), 0)];
        let result = store.commit(change(Vec::new(), writes)).await;
        assert!(
            matches!(result, Err(CommitError::Failed(_))),
            "{name} {version}"
        );
    }
    assert_eq!(store.group(&group_id("g")).await.unwrap(), stored(0, 1));
}

pub(crate) async fn an_answer_is_whose_it_was(data: &impl Data) {
    let store = data.open();
    let of_a_provider = Answer {
        whose: Whose::Provider(provider("a")),
        ..an_answer(3)
    };
    for (hash, answer) in [(1, &of_a_provider), (2, &an_answer(3))] {
        let write_answer = Write::Answer {
            group_id: group_id("g"),
            message_hash: [hash; 32],
            answer: answer.clone(),
        };
        write(&*store, vec![write_answer]).await;
        let found = store.answer(&group_id("g"), &[hash; 32]).await.unwrap();
        assert_eq!(found.as_ref(), Some(answer));
    }
}

pub(crate) async fn answers_are_kept_until_forgotten(data: &impl Data) {
    let store = data.open();
    let answer = |name: &str, hash: u8, epoch| Write::Answer {
        group_id: group_id(name),
        message_hash: [hash; 32],
        answer: an_answer(epoch),
    };
    let given = async |name: &str, hash: u8| {
        let found = store.answer(&group_id(name), &[hash; 32]).await.unwrap();
        found.map(|answer| answer.epoch)
    };
    write(
        &*store,
        vec![answer("g", 1, 1), answer("g", 2, 2), answer("h", 1, 1)],
    )
    .await;
    assert_eq!(
        store.answer(&group_id("g"), &[2; 32]).await.unwrap(),
        Some(an_answer(2))
    );
    assert_eq!(given("h", 2).await, None);
    // The first answer stays; who gives another has not seen it.
    conflicts(&*store, Vec::new(), vec![answer("g", 1, 5)]).await;
    assert_eq!(given("g", 1).await, Some(1));
    let forget = Write::ForgetAnswers {
        group_id: group_id("g"),
        before_epoch: 2,
    };
    write(&*store, vec![forget]).await;
    assert_eq!(given("g", 1).await, None);
    assert_eq!(given("g", 2).await, Some(2));
    assert_eq!(given("h", 1).await, Some(1));
    write(&*store, vec![answer("g", 1, 5)]).await;
    assert_eq!(given("g", 1).await, Some(5));
}
