//! A conversation as rows of the screen.

use std::collections::{HashMap, HashSet};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use moh_messages::{ClientId, UserId};
use ratatui::text::{Line as Text, Span};

use super::style::Styles;
use super::wrap::{pad, width, wrap};
use crate::chat::escape;
use crate::chat::model::{Conversation, Line, LineBody, Model, Sending};
use crate::chat::names::{short, users_of};
use crate::chat::time;

/// Below this, times are left out.
const WIDTH_FOR_TIMES: usize = 40;
/// How much of a message is shown.
const MAX_SHOWN_BYTES: usize = 16 * 1024;
/// The widest column of names.
const MAX_NAME: usize = 16;

/// What rows are made with.
pub(crate) struct View<'a> {
    pub(crate) model: &'a Model,
    pub(crate) styles: Styles,
    pub(crate) zone: &'a TimeZone,
    pub(crate) today: Date,
    pub(crate) width: usize,
}

impl View<'_> {
    /// The last rows of a conversation, at least `count` where there are so many, and whether
    /// the first one is among them.
    pub(crate) fn rows(
        &self,
        conversation: &Conversation,
        count: usize,
    ) -> (Vec<Text<'static>>, bool) {
        let lines = &conversation.lines;
        let names = self.names(conversation);
        let mut blocks: Vec<Vec<Text<'static>>> = Vec::new();
        let mut total = 0;
        let mut is_complete = true;
        for (index, line) in lines.iter().enumerate().rev() {
            if total >= count {
                is_complete = false;
                break;
            }
            let before = index.checked_sub(1).and_then(|index| lines.get(index));
            let block = self.block(conversation, &names, before, line);
            total += block.len();
            blocks.push(block);
        }
        if is_complete && conversation.has_older {
            blocks.push(vec![self.rule("PgUp for what was before")]);
        }
        (blocks.into_iter().rev().flatten().collect(), is_complete)
    }

    /// A line, with what separates it from the one before.
    fn block(
        &self,
        conversation: &Conversation,
        names: &Names,
        before: Option<&Line>,
        line: &Line,
    ) -> Vec<Text<'static>> {
        let day = time::day(line.at_ms, self.zone);
        let is_new_day = before.is_none_or(|before| time::day(before.at_ms, self.zone) != day);
        let mut rows = Vec::new();
        if is_new_day {
            rows.push(self.rule(&time::day_name(day, self.today)));
        }
        let is_after = |divider: i64| line.id > divider && before.is_some_and(|b| b.id <= divider);
        let is_divided = conversation.divider.is_some_and(is_after);
        if is_divided {
            rows.push(self.rule("new"));
        }
        let follows =
            !is_new_day && !is_divided && before.is_some_and(|before| goes_on(before, line));
        let is_new_minute =
            is_new_day || before.is_none_or(|before| before.at_ms / 60_000 != line.at_ms / 60_000);
        rows.extend(self.line(names, line, follows, is_new_minute));
        rows
    }

    /// `──── text ────`
    fn rule(&self, text: &str) -> Text<'static> {
        let side = self.width.saturating_sub(width(text) + 2) / 2;
        let dashes = "─".repeat(side.min(12));
        let indent = " ".repeat(side - side.min(12));
        let quiet = self.styles.quiet();
        Text::from(Span::styled(
            format!("{indent}{dashes} {text} {dashes}"),
            quiet,
        ))
    }

    fn line(
        &self,
        names: &Names,
        line: &Line,
        follows: bool,
        is_new_minute: bool,
    ) -> Vec<Text<'static>> {
        let at = match (self.width >= WIDTH_FOR_TIMES, is_new_minute) {
            (true, true) => format!(" {} ", time::clock(line.at_ms, self.zone)),
            (true, false) => " ".repeat(7),
            (false, _) => " ".to_owned(),
        };
        let quiet = self.styles.quiet();
        match &line.body {
            LineBody::Event(text) => {
                let lead = vec![
                    Span::styled(at, quiet),
                    Span::styled(format!("{} ", pad_left("·", names.column)), quiet),
                ];
                let lines = vec![escape::line(text)];
                self.spread(lead, lines, Vec::new(), quiet)
            }
            LineBody::Said {
                sender,
                text,
                sending,
                ..
            } => {
                let name = if follows {
                    String::new()
                } else {
                    names.of(sender)
                };
                let style = match sending {
                    None => self.styles.name(names.place(sender)),
                    Some(_) => self.styles.strong(),
                };
                let lead = vec![
                    Span::styled(at, quiet),
                    Span::styled(pad_left(&name, names.column), style),
                    Span::raw(" "),
                ];
                let tail = self.tail(sending.as_ref());
                self.spread(
                    lead,
                    escape::lines(&begin_of(text)),
                    tail,
                    self.styles.plain(),
                )
            }
        }
    }

    /// What became of a message of this user.
    fn tail(&self, sending: Option<&Sending>) -> Vec<Span<'static>> {
        match sending {
            None => Vec::new(),
            Some(Sending::UnderWay) => vec![Span::styled(" …", self.styles.quiet())],
            Some(Sending::Sent) => vec![Span::styled(" ✓", self.styles.good())],
            Some(Sending::Failed(reason)) => {
                let text = format!(" ✗ not sent: {}", escape::line(reason));
                vec![Span::styled(text, self.styles.bad())]
            }
        }
    }

    /// Lines of text beside what leads them in.
    fn spread(
        &self,
        lead: Vec<Span<'static>>,
        lines: Vec<String>,
        tail: Vec<Span<'static>>,
        style: ratatui::style::Style,
    ) -> Vec<Text<'static>> {
        let indent: usize = lead.iter().map(|span| width(&span.content)).sum();
        let room = self.width.saturating_sub(indent).max(1);
        let mut wrapped: Vec<String> = lines.iter().flat_map(|line| wrap(line, room)).collect();
        let mut rows = Vec::new();
        let mut lead = Some(lead);
        let last = wrapped.pop().unwrap_or_default();
        let begin = |lead: &mut Option<Vec<Span<'static>>>| {
            lead.take()
                .unwrap_or_else(|| vec![Span::raw(" ".repeat(indent))])
        };
        for text in wrapped {
            let mut spans = begin(&mut lead);
            spans.push(Span::styled(text, style));
            rows.push(Text::from(spans));
        }
        let mut spans = begin(&mut lead);
        let mut taken = width(&last);
        spans.push(Span::styled(last, style));
        for span in tail {
            for (index, part) in wrap(&span.content, room.saturating_sub(taken).max(8))
                .into_iter()
                .enumerate()
            {
                if index > 0 || taken + width(&part) > room {
                    rows.push(Text::from(std::mem::take(&mut spans)));
                    spans.push(Span::raw(" ".repeat(indent)));
                    taken = 0;
                }
                taken += width(&part);
                spans.push(Span::styled(part, span.style));
            }
        }
        rows.push(Text::from(spans));
        rows
    }

    fn names(&self, conversation: &Conversation) -> Names {
        let me = self.model.me.user_id();
        let mut users = users_of(&conversation.members);
        let mut seen: HashSet<UserId> = users.iter().cloned().collect();
        for line in &conversation.lines {
            if let LineBody::Said { sender, .. } = &line.body {
                let user = sender.user_id();
                if seen.insert(user.clone()) {
                    users.push(user);
                }
            }
        }
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for user in &users {
            *counts.entry(user.user()).or_default() += 1;
        }
        let mut known = HashMap::new();
        let mut widest = 0;
        for user in &users {
            // Nobody else is called `you`.
            let is_plain = counts.get(user.user()) == Some(&1) && user.user() != "you";
            let name = match (*user == me, is_plain) {
                (true, _) => "you".to_owned(),
                (false, true) => user.user().to_owned(),
                (false, false) => short(user),
            };
            widest = widest.max(width(&name));
            known.insert(user.clone(), (name, known.len()));
        }
        let limit = if self.width >= WIDTH_FOR_TIMES {
            MAX_NAME
        } else {
            self.width / 4
        };
        Names {
            known,
            column: widest.clamp(3, limit.max(3)),
        }
    }
}

