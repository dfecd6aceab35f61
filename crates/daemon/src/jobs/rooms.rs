//! Which engines make way for other models: a bound on waiting, as a value.
//!
//! There is room for a few engines. Jobs of loaded models go first, because loading takes long; a
//! model whose engine is idle makes way at once for one that waits. Where all engines are busy
//! without end, the bound is a time and not a number of jobs: how long a job takes differs by a
//! factor of thousands, and what a person feels is time.

use std::time::{Duration, Instant};

use threadrunner_core::ModelRef;

use crate::engine::EngineId;

/// How long a model's jobs wait until a busy engine takes no new ones and makes way. Loading a
/// model costs seconds: within half a minute of work for each load that is little.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where a person waits.
const INTERACTIVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long an engine may work before it has to make way, so that with many models waiting each
/// does more than load.
const TURN: Duration = PATIENCE;

/// Who waits for room, and who makes it.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    /// The one that waits longest first.
    waiting: Vec<Wait>,
    yielding: Vec<EngineId>,
    next: Option<Instant>,
}

/// A model without an engine that has queued jobs.
#[derive(Debug)]
struct Wait {
    model: ModelRef,
    since: Instant,
    /// Since when an interactive job is among them.
    interactive_since: Option<Instant>,
}

impl Wait {
    fn overdue_at(&self) -> Instant {
        let patient = self.since + PATIENCE;
        self.interactive_since.map_or(patient, |since| patient.min(since + INTERACTIVE_PATIENCE))
    }
}

/// A model that wants an engine.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) model: ModelRef,
    /// Whether an interactive job of it waits.
    pub(super) interactive: bool,
}

/// An engine there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) engine: EngineId,
    pub(super) started: Instant,
    pub(super) idle: bool,
}

impl Rooms {
    /// Takes note of who waits and of the engines there are, `free` more of which could be
    /// started, and decides which of them make way.
    pub(super) fn decide(&mut self, now: Instant, wanted: &[Wanted], rooms: &[Room], free: usize) {
        self.note(now, wanted);
        self.yielding.retain(|engine| rooms.iter().any(|room| room.engine == *engine));
        let idle = rooms.iter().filter(|r| r.idle && !self.yielding.contains(&r.engine)).count();
        let overdue = self.waiting.iter().filter(|wait| wait.overdue_at() <= now).count();
        let needed = overdue.saturating_sub(free + idle);
        // Those that began to make way last may go on, if fewer have to.
        self.yielding.truncate(needed);
        let mut busy: Vec<_> = rooms
            .iter()
            .filter(|room| !room.idle && !self.yielding.contains(&room.engine))
            .collect();
        busy.sort_by_key(|room| room.started);
        let mut next_turn_over = None;
        for room in busy.into_iter().take(needed - self.yielding.len()) {
            if room.started + TURN <= now {
                self.yielding.push(room.engine);
            } else {
                next_turn_over = next_turn_over.or(Some(room.started + TURN));
            }
        }
        let next_overdue = self.waiting.iter().map(Wait::overdue_at).filter(|at| *at > now).min();
        self.next = next_overdue.into_iter().chain(next_turn_over).min();
    }

    fn note(&mut self, now: Instant, wanted: &[Wanted]) {
        self.waiting.retain(|wait| wanted.iter().any(|wanted| wanted.model == wait.model));
        for Wanted { model, interactive } in wanted {
            let at = self.waiting.iter().position(|wait| wait.model == *model);
            let at = at.unwrap_or_else(|| {
                let (model, since) = (model.clone(), now);
                self.waiting.push(Wait { model, since, interactive_since: None });
                self.waiting.len() - 1
            });
            let wait = &mut self.waiting[at];
            wait.interactive_since = interactive.then(|| wait.interactive_since.unwrap_or(now));
        }
    }

    /// The models that wait, the one that does so longest first.
    pub(super) fn waiting(&self) -> Vec<ModelRef> {
        self.waiting.iter().map(|wait| wait.model.clone()).collect()
    }

    /// Whether an engine takes no new jobs.
    pub(super) fn yields(&self, engine: EngineId) -> bool {
        self.yielding.contains(&engine)
    }

    /// When to decide again, if nothing happens before.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests;
