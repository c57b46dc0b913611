//! Everything that is durable at a provider: what a refused request must leave as it was.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

/// All rows of all tables, but for nonces: whoever is refused has used theirs up.
#[derive(PartialEq)]
pub(crate) struct State(BTreeMap<String, Vec<Vec<Value>>>);

impl State {
    pub(crate) fn read(path: &Path) -> Self {
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' \
                      AND name <> 'nonces' ORDER BY name";
        let mut tables = connection.prepare(tables).unwrap();
        let names = tables.query_map([], |row| row.get(0)).unwrap();
        let names: Vec<String> = names.map(Result::unwrap).collect();
        let all = names.into_iter().map(|name| {
            let rows = rows(&connection, &name);
            (name, rows)
        });
        Self(all.collect())
    }

    /// How many rows a table has.
    pub(crate) fn rows(&self, table: &str) -> usize {
        self.0[table].len()
    }

    /// The tables that are not as they were.
    pub(crate) fn changed_in(&self, later: &Self) -> Vec<String> {
        let all = self.0.keys().chain(later.0.keys());
        let mut changed: Vec<_> = all
            .filter(|&table| self.0.get(table) != later.0.get(table))
            .cloned()
            .collect();
        changed.dedup();
        changed
    }
}

fn rows(connection: &Connection, table: &str) -> Vec<Vec<Value>> {
    let mut all = connection
        .prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2"))
        .or_else(|_| connection.prepare(&format!("SELECT * FROM {table}")))
        .unwrap();
    let columns = all.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|place| row.get(place)).collect();
    let rows = all.query_map([], row).unwrap();
    rows.map(Result::unwrap).collect()
}
