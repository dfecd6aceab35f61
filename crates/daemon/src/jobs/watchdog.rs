//! Engines that are ended because of what they do: they say nothing for too long, or what they may
//! not say. Such an engine is not asked to go but killed, for it may be anybody by now.

use std::time::{Duration, Instant};

use threadrunner_core::{ErrorCode, Failure, ModelRef};

use super::engines::{engine_died, path_of};
use super::owner::Owner;
use crate::states;

/// A deadline that is noticed so much later was missed by this process itself: it was stopped, or
/// the machine slept. What engines said meanwhile is still to be read.
const LATE: Duration = Duration::from_secs(5);

/// What to do about an engine that is too slow, and about one that is not to be trusted.
const SLOW: &str = "where the machine is just slow, raise engine_timeout in config.toml";
const UNTRUSTED: &str =
    "take the model file from somebody you trust, or report a bug of the engine";

/// How often it is looked at how much engines have written.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many times as much an engine may have written as it was told, and bytes beside that: it
/// writes a session's new state before it removes the old one.
const STATES_BEYOND: (u64, u64) = (2, 1 << 20);

impl Owner {
    /// When the first engine has said nothing for too long.
    pub(super) fn engine_overdue(&self) -> Option<Instant> {
        let patience = self.config.engine_timeout;
        self.engines.values().filter_map(|engine| engine.overdue_at(patience)).min()
    }

    /// Ends the engines that have said nothing for too long.
    pub(super) fn end_silent_engines(&mut self, now: Instant) {
        let patience = self.config.engine_timeout;
        let mut silent = Vec::new();
        for (model, engine) in &mut self.engines {
            match engine.overdue_at(patience) {
                Some(at) if at + LATE < now => engine.wait_anew(now),
                Some(at) if at <= now => silent.push(model.clone()),
                _ => {}
            }
        }
        for model in silent {
            let seconds = patience.as_secs_f64();
            let what = format!("made no progress in time (engine_timeout is {seconds} s)");
            self.kill_engine(&model, &what, SLOW);
        }
    }

    /// Looks at what engines write, as long as there are any that may.
    pub(super) fn watch_states(&mut self, now: Instant) {
        let written = self.engines.values().any(|engine| engine.state().is_some());
        self.states_at =
            written.then(|| self.states_at.map_or(now + LOOK_EVERY, |at| at.min(now + LOOK_EVERY)));
    }

    /// Ends the engines that have written more than they were told: the system bounds each of their
    /// files, and not how many there are.
    pub(super) fn end_engines_that_fill_the_disk(&mut self, now: Instant) {
        let mut greedy = Vec::new();
        for engine in self.engines.values() {
            let Some(state) = engine.state() else { continue };
            let (times, more) = STATES_BEYOND;
            let written = states::written(&state.path, engine.pid());
            if written > state.max_bytes.saturating_mul(times).saturating_add(more) {
                let most = state.max_bytes;
                greedy.push((
                    engine.model().clone(),
                    format!("wrote {written} bytes of sessions' states, and may have {most}"),
                ));
            }
        }
        for (model, what) in greedy {
            self.end_engine(&model, &what);
        }
        self.states_at = None;
        self.watch_states(now);
    }

    /// Ends an engine that did what it may not, in words that go on from "it".
    pub(super) fn end_engine(&mut self, model: &ModelRef, what: &str) {
        self.kill_engine(model, what, UNTRUSTED);
    }

    fn kill_engine(&mut self, model: &ModelRef, what: &str, hint: &str) {
        let Some(engine) = self.engines.get(model) else { return };
        tracing::error!(model = model.name(), pid = engine.pid(), what, "the engine is ended");
        engine.kill();
        if engine.loading().is_some() {
            let failure = Failure::new(
                ErrorCode::ModelLoad,
                format!("the engine was ended while it loaded {}: it {what}", path_of(model)),
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
