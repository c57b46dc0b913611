//! Text in rows of a terminal, where a character may take two cells, or none.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// How many cells a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The rows that a line takes, broken between words where it can be.
pub(crate) fn wrap(text: &str, max: usize) -> Vec<String> {
    let max = max.max(1);
    let mut rows = Vec::new();
    let mut row = String::new();
    let mut taken = 0;
    for grapheme in text.graphemes(true) {
        let cells = grapheme.width();
        if taken + cells > max && !row.is_empty() {
            if grapheme == " " {
                // The break stands for the space.
                rows.push(std::mem::take(&mut row));
                taken = 0;
                continue;
            }
            let rest = match row.rfind(' ') {
                Some(space) => {
                    let rest = row.split_off(space + 1);
                    row.truncate(space);
                    rest
                }
                None => String::new(),
            };
            rows.push(std::mem::replace(&mut row, rest));
            taken = row.width();
        }
        row.push_str(grapheme);
        taken += cells;
    }
    rows.push(row);
    rows
}

/// As much of a text as fits, with `…` where something is missing.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if text.width() <= max {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut taken = 0;
    for grapheme in text.graphemes(true) {
        let cells = grapheme.width();
        if taken + cells + 1 > max {
            break;
        }
        out.push_str(grapheme);
        taken += cells;
    }
    if max > 0 {
        out.push('…');
    }
    out
}

/// A text in exactly so many cells.
pub(crate) fn pad(text: &str, cells: usize) -> String {
    let mut out = cut(text, cells);
    let missing = cells.saturating_sub(out.width());
    out.extend(std::iter::repeat_n(' ', missing));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_where_it_can_be() {
        assert_eq!(wrap("hello there bob", 11), ["hello there", "bob"]);
        assert_eq!(wrap("hello there bob", 12), ["hello there", "bob"]);
        assert_eq!(wrap("hello there", 7), ["hello", "there"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap("abc", 0), ["a", "b", "c"]);
    }

    #[test]
    fn wide_characters_take_two_cells_and_are_not_split() {
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("日本語", 3), ["日", "本", "語"]);
        assert_eq!(wrap("e\u{301}e\u{301}", 1), ["e\u{301}", "e\u{301}"]);
        assert_eq!(wrap("👩‍👩‍👧x", 2), ["👩‍👩‍👧", "x"]);
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(pad("日本語", 4), "日… ");
        assert_eq!(pad("ab", 4), "ab  ");
    }

    #[test]
    fn nothing_but_breaks_is_lost() {
        let text = "Grüße an alle, auch an 日本 und 👩‍👩‍👧 und einesehrlangewortkette";
        for max in 2..40 {
            let rows = wrap(text, max);
            assert!(rows.iter().all(|row| width(row) <= max), "{max}: {rows:?}");
            let without = |text: &str| text.replace(' ', "");
            assert_eq!(without(&rows.concat()), without(text), "{max}");
        }
    }
}
