//! What is particular to this backend: durability, one row for a message, one file one owner.

use super::*;

#[tokio::test]
async fn opens_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.sqlite");
    let store = Embedded::open(&path, EmbeddedOptions::default()).unwrap();
    assert!(Embedded::open(&path, EmbeddedOptions::default()).is_err());
    store.commit(Change::default()).await.unwrap();
    drop(store);
    Embedded::open(&path, EmbeddedOptions::default()).unwrap();
}
