//! A file of an older version keeps what is in it, and is the same as a new one afterwards.

use moh_messages::{Message as _, QueueConfig, extension_type};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialWithKey, Extension, ExtensionType,
    Extensions, MlsMessageOut, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;

use crate::change::{Ending, queue_digest};
use crate::store::About;
use crate::store::conformance::{client, key_package, known_client, pool, waiting_for};

use super::*;

const VERSION_2: &str = include_str!("version_2.sql");

/// What is put into a file of version 2.
const DATA_2: &str = "
INSERT INTO clients VALUES
    ('mimi://here.example/d/alice/phone', 'mimi://here.example/u/alice', 0x0807, CAST('key' AS BLOB), 5);
INSERT INTO key_packages
    (reference, client_id, cipher_suite, last_resort, expires_at, bytes)
    VALUES (?7, 'mimi://here.example/d/alice/phone', 1, 0, 100, ?8);
INSERT INTO consents VALUES ('mimi://here.example/u/alice', 'mimi://there.example/u/bob');
INSERT INTO audiences VALUES (1, 'a.example', ?32, 1, 1000);
INSERT INTO audience_lists VALUES (1, 'mimi://here.example/d/alice/phone' || char(10));
INSERT INTO audience_members VALUES ('mimi://here.example/d/alice/phone', 1, 0);
INSERT INTO messages VALUES (1, 1, NULL, 1000, CAST('hello' AS BLOB));
INSERT INTO outbox_audiences VALUES (?32, CAST('recipients' AS BLOB));
INSERT INTO outbox_audience_uses VALUES (?32, 1000);
INSERT INTO outbox
    (destination, group_id, delivery_id, digest, except_position, created_at, payload)
    VALUES ('c.example', CAST('g' AS BLOB), ?16, ?32, 3, 1000, CAST('out' AS BLOB));
INSERT INTO outbox
    (destination, group_id, delivery_id, digest, created_at, set_aside_reason, payload)
    VALUES ('c.example', CAST('g' AS BLOB), ?16, ?32, 2000, 'expired', X'0178'),
        ('d.example', CAST('h' AS BLOB), ?16, ?32, 3000, 'refused: no', X'0079');
INSERT INTO groups (number, group_id, version) VALUES (1, CAST('old' AS BLOB), 4);
";

/// A file as version 2 left it.
fn version_2(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(VERSION_2).unwrap();
    let data = DATA_2
        .replace("?32", &format!("X'{}'", "01".repeat(32)))
        .replace("?16", &format!("X'{}'", "01".repeat(16)))
        .replace("?7", &format!("X'{}'", "07".repeat(32)))
        .replace("?8", &format!("X'{}'", "07".repeat(100)));
    connection.execute_batch(&data).unwrap();
}

/// Everything that makes up a file's schema.
fn schema_of(path: &Path) -> Vec<(String, String, Option<String>)> {
    let connection = Connection::open(path).unwrap();
    let mut rows = connection
        .prepare("SELECT name, tbl_name, sql FROM sqlite_schema ORDER BY name")
        .unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let mut schema: Vec<_> = rows.unwrap().collect::<Result<_, _>>().unwrap();
    let version = connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    schema.push((version.unwrap().to_string(), String::new(), None));
    schema
}

#[tokio::test]
async fn a_file_of_version_2_keeps_what_is_in_it() {
    let data = Temporary::new();
    version_2(&data.path());
    // Twice: the second time there is nothing to do.
    for _ in 0..2 {
        let store = data.open();
        assert_eq!(
            store.client(&client("alice")).await.unwrap(),
            Some(known_client("key"))
        );
        let found = store.next_key_package(&pool("alice"), &[1], 0).await;
        assert_eq!(found.unwrap(), Some(key_package(7, 1, false, 100)));
        let alice = client("alice").user_id();
        let bob = "mimi://there.example/u/bob".parse().unwrap();
        assert!(store.consent(&alice, &bob).await.unwrap());
        let items = queue(&*store, "alice", 0).await;
        assert_eq!((payloads(&items), items[0].sequence), (vec!["hello"], 1));
        let waiting = waiting_for(&*store, "c").await;
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].delivery().unwrap().payload, b"out");
        let totals = store.outbox_totals(None, 9).await.unwrap().into_iter();
        let totals = totals.map(|t| [t.waiting, t.waiting_bytes, t.set_aside, t.set_aside_bytes]);
        assert!(totals.eq([[1, 3, 1, 2], [0, 0, 1, 2]]));
        let rows = store.set_aside(None, 0, 9).await.unwrap().into_iter();
        let rows = rows.map(|row| (row.about, row.ending, row.set_aside_at, row.reason));
        let expected = [
            (
                About::ConnectionRequest(group_id("g")),
                Ending::Expired,
                2_000,
                "expired".to_owned(),
            ),
            (
                About::Message(group_id("h")),
                Ending::Refused,
                3_000,
                "refused: no".to_owned(),
            ),
        ];
        assert!(rows.eq(expected));
        let version = store.group_version(&group_id("old")).await.unwrap();
        assert_eq!(version, Some(4));
    }
}

