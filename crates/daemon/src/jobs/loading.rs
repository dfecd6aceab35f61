//! Which models are loaded: what they take, the memory budget, and which make way.

use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::Load;
use threadrunner_core::{ErrorCode, Failure, KeepAlive, Memory, ModelRef};
use threadrunner_home::MemoryBudget;
use tokio::sync::watch;

use super::owner::Owner;
use super::rooms::{Limits, Room, RoomState, Wanted, Way, beyond};
use super::sizes::{Size, Sized};
use super::transit::{Leaving, WantedLoad};
use crate::engine::{Engine, LoadView, Stay};
use crate::memory;
use crate::model_files::ModelFiles;

/// The most engines at once, however little memory they take.
const ENGINES: usize = 16;
/// How long a reading of the system's memory stays valid.
const BELIEVED: Duration = Duration::from_secs(1);

/// Loaded engines may exceed a budget that has shrunk by one part in this many.
const TOLERATED: u64 = 4;

/// The memory that a model is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    bytes: u64,
    /// The memory it has to make do with, if that is less than it wants.
    limit: Option<u64>,
}

impl Owner {
    /// Decides which engines take no new jobs because other models have waited too long.
    pub(super) fn assign_rooms(&mut self) {
        let now = Instant::now();
        // Once the client that asked for a load has gone, only a model to be pinned is still
        // wanted.
        self.wanted_loads.retain(|_, load| load.pin || !load.view.is_closed());
        let queued = self.queue.models().filter(|model| !self.engines.contains_key(*model));
        let mut models: Vec<_> =
            queued.map(|model| (model.clone(), self.queue.interactive_waits(model))).collect();
        for model in self.wanted_loads.keys() {
            // A client waits for the load.
            match models.iter_mut().find(|(known, _)| known == model) {
                Some((_, interactive)) => *interactive = true,
                None => models.push((model.clone(), true)),
            }
        }
        if models.is_empty() {
            let limits = Limits { bytes: 0, engines: 0 };
            self.rooms.decide(now, &[], &[], limits);
            return;
        }
        let limits = self.limits(now);
        let rooms = self.rooms_there(now, BELIEVED);
        let wanted: Vec<_> = models
            .into_iter()
            .map(|(model, interactive)| {
                let bytes = match self.sizes.get(&model) {
                    Some(Size::Known(sized)) => self.share(&model, sized, &rooms, limits).ok(),
                    _ => None,
                };
                Wanted { model, interactive, bytes: bytes.map_or(0, |share| share.bytes) }
            })
            .collect();
        self.rooms.decide(now, &wanted, &rooms, limits);
    }

