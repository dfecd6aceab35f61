//! One engine as the daemon sees it, from its start to its exit.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{Command, EngineInfo, EngineRequestId, StateDirectory};
use threadrunner_core::protocol::LoadedModel;
use threadrunner_core::{Failure, JobId, KeepAlive, ModelId, ModelInfo, ModelRef, Usage};
use tokio::sync::watch;

use super::{EngineId, EngineProcess};
use crate::model_files::ModelFiles;

/// How many requests an engine gets before it has said how many slots it has.
const SLOTS_WHILE_LOADING: usize = 8;
/// The progress in loading that counts as a sign of life, as a fraction of the whole.
const LOAD_STEP: f32 = 0.01;
/// How often an engine may report the progress of loading: far more often than anybody looks.
const MOST_LOADING: u32 = 10_000;
/// The time limit for loading as a whole, as a multiple of the time it may go without progress.
const MOST_LOAD: u32 = 24;
/// Interactive requests that an engine gets beyond one per slot, so that the next one is there as
/// soon as one ends.
const INTERACTIVE_BEYOND: usize = 8;

/// How many events an engine may send that this daemon does not know: a newer one sends a few with
/// each answer, and a hostile one is not to send them forever.
const SURPRISES: u32 = 100_000;

/// An engine that is loading or loaded.
#[derive(Debug)]
pub(crate) struct Engine {
    process: EngineProcess,
    model: ModelRef,
    /// The model's files when it was told to load them.
    files: ModelFiles,
    /// Whether one of them has been replaced since.
    replaced: bool,
    started: Instant,
    view: watch::Sender<LoadView>,
    running: HashSet<JobId>,
    idle_since: Option<Instant>,
    /// Since when progress is due: it is loading, or has requests.
    awaited_since: Option<Instant>,
    /// When loading began, or when the daemon last resumed from a suspension during it.
    loads_since: Instant,
    /// The last step of loading, and how often progress was reported.
    loaded: (f32, u32),
    stay: Stay,
    /// The bytes reserved for it, and whether that is less than it would have liked.
    reserved: u64,
    shrunk: bool,
    /// Where it keeps the states of sessions.
    state: Option<StateDirectory>,
    /// Whether it understands [`Command::Stream`].
    knows_stream: bool,
    /// How many more events this daemon need not know.
    surprises_left: u32,
    /// Its resident memory in bytes, and when that was measured.
    resident: (u64, Option<Instant>),
    /// Prompt tokens over all requests, and how many of them were cached.
    read: (u64, u64),
}

/// How long an engine stays loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stay {
    /// Whether it is unloaded only by name.
    pub(crate) pinned: bool,
    /// How long it stays unless a request says otherwise.
    pub(crate) usual: KeepAlive,
    /// How long it stays currently.
    pub(crate) now: KeepAlive,
}

impl Stay {
    /// Stays for the usual time.
    pub(crate) fn usual(usual: KeepAlive, pinned: bool) -> Self {
        Self { pinned, usual, now: usual }
    }
}

/// The state of loading, as those who wait for the model see it.
#[derive(Debug, Clone)]
pub(crate) struct LoadView {
    /// The model's name.
    pub(crate) name: String,
    /// The progress so far.
    pub(crate) state: LoadState,
}

/// The state of loading an engine.
#[derive(Debug, Clone)]
pub(crate) enum LoadState {
    /// Loading; the fraction is from 0 to 1.
    Loading(f32),
    /// Loaded.
    Ready(Box<(ModelInfo, EngineInfo)>),
    /// Will never be loaded.
    Failed(Failure),
}

impl LoadView {
    /// The view of a model that waits to be loaded.
    pub(crate) fn waiting(model: &ModelRef) -> Self {
        Self { name: model.name(), state: LoadState::Loading(0.0) }
    }
}

impl Engine {
    /// Wraps a process that was just told to load `model` in `reserved` bytes. Progress is
    /// published to `view`.
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
            surprises_left: SURPRISES,
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

    /// What its model is; without a digest until it is loaded.
    pub(crate) fn model_id(&self) -> ModelId {
        let digest = match &self.view.borrow().state {
            LoadState::Ready(ready) => ready.0.digest.clone(),
            LoadState::Loading(_) | LoadState::Failed(_) => None,
        };
        self.model.id(digest)
    }

    /// Sets what files the model's paths named before loading began.
    pub(crate) fn set_files(&mut self, files: ModelFiles) {
        self.files = files;
    }

