//! Hooks, the programs that run when a job has ended: which are due, and how each went.
//!
//! A note in `.hooks/ID` says that a job has a hook. It is made before the job can end, and removed
//! when the hook has run. So after a crash, one directory tells which hooks are due, without a look
//! at every job that ever ended; and a hook that was cut short runs again.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use threadrunner_core::{HookOutcome, JobId, JobMeta, JobOutcome, JobSpec, JobState};

use crate::files::{JobDir, job_dir};
use crate::job_files::LoadError;
use crate::layout::{HOOK_FILE, HOOK_LOG_FILE, HOOK_NEXT, HOOKS_DIR, kind, open_dir, open_root};
use crate::{Durability, Result, Workspace, WorkspaceError, by_time, job_files, listing};

/// A hook that is due.
#[derive(Debug)]
pub struct Hook {
    /// The program.
    pub program: PathBuf,
    /// The job's directory, the program's only argument.
    pub directory: PathBuf,
    /// The job's workspace.
    pub workspace: PathBuf,
    /// How the job ended.
    pub status: JobOutcome,
    /// The file for its output.
    pub log: File,
}

impl Workspace {
    /// Notes that a job has a hook. The next [`Workspace::sync`] makes the note durable.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn expect_hook(&mut self, id: &JobId) -> Result<()> {
        let dir = self.hooks_dir()?;
        if kind(dir.as_fd(), id.as_str()).is_none() {
            self.fs
                .create(dir.as_fd(), id.as_str())
                .map_err(|error| self.hook_error("create", id, error))?;
            self.hooks_unsynced = true;
        }
        Ok(())
    }

    /// Removes the note that a job has a hook: it ran, or the job is gone.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn forget_hook(&mut self, id: &JobId) -> Result<()> {
        let dir = self.hooks_dir()?;
        // Not synced: if the power fails now, the hook runs once more.
        job_dir(&dir, self.path().join(HOOKS_DIR)).remove(&*self.fs, id.as_str())
    }

    /// The jobs noted to have a hook that has not run, oldest first.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn expected_hooks(&self) -> Result<Vec<JobId>> {
        let mut ids = Vec::new();
        let dir = self.hooks_dir()?;
        listing::for_each_entry(dir.as_fd(), |name, _| ids.extend(JobId::parse(name)))
            .map_err(|error| WorkspaceError::io("list", self.path().join(HOOKS_DIR), error))?;
        ids.sort_unstable_by(by_time);
        Ok(ids)
    }

    /// Prepares to run the hook of a job that has ended, with an empty log; `None` if the job has
    /// not ended or has no hook.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn begin_hook(&mut self, id: &JobId) -> Result<Option<Hook>> {
        let Some((state, fd)) = self.ended_job(id)? else { return Ok(None) };
        let path = self.layout.job_path(state, id);
        let dir = job_dir(&fd, path.clone());
        let spec = match job_files::load_spec(&dir) {
            Ok(spec) => spec,
            Err(LoadError::Unfit(_)) => JobSpec::default(),
            Err(LoadError::Workspace(error)) => return Err(error),
        };
        let Some(program) = spec.on_done else { return Ok(None) };
        let meta: JobMeta = job_files::load_meta(&dir)?;
        let status = meta.status.unwrap_or(match state {
            JobState::Done => JobOutcome::Done,
            _ => JobOutcome::Failed,
        });
        let log = dir.create(&*self.fs, HOOK_LOG_FILE)?;
        let workspace = self.path().to_owned();
        Ok(Some(Hook { program, directory: path, workspace, status, log }))
    }

    /// Records how a hook went, and removes the job's note. Returns false, and keeps the note, if
    /// the job was queued again meanwhile: its hook runs at its next end.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn end_hook(&mut self, id: &JobId, outcome: &HookOutcome) -> Result<bool> {
        match self.ended_job(id) {
            Ok(Some((state, fd))) => {
                let dir = job_dir(&fd, self.layout.job_path(state, id));
                self.write_hook_outcome(&dir, outcome)?;
                self.forget_hook(id).map(|()| true)
            }
            Ok(None) => Ok(false),
            Err(WorkspaceError::NotFound { .. }) => self.forget_hook(id).map(|()| true),
            Err(error) => Err(error),
        }
    }

    fn write_hook_outcome(&self, dir: &JobDir<'_>, outcome: &HookOutcome) -> Result<()> {
        dir.write(&*self.fs, HOOK_NEXT, &job_files::pretty(outcome, HOOK_FILE)?)?;
        dir.replace(&*self.fs, HOOK_NEXT, HOOK_FILE)
    }

    /// The directory of a job that has ended; `None` if it has not.
    fn ended_job(&self, id: &JobId) -> Result<Option<(JobState, OwnedFd)>> {
        for state in [JobState::Done, JobState::Failed] {
            if let Some(fd) = self.layout.open_job(state, id)? {
                return Ok(Some((state, fd)));
            }
        }
        let elsewhere = JobState::ALL.iter().any(|&at| self.layout.holds(at, id));
        if elsewhere { Ok(None) } else { Err(crate::staged::not_found(&self.layout, id)) }
    }

    /// Makes the notes since the last sync durable.
    pub(crate) fn sync_hooks(&mut self) -> Result<()> {
        if self.hooks_unsynced && self.options.durability == Durability::Durable {
            let dir = self.hooks_dir()?;
            self.fs
                .sync(dir.as_fd())
                .map_err(|error| WorkspaceError::io("sync", self.path().join(HOOKS_DIR), error))?;
        }
        self.hooks_unsynced = false;
        Ok(())
    }

    fn hooks_dir(&self) -> Result<OwnedFd> {
        let path = self.path().join(HOOKS_DIR);
        let io = |verb, error: std::io::Error| WorkspaceError::io(verb, &path, error);
        let root = open_root(self.path())?;
        match open_dir(root.as_fd(), HOOKS_DIR) {
            Ok(dir) => Ok(dir),
            Err(Errno::NOENT) => {
                self.fs.make_dir(root.as_fd(), HOOKS_DIR).map_err(|e| io("create", e))?;
                if self.options.durability == Durability::Durable {
                    self.fs.sync(root.as_fd()).map_err(|e| io("sync", e))?;
                }
                open_dir(root.as_fd(), HOOKS_DIR).map_err(|e| io("open", e.into()))
            }
            Err(error) => Err(io("open", error.into())),
        }
    }

    fn hook_error(&self, verb: &'static str, id: &JobId, error: std::io::Error) -> WorkspaceError {
        WorkspaceError::io(verb, self.path().join(HOOKS_DIR).join(id.as_str()), error)
    }
}
