//! The engines: which model has one in which state, which waits for room, and which engine must
//! exit.
//!
//! [`Fleet`] is a value: it is told the time, the memory and the files that there are, and what
//! processes do. It starts and ends none itself: it says which are to be started or ended, and its
//! owner tells it when that is done. Which engine makes way for which model is decided by
//! [`Rooms`], how much memory a model is given by [`Share`](super::share::Share).

mod engine;
mod estimates;
mod room;
mod slot;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::EngineInfo;
use threadrunner_core::protocol::{KeptModel, LoadedModel};
use threadrunner_core::{BackendKind, Failure, JobId, JobSpec, ModelId, ModelInfo, ModelRef};

use super::hub::ToUnload;
use super::rooms::{Room, RoomState, Rooms};
use super::sizes::Sizes;
use crate::engine::EngineId;
use crate::model_files::ModelFiles;
pub(super) use engine::{Engine, Started};
pub(super) use estimates::Estimate;
pub(super) use room::Step;
use room::Wish;
use slot::Leaving;
pub(super) use slot::{Loading, ModelSlot, Ready};

/// A deadline noticed this late was missed by the daemon itself: it was stopped, or the machine
/// slept. What engines sent meanwhile is still unread.
const LATE: Duration = Duration::from_secs(5);

/// All models that have an engine or wait for one.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    slots: HashMap<ModelRef, ModelSlot>,
    /// The model of each process that is in a slot.
    processes: HashMap<EngineId, ModelRef>,
    /// Engines that were told to exit but have not exited yet. They have given up their slots,
    /// because their models may be wanted again; their memory is still taken.
    leaving: HashMap<EngineId, Leaving>,
    /// What clients want of models whose next engine has not been started yet.
    wishes: HashMap<ModelRef, Wish>,
    /// What is known about the memory of models that are not loaded.
    sizes: Sizes,
    /// Which engines make way for models that have none.
    rooms: Rooms,
}

/// How an engine stands to the files of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// It has loaded them, or there is no engine.
    Loaded,
    /// They were replaced since. It finishes what it has begun and gets no new jobs.
    Finishing,
    /// They were replaced since, and it is to exit now.
    Outdated,
}

impl Fleet {
    /// Puts a model into another slot.
    fn enter(&mut self, model: &ModelRef, slot: Option<ModelSlot>) -> Option<ModelSlot> {
        let from = self.slots.get(model);
        let legal = ModelSlot::may_become(from, slot.as_ref());
        debug_assert!(legal, "{model:?} cannot go from {from:?} to {slot:?}");
        match slot {
            Some(slot) => self.slots.insert(model.clone(), slot),
            None => self.slots.remove(model),
        }
    }

    /// The engine of a model, loading or loaded.
    pub(super) fn engine(&self, model: &ModelRef) -> Option<&Engine> {
        self.slots.get(model)?.engine()
    }

    pub(super) fn engine_mut(&mut self, model: &ModelRef) -> Option<&mut Engine> {
        self.slots.get_mut(model)?.engine_mut()
    }

    pub(super) fn has_engine(&self, model: &ModelRef) -> bool {
        self.engine(model).is_some()
    }

    pub(super) fn loading(&mut self, model: &ModelRef) -> Option<&mut Loading> {
        match self.slots.get_mut(model) {
            Some(ModelSlot::Loading(loading)) => Some(loading),
            _ => None,
        }
    }

    pub(super) fn ready(&mut self, model: &ModelRef) -> Option<&mut Ready> {
        match self.slots.get_mut(model) {
            Some(ModelSlot::Ready(ready)) => Some(ready),
            _ => None,
        }
    }

    /// What a model is, as far as its engine has said.
    pub(super) fn id_of(&self, model: &ModelRef) -> ModelId {
        match self.slots.get(model) {
            Some(ModelSlot::Ready(ready)) => model.id(ready.digest()),
            _ => model.id(None),
        }
    }

    /// Checks that a model takes what a job asks; unknown until it is loaded.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`](threadrunner_core::ErrorCode::Unsupported).
    pub(super) fn takes(&self, model: &ModelRef, spec: &JobSpec) -> Result<(), Failure> {
        match self.slots.get(model) {
            Some(ModelSlot::Ready(ready)) => ready.takes(spec),
            _ => Ok(()),
        }
    }

    /// The model of an engine, unless the engine was told to exit.
    pub(super) fn model_of(&self, engine: EngineId) -> Option<&ModelRef> {
        self.processes.get(&engine).filter(|model| self.has_engine(model))
    }

    /// The engines of all models.
    pub(super) fn engines(&self) -> impl Iterator<Item = (&ModelRef, &Engine)> {
        self.slots.iter().filter_map(|(model, slot)| Some((model, slot.engine()?)))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Engine> {
        self.engines().map(|(_, engine)| engine)
    }

    /// The process ids of all engines that take memory.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.all().map(Engine::pid).chain(self.leaving.values().map(|leaving| leaving.pid))
    }

    /// Describes the engines for `ps`.
    pub(super) fn describe(&self, now: Instant) -> Vec<LoadedModel> {
        let describe = |(model, slot): (&ModelRef, &ModelSlot)| slot.describe(model, now);
        let mut models: Vec<_> = self.slots.iter().filter_map(describe).collect();
        models.sort_by(|a, b| a.model.cmp(&b.model));
        models
    }

    /// Notes that an engine was started for a model.
    pub(super) fn started(&mut self, model: &ModelRef, mut started: Started, now: Instant) {
        let wish = self.wishes.remove(model).unwrap_or_default();
        started.pinned |= wish.pin;
        self.processes.insert(started.id, model.clone());
        let loading = Loading::new(started, wish.keep_alive, now);
        self.enter(model, Some(ModelSlot::Loading(Box::new(loading))));
    }