/// A KeyPackage of last resort with a queue in its leaf.
fn last_resort(queue: &QueueConfig) -> Vec<u8> {
    let suite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
    let mls = OpenMlsRustCrypto::default();
    let signer = SignatureKeyPair::new(suite.signature_algorithm()).unwrap();
    let number = extension_type::QUEUE_CONFIG;
    let extensions = [ExtensionType::Unknown(number), ExtensionType::LastResort];
    let capabilities = Capabilities::new(None, None, Some(&extensions), None, None);
    let content = Extension::Unknown(number, UnknownExtension(queue.encode()));
    let credential = CredentialWithKey {
        credential: BasicCredential::new(b"alice".to_vec()).into(),
        signature_key: signer.public().into(),
    };
    let package = openmls::prelude::KeyPackage::builder()
        .leaf_node_capabilities(capabilities)
        .leaf_node_extensions(Extensions::single(content).unwrap())
        .mark_as_last_resort()
        .build(suite, &mls, &signer, credential)
        .unwrap();
    let message = MlsMessageOut::from(package.into_key_package());
    message.to_bytes().unwrap()
}

/// The queues of last resorts are for everybody; whoever delivers otherwise says anew to whom, and
/// is told when they are gone.
#[tokio::test]
async fn who_may_deliver_after_version_2() {
    let data = Temporary::new();
    version_2(&data.path());
    let queue = QueueConfig {
        provider: provider("here"),
        client_queue_information: moh_messages::Opaque::new([9; 64]).unwrap(),
    };
    let connection = Connection::open(data.path()).unwrap();
    for (number, bytes) in [(1_u8, last_resort(&queue)), (2, b"not one".to_vec())] {
        let add = "INSERT INTO key_packages
             (reference, client_id, cipher_suite, last_resort, expires_at, bytes)
             VALUES (?1, 'mimi://here.example/d/alice/phone', 1, 1, 1, ?2)";
        let reference = vec![number; 32_usize];
        connection
            .execute(add, rusqlite::params![reference, bytes])
            .unwrap();
    }
    connection
        .execute_batch(
            "INSERT INTO audiences VALUES (2, 'here.example', X'02', 0, 0);
             INSERT INTO audience_members VALUES ('mimi://here.example/d/alice/phone', 2, 0);",
        )
        .unwrap();
    drop(connection);
    let store = data.open();
    let audience = store.audience(&provider("a"), &digest(1)).await.unwrap();
    assert_eq!(audience, None, "it is said anew");
    let items = super::queue(&*store, "alice", 0).await;
    assert_eq!(payloads(&items), ["hello"]);
    drop(store);
    let connection = Connection::open(data.path()).unwrap();
    let rows = |sql: &str| -> Vec<(Vec<u8>, Option<String>)> {
        let mut rows = connection.prepare(sql).unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    };
    let shared = queue_digest(&queue.client_queue_information).to_vec();
    let bindings = rows("SELECT queue, sender FROM queue_bindings");
    assert_eq!(bindings, [(shared, None)]);
    let peers = rows("SELECT CAST(client AS BLOB), provider FROM client_peers");
    let alice = client("alice").as_str().as_bytes().to_vec();
    assert_eq!(peers, [(alice, Some("a.example".to_owned()))]);
}

#[tokio::test]
async fn a_file_of_version_2_becomes_as_a_new_one() {
    let (old, new) = (Temporary::new(), Temporary::new());
    version_2(&old.path());
    drop(old.open());
    drop(new.open());
    assert_eq!(schema_of(&old.path()), schema_of(&new.path()));
}

/// What comes in the way undoes all of it: the file is one of version 2, as before.
#[tokio::test]
async fn a_step_that_fails_leaves_the_old_file() {
    let data = Temporary::new();
    version_2(&data.path());
    let connection = Connection::open(data.path()).unwrap();
    // It makes a table of this name after it has changed others.
    let in_the_way = "CREATE TABLE low_pools (something)";
    connection.execute_batch(in_the_way).unwrap();
    drop(connection);
    let before = schema_of(&data.path());
    assert!(data.try_open().is_err());
    assert_eq!(schema_of(&data.path()), before);
    let connection = Connection::open(data.path()).unwrap();
    connection.execute_batch("DROP TABLE low_pools").unwrap();
    drop(connection);
    drop(data.open());
    assert_eq!(count(&data.path(), "known_key_packages"), 1);
}
