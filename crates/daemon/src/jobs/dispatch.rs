//! Moves jobs from the queue to the engines: which job begins where, and when.

use std::time::Instant;

use threadrunner_core::{ErrorCode, Failure, JobId, ModelRef, Priority};

use super::live::{Live, Stage};
use super::owner::Owner;
use super::queue::Queue;
use super::view::Phase;

impl Owner {
    /// Begins every job that can begin now.
    pub(super) fn dispatch(&mut self) {
        self.assign_rooms();
        if self.stopping.is_none() && self.times.short.is_none() {
            // Loaded models go first: loading is slow.
            let loaded = self.queue.models().filter(|model| self.fleet.has_engine(model));
            for model in loaded.cloned().collect::<Vec<_>>() {
                self.dispatch_model(&model);
            }
            for model in self.fleet.waiting() {
                self.dispatch_model(&model);
            }
        }
        if self.queue.take_changed() {
            let now = Instant::now();
            self.places.changed(now);
            self.tell_places(now);
        }
    }

    fn dispatch_model(&mut self, model: &ModelRef) {
        if self.fleet.yields(model) {
            return;
        }
        let takes_more = self.fleet.free_slots(model, true) > 0;
        if takes_more && (!self.knows(model) || self.finishes_with_old_files(model)) {
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
            self.fleet.begin(model, id.clone());
            self.places.forget(&id);
            if let Some(live) = self.live.get_mut(&id) {
                live.stage = Stage::Claiming;
                self.stores[live.workspace].claim(id);
            }
        }
    }

    /// Takes the next job for which this model's engine has a slot.
    fn pop_fitting(&mut self, model: &ModelRef) -> Option<JobId> {
        if self.fleet.free_slots(model, false) > 0 {
            self.queue.pop(model, false)
        } else if self.fleet.free_slots(model, true) > 0 {
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
        if !goes_first
            || self.fleet.yields(model)
            || self.finishes_with_old_files(model)
            || !self.try_engine(model)?
        {
            return Ok(false);
        }
        Ok(self.fleet.free_slots(model, interactive) > 0)
    }

    /// Reports their places to the readers of all queued jobs, if that is due.
    pub(super) fn tell_places(&mut self, now: Instant) {
        let Self { places, live, queue, .. } = self;
        for id in places.due(now) {
            tell_place(live.get(id), queue);
        }
    }

    /// Reports a queued job's place to its readers.
    pub(super) fn tell_place(&self, id: &JobId) {
        tell_place(self.live.get(id), &self.queue);
    }
}

fn tell_place(live: Option<&Live>, queue: &Queue) {
    if let Some(live) = live
        && let Stage::Queued(ticket) = live.stage
        && let Some(position) = queue.place(live.lane(), ticket)
    {
        live.set_phase(Phase::Queued { position });
    }
}
