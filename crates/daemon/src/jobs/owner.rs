//! The owner: the state that all decisions are based on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use threadrunner_core::{JobId, JobIdSource, JobStatus};
use threadrunner_home::{Config, Home, machine_number};
use tokio::sync::mpsc;

use super::budget::Budget;
use super::changes::{Changes, changes};
use super::deaths::Deaths;
use super::dependencies::Dependencies;
use super::disk::Disk;
use super::fleet::Fleet;
use super::hub::{Change, Hub};
use super::inbox::{Inbox, Next};
use super::known_models::KnownModels;
use super::live::{Live, Stage};
use super::places::Places;
use super::prepared::PreparedStates;
use super::processes::Processes;
use super::queue::Queue;
use super::requests::Requests;
use crate::engine::{EXIT_GRACE, EngineId, EngineMessage, Spawner};
use crate::hooks::Hooks;
use crate::models::ModelCatalog;
use crate::store::WorkspaceId;
use crate::store::{After, StoreEvent, StoreEvents, Stores};

/// Operations that may be under way in the workspaces' threads; beyond that, new requests wait.
const STORE_OPERATIONS: usize = 512;
/// How long generated text may stay off the disk.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// How often `ready` is listed, for file systems that do not report what other programs put there.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// Messages of engines that may wait for the owner; beyond that, the engines' streams wait.
const ENGINE_MESSAGES: usize = 256;

/// Owns all jobs and engines.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) config: Config,
    pub(super) stores: Stores,

    // The jobs.
    pub(super) live: HashMap<JobId, Live>,
    pub(super) queue: Queue,
    pub(super) dependencies: Dependencies,
    pub(super) hooks: Hooks,
    pub(super) ids: JobIdSource,

    // The engines.
    pub(super) fleet: Fleet,
    pub(super) deaths: Deaths,
    pub(super) budget: Budget,
    pub(super) processes: Processes,
    pub(super) requests: Requests,
    /// The model file used last, as recorded for clients that name no model.
    pub(super) last_model: Option<PathBuf>,

    // The disks.
    pub(super) disk: Disk,
    pub(super) models: KnownModels,
    pub(super) prepared: PreparedStates,
    /// Jobs that wait until the usual model of their workspace is looked up.
    pub(super) unresolved: HashMap<WorkspaceId, Vec<(JobId, After)>>,

    // What is to be told or written.
    pub(super) places: Places,
    pub(super) unflushed: Unflushed,
    /// Where changes go for clients that watch all jobs.
    pub(super) changes: Changes,

    pub(super) times: Times,
    pub(super) stopping: Option<Stopping>,
    pub(super) inbox: Inbox,
}

/// When the owner has something to do by itself.
#[derive(Debug)]
pub(super) struct Times {
    /// When jobs time out.
    pub(super) deadlines: BTreeSet<(Instant, JobId)>,
    /// When to list `ready` next.
    list: Instant,
    /// Until when no queued job is claimed, because the disk is full or the like.
    pub(super) short: Option<Instant>,
    /// When to check next what engines take.
    pub(super) taken: Option<Instant>,
}

/// Running jobs with text that is not on disk yet, and when to write it.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    pub(super) jobs: HashSet<JobId>,
    at: Option<Instant>,
}

/// The daemon is stopping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    /// When running jobs are given up.
    pub(super) at: Instant,
    /// Whether they have been given up. A job whose claim is still under way follows when it
    /// arrives.
    pub(super) given_up: bool,
}

