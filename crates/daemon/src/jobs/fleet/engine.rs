//! An engine as the fleet keeps it, whatever it is doing.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::StateDirectory;
use threadrunner_core::{JobId, KeepAlive, Memory};

use crate::engine::EngineId;
use crate::model_files::ModelFiles;

/// How many events an engine may send that this daemon does not know: a newer one sends a few with
/// each answer, and a hostile one is not to send them forever.
const SURPRISES: u32 = 100_000;

/// Memory that an engine may take beyond 1.5 times what it was granted, in bytes, as its fence allows.
const MEMORY_BEYOND: u64 = 1 << 30;

/// An engine that is loading or loaded.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(super) id: EngineId,
    pub(super) pid: u32,
    /// The model's files when the engine was told to load them.
    pub(super) files: ModelFiles,
    /// Whether one of them has been replaced since.
    pub(super) replaced: bool,
    pub(super) started: Instant,
    pub(super) running: HashSet<JobId>,
    pub(super) idle_since: Option<Instant>,
    /// Since when progress is due: it is loading, or has requests.
    pub(super) awaited_since: Option<Instant>,
    pub(super) stay: Stay,
    /// The bytes reserved for it, and whether that is less than it would have liked.
    pub(super) reserved: u64,
    pub(super) shrunk: bool,
    /// The bytes that it was told it may take.
    pub(super) granted: u64,
    /// Where it keeps the states of sessions.
    pub(super) state: Option<StateDirectory>,
    /// How many more events this daemon need not know.
    pub(super) surprises_left: u32,
    /// Its resident memory in bytes, and when that was measured.
    pub(super) resident: (u64, Option<Instant>),
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

/// An engine that was just started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) id: EngineId,
    pub(crate) pid: u32,
    /// The model's files before it was started.
    pub(crate) files: ModelFiles,
    /// How long it stays unless a request says otherwise.
    pub(crate) usual: KeepAlive,
    pub(crate) pinned: bool,
    /// The memory reserved for it, and whether that is less than it would have liked.
    pub(crate) reserved: u64,
    pub(crate) shrunk: bool,
    /// The bytes that it may take.
    pub(crate) granted: u64,
    pub(crate) state: Option<StateDirectory>,
}

impl Engine {
    pub(super) fn new(started: Started, keep_alive: Option<KeepAlive>, now: Instant) -> Self {
        let Started { id, pid, files, usual, pinned, reserved, shrunk, granted, state } = started;
        Self {
            id,
            pid,
            files,
            replaced: false,
            started: now,
            running: HashSet::new(),
            idle_since: None,
            awaited_since: Some(now),
            stay: Stay { pinned, usual, now: keep_alive.unwrap_or(usual) },
            reserved,
            shrunk,
            granted,
            state,
            surprises_left: SURPRISES,
            resident: (0, None),
        }
    }

    pub(crate) fn id(&self) -> EngineId {
        self.id
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it can have allocated of the memory that it reports: its fence stops it there.
    pub(super) fn believe(&self, said: Memory) -> Memory {
        let most = self.granted.saturating_add(self.granted / 2).saturating_add(MEMORY_BEYOND);
        let mut left = most;
        let mut cut = |bytes: u64| {
            let believed = bytes.min(left);
            left -= believed;
            believed
        };
        Memory {
            weights: cut(said.weights),
            cache: cut(said.cache),
            buffers: cut(said.buffers),
            parked: cut(said.parked),
        }
    }

    /// Whether a file that it loaded has been replaced, if `files` are the model's files now. Once
    /// true, it stays true.
    pub(super) fn was_replaced(&mut self, files: &ModelFiles) -> bool {
        self.replaced = self.replaced || self.files.were_replaced(files);
        self.replaced
    }

    /// Measures its resident memory, unless the last measurement is younger than `believed`.
    pub(super) fn measure(
        &mut self,
        now: Instant,
        believed: Duration,
        resident: impl Fn(u32) -> u64,
    ) {
        if self.resident.1.is_none_or(|at| at + believed <= now) {
            self.resident = (resident(self.pid), Some(now));
        }
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
    pub(super) fn unload_at(&self) -> Option<Instant> {
        match self.stay {
            Stay { pinned: true, .. } | Stay { now: KeepAlive::Forever, .. } => None,
            Stay { now: KeepAlive::For(time), .. } => Some(self.idle_since? + time),
        }
    }

    /// Counts an event that this daemon does not know. Returns false if there were too many.
    pub(crate) fn surprises(&mut self) -> bool {
        self.surprises_left = self.surprises_left.saturating_sub(1);
        self.surprises_left > 0
    }

    /// Notes that it was given a request.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.awaited_since.get_or_insert(now);
    }

    /// Assigns a job to it.
    pub(super) fn begin(&mut self, job: JobId) {
        self.running.insert(job);
        self.idle_since = None;
    }

    /// Takes a job off it.
    pub(super) fn end(&mut self, job: &JobId, now: Instant) {
        if self.running.remove(job) {
            self.rest_if_idle(now);
        }
    }

    pub(super) fn rest_if_idle(&mut self, now: Instant) {
        if self.running.is_empty() {
            self.idle_since = Some(now);
        }
    }

    pub(crate) fn has_jobs(&self) -> bool {
        !self.running.is_empty()
    }

    pub(crate) fn jobs(&self) -> Vec<JobId> {
        self.running.iter().cloned().collect()
    }
}
