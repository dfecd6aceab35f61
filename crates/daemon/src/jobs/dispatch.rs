//! Which job begins where: between the queue and the engines.

use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{Load, VERSION};
use threadrunner_core::{ErrorCode, Failure, JobId, ModelRef, Priority};

use super::live::Stage;
use super::owner::Owner;
use super::rooms::{Room, Wanted};
use super::view::Phase;
use crate::engine::Engine;

/// Engines at once. The one that has been idle longest makes way for another.
const ENGINES: usize = 4;
/// How often places are told at most: each change moves everybody's.
const PLACES_EVERY: Duration = Duration::from_millis(50);

impl Owner {
    /// Begins every job that can begin now.
    pub(super) fn dispatch(&mut self) {
        self.assign_rooms();
        if self.stopping.is_none() && self.short_until.is_none() {
            // Work is grouped by loaded model: loading takes long.
            let loaded = self.queue.models().filter(|model| self.engines.contains_key(*model));
            for model in loaded.cloned().collect::<Vec<_>>() {
                self.dispatch_model(&model);
            }
            for model in self.rooms.waiting() {
                self.dispatch_model(&model);
            }
        }
        if self.queue.take_changed() {
            self.places_changed();
        }
    }

    /// Decides which engines take no new jobs, because other models have waited long for one.
    fn assign_rooms(&mut self) {
        let without = self.queue.models().filter(|model| !self.engines.contains_key(*model));
        let wanted: Vec<_> = without
            .map(|model| Wanted {
                model: model.clone(),
                interactive: self.queue.interactive_waits(model),
            })
            .collect();
        let rooms: Vec<_> = self
            .engines
            .values()
            .map(|engine| Room {
                engine: engine.id(),
                started: engine.started(),
                idle: engine.idle_since().is_some(),
            })
            .collect();
        self.rooms.decide(Instant::now(), &wanted, &rooms, ENGINES.saturating_sub(rooms.len()));
    }

    fn dispatch_model(&mut self, model: &ModelRef) {
        if self.engines.get(model).is_some_and(|engine| self.rooms.yields(engine.id())) {
            return;
        }
        if !self.engines.contains_key(model) && !self.can_start_engine() {
            return;
        }
        if let Err(failure) = self.ensure_engine(model) {
            if failure.code == ErrorCode::Overloaded {
                // It is tried again with whatever happens next, a listing at the latest.
                tracing::debug!(%failure, "queued jobs wait");
                return;
            }
            // Every job of this model would end so: none is left to wait for what does not come.
            while let Some(id) = self.queue.pop(model, false) {
                self.fail_queued(&id, failure.clone());
            }
            return;
        }
        while let Some(id) = self.pop_fitting(model) {
            if let Some(engine) = self.engines.get_mut(model) {
                engine.begin(id.clone());
            }
            self.watched.remove(&id);
            if let Some(live) = self.live.get_mut(&id) {
                live.stage = Stage::Claiming;
                self.stores[live.workspace].claim(id);
            }
        }
    }

    /// The next job for which this model's engine has a place.
    fn pop_fitting(&mut self, model: &ModelRef) -> Option<JobId> {
        let engine = self.engines.get(model)?;
        if engine.free_slots(false) > 0 {
            self.queue.pop(model, false)
        } else if engine.free_slots(true) > 0 {
            self.queue.pop(model, true)
        } else {
            None
        }
    }

    /// Whether a new job of this model can begin without being queued.
    pub(super) fn may_begin_at_once(
        &mut self,
        model: &ModelRef,
        priority: Priority,
    ) -> Result<bool, Failure> {
        let interactive = priority == Priority::Interactive;
        let goes_first = if interactive {
            !self.queue.interactive_waits(model)
        } else {
            !self.queue.waits(model)
        };
        let yields = self.engines.get(model).is_some_and(|engine| self.rooms.yields(engine.id()));
        if !goes_first || yields || (!self.engines.contains_key(model) && !self.can_start_engine())
        {
            return Ok(false);
        }
        Ok(self.ensure_engine(model)?.free_slots(interactive) > 0)
    }

    fn can_start_engine(&self) -> bool {
        self.engines.len() < ENGINES
            || self.engines.values().any(|engine| engine.idle_since().is_some())
    }

    /// The engine of a model, started if there is none.
    pub(super) fn ensure_engine(&mut self, model: &ModelRef) -> Result<&mut Engine, Failure> {
        if !self.engines.contains_key(model) {
            self.make_room()?;
            let options = self.config.engine.clone();
            let state = self.states.directory(model);
            let load = Load { v: VERSION, model: model.clone(), options, state };
            let engine = Engine::new(self.spawner.spawn(load)?, model.clone(), Instant::now());
            self.processes.insert(engine.id(), model.clone());
            self.engines.insert(model.clone(), engine);
        }
        self.engines
            .get_mut(model)
            .ok_or_else(|| Failure::new(ErrorCode::Internal, "the engine was not kept"))
    }

    fn make_room(&mut self) -> Result<(), Failure> {
        if self.engines.len() < ENGINES {
            return Ok(());
        }
        let idle = self.engines.values().filter(|engine| engine.idle_since().is_some());
        // One that makes way for this goes before one that may be asked again.
        let oldest = idle
            .min_by_key(|engine| (!self.rooms.yields(engine.id()), engine.idle_since()))
            .map(|engine| engine.model().clone());
        match oldest {
            Some(model) => {
                self.forget_engine(&model);
                Ok(())
            }
            None => Err(Failure::new(
                ErrorCode::Overloaded,
                format!("{ENGINES} models are loaded and all are busy"),
            )
            .hint("try again later, or unload one with `threadrunner unload MODEL`")),
        }
    }

    /// Orders an engine to exit and keeps nothing of it.
    pub(super) fn forget_engine(&mut self, model: &ModelRef) -> Option<Engine> {
        let engine = self.engines.remove(model)?;
        self.processes.remove(&engine.id());
        self.requests.retain(|_, (_, owner)| *owner != engine.id());
        Some(engine)
    }

    /// Ends engines that have been idle for the configured time.
    pub(super) fn unload_idle(&mut self, now: Instant) {
        let timeout = self.config.idle_timeout;
        let idle: Vec<_> = self
            .engines
            .values()
            .filter(|engine| engine.idle_since().is_some_and(|since| now - since >= timeout))
            .map(|engine| engine.model().clone())
            .collect();
        for model in idle {
            tracing::info!(model = model.name(), "unloaded: idle");
            self.forget_engine(&model);
        }
    }

    /// Has those told their places who watch queued jobs: now, or when it is time again.
    fn places_changed(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        let now = Instant::now();
        match self.places_told.map(|told| told + PLACES_EVERY) {
            Some(next) if next > now => self.places_at = Some(next),
            _ => self.tell_places(now),
        }
    }

    /// Tells those who watch queued jobs their places.
    pub(super) fn tell_places(&mut self, now: Instant) {
        self.places_told = Some(now);
        self.places_at = None;
        for id in &self.watched {
            self.tell_place(id);
        }
    }

    /// Tells those who watch a queued job its place.
    pub(super) fn tell_place(&self, id: &JobId) {
        if let Some(live) = self.live.get(id)
            && let Some(position) = self.position(id)
        {
            live.set_phase(Phase::Queued { position });
        }
    }
}
