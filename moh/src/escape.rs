//! What others wrote, made fit for a terminal.
//!
//! A terminal takes some characters as orders: it clears its screen, changes its title, or answers
//! as if somebody had typed. Others make text look different from what it is. None of them is ever
//! written as it came: each is shown by its number.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

/// Whether a character does something other than to be seen.
fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, and what joins or separates without being seen. The joiners U+200C and
            // U+200D belong to scripts and emoji, and stay.
            '\u{ad}' | '\u{34f}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
            // What changes the direction of writing.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Separators of lines and paragraphs, annotations, tags.
            | '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// How many characters that take no cell of their own may follow each other: more than any script
/// needs, fewer than would hide what is around them.
const MAX_MARKS: usize = 16;

/// Leaves out marks beyond that many.
struct Marks(usize);

impl Marks {
    fn are_too_many(&mut self, c: char) -> bool {
        self.0 = if c.width() == Some(0) { self.0 + 1 } else { 0 };
        self.0 > MAX_MARKS
    }
}

fn push(out: &mut String, c: char) {
    if is_order(c) {
        let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
    } else {
        out.push(c);
    }
}

/// One line: line breaks and tabs become spaces.
pub(crate) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut marks = Marks(0);
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            c if marks.are_too_many(c) => {}
            c => push(&mut out, c),
        }
    }
    out
}

/// The lines of a text.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n");
    let text = text.strip_suffix('\n').unwrap_or(&text);
    text.split('\n')
        .map(|one| {
            let mut out = String::with_capacity(one.len());
            let mut marks = Marks(0);
            for c in one.chars() {
                match c {
                    '\t' => out.push_str("    "),
                    c if marks.are_too_many(c) => {}
                    c => push(&mut out, c),
                }
            }
            out
        })
        .collect()
}

/// One line from which the text can be had back: as in the string literals of Rust.
pub(crate) fn reversible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => push(&mut out, c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a terminal may act upon, or that turns text around.
    const EVIL: &str = "a\x1b[2J\x07\x08\x00\x7f\u{9b}31m\u{90}q\u{202e}b\u{2066}\u{200b}\r";

    #[test]
    fn control_characters_of_others_are_never_written_raw() {
        for text in [line(EVIL), lines(EVIL).join(""), reversible(EVIL)] {
            assert!(!text.chars().any(is_order), "{text:?}");
            assert!(text.starts_with("a\\u{1b}[2J\\u{7}\\u{8}\\u{0}\\u{7f}\\u{9b}31m"));
            assert!(text.contains("\\u{202e}b\\u{2066}"));
        }
        // Every character there is: what is left is no order.
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = c.to_string();
            for shown in [line(&text), lines(&text).concat(), reversible(&text)] {
                assert!(!shown.chars().any(char::is_control), "{:x}", u32::from(c));
            }
        }
    }

    #[test]
    fn what_is_written_in_any_script_stays() {
        for text in [
            "Grüße",
            "日本語",
            "שלום",
            "می‌خواهم",
            "👩‍👩‍👧",
            "e\u{301}",
            "a\\b",
        ] {
            assert_eq!(line(text), text);
            assert_eq!(lines(text), [text]);
        }
    }

    #[test]
    fn marks_do_not_pile_up() {
        let text = format!("a{}b", "\u{301}".repeat(1000));
        let shown = format!("a{}b", "\u{301}".repeat(16));
        assert_eq!(line(&text), shown);
        assert_eq!(lines(&text), [shown]);
    }

    #[test]
    fn lines_stay_lines_or_can_be_had_back() {
        assert_eq!(lines("a\r\nb\n\nc\td\n"), ["a", "b", "", "c    d"]);
        assert_eq!(line("a\nb\tc"), "a b c");
        assert_eq!(reversible("a\nb\\n\tc\r"), "a\\nb\\\\n\\tc\\r");
    }
}
