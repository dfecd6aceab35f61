//! Room for engines: which models wait for it, and which engines make way.

use std::time::{Duration, Instant};

use threadrunner_core::{Failure, KeepAlive, ModelRef};

use super::Fleet;
use super::slot::ModelSlot;
use crate::jobs::rooms::{Limits, Room, Wanted, Way, beyond};
use crate::jobs::share::Share;
use crate::jobs::sizes::Size;
use crate::model_files::ModelFiles;

/// Loaded engines may exceed a budget that has shrunk by one part in this many.
const TOLERATED: u64 = 4;

/// What a client that asked for a load wants of the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) pin: bool,
    pub(super) keep_alive: Option<KeepAlive>,
}

/// What is to be done for a model to have an engine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it has one.
    There,
    /// Start a process that reads how much memory the model takes.
    Size,
    /// Start an engine.
    Start(Share),
    /// Tell the engines of these models to exit. There is room once they have.
    MakeWay(Vec<ModelRef>),
    /// Try again later.
    Wait,
}

impl Fleet {
    /// Notes that a client wants a model loaded, and how the engine is to stay.
    pub(crate) fn wish(&mut self, model: &ModelRef, pin: bool, keep_alive: Option<KeepAlive>) {
        let wish = self.wishes.entry(model.clone()).or_default();
        wish.pin |= pin;
        wish.keep_alive = keep_alive.or(wish.keep_alive);
    }

    /// Whether a client wants a model loaded whose next engine has not been started yet.
    pub(crate) fn is_wanted(&self, model: &ModelRef) -> bool {
        self.wishes.contains_key(model)
    }

    /// Forgets what clients want of a model.
    pub(crate) fn forget_wish(&mut self, model: &ModelRef) {
        self.wishes.remove(model);
    }

    /// Decides which engines take no new jobs because other models have waited too long. `queued`
    /// are the models with queued jobs, and whether an interactive one is among them; `awaited`
    /// says whether a client still waits for a model that it asked for. `limits` is called only if
    /// a model waits.
    pub(crate) fn assign(
        &mut self,
        now: Instant,
        queued: impl Iterator<Item = (ModelRef, bool)>,
        awaited: impl Fn(&ModelRef) -> bool,
        files: impl Fn(&ModelRef) -> ModelFiles,
        limits: impl FnOnce(&mut Self) -> Limits,
    ) {
        // Once the client that asked for a load has gone, only a model to be pinned is still
        // wanted.
        self.wishes.retain(|model, wish| wish.pin || awaited(model));
        let mut models: Vec<_> = queued.filter(|(model, _)| !self.has_engine(model)).collect();
        for model in self.wishes.keys() {
            // A client waits for the load.
            match models.iter_mut().find(|(known, _)| known == model) {
                Some((_, interactive)) => *interactive = true,
                None => models.push((model.clone(), true)),
            }
        }
        self.keep_waiting(&models);
        if models.is_empty() {
            self.rooms.decide(now, &[], &[], Limits { bytes: 0, engines: 0 });
            return;
        }
        let limits = limits(self);
        let rooms = self.rooms_there();
        let wanted: Vec<_> = models
            .into_iter()
            .map(|(model, interactive)| {
                let bytes = match self.sizes.get(&model, &files(&model)) {
                    Some(Size::Known(sized)) => Share::of(&model, sized, &rooms, limits).ok(),
                    _ => None,
                };
                Wanted { model, interactive, bytes: bytes.map_or(0, |share| share.bytes) }
            })
            .collect();
        self.rooms.decide(now, &wanted, &rooms, limits);
    }

    /// Has these models wait that have no slot, and no others.
    fn keep_waiting(&mut self, wanted: &[(ModelRef, bool)]) {
        let waits = |slot: &ModelSlot| matches!(slot, ModelSlot::Waiting);
        let gone = |(model, slot): (&ModelRef, &ModelSlot)| {
            let wanted = || wanted.iter().any(|(wanted, _)| wanted == model);
            (waits(slot) && !wanted()).then(|| model.clone())
        };
        for model in self.slots.iter().filter_map(gone).collect::<Vec<_>>() {
            self.enter(&model, None);
        }
        for (model, _) in wanted {
            if !self.slots.contains_key(model) {
                self.enter(model, Some(ModelSlot::Waiting));
            }
        }
    }

    /// The waiting models, the longest wait first.
    pub(crate) fn waiting(&self) -> Vec<ModelRef> {
        self.rooms.waiting()
    }

    /// Whether a model's engine makes way for another, and so takes no new jobs.
    pub(crate) fn yields(&self, model: &ModelRef) -> bool {
        self.engine(model).is_some_and(|engine| self.rooms.yields(engine.id()))
    }

    /// What is to be done for a model to have an engine.
    ///
    /// # Errors
    /// If the model cannot have an engine: it takes too much memory, or is not a model.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        model: &ModelRef,
        files: &ModelFiles,
        limits: Limits,
    ) -> Result<Step, Failure> {
        match self.slots.get(model) {
            Some(ModelSlot::Loading(_) | ModelSlot::Ready(_)) => return Ok(Step::There),
            Some(ModelSlot::Sizing(_)) => return Ok(Step::Wait),
            Some(ModelSlot::Waiting) | None => {}
        }
        let sized = match self.sizes.get(model, files) {
            Some(Size::Known(sized)) => *sized,
            Some(Size::Failed(failure)) => {
                let failure = failure.clone();
                // The file may be another one by the next attempt.
                self.sizes.forget(model);
                return Err(failure);
            }
            None => return Ok(Step::Size),
        };
        let rooms = self.rooms_there();
        let share = Share::of(model, &sized, &rooms, limits)?;
        Ok(match self.rooms.way(now, model, share.bytes, &rooms, limits) {
            Way::Begin => Step::Start(share),
            Way::Wait => Step::Wait,
            Way::After(gone) => {
                let models = gone.iter().filter_map(|engine| self.model_of(*engine)).cloned();
                Step::MakeWay(models.collect())
            }
        })
    }

    /// Measures the engines' resident memory where the last measurement is not younger than
    /// `believed`.
    pub(crate) fn measure(
        &mut self,
        now: Instant,
        believed: Duration,
        resident: impl Fn(u32) -> u64,
    ) {
        for engine in self.slots.values_mut().filter_map(ModelSlot::engine_mut) {
            engine.measure(now, believed, &resident);
        }
    }

    pub(super) fn rooms_there(&self) -> Vec<Room> {
        let rooms = self.slots.values().filter_map(ModelSlot::room);
        rooms.chain(self.leaving.values().map(|leaving| leaving.room)).collect()
    }

    /// How many bytes the engines take.
    pub(crate) fn bytes(&self) -> u64 {
        self.rooms_there().iter().map(|room| room.bytes).sum()
    }

    /// The idle models to unload because the budget has shrunk a lot. Small changes are no reason:
    /// free memory goes up and down all the time.
    pub(crate) fn beyond(&self, limits: Limits) -> Vec<ModelRef> {
        let bytes = limits.bytes.saturating_add(limits.bytes / TOLERATED);
        let gone = beyond(&self.rooms_there(), Limits { bytes, ..limits });
        gone.iter().filter_map(|engine| self.model_of(*engine)).cloned().collect()
    }
}
