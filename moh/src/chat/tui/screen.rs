//! What the screen knows beyond the model, and what keys do: pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::editor::Editor;
use crate::chat::command::{COMMANDS, Command, parse};
use crate::chat::model::{Model, Number, Report, Row};
use crate::chat::names::{short, users_of};

/// The state of the screen.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    pub(crate) editor: Editor,
    /// What is above everything else.
    pub(crate) panel: Option<Panel>,
    /// What was said last to the user.
    pub(crate) status: Option<Status>,
    /// How many rows the end of the conversation is below the screen.
    pub(crate) scroll: usize,
    /// How many rows of messages there were when it was drawn last.
    pub(crate) page: usize,
    /// There is nothing above what is shown.
    pub(crate) is_at_top: bool,
}

/// Something to read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) scroll: usize,
}

/// A line about the last thing that happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Good(String),
    Bad(String),
}

/// What a key leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Command(Command),
    /// To read what was before in a conversation.
    Older(Number),
    Redraw,
}

/// Keys, for the help.
const KEYS: [(&str, &str); 9] = [
    ("Enter", "send, or carry out"),
    ("Alt-Enter", "another line in the same message"),
    ("Tab", "complete a command or a name"),
    ("Up, Down", "what you wrote before"),
    (
        "Alt-Up, Alt-Down",
        "another conversation; also Ctrl-P, Ctrl-N",
    ),
    ("Alt-1 … Alt-9", "the conversation with this number"),
    ("PgUp, PgDn", "read what was before"),
    ("F1", "this help"),
    ("Ctrl-C twice", "quit"),
];

impl Screen {
    /// Takes what is to be shown.
    pub(crate) fn report(&mut self, reports: Vec<Report>, model: &Model) {
        for report in reports {
            match report {
                Report::Done(text) | Report::Note(text) => self.status = Some(Status::Good(text)),
                Report::Error(text) => self.status = Some(Status::Bad(text)),
                Report::Registered(client) => {
                    let text = format!("you are registered, with the device {}", client.device());
                    self.status = Some(Status::Good(text));
                }
                Report::Asks(user) => {
                    let user = short(&user);
                    let text = format!("{user} asks to connect: /accept or /decline");
                    self.status = Some(Status::Good(text));
                }
                Report::Connected(user, number) => {
                    let text = format!("{} is connected: /open {number}", short(&user));
                    self.status = Some(Status::Good(text));
                }
                Report::Disconnected(user, reason) => {
                    let text = format!("{} is not connected any more: {reason}", short(&user));
                    self.status = Some(Status::Good(text));
                }
                Report::Listing { title, rows } => self.show(title, rows),
                Report::Line(number, _) if model.open == Some(number) && self.scroll > 0 => {
                    // What is being read stays where it is, about.
                    self.scroll += 1;
                }
                Report::Line(..) | Report::Link(_) | Report::Conversation(_) | Report::Sent(..) => {
                }
            }
        }
    }

    fn show(&mut self, title: String, mut rows: Vec<Row>) {
        if rows.first().is_some_and(|row| row.kind == "help") {
            let keys = KEYS
                .iter()
                .map(|(key, what)| Row::new("help", [(*key).to_owned(), (*what).to_owned()]));
            rows.extend(keys);
        }
        if rows.is_empty() {
            self.status = Some(Status::Good(format!("{title}: nothing yet")));
            return;
        }
        self.panel = Some(Panel {
            title,
            rows,
            scroll: 0,
        });
    }

    /// Takes pasted text.
    pub(crate) fn paste(&mut self, text: &str) {
        self.panel = None;
        let text = text.trim_end_matches(['\r', '\n']);
        if !self.editor.has_room_for(text) {
            let text = "that is too long for one message".to_owned();
            self.status = Some(Status::Bad(text));
        }
        self.editor.insert(text);
    }

    /// Takes a key.
    pub(crate) fn key(&mut self, key: KeyEvent, model: &Model) -> Option<Action> {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        if ctrl && key.code == KeyCode::Char('c') {
            return self.interrupt();
        }
        if self.panel.is_some() && self.panel_key(key) {
            return None;
        }
        match key.code {
            KeyCode::F(1) => return Some(Action::Command(Command::Help)),
            KeyCode::Enter if alt => self.editor.insert("\n"),
            KeyCode::Enter => return self.enter(),
            KeyCode::Tab => self.complete(model),
            KeyCode::PageUp => return self.page_up(model),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_sub(self.page.max(2) / 2),
            KeyCode::Up if alt => return beside(model, -1),
            KeyCode::Down if alt => return beside(model, 1),
            KeyCode::Char('p') if ctrl => return beside(model, -1),
            KeyCode::Char('n') if ctrl => return beside(model, 1),
            KeyCode::Char('l') if ctrl => return Some(Action::Redraw),
            KeyCode::Char('d') if ctrl && self.editor.text().is_empty() => {
                return Some(Action::Command(Command::Quit));
            }
            KeyCode::Char(digit @ '1'..='9') if alt => {
                return Some(Action::Command(Command::Open(digit.to_string())));
            }
            _ => self.edit(key, ctrl, alt),
        }
        None
    }

