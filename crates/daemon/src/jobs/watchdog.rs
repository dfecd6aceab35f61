//! Kills engines that make no progress for too long, or do what they may not.
//!
//! Such an engine is killed rather than told to exit: it may no longer be running our code.

use std::time::{Duration, Instant};

use threadrunner_core::{ErrorCode, Failure, ModelRef};

use super::engines::{engine_died, path_of};
use super::fleet::Engine;
use super::owner::Owner;
use crate::engine::EngineId;

/// Hints for an engine that is too slow, and for one that is not to be trusted.
const SLOW: &str = "if the machine is just slow, raise engine_timeout in config.toml";
const UNTRUSTED: &str =
    "get the model file from a source that you trust, or report a bug in the engine";

/// How often to check how much engines have written.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How much more than its limit an engine may have written: a factor, and bytes on top. It writes a
/// session's new state before it removes the old one.
const STATES_BEYOND: (u64, u64) = (2, 1 << 20);

impl Owner {
    /// Kills the processes that were asked how much memory a model takes and do not answer.
    pub(super) fn end_late_estimates(&mut self, now: Instant) {
        for process in self.fleet.late_estimates(now) {
            self.processes.kill(process);
            self.processes.release(process);
        }
    }

    /// Kills the engines that have made no progress for `engine_timeout`.
    pub(super) fn end_silent_engines(&mut self, now: Instant) {
        let patience = self.config.engine_timeout;
        for model in self.fleet.silent(now, patience) {
            let seconds = patience.as_secs_f64();
            let what = format!("made no progress in time (engine_timeout is {seconds} s)");
            self.kill_engine(&model, &what, SLOW);
        }
    }

    /// Schedules the next check of what engines write, while any may write.
    pub(super) fn watch_states(&mut self, now: Instant) {
        let written = self.fleet.all().any(|engine| engine.state().is_some());
        let next = now + LOOK_EVERY;
        self.times.states = written.then(|| self.times.states.map_or(next, |at| at.min(next)));
    }

    /// Has what engines have written measured.
    pub(super) fn measure_states(&mut self, now: Instant) {
        let engines = self.fleet.all();
        let engines = engines.filter_map(|it| Some((it.id(), it.state()?.path.clone(), it.pid())));
        self.times.states = None;
        if !self.disk.measure(engines.collect()) {
            self.watch_states(now);
        }
    }

    /// Kills the engines that have written far more than they may, given how many bytes each has
    /// written. The system limits the size of each of their files, but not the number of files.
    pub(super) fn end_engines_that_fill_the_disk(
        &mut self,
        written: Vec<(EngineId, u64)>,
        now: Instant,
    ) {
        let mut greedy = Vec::new();
        for (id, written) in written {
            let Some(model) = self.fleet.model_of(id) else { continue };
            let Some(state) = self.fleet.engine(model).and_then(Engine::state) else { continue };
            let (times, more) = STATES_BEYOND;
            if written > state.max_bytes.saturating_mul(times).saturating_add(more) {
                let most = state.max_bytes;
                greedy.push((
                    model.clone(),
                    format!("wrote {written} bytes of session state, and its limit is {most}"),
                ));
            }
        }
        for (model, what) in greedy {
            self.end_engine(&model, &what);
        }
        self.watch_states(now);
    }

    /// Kills an engine that did what it may not. `what` continues a sentence that begins with "it".
    pub(super) fn end_engine(&mut self, model: &ModelRef, what: &str) {
        self.kill_engine(model, what, UNTRUSTED);
    }

    fn kill_engine(&mut self, model: &ModelRef, what: &str, hint: &str) {
        let Some(engine) = self.fleet.engine(model) else { return };
        tracing::error!(model = model.name(), pid = engine.pid(), what, "killing the engine");
        self.processes.kill(engine.id());
        if self.fleet.loading(model).is_some() {
            let failure = Failure::new(
                ErrorCode::ModelLoad,
                format!("the engine was killed while loading {}: it {what}", path_of(model)),
            )
            .hint(hint);
            self.load_failed(model, &failure, false);
            return;
        }
        let Some(engine) = self.forget_engine(model) else { return };
        let failure = engine_died(what).hint(hint);
        for id in engine.jobs() {
            self.lose_attempt(&id, &failure);
        }
    }
}