impl Owner {
    /// Creates an owner without any jobs, and the handle to it.
    pub(crate) fn new(
        home: Home,
        config: Config,
        engine_binary: PathBuf,
        catalog: ModelCatalog,
        stores: Stores,
        store_events: (StoreEvents, mpsc::Receiver<(WorkspaceId, StoreEvent)>),
    ) -> (Self, Hub) {
        let (hub, orders) = Hub::new();
        let (messages, from_engines) = mpsc::channel(ENGINE_MESSAGES);
        let mut ids = JobIdSource::new(std::process::id(), machine_number(&home));
        for newest in stores.newest_ids() {
            ids.after(newest);
        }
        let hooks = Hooks::new(&home, &config);
        let (disk, from_disk) = Disk::new(home, &config, catalog);
        let owner = Self {
            hooks,
            budget: Budget::new(config.memory_budget),
            config,
            stores,
            live: HashMap::new(),
            queue: Queue::default(),
            dependencies: Dependencies::default(),
            ids,
            fleet: Fleet::default(),
            deaths: Deaths::default(),
            processes: Processes::new(Spawner::new(engine_binary, messages)),
            requests: Requests::default(),
            last_model: None,
            disk,
            models: KnownModels::default(),
            prepared: PreparedStates::default(),
            unresolved: HashMap::new(),
            places: Places::default(),
            unflushed: Unflushed::default(),
            changes: changes(),
            times: Times {
                deadlines: BTreeSet::new(),
                list: Instant::now() + LIST_EVERY,
                short: None,
                taken: None,
            },
            stopping: None,
            inbox: Inbox::new(orders, from_engines, from_disk, store_events),
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
                Next::Disk(news) => self.disk_news(*news),
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
        self.inbox.into_messages()
    }

    fn noted(&mut self, workspace: WorkspaceId, event: StoreEvent) {
        self.stores[workspace].note(&event);
        self.stored(workspace, event);
    }

    async fn next(&mut self) -> Next {
        let deadline = self.next_deadline();
        let room = self.stores.under_way() < STORE_OPERATIONS;
        self.inbox.next(&mut self.hooks, room, deadline).await
    }

    fn next_deadline(&self) -> Option<Instant> {
        let jobs = self.times.deadlines.first().map(|(deadline, _)| *deadline);
        // A thread that had no room may have some again without saying so.
        let kept = self.stores.keep_any().then(|| Instant::now() + FLUSH_AFTER);
        let grace = self.stopping.filter(|stopping| !stopping.given_up).map(|stopping| stopping.at);
        [
            jobs,
            kept,
            self.fleet.next(self.config.engine_timeout),
            self.requests.cancel_due(self.cancel_grace()),
            self.deaths.next(Instant::now()),
            self.unflushed.at,
            self.places.next(),
            self.models.next(),
            self.prepared.next(),
            self.times.short,
            self.times.taken,
            grace,
            Some(self.times.list),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn time(&mut self, now: Instant) {
        self.stores.pass_on();
        while let Some((deadline, id)) = self.times.deadlines.first().cloned()
            && deadline <= now
        {
            self.times.deadlines.remove(&(deadline, id.clone()));
            self.end_early(&id, super::Ending::TimedOut);
        }
        if self.unflushed.at.is_some_and(|at| at <= now) {
            self.flush();
        }
        self.tell_places(now);
        self.times.short = self.times.short.filter(|until| *until > now);
        if self.times.list <= now {
            self.times.list = now + LIST_EVERY;
            self.stores.list();
            self.ask_about_strangers();
            self.keep_to_the_budget(now);
        }
        self.models.time(now);
        self.prepared.time(now);
        self.end_late_estimates(now);
        self.end_silent_engines(now);
        self.end_disobedient_engines(now);
        if self.times.taken.is_some_and(|at| at <= now) {
            self.measure_engines(now);
        }
        self.unload_idle(now);
        if self.stopping.is_some_and(|stopping| !stopping.given_up && stopping.at <= now) {
            self.give_up_running();
        }
    }

    /// Schedules writing a running job's new text to disk.
    pub(super) fn flush_soon(&mut self, id: &JobId) {
        if !self.unflushed.jobs.contains(id) {
            self.unflushed.jobs.insert(id.clone());
        }
        self.unflushed.at.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
    }

    fn flush(&mut self) {
        let mut late = Vec::new();
        for id in std::mem::take(&mut self.unflushed).jobs {
            let Some(live) = self.live.get_mut(&id) else { continue };
            if let (Stage::Running(run), Some(view)) = (&mut live.stage, &live.view) {
                let view = view.borrow();
                let text = view.text[run.flushed..].to_owned();
                if self.stores[live.workspace].append(id.clone(), text) {
                    run.flushed = view.text.len();
                } else {
                    late.push(id);
                }
            }
        }
        // The workspace's thread has no room now.
        late.iter().for_each(|id| self.flush_soon(id));
    }

    /// Whether the daemon was told to stop and nothing is under way any more.
    fn is_done(&self) -> bool {
        self.stopping.is_some()
            && self.stores.under_way() == 0
            && self.hooks.is_idle()
            && self.live.values().all(|live| live.durable && live.stage.is_at_rest())
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

#[cfg(test)]
mod tests;
