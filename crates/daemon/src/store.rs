//! The thread that owns a workspace: operations in, events out.
//!
//! Operations that wait together share one sync. What a client may rely on (an id, an end) is
//! reported after that sync. What only this daemon needs in order to continue (a claim) is reported
//! before it, so that an answer's first token does not wait for the disk.
//!
//! [`Store`] is the owner's handle on the thread, [`Archive`] that of clients, and the thread
//! itself runs a [`Keeper`].

mod conversation;
mod expand;
mod hooks;
mod keeper;
mod known;
mod needs;
mod sessions;
mod standing;

use std::ops::{Index, IndexMut};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use threadrunner_core::{
    ErrorCode, Failure, HookOutcome, JobId, JobMeta, JobSpec, ModelRef, Priority, SessionName,
};
use threadrunner_home::WorkspaceSettings;
use threadrunner_workspace::{Hook, WatchEvent, Watcher, Workspace};
use tokio::sync::{oneshot, watch};

pub(crate) use conversation::{read_turn, too_long};
use keeper::Keeper;
pub(crate) use known::{RemovedSession, Undone};
pub(crate) use sessions::no_such_session;
pub(crate) use standing::{After, Standing};

/// How many jobs one operation removes.
const REMOVED_AT_ONCE: usize = 256;

/// Identifies a served workspace, as an index into [`Stores`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WorkspaceId(pub(crate) u16);

/// A job to write.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: JobId,
    /// Whether its client chose the id. Then a job with that id may exist.
    pub(crate) is_chosen: bool,
    pub(crate) prompt: String,
    pub(crate) spec: JobSpec,
    pub(crate) meta: JobMeta,
    /// Whether to claim it at once instead of queueing it.
    pub(crate) claim: bool,
}

/// A claimed job.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) prompt: String,
    pub(crate) spec: JobSpec,
    pub(crate) meta: JobMeta,
    /// The engine's name for the cached state of its session.
    pub(crate) state: Option<String>,
    /// Why it cannot run as it is.
    pub(crate) unfit: Option<Failure>,
}

/// The state in which a submitted job was written.
#[derive(Debug)]
pub(crate) enum Written {
    /// In `processing`, with its claim.
    Claimed(Box<Claim>),
    /// In `ready`, with the jobs it waits for.
    Ready(After),
}

/// A job found in `ready`, put there by another program, by an earlier daemon or by a retry.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) model: Option<ModelRef>,
    pub(crate) priority: Priority,
    /// Its first tag.
    pub(crate) tag: Option<Box<str>>,
    /// Seconds until its deadline. May be any number, because another program may have written it.
    pub(crate) time_left_s: Option<f64>,
    pub(crate) after: After,
}

/// The outcome of an operation, or news of the workspace.
#[derive(Debug)]
pub(crate) enum StoreEvent {
    /// The job is written, or refused.
    Submitted { id: JobId, result: Result<Written, Failure> },
    /// The job would survive a crash.
    Durable { id: JobId },
    /// The job is in `processing`.
    Claimed { id: JobId, result: Result<Box<Claim>, Failure> },
    /// The job is still in `ready`: the disk is full, say, or there are too many open files.
    NotNow { id: JobId, failure: Failure },
    /// The job is back in `ready`.
    Released { id: JobId, result: Result<(), Failure> },
    /// The job is in `output` or `failed` for good.
    Ended { id: JobId, result: Result<(), Failure> },
    /// The job was started before it was on disk, and then could not be written.
    Lost { id: JobId, failure: Failure },
    /// A job with a hook has ended.
    HookDue { id: JobId },
    /// The hook can run; `None` if there is no longer one to run.
    HookReady { id: JobId, result: Result<Option<Hook>, Failure> },
    /// The outcome of a hook is recorded, as far as possible.
    HookNoted,
    /// A job in `ready` was malformed and is now in `failed`.
    Refused { id: JobId },
    /// The answer to [`Store::ask_standing`].
    Stands { id: JobId, how: Standing },
    /// The ids of all jobs in `ready`.
    Listed { ids: Vec<JobId> },
    /// A job in `ready` that the owner may not know.
    Found { id: JobId, found: Found },
}

impl StoreEvent {
    /// The job whose state the event reports, if any.
    pub(crate) fn job(&self) -> Option<&JobId> {
        match self {
            Self::Submitted { id, .. }
            | Self::Durable { id }
            | Self::Claimed { id, .. }
            | Self::NotNow { id, .. }
            | Self::Released { id, .. }
            | Self::Ended { id, .. }
            | Self::Lost { id, .. }
            | Self::Refused { id }
            | Self::Stands { id, .. }
            | Self::Found { id, .. } => Some(id),
            Self::HookDue { .. }
            | Self::HookReady { .. }
            | Self::HookNoted
            | Self::Listed { .. } => None,
        }
    }
}

