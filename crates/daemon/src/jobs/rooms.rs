//! Which engines make way for other models: a value that is told the memory budget and who waits.
//!
//! There is room for as many engines as fit into the memory budget. Jobs of loaded models go first,
//! because loading is slow. Idle engines make way at once for a model that waits, the least
//! recently used first. If the engines that would have to go are always busy, the wait is bounded
//! by time and not by a number of jobs: jobs differ in length by a factor of thousands, and time is
//! what a person notices. Pinned engines never make way.

use std::time::{Duration, Instant};

use threadrunner_core::ModelRef;

use crate::engine::EngineId;

/// How long a model's jobs wait before a busy engine takes no new jobs and makes way. Loading a
/// model takes seconds, which is little compared to half a minute of work per load.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same if an interactive job waits.
const INTERACTIVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long an engine may work before it has to make way. With many models waiting, each then does
/// more than load.
const TURN: Duration = PATIENCE;

/// Which models wait for room, and which engines make way.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    /// The longest wait first.
    waiting: Vec<Wait>,
    yielding: Vec<EngineId>,
    next: Option<Instant>,
}

/// A model that waits for an engine.
#[derive(Debug)]
struct Wait {
    model: ModelRef,
    bytes: u64,
    since: Instant,
    /// Since when an interactive job has been waiting for it.
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
    /// Whether an interactive job waits for it.
    pub(super) interactive: bool,
    /// The memory it takes; 0 if unknown.
    pub(super) bytes: u64,
}

/// An engine, and the memory it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) engine: EngineId,
    pub(super) started: Instant,
    pub(super) state: RoomState,
    pub(super) bytes: u64,
}

/// What an engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomState {
    /// Working or loading.
    Busy,
    /// Idle since then.
    Idle(Instant),
    /// Pinned: it stays, whatever it does.
    Pinned,
    /// Told to exit, but still there.
    Leaving,
}

/// The limits for all engines together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) engines: usize,
}

/// What a model that wants an engine has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Start: there is room.
    Begin,
    /// Wait until these engines, and those already leaving, have exited; then there is room.
    After(Vec<EngineId>),
    /// Wait: there is no room.
    Wait,
}

/// What a set of engines takes together.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    bytes: u64,
    engines: usize,
}

impl Taken {
    fn by<'a>(rooms: impl Iterator<Item = &'a Room>) -> Self {
        rooms.fold(Self::default(), |taken, room| taken.and(room.bytes))
    }

    fn and(self, bytes: u64) -> Self {
        Self { bytes: self.bytes.saturating_add(bytes), engines: self.engines + 1 }
    }

    fn without(self, bytes: u64) -> Self {
        let engines = self.engines.saturating_sub(1);
        Self { bytes: self.bytes.saturating_sub(bytes), engines }
    }

    /// Whether one more engine of `bytes` fits into the limits.
    fn leaves(self, bytes: u64, limits: Limits) -> bool {
        let taken = self.and(bytes);
        taken.bytes <= limits.bytes && taken.engines <= limits.engines
    }
}

impl Rooms {
    /// Records who waits and which engines there are, and decides which of the busy ones make way.
    pub(super) fn decide(
        &mut self,
        now: Instant,
        wanted: &[Wanted],
        rooms: &[Room],
        limits: Limits,
    ) {
        self.note(now, wanted);
        let was_yielding = std::mem::take(&mut self.yielding);
        let of = |engine: &EngineId| rooms.iter().find(|room| room.engine == *engine);
        // Engines that already make way are the first candidates, if any still has to go.
        let began = was_yielding
            .iter()
            .filter_map(of)
            .filter(|room| matches!(room.state, RoomState::Busy | RoomState::Idle(_)));
        let mut working: Vec<_> = rooms
            .iter()
            .filter(|room| room.state == RoomState::Busy && !was_yielding.contains(&room.engine))
            .collect();
        working.sort_by_key(|room| room.started);
        let mut candidates = began
            .map(|room| (room, None))
            .chain(working.into_iter().map(|room| (room, Some(room.started + TURN))))
            .peekable();
        let mut next_turn_over = None;
        let stays = |room: &&Room| match room.state {
            RoomState::Busy | RoomState::Pinned => true,
            // Once idle, it still takes no new jobs: its room is promised.
            RoomState::Idle(_) => was_yielding.contains(&room.engine),
            RoomState::Leaving => false,
        };
        let mut taken = Taken::by(rooms.iter().filter(stays));
        for wait in self.waiting.iter().filter(|wait| wait.overdue_at() <= now) {
            while !taken.leaves(wait.bytes, limits) {
                let Some((room, turn_over)) = candidates.peek() else { break };
                if let Some(over) = turn_over.filter(|over| *over > now) {
                    next_turn_over = Some(over);
                    break;
                }
                self.yielding.push(room.engine);
                taken = taken.without(room.bytes);
                candidates.next();
            }
            taken = taken.and(wait.bytes);
        }
        let next_overdue = self.waiting.iter().map(Wait::overdue_at).filter(|at| *at > now).min();
        self.next = next_overdue.into_iter().chain(next_turn_over).min();
    }

