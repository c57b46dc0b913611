//! The line that is being written.

use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};
use unicode_width::UnicodeWidthStr;

/// How many lines can be had back with the arrow keys.
const MAX_PAST: usize = 200;
/// The longest line, in bytes: far below what fits into a message.
const MAX_BYTES: usize = 32 * 1024;

/// A text, where the cursor is, and what was written before.
#[derive(Debug, Default)]
pub(crate) struct Editor {
    text: String,
    /// In bytes, between two characters as people see them.
    cursor: usize,
    past: Vec<String>,
    /// Which of the past is shown, and what was being written instead.
    shown: Option<(usize, String)>,
}

/// The text in rows, and where the cursor is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: Vec<String>,
    pub(crate) cursor: (usize, usize),
}

impl Editor {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    pub(crate) fn set(&mut self, text: String) {
        self.cursor = text.len();
        self.text = text;
    }

    /// Whether a text fits in.
    pub(crate) fn has_room_for(&self, text: &str) -> bool {
        self.text.len() + text.len() <= MAX_BYTES
    }

    /// Puts text where the cursor is, as long as it fits in. Control characters are left out, but
    /// for line breaks.
    pub(crate) fn insert(&mut self, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let text: String = text
            .replace('\t', "    ")
            .chars()
            .filter(|c| *c == '\n' || !c.is_control())
            .collect();
        if !self.has_room_for(&text) {
            return;
        }
        self.text.insert_str(self.cursor, &text);
        self.cursor += text.len();
        // A combining mark becomes one with what is before it.
        self.cursor = self.boundary_at_or_after(self.cursor);
    }

    fn boundary_at_or_after(&self, at: usize) -> usize {
        let mut cursor = GraphemeCursor::new(at, self.text.len(), true);
        if cursor.is_boundary(&self.text, 0).unwrap_or(true) {
            return at;
        }
        cursor
            .next_boundary(&self.text, 0)
            .ok()
            .flatten()
            .unwrap_or(self.text.len())
    }