#[derive(Debug)]
enum Operation {
    Submit(Box<Submission>),
    Claim(JobId),
    Append { id: JobId, text: String },
    Complete { id: JobId, text: String, meta: Box<JobMeta> },
    Fail { id: JobId, failure: Failure, rest: String, meta: Box<JobMeta> },
    FailQueued { id: JobId, failure: Failure },
    Release { id: JobId, counted: bool },
    Look(JobId),
    LookFor { id: JobId, reply: Reply<()> },
    BeginHook(JobId),
    EndHook { id: JobId, outcome: Box<HookOutcome> },
    Stands(JobId),
    List,
    Retry { id: JobId, reply: Reply<()> },
    Remove { id: JobId, reply: Reply<()> },
    RemoveAll { ids: Vec<JobId>, reply: Reply<Vec<JobId>> },
    UndoTurn { name: SessionName, reply: Reply<Undone> },
    RemoveSession { name: SessionName, reply: Reply<RemovedSession> },
}

type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// The sender of the threads' events, each with the workspace it is from.
pub(crate) type StoreEvents = tokio::sync::mpsc::Sender<(WorkspaceId, StoreEvent)>;

/// The owner's handles on all workspaces' threads, indexed by [`WorkspaceId`].
#[derive(Debug, Default)]
pub(crate) struct Stores(Vec<Store>);

impl Stores {
    /// The id of the next workspace.
    pub(crate) fn next_id(&self) -> WorkspaceId {
        // So many workspaces could not be served anyway.
        WorkspaceId(u16::try_from(self.0.len()).unwrap_or(u16::MAX))
    }

    /// Adds the workspace that was given [`Stores::next_id`] as its id.
    pub(crate) fn push(&mut self, store: Store) {
        self.0.push(store);
    }

    /// For each workspace, an id newer than all in it.
    pub(crate) fn newest_ids(&self) -> impl Iterator<Item = &JobId> {
        self.0.iter().map(|store| &store.newest)
    }

    /// How many operations of all workspaces have yet to be answered by an event.
    pub(crate) fn under_way(&self) -> usize {
        self.0.iter().map(|store| store.under_way).sum()
    }

    /// Lists the jobs in `ready` of each workspace.
    pub(crate) fn list(&self) {
        self.0.iter().for_each(Store::list);
    }
}

impl Index<WorkspaceId> for Stores {
    type Output = Store;
    fn index(&self, workspace: WorkspaceId) -> &Store {
        &self.0[usize::from(workspace.0)]
    }
}

impl IndexMut<WorkspaceId> for Stores {
    fn index_mut(&mut self, workspace: WorkspaceId) -> &mut Store {
        &mut self.0[usize::from(workspace.0)]
    }
}

/// The owner's handle on a workspace's thread.
#[derive(Debug)]
pub(crate) struct Store {
    settings: Arc<WorkspaceSettings>,
    newest: JobId,
    operations: mpsc::Sender<Operation>,
    under_way: usize,
    /// How many jobs have ended.
    ended: watch::Sender<u64>,
    // Watches until dropped.
    _watcher: Option<Watcher>,
}

impl Store {
    /// Starts the thread, which ends once all handles are dropped. Reports the jobs in `ready` as
    /// [`StoreEvent::Found`], oldest first.
    pub(crate) fn start(
        id: WorkspaceId,
        settings: Arc<WorkspaceSettings>,
        workspace: Workspace,
        ready: Vec<JobId>,
        events: StoreEvents,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let newest = workspace.ids().next(0);
        let (operations, incoming) = mpsc::channel();
        let watcher = watch_ready(&workspace, operations.clone());
        let (ended, _) = watch::channel(0);
        let keeper = Keeper::new(id, workspace, ready, events);
        let thread = std::thread::Builder::new()
            .name("workspace".to_owned())
            .spawn(move || keeper.run(&incoming))?;
        let store = Self { settings, newest, operations, under_way: 0, ended, _watcher: watcher };
        Ok((store, thread))
    }

    /// An id newer than all that were in the workspace when it was opened.
    pub(crate) fn newest_id(&self) -> &JobId {
        &self.newest
    }