/// What people are called in a conversation, and how wide the column of that is.
struct Names {
    /// With which of them it is, so that they can be told apart.
    known: HashMap<UserId, (String, usize)>,
    column: usize,
}

impl Names {
    fn of(&self, client: &ClientId) -> String {
        let user = client.user_id();
        let found = self.known.get(&user);
        found.map_or_else(|| short(&user), |(name, _)| name.clone())
    }

    fn place(&self, client: &ClientId) -> usize {
        self.known
            .get(&client.user_id())
            .map_or(0, |(_, place)| *place)
    }
}

/// As much of a text as is shown of one message.
fn begin_of(text: &str) -> String {
    if text.len() <= MAX_SHOWN_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_SHOWN_BYTES);
    format!("{}… ({} bytes more)", &text[..end], text.len() - end)
}

fn pad_left(text: &str, cells: usize) -> String {
    let text = pad(text, cells);
    let trimmed = text.trim_end();
    format!("{}{trimmed}", " ".repeat(text.len() - trimmed.len()))
}

/// Whether it is of the same sender, within a few minutes.
fn goes_on(before: &Line, line: &Line) -> bool {
    match (&before.body, &line.body) {
        (LineBody::Said { sender: a, .. }, LineBody::Said { sender: b, .. }) => {
            a.user_id() == b.user_id() && line.at_ms.abs_diff(before.at_ms) < 5 * 60_000
        }
        _ => false,
    }
}
