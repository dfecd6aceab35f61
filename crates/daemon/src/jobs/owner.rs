//! The owner: one place that waits, and the state that everything is decided on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use threadrunner_core::{HookOutcome, JobId, JobIdSource, ModelRef};
use threadrunner_home::{Config, Home};
use tokio::sync::mpsc;

use super::changes::{Changes, changes};
use super::dependencies::Dependencies;
use super::hub::{Hub, Orders};
use super::live::{Live, Stage};
use super::loading::{Leaving, WantedLoad};
use super::queue::Queue;
use super::requests::Requests;
use super::rooms::Rooms;
use super::sizes::Sizes;
use crate::engine::{EXIT_GRACE, Engine, EngineId, EngineMessage, Spawner};
use crate::hooks::{Hooks, PlacedJob};
use crate::states::States;
use crate::store::{StoreEvent, StoreEvents, Stores};
use crate::workspaces::WorkspaceId;

/// Operations under way in the workspace's thread; with more, new requests wait.
const STORE_OPERATIONS: usize = 512;
/// How long generated text may stay off the disk.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// How often `ready` is listed, for file systems that do not tell what others put there.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// Messages of engines that may wait for the owner; then the engines' streams wait.
const ENGINE_MESSAGES: usize = 256;
/// After so many turns all others go before the engines once, of whose messages there may be no end.
const ENGINES_FIRST: u32 = 16;

/// Owns all jobs and engines.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) home: Home,
    pub(super) config: Config,
    pub(super) stores: Stores,
    pub(super) spawner: Spawner,
    pub(super) ids: JobIdSource,
    pub(super) queue: Queue,
    pub(super) dependencies: Dependencies,
    pub(super) hooks: Hooks,
    pub(super) states: States,
    pub(super) live: HashMap<JobId, Live>,
    pub(super) engines: HashMap<ModelRef, Engine>,
    /// Which of them make way for the models that have none.
    pub(super) rooms: Rooms,
    /// What models take that are not loaded.
    pub(super) sizes: Sizes,
    /// Models that somebody wants to be loaded, and that are not yet.
    pub(super) wanted_loads: HashMap<ModelRef, WantedLoad>,
    /// Engines that were told to exit and have not yet.
    pub(super) leaving: HashMap<EngineId, Leaving>,
    /// What the system's memory leaves to the engines, and when it was looked at.
    pub(super) budget_read: Option<(Instant, u64)>,
    /// The models of the engines that still count, by the name of their process.
    pub(super) processes: HashMap<EngineId, ModelRef>,
    pub(super) requests: Requests,
    pub(super) next_request: u64,
    /// The file of the model that was asked last, as it is noted for those who name none.
    pub(super) last_model: Option<PathBuf>,
    pub(super) deadlines: BTreeSet<(Instant, JobId)>,
    /// Running jobs with text that is not on disk, and when it shall be.
    pub(super) unflushed: HashSet<JobId>,
    pub(super) flush_at: Option<Instant>,
    pub(super) list_at: Instant,
    /// How those are told who watch all jobs.
    pub(super) changes: Changes,
    /// Until when no queued job is claimed, because the disk is full or the like.
    pub(super) short_until: Option<Instant>,
    /// Queued jobs whose place somebody watches, when places were last told, and when they are next.
    pub(super) watched: HashSet<JobId>,
    pub(super) places_told: Option<Instant>,
    pub(super) places_at: Option<Instant>,
    /// When running jobs are given up, once the daemon is ending.
    pub(super) stopping: Option<Instant>,
    /// Whether they have been: a job whose claim is still on its way is, as soon as it is here.
    pub(super) given_up: bool,
    /// When it is looked at how much engines have written.
    pub(super) states_at: Option<Instant>,
    turns: u32,
    /// How the threads of further workspaces tell of them. Weak: the owner does not wait for those
    /// of none.
    pub(super) to_owner: mpsc::WeakSender<(WorkspaceId, StoreEvent)>,
    orders: Orders,
    from_engines: mpsc::Receiver<(EngineId, EngineMessage)>,
    from_stores: mpsc::Receiver<(WorkspaceId, StoreEvent)>,
}

enum Next {
    Order(super::hub::Order),
    Engine(EngineId, EngineMessage),
    Store(WorkspaceId, Box<StoreEvent>),
    Hook(PlacedJob, Option<HookOutcome>),
    Time,
    /// Nobody but perhaps an engine has anything to say.
    Again,
    Nothing,
}

impl Owner {
    /// An owner of nothing yet, and the handle to it.
    pub(crate) fn new(
        home: Home,
        config: Config,
        engine_binary: PathBuf,
        stores: Stores,
        (to_owner, from_stores): (StoreEvents, mpsc::Receiver<(WorkspaceId, StoreEvent)>),
    ) -> (Self, Hub) {
        let (hub, orders) = Hub::new();
        let (messages, from_engines) = mpsc::channel(ENGINE_MESSAGES);
        let hooks = Hooks::new(&home, &config);
        let states = States::new(home.cache_dir.join("state"), config.sessions.state_bytes);
        let mut ids = JobIdSource::new(std::process::id());
        for newest in stores.newest_ids() {
            ids.after(newest);
        }
        let owner = Self {
            home,
            config,
            spawner: Spawner::new(engine_binary, messages),
            ids,
            stores,
            short_until: None,
            queue: Queue::default(),
            dependencies: Dependencies::default(),
            hooks,
            states,
            live: HashMap::new(),
            engines: HashMap::new(),
            rooms: Rooms::default(),
            sizes: Sizes::default(),
            wanted_loads: HashMap::new(),
            leaving: HashMap::new(),
            budget_read: None,
            processes: HashMap::new(),
            requests: Requests::default(),
            next_request: 0,
            last_model: None,
            deadlines: BTreeSet::new(),
            unflushed: HashSet::new(),
            flush_at: None,
            list_at: Instant::now() + LIST_EVERY,
            changes: changes(),
            watched: HashSet::new(),
            places_told: None,
            places_at: None,
            stopping: None,
            given_up: false,
            states_at: None,
            turns: 0,
            to_owner: to_owner.downgrade(),
            orders,
            from_engines,
            from_stores,
        };
        (owner, hub)
    }

