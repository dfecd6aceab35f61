//! The thread that owns a workspace: operations in, events out.
//!
//! Operations that wait together share one sync. What a client may rely on (an id, an end) is
//! reported after that sync. What only this daemon needs in order to continue (a claim) is reported
//! before it, so that an answer's first token does not wait for the disk.
//!
//! [`Store`] is the owner's handle on the thread, [`Archive`] that of clients, and the thread
//! itself runs a [`Keeper`].

mod abandoned;
mod archive;
mod conversation;
mod events;
mod expand;
mod hooks;
mod keeper;
mod known;
mod needs;
mod sessions;
mod standing;

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};
use std::sync::mpsc::TrySendError;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use threadrunner_core::protocol::Removed;
use threadrunner_core::{Failure, HookOutcome, JobId, JobMeta, Output, SessionName};
use threadrunner_home::WorkspaceSettings;
use threadrunner_workspace::{WatchEvent, Watcher, Workspace};
use tokio::sync::{oneshot, watch};

pub(crate) use archive::Archive;
pub(crate) use conversation::{read_turn, too_long};
pub(crate) use events::{Claim, Found, StoreEvent, Submission, Written};
use keeper::Keeper;
pub(crate) use known::{RemovedSession, Undone};
pub(crate) use sessions::no_such_session;
pub(crate) use standing::{After, Standing};

/// Identifies a served workspace, as an index into [`Stores`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WorkspaceId(pub(crate) u16);

#[derive(Debug)]
enum Operation {
    Submit(Box<Submission>),
    Claim(JobId),
    Append {
        id: JobId,
        text: String,
    },
    Complete {
        id: JobId,
        text: String,
        output: Vec<Output>,
        meta: Box<JobMeta>,
    },
    Fail {
        id: JobId,
        failure: Failure,
        rest: String,
        meta: Box<JobMeta>,
    },
    FailQueued {
        id: JobId,
        failure: Failure,
    },
    Release {
        id: JobId,
        counted: bool,
    },
    /// A job that appeared; `_seat` counts those that the watcher reported.
    Look {
        id: JobId,
        _seat: Option<Seat>,
    },
    LookFor {
        id: JobId,
        reply: Reply<()>,
    },
    BeginHook(JobId),
    EndHook {
        id: JobId,
        outcome: Box<HookOutcome>,
    },
    Stands(JobId),
    List(Option<Seat>),
    Retry {
        id: JobId,
        reply: Reply<()>,
    },
    Remove {
        id: JobId,
        reply: Reply<Removed>,
    },
    RemoveAll {
        ids: Vec<JobId>,
        reply: Reply<Removed>,
    },
    UndoTurn {
        name: SessionName,
        reply: Reply<Undone>,
    },
    RemoveSession {
        name: SessionName,
        reply: Reply<RemovedSession>,
    },
    /// Lets go of the workspace. Everything that is asked later fails with `failure`.
    Abandon {
        failure: Failure,
        reply: Reply<()>,
    },
}

type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// Counts the operations of a kind that wait: each holds a clone.
type Seat = Arc<()>;

/// Operations that may wait for a workspace's thread. Beyond that, clients wait, and the owner keeps
/// what it has: at most one operation for each live job.
const OPERATIONS: usize = 2048;

