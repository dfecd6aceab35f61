//! The owner: the one place that waits, and the state that all decisions are based on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use threadrunner_core::{HookOutcome, JobId, JobIdSource, JobStatus, ModelRef};
use threadrunner_home::{Config, Home, machine_number};
use tokio::sync::mpsc;

use super::changes::{Changes, changes};
use super::dependencies::Dependencies;
use super::hub::{Change, Hub, Orders};
use super::live::{Live, Stage};
use super::queue::Queue;
use super::requests::Requests;
use super::rooms::Rooms;
use super::sizes::Sizes;
use super::transit::{Leaving, WantedLoad};
use crate::engine::{EXIT_GRACE, Engine, EngineId, EngineMessage, Spawner};
use crate::hooks::{Hooks, PlacedJob};
use crate::states::States;
use crate::store::WorkspaceId;
use crate::store::{StoreEvent, StoreEvents, Stores};

/// Operations that may be under way in the workspaces' threads; beyond that, new requests wait.
const STORE_OPERATIONS: usize = 512;
/// How long generated text may stay off the disk.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// How often `ready` is listed, for file systems that do not report what other programs put there.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// Messages of engines that may wait for the owner; beyond that, the engines' streams wait.
const ENGINE_MESSAGES: usize = 256;
/// Once in this many turns, everything else goes before the engines, whose messages may never stop.
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
    /// Which engines make way for models that have none.
    pub(super) rooms: Rooms,
    /// What is known about the memory of models that are not loaded.
    pub(super) sizes: Sizes,
    /// Models that clients asked to load and that have no engine yet.
    pub(super) wanted_loads: HashMap<ModelRef, WantedLoad>,
    /// Engines that were told to exit but have not exited yet.
    pub(super) leaving: HashMap<EngineId, Leaving>,
    /// When the free memory was last read, and the budget that followed from it.
    pub(super) budget_read: Option<(Instant, u64)>,
    /// The model of each engine whose messages still count.
    pub(super) processes: HashMap<EngineId, ModelRef>,
    pub(super) requests: Requests,
    pub(super) next_request: u64,
    /// The model file used last, as recorded for clients that name no model.
    pub(super) last_model: Option<PathBuf>,
    pub(super) deadlines: BTreeSet<(Instant, JobId)>,
    /// Running jobs with text that is not on disk yet, and when to write it.
    pub(super) unflushed: HashSet<JobId>,
    pub(super) flush_at: Option<Instant>,
    pub(super) list_at: Instant,
    /// Where changes go for clients that watch all jobs.
    pub(super) changes: Changes,
    /// Until when no queued job is claimed, because the disk is full or the like.
    pub(super) short_until: Option<Instant>,
    /// Queued jobs with readers, when places were last reported, and when to report them next.
    pub(super) watched: HashSet<JobId>,
    pub(super) places_told: Option<Instant>,
    pub(super) places_at: Option<Instant>,
    /// When running jobs are given up, once the daemon is stopping.
    pub(super) stopping: Option<Instant>,
    /// Whether they have been given up. A job whose claim is still under way follows when it
    /// arrives.
    pub(super) given_up: bool,
    /// When to check next how much engines have written.
    pub(super) states_at: Option<Instant>,
    turns: u32,
    /// Where the threads of workspaces that are served later send their events. Weak, so that the
    /// channel closes when no thread is left.
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
    /// Nothing is ready, except perhaps an engine's message.
    Again,
    Nothing,
}

impl Owner {
    /// Creates an owner without any jobs, and the handle to it.
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
        let mut ids = JobIdSource::new(std::process::id(), machine_number(&home));
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

    /// Runs until the daemon was told to stop and no job runs any more.
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
        tracing::info!(queued = self.queue.len(), "all jobs have stopped");
        let mut from_engines = self.into_messages();
        // The engines are told to exit now and may have sessions to save. One that does not exit in
        // time is killed.
        let exits = async { while from_engines.recv().await.is_some() {} };
        if tokio::time::timeout(EXIT_GRACE, exits).await.is_err() {
            tracing::warn!("an engine did not exit when told to");
        }
    }

    /// The engines' messages, until the last engine has exited. Drops everything else, and so tells
    /// the engines to exit.
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

    /// Schedules writing a running job's new text to disk.
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

    /// The number of live jobs: queued, held or running.
    pub(super) fn live_count(&self) -> u32 {
        u32::try_from(self.live.len()).unwrap_or(u32::MAX)
    }

    /// Tells watchers that a job moved.
    pub(super) fn tell_change(&self, workspace: WorkspaceId, id: &JobId, state: Option<JobStatus>) {
        // Usually nobody watches; then this clones nothing.
        if self.changes.receiver_count() > 0 {
            // The last watcher may have gone since the check.
            let live = self.live_count();
            let _ = self.changes.send(Change { workspace, id: id.clone(), state, live });
        }
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
