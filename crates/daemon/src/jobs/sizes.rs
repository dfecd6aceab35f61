//! How much memory a model would take: asked of an engine process before the model is loaded.
//!
//! The daemon reads no model files, because it cannot trust them. A process that is fenced in like
//! an engine reads the header, answers and exits. The answer is kept until the file changes; once
//! an engine has loaded the model, what it really took counts instead.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::Event;
use threadrunner_core::{Failure, Memory, ModelRef};

use crate::engine::{EngineId, EngineProcess};
use crate::model_files::ModelFiles;

/// How long reading a header may take; a disk may have to spin up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many models to remember.
const REMEMBERED: usize = 1024;

/// What is known about models that are not loaded.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    known: HashMap<ModelRef, (ModelFiles, Size)>,
    asking: HashMap<EngineId, Asking>,
}

#[derive(Debug)]
struct Asking {
    model: ModelRef,
    files: ModelFiles,
    until: Instant,
    process: EngineProcess,
}

/// What is known about a model.
#[derive(Debug, Clone)]
pub(super) enum Size {
    /// It takes this much.
    Known(Sized),
    /// It is not a model that can be loaded.
    Failed(Failure),
}

/// The memory that a model takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sized {
    /// With the context that was asked for, or the usual one.
    pub(super) wanted: Memory,
    /// With the smallest context that is of use.
    pub(super) least: Memory,
    /// What it took when it was last loaded as `wanted`, in bytes.
    pub(super) measured: Option<u64>,
}

impl Sizes {
    /// Whether a process is being asked about this model.
    pub(super) fn is_asked(&self, model: &ModelRef) -> bool {
        self.asking.values().any(|asking| asking.model == *model)
    }

    /// What is known about a model, if its files are still the same.
    pub(super) fn get(&self, model: &ModelRef) -> Option<&Size> {
        let (files, size) = self.known.get(model)?;
        (*files == ModelFiles::of(model)).then_some(size)
    }

    /// Records that a process was asked about a model.
    pub(super) fn ask(&mut self, model: ModelRef, process: EngineProcess, now: Instant) {
        let asking =
            Asking { files: ModelFiles::of(&model), model, until: now + PATIENCE, process };
        self.asking.insert(asking.process.id, asking);
    }

    /// Takes what a process said. Returns false if that process was not asked for a size.
    pub(super) fn heard(&mut self, id: EngineId, events: &[Event]) -> bool {
        if !self.asking.contains_key(&id) {
            return false;
        }
        let size = match events.iter().find(|event| !matches!(event, Event::Unknown)) {
            None => return true,
            Some(Event::Sized { wanted, least }) => {
                Size::Known(Sized { wanted: *wanted, least: *least, measured: None })
            }
            Some(Event::LoadFailed { failure }) => Size::Failed(failure.clone()),
            _ => return self.gone(id, "sent an unexpected event"),
        };
        if let Some(asking) = self.asking.remove(&id) {
            self.remember(asking, size);
        }
        true
    }

    /// Gives up on a process that is gone or gave no answer. Returns false if it was not asked for
    /// a size. The size then counts as 0: loading the model shows what it takes, or why it cannot
    /// be loaded.
    pub(super) fn gone(&mut self, id: EngineId, how: &str) -> bool {
        let Some(asking) = self.asking.remove(&id) else { return false };
        asking.process.kill();
        tracing::warn!(model = asking.model.name(), how, "cannot estimate the model's memory");
        self.remember(asking, Size::Known(Sized::default()));
        true
    }

    /// Gives up on processes that take too long.
    pub(super) fn time(&mut self, now: Instant) {
        let late: Vec<_> =
            self.asking.iter().filter(|(_, it)| it.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.gone(id, "did not answer");
        }
    }

    /// When the first of the processes is late.
    pub(super) fn next(&self) -> Option<Instant> {
        self.asking.values().map(|asking| asking.until).min()
    }

    /// Records what a model took when it was loaded as `wanted`.
    pub(super) fn measured(&mut self, model: &ModelRef, bytes: u64) {
        if let Some((_, Size::Known(sized))) = self.known.get_mut(model) {
            sized.measured = Some(bytes);
        }
    }

    /// Forgets what is known about a model.
    pub(super) fn forget(&mut self, model: &ModelRef) {
        self.known.remove(model);
    }

    fn remember(&mut self, asking: Asking, size: Size) {
        if self.known.len() >= REMEMBERED {
            // This many different files are a test or an accident: ask about them again.
            self.known.clear();
        }
        self.known.insert(asking.model, (asking.files, size));
    }

    /// Sets a model's size as if a process had told it.
    #[cfg(test)]
    pub(super) fn set(&mut self, model: &ModelRef, bytes: u64) {
        let memory = Memory { weights: bytes, ..Memory::default() };
        let sized = Sized { wanted: memory, least: memory, measured: None };
        self.known.insert(model.clone(), (ModelFiles::of(model), Size::Known(sized)));
    }
}
