//! How often what was done.

use std::collections::BTreeMap;

use crate::mls::LibraryKind;

/// Counts, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(BTreeMap<String, u64>);

fn name(kind: LibraryKind) -> &'static str {
    match kind {
        LibraryKind::OpenMls => "openmls",
        LibraryKind::MlsRs => "mls-rs",
    }
}

impl Tally {
    pub(crate) fn count(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn client(&mut self, kind: LibraryKind) {
        self.count(&format!("clients on {}", name(kind)));
    }

    pub(crate) fn joined_by_welcome(&mut self, kind: LibraryKind) {
        self.count(&format!("joined by Welcome on {}", name(kind)));
    }

    pub(crate) fn joined_externally(&mut self, kind: LibraryKind) {
        self.count(&format!("joined externally on {}", name(kind)));
    }

    pub(crate) fn committed(&mut self, kind: LibraryKind) {
        self.count(&format!("commits by {}", name(kind)));
    }

    pub(crate) fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .try_for_each(|(what, count)| writeln!(f, "{count:8}  {what}"))
    }
}
