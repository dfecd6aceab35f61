//! Carries out what the fleet decides: starts engines, and has them exit.

use std::time::Instant;

use threadrunner_core::engine_protocol::{Load, StateDirectory};
use threadrunner_core::{Failure, KeepAlive, ModelRef};
use tokio::sync::watch;

use super::fleet::{Engine, Files, Started, Step};
use super::owner::Owner;
use super::share::Share;
use crate::engine::{LoadState, LoadView};
use crate::models::FoundModel;

impl Owner {
    /// Decides which engines take no new jobs because other models have waited too long.
    pub(super) fn assign_rooms(&mut self) {
        let now = Instant::now();
        let Self { fleet, budget, queue, processes, models, .. } = self;
        let queued = queue.models().map(|model| (model.clone(), queue.interactive_waits(model)));
        let awaited = |model: &ModelRef| processes.is_awaited(model);
        let files = |model: &ModelRef| models.files(model);
        fleet.assign(now, queued, awaited, files, |fleet| budget.limits(now, fleet));
        processes.keep_loads(|model| fleet.is_wanted(model));
    }

    /// Whether a model has an engine. Starts one if there is room. If there is none yet, this is
    /// tried again with whatever happens next.
    ///
    /// # Errors
    /// If the model cannot have an engine: it takes too much memory, is not a model, or its engine
    /// cannot be started.
    pub(super) fn try_engine(&mut self, model: &ModelRef) -> Result<bool, Failure> {
        if self.fleet.has_engine(model) {
            return Ok(true);
        }
        if !self.knows(model) {
            return Ok(false);
        }
        let now = Instant::now();
        if self.deaths.pauses(model, now) {
            return Ok(false);
        }
        let limits = self.budget.limits(now, &mut self.fleet);
        let files = self.models.files(model);
        match self.fleet.step(now, model, &files, limits)? {
            Step::There => return Ok(true),
            Step::Size => {
                // Reading a header takes next to no memory.
                let load = Load { limit: Some(0), ..self.load_of(model) };
                let process = self.processes.size(load)?;
                self.fleet.sizing(model, process, files, now);
            }
            Step::Start(share) => {
                let Some(state) = self.state_of(model, now) else { return Ok(false) };
                // If its size is unknown, it may take as much as the whole budget.
                let most = if share.bytes > 0 { share.bytes } else { limits.bytes };
                return self.start_engine(model, share, most, state).map(|()| true);
            }
            Step::MakeWay(gone) => {
                for other in gone {
                    let for_model = model.name();
                    tracing::info!(model = other.name(), for_model, "unloaded: making way");
                    self.forget_engine(&other);
                }
            }
            Step::Wait => {}
        }
        Ok(false)
    }

    /// Whether a model's engine is still at work with files that have been replaced since; it gets
    /// no new jobs. An idle one is ended, and the next engine loads the new files.
    pub(super) fn finishes_with_old_files(&mut self, model: &ModelRef) -> bool {
        match self.fleet.check_files(model, &self.models.files(model)) {
            Files::Loaded => false,
            Files::Finishing => true,
            Files::Outdated => {
                tracing::info!(model = model.name(), "unloaded: its file was replaced");
                if self.forget_engine(model).is_some_and(|engine| engine.is_pinned()) {
                    // A pinned model stays until it is unloaded by name, so load it again. No
                    // client waits for that.
                    self.fleet.wish(model, true, None);
                }
                false
            }
        }
    }

    fn load_of(&self, model: &ModelRef) -> Load {
        let settings = self.models.settings(model);
        Load::new(model.clone(), settings.engine_options(&self.config.engine))
    }

    fn start_engine(
        &mut self,
        model: &ModelRef,
        share: Share,
        most: u64,
        state: Option<StateDirectory>,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let settings = self.models.settings(model);
        // Seen before the engine opens the files: if one is replaced in between, the model is
        // loaded again.
        let files = self.models.files(model);
        let load = Load {
            memory: share.limit,
            limit: Some(most),
            state: state.clone(),
            ..self.load_of(model)
        };
        let (id, pid) = self.processes.start(load)?;
        let started = Started {
            id,
            pid,
            files,
            usual: settings.keep_alive.unwrap_or(self.config.idle_timeout),
            pinned: settings.pin,
            reserved: share.bytes,
            shrunk: share.limit.is_some(),
            granted: most,
            state,
        };
        self.fleet.started(model, started, now);
        self.watch_engines(now);
        Ok(())
    }

    /// Loads a model for a client, as soon as there is room. The view shows the progress.
    pub(super) fn load(
        &mut self,
        found: FoundModel,
        pin: bool,
        keep_alive: Option<KeepAlive>,
    ) -> watch::Receiver<LoadView> {
        let model = &found.model.clone();
        self.models.saw(found, Instant::now());
        if !self.finishes_with_old_files(model)
            && let Some(engine) = self.fleet.engine_mut(model)
        {
            if pin {
                engine.pin();
            }
            if keep_alive.is_some() {
                engine.keep(keep_alive);
            }
            let id = engine.id();
            let state = match self.fleet.loading(model) {
                Some(loading) => LoadState::Loading(loading.fraction()),
                None => LoadState::Ready,
            };
            if let Some(view) = self.processes.watch(id, model, state) {
                return view;
            }
        }
        self.fleet.wish(model, pin, keep_alive);
        self.processes.watch_load(model)
    }

    /// Tells the clients that wait for a model that it cannot be loaded.
    pub(super) fn fail_load(&mut self, model: &ModelRef, failure: &Failure) {
        self.fleet.forget_wish(model);
        self.processes.fail_load(model, failure);
    }

    /// Tells an engine to exit. Its memory is taken until it has.
    pub(super) fn forget_engine(&mut self, model: &ModelRef) -> Option<Engine> {
        let engine = self.fleet.leave(model)?;
        self.processes.release(engine.id());
        self.requests.forget(engine.id());
        Some(engine)
    }

    /// Unloads models that have been idle for as long as they stay.
    pub(super) fn unload_idle(&mut self, now: Instant) {
        for model in self.fleet.idle(now) {
            tracing::info!(model = model.name(), "unloaded: idle");
            self.forget_engine(&model);
        }
    }

    /// Ends idle engines if the budget has shrunk a lot because other programs take more memory.
    pub(super) fn keep_to_the_budget(&mut self, now: Instant) {
        if self.fleet.all().next().is_none() {
            return;
        }
        let limits = self.budget.limits(now, &mut self.fleet);
        for model in self.fleet.beyond(limits) {
            tracing::info!(model = model.name(), "unloaded: the memory budget has shrunk");
            self.forget_engine(&model);
        }
    }
}
