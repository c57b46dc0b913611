//! `docs/protocol.md` has each rule with its tests, and each test here is that of a rule.

use std::collections::BTreeSet;
use std::path::Path;

use moh_messages::DsErrorCode;

const HEADING: &str = "### 7.12 Rules and their tests";
/// There are not fewer rules than this.
const MIN_RULES: usize = 150;
/// What is about something else than the rules.
const OTHERS: [&str; 7] = [
    "accounts", "cache", "pools", "purity", "replay", "table", "uploads",
];
/// What stands for no code.
const GOOD: [&str; 2] = ["accepted", "the first answer"];

struct Rule {
    number: usize,
    text: String,
    code: String,
    tests: Vec<String>,
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(ToOwned::to_owned).collect()
}

fn rules() -> Vec<Rule> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(HEADING).expect("the table has a heading");
    let section = section.lines().take_while(|line| !line.starts_with("## "));
    let mut rows = section.filter(|line| line.starts_with('|'));
    assert_eq!(rows.next(), Some("| Rule | Code | Test |"));
    assert_eq!(rows.next(), Some("| --- | --- | --- |"));
    rows.map(rule).collect()
}

fn rule(row: &str) -> Rule {
    let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [rule, code, tests] = cells.as_slice() else {
        panic!("three columns: {row}");
    };
    let (number, text) = rule.split_once(". ").unwrap();
    Rule {
        number: number.strip_prefix('R').unwrap().parse().unwrap(),
        text: text.to_owned(),
        code: (*code).to_owned(),
        tests: quoted(tests),
    }
}

/// The tests in this folder that are always run, as `module::name`.
fn tests() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line == "#[test]" || line.starts_with("#[tokio::test") {
                let line = lines.next().unwrap();
                if line.starts_with("#[ignore") {
                    continue;
                }
                let (_, name) = line.split_once("fn ").unwrap();
                let (name, _) = name.split_once('(').unwrap();
                found.insert(format!("{module}::{name}"));
            }
        }
    }
    found
}

#[test]
fn every_rule_has_a_test_that_there_is() {
    let (rules, tests) = (rules(), tests());
    assert!(rules.len() >= MIN_RULES, "{} rules", rules.len());
    for (number, rule) in (1..).zip(&rules) {
        assert_eq!(rule.number, number, "{}", rule.text);
        assert!(!rule.tests.is_empty(), "R{number} has no test");
        for test in &rule.tests {
            assert!(tests.contains(test), "R{number}: there is no test {test}");
        }
    }
}

#[test]
fn every_rule_says_what_a_request_gets() {
    let names: Vec<_> = DsErrorCode::ALL.iter().map(|code| code.name()).collect();
    for Rule { number, code, .. } in rules() {
        let codes = quoted(&code);
        for code in &codes {
            assert!(names.contains(&Some(code.as_str())), "R{number}: {code}");
        }
        let is_good = GOOD.contains(&code.as_str()) || code.starts_with("that of the ");
        assert!(is_good || !codes.is_empty(), "R{number}: {code}");
    }
}

#[test]
fn every_test_is_that_of_a_rule() {
    let named: BTreeSet<_> = rules().into_iter().flat_map(|rule| rule.tests).collect();
    for test in tests() {
        let (module, _) = test.split_once("::").unwrap();
        let is_named = named.contains(&test) || OTHERS.contains(&module);
        assert!(is_named, "{test} is not in the table of {HEADING}");
    }
}
