//! The screen as it is drawn. Nothing is decided here.

use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::messages::View;
use super::screen::{Panel, Screen, Status};
use super::style::Styles;
use super::wrap::{cut, pad, width, wrap};
use crate::chat::escape;
use crate::chat::model::{Conversation, Link, Model, Person, Standing};
use crate::chat::names::{devices_of, short, short_client};
use crate::chat::time;

/// Below this, there is no list of conversations.
const WIDTH_FOR_LIST: u16 = 64;
/// How wide it is.
const LIST: u16 = 25;
/// The highest that the line that is being written becomes.
const MAX_INPUT: u16 = 5;

/// What is drawn.
pub(crate) struct Drawing<'a> {
    pub(crate) model: &'a Model,
    pub(crate) styles: Styles,
    pub(crate) zone: &'a TimeZone,
    pub(crate) now_ms: u64,
}

impl Drawing<'_> {
    /// Draws all of it.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>, screen: &mut Screen) {
        let area = frame.area();
        let input_width = usize::from(area.width.saturating_sub(2));
        let layout = screen.editor.layout(input_width);
        let wanted = u16::try_from(layout.rows.len()).unwrap_or(MAX_INPUT);
        let input = wanted
            .min(MAX_INPUT)
            .min(area.height.saturating_sub(4).max(1));
        let [above, rule, bottom, status] = split(area, input);
        if area.width >= WIDTH_FOR_LIST {
            let list = Rect {
                width: LIST,
                ..above
            };
            let x = above.x + LIST + 1;
            let right = Rect {
                x,
                width: above.right().saturating_sub(x),
                ..above
            };
            let line = Rect {
                x: above.x + LIST,
                width: 1,
                ..above
            };
            self.list(frame, list);
            let bar = vec![Text::from("│"); usize::from(line.height)];
            frame.render_widget(Paragraph::new(bar).style(self.styles.quiet()), line);
            self.conversation(frame, right, screen);
        } else {
            self.conversation(frame, above, screen);
        }
        let dashes = "─".repeat(usize::from(rule.width));
        frame.render_widget(Paragraph::new(dashes).style(self.styles.quiet()), rule);
        self.input(frame, bottom, &layout);
        self.status(frame, status, screen);
        if let Some(panel) = &screen.panel {
            self.panel(frame, area, panel);
        }
    }

    /// The list of conversations, and of those who ask.
    fn list(&self, frame: &mut Frame<'_>, area: Rect) {
        let cells = usize::from(area.width);
        let mut rows = vec![Text::styled(
            pad(&format!(" {}", short(&self.model.me.user_id())), cells),
            self.styles.strong(),
        )];
        rows.push(Text::from(""));
        for conversation in &self.model.conversations {
            rows.push(self.entry(conversation, cells));
        }
        if self.model.conversations.is_empty() {
            rows.push(Text::styled(" no conversations yet", self.styles.quiet()));
        }
        let asking = |person: &Person| *person == Person::Asks;
        let asks: Vec<_> = self
            .model
            .people
            .iter()
            .filter(|(_, p)| asking(p))
            .collect();
        if !asks.is_empty() {
            rows.push(Text::from(""));
            rows.push(Text::styled(" asks to connect", self.styles.quiet()));
        }
        for (user, _) in asks {
            let text = cut(&format!(" ? {}", short(user)), cells);
            rows.push(Text::styled(text, self.styles.wanted()));
        }
        // The open one is to be seen.
        let at = self
            .model
            .conversations
            .iter()
            .position(|c| Some(c.number) == self.model.open);
        let height = usize::from(area.height);
        let skip = at.map_or(0, |at| (at + 3).saturating_sub(height));
        frame.render_widget(Paragraph::new(rows.split_off(skip)), area);
    }

    fn entry(&self, conversation: &Conversation, cells: usize) -> Text<'static> {
        let is_open = self.model.open == Some(conversation.number);
        let unread = match conversation.unread {
            0 => String::new(),
            count @ 1..1000 => format!(" {count} "),
            _ => " … ".to_owned(),
        };
        let mark = match conversation.standing {
            Standing::In => "",
            Standing::Waiting => " …",
            Standing::Leaving | Standing::Out => " ×",
        };
        let title = escape::line(&self.model.title(conversation));
        let number = format!("{:>2} ", conversation.number);
        let room = cells.saturating_sub(number.len() + width(&unread) + width(mark) + 1);
        let style = match (is_open, conversation.unread, conversation.standing) {
            (true, ..) => self.styles.chosen(),
            (_, 1.., _) => self.styles.strong(),
            (_, _, Standing::In | Standing::Waiting) => self.styles.plain(),
            _ => self.styles.quiet(),
        };
        let title = format!("{}{mark}", cut(&title, room));
        let room = cells.saturating_sub(number.len() + width(&unread) + 1);
        let mut spans = vec![
            Span::styled(number, if is_open { style } else { self.styles.quiet() }),
            Span::styled(pad(&title, room), style),
        ];
        if !unread.is_empty() {
            spans.push(Span::styled(
                unread,
                self.styles.wanted().patch(self.styles.chosen()),
            ));
        }
        Text::from(spans)
    }

    /// The conversation that is open, or how to begin.
    fn conversation(&self, frame: &mut Frame<'_>, area: Rect, screen: &mut Screen) {
        let Some(conversation) = self.model.opened() else {
            return self.welcome(frame, area);
        };
        let cells = usize::from(area.width);
        let head = self.head(conversation, cells);
        let heading = Rect {
            height: area.height.min(2),
            ..area
        };
        let room = Rect {
            y: area.y + heading.height,
            height: area.height - heading.height,
            ..area
        };
        frame.render_widget(Paragraph::new(head), heading);
        let view = View {
            model: self.model,
            styles: self.styles,
            zone: self.zone,
            today: time::day(self.now_ms, self.zone),
            width: cells,
        };
        let height = usize::from(room.height);
        let (rows, is_complete) = view.rows(conversation, height + screen.scroll);
        screen.page = height;
        screen.scroll = screen.scroll.min(rows.len().saturating_sub(height));
        screen.is_at_top = is_complete && screen.scroll + height >= rows.len();
        let end = rows.len() - screen.scroll;
        let start = end.saturating_sub(height);
        let shown = rows[start..end].to_vec();
        // What is there is at the bottom, beside the line that is being written.
        let missing = room
            .height
            .saturating_sub(u16::try_from(shown.len()).unwrap_or(u16::MAX));
        let place = Rect {
            y: room.y + missing,
            height: room.height - missing,
            ..room
        };
        frame.render_widget(Paragraph::new(shown), place);
    }

    /// Which conversation it is, and who is where.
    fn head(&self, conversation: &Conversation, cells: usize) -> Vec<Text<'static>> {
        let title = escape::line(&self.model.title(conversation));
        let standing = match conversation.standing {
            Standing::In => "",
            Standing::Waiting => "  not accepted yet",
            Standing::Leaving => "  you are leaving",
            Standing::Out => "  over",
        };
        let mut spans = vec![Span::styled(
            format!(
                " {}",
                cut(&title, cells.saturating_sub(width(standing) + 1))
            ),
            self.styles.strong(),
        )];
        spans.push(Span::styled(standing, self.styles.wanted()));
        let me = self.model.me.user_id();
        let mut who: Vec<String> = Vec::new();
        let mut taken = 0;
        for (user, devices) in devices_of(&conversation.members) {
            let name = if user == me {
                "you".to_owned()
            } else {
                short(&user)
            };
            let text = format!("{name} ({})", devices.join(", "));
            taken += width(&text);
            who.push(text);
            if taken > cells {
                break;
            }
        }
        let who = cut(&format!(" {}", who.join(" · ")), cells);
        vec![Text::from(spans), Text::styled(who, self.styles.quiet())]
    }

    /// For somebody who has just come.
    fn welcome(&self, frame: &mut Frame<'_>, area: Rect) {
        let me = short(&self.model.me.user_id());
        let mut lines = vec![format!("You are {me}."), String::new()];
        for (user, person) in &self.model.people {
            if *person == Person::Asks {
                let user = short(user);
                lines.push(format!("{user} asks to connect:"));
                lines.push(format!("  /accept {user}"));
                lines.push(format!("  /decline {user}"));
                lines.push(String::new());
            }
        }
        lines.extend(
            [
                "To talk with somebody, ask them to connect:",
                "  /connect USER@PROVIDER",
                "They will see that, and can /accept it.",
                "",
                "To see your conversations: /groups. To open one: /open 1",
                "F1 shows all commands and keys.",
            ]
            .map(str::to_owned),
        );
        let room = usize::from(area.width.saturating_sub(4));
        let rows: Vec<Text<'_>> = lines
            .iter()
            .flat_map(|line| wrap(line, room))
            .map(|row| Text::from(format!("  {row}")))
            .collect();
        let height = u16::try_from(rows.len()).unwrap_or(u16::MAX);
        let y = area.y + area.height.saturating_sub(height) / 2;
        let place = Rect {
            y,
            height: area.bottom().saturating_sub(y),
            ..area
        };
        frame.render_widget(Paragraph::new(rows), place);
    }

    fn input(&self, frame: &mut Frame<'_>, area: Rect, layout: &super::editor::Layout) {
        let height = usize::from(area.height);
        let (row, column) = layout.cursor;
        let skip = (row + 1).saturating_sub(height);
        let shown = layout.rows.iter().skip(skip).take(height).enumerate();
        let rows: Vec<Text<'_>> = shown
            .map(|(index, text)| {
                let lead = if index + skip == 0 { "› " } else { "  " };
                Text::from(vec![
                    Span::styled(lead, self.styles.good()),
                    Span::raw(escape::line(text)),
                ])
            })
            .collect();
        frame.render_widget(Paragraph::new(rows), area);
        let x = area.x + 2 + u16::try_from(column).unwrap_or(0);
        let y = area.y + u16::try_from(row.saturating_sub(skip)).unwrap_or(0);
        if area.contains(Position { x, y }) {
            frame.set_cursor_position(Position { x, y });
        }
    }

    /// Whether the provider is reached, and what was said last.
    fn status(&self, frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
        let cells = usize::from(area.width);
        let (dot, link, style) = match &self.model.link {
            Link::Connecting => ("○", "connecting".to_owned(), self.styles.quiet()),
            Link::Online => ("●", "online".to_owned(), self.styles.good()),
            Link::Offline(reason) => {
                let text = format!("offline, trying again ({})", escape::line(reason));
                ("○", text, self.styles.bad())
            }
        };
        let link = cut(&link, cells / 2);
        let mut spans = vec![Span::styled(format!(" {dot} {link}"), style)];
        let help = "F1 help ";
        let taken = width(&link) + 4 + help.len();
        let room = cells.saturating_sub(taken + 2);
        let (text, style) = match &screen.status {
            Some(Status::Good(text)) => (text.clone(), self.styles.plain()),
            Some(Status::Bad(text)) => (text.clone(), self.styles.bad()),
            None => (self.quiet_status(screen), self.styles.quiet()),
        };
        let text = cut(&escape::line(&text), room);
        let gap = cells.saturating_sub(taken + 2 + width(&text)) + 1;
        spans.push(Span::raw("  "));
        spans.push(Span::styled(text, style));
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(help, self.styles.quiet()));
        frame.render_widget(Paragraph::new(Text::from(spans)), area);
    }

    /// What is good to know where nothing was said.
    fn quiet_status(&self, screen: &Screen) -> String {
        if screen.scroll > 0 {
            return "PgDn for what came after".to_owned();
        }
        if self.model.under_way() > 0 {
            return "working …".to_owned();
        }
        match self.model.unsent() {
            0 => match self.model.unread() {
                0 => short_client(&self.model.me),
                count => format!("{count} unread"),
            },
            count => format!("{count} to be sent"),
        }
    }

    /// Something to read, above everything else.
    fn panel(&self, frame: &mut Frame<'_>, area: Rect, panel: &Panel) {
        let room = usize::from(area.width.saturating_sub(6));
        let columns = columns(panel);
        let mut rows: Vec<Text<'static>> = Vec::new();
        for row in &panel.rows {
            let indent: usize = columns.iter().map(|cells| cells + 2).sum();
            let indent = if indent * 2 > room { 2 } else { indent };
            let mut text = String::new();
            for (index, cell) in row.cells.iter().enumerate() {
                let cell = escape::line(cell);
                match columns.get(index) {
                    Some(cells) if index + 1 < row.cells.len() => {
                        text.push_str(&pad(&cell, *cells));
                        text.push_str("  ");
                    }
                    _ => text.push_str(&cell),
                }
            }
            let mut parts = wrap(text.trim_end(), room).into_iter();
            rows.extend(parts.next().map(Text::from));
            let rest: Vec<_> = parts.collect();
            for part in wrap(&rest.join(" "), room.saturating_sub(indent)) {
                if !part.is_empty() {
                    rows.push(Text::from(format!("{}{part}", " ".repeat(indent))));
                }
            }
        }
        let height = u16::try_from(rows.len())
            .unwrap_or(u16::MAX)
            .saturating_add(2);
        let widest = rows
            .iter()
            .map(Text::width)
            .max()
            .unwrap_or(0)
            .max(width(&panel.title) + 2);
        let wide = u16::try_from(widest).unwrap_or(u16::MAX).saturating_add(4);
        let place = centred(area, wide, height.min(area.height.saturating_sub(2)));
        let skip = panel.scroll.min(
            rows.len()
                .saturating_sub(usize::from(place.height.saturating_sub(2))),
        );
        let title = format!(" {} ", escape::line(&panel.title));
        let block = Block::bordered()
            .title(title)
            .title_bottom(" Esc closes ")
            .padding(ratatui::widgets::Padding::horizontal(1));
        frame.render_widget(Clear, place);
        frame.render_widget(Paragraph::new(rows.split_off(skip)).block(block), place);
    }
}

/// How wide the columns of a panel are, but for the last of each row.
fn columns(panel: &Panel) -> Vec<usize> {
    let mut columns: Vec<usize> = Vec::new();
    for row in &panel.rows {
        let inner = row.cells.len().saturating_sub(1);
        for (index, cell) in row.cells.iter().take(inner).enumerate() {
            let cells = width(&escape::line(cell)).min(28);
            match columns.get_mut(index) {
                Some(widest) => *widest = cells.max(*widest),
                None => columns.push(cells),
            }
        }
    }
    columns
}

/// What is above, a rule, the input and the status line. Where there is not enough room, what is
/// above goes first, then the rule.
fn split(area: Rect, input: u16) -> [Rect; 4] {
    let status = u16::from(area.height >= 2);
    let input = input.min(area.height - status);
    let rule = u16::from(area.height >= status + input + 3);
    let above = area.height - status - input - rule;
    let at = |y: u16, height: u16| Rect {
        y: area.y + y,
        height,
        ..area
    };
    [
        at(0, above),
        at(above, rule),
        at(above + rule, input),
        at(above + rule + input, status),
    ]
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}