    /// Whether a model has an engine. Starts one if there is room. If there is none yet, this is
    /// tried again with whatever happens next.
    ///
    /// # Errors
    /// If the model cannot have an engine: it takes too much memory, is not a model, or its engine
    /// cannot be started.
    pub(super) fn try_engine(&mut self, model: &ModelRef) -> Result<bool, Failure> {
        if self.engines.contains_key(model) {
            return Ok(true);
        }
        let now = Instant::now();
        let sized = match self.sizes.get(model) {
            Some(Size::Known(sized)) => *sized,
            Some(Size::Failed(failure)) => {
                let failure = failure.clone();
                // The file may be another one by the next attempt.
                self.sizes.forget(model);
                return Err(failure);
            }
            None => {
                if !self.sizes.is_asked(model) {
                    // Reading a header takes next to no memory.
                    let load = Load { limit: Some(0), ..self.load_of(model) };
                    let process = self.spawner.size(load)?;
                    self.sizes.ask(model.clone(), process, now);
                }
                return Ok(false);
            }
        };
        let limits = self.limits(now);
        let rooms = self.rooms_there(now, BELIEVED);
        let share = self.share(model, &sized, &rooms, limits)?;
        match self.rooms.way(now, model, share.bytes, &rooms, limits) {
            Way::Begin => self.start_engine(model, share, now).map(|()| true),
            Way::Wait => Ok(false),
            Way::After(gone) => {
                for id in gone {
                    if let Some(other) = self.processes.get(&id).cloned() {
                        tracing::info!(
                            model = other.name(),
                            for_model = model.name(),
                            "unloaded: making way"
                        );
                        self.forget_engine(&other);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Whether a model's engine is still at work with files that have been replaced since; it gets
    /// no new jobs. An idle one is ended, and the next engine loads the new files.
    pub(super) fn finishes_with_old_files(&mut self, model: &ModelRef) -> bool {
        let Some(engine) = self.engines.get_mut(model) else { return false };
        if !engine.was_replaced() {
            return false;
        }
        if engine.has_jobs() || engine.loading().is_some() {
            return true;
        }
        tracing::info!(model = model.name(), "unloaded: its file was replaced");
        let pinned = engine.is_pinned();
        self.forget_engine(model);
        if pinned {
            // A pinned model stays until it is unloaded by name, so load it again. No client waits
            // for that.
            let view = watch::channel(LoadView::waiting(model)).0;
            let load = WantedLoad { view, pin: true, keep_alive: None };
            self.wanted_loads.entry(model.clone()).or_insert(load).pin = true;
        }
        false
    }

    fn load_of(&self, model: &ModelRef) -> Load {
        let settings = self.config.model_settings(&self.home, model);
        Load::new(model.clone(), settings.engine_options(&self.config.engine))
    }

    fn start_engine(
        &mut self,
        model: &ModelRef,
        share: Share,
        now: Instant,
    ) -> Result<(), Failure> {
        let settings = self.config.model_settings(&self.home, model);
        let options = settings.engine_options(&self.config.engine);
        let state = self.states.directory(model);
        // Noted before the engine opens the files: if one is replaced in between, the model is
        // loaded again.
        let files = ModelFiles::of(model);
        // If its size is unknown, it may take as much as the whole budget.
        let most = if share.bytes > 0 { share.bytes } else { self.limits(now).bytes };
        let load = Load {
            memory: share.limit,
            limit: Some(most),
            state: state.clone(),
            ..Load::new(model.clone(), options)
        };
        let process = self.spawner.spawn(load)?;
        let asked = self.wanted_loads.remove(model);
        let usual = settings.keep_alive.unwrap_or(self.config.idle_timeout);
        let pinned = settings.pin || asked.as_ref().is_some_and(|load| load.pin);
        let stay = Stay::usual(usual, pinned);
        let keep_alive = asked.as_ref().and_then(|load| load.keep_alive);
        let view =
            asked.map_or_else(|| watch::channel(LoadView::waiting(model)).0, |load| load.view);
        let mut engine = Engine::new(process, model.clone(), view, stay, share.bytes, now);
        engine.set_files(files);
        engine.keep(keep_alive);
        engine.set_shrunk(share.limit.is_some());
        engine.set_state(state);
        self.processes.insert(engine.id(), model.clone());
        self.engines.insert(model.clone(), engine);
        self.watch_states(now);
        Ok(())
    }

    /// Loads a model for a client, as soon as there is room. The view shows the progress.
    pub(super) fn load(
        &mut self,
        model: ModelRef,
        pin: bool,
        keep_alive: Option<KeepAlive>,
    ) -> Result<watch::Receiver<LoadView>, Failure> {
        if !self.finishes_with_old_files(&model)
            && let Some(engine) = self.engines.get_mut(&model)
        {
            if pin {
                engine.pin();
            }
            if keep_alive.is_some() {
                engine.keep(keep_alive);
            }
            return Ok(engine.watch());
        }
        let waiting = LoadView::waiting(&model);
        let load = self.wanted_loads.entry(model).or_insert_with(|| WantedLoad {
            view: watch::channel(waiting).0,
            pin: false,
            keep_alive: None,
        });
        load.pin |= pin;
        load.keep_alive = keep_alive.or(load.keep_alive);
        Ok(load.view.subscribe())
    }

    /// Tells the clients that wait for a model that it cannot be loaded.
    pub(super) fn fail_load(&mut self, model: &ModelRef, failure: &Failure) {
        if let Some(load) = self.wanted_loads.remove(model) {
            let state = crate::engine::LoadState::Failed(failure.clone());
            load.view.send_modify(|view| view.state = state);
        }
    }

    /// What a model is given of the budget: what it wants or, if that is less, all that pinned
    /// models leave.
    ///
    /// # Errors
    /// If the model does not fit even with the least it can do with.
    fn share(
        &self,
        model: &ModelRef,
        sized: &Sized,
        rooms: &[Room],
        limits: Limits,
    ) -> Result<Share, Failure> {
        let pinned = rooms.iter().filter(|room| room.state == RoomState::Pinned);
        let pinned: u64 = pinned.map(|room| room.bytes).sum();
        let most = limits.bytes.saturating_sub(pinned);
        let wanted = sized.measured.unwrap_or_else(|| sized.wanted.total());
        if wanted <= most {
            return Ok(Share { bytes: wanted, limit: None });
        }
        if sized.least.total() <= most {
            return Ok(Share { bytes: most, limit: Some(most) });
        }
        Err(too_large(model, &sized.least, limits.bytes, pinned))
    }

    /// How much all engines together may take.
    pub(super) fn limits(&mut self, now: Instant) -> Limits {
        let bytes = match self.config.memory_budget {
            MemoryBudget::Bytes(bytes) => bytes,
            MemoryBudget::Share(share) => match self.budget_read {
                Some((at, bytes)) if now < at + BELIEVED => bytes,
                _ => {
                    let bytes = self.share_of_what_is_free(share);
                    self.budget_read = Some((now, bytes));
                    bytes
                }
            },
        };
        Limits { bytes, engines: ENGINES }
    }

    fn share_of_what_is_free(&self, share: f64) -> u64 {
        let engines = self.engines.values().map(Engine::pid);
        let leaving = self.leaving.values().map(|leaving| leaving.pid);
        // Memory that the engines hold is theirs to share. The pages of their model files already
        // count as free.
        let held: u64 = engines.chain(leaving).map(memory::anonymous_bytes).sum();
        // If that is unknown, there is no limit.
        let free = memory::available_bytes().unwrap_or(u64::MAX);
        (free.saturating_add(held) as f64 * share) as u64
    }

    fn rooms_there(&mut self, now: Instant, believed: Duration) -> Vec<Room> {
        let engines = self.engines.values_mut().map(|engine| {
            engine.measure(now, believed);
            room_of(engine)
        });
        engines.chain(self.leaving.values().map(|leaving| leaving.room)).collect()
    }

    /// How many bytes the engines take, and the budget.
    pub(super) fn memory_use(&mut self, now: Instant) -> (u64, u64) {
        let budget = self.limits(now).bytes;
        let used = self.rooms_there(now, Duration::ZERO).iter().map(|room| room.bytes).sum();
        (used, budget)
    }

    /// Forgets an engine, except that its memory is still taken. Dropping the returned engine tells
    /// it to exit.
    pub(super) fn forget_engine(&mut self, model: &ModelRef) -> Option<Engine> {
        let engine = self.engines.remove(model)?;
        self.processes.remove(&engine.id());
        self.requests.forget(engine.id());
        if engine.is_ready() && !engine.is_shrunk() {
            self.sizes.measured(model, engine.bytes());
        }
        let room = Room { state: RoomState::Leaving, ..room_of(&engine) };
        self.leaving.insert(engine.id(), Leaving { room, pid: engine.pid() });
        Some(engine)
    }

    /// Unloads models that have been idle for as long as they stay.
    pub(super) fn unload_idle(&mut self, now: Instant) {
        let idle = self.engines.values().filter(|it| it.unload_at().is_some_and(|at| at <= now));
        for model in idle.map(|engine| engine.model().clone()).collect::<Vec<_>>() {
            tracing::info!(model = model.name(), "unloaded: idle");
            self.forget_engine(&model);
        }
    }

    /// Ends idle engines if the budget has shrunk a lot because other programs take more memory.
    /// Small changes are no reason: free memory goes up and down all the time.
    pub(super) fn keep_to_the_budget(&mut self, now: Instant) {
        if self.engines.is_empty() {
            return;
        }
        let (rooms, limits) = (self.rooms_there(now, BELIEVED), self.limits(now));
        let bytes = limits.bytes.saturating_add(limits.bytes / TOLERATED);
        for id in beyond(&rooms, Limits { bytes, ..limits }) {
            if let Some(model) = self.processes.get(&id).cloned() {
                tracing::info!(model = model.name(), "unloaded: the memory budget has shrunk");
                self.forget_engine(&model);
            }
        }
    }
}

fn room_of(engine: &Engine) -> Room {
    let state = match engine.idle_since() {
        _ if engine.is_pinned() => RoomState::Pinned,
        Some(since) => RoomState::Idle(since),
        None => RoomState::Busy,
    };
    Room { engine: engine.id(), started: engine.started(), state, bytes: engine.bytes() }
}

fn too_large(model: &ModelRef, least: &Memory, budget: u64, pinned: u64) -> Failure {
    let name = model.name();
    let pinned = match pinned {
        0 => String::new(),
        pinned => format!(", {} of which pinned models take", megabytes(pinned)),
    };
    let mut parts =
        vec![("weights", least.weights), ("cache", least.cache), ("buffers", least.buffers)];
    if least.parked > 0 {
        parts.push(("kept prompts", least.parked));
    }
    // Adds up the parts as they are shown, so that a reader gets the same sum.
    let sum = parts.iter().map(|(_, bytes)| tenths(*bytes)).sum::<u64>() * TENTH;
    let parts: Vec<_> =
        parts.iter().map(|(what, bytes)| format!("{what} {}", megabytes(*bytes))).collect();
    Failure::new(
        ErrorCode::ModelTooLarge,
        format!(
            "{name} does not fit: {} = {}, and the memory budget is {}{pinned}",
            parts.join(" + "),
            megabytes(sum),
            megabytes(budget),
        ),
    )
    .hint(format!(
        "in config.toml, raise memory_budget or set a smaller context under [models.{name:?}]; or \
         use a smaller model"
    ))
}

/// Formats bytes as megabytes, the unit in which sums are easy to check.
fn megabytes(bytes: u64) -> String {
    let tenths = tenths(bytes);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// A tenth of a megabyte, in bytes.
const TENTH: u64 = 100_000;

/// Tenths of a megabyte, rounded to the nearest.
fn tenths(bytes: u64) -> u64 {
    bytes.saturating_add(TENTH / 2) / TENTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_as_a_sum() {
        let model = ModelRef {
            backend: threadrunner_core::BackendKind::Llama,
            path: Some("/m/big.gguf".into()),
            draft: None,
        };
        let least = Memory { weights: 4_000_000, cache: 2_500_000, buffers: 500_000, parked: 0 };
        let failure = too_large(&model, &least, 5_000_000, 1_000_000);
        assert_eq!(failure.code.exit_code(), threadrunner_core::ExitCode::Model);
        assert_eq!(
            failure.message,
            "big does not fit: weights 4.0 MB + cache 2.5 MB + buffers 0.5 MB = 7.0 MB, and the \
             memory budget is 5.0 MB, 1.0 MB of which pinned models take"
        );
        assert!(failure.hint.unwrap().contains("[models.\"big\"]"));
        // The parts shown add up, despite rounding.
        let least = Memory {
            weights: 98_449_000,
            cache: 47_249_000,
            buffers: 44_449_000,
            parked: 23_449_000,
        };
        assert!(too_large(&model, &least, 5_000_000, 0).message.contains(
            "weights 98.4 MB + cache 47.2 MB + buffers 44.4 MB + kept prompts 23.4 MB = 213.4 MB"
        ));
    }
}
