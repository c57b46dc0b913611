//! What `docs/protocol.md` declares in the presentation language.

use std::fs;

/// The names of structs, and those of enums with their values.
#[derive(Default)]
pub(crate) struct Declarations {
    pub(crate) structs: Vec<String>,
    /// Name of the enum, name of the value, value.
    pub(crate) values: Vec<(String, String, u64)>,
}

pub(crate) fn declarations() -> Declarations {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut found = Declarations::default();
    for block in text.split("```").skip(1).step_by(2) {
        let code: String = block
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" ");
        read_block(&code, &mut found);
    }
    found
}

/// Finds `KEYWORD { content } NAME, NAME;` at the outermost level.
fn read_block(code: &str, found: &mut Declarations) {
    let mut rest = code;
    while let Some(open) = rest.find('{') {
        let keyword = rest[..open].split_whitespace().next_back().unwrap_or("");
        let length = closing_brace(&rest[open..]);
        let content = &rest[open + 1..open + length];
        let after = &rest[open + length + 1..];
        let end = after
            .find(';')
            .expect("a declaration ends with a semicolon");
        for name in after[..end].split(',').map(str::trim) {
            match keyword {
                "struct" => found.structs.push(name.to_owned()),
                "enum" => found.values.extend(enum_values(name, content)),
                other => panic!("neither struct nor enum: {other} {name}"),
            }
        }
        rest = &after[end + 1..];
    }
}

fn closing_brace(text: &str) -> usize {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return i,
            '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("a brace stays open in docs/protocol.md: {text}");
}

fn enum_values(name: &str, content: &str) -> Vec<(String, String, u64)> {
    let mut values = Vec::new();
    for item in content.split(',') {
        let (value_name, number) = item.trim().trim_end_matches(')').split_once('(').unwrap();
        let number = match number.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => number.parse().unwrap(),
        };
        // `(255)` only says how wide the enum is.
        if !value_name.is_empty() && value_name != "reserved" {
            values.push((name.to_owned(), value_name.to_owned(), number));
        }
    }
    values
}
