//! Moves jobs from the queue to the engines: which job begins where, and when.

use std::time::{Duration, Instant};

use threadrunner_core::{ErrorCode, Failure, JobId, ModelRef, Priority};

use super::live::Stage;
use super::owner::Owner;
use super::view::Phase;

/// The shortest time between two reports of places: each change of the queue moves everyone's.
const PLACES_EVERY: Duration = Duration::from_millis(50);

impl Owner {
    /// Begins every job that can begin now.
    pub(super) fn dispatch(&mut self) {
        self.assign_rooms();
        if self.stopping.is_none() && self.short_until.is_none() {
            // Loaded models go first: loading is slow.
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

    fn dispatch_model(&mut self, model: &ModelRef) {
        if self.engines.get(model).is_some_and(|engine| self.rooms.yields(engine.id())) {
            return;
        }
        let takes_more = self.engines.get(model).is_some_and(|engine| engine.free_slots(true) > 0);
        if takes_more && self.finishes_with_old_files(model) {
            return;
        }
        match self.try_engine(model) {
            Ok(true) => {}
            Ok(false) => return,
            Err(failure) if failure.code == ErrorCode::Overloaded => {
                // Retried at the next event, at the latest at the next listing.
                tracing::debug!(%failure, "queued jobs wait");
                return;
            }
            Err(failure) => {
                // Every job of this model would fail like this, so leave none waiting.
                while let Some(id) = self.queue.pop(model, false) {
                    self.fail_queued(&id, failure.clone());
                }
                self.fail_load(model, &failure);
                return;
            }
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

    /// Takes the next job for which this model's engine has a slot.
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
        if !goes_first
            || yields
            || self.finishes_with_old_files(model)
            || !self.try_engine(model)?
        {
            return Ok(false);
        }
        Ok(self.engines.get(model).is_some_and(|engine| engine.free_slots(interactive) > 0))
    }

    /// Reports places to the readers of queued jobs now, or later if the last report was just now.
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

    /// Reports their places to the readers of all queued jobs.
    pub(super) fn tell_places(&mut self, now: Instant) {
        self.places_told = Some(now);
        self.places_at = None;
        for id in &self.watched {
            self.tell_place(id);
        }
    }

    /// Reports a queued job's place to its readers.
    pub(super) fn tell_place(&self, id: &JobId) {
        if let Some(live) = self.live.get(id)
            && let Some(position) = self.position(id)
        {
            live.set_phase(Phase::Queued { position });
        }
    }
}
