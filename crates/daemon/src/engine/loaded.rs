//! What the daemon knows of one engine, from its start to its end.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{Command, EngineInfo, StateDirectory};
use threadrunner_core::protocol::LoadedModel;
use threadrunner_core::{Failure, JobId, KeepAlive, ModelInfo, ModelRef, Usage};
use tokio::sync::watch;

use super::{EngineId, EngineProcess};
use crate::model_files::ModelFiles;

/// Requests that an engine is given before it has said how many it takes.
const SLOTS_WHILE_LOADING: usize = 8;
/// The part of loading by which an engine must get on to be seen as alive.
const LOAD_STEP: f32 = 0.01;
/// How often an engine may say how far loading is: far more often than anybody looks.
const MOST_LOADING: u32 = 10_000;
/// How many times as long as it may say nothing loading may take in all.
const MOST_LOAD: u32 = 24;
/// Interactive requests that an engine is given beyond its slots for them, so that the next one is
/// there when one ends.
const INTERACTIVE_BEYOND: usize = 8;

/// One engine, loading or loaded.
#[derive(Debug)]
pub(crate) struct Engine {
    process: EngineProcess,
    model: ModelRef,
    /// What the model's paths named when it was told to load it.
    files: ModelFiles,
    /// Whether they name something else by now.
    replaced: bool,
    started: Instant,
    view: watch::Sender<LoadView>,
    running: HashSet<JobId>,
    idle_since: Option<Instant>,
    /// Since when it owes somebody progress: it loads, or has requests.
    awaited_since: Option<Instant>,
    /// Since when it loads, as far as this process was awake to see it.
    loads_since: Instant,
    /// The last step of loading, and how often it told of one.
    loaded: (f32, u32),
    stay: Stay,
    /// What it was given room for, and whether that is less than it would have liked.
    reserved: u64,
    shrunk: bool,
    /// Where it keeps the states of sessions.
    state: Option<StateDirectory>,
    /// Whether it can be told that somebody follows an answer.
    knows_stream: bool,
    /// What was resident, and when that was looked at.
    resident: (u64, Option<Instant>),
    /// Tokens of the prompts that it was asked to read, and how many of them it had cached.
    read: (u64, u64),
}

/// How long an engine stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stay {
    /// It is unloaded only by name.
    pub(crate) pinned: bool,
    /// How long it stays without a request that says otherwise.
    pub(crate) usual: KeepAlive,
    /// How long it stays now.
    pub(crate) now: KeepAlive,
}

impl Stay {
    /// One that stays for the usual time.
    pub(crate) fn usual(usual: KeepAlive, pinned: bool) -> Self {
        Self { pinned, usual, now: usual }
    }
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

impl LoadView {
    /// What those see who wait for a model that is not being loaded yet.
    pub(crate) fn waiting(model: &ModelRef) -> Self {
        Self { name: model.name(), state: LoadState::Loading(0.0) }
    }
}

impl Engine {
    /// A process that was just told to load `model`, in so many bytes. `view` is what those see
    /// who wait for it.
    pub(crate) fn new(
        process: EngineProcess,
        model: ModelRef,
        view: watch::Sender<LoadView>,
        stay: Stay,
        reserved: u64,
        now: Instant,
    ) -> Self {
        Self {
            process,
            model,
            files: ModelFiles::default(),
            replaced: false,
            started: now,
            view,
            running: HashSet::new(),
            idle_since: None,
            awaited_since: Some(now),
            loads_since: now,
            loaded: (0.0, 0),
            stay,
            reserved,
            shrunk: false,
            state: None,
            knows_stream: false,
            resident: (0, None),
            read: (0, 0),
        }
    }

    pub(crate) fn id(&self) -> EngineId {
        self.process.id
    }

    pub(crate) fn model(&self) -> &ModelRef {
        &self.model
    }

    /// Takes note of what the model's paths named before it was told to load it.
    pub(crate) fn set_files(&mut self, files: ModelFiles) {
        self.files = files;
    }

