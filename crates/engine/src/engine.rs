//! The engine's loop: commands in, forward passes, events out.
//!
//! [`Engine`] lets a scheduler plan, a backend compute, and a coalescer decide when events are
//! written.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{Command, EngineRequestId, Event, Generate, Input};
use threadrunner_core::scheduler::{
    Drafts, Output, ParkedStates, Request, SavedStates, Scheduler, Step,
};
use threadrunner_core::{
    BackendError, ErrorCode, ExitCode, Failure, Interrupt, Message, ModelBackend, Parameters,
    Timings, Tool,
};

use crate::caught::unless_it_panics;
use crate::coalesce::Coalescer;
use crate::input::Received;
use crate::output::EventWriter;
use crate::pass_times::PassTimes;
use crate::state::States;
use crate::watch::{Kind, Watch, Work};

/// Limit on the text that a template makes: this many times the length of the messages, plus this
/// many bytes.
const TEMPLATE_LENGTH: (usize, usize) = (8, 1 << 20);
/// The maximum number of commands taken in between two forward passes, so that a flood of them does
/// not hold up the requests that are running.
const COMMANDS_PER_STEP: usize = 64;

/// How long the engine must be idle before it saves sessions. If a program drives a session, its
/// next turn comes sooner.
const QUIET: Duration = Duration::from_secs(1);

/// Why an engine ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The daemon no longer reads.
    #[error("the daemon is gone: {0}")]
    DaemonGone(#[from] io::Error),
    /// A command that the protocol does not allow at this point.
    #[error("the daemon broke the protocol: {0}")]
    Protocol(String),
    /// The backend cannot continue. Every request has failed.
    #[error("the backend broke down: {0}")]
    Broken(Failure),
}

impl EngineError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::DaemonGone(_) => ExitCode::Success,
            Self::Protocol(_) => ExitCode::Connection,
            Self::Broken(failure) => failure.code.exit_code(),
        }
    }
}

/// A loaded model and the requests that it answers.
pub struct Engine<'a, W> {
    backend: &'a mut dyn ModelBackend,
    events: &'a mut EventWriter<W>,
    scheduler: Scheduler,
    clocks: HashMap<EngineRequestId, Clock>,
    outputs: Vec<Output>,
    coalescer: Coalescer,
    pass_times: PassTimes,
    interrupt: Interrupt,
    watch: Watch,
    states: Option<States>,
    parked: ParkedStates,
    /// Whether there are sessions to save. The reader checks this when the stream has ended.
    unsaved: Arc<AtomicBool>,
}

/// The times of a request's events.
#[derive(Debug)]
struct Clock {
    received: Instant,
    first_token: Option<Instant>,
}

impl<'a, W: Write> Engine<'a, W> {
    /// Creates an engine without requests.
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

    /// Ends long forward passes early when `interrupt` asks.
    #[must_use]
    pub fn interrupted_by(mut self, interrupt: Interrupt) -> Self {
        self.backend.listen_to(interrupt.clone());
        self.interrupt = interrupt;
        self
    }

    /// Limits the time of work with `watch`.
    #[must_use]
    pub fn watched_by(mut self, watch: Watch) -> Self {
        self.watch = watch;
        self
    }

    /// Saves sessions to `states` and restores them from there. `unsaved` tells the reader whether
    /// there are any left to save.
    #[must_use]
    pub fn keeping(mut self, states: Option<States>, unsaved: Arc<AtomicBool>) -> Self {
        (self.states, self.unsaved) = (states, unsaved);
        self
    }

