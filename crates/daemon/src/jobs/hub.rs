//! How the rest of the daemon speaks to the owner of the jobs.

use std::sync::Arc;
use std::thread::JoinHandle;

use threadrunner_core::protocol::{ProcessList, Unloaded};
use threadrunner_core::{
    ErrorCode, Failure, JobId, JobMeta, JobSpec, JobStatus, KeepAlive, ModelRef,
};
use threadrunner_home::WorkspaceSettings;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::view::ViewReader;
use crate::engine::LoadView;
use crate::startup::Opened;
use crate::store::Archive;
use crate::workspaces::{Located, WorkspaceId};

/// A job, checked and complete, but for an id where the client chose none.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub(crate) id: Option<JobId>,
    pub(crate) workspace: WorkspaceId,
    pub(crate) prompt: String,
    pub(crate) model: ModelRef,
    pub(crate) spec: JobSpec,
    pub(crate) meta: JobMeta,
}

/// Names a live job. Ids are unique among those that this daemon makes; another program may have
/// given one of them to a job in another workspace.
#[derive(Debug, Clone)]
pub(super) struct JobName {
    pub(super) workspace: WorkspaceId,
    pub(super) id: JobId,
}

impl From<&Located> for JobName {
    fn from(job: &Located) -> Self {
        Self { workspace: job.workspace.id, id: job.id.clone() }
    }
}

/// What somebody waits for who looks at a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Its text, as it comes.
    Text,
    /// Its end.
    End,
}

/// Why a job is ended before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client that waited for it went away.
    ClientGone,
    /// Somebody asked for it.
    Canceled,
    /// Its time is over.
    TimedOut,
}

impl Ending {
    /// What is written down and told.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::ClientGone => {
                Failure::new(ErrorCode::Canceled, "canceled: the client that waited went away")
            }
            Self::Canceled => Failure::new(ErrorCode::Canceled, "the job was canceled"),
            Self::TimedOut => Failure::new(ErrorCode::Timeout, "the job's time is over")
                .hint("give it more with --timeout"),
        }
    }
}

/// A job's move, as those are told who watch all jobs.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) workspace: WorkspaceId,
    pub(crate) id: JobId,
    /// How it stands now; `None` when it was removed.
    pub(crate) state: Option<JobStatus>,
    /// How many jobs are queued or running now.
    pub(crate) live: u32,
}

/// What the owner is asked. Each carries the way back for its answer.
#[derive(Debug)]
pub(super) enum Order {
    SubmitAttached {
        job: Box<NewJob>,
        awaited: Awaited,
        reply: oneshot::Sender<Result<ViewReader, Failure>>,
    },
    SubmitDetached {
        job: Box<NewJob>,
        reply: oneshot::Sender<Result<JobId, Failure>>,
    },
    Locate {
        id: JobId,
        reply: oneshot::Sender<Option<WorkspaceId>>,
    },
    Watch {
        job: JobName,
        awaited: Awaited,
        reply: oneshot::Sender<Option<ViewReader>>,
    },
    Cancel {
        job: JobName,
        ending: Ending,
        reply: oneshot::Sender<Option<ViewReader>>,
    },
    Position {
        job: JobName,
        reply: oneshot::Sender<Option<u32>>,
    },
    Changes {
        reply: oneshot::Sender<(u32, broadcast::Receiver<Change>)>,
    },
    Removed {
        workspace: WorkspaceId,
        ids: Vec<JobId>,
        reply: oneshot::Sender<()>,
    },
    WaitsFor {
        ids: Vec<JobId>,
        reply: oneshot::Sender<Vec<Vec<JobId>>>,
    },
    ForgetState {
        state: String,
        reply: oneshot::Sender<()>,
    },
    Status {
        reply: oneshot::Sender<(ProcessList, bool)>,
    },
    Load {
        model: ModelRef,
        pin: bool,
        keep_alive: Option<KeepAlive>,
        reply: oneshot::Sender<Result<watch::Receiver<LoadView>, Failure>>,
    },
    Unload {
        model: Option<ModelRef>,
        reply: oneshot::Sender<Unloaded>,
    },
    Serve {
        settings: Arc<WorkspaceSettings>,
        opened: Box<Opened>,
        reply: oneshot::Sender<Result<Serving, Failure>>,
    },
    Stop {
        now: bool,
        reply: oneshot::Sender<()>,
    },
}

/// A workspace that is served: its name among the daemon's, its clients' handle, and its thread.
pub(crate) type Serving = (WorkspaceId, Archive, JoinHandle<()>);

/// Orders that may wait for the owner; then clients wait.
const ORDERS: usize = 256;

/// A handle to the owner of the jobs.
#[derive(Debug, Clone)]
pub(crate) struct Hub(mpsc::Sender<Order>);

pub(super) type Orders = mpsc::Receiver<Order>;