    /// Whether a file that it loaded has been replaced. Once true, it stays true.
    pub(crate) fn was_replaced(&mut self) -> bool {
        self.replaced = self.replaced || self.files.were_replaced(&ModelFiles::of(&self.model));
        self.replaced
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Its share of the memory budget, in bytes: what it allocated or what is resident, whichever
    /// is more. It may not have touched all it allocated yet, and its resident memory may exceed
    /// its own estimate. Until it is loaded, the reservation counts as allocated.
    pub(crate) fn bytes(&self) -> u64 {
        let allocated = match &self.view.borrow().state {
            LoadState::Ready(ready) => match ready.0.memory.total() {
                // This engine does not report its memory.
                0 => self.reserved,
                said => said,
            },
            LoadState::Loading(_) | LoadState::Failed(_) => self.reserved,
        };
        allocated.max(self.resident.0)
    }

    /// Measures resident memory, unless the last measurement is younger than `believed`.
    pub(crate) fn measure(&mut self, now: Instant, believed: Duration) {
        if self.resident.1.is_none_or(|at| at + believed <= now) {
            self.resident = (crate::memory::resident_bytes(self.process.pid), Some(now));
        }
    }

    /// Sets whether it has less memory than it would have liked.
    pub(crate) fn set_shrunk(&mut self, shrunk: bool) {
        self.shrunk = shrunk;
    }

    pub(crate) fn is_shrunk(&self) -> bool {
        self.shrunk
    }

    /// Sets where it keeps the states of sessions.
    pub(crate) fn set_state(&mut self, state: Option<StateDirectory>) {
        self.state = state;
    }

    pub(crate) fn state(&self) -> Option<&StateDirectory> {
        self.state.as_ref()
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.stay.pinned
    }

    /// Makes it stay until it is unloaded by name.
    pub(crate) fn pin(&mut self) {
        self.stay.pinned = true;
    }

    /// Sets how long it stays once idle; `None` is the usual time.
    pub(crate) fn keep(&mut self, time: Option<KeepAlive>) {
        self.stay.now = time.unwrap_or(self.stay.usual);
    }

    /// When it is unloaded unless a request comes first; `None` if never, or not idle.
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

    /// Counts an event that this daemon does not know. Returns false if there were too many.
    pub(crate) fn surprises(&mut self) -> bool {
        self.surprises_left = self.surprises_left.saturating_sub(1);
        self.surprises_left > 0
    }

    /// Sets and publishes the state of loading.
    pub(crate) fn set(&mut self, state: LoadState, now: Instant) {
        if matches!(state, LoadState::Ready(_)) {
            self.awaited_since = None;
            self.rest_if_idle(now);
        }
        self.view.send_modify(|view| view.state = state);
    }

    /// Notes reported progress in loading. Returns false if it has reported too often.
    pub(crate) fn get_on(&mut self, fraction: f32, now: Instant) -> bool {
        let (step, told) = &mut self.loaded;
        if fraction >= *step + LOAD_STEP {
            *step = fraction;
            self.awaited_since = Some(now);
        }
        *told += 1;
        *told <= MOST_LOADING
    }

    /// Notes that it was given a request.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.awaited_since.get_or_insert(now);
    }

    /// Notes progress with a request, and whether more progress is due.
    pub(crate) fn heard(&mut self, awaited: bool, now: Instant) {
        if self.is_ready() {
            self.awaited_since = awaited.then_some(now);
        }
    }

    /// Restarts its time limits, as after a suspension of the daemon.
    pub(crate) fn wait_anew(&mut self, now: Instant) {
        self.loads_since = now;
        self.awaited_since = self.awaited_since.map(|_| now);
    }

    /// When it will have been silent for too long: for `patience`, or loading for [`MOST_LOAD`]
    /// times that.
    pub(crate) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        let silent = self.awaited_since? + patience;
        match self.is_ready() {
            true => Some(silent),
            false => Some(silent.min(self.loads_since + patience * MOST_LOAD)),
        }
    }

    /// The size of its context in tokens; 0 if unknown.
    pub(crate) fn context(&self) -> u32 {
        match &self.view.borrow().state {
            LoadState::Ready(ready) => ready.0.n_ctx,
            LoadState::Loading(_) | LoadState::Failed(_) => 0,
        }
    }

    /// How many more requests it can take. Others get one request per slot. Interactive ones get as
    /// many again and [`INTERACTIVE_BEYOND`] more, because the engine pauses others for them.
    pub(crate) fn free_slots(&self, interactive: bool) -> usize {
        let slots = match &self.view.borrow().state {
            LoadState::Ready(ready) => ready.0.n_seq_max as usize,
            LoadState::Loading(_) => SLOTS_WHILE_LOADING,
            LoadState::Failed(_) => 0,
        };
        let beyond = if interactive { slots + INTERACTIVE_BEYOND } else { 0 };
        (slots + beyond).saturating_sub(self.running.len())
    }

    /// Assigns a job to it.
    pub(crate) fn begin(&mut self, job: JobId) {
        self.running.insert(job);
        self.idle_since = None;
    }

    /// Takes a job off it.
    pub(crate) fn end(&mut self, job: &JobId, now: Instant) {
        if self.running.remove(job) {
            self.rest_if_idle(now);
        }
    }

    /// Adds a finished request's tokens to the totals.
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

    /// Sends a command. Returns false if the process is gone or no longer reads.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.process.send(command)
    }

    /// Kills it at once.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Sets whether it understands [`Command::Stream`].
    pub(crate) fn set_knows_stream(&mut self, knows: bool) {
        self.knows_stream = knows;
    }

    /// Tells it to stream the answer to this request from now on. An engine that does not
    /// understand this streams every answer.
    pub(crate) fn stream(&self, request: EngineRequestId) {
        if self.knows_stream {
            // If this fails, the process has exited, and its task reports that next.
            self.send(Command::Stream { id: request });
        }
    }

    /// Describes it for `ps`.
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
