//! Models that are being sized: a process reads from a model's header how much memory it would take.

use std::time::{Duration, Instant};

use threadrunner_core::ModelRef;
use threadrunner_core::engine_protocol::Event;

use super::Fleet;
use super::slot::{ModelSlot, Sizing};
use crate::engine::EngineId;
use crate::jobs::sizes::{Size, Sized};
use crate::model_files::ModelFiles;

/// How long reading a header may take; a disk may have to spin up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is to be done with a process that was asked for a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Estimate {
    /// Nothing: its answer is to come.
    Awaited,
    /// Let it exit: it has answered.
    Given,
    /// Kill it: it gives none.
    Failed,
}

impl Fleet {
    /// Notes that a process was started to read how much memory a model takes.
    pub(crate) fn sizing(
        &mut self,
        model: &ModelRef,
        process: EngineId,
        files: ModelFiles,
        now: Instant,
    ) {
        self.processes.insert(process, model.clone());
        let sizing = Sizing { process, files, until: now + PATIENCE };
        self.enter(model, Some(ModelSlot::Sizing(sizing)));
    }

    fn take_sizing(&mut self, process: EngineId) -> Option<(ModelRef, Sizing)> {
        let model = self.processes.get(&process)?.clone();
        let Some(ModelSlot::Sizing(_)) = self.slots.get(&model) else { return None };
        self.processes.remove(&process);
        match self.enter(&model, Some(ModelSlot::Waiting)) {
            Some(ModelSlot::Sizing(sizing)) => Some((model, sizing)),
            _ => None,
        }
    }

    fn is_sizing(&self, process: EngineId) -> bool {
        let slot = self.processes.get(&process).and_then(|model| self.slots.get(model));
        matches!(slot, Some(ModelSlot::Sizing(_)))
    }

    /// Takes what a process said. Returns `None` if it was not asked for a size.
    pub(crate) fn estimated(&mut self, process: EngineId, events: &[Event]) -> Option<Estimate> {
        if !self.is_sizing(process) {
            return None;
        }
        let size = match events.iter().find(|event| !matches!(event, Event::Unknown)) {
            None => return Some(Estimate::Awaited),
            Some(Event::Sized { wanted, least }) => {
                Size::Known(Sized { wanted: *wanted, least: *least, measured: None })
            }
            Some(Event::LoadFailed { failure }) => Size::Failed(failure.clone()),
            _ => return self.no_estimate(process, "sent an unexpected event"),
        };
        let (model, sizing) = self.take_sizing(process)?;
        self.sizes.remember(model, sizing.files, size);
        Some(Estimate::Given)
    }

    /// Gives up on a process that is gone or gave no answer. Returns `None` if it was not asked for
    /// a size. The size then counts as 0: loading the model shows what it takes, or why it cannot
    /// be loaded.
    pub(crate) fn no_estimate(&mut self, process: EngineId, how: &str) -> Option<Estimate> {
        let (model, sizing) = self.take_sizing(process)?;
        tracing::warn!(model = model.name(), how, "cannot estimate the model's memory");
        self.sizes.remember(model, sizing.files, Size::Known(Sized::default()));
        Some(Estimate::Failed)
    }

    pub(super) fn sizings(&self) -> impl Iterator<Item = &Sizing> {
        self.slots.values().filter_map(|slot| match slot {
            ModelSlot::Sizing(sizing) => Some(sizing),
            _ => None,
        })
    }

    /// Gives up on estimates that take too long. Returns the processes to kill.
    pub(crate) fn late_estimates(&mut self, now: Instant) -> Vec<EngineId> {
        let late = self.sizings().filter(|it| it.until <= now).map(|it| it.process);
        let late: Vec<_> = late.collect();
        for process in &late {
            self.no_estimate(*process, "did not answer");
        }
        late
    }
}