    /// The workspace's settings.
    pub(crate) fn settings(&self) -> &WorkspaceSettings {
        &self.settings
    }

    /// Returns a handle for clients.
    pub(crate) fn archive(&self) -> Archive {
        Archive { operations: self.operations.clone(), ended: self.ended.subscribe() }
    }

    /// Accounts for an event. Call it for each.
    pub(crate) fn note(&mut self, event: &StoreEvent) {
        if matches!(event, StoreEvent::Ended { result: Ok(()), .. }) {
            self.ended.send_modify(|jobs| *jobs += 1);
        }
        match event {
            StoreEvent::Submitted { .. }
            | StoreEvent::Claimed { .. }
            | StoreEvent::NotNow { .. }
            | StoreEvent::Released { .. }
            | StoreEvent::Ended { .. }
            | StoreEvent::HookReady { .. }
            | StoreEvent::HookNoted => self.under_way -= 1,
            StoreEvent::Durable { .. }
            | StoreEvent::Lost { .. }
            | StoreEvent::HookDue { .. }
            | StoreEvent::Refused { .. }
            | StoreEvent::Stands { .. }
            | StoreEvent::Listed { .. }
            | StoreEvent::Found { .. } => {}
        }
    }

    fn send(&mut self, operation: Operation) {
        self.under_way += 1;
        self.send_silent(operation);
    }

    fn send_silent(&self, operation: Operation) {
        if self.operations.send(operation).is_err() {
            tracing::error!("the workspace's thread is gone");
        }
    }

    /// Writes a job.
    pub(crate) fn submit(&mut self, submission: Submission) {
        self.send(Operation::Submit(Box::new(submission)));
    }

    /// Moves a job from `ready` to `processing`.
    pub(crate) fn claim(&mut self, id: JobId) {
        self.send(Operation::Claim(id));
    }

    /// Appends to a running job's partial answer.
    pub(crate) fn append(&self, id: JobId, text: String) {
        self.send_silent(Operation::Append { id, text });
    }

    /// Writes a running job's answer and moves it to `output`.
    pub(crate) fn complete(&mut self, id: JobId, text: String, meta: JobMeta) {
        self.send(Operation::Complete { id, text, meta: Box::new(meta) });
    }

    /// Moves a running job to `failed`. `rest` is what its partial answer on disk lacks.
    pub(crate) fn fail(&mut self, id: JobId, failure: Failure, rest: String, meta: JobMeta) {
        self.send(Operation::Fail { id, failure, rest, meta: Box::new(meta) });
    }

    /// Moves a queued job to `failed`.
    pub(crate) fn fail_queued(&mut self, id: JobId, failure: Failure) {
        self.send(Operation::FailQueued { id, failure });
    }

    /// Inspects a job in `ready`, answered by [`StoreEvent::Found`] if it is one.
    pub(crate) fn look(&self, id: JobId) {
        self.send_silent(Operation::Look(id));
    }

    /// Prepares to run the hook of an ended job, answered by [`StoreEvent::HookReady`].
    pub(crate) fn begin_hook(&mut self, id: JobId) {
        self.send(Operation::BeginHook(id));
    }

    /// Records the outcome of a hook, answered by [`StoreEvent::HookNoted`].
    pub(crate) fn end_hook(&mut self, id: JobId, outcome: HookOutcome) {
        self.send(Operation::EndHook { id, outcome: Box::new(outcome) });
    }

    /// Asks for the state of a job, wherever it is, answered by [`StoreEvent::Stands`].
    pub(crate) fn ask_standing(&self, id: JobId) {
        self.send_silent(Operation::Stands(id));
    }

    /// Lists all that is in `ready`, answered by [`StoreEvent::Listed`].
    pub(crate) fn list(&self) {
        self.send_silent(Operation::List);
    }

    /// Moves a running job back to `ready`. `counted` says whether its attempt counts.
    pub(crate) fn release(&mut self, id: JobId, counted: bool) {
        self.send(Operation::Release { id, counted });
    }
}

/// What clients may do to jobs that are not live. The owner does not know those jobs, so this
/// bypasses it.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    operations: mpsc::Sender<Operation>,
    ended: watch::Receiver<u64>,
}

impl Archive {
    async fn ask<T>(&self, operation: impl FnOnce(Reply<T>) -> Operation) -> Result<T, Failure> {
        let ending = || Failure::new(ErrorCode::ShuttingDown, "the daemon is ending");
        let (reply, answer) = oneshot::channel();
        self.operations.send(operation(reply)).map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }

    /// Changes whenever a job has ended.
    pub(crate) fn ended(&self) -> watch::Receiver<u64> {
        self.ended.clone()
    }

    /// Inspects a job in `ready`. When this returns, the owner has been told of it.
    pub(crate) async fn look(&self, id: JobId) -> Result<(), Failure> {
        self.ask(|reply| Operation::LookFor { id, reply }).await
    }

    /// Moves a failed job to `ready`, as if it had never run.
    pub(crate) async fn retry(&self, id: JobId) -> Result<(), Failure> {
        self.ask(|reply| Operation::Retry { id, reply }).await
    }

    /// Removes an ended job.
    pub(crate) async fn remove(&self, id: JobId) -> Result<(), Failure> {
        self.ask(|reply| Operation::Remove { id, reply }).await
    }

    /// Undoes the last turn of a session in which no turn is queued or running. Its job stays.
    pub(crate) async fn undo_turn(&self, name: SessionName) -> Result<Undone, Failure> {
        self.ask(|reply| Operation::UndoTurn { name, reply }).await
    }

    /// Forgets a session in which no turn is queued or running. Its jobs stay.
    pub(crate) async fn remove_session(
        &self,
        name: SessionName,
    ) -> Result<RemovedSession, Failure> {
        self.ask(|reply| Operation::RemoveSession { name, reply }).await
    }

    /// Removes ended jobs, and returns those that are gone. Skips jobs that are missing, needed or
    /// queued again. Works in steps of [`REMOVED_AT_ONCE`], so that other operations do not wait
    /// long.
    pub(crate) async fn remove_all(&self, ids: &[JobId]) -> Result<Vec<JobId>, Failure> {
        let mut removed = Vec::new();
        for some in ids.chunks(REMOVED_AT_ONCE) {
            let ids = some.to_vec();
            removed.append(&mut self.ask(|reply| Operation::RemoveAll { ids, reply }).await?);
        }
        Ok(removed)
    }
}

/// Watches for jobs that other programs put into `ready`. If that fails, listings find them later.
fn watch_ready(workspace: &Workspace, operations: mpsc::Sender<Operation>) -> Option<Watcher> {
    let tell = move |event| {
        let operation = match event {
            WatchEvent::Arrived(id) => Operation::Look(id),
            WatchEvent::Rescan => Operation::List,
        };
        // The thread ends only with the daemon.
        let _ = operations.send(operation);
    };
    Watcher::start(&workspace.reader(), tell)
        .inspect_err(|error| tracing::warn!(%error, "jobs of other programs are found later"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};
    use threadrunner_home::{Config, Home};
    use threadrunner_workspace::Options;

    fn start(directory: &std::path::Path, events: StoreEvents) -> Store {
        let (workspace, _) =
            Workspace::open(directory, Options::default(), SystemTime::now()).unwrap();
        let home = Home::resolve(directory, |name| (name == "HOME").then(|| directory.into()));
        let settings = Config::default().workspace(&home.unwrap(), None).unwrap();
        Store::start(WorkspaceId(0), Arc::new(settings), workspace, Vec::new(), events).unwrap().0
    }

    #[tokio::test]
    async fn the_owner_has_been_told_of_a_job_when_a_look_at_it_returns() {
        let directory = tempfile::tempdir().unwrap();
        let (events, mut told) = tokio::sync::mpsc::channel(8);
        let job = directory.path().join("input/ready/5");
        fs::create_dir_all(&job).unwrap();
        fs::write(job.join("prompt.txt"), "Hello").unwrap();
        let store = start(directory.path(), events);
        let id = JobId::parse("5").unwrap();
        store.archive().look(id.clone()).await.unwrap();
        assert!(
            matches!(told.try_recv(), Ok((_, StoreEvent::Found { id: found, .. })) if found == id)
        );
    }

    #[tokio::test]
    async fn a_job_that_is_filled_in_ready_itself_is_found_when_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (events, mut told) = tokio::sync::mpsc::channel(8);
        let store = start(directory.path(), events);
        let job = directory.path().join("input/ready/5");
        fs::create_dir(&job).unwrap();
        let id = JobId::parse("5").unwrap();
        store.archive().look(id.clone()).await.unwrap();
        assert!(told.try_recv().is_err());
        fs::write(job.join("prompt.txt"), "Hello").unwrap();
        // Nothing lists here, so only the second look can find the job.
        let found = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap();
        assert!(
            matches!(&found, Some((_, StoreEvent::Found { id: found, .. })) if *found == id),
            "{found:?}"
        );
    }
}
