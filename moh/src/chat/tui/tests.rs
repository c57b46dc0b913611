//! The screen, drawn without a terminal, and keys.

use jiff::tz::TimeZone;
use moh_client::Event;
use moh_messages::{ClientId, GroupId};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::draw::Drawing;
use super::screen::{Action, Screen, Status};
use super::style::Styles;
use crate::chat::command::{Command, parse};
use crate::chat::content::Content;
use crate::chat::model::{Conversation, Effect, Input, Kept, Known, Link, Model, Report};

const NOW_MS: u64 = 1_795_467_909_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

struct Chat {
    model: Model,
    screen: Screen,
    colours: bool,
}

fn client(name: &str) -> ClientId {
    format!("mimi://a.example/d/{name}").parse().unwrap()
}

fn group(number: u8) -> GroupId {
    GroupId::new(vec![number]).unwrap()
}

impl Chat {
    fn new() -> Self {
        Self::with_groups(0)
    }

    fn with_groups(count: u8) -> Self {
        let mut kept = Kept::default();
        for number in 1..=count {
            let mut conversation = Conversation::new(number.into(), group(number));
            conversation.name = Some(format!("group {}", char::from(b'A' + number - 1)));
            conversation.members = vec![client("alice/phone"), client("bob/pc")];
            kept.conversations.push(conversation);
        }
        let mut chat = Self {
            model: Model::new(client("alice/phone"), kept, "run".to_owned()),
            screen: Screen::default(),
            colours: true,
        };
        chat.model.start(Known::default());
        chat.input(Input::Link(Link::Online));
        if count > 0 {
            chat.typed("/open 1");
        }
        chat.screen.status = None;
        chat
    }

    fn input_at(&mut self, input: Input, now_ms: u64) -> Vec<Effect> {
        let effects = self.model.update(input, now_ms);
        let reports = effects.iter().filter_map(|effect| match effect {
            Effect::Report(report) => Some(report.clone()),
            _ => None,
        });
        let reports: Vec<Report> = reports.collect();
        self.screen.report(reports, &self.model);
        effects
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        self.input_at(input, NOW_MS)
    }

    fn typed(&mut self, line: &str) {
        self.input(Input::Command(parse(line).unwrap().unwrap()));
    }

    fn message(&mut self, from: &str, number: u8, text: &str, at_ms: u64) {
        self.input(Input::Library(Event::Message {
            group: group(number),
            sender: client(from),
            content: Content::text("id", text).encode(),
            epoch: 1,
            received_at: at_ms,
        }));
    }

    fn key(&mut self, code: KeyCode, modifiers: KeyModifiers) -> Option<Action> {
        self.screen.key(KeyEvent::new(code, modifiers), &self.model)
    }

    fn press(&mut self, code: KeyCode) -> Option<Action> {
        self.key(code, KeyModifiers::NONE)
    }

    fn write(&mut self, text: &str) {
        for c in text.chars() {
            assert_eq!(self.press(KeyCode::Char(c)), None);
        }
    }

    fn draw(&mut self, width: u16, height: u16) -> (Buffer, (u16, u16)) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let drawing = Drawing {
            model: &self.model,
            styles: Styles {
                colours: self.colours,
            },
            zone: &TimeZone::UTC,
            now_ms: NOW_MS,
        };
        terminal
            .draw(|frame| drawing.draw(frame, &mut self.screen))
            .unwrap();
        let cursor = terminal.get_cursor_position().unwrap();
        (terminal.backend().buffer().clone(), (cursor.x, cursor.y))
    }

    fn rows(&mut self, width: u16, height: u16) -> Vec<String> {
        let (buffer, _) = self.draw(width, height);
        rows(&buffer)
    }
}

/// The rows of a screen. What follows a wide character is covered by it.
fn rows(buffer: &Buffer) -> Vec<String> {
    let row = |y: u16| {
        let mut text = String::new();
        let mut covered = 0;
        for x in 0..buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            if covered == 0 {
                text.push_str(symbol);
                covered = super::wrap::width(symbol).max(1);
            }
            covered -= 1;
        }
        text.trim_end().to_owned()
    };
    (0..buffer.area.height).map(row).collect()
}

