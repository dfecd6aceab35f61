//! A job that is submitted, and its files.

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use threadrunner_core::{JobId, JobMeta, JobSpec, JobState};

use crate::files::{JobDir, MAX_FILE_BYTES, job_dir};
use crate::fs::FileSystem;
use crate::job_files::{SubmissionSeal, job_json, meta_json};
use crate::layout::{JOB_FILE, Layout, META_FILE, PROMPT_FILE, open_dir};
use crate::tree::delete_writing;
use crate::{Result, WorkspaceError};

/// The longest submission that is worth writing twice, in bytes.
const MAX_ENTRY_BYTES: usize = 16 << 10;

/// A job to submit.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id, from [`Workspace::next_id`](crate::Workspace::next_id).
    pub id: JobId,
    /// The prompt.
    pub prompt: String,
    /// Everything else that is asked.
    pub spec: JobSpec,
    /// Tags and parent. `submitted_at` is filled in if it is missing.
    pub meta: JobMeta,
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
    /// The submission of `job`, with this `meta.json`.
    pub(crate) fn new(job: &'a NewJob, meta: &JobMeta) -> Result<Self> {
        let meta = meta_json(meta)?;
        let seal = SubmissionSeal::new(job.prompt.as_bytes(), meta.as_bytes());
        let spec = job_json(&job.spec, Some(seal))?;
        fits("a prompt", job.prompt.len())?;
        fits("a job description", spec.len().max(meta.len()))?;
        Ok(Self { id: job.id.clone(), prompt: Cow::Borrowed(&job.prompt), meta, job: spec })
    }

    /// Its entry for the redo log; `None` if it is too long to be worth it.
    pub(crate) fn entry(&self) -> Option<Vec<u8>> {
        let bytes = self.prompt.len() + self.meta.len() + self.job.len();
        (bytes <= MAX_ENTRY_BYTES).then(|| serde_json::to_vec(self).ok()).flatten()
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
            let _ = delete_writing(layout, fs, name);
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
