//! Submits jobs to the queue.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use threadrunner_core::{JobId, JobMeta, JobState, JobType, Timestamp};

use crate::job_files::unsupported;
use crate::layout::SUBMISSION_FILES;
use crate::staged::Staged;
use crate::submission::{NewJob, Submission};
use crate::{ClaimedJob, Durability, Result, Workspace, WorkspaceError};

impl Workspace {
    /// Checks that no job has this id.
    ///
    /// # Errors
    /// [`WorkspaceError::Exists`] when a job has it, in any state.
    pub fn vacant(&self, id: &JobId) -> Result<()> {
        match JobState::ALL.into_iter().find(|&at| self.layout.holds(at, id)) {
            Some(state) => Err(WorkspaceError::Exists { id: id.clone(), state }),
            None => Ok(()),
        }
    }

    /// Prepares to submit a job.
    ///
    /// # Errors
    /// [`WorkspaceError::Exists`] for an id in use; [`WorkspaceError::TooLarge`];
    /// [`WorkspaceError::Rejected`] for a kind of job that cannot be run; [`WorkspaceError::Io`].
    /// An error leaves nothing of the job behind.
    pub fn submit(&mut self, job: NewJob, now: SystemTime) -> Result<()> {
        self.prepare_submission(&job, vec![JobState::Ready], now)?;
        Ok(())
    }

    /// Prepares a job that runs at once, with its first attempt counted. One sync covers both.
    ///
    /// # Errors
    /// As [`Workspace::submit`].
    pub fn submit_claimed(&mut self, mut job: NewJob, now: SystemTime) -> Result<ClaimedJob> {
        job.spec.attempts = 1;
        let route = vec![JobState::Ready, JobState::Processing];
        let (meta, dir) = self.prepare_submission(&job, route, now)?;
        let NewJob { id, prompt, spec, .. } = job;
        let path = self.layout.job_path(JobState::Processing, &id);
        Ok(ClaimedJob::new(id, spec, meta, prompt, (dir, path), Arc::clone(&self.fs)))
    }

    fn prepare_submission(
        &mut self,
        job: &NewJob,
        route: Vec<JobState>,
        now: SystemTime,
    ) -> Result<(JobMeta, OwnedFd)> {
        if job.meta.mode != JobType::Text {
            let failure = unsupported(job.meta.mode);
            return Err(WorkspaceError::Rejected { id: job.id.clone(), failure });
        }
        self.vacant(&job.id)?;
        let mut meta = job.meta.clone();
        meta.submitted_at.get_or_insert_with(|| Timestamp::at(now));
        let submission = Submission::new(job, &meta)?;
        let dir = submission.write(&self.layout, &*self.fs)?;
        let entry = match self.options.durability {
            Durability::Durable => submission.entry(),
            Durability::Relaxed => None,
        };
        self.note_id(&job.id, now);
        self.staged.push(Staged {
            written: SUBMISSION_FILES.to_vec(),
            route,
            new: true,
            entry,
            ..Staged::new(job.id.clone(), JobState::Writing)
        });
        Ok((meta, dir))
    }
}
