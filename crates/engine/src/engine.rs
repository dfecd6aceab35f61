//! The loop: commands in, forward passes, events out.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{Command, Event, Generate, Input};
use threadrunner_core::scheduler::{
    Drafts, Output, ParkedStates, Request, SavedStates, Scheduler, Step,
};
use threadrunner_core::{
    BackendError, ErrorCode, ExitCode, Failure, Interrupt, Message, ModelBackend, Parameters,
    Timings,
};

use crate::caught::unless_it_panics;
use crate::coalesce::Coalescer;
use crate::input::Received;
use crate::output::EventWriter;
use crate::pass_times::PassTimes;
use crate::state::States;
use crate::watch::{Kind, Watch, Work};

/// How much longer the text that a template makes may be than what was said, and bytes beside that.
const TEMPLATE_LENGTH: (usize, usize) = (8, 1 << 20);
/// How many commands are taken in between two forward passes, so that a flood of them does not
/// hold up those who are being answered.
const COMMANDS_PER_STEP: usize = 64;

/// How long nothing is asked for before sessions are saved: the next turn of one that is talked to
/// by a program comes sooner.
const QUIET: Duration = Duration::from_secs(1);

/// Why an engine ended that the daemon did not end.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The daemon does not read any more.
    #[error("the daemon is gone: {0}")]
    DaemonGone(#[from] io::Error),
    /// A command that this protocol does not allow here.
    #[error("the daemon broke the protocol: {0}")]
    Protocol(String),
    /// The backend is in no state to go on. Every request was told.
    #[error("the backend broke down: {0}")]
    Broken(Failure),
}

impl EngineError {
    /// What the process exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::DaemonGone(_) => ExitCode::Success,
            Self::Protocol(_) => ExitCode::Connection,
            Self::Broken(failure) => failure.code.exit_code(),
        }
    }
}

/// One loaded model, and those who are being answered by it.
pub struct Engine<'a, W> {
    backend: &'a mut dyn ModelBackend,
    events: &'a mut EventWriter<W>,
    scheduler: Scheduler,
    clocks: HashMap<u64, Clock>,
    outputs: Vec<Output>,
    coalescer: Coalescer,
    pass_times: PassTimes,
    interrupt: Interrupt,
    watch: Watch,
    states: Option<States>,
    parked: ParkedStates,
    /// Whether there is something to save: what the reader asks when the stream has ended.
    unsaved: Arc<AtomicBool>,
}

/// When things happened to a request.
#[derive(Debug)]
struct Clock {
    received: Instant,
    first_token: Option<Instant>,
}

impl<'a, W: Write> Engine<'a, W> {
    /// An engine with nothing to do.
    pub fn new(backend: &'a mut dyn ModelBackend, events: &'a mut EventWriter<W>) -> Self {
        let scheduler = Scheduler::new(backend.info());
        Self {
            backend,
            events,
            scheduler,
            clocks: HashMap::new(),
            outputs: Vec::new(),
            coalescer: Coalescer::default(),
            pass_times: PassTimes::default(),
            interrupt: Interrupt::default(),
            watch: Watch::default(),
            states: None,
            parked: ParkedStates::default(),
            unsaved: Arc::default(),
        }
    }

    /// The same, whose long forward passes end early when `interrupt` asks.
    #[must_use]
    pub fn interrupted_by(mut self, interrupt: Interrupt) -> Self {
        self.backend.listen_to(interrupt.clone());
        self.interrupt = interrupt;
        self
    }

    /// The same, whose work may take no longer than `watch` allows.
    #[must_use]
    pub fn watched_by(mut self, watch: Watch) -> Self {
        self.watch = watch;
        self
    }

    /// The same, which saves sessions and restores them, and says in `unsaved` whether it has any
    /// that are not saved.
    #[must_use]
    pub fn keeping(mut self, states: Option<States>, unsaved: Arc<AtomicBool>) -> Self {
        (self.states, self.unsaved) = (states, unsaved);
        self
    }

