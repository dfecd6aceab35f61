//! The handle through which the rest of the daemon talks to the owner of the jobs.
//!
//! A method of [`Hub`] sends an [`Order`] with a channel for the reply. When too many orders are
//! waiting, clients wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use threadrunner_core::protocol::{ProcessList, Unloaded};
use threadrunner_core::{
    BackendKind, CacheName, ErrorCode, Failure, JobId, JobMeta, JobSpec, JobStatus, KeepAlive,
    ModelRef,
};
use threadrunner_home::WorkspaceSettings;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::view::ViewReader;
use crate::engine::LoadView;
use crate::models::FoundModel;
use crate::opening::Opened;
use crate::store::Archive;
use crate::store::WorkspaceId;
use crate::workspaces::Located;

/// A job to submit: checked and complete, except for the id if the client chose none.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub(crate) id: Option<JobId>,
    pub(crate) workspace: WorkspaceId,
    pub(crate) prompt: String,
    pub(crate) model: FoundModel,
    pub(crate) spec: JobSpec,
    pub(crate) meta: JobMeta,
}

/// Names a live job. The ids that this daemon makes are unique, but another program may have given
/// one of them to a job in another workspace.
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

/// What a reader of a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Its text, as it is generated.
    Text,
    /// Its end.
    End,
}

/// The engines that a client has unloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToUnload {
    /// All of this model, busy or not, whatever their draft models if it has none.
    Model(ModelRef),
    /// All that are idle and not pinned; with a backend, those of that backend.
    Idle(Option<BackendKind>),
}

/// Why a job ends before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its attached client went away.
    ClientGone,
    /// A client asked for it.
    Canceled,
    /// It timed out.
    TimedOut,
}

impl Ending {
    /// The failure to record and report.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::ClientGone => {
                Failure::new(ErrorCode::Canceled, "canceled: the waiting client disconnected")
            }
            Self::Canceled => Failure::new(ErrorCode::Canceled, "the job was canceled"),
            Self::TimedOut => Failure::new(ErrorCode::Timeout, "the job timed out")
                .hint("give it more time with `--timeout`"),
        }
    }
}

/// A job's change of state, as reported to those who watch all jobs.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) workspace: WorkspaceId,
    pub(crate) id: JobId,
    /// Its new state; `None` if it was removed.
    pub(crate) state: Option<JobStatus>,
    /// How many jobs are queued or running after the change.
    pub(crate) live: u32,
}

/// An order to the owner, with a channel for the reply.
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
    RunningModels {
        reply: oneshot::Sender<HashMap<JobId, String>>,
    },
    ForgetState {
        state: CacheName,
        reply: oneshot::Sender<()>,
    },
    Status {
        reply: oneshot::Sender<(ProcessList, bool)>,
    },
    Load {
        model: Box<FoundModel>,
        pin: bool,
        keep_alive: Option<KeepAlive>,
        reply: oneshot::Sender<watch::Receiver<LoadView>>,
    },
    Unload {
        which: ToUnload,
        reply: oneshot::Sender<Unloaded>,
    },
    Serve {
        settings: Arc<WorkspaceSettings>,
        opened: Box<Opened>,
        before: Option<WorkspaceId>,
        reply: oneshot::Sender<Result<Serving, Failure>>,
    },
    Stop {
        now: bool,
        reply: oneshot::Sender<()>,
    },
}

/// A workspace that is served: its id, the handle for clients, and its thread.
pub(crate) type Serving = (WorkspaceId, Archive, JoinHandle<()>);