/// The most jobs of other programs that the thread is told of one by one.
const MOST_LOOKS: usize = 1024;

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

    /// Whether a thread had no room for an operation.
    pub(crate) fn keep_any(&self) -> bool {
        self.0.iter().any(|store| !store.kept.is_empty())
    }

    /// Sends what threads had no room for.
    pub(crate) fn pass_on(&mut self) {
        self.0.iter_mut().for_each(Store::pass_on);
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
    operations: mpsc::SyncSender<Operation>,
    /// What the thread had no room for, in order.
    kept: VecDeque<Operation>,
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
        let (operations, incoming) = mpsc::sync_channel(OPERATIONS);
        let watcher = watch_ready(&workspace, operations.clone());
        let (ended, _) = watch::channel(0);
        let keeper = Keeper::new(id, workspace, ready, events);
        let thread = std::thread::Builder::new()
            .name("workspace".to_owned())
            .spawn(move || keeper.run(&incoming))?;
        let kept = VecDeque::new();
        let store =
            Self { settings, newest, operations, kept, under_way: 0, ended, _watcher: watcher };
        Ok((store, thread))
    }

    /// An id newer than all that were in the workspace when it was opened.
    pub(crate) fn newest_id(&self) -> &JobId {
        &self.newest
    }

    /// The workspace's settings.
    pub(crate) fn settings(&self) -> &Arc<WorkspaceSettings> {
        &self.settings
    }

    /// Stops watching an abandoned workspace, and lets its retention end.
    pub(crate) fn retire(&mut self) {
        self._watcher = None;
        (self.ended, _) = watch::channel(0);
    }

    /// Returns a handle for clients.
    pub(crate) fn archive(&self) -> Archive {
        Archive { operations: self.operations.clone(), ended: self.ended.subscribe() }
    }

    /// Accounts for an event. Call it for each.
    pub(crate) fn note(&mut self, event: &StoreEvent) {
        self.pass_on();
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
        self.kept.push_back(operation);
        self.pass_on();
    }

    /// Sends what the thread had no room for.
    fn pass_on(&mut self) {
        while let Some(operation) = self.kept.pop_front() {
            match self.operations.try_send(operation) {
                Ok(()) => {}
                Err(TrySendError::Full(operation)) => {
                    self.kept.push_front(operation);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    tracing::error!("the workspace's thread is gone");
                }
            }
        }
    }

    /// Sends an operation that is repeated later if the thread has no room for it. Returns false
    /// then.
    fn send_silent(&self, operation: Operation) -> bool {
        if !self.kept.is_empty() {
            return false;
        }
        match self.operations.try_send(operation) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!("the workspace's thread is gone");
                true
            }
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

    /// Appends to a running job's partial answer. Returns false if the thread has no room for it
    /// now.
    pub(crate) fn append(&self, id: JobId, text: String) -> bool {
        self.send_silent(Operation::Append { id, text })
    }

    /// Writes a running job's answer and moves it to `output`.
    pub(crate) fn complete(&mut self, id: JobId, text: String, output: Vec<Output>, meta: JobMeta) {
        self.send(Operation::Complete { id, text, output, meta: Box::new(meta) });
    }

    /// Moves a running job to `failed`. `rest` is what its partial answer on disk lacks.
    pub(crate) fn fail(&mut self, id: JobId, failure: Failure, rest: String, meta: JobMeta) {
        self.send(Operation::Fail { id, failure, rest, meta: Box::new(meta) });
    }

    /// Moves a queued job to `failed`.
    pub(crate) fn fail_queued(&mut self, id: JobId, failure: Failure) {
        self.send(Operation::FailQueued { id, failure });
    }

    /// Inspects a job in `ready`, answered by [`StoreEvent::Found`] if it is one. If the thread has
    /// no room for it, the next listing finds the job.
    pub(crate) fn look(&self, id: JobId) {
        let _ = self.send_silent(Operation::Look { id, _seat: None });
    }

    /// Prepares to run the hook of an ended job, answered by [`StoreEvent::HookReady`].
    pub(crate) fn begin_hook(&mut self, id: JobId) {
        self.send(Operation::BeginHook(id));
    }

    /// Records the outcome of a hook, answered by [`StoreEvent::HookNoted`].
    pub(crate) fn end_hook(&mut self, id: JobId, outcome: HookOutcome) {
        self.send(Operation::EndHook { id, outcome: Box::new(outcome) });
    }

    /// Asks for the state of a job, wherever it is, answered by [`StoreEvent::Stands`] if the thread
    /// has room for it.
    pub(crate) fn ask_standing(&self, id: JobId) {
        let _ = self.send_silent(Operation::Stands(id));
    }

    /// Lists all that is in `ready`, answered by [`StoreEvent::Listed`] if the thread has room for
    /// it.
    pub(crate) fn list(&self) {
        let _ = self.send_silent(Operation::List(None));
    }

    /// Moves a running job back to `ready`. `counted` says whether its attempt counts.
    pub(crate) fn release(&mut self, id: JobId, counted: bool) {
        self.send(Operation::Release { id, counted });
    }
}

/// Watches for jobs that other programs put into `ready`. If that fails, listings find them later.
///
/// However fast they come, only [`MOST_LOOKS`] wait to be looked at one by one; one list stands for
/// the rest.
fn watch_ready(workspace: &Workspace, operations: mpsc::SyncSender<Operation>) -> Option<Watcher> {
    let (looks, lists) = (Seat::default(), Seat::default());
    let tell = move |event| {
        let operation = match event {
            WatchEvent::Arrived(id) if Arc::strong_count(&looks) <= MOST_LOOKS => {
                Operation::Look { id, _seat: Some(Arc::clone(&looks)) }
            }
            WatchEvent::Arrived(_) | WatchEvent::Rescan if Arc::strong_count(&lists) > 1 => return,
            WatchEvent::Arrived(_) | WatchEvent::Rescan => {
                Operation::List(Some(Arc::clone(&lists)))
            }
        };
        // Waits on the watcher's own thread. The workspace's thread ends only with the daemon.
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
    async fn what_a_thread_has_no_room_for_is_kept_in_order_or_left_to_a_later_time() {
        let directory = tempfile::tempdir().unwrap();
        let (events, _told) = tokio::sync::mpsc::channel(8);
        let store = start(directory.path(), events);
        // A thread that hangs takes nothing.
        let (operations, incoming) = mpsc::sync_channel(OPERATIONS);
        let mut store = Store { operations, ..store };
        let id = |number: usize| JobId::parse(&number.to_string()).unwrap();
        let all = OPERATIONS + 100;
        (0..all).for_each(|number| store.claim(id(number)));
        assert_eq!((store.kept.len(), store.under_way), (100, all));
        assert!(!store.append(id(0), "text".to_owned()));
        let archive = store.archive();
        let client = tokio::spawn(async move { archive.retry(id(0)).await });
        tokio::task::yield_now().await;
        let mut next = 0;
        while next < all {
            for operation in incoming.try_iter() {
                assert!(matches!(operation, Operation::Claim(claimed) if claimed == id(next)));
                next += 1;
            }
            store.pass_on();
        }
        assert!(store.kept.is_empty() && store.append(id(0), "text".to_owned()));
        let is_retry = |operation| matches!(operation, Operation::Retry { .. });
        crate::models::tests::eventually(|| incoming.try_iter().any(is_retry)).await;
        // The reply was dropped with the operation.
        assert!(client.await.unwrap().is_err());
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