    fn before(&self) -> usize {
        let mut cursor = GraphemeCursor::new(self.cursor, self.text.len(), true);
        cursor
            .prev_boundary(&self.text, 0)
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    fn after(&self) -> usize {
        let mut cursor = GraphemeCursor::new(self.cursor, self.text.len(), true);
        let next = cursor.next_boundary(&self.text, 0).ok().flatten();
        next.unwrap_or(self.text.len())
    }

    fn word_before(&self) -> usize {
        let before = self.text[..self.cursor].trim_end();
        before.rfind(char::is_whitespace).map_or(0, |space| {
            let c = before[space..].chars().next();
            space + c.map_or(0, char::len_utf8)
        })
    }

    fn word_after(&self) -> usize {
        let rest = &self.text[self.cursor..];
        let spaces = rest.len() - rest.trim_start().len();
        let word = rest[spaces..].find(char::is_whitespace);
        word.map_or(self.text.len(), |end| self.cursor + spaces + end)
    }

    fn cut_between(&mut self, from: usize, to: usize) {
        self.text.replace_range(from..to, "");
        self.cursor = self.boundary_at_or_after(from);
    }

    pub(crate) fn backspace(&mut self) {
        self.cut_between(self.before(), self.cursor);
    }

    pub(crate) fn delete(&mut self) {
        self.cut_between(self.cursor, self.after());
    }

    pub(crate) fn delete_word(&mut self) {
        self.cut_between(self.word_before(), self.cursor);
    }

    pub(crate) fn delete_to_start(&mut self) {
        self.cut_between(0, self.cursor);
    }

    pub(crate) fn delete_to_end(&mut self) {
        self.cut_between(self.cursor, self.text.len());
    }

    pub(crate) fn left(&mut self) {
        self.cursor = self.before();
    }

    pub(crate) fn right(&mut self) {
        self.cursor = self.after();
    }

    pub(crate) fn word_left(&mut self) {
        self.cursor = self.word_before();
    }

    pub(crate) fn word_right(&mut self) {
        self.cursor = self.word_after();
    }

    pub(crate) fn home(&mut self) {
        self.cursor = 0;
    }

    pub(crate) fn end(&mut self) {
        self.cursor = self.text.len();
    }

    /// The line before, of those that were written.
    pub(crate) fn up(&mut self) {
        let (index, draft) = match self.shown.take() {
            None => (self.past.len(), std::mem::take(&mut self.text)),
            Some(shown) => shown,
        };
        let index = index.saturating_sub(1);
        let text = self.past.get(index).unwrap_or(&draft).clone();
        if !self.past.is_empty() {
            self.shown = Some((index, draft));
        }
        self.set(text);
    }

    /// The line after; what was being written after the last one.
    pub(crate) fn down(&mut self) {
        let Some((index, draft)) = self.shown.take() else {
            return;
        };
        match self.past.get(index + 1).cloned() {
            Some(text) => {
                self.shown = Some((index + 1, draft));
                self.set(text);
            }
            None => self.set(draft),
        }
    }

    /// Takes the text away, as written.
    pub(crate) fn take(&mut self) -> String {
        self.shown = None;
        self.cursor = 0;
        let text = std::mem::take(&mut self.text);
        if !text.trim().is_empty() && self.past.last() != Some(&text) {
            self.past.push(text.clone());
            if self.past.len() > MAX_PAST {
                self.past.remove(0);
            }
        }
        text
    }

    /// The text in rows of this many cells. The cursor is always in one of them.
    pub(crate) fn layout(&self, width: usize) -> Layout {
        let width = width.max(2);
        let mut rows = vec![String::new()];
        let (mut row, mut column) = (0, 0);
        let mut cursor = (0, 0);
        for (at, grapheme) in self.text.grapheme_indices(true) {
            let is_break = grapheme == "\n";
            let cells = if is_break { 0 } else { grapheme.width() };
            if column + cells > width {
                rows.push(String::new());
                (row, column) = (row + 1, 0);
            }
            if at == self.cursor {
                cursor = (row, column);
            }
            if is_break {
                rows.push(String::new());
                (row, column) = (row + 1, 0);
            } else {
                rows[row].push_str(grapheme);
                column += cells;
            }
        }
        if self.cursor == self.text.len() {
            if column >= width {
                rows.push(String::new());
                (row, column) = (row + 1, 0);
            }
            cursor = (row, column);
        }
        Layout { rows, cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn editor(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.insert(text);
        editor
    }

    #[test]
    fn the_cursor_moves_by_characters_as_people_see_them() {
        let mut e = editor("ae\u{301}日👩‍👩‍👧");
        e.left();
        assert_eq!(&e.text()[e.cursor()..], "👩‍👩‍👧");
        e.left();
        e.left();
        assert_eq!(&e.text()[..e.cursor()], "a");
        e.delete();
        assert_eq!(e.text(), "a日👩‍👩‍👧");
        e.end();
        e.backspace();
        e.backspace();
        e.backspace();
        e.backspace();
        assert_eq!((e.text(), e.cursor()), ("", 0));
    }

    #[test]
    fn words_and_ends_are_reached_and_deleted() {
        let mut e = editor("eins zwei  drei");
        e.word_left();
        assert_eq!(e.cursor(), 11);
        e.delete_word();
        assert_eq!(e.text(), "eins drei");
        e.word_right();
        assert_eq!(e.cursor(), 9);
        e.word_left();
        e.delete_to_end();
        assert_eq!(e.text(), "eins ");
        e.home();
        e.right();
        e.delete_to_start();
        assert_eq!((e.text(), e.cursor()), ("ins ", 0));
    }

    #[test]
    fn what_was_written_can_be_had_back() {
        let mut e = editor("one");
        assert_eq!(e.take(), "one");
        e.insert("two");
        assert_eq!(e.take(), "two");
        e.insert("dra");
        e.up();
        assert_eq!(e.text(), "two");
        e.up();
        e.up();
        assert_eq!(e.text(), "one");
        e.down();
        e.down();
        assert_eq!(e.text(), "dra");
        e.down();
        assert_eq!(e.text(), "dra");
        let mut empty = editor("x");
        empty.up();
        assert_eq!(empty.text(), "x");
    }

    #[test]
    fn the_text_is_laid_out_with_the_cursor_in_it() {
        let mut e = editor("ab日cd");
        assert_eq!(e.layout(4).rows, ["ab日", "cd"]);
        assert_eq!(e.layout(4).cursor, (1, 2));
        assert_eq!(e.layout(3).rows, ["ab", "日c", "d"]);
        e.home();
        assert_eq!(e.layout(3).cursor, (0, 0));
        let full = editor("abcd");
        assert_eq!(full.layout(4).cursor, (1, 0));
        let two = editor("a\nb");
        assert_eq!(two.layout(9).rows, ["a", "b"]);
    }

    #[test]
    fn pasted_control_characters_are_left_out() {
        let e = editor("a\x1b[2Jb\r\nc\td");
        assert_eq!(e.text(), "a[2Jb\nc    d");
    }
}