    /// Whether another file is in the place of one that it has loaded. Once that is so it stays so.
    pub(crate) fn was_replaced(&mut self) -> bool {
        self.replaced = self.replaced || self.files.were_replaced(&ModelFiles::of(&self.model));
        self.replaced
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// What it takes of the memory budget. Of what it has allocated, it has touched some only later;
    /// of what is resident, some is nobody's estimate.
    pub(crate) fn bytes(&self) -> u64 {
        let allocated = match &self.view.borrow().state {
            LoadState::Ready(ready) => match ready.0.memory.total() {
                // An engine that does not say.
                0 => self.reserved,
                said => said,
            },
            LoadState::Loading(_) | LoadState::Failed(_) => self.reserved,
        };
        allocated.max(self.resident.0)
    }

    /// Looks at what is resident, if that was done longer ago than this.
    pub(crate) fn measure(&mut self, now: Instant, believed: Duration) {
        if self.resident.1.is_none_or(|at| at + believed <= now) {
            self.resident = (crate::memory::resident_bytes(self.process.pid), Some(now));
        }
    }

    /// Takes note of whether it has less memory than it would have liked.
    pub(crate) fn set_shrunk(&mut self, shrunk: bool) {
        self.shrunk = shrunk;
    }

    pub(crate) fn is_shrunk(&self) -> bool {
        self.shrunk
    }

    /// Takes note of where it keeps the states of sessions.
    pub(crate) fn set_state(&mut self, state: Option<StateDirectory>) {
        self.state = state;
    }

    pub(crate) fn state(&self) -> Option<&StateDirectory> {
        self.state.as_ref()
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.stay.pinned
    }

    /// It is unloaded only by name from now on.
    pub(crate) fn pin(&mut self) {
        self.stay.pinned = true;
    }

    /// How long it stays from its next idle moment on: so long, or as usual.
    pub(crate) fn keep(&mut self, time: Option<KeepAlive>) {
        self.stay.now = time.unwrap_or(self.stay.usual);
    }

    /// When it is unloaded, if nobody asks for it before.
    pub(crate) fn unload_at(&self) -> Option<Instant> {
        match self.stay {
            Stay { pinned: true, .. } | Stay { now: KeepAlive::Forever, .. } => None,
            Stay { now: KeepAlive::For(time), .. } => Some(self.idle_since()? + time),
        }
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
            self.awaited_since = None;
            self.rest_if_idle(now);
        }
        self.view.send_modify(|view| view.state = state);
    }

    /// Takes note of how far it says that loading is; false if it has said so far too often.
    pub(crate) fn get_on(&mut self, fraction: f32, now: Instant) -> bool {
        let (step, told) = &mut self.loaded;
        if fraction >= *step + LOAD_STEP {
            *step = fraction;
            self.awaited_since = Some(now);
        }
        *told += 1;
        *told <= MOST_LOADING
    }

    /// Takes note that it was given a request.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.awaited_since.get_or_insert(now);
    }

    /// Takes note that it got on with a request, and whether it has any left.
    pub(crate) fn heard(&mut self, awaited: bool, now: Instant) {
        if self.is_ready() {
            self.awaited_since = awaited.then_some(now);
        }
    }

    /// Waits for it anew from now on.
    pub(crate) fn wait_anew(&mut self, now: Instant) {
        self.loads_since = now;
        self.awaited_since = self.awaited_since.map(|_| now);
    }

    /// When it has said nothing for too long, of which `patience` is the measure.
    pub(crate) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        let silent = self.awaited_since? + patience;
        match self.is_ready() {
            true => Some(silent),
            false => Some(silent.min(self.loads_since + patience * MOST_LOAD)),
        }
    }

    /// The tokens that its cache has room for; 0 where that is not known.
    pub(crate) fn context(&self) -> u32 {
        match &self.view.borrow().state {
            LoadState::Ready(ready) => ready.0.n_ctx,
            LoadState::Loading(_) | LoadState::Failed(_) => 0,
        }
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
        self.read.0 = self.read.0.saturating_add(usage.prompt_tokens.into());
        self.read.1 = self.read.1.saturating_add(usage.cached_tokens.into());
    }

    fn rest_if_idle(&mut self, now: Instant) {
        if self.running.is_empty() {
            self.idle_since = Some(now);
        }
    }

    pub(crate) fn idle_since(&self) -> Option<Instant> {
        if self.is_ready() { self.idle_since } else { None }
    }

    pub(crate) fn has_jobs(&self) -> bool {
        !self.running.is_empty()
    }

    pub(crate) fn jobs(&self) -> Vec<JobId> {
        self.running.iter().cloned().collect()
    }

    /// Sends a command; false if the process is gone or reads nothing any more.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.process.send(command)
    }

    /// Ends it at once, whatever it does.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Takes note of whether it can be told that somebody follows an answer.
    pub(crate) fn set_knows_stream(&mut self, knows: bool) {
        self.knows_stream = knows;
    }

    /// Tells it that somebody follows the answer to this request from now on. One that cannot be
    /// told streams every answer.
    pub(crate) fn stream(&self, request: u64) {
        if self.knows_stream {
            // One that cannot take it has exited, and its task says so next.
            self.send(Command::Stream { id: request });
        }
    }

    /// What `ps` shows.
    pub(crate) fn describe(&self, now: Instant) -> LoadedModel {
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
            size_bytes: self.bytes(),
            pinned: self.stay.pinned,
            running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            prompt_tokens: self.read.0,
            cached_tokens: self.read.1,
            unload_in_s: self
                .unload_at()
                .map(|at| at.checked_duration_since(now).unwrap_or(Duration::ZERO).as_secs_f64()),
            info,
            engine,
        }
    }
}
