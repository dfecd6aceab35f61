//! The processes of the fleet, and what clients that wait for a model see of them.

use std::collections::HashMap;

use threadrunner_core::engine_protocol::{Command, Load};
use threadrunner_core::{Failure, ModelRef};
use tokio::sync::watch;

use crate::engine::{EngineId, EngineProcess, LoadState, LoadView, Spawner};

/// Running processes, and the views of loads. Dropping it orders all processes to exit.
#[derive(Debug)]
pub(super) struct Processes {
    spawner: Spawner,
    running: HashMap<EngineId, Process>,
    /// Loads that clients asked for and for which no engine has been started yet.
    loads: HashMap<ModelRef, watch::Sender<LoadView>>,
}

#[derive(Debug)]
struct Process {
    process: EngineProcess,
    /// What those see who wait for it to load its model; created when first needed.
    view: Option<watch::Sender<LoadView>>,
}

impl Processes {
    pub(super) fn new(spawner: Spawner) -> Self {
        Self { spawner, running: HashMap::new(), loads: HashMap::new() }
    }

    /// Starts an engine that loads a model, and returns its id and its process id. Clients that
    /// wait for the model see its progress.
    ///
    /// # Errors
    /// If the program is missing or cannot be started.
    pub(super) fn start(&mut self, load: Load) -> Result<(EngineId, u32), Failure> {
        let model = load.model.clone();
        let process = self.spawner.spawn(load)?;
        let view = self.loads.remove(&model);
        Ok(self.add(process, view))
    }

    /// Starts a process that reports how much memory `load` would take and exits.
    ///
    /// # Errors
    /// If the program is missing or cannot be started.
    pub(super) fn size(&mut self, load: Load) -> Result<EngineId, Failure> {
        let process = self.spawner.size(load)?;
        Ok(self.add(process, None).0)
    }

    fn add(
        &mut self,
        process: EngineProcess,
        view: Option<watch::Sender<LoadView>>,
    ) -> (EngineId, u32) {
        let (id, pid) = (process.id, process.pid);
        self.running.insert(id, Process { process, view });
        (id, pid)
    }

    /// Adds a process that a test plays.
    #[cfg(test)]
    pub(super) fn play(&mut self, process: EngineProcess) {
        self.add(process, None);
    }

    /// Sends a command. Returns false if the process is gone or no longer reads.
    pub(super) fn send(&self, id: EngineId, command: Command) -> bool {
        self.running.get(&id).is_some_and(|it| it.process.send(command))
    }

    /// Orders a process to exit, and tells those who wait for it that it will not load the model
    /// any more.
    pub(super) fn release(&mut self, id: EngineId) {
        self.running.remove(&id);
    }

    /// Kills a process at once, for one that cannot be trusted to obey.
    pub(super) fn kill(&self, id: EngineId) {
        if let Some(it) = self.running.get(&id) {
            it.process.kill();
        }
    }

    /// The view of an engine, which is in `state`.
    pub(super) fn watch(
        &mut self,
        id: EngineId,
        model: &ModelRef,
        state: LoadState,
    ) -> Option<watch::Receiver<LoadView>> {
        let view = &mut self.running.get_mut(&id)?.view;
        let new = || watch::channel(LoadView { name: model.name(), state }).0;
        Some(view.get_or_insert_with(new).subscribe())
    }

    /// Shows those who wait for an engine what it is doing.
    pub(super) fn show(&self, id: EngineId, state: LoadState) {
        if let Some(view) = self.running.get(&id).and_then(|it| it.view.as_ref()) {
            view.send_modify(|view| view.state = state);
        }
    }

    /// The view of a load for which an engine is to be started.
    pub(super) fn watch_load(&mut self, model: &ModelRef) -> watch::Receiver<LoadView> {
        let new = || watch::channel(LoadView::waiting(model)).0;
        self.loads.entry(model.clone()).or_insert_with(new).subscribe()
    }

    /// Whether a client waits for a model for which no engine has been started.
    pub(super) fn is_awaited(&self, model: &ModelRef) -> bool {
        self.loads.get(model).is_some_and(|view| !view.is_closed())
    }

    /// Forgets the loads of models that are no longer wanted.
    pub(super) fn keep_loads(&mut self, wanted: impl Fn(&ModelRef) -> bool) {
        self.loads.retain(|model, _| wanted(model));
    }

    /// Tells the clients that wait for a model that it cannot be loaded.
    pub(super) fn fail_load(&mut self, model: &ModelRef, failure: &Failure) {
        if let Some(view) = self.loads.remove(model) {
            view.send_modify(|view| view.state = LoadState::Failed(failure.clone()));
        }
    }
}