    /// Works until the daemon is told to stop and has stopped its jobs.
    pub(crate) async fn run(mut self) {
        while !self.is_done() {
            match self.next().await {
                Next::Order(order) => self.order(order),
                Next::Engine(id, message) => self.engine(id, message),
                Next::Store(workspace, event) => self.noted(workspace, *event),
                Next::Hook(job, outcome) => self.hook_ended(job, outcome),
                Next::Time => self.time(Instant::now()),
                Next::Again => continue,
                Next::Nothing => break,
            }
            self.dispatch();
        }
        tracing::info!(queued = self.queue.len(), "no job runs any more");
        let mut from_engines = self.into_messages();
        // Ordered to exit now, engines may have sessions to save. Who does not exit is killed.
        let exits = async { while from_engines.recv().await.is_some() {} };
        if tokio::time::timeout(EXIT_GRACE, exits).await.is_err() {
            tracing::warn!("an engine did not exit when told to");
        }
    }

    /// What engines say, until the last of them has exited. With all else go those who order them.
    fn into_messages(self) -> mpsc::Receiver<(EngineId, EngineMessage)> {
        self.from_engines
    }

    fn noted(&mut self, workspace: WorkspaceId, event: StoreEvent) {
        self.stores[workspace].note(&event);
        self.stored(workspace, event);
    }

    async fn next(&mut self) -> Next {
        let deadline = self.next_deadline();
        self.turns = self.turns.wrapping_add(1);
        let others_first = self.turns.is_multiple_of(ENGINES_FIRST);
        tokio::select! {
            biased;
            Some((id, message)) = self.from_engines.recv(), if !others_first =>
                Next::Engine(id, message),
            event = self.from_stores.recv() => match event {
                Some((workspace, event)) => Next::Store(workspace, Box::new(event)),
                None => Next::Nothing,
            },
            Some(order) = self.orders.recv(), if self.stores.under_way() < STORE_OPERATIONS =>
                Next::Order(order),
            Some((job, outcome)) = self.hooks.ended() => Next::Hook(job, outcome),
            () = sleep_until(deadline), if deadline.is_some() => Next::Time,
            () = std::future::ready(()), if others_first => Next::Again,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let jobs = self.deadlines.first().map(|(deadline, _)| *deadline);
        let idle = self.engines.values().filter_map(Engine::unload_at).min();
        let grace = self.stopping.filter(|_| !self.given_up);
        [
            jobs,
            idle,
            self.flush_at,
            self.places_at,
            self.rooms.next(),
            self.sizes.next(),
            self.short_until,
            self.engine_overdue(),
            self.states_at,
            grace,
            Some(self.list_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn time(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.first().cloned()
            && deadline <= now
        {
            self.deadlines.remove(&(deadline, id.clone()));
            self.end_early(&id, super::Ending::TimedOut);
        }
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush();
        }
        if self.places_at.is_some_and(|at| at <= now) {
            self.tell_places(now);
        }
        self.short_until = self.short_until.filter(|until| *until > now);
        if self.list_at <= now {
            self.list_at = now + LIST_EVERY;
            self.stores.list();
            self.ask_about_strangers();
            self.keep_to_the_budget(now);
        }
        self.sizes.time(now);
        self.end_silent_engines(now);
        if self.states_at.is_some_and(|at| at <= now) {
            self.end_engines_that_fill_the_disk(now);
        }
        self.unload_idle(now);
        if !self.given_up && self.stopping.is_some_and(|at| at <= now) {
            self.give_up_running();
        }
    }

    /// Notes that a running job has text that is not on disk yet.
    pub(super) fn flush_soon(&mut self, id: &JobId) {
        if !self.unflushed.contains(id) {
            self.unflushed.insert(id.clone());
        }
        self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
    }

    fn flush(&mut self) {
        self.flush_at = None;
        for id in std::mem::take(&mut self.unflushed) {
            let Some(live) = self.live.get_mut(&id) else { continue };
            if let (Stage::Running(run), Some(view)) = (&mut live.stage, &live.view) {
                let view = view.borrow();
                let text = view.text[run.flushed..].to_owned();
                run.flushed = view.text.len();
                self.stores[live.workspace].append(id, text);
            }
        }
    }

    /// Whether the daemon was told to stop and nothing is under way any more.
    fn is_done(&self) -> bool {
        self.stopping.is_some()
            && self.stores.under_way() == 0
            && self.hooks.is_idle()
            && self
                .live
                .values()
                .all(|live| live.durable && matches!(live.stage, Stage::Queued(_) | Stage::Held))
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
