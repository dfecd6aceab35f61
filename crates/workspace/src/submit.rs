//! Submits jobs to the queue.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use threadrunner_core::{JobId, JobMeta, JobSpec, JobState, JobType};

use crate::files::{JobDir, MAX_FILE_BYTES, job_dir};
use crate::fs::FileSystem;
use crate::job_files::{SubmissionSeal, job_json, meta_json, unsupported};
use crate::layout::{JOB_FILE, Layout, META_FILE, PROMPT_FILE, SUBMISSION_FILES, open_dir};
use crate::staged::{self, Staged};
use crate::time::format_timestamp;
use crate::{ClaimedJob, Durability, Result, Workspace, WorkspaceError, redo};

/// A job to submit.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id, from [`Workspace::next_id`].
    pub id: JobId,
    /// The prompt.
    pub prompt: String,
    /// Everything else that is asked.
    pub spec: JobSpec,
    /// Tags and parent. `submitted_at` is filled in if it is missing.
    pub meta: JobMeta,
}

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
        meta.submitted_at.get_or_insert_with(|| format_timestamp(now));
        let submission = Submission::new(job, &meta)?;
        let dir = submission.write(&self.layout, &*self.fs)?;
        let entry = match self.options.durability {
            Durability::Durable => redo::entry(&submission),
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

/// A submission as it is on the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Submission<'a> {
    pub(crate) id: JobId,
    prompt: Cow<'a, str>,
    meta: String,
    job: String,
}

impl<'a> Submission<'a> {
    fn new(job: &'a NewJob, meta: &JobMeta) -> Result<Self> {
        let meta = meta_json(meta)?;
        let seal = SubmissionSeal::new(job.prompt.as_bytes(), meta.as_bytes());
        let spec = job_json(&job.spec, Some(seal))?;
        fits("a prompt", job.prompt.len())?;
        fits("a job description", spec.len().max(meta.len()))?;
        Ok(Self { id: job.id.clone(), prompt: Cow::Borrowed(&job.prompt), meta, job: spec })
    }

    /// Its size, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.prompt.len() + self.meta.len() + self.job.len()
    }

    /// Writes it into `input/writing`. An error leaves nothing of it behind.
    pub(crate) fn write(&self, layout: &Layout, fs: &dyn FileSystem) -> Result<OwnedFd> {
        let (writing, name) = (layout.dir(JobState::Writing), self.id.as_str());
        let path = layout.job_path(JobState::Writing, &self.id);
        let write = || {
            fs.make_dir(writing, name)
                .map_err(|error| WorkspaceError::io("create", &path, error))?;
            let fd = open_dir(writing, name)
                .map_err(|error| WorkspaceError::io("open", &path, error))?;
            let dir = job_dir(&fd, path.clone());
            dir.write(fs, PROMPT_FILE, self.prompt.as_bytes())?;
            dir.write(fs, META_FILE, self.meta.as_bytes())?;
            dir.write(fs, JOB_FILE, self.job.as_bytes())?;
            Ok(fd)
        };
        write().inspect_err(|_| {
            // Otherwise it would take up space for a day, and space may be what was lacking.
            let _ = staged::delete(layout, fs, name);
        })
    }

    /// Whether a power failure tore the submission in `dir`: its prompt differs, or its `meta.json`
    /// or `job.json` is not JSON. One that is JSON but differs may have been changed since.
    pub(crate) fn is_torn(&self, dir: &JobDir<'_>) -> Result<bool> {
        let file = |name| dir.read_fit(name).map(Option::unwrap_or_default);
        let says = |name| file(name).map(|it| serde_json::from_slice::<IgnoredAny>(&it).is_ok());
        Ok(file(PROMPT_FILE)? != self.prompt.as_bytes() || !says(META_FILE)? || !says(JOB_FILE)?)
    }
}

/// Checks that a file of this many bytes could be read back.
pub(crate) fn fits(what: &'static str, bytes: usize) -> Result<()> {
    let bytes = bytes as u64;
    if bytes > MAX_FILE_BYTES {
        return Err(WorkspaceError::TooLarge { what, bytes, limit: MAX_FILE_BYTES });
    }
    Ok(())
}
