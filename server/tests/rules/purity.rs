//! The group is pure: its source names nothing that waits, or that is outside of it.

use std::path::{Path, PathBuf};

/// What may not stand in the source, and where it may all the same.
const FORBIDDEN: [&str; 16] = [
    "tokio",
    "axum",
    "hyper",
    "reqwest",
    "rusqlite",
    "rustls",
    "async ",
    "async_trait",
    ".await",
    "SystemTime",
    "Instant",
    "clock",
    "Clock",
    "Random",
    "std::net",
    "std::fs",
];

fn sources() -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![src.join("group.rs")];
    let mut folders = vec![src.join("group")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_group_waits_for_nothing_and_knows_of_nothing_outside() {
    let sources = sources();
    assert!(sources.len() > 5);
    for path in sources {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            for word in FORBIDDEN {
                assert!(
                    !line.contains(word),
                    "{}, line {number} of the code: {word} in {line:?}",
                    path.display()
                );
            }
            // Of the store, the group knows how a group is stored, and nothing else.
            if line.contains("crate::store") {
                assert_eq!(line.trim(), "use crate::store::StoredGroup;", "{path:?}");
            }
            for module in ["node", "federation", "http", "outbox", "queue", "groups"] {
                let named = line.contains(&format!("crate::{module}::"));
                assert!(!named, "{}: {module} in {line:?}", path.display());
            }
        }
    }
}
