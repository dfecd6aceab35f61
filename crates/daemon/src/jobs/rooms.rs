//! Which engines make way for other models: memory, and a bound on waiting, as a value.
//!
//! There is room for as many engines as the memory budget has bytes for. Jobs of loaded models go
//! first, because loading takes long; a model whose engine is idle makes way at once for one that
//! waits, the least recently used one first. Where those that would have to go are busy without
//! end, the bound is a time and not a number of jobs: how long a job takes differs by a factor of
//! thousands, and what a person feels is time. What is pinned never makes way.

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
    bytes: u64,
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
    /// What it takes; 0 where that is not known yet.
    pub(super) bytes: u64,
}

/// An engine there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) engine: EngineId,
    pub(super) started: Instant,
    pub(super) state: RoomState,
    pub(super) bytes: u64,
}

/// What an engine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomState {
    /// It works, or is being loaded.
    Busy,
    /// It has had nothing to do since then.
    Idle(Instant),
    /// It stays, whatever it does.
    Pinned,
    /// It was told to exit and has not yet.
    Leaving,
}

/// What there is for all engines together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) engines: usize,
}

/// What is to be done for a model that wants an engine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// There is room.
    Begin,
    /// There will be, when these and those that are leaving have exited.
    After(Vec<EngineId>),
    /// There is none.
    Wait,
}

/// What some engines take together.
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

    /// Whether there is room for one more of so many bytes.
    fn leaves(self, bytes: u64, limits: Limits) -> bool {
        let taken = self.and(bytes);
        taken.bytes <= limits.bytes && taken.engines <= limits.engines
    }
}

impl Rooms {
    /// Takes note of who waits and of the engines there are, and decides which of those that work
    /// make way.
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
        // Those that began to make way first go on doing so, if they have to.
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
            // Idle by now, it still takes nothing: its room is promised.
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

    /// Whether a model that takes so many bytes can have an engine, and which idle ones go for it.
    /// What those need that have waited too long, and longer, is left for them.
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
        // One that makes way anyhow goes before one that may be asked again.
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
        // A large one may have made a small one's going needless: the last used ones stay.
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

/// The idle engines that have to go for the others to be within the limits: the budget is less
/// than it was. The least recently used ones first.
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
