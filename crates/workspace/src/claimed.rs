//! [`ClaimedJob`]: a job that is being run, and its partial answer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use threadrunner_core::{JobId, JobMeta, JobSpec};

use crate::files::{JobDir, job_dir};
use crate::fs::FileSystem;
use crate::job_files::Digest;
use crate::layout::PARTIAL_FILE;
use crate::{Result, WorkspaceError};

/// A claimed job. Its only holder runs it, and ends it with [`Workspace::complete`],
/// [`Workspace::fail`] or [`Workspace::release`].
///
/// If dropped, it stays in `processing` until the workspace is opened again. That counts the
/// attempt as failed, as if the daemon had crashed.
///
/// [`Workspace::complete`]: crate::Workspace::complete
/// [`Workspace::fail`]: crate::Workspace::fail
/// [`Workspace::release`]: crate::Workspace::release
#[must_use = "a claimed job must be completed, failed or released, else it waits for a restart"]
#[derive(Debug)]
pub struct ClaimedJob {
    id: JobId,
    spec: JobSpec,
    meta: JobMeta,
    prompt: String,
    dir: OwnedFd,
    path: PathBuf,
    fs: Arc<dyn FileSystem>,
    partial: Partial,
}

/// What the disk has of the answer so far.
#[derive(Debug)]
enum Partial {
    Nothing,
    Growing {
        file: File,
        bytes: u64,
        crc32: crc32fast::Hasher,
    },
    /// A write failed, so the content of the file is unknown.
    Broken,
}

impl ClaimedJob {
    pub(crate) fn new(
        id: JobId,
        spec: JobSpec,
        meta: JobMeta,
        prompt: String,
        (dir, path): (OwnedFd, PathBuf),
        fs: Arc<dyn FileSystem>,
    ) -> Self {
        Self { id, spec, meta, prompt, dir, path, fs, partial: Partial::Nothing }
    }

    /// The job's id.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// What is asked, with this attempt counted.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The job's metadata so far.
    pub fn meta(&self) -> &JobMeta {
        &self.meta
    }

    /// The prompt.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The job's directory in `processing`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends to the answer on the disk, where others can read it. Not synced: a partial answer
    /// survives the daemon, but need not survive a power failure.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`]. The job can go on: `complete` writes the whole answer anyway.
    pub fn append_partial(&mut self, text: &str) -> Result<()> {
        if let Partial::Nothing = self.partial {
            let dir = job_dir(&self.dir, self.path.clone());
            let file = dir.create(&*self.fs, PARTIAL_FILE)?;
            self.partial = Partial::Growing { file, bytes: 0, crc32: crc32fast::Hasher::new() };
        }
        let Partial::Growing { file, bytes, crc32 } = &mut self.partial else { return Ok(()) };
        match self.fs.write(file, text.as_bytes()) {
            Ok(()) => {
                *bytes += text.len() as u64;
                crc32.update(text.as_bytes());
                Ok(())
            }
            Err(error) => {
                self.partial = Partial::Broken;
                Err(WorkspaceError::io("write", self.path.join(PARTIAL_FILE), error))
            }
        }
    }

    /// Discards the partial answer on the disk: what was sent so far is void.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn restart_partial(&mut self) -> Result<()> {
        self.partial = Partial::Nothing;
        self.job_dir().remove(&*self.fs, PARTIAL_FILE)
    }

    pub(crate) fn into_id(self) -> JobId {
        self.id
    }

    pub(crate) fn job_dir(&self) -> JobDir<'_> {
        job_dir(&self.dir, self.path.clone())
    }

    /// Whether the partial answer on the disk is the whole of `answer`.
    pub(crate) fn partial_is(&self, answer: Digest) -> bool {
        match &self.partial {
            Partial::Growing { bytes, crc32, .. } => {
                Digest::new(*bytes, crc32.clone().finalize()) == answer
            }
            Partial::Nothing | Partial::Broken => false,
        }
    }
}

/// A failed operation to end a job, with the job, which is still claimed: it must still be
/// completed, failed or released.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct StillClaimed {
    /// The job.
    pub job: ClaimedJob,
    /// Why it could not be ended.
    #[source]
    pub error: WorkspaceError,
}