/// How many orders may wait for the owner; beyond that, clients wait.
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

    /// Submits a job whose client waits for it. Returns its view at once.
    pub(crate) async fn submit_attached(
        &self,
        job: NewJob,
        awaited: Awaited,
    ) -> Result<ViewReader, Failure> {
        self.ask(|reply| Order::SubmitAttached { job: Box::new(job), awaited, reply }).await?
    }

    /// Submits a job. Returns its id once the job would survive a crash.
    pub(crate) async fn submit_detached(&self, job: NewJob) -> Result<JobId, Failure> {
        self.ask(|reply| Order::SubmitDetached { job: Box::new(job), reply }).await?
    }

    /// The workspace of a job that is queued, running, or on its way to the disk.
    pub(crate) async fn locate(&self, id: JobId) -> Result<Option<WorkspaceId>, Failure> {
        self.ask(|reply| Order::Locate { id, reply }).await
    }

    /// A job's view, if it is queued or running.
    pub(crate) async fn watch(
        &self,
        job: &Located,
        awaited: Awaited,
    ) -> Result<Option<ViewReader>, Failure> {
        self.ask(|reply| Order::Watch { job: job.into(), awaited, reply }).await
    }

    /// Ends a job. Returns its view, or `None` if it is neither queued nor running.
    pub(crate) async fn cancel(
        &self,
        job: &Located,
        ending: Ending,
    ) -> Result<Option<ViewReader>, Failure> {
        self.ask(|reply| Order::Cancel { job: job.into(), ending, reply }).await
    }

    /// Ends a job that this daemon was given. Does nothing if it has ended already.
    pub(crate) async fn end(
        &self,
        workspace: WorkspaceId,
        id: JobId,
        ending: Ending,
    ) -> Result<(), Failure> {
        let job = JobName { workspace, id };
        self.ask(|reply| Order::Cancel { job, ending, reply }).await.map(drop)
    }

    /// A job's place in the queue, from 1; `None` if it is not queued.
    pub(crate) async fn position(&self, job: &Located) -> Result<Option<u32>, Failure> {
        self.ask(|reply| Order::Position { job: job.into(), reply }).await
    }

    /// How many jobs are queued or running, and a receiver for every change from now on.
    pub(crate) async fn changes(&self) -> Result<(u32, broadcast::Receiver<Change>), Failure> {
        self.ask(|reply| Order::Changes { reply }).await
    }

    /// Tells watchers that jobs were removed. The owner knows only of live jobs.
    pub(crate) async fn removed(
        &self,
        workspace: WorkspaceId,
        ids: Vec<JobId>,
    ) -> Result<(), Failure> {
        self.ask(|reply| Order::Removed { workspace, ids, reply }).await
    }

    /// Removes the cached state of a session that no longer exists.
    pub(crate) async fn forget_state(&self, state: CacheName) -> Result<(), Failure> {
        self.ask(|reply| Order::ForgetState { state, reply }).await
    }

    /// What each of these jobs waits for.
    pub(crate) async fn waits_for(&self, ids: Vec<JobId>) -> Result<Vec<Vec<JobId>>, Failure> {
        self.ask(|reply| Order::WaitsFor { ids, reply }).await
    }

    /// The names of running jobs' models. Their files tell them only once they have ended.
    pub(crate) async fn running_models(&self) -> Result<HashMap<JobId, String>, Failure> {
        self.ask(|reply| Order::RunningModels { reply }).await
    }

    /// Loaded models and running jobs.
    pub(crate) async fn ps(&self) -> Result<ProcessList, Failure> {
        Ok(self.status().await?.0)
    }

    /// As [`Hub::ps`], and whether the daemon is stopping.
    pub(crate) async fn status(&self) -> Result<(ProcessList, bool), Failure> {
        self.ask(|reply| Order::Status { reply }).await
    }

    /// Loads a model if it is not loaded, and sets how long it stays. The view shows the progress.
    pub(crate) async fn load(
        &self,
        model: FoundModel,
        pin: bool,
        keep_alive: Option<KeepAlive>,
    ) -> Result<watch::Receiver<LoadView>, Failure> {
        let model = Box::new(model);
        self.ask(|reply| Order::Load { model, pin, keep_alive, reply }).await
    }

    /// Unloads engines.
    pub(crate) async fn unload(&self, which: ToUnload) -> Result<Unloaded, Failure> {
        self.ask(|reply| Order::Unload { which, reply }).await
    }

    /// Starts serving another workspace, instead of the abandoned one `before` if there is one.
    pub(crate) async fn serve(
        &self,
        settings: Arc<WorkspaceSettings>,
        opened: Opened,
        before: Option<WorkspaceId>,
    ) -> Result<Serving, Failure> {
        let opened = Box::new(opened);
        self.ask(|reply| Order::Serve { settings, opened, before, reply }).await?
    }

    /// Stops the daemon: after the grace time, or now.
    pub(crate) async fn stop(&self, now: bool) -> Result<(), Failure> {
        self.ask(|reply| Order::Stop { now, reply }).await
    }
}