fn talk() -> Chat {
    let mut chat = Chat::with_groups(2);
    chat.message("bob/pc", 1, "Hello from yesterday", NOW_MS - DAY_MS);
    chat.message(
        "bob/pc",
        1,
        "Hello 日本, this is a line that does not fit into one row",
        NOW_MS,
    );
    chat.message("bob/pc", 1, "and one more", NOW_MS);
    chat.typed("my answer");
    chat.message("bob/pc", 2, "unread", NOW_MS);
    chat.screen.status = None;
    chat
}

#[test]
fn a_conversation_looks_like_this() {
    let mut chat = talk();
    chat.write("draft");
    let wanted = "
 alice@a.example         │ group A
                         │ you (phone) · bob@a.example (pc)
 1 group A               │
 2 group B            1  │
                         │     ──────────── Yesterday ────────────
                         │ 21:05 bob Hello from yesterday
                         │       ──────────── Today ────────────
                         │ 21:05 bob Hello 日本, this is a line that
                         │           does not fit into one row
                         │           and one more
                         │       you my answer …
────────────────────────────────────────────────────────────────────────
› draft
 ● online  1 to be sent                                         F1 help";
    let shown = chat.rows(72, 14).join("\n");
    assert_eq!(shown, wanted[1..], "\n{shown}");
}

#[test]
fn no_size_is_too_small() {
    let mut empty = Chat::new();
    let mut chat = talk();
    chat.screen.paste("日本日本日本 a\nb\nc\nd\ne\nf\ng");
    let mut panel = talk();
    panel.typed("/help");
    for width in 0..=80 {
        for height in 0..=16 {
            for chat in [&mut empty, &mut chat, &mut panel] {
                let (buffer, (x, y)) = chat.draw(width, height);
                assert_eq!((buffer.area.width, buffer.area.height), (width, height));
                assert!(x <= width && y <= height);
            }
        }
    }
}

#[test]
fn control_characters_of_others_do_not_get_to_the_terminal() {
    let evil = "x\x1b]0;pwned\x07\x1b[2J\u{9b}31m\u{202e}y\u{2028}z\x08";
    let mut chat = Chat::with_groups(1);
    chat.message("bob/pc", 1, evil, NOW_MS);
    chat.input(Input::Library(Event::Message {
        group: group(1),
        sender: client("bob/pc"),
        content: Content::name("id", evil).encode(),
        epoch: 1,
        received_at: NOW_MS,
    }));
    chat.screen.status = Some(Status::Bad(evil.to_owned()));
    chat.input(Input::Link(Link::Offline(evil.to_owned())));
    let mut seen = chat.rows(120, 20).join("\n");
    chat.screen.status = None;
    chat.typed("/history");
    seen.push_str(&chat.rows(120, 20).join("\n"));
    let raw = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2028}".contains(c);
    assert!(!seen.contains(raw), "{seen:?}");
    assert!(seen.contains("x\\u{1b}]0;pwned\\u{7}\\u{1b}[2J\\u{9b}31m\\u{202e}y\\u{2028}z\\u{8}"));
}

#[test]
fn colours_fit_light_and_dark_and_can_be_left_out() {
    let mut chat = talk();
    chat.input(Input::Link(Link::Offline("no route".to_owned())));
    let colours = |chat: &mut Chat| {
        let (buffer, _) = chat.draw(80, 20);
        let cells = buffer.content().iter();
        let mut colours: Vec<Color> = cells.flat_map(|cell| [cell.fg, cell.bg]).collect();
        colours.sort_by_key(|colour| colour.to_string());
        colours.dedup();
        colours
    };
    let used = colours(&mut chat);
    let fitting = [
        Color::Reset,
        Color::Cyan,
        Color::Magenta,
        Color::Green,
        Color::Red,
    ];
    assert!(
        used.len() > 2 && used.iter().all(|c| fitting.contains(c)),
        "{used:?}"
    );
    chat.colours = false;
    assert_eq!(colours(&mut chat), [Color::Reset]);
}

