//! Tables for a terminal: columns as wide as they have to be, and lines of their own below a row.

use unicode_width::UnicodeWidthStr as _;

use crate::escape;

/// No line is longer.
pub(super) const MAX_WIDTH: usize = 100;
/// Between columns.
const GAP: &str = "  ";
/// Before what stands below a row.
const INDENT: &str = "    ";

/// A column's heading, and on which side its cells stand.
pub(super) enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Column {
    fn heading(&self) -> &'static str {
        match self {
            Self::Left(heading) | Self::Right(heading) => heading,
        }
    }
}

/// A row, and what is said below it.
struct Row {
    cells: Vec<String>,
    below: Vec<String>,
}

/// A table. Whatever is put in is made fit for a terminal.
pub(super) struct Table {
    columns: Vec<Column>,
    /// The column whose cells may be long.
    long: usize,
    rows: Vec<Row>,
}

impl Table {
    /// A table with these columns, in one of which, `long`, cells may be long.
    pub(super) fn new(long: usize, columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            long,
            rows: Vec::new(),
        }
    }

    /// Adds a row, with a cell for each column. A line of `below` that is too long is broken.
    pub(super) fn row(&mut self, cells: impl Into<Vec<String>>, below: Vec<String>) {
        let cells = cells.into().iter().map(|cell| escape::line(cell)).collect();
        self.rows.push(Row { cells, below });
    }

    /// All of it, a line feed after each line. Where a long cell leaves no room for those after
    /// it, they stand in a line of their own.
    pub(super) fn draw(&self) -> String {
        let widest = |at: usize, max: usize| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(at));
            let widths = cells.map(|cell| cell.width()).filter(|width| *width <= max);
            let heading = self.columns[at].heading().width();
            widths.max().unwrap_or(0).max(heading)
        };
        let is_long = |at| at == self.long;
        let mut widths: Vec<_> = (0..self.columns.len())
            .map(|at| {
                if is_long(at) {
                    0
                } else {
                    widest(at, usize::MAX)
                }
            })
            .collect();
        let others = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
        widths[self.long] = widest(self.long, MAX_WIDTH.saturating_sub(others));
        let mut out = String::new();
        let headings = self
            .columns
            .iter()
            .map(|column| column.heading().to_owned());
        self.line(&headings.collect::<Vec<_>>(), &widths, &mut out);
        for Row { cells, below } in &self.rows {
            let mut cells = cells.clone();
            if cells[self.long].width() > widths[self.long] {
                self.line(&cells[..=self.long], &widths, &mut out);
                cells[..=self.long].fill(String::new());
            }
            self.line(&cells, &widths, &mut out);
            for text in below {
                for line in broken(&escape::line(text), MAX_WIDTH - INDENT.len()) {
                    out.push_str(INDENT);
                    out.push_str(&line);
                    out.push('\n');
                }
            }
        }
        out
    }

    fn line(&self, cells: &[String], widths: &[usize], out: &mut String) {
        let mut line = String::new();
        for ((cell, column), width) in cells.iter().zip(&self.columns).zip(widths) {
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            match column {
                Column::Left(_) => line.extend([cell, &*padding]),
                Column::Right(_) => line.extend([&*padding, cell]),
            }
            line.push_str(GAP);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// A text in lines of so many cells, broken at spaces where there are any.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.width() + 1 + word.width() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
        // A word that is longer than a line.
        while let Some(last) = lines.last_mut()
            && last.width() > width
        {
            let rest = split_off(last, width);
            lines.push(rest);
        }
    }
    lines
}

/// What does not fit, which is taken off; at least one character stays.
fn split_off(line: &mut String, width: usize) -> String {
    let fits = |(at, c): &(usize, char)| line[..at + c.len_utf8()].width() <= width;
    let kept = line
        .char_indices()
        .take_while(fits)
        .map(|(at, c)| at + c.len_utf8());
    let first = line.chars().next().map_or(0, char::len_utf8);
    let at = kept.last().unwrap_or(first);
    line.split_off(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(
            0,
            [
                Column::Left("NAME"),
                Column::Right("SIZE"),
                Column::Left("AGE"),
            ],
        )
    }

    fn row(name: &str, size: &str, age: &str) -> [String; 3] {
        [name, size, age].map(str::to_owned)
    }

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let mut table = table();
        table.row(row("a.example", "1", "3 s"), Vec::new());
        table.row(row("b", "1,000", ""), vec!["why".to_owned()]);
        let expected = "\
NAME        SIZE  AGE
a.example      1  3 s
b          1,000
    why
";
        assert_eq!(table.draw(), expected);
    }

    #[test]
    fn no_line_is_too_long_whatever_is_in_it() {
        let mut table = table();
        let long = format!("{}.example", "x".repeat(120));
        table.row(row(&"y".repeat(80), "1", "3 s"), Vec::new());
        let below = vec![format!("{} {}", "word ".repeat(50), "z".repeat(250))];
        table.row(row(&long[..100], "1,000", "2 h 5 min"), below);
        let text = table.draw();
        for line in text.lines() {
            assert!(line.width() <= MAX_WIDTH, "{line}");
        }
        assert_eq!(text.matches("word").count(), 50);
        assert_eq!(text.matches('z').count(), 250);
        // It has a line of its own, and its row goes on below.
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], &long[..100]);
        assert!(lines[3].starts_with(&" ".repeat(80)) && lines[3].contains("1,000"));
    }

    #[test]
    fn a_terminal_does_nothing_for_others() {
        let mut table = table();
        table.row(
            row("\x1b[2J", "1", ""),
            vec!["a\nb \x07\u{202e}c".to_owned()],
        );
        let text = table.draw();
        assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text:?}");
        assert!(text.ends_with("    a b \\u{7}\\u{202e}c\n"), "{text:?}");
    }
}
