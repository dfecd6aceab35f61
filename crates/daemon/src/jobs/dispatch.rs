//! Which job begins where: between the queue and the engines.

use std::time::Instant;

use threadrunner_core::engine_protocol::{Load, VERSION};
use threadrunner_core::{ErrorCode, Failure, JobId, ModelRef, Priority};

use super::live::Stage;
use super::owner::Owner;
use super::view::Phase;
use crate::engine::Engine;

/// Engines at once. The one that has been idle longest makes way for another.
const ENGINES: usize = 4;

impl Owner {
    /// Begins every job that can begin now.
    pub(super) fn dispatch(&mut self) {
        if self.stopping.is_none() && self.short_until.is_none() {
            let waiting: Vec<_> = self.queue.models().cloned().collect();
            for model in waiting {
                self.dispatch_model(&model);
            }
        }
        // Not with every token: to tell places is to go through the queue.
        if self.queue.take_changed() {
            self.tell_places();
        }
    }

    fn dispatch_model(&mut self, model: &ModelRef) {
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
            if let Some(live) = self.live.get_mut(&id) {
                live.stage = Stage::Claiming;
            }
            self.watched.remove(&id);
            self.store.claim(id);
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
            self.queue.models().all(|waiting| waiting != model)
        };
        if !goes_first || (!self.engines.contains_key(model) && !self.can_start_engine()) {
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
            let load = Load { v: VERSION, model: model.clone(), options };
            let engine = Engine::new(self.spawner.spawn(load)?, model.clone());
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
        let oldest = idle.min_by_key(|engine| engine.idle_since()).map(|e| e.model().clone());
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

    /// Tells those who watch queued jobs their places.
    pub(super) fn tell_places(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        let models: std::collections::BTreeSet<_> = self
            .watched
            .iter()
            .filter_map(|id| self.live.get(id).map(|live| &live.model))
            .collect();
        for model in models {
            for (position, id) in self.queue.places(model) {
                if self.watched.contains(id)
                    && let Some(live) = self.live.get(id)
                {
                    live.set_phase(Phase::Queued { position });
                }
            }
        }
    }
}
