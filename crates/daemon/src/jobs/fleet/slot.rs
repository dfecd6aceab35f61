//! A model's slot in the fleet.

use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::EngineInfo;
use threadrunner_core::protocol::LoadedModel;
use threadrunner_core::{
    Failure, JobSpec, KeepAlive, ModelDigest, ModelInfo, ModelRef, OutputKind, Usage,
};

use super::engine::{Engine, Started};
use crate::engine::EngineId;
use crate::jobs::rooms::{Room, RoomState};
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

/// What the fleet has for a model. A model without a slot is neither wanted nor loaded.
#[derive(Debug)]
pub(crate) enum ModelSlot {
    /// A process reads from the model's header how much memory it would take.
    Sizing(Sizing),
    /// Jobs or clients wait for it to be sized, or for room.
    Waiting,
    /// An engine loads it.
    Loading(Box<Loading>),
    /// An engine has loaded it.
    Ready(Box<Ready>),
}

/// A model that is being sized.
#[derive(Debug)]
pub(crate) struct Sizing {
    pub(super) process: EngineId,
    /// The model's files when the process was started.
    pub(super) files: ModelFiles,
    /// When the process is late.
    pub(super) until: Instant,
}

/// A model that is being loaded.
#[derive(Debug)]
pub(crate) struct Loading {
    engine: Engine,
    /// When loading began, or when the daemon last resumed from a suspension during it.
    since: Instant,
    /// The progress so far, from 0 to 1.
    fraction: f32,
    /// The last step that counted as progress, and how often progress was reported.
    step: (f32, u32),
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Ready {
    engine: Engine,
    info: ModelInfo,
    built: EngineInfo,
    /// Whether the engine understands `stream`.
    knows_stream: bool,
    /// Prompt tokens over all requests, and how many of them were cached.
    read: (u64, u64),
}

/// An engine that was told to exit.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(super) room: Room,
    pub(super) pid: u32,
}

impl ModelSlot {
    /// Whether a model may go from one slot to another; `None` is no slot. An engine gives up its
    /// slot when it is told to exit.
    pub(super) fn may_become(from: Option<&Self>, to: Option<&Self>) -> bool {
        use ModelSlot::{Loading, Ready, Sizing, Waiting};
        match (from, to) {
            (None | Some(Waiting), Some(Sizing(_) | Waiting | Loading(_)) | None) => true,
            // The estimate is there or never comes.
            (Some(Sizing(_)), Some(Waiting) | None) => true,
            (Some(Loading(_)), Some(Ready(_)) | None) | (Some(Ready(_)), None) => true,
            (Some(Sizing(_)), Some(Sizing(_) | Loading(_) | Ready(_)))
            | (Some(Loading(_)), Some(Sizing(_) | Waiting | Loading(_)))
            | (Some(Ready(_)), Some(_))
            | (None | Some(Waiting), Some(Ready(_))) => false,
        }
    }

    pub(crate) fn engine(&self) -> Option<&Engine> {
        match self {
            Self::Sizing(_) | Self::Waiting => None,
            Self::Loading(loading) => Some(&loading.engine),
            Self::Ready(ready) => Some(&ready.engine),
        }
    }

    pub(super) fn engine_mut(&mut self) -> Option<&mut Engine> {
        match self {
            Self::Sizing(_) | Self::Waiting => None,
            Self::Loading(loading) => Some(&mut loading.engine),
            Self::Ready(ready) => Some(&mut ready.engine),
        }
    }

    pub(super) fn into_engine(self) -> Option<Engine> {
        match self {
            Self::Sizing(_) | Self::Waiting => None,
            Self::Loading(loading) => Some(loading.engine),
            Self::Ready(ready) => Some(ready.engine),
        }
    }

    /// The engine's share of the memory budget, in bytes: what it allocated or what is resident,
    /// whichever is more. It may not have touched all it allocated yet, and its resident memory may
    /// exceed its own estimate. Until it is loaded, the reservation counts as allocated.
    fn bytes(&self) -> u64 {
        match self {
            Self::Sizing(_) | Self::Waiting => 0,
            Self::Loading(loading) => {
                let engine = &loading.engine;
                engine.reserved.max(engine.resident.0)
            }
            Self::Ready(ready) => {
                let allocated = match ready.info.memory.total() {
                    // This engine does not report its memory.
                    0 => ready.engine.reserved,
                    said => said,
                };
                allocated.max(ready.engine.resident.0)
            }
        }
    }

    /// The room that the engine takes.
    pub(super) fn room(&self) -> Option<Room> {
        let engine = self.engine()?;
        let state = match (self, engine.idle_since) {
            _ if engine.stay.pinned => RoomState::Pinned,
            (Self::Ready(_), Some(since)) => RoomState::Idle(since),
            _ => RoomState::Busy,
        };
        Some(Room { engine: engine.id, started: engine.started, state, bytes: self.bytes() })
    }

    /// What the engine took, if it was given all that it wanted.
    pub(super) fn measured(&self) -> Option<u64> {
        matches!(self, Self::Ready(ready) if !ready.engine.shrunk).then(|| self.bytes())
    }

