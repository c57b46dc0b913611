//! Does what the model says: asks the library, keeps the history, waits.

mod calls;

use std::time::Duration;

use anyhow::{Result, anyhow};
use moh_client::{Client, Clock, Event, Random};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

pub(crate) use calls::words;

use super::history::History;
use super::model::{Effect, Input, Model, Number, Report, SendResult, Write};

/// How long to wait before something is tried again, at most, in seconds.
const MAX_PAUSE_S: u64 = 60;

/// Something for the driver.
#[derive(Debug)]
pub(crate) enum Message {
    Input(Input),
    /// An event, and where to say that it was taken.
    Event(Event, oneshot::Sender<()>),
    /// The library cannot go on.
    Broken(String),
}

/// Everything behind a face.
pub(crate) struct Driver<C, R> {
    pub(crate) model: Model,
    history: History,
    client: Client,
    clock: C,
    random: R,
    to: UnboundedSender<Message>,
    from: UnboundedReceiver<Message>,
    /// The first event may be one that was taken just before the end of the last run.
    is_first: bool,
    pub(crate) is_over: bool,
}

impl<C: Clock, R: Random> Driver<C, R> {
    /// A chat that begins, or goes on; with what it has to show at once.
    ///
    /// What the library knows is asked before it is listened to: nothing can come between.
    pub(crate) async fn start(
        client: Client,
        history: History,
        (clock, random): (C, R),
        (to, from): (UnboundedSender<Message>, UnboundedReceiver<Message>),
    ) -> Result<(Self, Vec<Report>)> {
        let mut run = [0; 8];
        random.fill(&mut run);
        let kept = history.load()?;
        let model = Model::new(client.client_id().clone(), kept, hex::encode(run));
        let mut driver = Self {
            model,
            history,
            client,
            clock,
            random,
            to,
            from,
            is_first: true,
            is_over: false,
        };
        let known = calls::known(&driver.client).await?;
        let effects = driver.model.start(known);
        let reports = driver.carry_out(effects, None)?;
        let (client, to) = (driver.client.clone(), driver.to.clone());
        driver.run(listen(client, to), || {
            Message::Broken("the library broke off".to_owned())
        });
        Ok((driver, reports))
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The next thing that happens by itself. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Message {
        match self.from.recv().await {
            Some(message) => message,
            // The driver holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Takes what `next` gave; what is to be shown of it.
    pub(crate) fn take(&mut self, message: Message) -> Result<Vec<Report>> {
        match message {
            Message::Input(input) => self.input(input),
            Message::Event(event, taken) => {
                let reports = self.event(event)?;
                let _ = taken.send(());
                Ok(reports)
            }
            Message::Broken(text) => Err(anyhow!(text)),
        }
    }

    /// Takes what somebody typed, say; what is to be shown of it.
    pub(crate) fn input(&mut self, input: Input) -> Result<Vec<Report>> {
        let now_ms = self.now_ms();
        let effects = self.model.update(input, now_ms);
        self.carry_out(effects, None)
    }

    /// Reads what was before the lines of a conversation that are there.
    pub(crate) fn read_older(&mut self, number: Number) -> Result<Vec<Report>> {
        let conversation = self.model.conversation(number);
        let Some(first) = conversation.and_then(|c| c.lines.first()) else {
            return Ok(Vec::new());
        };
        let (lines, has_older) = self.history.lines(number, first.id)?;
        self.input(Input::Older {
            number,
            lines,
            has_older,
        })
    }

    fn event(&mut self, event: Event) -> Result<Vec<Report>> {
        let text = format!("{event:?}");
        let was_taken = self.is_first && self.history.was_last(&text)?;
        self.is_first = false;
        if was_taken || self.is_repeated(&event)? {
            return Ok(Vec::new());
        }
        let now_ms = self.now_ms();
        let effects = self.model.update(Input::Library(event), now_ms);
        self.carry_out(effects, Some(&text))
    }

    /// Whether it is a message that its sender has sent twice, not to lose it.
    fn is_repeated(&self, event: &Event) -> Result<bool> {
        match event {
            Event::Message {
                group,
                sender,
                content,
                ..
            } => self.history.has(group, sender, content),
            _ => Ok(false),
        }
    }

    /// What is to be kept is durable before anything else is done.
    fn carry_out(&mut self, effects: Vec<Effect>, event: Option<&str>) -> Result<Vec<Report>> {
        let writes: Vec<Write> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Write(write) => Some(write.clone()),
                _ => None,
            })
            .collect();
        self.history.write(&self.model, &writes, event)?;
        let mut reports = Vec::new();
        for effect in effects {
            match effect {
                Effect::Write(_) => {}
                Effect::Call { call, what } => {
                    let (client, to) = (self.client.clone(), self.to.clone());
                    let work = async move {
                        let result = Box::pin(calls::carry_out(&client, what)).await;
                        let _ = to.send(Message::Input(Input::Answered { call, result }));
                    };
                    self.run(work, move || {
                        let result = Err("it broke off, which is a mistake here".to_owned());
                        Message::Input(Input::Answered { call, result })
                    });
                }
                Effect::Send {
                    number,
                    id,
                    group,
                    content,
                } => {
                    let (client, to) = (self.client.clone(), self.to.clone());
                    let work = async move {
                        let result = Box::pin(calls::send(&client, &group, content)).await;
                        let _ = to.send(Message::Input(Input::Sent { number, id, result }));
                    };
                    self.run(work, move || {
                        let text = "it broke off, which is a mistake here".to_owned();
                        let result = SendResult::NotNow(text);
                        Message::Input(Input::Sent { number, id, result })
                    });
                }
                Effect::TryLater { number, failures } => {
                    self.later(failures, Input::TryAgain(number));
                }
                Effect::TakeAlongLater { failures } => self.later(failures, Input::TakeAlong),
                Effect::Report(report) => reports.push(report),
                Effect::Quit => self.is_over = true,
            }
        }
        Ok(reports)
    }

    /// Runs something beside; where it panics, that is told.
    fn run(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
        broken: impl FnOnce() -> Message + Send + 'static,
    ) {
        let to = self.to.clone();
        tokio::spawn(async move {
            if tokio::spawn(work).await.is_err() {
                let _ = to.send(broken());
            }
        });
    }

    /// Says something after a while, which grows with the failures.
    fn later(&self, failures: u32, input: Input) {
        let max_ms = 1000 * (1_u64 << failures.min(10)).min(MAX_PAUSE_S);
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        let pause = Duration::from_millis(max_ms / 2 + u64::from_be_bytes(bytes) % (max_ms / 2));
        let to = self.to.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = to.send(Message::Input(input));
        });
    }
}

/// Hands events on, each after the one before it was taken.
async fn listen(client: Client, to: UnboundedSender<Message>) {
    let mut events = client.events();
    loop {
        match Box::pin(events.next()).await {
            Ok(event) => {
                let (taken, was_taken) = oneshot::channel();
                if to.send(Message::Event(event, taken)).is_err() || was_taken.await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = to.send(Message::Broken(calls::words(&error)));
                return;
            }
        }
    }
}