    /// Serves until there can be no more commands. Then saves the sessions that are unsaved, unless
    /// the backend is broken.
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
            // The commands behind any interrupt so far are taken in now.
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
            // Canceled and refused requests need not wait for the forward pass, nor does text that
            // would be late after it.
            self.write(self.expected_time(&step))?;
            self.carry_out(step);
            self.write(Duration::ZERO)?;
            if let Some(failure) = self.scheduler.broken().cloned() {
                self.write(Duration::MAX)?;
                return Err(EngineError::Broken(failure));
            }
        }
    }

    /// Writes the events that are due, if the next chance to write comes after `next_chance`.
    fn write(&mut self, next_chance: Duration) -> io::Result<()> {
        for event in self.coalescer.take(Instant::now(), next_chance) {
            self.events.push(&event);
        }
        self.events.flush()
    }

    /// Waits for the next command. `None` means that no more will come. While none comes for a
    /// while, saves sessions, one after the other.
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

    /// Cancels all requests, because nobody is left to answer, and saves the sessions, that of the
    /// last turn first.
    fn save_all(&mut self) {
        if !self.scheduler.has_unsaved() && !self.scheduler.has_sessions() {
            return;
        }
        let running: Vec<EngineRequestId> = self.clocks.keys().copied().collect();
        for id in running {
            self.scheduler.cancel(id, &mut self.outputs);
        }
        // Some sessions are saved as their requests end.
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
            // Two requests with one id could never be told apart again.
            return Err(EngineError::Protocol(format!("request {id} is already running")));
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
        if generate.input.is_empty() {
            // A template would still make a prompt of this.
            return Err(Failure::new(ErrorCode::EmptyPrompt, "the prompt is empty").into());
        }
        let text = match generate.input {
            Input::Raw(text) => text,
            Input::Chat { messages, tools } => self.chat(generate.id, &messages, &tools)?,
        };
        let work = Work::on_text(Kind::Tokens, generate.id, text.len());
        let prompt = self.watch.during(work, || self.backend.tokenize(&text))?;
        let session = generate.session.zip(self.states.as_ref());
        let session = session.and_then(|(name, states)| states.session(name));
        Ok(Request { id: generate.id, prompt, params, priority: generate.priority, session })
    }

    /// Makes a prompt of a conversation.
    fn chat(
        &self,
        id: EngineRequestId,
        messages: &[Message],
        tools: &[Tool],
    ) -> Result<String, BackendError> {
        let info = self.backend.info();
        info.takes(messages, tools)?;
        match info.chat_template {
            true => self.render(id, messages, tools),
            false => Ok(without_template(messages)),
        }
    }

    /// Renders a conversation with the model's template, which is untrusted code.
    fn render(
        &self,
        id: EngineRequestId,
        messages: &[Message],
        tools: &[Tool],
    ) -> Result<String, BackendError> {
        let said = messages.iter().map(Message::bytes).chain(tools.iter().map(Tool::bytes)).sum();
        let work = Work::on_text(Kind::Template, id, said);
        let text = self
            .watch
            .during(work, || unless_it_panics(|| self.backend.render_chat(messages, tools)))
            .unwrap_or_else(|| Err(template_failure("panics when it is rendered").into()))?;
        let (times, more) = TEMPLATE_LENGTH;
        if text.len() > said.saturating_mul(times).saturating_add(more) {
            let what = format!("turns a conversation of {said} bytes into {}", text.len());
            return Err(template_failure(&what).into());
        }
        Ok(text)
    }

    fn plan(&mut self) -> Step {
        let step = self.scheduler.plan();
        self.interrupt.next_is_interactive(step.interactive);
        step
    }

    /// How long a step is expected to take, or [`Duration::MAX`] if unknown: what moves cells
    /// before the forward pass takes an unknown time.
    fn expected_time(&self, step: &Step) -> Duration {
        match step.only_computes() {
            true => self.pass_times.expect(step.forward.n_tokens()),
            false => Duration::MAX,
        }
    }

    fn carry_out(&mut self, mut step: Step) {
        let usual = self.expected_time(&step);
        // Other work, such as reading a session's state, would be counted as computing.
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
            tracing::trace!(tokens, ?took, ?usual, "forward pass");
            self.pass_times.took(tokens, took);
            self.scheduler.took(&step.forward, took.saturating_sub(outcome.drafting));
        }
        self.scheduler.apply(step, outcome, &mut self.outputs);
        self.tell();
    }

    /// Turns the scheduler's outputs into events, with timings.
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
        // Canceled before the first token: all the time went into the prompt.
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

/// The failure of a chat template that does `what`.
pub(crate) fn template_failure(what: &str) -> Failure {
    Failure::new(ErrorCode::ChatTemplate, format!("the model's chat template {what}"))
        .hint("pass `--raw` to send the prompt without the template")
}

/// Joins messages, one per line. A base model knows no turns and just continues the text.
fn without_template(messages: &[Message]) -> String {
    let contents: Vec<String> =
        messages.iter().map(|message| message.content.to_string()).collect();
    contents.join("\n")
}
