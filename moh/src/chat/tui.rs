//! The chat on a full screen.

mod draw;
mod editor;
mod messages;
mod screen;
mod style;
#[cfg(test)]
mod tests;
mod wrap;

use std::io::{BufRead, Write, stdout};
use std::time::Duration;

use anyhow::Result;
use jiff::tz::TimeZone;
use moh_client::{Clock, Random};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyEventKind,
};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::account::Asks;
use super::driver::Driver;
use super::model::{Input, Report};
use draw::Drawing;
use screen::{Action, Screen};
use style::Styles;

type Screenful = Terminal<CrosstermBackend<std::io::Stdout>>;

/// Questions before the screen is taken.
pub(crate) struct Questions;

impl Asks for Questions {
    async fn ask(&mut self, text: &str) -> Option<String> {
        for line in text.lines() {
            println!("{}", super::escape::line(line));
        }
        print!("> ");
        stdout().flush().ok()?;
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            read.ok().filter(|count| *count > 0).map(|_| line)
        });
        read.await.ok()?
    }
}

/// The terminal, which is put back as it was when this is dropped, or when something panics.
struct Taken {
    terminal: Screenful,
}

impl Taken {
    fn take() -> Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // What another thread does, the chat outlives.
            if std::thread::current().name() == Some("main") {
                give_back();
                before(panic);
            } else {
                tracing::error!(%panic, "a task broke off");
            }
        }));
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)
            .inspect_err(|_| give_back())?;
        let terminal =
            Terminal::new(CrosstermBackend::new(stdout())).inspect_err(|_| give_back())?;
        Ok(Self { terminal })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// The terminal as it was. What cannot be put back stays: there is nobody to tell.
fn give_back() {
    let _ = execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen);
    let _ = execute!(stdout(), ratatui::crossterm::cursor::Show);
    let _ = disable_raw_mode();
}

/// Keys, from a thread of their own: the wait for them must not hold up the end.
fn keys() -> UnboundedReceiver<Event> {
    let (to, from) = unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if to.send(event).is_err() {
                break;
            }
        }
    });
    from
}

/// Until the user quits, or a signal says so.
pub(crate) async fn run<C: Clock, R: Random>(
    mut driver: Driver<C, R>,
    reports: Vec<Report>,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut screen = Screen::default();
    screen.report(reports, &driver.model);
    let (styles, zone) = (Styles::of_environment(), TimeZone::system());
    let mut taken = Taken::take()?;
    let mut keys = keys();
    // The day changes, and nothing else says so.
    let mut minute = tokio::time::interval(Duration::from_secs(60));
    while !driver.is_over {
        let now_ms = driver.now_ms();
        taken.terminal.draw(|frame| {
            let drawing = Drawing {
                model: &driver.model,
                styles,
                zone: &zone,
                now_ms,
            };
            drawing.draw(frame, &mut screen);
        })?;
        let reports = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
            _ = minute.tick() => Vec::new(),
            message = driver.next() => driver.take(message)?,
            event = keys.recv() => match event {
                Some(event) => typed(&mut driver, &mut screen, &mut taken, event)?,
                None => break,
            },
        };
        screen.report(reports, &driver.model);
    }
    Ok(())
}

fn typed<C: Clock, R: Random>(
    driver: &mut Driver<C, R>,
    screen: &mut Screen,
    taken: &mut Taken,
    event: Event,
) -> Result<Vec<Report>> {
    let action = match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => screen.key(key, &driver.model),
        Event::Paste(text) => {
            screen.paste(&text);
            None
        }
        _ => None,
    };
    match action {
        Some(Action::Command(command)) => {
            let open = driver.model.open;
            let reports = driver.input(Input::Command(command))?;
            if driver.model.open != open {
                screen.scroll = 0;
            }
            Ok(reports)
        }
        Some(Action::Older(number)) => driver.read_older(number),
        Some(Action::Redraw) => {
            taken.terminal.clear()?;
            Ok(Vec::new())
        }
        None => Ok(Vec::new()),
    }
}