impl Hub {
    pub(super) fn new() -> (Self, Orders) {
        let (sender, orders) = mpsc::channel(ORDERS);
        (Self(sender), orders)
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Failure> {
        let ending = || Failure::new(ErrorCode::ShuttingDown, "the daemon is ending");
        let (reply, answer) = oneshot::channel();
        self.0.send(order(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

    /// Runs a job whose client waits. Its view comes at once.
    pub(crate) async fn submit_attached(
        &self,
        job: NewJob,
        awaited: Awaited,
    ) -> Result<ViewReader, Failure> {
        self.ask(|reply| Order::SubmitAttached { job: Box::new(job), awaited, reply }).await?
    }

    /// Queues a job. Its id comes when the job would survive a crash.
    pub(crate) async fn submit_detached(&self, job: NewJob) -> Result<JobId, Failure> {
        self.ask(|reply| Order::SubmitDetached { job: Box::new(job), reply }).await?
    }

    /// The workspace of a job that is queued or running, or on its way to the disk.
    pub(crate) async fn locate(&self, id: JobId) -> Result<Option<WorkspaceId>, Failure> {
        self.ask(|reply| Order::Locate { id, reply }).await
    }

    /// A job's view, while it is queued or running.
    pub(crate) async fn watch(
        &self,
        job: &Located,
        awaited: Awaited,
    ) -> Result<Option<ViewReader>, Failure> {
        self.ask(|reply| Order::Watch { job: job.into(), awaited, reply }).await
    }

    /// Ends a job; `None` when it is neither queued nor running.
    pub(crate) async fn cancel(
        &self,
        job: &Located,
        ending: Ending,
    ) -> Result<Option<ViewReader>, Failure> {
        self.ask(|reply| Order::Cancel { job: job.into(), ending, reply }).await
    }

    /// Ends a job that this daemon was given; nothing, where it has ended already.
    pub(crate) async fn end(
        &self,
        workspace: WorkspaceId,
        id: JobId,
        ending: Ending,
    ) -> Result<(), Failure> {
        let job = JobName { workspace, id };
        self.ask(|reply| Order::Cancel { job, ending, reply }).await.map(drop)
    }

    /// A job's place in the queue, from 1.
    pub(crate) async fn position(&self, job: &Located) -> Result<Option<u32>, Failure> {
        self.ask(|reply| Order::Position { job: job.into(), reply }).await
    }

    /// How many jobs are queued or running, and every change from now on.
    pub(crate) async fn changes(&self) -> Result<(u32, broadcast::Receiver<Change>), Failure> {
        self.ask(|reply| Order::Changes { reply }).await
    }

    /// Tells those who watch that jobs were removed. The owner knows only of live ones.
    pub(crate) async fn removed(
        &self,
        workspace: WorkspaceId,
        ids: Vec<JobId>,
    ) -> Result<(), Failure> {
        self.ask(|reply| Order::Removed { workspace, ids, reply }).await
    }

    /// Removes what is cached of a session that is no more.
    pub(crate) async fn forget_state(&self, state: String) -> Result<(), Failure> {
        self.ask(|reply| Order::ForgetState { state, reply }).await
    }

    /// What each of these jobs waits for.
    pub(crate) async fn waits_for(&self, ids: Vec<JobId>) -> Result<Vec<Vec<JobId>>, Failure> {
        self.ask(|reply| Order::WaitsFor { ids, reply }).await
    }

    /// Loaded models and running jobs.
    pub(crate) async fn ps(&self) -> Result<ProcessList, Failure> {
        Ok(self.status().await?.0)
    }

    /// The same, and whether the daemon is ending.
    pub(crate) async fn status(&self) -> Result<(ProcessList, bool), Failure> {
        self.ask(|reply| Order::Status { reply }).await
    }

    /// Loads a model, if it is not, and says how long it stays; the view tells how far it is.
    pub(crate) async fn load(
        &self,
        model: ModelRef,
        pin: bool,
        keep_alive: Option<KeepAlive>,
    ) -> Result<watch::Receiver<LoadView>, Failure> {
        self.ask(|reply| Order::Load { model, pin, keep_alive, reply }).await?
    }

    /// Ends a model's engine, also when it is busy; or all that are idle and not
    /// pinned.
    pub(crate) async fn unload(&self, model: Option<ModelRef>) -> Result<Unloaded, Failure> {
        self.ask(|reply| Order::Unload { model, reply }).await
    }

    /// Serves one more workspace.
    pub(crate) async fn serve(
        &self,
        settings: Arc<WorkspaceSettings>,
        opened: Opened,
    ) -> Result<Serving, Failure> {
        self.ask(|reply| Order::Serve { settings, opened: Box::new(opened), reply }).await?
    }

    /// Ends the daemon: after the grace time, or now.
    pub(crate) async fn stop(&self, now: bool) -> Result<(), Failure> {
        self.ask(|reply| Order::Stop { now, reply }).await
    }
}