    fn note(&mut self, now: Instant, wanted: &[Wanted]) {
        self.waiting.retain(|wait| wanted.iter().any(|wanted| wanted.model == wait.model));
        for Wanted { model, interactive, bytes } in wanted {
            let at = self.waiting.iter().position(|wait| wait.model == *model);
            let at = at.unwrap_or_else(|| {
                let (model, since) = (model.clone(), now);
                self.waiting.push(Wait { model, bytes: 0, since, interactive_since: None });
                self.waiting.len() - 1
            });
            let wait = &mut self.waiting[at];
            wait.bytes = *bytes;
            wait.interactive_since = interactive.then(|| wait.interactive_since.unwrap_or(now));
        }
    }

    /// Whether a model of `bytes` can have an engine, and which idle engines exit for it. Leaves
    /// room for overdue models that have waited longer.
    pub(super) fn way(
        &self,
        now: Instant,
        model: &ModelRef,
        bytes: u64,
        rooms: &[Room],
        limits: Limits,
    ) -> Way {
        let goes = |room: &&Room| match room.state {
            RoomState::Busy => self.yields(room.engine),
            RoomState::Idle(_) | RoomState::Leaving => true,
            RoomState::Pinned => false,
        };
        let before = self.waiting.iter().take_while(|wait| wait.model != *model);
        let promised = before
            .filter(|wait| wait.overdue_at() <= now)
            .fold(Taken::by(rooms.iter().filter(|room| !goes(room))), |taken, wait| {
                taken.and(wait.bytes)
            });
        if !promised.leaves(bytes, limits) {
            return Way::Wait;
        }
        let mut there = Taken::by(rooms.iter());
        if there.leaves(bytes, limits) {
            return Way::Begin;
        }
        there = Taken::by(rooms.iter().filter(|room| room.state != RoomState::Leaving));
        // Engines that make way anyhow go before those that may get more jobs.
        let mut idle: Vec<_> = rooms
            .iter()
            .filter_map(|room| match room.state {
                RoomState::Idle(since) => Some((!self.yields(room.engine), since, room)),
                _ => None,
            })
            .collect();
        idle.sort_by_key(|(stays, since, _)| (*stays, *since));
        let mut gone = Vec::new();
        for (_, _, room) in idle {
            if there.leaves(bytes, limits) {
                break;
            }
            there = there.without(room.bytes);
            gone.push(room);
        }
        if !there.leaves(bytes, limits) {
            return Way::Wait;
        }
        // A large engine's exit may make a smaller one's unnecessary: keep the most recently used.
        let mut needed = Vec::new();
        for room in gone.into_iter().rev() {
            if there.and(room.bytes).leaves(bytes, limits) {
                there = there.and(room.bytes);
            } else {
                needed.push(room.engine);
            }
        }
        needed.reverse();
        Way::After(needed)
    }

    /// The waiting models, the longest wait first.
    pub(super) fn waiting(&self) -> Vec<ModelRef> {
        self.waiting.iter().map(|wait| wait.model.clone()).collect()
    }

    /// Whether an engine makes way, and so takes no new jobs.
    pub(super) fn yields(&self, engine: EngineId) -> bool {
        self.yielding.contains(&engine)
    }

    /// When to decide again, if nothing happens before.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

/// The idle engines that have to exit for the rest to fit a budget that has shrunk, the least
/// recently used first.
pub(super) fn beyond(rooms: &[Room], limits: Limits) -> Vec<EngineId> {
    let mut taken = Taken::by(rooms.iter().filter(|room| room.state != RoomState::Leaving));
    let mut idle: Vec<_> = rooms
        .iter()
        .filter_map(|room| match room.state {
            RoomState::Idle(since) => Some((since, room)),
            _ => None,
        })
        .collect();
    idle.sort_by_key(|(since, _)| *since);
    let mut gone = Vec::new();
    for (_, room) in idle {
        if taken.bytes <= limits.bytes {
            break;
        }
        taken = taken.without(room.bytes);
        gone.push(room.engine);
    }
    gone
}

#[cfg(test)]
mod tests;
