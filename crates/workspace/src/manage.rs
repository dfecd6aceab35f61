//! Operations on jobs that are not running: cancel, fail, retry and remove.

use std::time::SystemTime;

use threadrunner_core::{ErrorCode, Failure, JobId, JobSpec, JobState};

use crate::files::job_dir;
use crate::job_files::{LoadError, job_json, load_spec};
use crate::layout::{JOB_FILE, JOB_NEXT};
use crate::staged::Staged;
use crate::{Result, Workspace, WorkspaceError};

impl Workspace {
    /// Prepares to cancel a queued job. A running one is canceled by its holder, with
    /// [`Workspace::fail`].
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it is not queued; [`WorkspaceError::NotFound`];
    /// [`WorkspaceError::Io`].
    pub fn cancel(&mut self, id: &JobId, now: SystemTime) -> Result<()> {
        let failure = Failure::new(ErrorCode::Canceled, "the job was canceled before it began");
        self.fail_queued(id, &failure, now)
    }

    /// Prepares to fail a queued job, because a deadline passed or a job that it waits for failed.
    ///
    /// # Errors
    /// As [`Workspace::cancel`].
    pub fn fail_queued(&mut self, id: &JobId, failure: &Failure, now: SystemTime) -> Result<()> {
        self.flush(id);
        self.stage_failure(JobState::Ready, id, failure, now)
    }

    /// Prepares to queue a failed or canceled job again, with its attempts set back to 0.
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it has not failed; [`WorkspaceError::NotFound`];
    /// [`WorkspaceError::Rejected`] when its description cannot be read; [`WorkspaceError::Io`].
    pub fn retry(&mut self, id: &JobId) -> Result<()> {
        self.flush(id);
        let fd = self.open_in(JobState::Failed, id, "retried")?;
        let dir = job_dir(&fd, self.layout.job_path(JobState::Failed, id));
        let spec = load_spec(&dir).map_err(|error| match error {
            LoadError::Unfit(failure) => WorkspaceError::Rejected { id: id.clone(), failure },
            LoadError::Workspace(error) => error,
        })?;
        let spec = JobSpec { attempts: 0, ..spec };
        dir.write(&*self.fs, JOB_NEXT, &job_json(&spec, None)?)?;
        let mut staged = Staged::new(id.clone(), JobState::Failed);
        staged.written.push(JOB_NEXT);
        staged.replace.push((JOB_NEXT, JOB_FILE));
        staged.route.push(JobState::Ready);
        staged.settle = true;
        self.staged.push(staged);
        Ok(())
    }

    /// Prepares to remove a job that has ended, with all its files.
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it has not ended; [`WorkspaceError::NotFound`].
    pub fn remove(&mut self, id: &JobId) -> Result<()> {
        self.flush(id);
        let at = [JobState::Done, JobState::Failed]
            .into_iter()
            .find(|&state| self.layout.holds(state, id));
        let Some(at) = at else {
            self.open_in(JobState::Done, id, "removed; cancel it first")?;
            return Err(crate::staged::not_found(&self.layout, id));
        };
        let mut staged = Staged::new(id.clone(), at);
        staged.discard = true;
        staged.settle = true;
        self.staged.push(staged);
        Ok(())
    }
}