    /// A key that changes the line.
    fn edit(&mut self, key: KeyEvent, ctrl: bool, alt: bool) {
        let editor = &mut self.editor;
        match key.code {
            KeyCode::Left if ctrl || alt => editor.word_left(),
            KeyCode::Right if ctrl || alt => editor.word_right(),
            KeyCode::Char('b') if alt => editor.word_left(),
            KeyCode::Char('f') if alt => editor.word_right(),
            KeyCode::Left => editor.left(),
            KeyCode::Right => editor.right(),
            KeyCode::Char('b') if ctrl => editor.left(),
            KeyCode::Char('f') if ctrl => editor.right(),
            KeyCode::Home => editor.home(),
            KeyCode::End => editor.end(),
            KeyCode::Char('a') if ctrl => editor.home(),
            KeyCode::Char('e') if ctrl => editor.end(),
            KeyCode::Up => editor.up(),
            KeyCode::Down => editor.down(),
            KeyCode::Char('w') if ctrl => editor.delete_word(),
            KeyCode::Backspace if alt || ctrl => editor.delete_word(),
            KeyCode::Backspace => editor.backspace(),
            KeyCode::Char('h') if ctrl => editor.backspace(),
            KeyCode::Delete => editor.delete(),
            KeyCode::Char('d') if ctrl => editor.delete(),
            KeyCode::Char('u') if ctrl => editor.delete_to_start(),
            KeyCode::Char('k') if ctrl => editor.delete_to_end(),
            KeyCode::Char('j') if ctrl => editor.insert("\n"),
            KeyCode::Char(c) if !ctrl && !alt => editor.insert(c.encode_utf8(&mut [0; 4])),
            _ => {}
        }
    }

    /// Whether the key was for the panel. Any key that is not closes it.
    fn panel_key(&mut self, key: KeyEvent) -> bool {
        let page = self.page.max(2) / 2;
        let Some(panel) = &mut self.panel else {
            return false;
        };
        let last = panel.rows.len().saturating_sub(1);
        match key.code {
            KeyCode::Up => panel.scroll = panel.scroll.saturating_sub(1),
            KeyCode::Down => panel.scroll = (panel.scroll + 1).min(last),
            KeyCode::PageUp => panel.scroll = panel.scroll.saturating_sub(page),
            KeyCode::PageDown => panel.scroll = (panel.scroll + page).min(last),
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | ' ') | KeyCode::F(1) => {
                self.panel = None;
            }
            _ => {
                self.panel = None;
                return false;
            }
        }
        true
    }

    fn interrupt(&mut self) -> Option<Action> {
        let again = "press Ctrl-C again to quit";
        if self.status == Some(Status::Good(again.to_owned())) {
            return Some(Action::Command(Command::Quit));
        }
        self.panel = None;
        self.editor.take();
        self.status = Some(Status::Good(again.to_owned()));
        None
    }

    fn enter(&mut self) -> Option<Action> {
        self.status = None;
        let line = self.editor.take();
        match parse(&line) {
            Ok(command) => {
                self.scroll = 0;
                command.map(Action::Command)
            }
            Err(text) => {
                // To be corrected, not to be typed again.
                self.editor.set(line);
                self.status = Some(Status::Bad(text));
                None
            }
        }
    }

    fn page_up(&mut self, model: &Model) -> Option<Action> {
        if !self.is_at_top {
            self.scroll += self.page.max(2) / 2;
            return None;
        }
        let open = model.opened()?;
        open.has_older.then_some(Action::Older(open.number))
    }

    /// Completes the word before the cursor: a command, a user or a group.
    fn complete(&mut self, model: &Model) {
        let before = &self.editor.text()[..self.editor.cursor()];
        let start = before.rfind(' ').map_or(0, |space| space + 1);
        let word = &before[start..];
        if word.is_empty() {
            return;
        }
        let mut fitting: Vec<String> = words(model, start == 0)
            .into_iter()
            .filter(|candidate| candidate.starts_with(word))
            .collect();
        fitting.sort();
        fitting.dedup();
        let Some(common) = common_start(&fitting) else {
            return;
        };
        let missing = common[word.len()..].to_owned();
        self.editor.insert(&missing);
        if fitting.len() == 1 {
            self.editor.insert(" ");
        } else if missing.is_empty() {
            self.status = Some(Status::Good(fitting.join("  ")));
        }
    }
}

/// What a word may be: a command at the beginning of the line, somebody or something after it.
fn words(model: &Model, is_first: bool) -> Vec<String> {
    if is_first {
        return COMMANDS
            .iter()
            .map(|spec| format!("/{}", spec.name))
            .collect();
    }
    let members = model
        .conversations
        .iter()
        .flat_map(|c| users_of(&c.members));
    let people = model.people.keys().cloned().chain(members);
    let names = model.conversations.iter().filter_map(|c| c.name.clone());
    people.map(|user| short(&user)).chain(names).collect()
}

fn common_start(words: &[String]) -> Option<String> {
    let mut common = words.first()?.clone();
    for word in words {
        while !word.starts_with(&common) {
            common.pop();
        }
    }
    Some(common)
}

/// The conversation above or below the open one.
fn beside(model: &Model, by: isize) -> Option<Action> {
    let numbers: Vec<Number> = model.conversations.iter().map(|c| c.number).collect();
    let count = isize::try_from(numbers.len())
        .ok()
        .filter(|count| *count > 0)?;
    let at = numbers.iter().position(|n| Some(*n) == model.open);
    let next = match at.and_then(|at| isize::try_from(at).ok()) {
        Some(at) => (at + by).rem_euclid(count),
        None => 0,
    };
    let number = numbers.get(usize::try_from(next).ok()?)?;
    Some(Action::Command(Command::Open(number.to_string())))
}