#[test]
fn the_cursor_is_where_the_next_character_goes() {
    let mut chat = Chat::with_groups(1);
    chat.write("日本x");
    assert_eq!(chat.draw(40, 10).1, (2 + 5, 8));
    chat.press(KeyCode::Left);
    chat.press(KeyCode::Left);
    assert_eq!(chat.draw(40, 10).1, (2 + 2, 8));
    // A line that does not fit goes on in the next row.
    chat.press(KeyCode::End);
    chat.write(&"y".repeat(40));
    assert_eq!(chat.draw(40, 10).1, (2 + 7, 8));
}

#[test]
fn what_is_new_is_marked_where_a_conversation_is_opened() {
    let mut chat = talk();
    let is_marked = |chat: &mut Chat| chat.rows(72, 14).join("\n").contains("─ new ─");
    chat.typed("/open 2");
    // Where all of it is new, that need not be said.
    assert!(!is_marked(&mut chat));
    chat.typed("/open 1");
    chat.message("bob/pc", 2, "not read either", NOW_MS);
    chat.typed("/open 2");
    let shown = chat.rows(72, 14).join("\n");
    let at = |text: &str| shown.find(text).expect(text);
    assert!(at("bob unread") < at("─ new ─") && at("─ new ─") < at("not read either"));
    // Whoever answers has read it.
    chat.typed("an answer");
    assert!(!is_marked(&mut chat));
}

#[test]
fn one_reads_back_and_comes_back() {
    let mut chat = Chat::with_groups(1);
    for number in 0..100 {
        chat.message("bob/pc", 1, &format!("message {number}."), NOW_MS);
    }
    let has = |chat: &mut Chat, text: &str| chat.rows(80, 14).join("\n").contains(text);
    assert!(has(&mut chat, "message 99.") && !has(&mut chat, "message 50."));
    for _ in 0..100 {
        chat.press(KeyCode::PageUp);
        chat.rows(80, 14);
    }
    assert!(has(&mut chat, "message 0.") && !has(&mut chat, "message 99."));
    assert!(has(&mut chat, "PgDn"));
    for _ in 0..100 {
        chat.press(KeyCode::PageDown);
        chat.rows(80, 14);
    }
    assert!(has(&mut chat, "message 99."));
    // There is nothing before what is there, or there is.
    chat.model.conversations[0].has_older = true;
    let mut actions = Vec::new();
    for _ in 0..100 {
        actions.extend(chat.press(KeyCode::PageUp));
        chat.rows(80, 14);
    }
    assert_eq!(actions.first(), Some(&Action::Older(1)));
}

#[test]
fn what_is_entered_is_a_command_and_mistakes_can_be_corrected() {
    let mut chat = Chat::with_groups(1);
    chat.write("hello");
    let say = Command::Say("hello".to_owned());
    assert_eq!(chat.press(KeyCode::Enter), Some(Action::Command(say)));
    assert_eq!(chat.screen.editor.text(), "");
    chat.write("/conect bob");
    assert_eq!(chat.press(KeyCode::Enter), None);
    assert_eq!(chat.screen.editor.text(), "/conect bob");
    assert!(matches!(chat.screen.status, Some(Status::Bad(_))));
    assert!(chat.rows(80, 10)[9].contains("there is no /conect"));
}