    /// Serves until there can be no more commands, and then saves what sessions are not saved.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn run(&mut self, commands: &Receiver<Received>) -> Result<(), EngineError> {
        let end = self.serve(commands);
        if !matches!(end, Err(EngineError::Broken(_))) {
            self.save_all();
        }
        end
    }

    fn serve(&mut self, commands: &Receiver<Received>) -> Result<(), EngineError> {
        loop {
            if self.scheduler.is_idle() {
                self.write(Duration::MAX)?;
                match self.wait(commands) {
                    Some(received) => self.take_in(received)?,
                    None => return Ok(()),
                }
            }
            // What was asked for so far is among the commands that are taken in now.
            self.interrupt.clear();
            for _ in 0..COMMANDS_PER_STEP {
                match commands.try_recv() {
                    Ok(received) => self.take_in(received)?,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.say_what_is_unsaved();
            let step = self.plan();
            // Those who were canceled or refused need not wait for the forward pass, nor does
            // text that would be late after it.
            self.write(self.expected_time(&step))?;
            self.carry_out(step);
            self.write(Duration::ZERO)?;
            if let Some(failure) = self.scheduler.broken().cloned() {
                self.write(Duration::MAX)?;
                return Err(EngineError::Broken(failure));
            }
        }
    }

    /// Writes the events that are due, where the next chance to is so much later.
    fn write(&mut self, next_chance: Duration) -> io::Result<()> {
        for event in self.coalescer.take(Instant::now(), next_chance) {
            self.events.push(&event);
        }
        self.events.flush()
    }

    /// The next command; `None` where there will be none. When it does not come for a while, the
    /// time is used to save sessions, one after the other.
    fn wait(&mut self, commands: &Receiver<Received>) -> Option<Received> {
        let mut patience = QUIET;
        while self.scheduler.has_unsaved() {
            match commands.recv_timeout(patience) {
                Ok(received) => return Some(received),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.save_one(),
            }
            patience = Duration::ZERO;
        }
        self.say_what_is_unsaved();
        commands.recv().ok()
    }

    fn save_one(&mut self) {
        if let Some(step) = self.scheduler.save_next() {
            self.carry_out(step);
        }
    }

    /// Ends all requests, for there is nobody to be answered, and saves the sessions, that of the
    /// last turn first.
    fn save_all(&mut self) {
        if !self.scheduler.has_unsaved() && !self.scheduler.has_sessions() {
            return;
        }
        let running: Vec<u64> = self.clocks.keys().copied().collect();
        for id in running {
            self.scheduler.cancel(id, &mut self.outputs);
        }
        // Those that are saved as they end.
        if !self.scheduler.is_idle() {
            let step = self.plan();
            self.carry_out(step);
        }
        while self.scheduler.has_unsaved() {
            self.save_one();
        }
        self.say_what_is_unsaved();
    }

    fn say_what_is_unsaved(&self) {
        if self.states.is_some() {
            let unsaved = self.scheduler.has_unsaved() || self.scheduler.has_sessions();
            self.unsaved.store(unsaved, Ordering::Release);
        }
    }

    fn take_in(&mut self, received: Received) -> Result<(), EngineError> {
        match received.command {
            Command::Load(_) | Command::Size(_) => {
                Err(EngineError::Protocol("a second load".into()))
            }
            Command::Generate(generate) => self.generate(*generate, received.at),
            Command::Cancel { id } => {
                self.scheduler.cancel(id, &mut self.outputs);
                self.tell();
                Ok(())
            }
            Command::Unknown => Ok(()),
            Command::Stream { id } => {
                self.coalescer.follow(id);
                Ok(())
            }
        }
    }

    fn generate(&mut self, generate: Generate, received: Instant) -> Result<(), EngineError> {
        let Generate { id, stream, .. } = generate;
        if self.clocks.contains_key(&id) {
            // Two of one id could never be told apart again.
            return Err(EngineError::Protocol(format!("request {id} is running already")));
        }
        let accepted =
            self.tokenize(generate).and_then(|request| Ok(self.scheduler.submit(request)?));
        match accepted {
            Ok(()) => {
                self.clocks.insert(id, Clock { received, first_token: None });
                self.coalescer.begin(id, stream);
            }
            Err(error) => {
                let failed = Event::Failed { id, failure: error.into_failure() };
                self.coalescer.push(failed, Instant::now());
            }
        }
        Ok(())
    }

    fn tokenize(&self, generate: Generate) -> Result<Request, BackendError> {
        let params = generate.params;
        params
            .validate()
            .map_err(|error| Failure::new(ErrorCode::InvalidRequest, error.to_string()))?;
        let params = params.or(&self.backend.info().recommended).or(&Parameters::DEFAULT);
        if says_nothing(&generate.input) {
            // A template would make a prompt of it all the same.
            return Err(Failure::new(ErrorCode::EmptyPrompt, "the prompt is empty").into());
        }
        let text = match generate.input {
            Input::Raw(text) => text,
            Input::Chat(messages) if self.backend.info().chat_template => {
                self.render(generate.id, &messages)?
            }
            Input::Chat(messages) => without_template(&messages),
        };
        let work = Work::on_text(Kind::Tokens, generate.id, text.len());
        let prompt = self.watch.during(work, || self.backend.tokenize(&text))?;
        let session = generate.session.zip(self.states.as_ref());
        let session = session.and_then(|(name, states)| states.session(name));
        Ok(Request { id: generate.id, prompt, params, priority: generate.priority, session })
    }

    /// What the model's template, which is somebody's program, makes of a conversation.
    fn render(&self, id: u64, messages: &[Message]) -> Result<String, BackendError> {
        let said: usize = messages.iter().map(|message| message.content.len()).sum();
        let work = Work::on_text(Kind::Template, id, said);
        let text = self
            .watch
            .during(work, || unless_it_panics(|| self.backend.render_chat(messages)))
            .unwrap_or_else(|| Err(template_failure("cannot be rendered: that panics").into()))?;
        let (times, more) = TEMPLATE_LENGTH;
        if text.len() > said.saturating_mul(times).saturating_add(more) {
            let what = format!("makes {} bytes of a conversation of {said}", text.len());
            return Err(template_failure(&what).into());
        }
        Ok(text)
    }

    fn plan(&mut self) -> Step {
        let step = self.scheduler.plan();
        self.interrupt.next_is_interactive(step.interactive);
        step
    }

    /// How long a step will take, as far as that is known: nothing is of what comes before a
    /// forward pass.
    fn expected_time(&self, step: &Step) -> Duration {
        match step.only_computes() {
            true => self.pass_times.expect(step.forward.n_tokens()),
            false => Duration::MAX,
        }
    }

    fn carry_out(&mut self, mut step: Step) {
        let usual = self.expected_time(&step);
        // What else was done, reading a session's state for one, would be taken for computing.
        let only_computes = step.only_computes();
        let tokens = step.forward.n_tokens();
        let start = Instant::now();
        let states: &mut dyn SavedStates = match &mut self.states {
            Some(states) => states,
            None => &mut (),
        };
        let mut carry_out = || step.carry_out_with(self.backend, states, &mut self.parked);
        let outcome = match usual {
            Duration::MAX => carry_out(),
            usual => self.watch.during(Work::step(usual), carry_out),
        };
        if only_computes && outcome.forward.is_ok() {
            let took = start.elapsed();
            self.pass_times.took(tokens, took);
            self.scheduler.took(&step.forward, took.saturating_sub(outcome.drafting));
        }
        self.scheduler.apply(step, outcome, &mut self.outputs);
        self.tell();
    }

    /// Turns what the scheduler said into events, with the time.
    fn tell(&mut self) {
        let now = Instant::now();
        for output in self.outputs.drain(..) {
            let event = match output {
                Output::Started { id } => {
                    if let Some(clock) = self.clocks.get_mut(&id) {
                        clock.first_token = Some(now);
                    }
                    continue;
                }
                Output::Prefill { id, done, total } => Event::Prefill { id, done, total },
                Output::Text { id, text } => Event::Text { id, text },
                Output::Finished { id, finish_reason, usage, drafts } => {
                    let timings = self.clocks.remove(&id).map(|clock| clock.timings(now, drafts));
                    let timings = timings.unwrap_or_default();
                    Event::Finished { id, finish_reason, usage, timings }
                }
                Output::Failed { id, failure } => {
                    self.clocks.remove(&id);
                    Event::Failed { id, failure }
                }
            };
            self.coalescer.push(event, now);
        }
    }
}

impl Clock {
    fn timings(&self, now: Instant, drafts: Drafts) -> Timings {
        let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        // Canceled before the first token: all of it was spent on the prompt.
        let first_token = self.first_token.unwrap_or(now);
        Timings {
            prefill_ms: milliseconds(self.received, first_token),
            decode_ms: milliseconds(first_token, now),
            drafted: drafts.drafted,
            accepted: drafts.accepted,
            ..Timings::default()
        }
    }
}

/// What is said where the model's chat template does what it may not.
pub(crate) fn template_failure(what: &str) -> Failure {
    Failure::new(ErrorCode::ChatTemplate, format!("the model's chat template {what}"))
        .hint("Send the prompt without the template: --raw")
}

fn says_nothing(input: &Input) -> bool {
    match input {
        Input::Raw(text) => text.is_empty(),
        Input::Chat(messages) => messages.iter().all(|message| message.content.is_empty()),
    }
}

/// A base model knows no turns: it goes on with what was said, one message a line.
fn without_template(messages: &[Message]) -> String {
    let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    contents.join("\n")
}
