//! Kills engines that make no progress for too long, or do what they may not.
//!
//! Such an engine is killed rather than told to exit: it may no longer be running our code.

use std::num::NonZero;
use std::time::{Duration, Instant};

use threadrunner_core::{ErrorCode, Failure, ModelRef};

use super::engines::{engine_died, path_of};
use super::fleet::Engine;
use super::owner::Owner;
use crate::engine::EngineId;
use crate::states::MOST_FILES;
use crate::taken::Taken;

/// Hints for an engine that is too slow, and for one that is not to be trusted.
const SLOW: &str = "if the machine is just slow, raise engine_timeout in config.toml";
const UNTRUSTED: &str =
    "get the model file from a source that you trust, or report a bug in the engine";

/// How long an engine may go on with a canceled request. A forward pass ends early for it; only
/// rendering and tokenizing a very long prompt do not.
const CANCEL_GRACE: Duration = Duration::from_secs(30);

/// How often to check what engines take.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How much more than its limit an engine may have written: a factor, and bytes on top. It writes a
/// session's new state before it removes the old one.
const STATES_BEYOND: (u64, u64) = (2, 1 << 20);
/// The maximum number of an engine's threads: a factor for those that compute, and a number on top.
/// llama.cpp keeps two pools of them, and a GPU's driver starts some.
const THREADS: (u32, u32) = (4, 64);

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

    /// How long an engine may go on with a canceled request.
    pub(super) fn cancel_grace(&self) -> Duration {
        CANCEL_GRACE.min(self.config.engine_timeout)
    }

    /// Kills the engines that go on with a request that they were told to cancel. It would keep
    /// them busy for nobody, and other models waiting.
    pub(super) fn end_disobedient_engines(&mut self, now: Instant) {
        let grace = self.cancel_grace();
        for id in self.requests.disobedient(now, grace) {
            let Some(model) = self.fleet.model_of(id).cloned() else { continue };
            let seconds = grace.as_secs_f64();
            let what = format!("went on with a request for {seconds} s after it was canceled");
            self.end_engine(&model, &what);
        }
    }

    /// Schedules the next check of what engines take, while there are any.
    pub(super) fn watch_engines(&mut self, now: Instant) {
        let any = self.fleet.all().next().is_some();
        let next = now + LOOK_EVERY;
        self.times.taken = any.then(|| self.times.taken.map_or(next, |at| at.min(next)));
    }

    /// Has what engines take measured.
    pub(super) fn measure_engines(&mut self, now: Instant) {
        let engines = self.fleet.all().map(|it| (it.id(), it.pid(), it.state().cloned()));
        self.times.taken = None;
        if !self.disk.measure(engines.collect()) {
            self.watch_engines(now);
        }
    }

    /// Kills the engines that have written far more than they may, or have far more threads than
    /// they need. The system limits the size of each of their files, but not the number of files,
    /// and the threads only of all processes of a user together.
    pub(super) fn end_engines_that_take_too_much(
        &mut self,
        taken: Vec<(EngineId, Taken)>,
        now: Instant,
    ) {
        for (id, taken) in taken {
            let Some(model) = self.fleet.model_of(id).cloned() else { continue };
            if let Some(what) = self.too_much(&model, taken) {
                self.end_engine(&model, &what);
            }
        }
        self.watch_engines(now);
    }

    /// What an engine takes beyond what it may, if anything. The text continues a sentence that
    /// begins with "it".
    fn too_much(&self, model: &ModelRef, taken: Taken) -> Option<String> {
        let Taken { bytes, files, threads } = taken;
        if let Some(state) = self.fleet.engine(model).and_then(Engine::state) {
            let (times, more) = STATES_BEYOND;
            let most = state.max_bytes;
            if bytes > most.saturating_mul(times).saturating_add(more) {
                return Some(format!(
                    "wrote {bytes} bytes of session state, and its limit is {most}"
                ));
            }
            if files > MOST_FILES {
                return Some(format!("wrote more than {MOST_FILES} files of session state"));
            }
        }
        let options = self.models.settings(model).engine_options(&self.config.engine);
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let computing = u32::try_from(processors).unwrap_or(u32::MAX);
        let computing = computing.max(options.threads.unwrap_or(0));
        let (times, more) = THREADS;
        let most = computing.saturating_mul(times).saturating_add(more);
        (threads > most).then(|| format!("started {threads} threads, and its limit is {most}"))
    }

    /// Kills an engine that did what it may not. `what` continues a sentence that begins with "it".
    pub(super) fn end_engine(&mut self, model: &ModelRef, what: &str) {
        self.kill_engine(model, what, UNTRUSTED);
    }

    fn kill_engine(&mut self, model: &ModelRef, what: &str, hint: &str) {
        let Some(engine) = self.fleet.engine(model) else { return };
        tracing::error!(model = model.name(), pid = engine.pid(), what, "killing the engine");
        self.processes.kill(engine.id());
        self.deaths.died(model, Instant::now());
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