#[test]
fn names_and_commands_are_completed() {
    let mut chat = Chat::with_groups(1);
    chat.write("/conn");
    chat.press(KeyCode::Tab);
    assert_eq!(chat.screen.editor.text(), "/connect ");
    chat.write("b");
    chat.press(KeyCode::Tab);
    assert_eq!(chat.screen.editor.text(), "/connect bob@a.example ");
    chat.screen.editor.take();
    chat.write("/re");
    chat.press(KeyCode::Tab);
    let fitting = "/remove  /rename  /retry".to_owned();
    assert_eq!(chat.screen.status, Some(Status::Good(fitting)));
    chat.write("zzz");
    chat.press(KeyCode::Tab);
    assert_eq!(chat.screen.editor.text(), "/rezzz");
}

#[test]
fn conversations_are_reached_by_keys() {
    let mut chat = Chat::with_groups(3);
    let open = |n: &str| Some(Action::Command(Command::Open(n.to_owned())));
    assert_eq!(chat.key(KeyCode::Char('3'), KeyModifiers::ALT), open("3"));
    assert_eq!(chat.key(KeyCode::Down, KeyModifiers::ALT), open("2"));
    assert_eq!(chat.key(KeyCode::Up, KeyModifiers::ALT), open("3"));
    assert_eq!(
        chat.key(KeyCode::Char('n'), KeyModifiers::CONTROL),
        open("2")
    );
}

#[test]
fn a_panel_is_read_and_closed_and_typing_goes_on() {
    let mut chat = Chat::with_groups(1);
    chat.typed("/help");
    let shown = chat.rows(90, 12).join("\n");
    assert!(shown.contains("/connect USER") && shown.contains("Esc closes"));
    for _ in 0..60 {
        chat.press(KeyCode::Down);
    }
    assert!(chat.rows(90, 12).join("\n").contains("Ctrl-C twice"));
    chat.press(KeyCode::Esc);
    assert!(chat.screen.panel.is_none());
    chat.typed("/members");
    assert!(
        chat.rows(90, 12)
            .join("\n")
            .contains("bob@a.example    a.example")
    );
    chat.write("x");
    assert!(chat.screen.panel.is_none());
    assert_eq!(chat.screen.editor.text(), "x");
}

#[test]
fn nobody_quits_by_mistake() {
    let mut chat = Chat::with_groups(1);
    let ctrl_c = |chat: &mut Chat| chat.key(KeyCode::Char('c'), KeyModifiers::CONTROL);
    chat.write("draft");
    assert_eq!(ctrl_c(&mut chat), None);
    assert_eq!(chat.screen.editor.text(), "");
    chat.write("x");
    chat.press(KeyCode::Enter);
    assert_eq!(ctrl_c(&mut chat), None);
    assert_eq!(ctrl_c(&mut chat), Some(Action::Command(Command::Quit)));
}

#[test]
fn who_asks_is_seen_without_any_conversation() {
    let mut chat = Chat::new();
    let peer = "mimi://b.example/u/bob".parse().unwrap();
    let event = Event::ConnectionRequested {
        peer,
        group: group(9),
        received_at: NOW_MS,
    };
    chat.input(Input::Library(event));
    let shown = chat.rows(100, 20).join("\n");
    assert!(shown.contains("? bob@b.example"), "{shown}");
    assert!(
        shown.contains("asks to connect: /accept or /decline"),
        "{shown}"
    );
    assert!(shown.contains("You are alice@a.example."), "{shown}");
}

#[test]
fn what_is_too_long_is_said_or_cut() {
    let mut chat = Chat::with_groups(1);
    chat.screen.paste(&"x".repeat(40 * 1024));
    assert_eq!(chat.screen.editor.text(), "");
    assert!(chat.rows(80, 10)[9].contains("too long"));
    chat.message("bob/pc", 1, &"ä".repeat(20 * 1024), NOW_MS);
    let shown = chat.rows(80, 10).join("\n");
    assert!(shown.contains("(24576 bytes more)"), "{shown}");
}

#[test]
fn nobody_else_is_called_you() {
    let mut chat = Chat::with_groups(1);
    chat.message("you/pc", 1, "trust me", NOW_MS);
    assert!(
        chat.rows(80, 10)
            .join("\n")
            .contains("you@a.example trust me")
    );
}
