//! How much memory models would take: asked of an engine process before one is loaded.
//!
//! The daemon does not read model files, which are somebody else's input. A process that is fenced
//! in as an engine is reads the header, answers, and exits. What it said is kept until the file
//! changes; what an engine took that was loaded since goes before it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::Event;
use threadrunner_core::{Failure, Memory, ModelRef};

use crate::engine::{EngineId, EngineProcess};
use crate::model_files::ModelFiles;

/// How long reading a header may take; a disk may have to wake up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Models that are remembered.
const REMEMBERED: usize = 1024;

/// What is known of models that are not loaded.
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

/// How a model stands.
#[derive(Debug, Clone)]
pub(super) enum Size {
    /// It takes this.
    Known(Sized),
    /// It is no model.
    Failed(Failure),
}

/// What a model takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sized {
    /// With the usual context, or the one that was asked for.
    pub(super) wanted: Memory,
    /// With the least that it can do with.
    pub(super) least: Memory,
    /// What it took as wanted, when it was loaded last.
    pub(super) measured: Option<u64>,
}

impl Sizes {
    /// Whether somebody is being asked about this model.
    pub(super) fn is_asked(&self, model: &ModelRef) -> bool {
        self.asking.values().any(|asking| asking.model == *model)
    }

    /// What is known of it, if its file is still the same.
    pub(super) fn get(&self, model: &ModelRef) -> Option<&Size> {
        let (files, size) = self.known.get(model)?;
        (*files == ModelFiles::of(model)).then_some(size)
    }

    /// Takes note that a process was asked.
    pub(super) fn ask(&mut self, model: ModelRef, process: EngineProcess, now: Instant) {
        let asking =
            Asking { files: ModelFiles::of(&model), model, until: now + PATIENCE, process };
        self.asking.insert(asking.process.id, asking);
    }

    /// Takes note of what a process said, if it is one that was asked.
    pub(super) fn heard(&mut self, id: EngineId, events: &[Event]) -> bool {
        if !self.asking.contains_key(&id) {
            return false;
        }
        let size = match events.first() {
            Some(Event::Sized { wanted, least }) => {
                Size::Known(Sized { wanted: *wanted, least: *least, measured: None })
            }
            Some(Event::LoadFailed { failure }) => Size::Failed(failure.clone()),
            _ => return self.gone(id, "spoke of something else"),
        };
        if let Some(asking) = self.asking.remove(&id) {
            self.remember(asking, size);
        }
        true
    }

    /// Takes note that a process is gone, if it is one that was asked. Where it said nothing,
    /// loading the model shows what it takes, or why it cannot be loaded.
    pub(super) fn gone(&mut self, id: EngineId, how: &str) -> bool {
        let Some(asking) = self.asking.remove(&id) else { return false };
        asking.process.kill();
        tracing::warn!(model = asking.model.name(), how, "nobody says how much memory it takes");
        self.remember(asking, Size::Known(Sized::default()));
        true
    }

    /// Gives up those that take too long.
    pub(super) fn time(&mut self, now: Instant) {
        let late: Vec<_> =
            self.asking.iter().filter(|(_, it)| it.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.gone(id, "did not answer");
        }
    }

    /// When to look at the time again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.asking.values().map(|asking| asking.until).min()
    }

    /// Takes note of what a model takes that was loaded as wanted.
    pub(super) fn measured(&mut self, model: &ModelRef, bytes: u64) {
        if let Some((_, Size::Known(sized))) = self.known.get_mut(model) {
            sized.measured = Some(bytes);
        }
    }

    /// Forgets what is known of a model.
    pub(super) fn forget(&mut self, model: &ModelRef) {
        self.known.remove(model);
    }

    fn remember(&mut self, asking: Asking, size: Size) {
        if self.known.len() >= REMEMBERED {
            // So many different files are a test or an accident: they are asked about again.
            self.known.clear();
        }
        self.known.insert(asking.model, (asking.files, size));
    }

    /// As if a model had been asked about.
    #[cfg(test)]
    pub(super) fn set(&mut self, model: &ModelRef, bytes: u64) {
        let memory = Memory { weights: bytes, ..Memory::default() };
        let sized = Sized { wanted: memory, least: memory, measured: None };
        self.known.insert(model.clone(), (ModelFiles::of(model), Size::Known(sized)));
    }
}
