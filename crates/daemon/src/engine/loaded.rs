//! What the daemon knows of one engine, from its start to its end.

use std::collections::HashSet;
use std::time::Instant;

use threadrunner_core::engine_protocol::{Command, EngineInfo};
use threadrunner_core::protocol::LoadedModel;
use threadrunner_core::{Failure, JobId, ModelInfo, ModelRef, Usage};
use tokio::sync::watch;

use super::{EngineId, EngineProcess};

/// Requests that an engine is given before it has said how many it takes.
const SLOTS_WHILE_LOADING: usize = 8;
/// Interactive requests that an engine is given beyond its slots for them, so that the next one is
/// there when one ends.
const INTERACTIVE_BEYOND: usize = 8;

/// One engine, loading or loaded.
#[derive(Debug)]
pub(crate) struct Engine {
    process: EngineProcess,
    model: ModelRef,
    started: Instant,
    view: watch::Sender<LoadView>,
    running: HashSet<JobId>,
    idle_since: Option<Instant>,
    /// Tokens of the prompts that it was asked to read, and how many of them it had cached.
    read: (u64, u64),
}

/// An engine's loading, as those see it who wait for it.
#[derive(Debug, Clone)]
pub(crate) struct LoadView {
    /// The model's name.
    pub(crate) name: String,
    /// How far it is.
    pub(crate) state: LoadState,
}

/// How far an engine is.
#[derive(Debug, Clone)]
pub(crate) enum LoadState {
    /// Loading, from 0 to 1.
    Loading(f32),
    /// Loaded.
    Ready(Box<(ModelInfo, EngineInfo)>),
    /// Will never be loaded.
    Failed(Failure),
}

impl Engine {
    /// A process that was just told to load `model`.
    pub(crate) fn new(process: EngineProcess, model: ModelRef, now: Instant) -> Self {
        let name = model.name();
        let (view, _) = watch::channel(LoadView { name, state: LoadState::Loading(0.0) });
        Self {
            process,
            model,
            started: now,
            view,
            running: HashSet::new(),
            idle_since: None,
            read: (0, 0),
        }
    }

    pub(crate) fn id(&self) -> EngineId {
        self.process.id
    }

    pub(crate) fn model(&self) -> &ModelRef {
        &self.model
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn watch(&self) -> watch::Receiver<LoadView> {
        self.view.subscribe()
    }

    pub(crate) fn loading(&self) -> Option<f32> {
        match self.view.borrow().state {
            LoadState::Loading(fraction) => Some(fraction),
            LoadState::Ready(_) | LoadState::Failed(_) => None,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.view.borrow().state, LoadState::Ready(_))
    }

    /// Takes note of how far loading is.
    pub(crate) fn set(&mut self, state: LoadState, now: Instant) {
        if matches!(state, LoadState::Ready(_)) {
            self.rest_if_idle(now);
        }
        self.view.send_modify(|view| view.state = state);
    }

    /// How many more requests it is given. Interactive ones are never held up by others, which are
    /// as many as it has slots at most: it pauses those, and gives interactive ones all its slots.
    pub(crate) fn free_slots(&self, interactive: bool) -> usize {
        let slots = match &self.view.borrow().state {
            LoadState::Ready(ready) => ready.0.n_seq_max as usize,
            LoadState::Loading(_) => SLOTS_WHILE_LOADING,
            LoadState::Failed(_) => 0,
        };
        let beyond = if interactive { slots + INTERACTIVE_BEYOND } else { 0 };
        (slots + beyond).saturating_sub(self.running.len())
    }

    /// Gives it a job.
    pub(crate) fn begin(&mut self, job: JobId) {
        self.running.insert(job);
        self.idle_since = None;
    }

    /// Takes a job from it.
    pub(crate) fn end(&mut self, job: &JobId, now: Instant) {
        if self.running.remove(job) {
            self.rest_if_idle(now);
        }
    }

    /// Takes note of what a request took.
    pub(crate) fn count(&mut self, usage: &Usage) {
        self.read.0 += u64::from(usage.prompt_tokens);
        self.read.1 += u64::from(usage.cached_tokens);
    }

    fn rest_if_idle(&mut self, now: Instant) {
        if self.running.is_empty() {
            self.idle_since = Some(now);
        }
    }

    pub(crate) fn idle_since(&self) -> Option<Instant> {
        if self.is_ready() { self.idle_since } else { None }
    }

    pub(crate) fn jobs(&self) -> Vec<JobId> {
        self.running.iter().cloned().collect()
    }

    /// Sends a command; false if the process is gone or reads nothing any more.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.process.send(command)
    }

    /// What `ps` shows; `idle_timeout` in seconds.
    pub(crate) fn describe(&self, idle_timeout: f64, now: Instant) -> LoadedModel {
        let view = self.view.borrow();
        let (loaded, info, engine) = match &view.state {
            LoadState::Loading(fraction) => (*fraction, None, None),
            LoadState::Ready(ready) => (1.0, Some(ready.0.clone()), Some(ready.1.clone())),
            LoadState::Failed(_) => (0.0, None, None),
        };
        LoadedModel {
            model: self.model.clone(),
            name: view.name.clone(),
            pid: self.process.pid,
            loaded,
            memory_bytes: crate::memory::resident_bytes(self.process.pid),
            running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            prompt_tokens: self.read.0,
            cached_tokens: self.read.1,
            unload_in_s: self
                .idle_since
                .map(|since| (idle_timeout - (now - since).as_secs_f64()).max(0.0)),
            info,
            engine,
        }
    }
}