    /// How many more requests the engine can take. Others get one request per slot. Interactive
    /// ones get as many again and [`INTERACTIVE_BEYOND`] more, because the engine pauses others for
    /// them.
    pub(super) fn free_slots(&self, interactive: bool) -> usize {
        let (slots, engine) = match self {
            Self::Sizing(_) | Self::Waiting => return 0,
            Self::Loading(loading) => (SLOTS_WHILE_LOADING, &loading.engine),
            Self::Ready(ready) => (ready.info.n_seq_max as usize, &ready.engine),
        };
        let beyond = if interactive { slots + INTERACTIVE_BEYOND } else { 0 };
        (slots + beyond).saturating_sub(engine.running.len())
    }

    /// When the engine will have been silent for too long: for `patience`, or loading for
    /// [`MOST_LOAD`] times that.
    pub(super) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        let silent = self.engine()?.awaited_since? + patience;
        match self {
            Self::Loading(loading) => Some(silent.min(loading.since + patience * MOST_LOAD)),
            _ => Some(silent),
        }
    }

    /// Restarts the engine's time limits, as after a suspension of the daemon.
    pub(super) fn wait_anew(&mut self, now: Instant) {
        if let Self::Loading(loading) = self {
            loading.since = now;
        }
        if let Some(engine) = self.engine_mut() {
            engine.awaited_since = engine.awaited_since.map(|_| now);
        }
    }

    /// Notes progress with a request, and whether more progress is due.
    pub(super) fn heard(&mut self, awaited: bool, now: Instant) {
        if let Self::Ready(ready) = self {
            ready.engine.awaited_since = awaited.then_some(now);
        }
    }

    /// Describes the engine for `ps`.
    pub(super) fn describe(&self, model: &ModelRef, now: Instant) -> Option<LoadedModel> {
        let engine = self.engine()?;
        let (loaded, ready) = match self {
            Self::Sizing(_) | Self::Waiting => return None,
            Self::Loading(loading) => (loading.fraction, None),
            Self::Ready(ready) => (1.0, Some(ready)),
        };
        let (prompt_tokens, cached_tokens) = ready.map_or((0, 0), |ready| ready.read);
        Some(LoadedModel {
            model: model.clone(),
            name: model.name(),
            pid: engine.pid,
            loaded,
            memory_bytes: engine.resident.0,
            size_bytes: self.bytes(),
            pinned: engine.stay.pinned,
            running: u32::try_from(engine.running.len()).unwrap_or(u32::MAX),
            prompt_tokens,
            cached_tokens,
            unload_in_s: engine
                .unload_at()
                .map(|at| at.checked_duration_since(now).unwrap_or(Duration::ZERO).as_secs_f64()),
            info: ready.map(|ready| ready.info.clone()),
            engine: ready.map(|ready| ready.built.clone()),
        })
    }
}

impl Loading {
    pub(super) fn new(started: Started, keep_alive: Option<KeepAlive>, now: Instant) -> Self {
        let engine = Engine::new(started, keep_alive, now);
        Self { engine, since: now, fraction: 0.0, step: (0.0, 0) }
    }

    pub(super) fn into_ready(
        self,
        mut info: ModelInfo,
        built: EngineInfo,
        knows_stream: bool,
        now: Instant,
    ) -> Ready {
        let mut engine = self.engine;
        info.memory = engine.believe(info.memory);
        engine.awaited_since = None;
        engine.rest_if_idle(now);
        Ready { engine, info, built, knows_stream, read: (0, 0) }
    }

    /// The progress so far, from 0 to 1.
    pub(crate) fn fraction(&self) -> f32 {
        self.fraction
    }

    /// Notes reported progress. Returns false if the engine has reported too often.
    pub(crate) fn get_on(&mut self, fraction: f32, now: Instant) -> bool {
        self.fraction = fraction;
        let (step, told) = &mut self.step;
        if fraction >= *step + LOAD_STEP {
            *step = fraction;
            self.engine.awaited_since = Some(now);
        }
        *told += 1;
        *told <= MOST_LOADING
    }
}

impl Ready {
    /// The size of its context in tokens; 0 if unknown.
    pub(crate) fn context(&self) -> u32 {
        self.info.n_ctx
    }

    /// The digest of its files, if it has one.
    pub(super) fn digest(&self) -> Option<ModelDigest> {
        self.info.digest.clone()
    }

    /// Checks that the model takes what a job asks.
    pub(super) fn takes(&self, spec: &JobSpec) -> Result<(), Failure> {
        self.info.takes(&spec.messages, &spec.tools)
    }

    /// Whether the model said that it gives this kind of output.
    pub(crate) fn gives(&self, kind: OutputKind) -> bool {
        self.info.outputs.contains(&kind)
    }

    /// Whether it understands `stream`. An engine that does not streams every answer.
    pub(crate) fn knows_stream(&self) -> bool {
        self.knows_stream
    }

    /// Adds a finished request's tokens to the totals.
    pub(crate) fn count(&mut self, usage: &Usage) {
        self.read.0 = self.read.0.saturating_add(usage.prompt_tokens.into());
        self.read.1 = self.read.1.saturating_add(usage.cached_tokens.into());
    }
}