    /// Notes that an engine has loaded its model. Returns false if it was not loading.
    pub(super) fn loaded(
        &mut self,
        model: &ModelRef,
        info: ModelInfo,
        built: EngineInfo,
        knows_stream: bool,
        now: Instant,
    ) -> bool {
        if self.loading(model).is_none() {
            return false;
        }
        if let Some(ModelSlot::Loading(loading)) = self.slots.remove(model) {
            let ready = loading.into_ready(info, built, knows_stream, now);
            self.slots.insert(model.clone(), ModelSlot::Ready(Box::new(ready)));
        }
        true
    }

    /// Takes the engine of a model that is to exit. Its memory counts until [`Fleet::exited`].
    pub(super) fn leave(&mut self, model: &ModelRef) -> Option<Engine> {
        self.engine(model)?;
        let slot = self.enter(model, None)?;
        if let Some(bytes) = slot.measured() {
            self.sizes.measured(model, bytes);
        }
        let room = slot.room().map(|room| Room { state: RoomState::Leaving, ..room });
        let engine = slot.into_engine()?;
        self.processes.remove(&engine.id());
        if let Some(room) = room {
            self.leaving.insert(engine.id(), Leaving { room, pid: engine.pid() });
        }
        Some(engine)
    }

    /// Notes that the process of an engine is gone.
    pub(super) fn exited(&mut self, engine: EngineId) {
        self.leaving.remove(&engine);
    }

    /// How a model's engine stands to the model's files, which are `files` now.
    pub(super) fn check_files(&mut self, model: &ModelRef, files: &ModelFiles) -> Files {
        let loads = self.loading(model).is_some();
        let Some(engine) = self.engine_mut(model) else { return Files::Loaded };
        match engine.was_replaced(files) {
            false => Files::Loaded,
            true if loads || engine.has_jobs() => Files::Finishing,
            true => Files::Outdated,
        }
    }

    /// Assigns a job to a model's engine.
    pub(super) fn begin(&mut self, model: &ModelRef, job: JobId) {
        if let Some(engine) = self.engine_mut(model) {
            engine.begin(job);
        }
    }

    /// Takes a job off a model's engine.
    pub(super) fn end(&mut self, model: &ModelRef, job: &JobId, now: Instant) {
        if let Some(engine) = self.engine_mut(model) {
            engine.end(job, now);
        }
    }

    /// How many more jobs a model's engine can take.
    pub(super) fn free_slots(&self, model: &ModelRef, interactive: bool) -> usize {
        self.slots.get(model).map_or(0, |slot| slot.free_slots(interactive))
    }

    /// Notes progress of an engine with its requests, and whether more progress is due.
    pub(super) fn heard(&mut self, model: &ModelRef, awaited: bool, now: Instant) {
        if let Some(slot) = self.slots.get_mut(model) {
            slot.heard(awaited, now);
        }
    }

    /// The models to unload when a client asks for it.
    pub(super) fn to_unload(&self, which: &ToUnload) -> Vec<ModelRef> {
        let chosen = |(loaded, engine): &(&ModelRef, &Engine)| match which {
            ToUnload::Model(model) => loaded.is_as_asked(model),
            ToUnload::Idle(backend) => {
                is_of(loaded, *backend) && !engine.has_jobs() && !engine.is_pinned()
            }
        };
        self.engines().filter(chosen).map(|(model, _)| model.clone()).collect()
    }

    /// Describes the engines that stay when a client has all idle ones (of a backend) unloaded.
    pub(super) fn kept(&self, backend: Option<BackendKind>) -> Vec<KeptModel> {
        let engines = self.engines().filter(|(model, _)| is_of(model, backend));
        let kept = |(model, engine): (&ModelRef, &Engine)| KeptModel {
            name: model.name(),
            pinned: engine.is_pinned(),
            running: u32::try_from(engine.jobs().len()).unwrap_or(u32::MAX),
        };
        let mut kept: Vec<_> = engines.map(kept).collect();
        kept.sort();
        kept
    }

    /// The models to unload because they have been idle for as long as they stay.
    pub(super) fn idle(&self, now: Instant) -> Vec<ModelRef> {
        let idle = self.engines().filter(|(_, it)| it.unload_at().is_some_and(|at| at <= now));
        idle.map(|(model, _)| model.clone()).collect()
    }

    /// The models whose engines have made no progress for `patience`. Those whose deadline the
    /// daemon itself missed get as much time again.
    pub(super) fn silent(&mut self, now: Instant, patience: Duration) -> Vec<ModelRef> {
        let mut silent = Vec::new();
        for (model, slot) in &mut self.slots {
            match slot.overdue_at(patience) {
                Some(at) if at + LATE < now => slot.wait_anew(now),
                Some(at) if at <= now => silent.push(model.clone()),
                _ => {}
            }
        }
        silent
    }

    /// When the first engine has made no progress for `patience`.
    pub(super) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        self.slots.values().filter_map(|slot| slot.overdue_at(patience)).min()
    }

    /// When to decide something, if nothing happens before.
    pub(super) fn next(&self, patience: Duration) -> Option<Instant> {
        let idle = self.all().filter_map(Engine::unload_at).min();
        let estimate = self.sizings().map(|sizing| sizing.until).min();
        [idle, estimate, self.rooms.next(), self.overdue_at(patience)].into_iter().flatten().min()
    }
}

fn is_of(model: &ModelRef, backend: Option<BackendKind>) -> bool {
    backend.is_none_or(|backend| model.backend == backend)
}

#[cfg(test)]
mod tests;
