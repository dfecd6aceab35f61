//! Jobs that are not live, as clients may change them.

use std::sync::mpsc::{self, TrySendError};
use std::time::Duration;

use threadrunner_core::protocol::Removed;
use threadrunner_core::{ErrorCode, Failure, JobId, SessionName};
use tokio::sync::{oneshot, watch};

use super::known::{RemovedSession, Undone};
use super::{Operation, Reply};

/// How long to wait before trying again when the thread has no room for another operation.
const FULL: Duration = Duration::from_millis(10);
/// How many jobs one operation removes.
const REMOVED_AT_ONCE: usize = 256;

/// What clients may do to jobs that are not live. The owner does not know those jobs, so this
/// bypasses it.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub(super) operations: mpsc::SyncSender<Operation>,
    pub(super) ended: watch::Receiver<u64>,
}

impl Archive {
    async fn ask<T>(&self, operation: impl FnOnce(Reply<T>) -> Operation) -> Result<T, Failure> {
        let ending = || Failure::new(ErrorCode::ShuttingDown, "the daemon is ending");
        let (reply, answer) = oneshot::channel();
        let mut operation = operation(reply);
        while let Err(refused) = self.operations.try_send(operation) {
            match refused {
                TrySendError::Full(again) => operation = again,
                TrySendError::Disconnected(_) => return Err(ending()),
            }
            tokio::time::sleep(FULL).await;
        }
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
    pub(crate) async fn remove(&self, id: JobId) -> Result<Removed, Failure> {
        self.ask(|reply| Operation::Remove { id, reply }).await
    }

    /// Has the thread let go of a workspace that is gone from its place. Jobs in it fail with
    /// `failure`.
    pub(crate) async fn abandon(&self, failure: Failure) -> Result<(), Failure> {
        self.ask(|reply| Operation::Abandon { failure, reply }).await
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

    /// Removes ended jobs. Skips jobs that are missing, needed or queued again. Works in steps of
    /// [`REMOVED_AT_ONCE`], so that other operations do not wait long.
    pub(crate) async fn remove_all(&self, ids: &[JobId]) -> Result<Removed, Failure> {
        let mut removed = Removed::default();
        for some in ids.chunks(REMOVED_AT_ONCE) {
            let ids = some.to_vec();
            let mut some = self.ask(|reply| Operation::RemoveAll { ids, reply }).await?;
            removed.jobs.append(&mut some.jobs);
            removed.failed.append(&mut some.failed);
        }
        Ok(removed)
    }
}
