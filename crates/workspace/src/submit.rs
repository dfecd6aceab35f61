//! Into the queue.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use threadrunner_core::{JobId, JobMeta, JobSpec, JobState, JobType};

use crate::files::{MAX_FILE_BYTES, job_dir};
use crate::job_files::{SubmissionSeal, job_json, meta_json, unsupported};
use crate::layout::{JOB_FILE, META_FILE, PROMPT_FILE, open_dir};
use crate::staged::{self, Staged};
use crate::time::format_timestamp;
use crate::{ClaimedJob, Result, Workspace, WorkspaceError};

/// A job to submit.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id, from [`Workspace::next_id`].
    pub id: JobId,
    /// The prompt.
    pub prompt: String,
    /// Everything else that is asked.
    pub spec: JobSpec,
    /// Tags and parent; `submitted_at` is filled in.
    pub meta: JobMeta,
}

impl Workspace {
    /// Whether there is no job of that id.
    ///
    /// # Errors
    /// [`WorkspaceError::Exists`] where there is one, in whatever state.
    pub fn vacant(&self, id: &JobId) -> Result<()> {
        match JobState::ALL.into_iter().find(|&at| self.layout.holds(at, id)) {
            Some(state) => Err(WorkspaceError::Exists { id: id.clone(), state }),
            None => Ok(()),
        }
    }

    /// Prepares a job for the queue.
    ///
    /// # Errors
    /// [`WorkspaceError::Exists`] for an id in use, [`WorkspaceError::TooLarge`],
    /// [`WorkspaceError::Rejected`] for a kind of job that cannot be run, and
    /// [`WorkspaceError::Io`]. Nothing of the job is left then.
    pub fn submit(&mut self, job: NewJob, now: SystemTime) -> Result<()> {
        self.write_submission(&job, now)?;
        self.stage_submission(job.id, vec![JobState::Ready]);
        Ok(())
    }

    /// Prepares a job that is run at once, its first attempt counted: one sync serves both.
    ///
    /// # Errors
    /// As [`Workspace::submit`].
    pub fn submit_claimed(&mut self, mut job: NewJob, now: SystemTime) -> Result<ClaimedJob> {
        job.spec.attempts = 1;
        let (meta, dir) = self.write_submission(&job, now)?;
        let NewJob { id, prompt, spec, .. } = job;
        self.stage_submission(id.clone(), vec![JobState::Ready, JobState::Processing]);
        let path = self.layout.job_path(JobState::Processing, &id);
        Ok(ClaimedJob::new(id, spec, meta, prompt, (dir, path), Arc::clone(&self.fs)))
    }

    fn stage_submission(&mut self, id: JobId, route: Vec<JobState>) {
        let written = vec![PROMPT_FILE, META_FILE, JOB_FILE];
        self.staged.push(Staged {
            written,
            route,
            new: true,
            ..Staged::new(id, JobState::Writing)
        });
    }

    fn write_submission(&self, job: &NewJob, now: SystemTime) -> Result<(JobMeta, OwnedFd)> {
        if job.meta.mode != JobType::Text {
            let failure = unsupported(job.meta.mode);
            return Err(WorkspaceError::Rejected { id: job.id.clone(), failure });
        }
        self.vacant(&job.id)?;
        let mut meta = job.meta.clone();
        meta.submitted_at.get_or_insert_with(|| format_timestamp(now));
        let meta_bytes = meta_json(&meta)?;
        let seal = SubmissionSeal::new(job.prompt.as_bytes(), &meta_bytes);
        let job_bytes = job_json(&job.spec, Some(seal))?;
        fits("a prompt", job.prompt.len())?;
        fits("a job description", job_bytes.len().max(meta_bytes.len()))?;
        let write = || {
            let writing = self.layout.dir(JobState::Writing);
            let path = self.layout.job_path(JobState::Writing, &job.id);
            let fs = &*self.fs;
            fs.make_dir(writing, job.id.as_str())
                .map_err(|error| WorkspaceError::io("create", &path, error))?;
            let fd = open_dir(writing, job.id.as_str())
                .map_err(|error| WorkspaceError::io("open", &path, error))?;
            let dir = job_dir(&fd, path);
            dir.write(fs, PROMPT_FILE, job.prompt.as_bytes())?;
            dir.write(fs, META_FILE, &meta_bytes)?;
            dir.write(fs, JOB_FILE, &job_bytes)?;
            Ok(fd)
        };
        match write() {
            Ok(fd) => Ok((meta, fd)),
            Err(error) => {
                // Else it would take up room, which may be what was lacking, for a day.
                let _ = staged::delete(&self.layout, &*self.fs, job.id.as_str());
                Err(error)
            }
        }
    }
}

/// Whether a file of so many bytes could be read again.
pub(crate) fn fits(what: &'static str, bytes: usize) -> Result<()> {
    let bytes = bytes as u64;
    if bytes > MAX_FILE_BYTES {
        return Err(WorkspaceError::TooLarge { what, bytes, limit: MAX_FILE_BYTES });
    }
    Ok(())
}
