//! The owner of a workspace: submits, claims and ends jobs.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use threadrunner_core::{Failure, JobId, JobIdSource, JobMeta, JobSpec, JobState, JobType};

use crate::claimed::{ClaimedJob, StillClaimed};
use crate::files::{
    Digest, Loaded, MAX_FILE_BYTES, OutcomeSeal, SubmissionSeal, clear_outcome, job_dir, job_json,
    load, load_prompt, meta_json,
};
use crate::fs::{Disk, FileSystem};
use crate::layout::{
    ERROR_FILE, JOB_FILE, JOB_NEXT, LOCK_FILE, Layout, META_FILE, META_NEXT, PARTIAL_FILE,
    PROMPT_FILE, RESULT_FILE, open_dir,
};
use crate::staged::{self, Staged, Synced};
use crate::time::{format_timestamp, micros_since_epoch};
use crate::{Reader, Recovered, Result, WorkspaceError};

/// What must have happened before a client is told of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// It would survive a power failure.
    #[default]
    Durable,
    /// It would survive the daemon's end, however sudden, and not always a power failure.
    Relaxed,
}

/// How a workspace is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// What must have happened before a client is told of it.
    pub durability: Durability,
    /// How often a job is begun that does not say so itself.
    pub max_attempts: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { durability: Durability::Durable, max_attempts: 3 }
    }
}

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

/// A job that waits, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedJob {
    /// Its id.
    pub id: JobId,
    /// What is asked.
    pub spec: JobSpec,
    /// What is known of it.
    pub meta: JobMeta,
    /// The prompt's length.
    pub prompt_bytes: u64,
}

/// Whether an attempt that was given up counts against the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It counts: the engine died of it, or might have.
    Counted,
    /// It does not: the daemon ends, and the job did nothing wrong.
    Forgotten,
}

/// A workspace, owned. One process at a time owns it, by a lock.
///
/// Operations prepare; [`Workspace::sync`] makes what was prepared since the last one true, and
/// until then nobody may be told. So the owner does what has gathered, syncs once, and answers
/// everybody. What a sync could not do for one job it says, and does for the others.
///
/// An operation on a job that has one prepared already syncs first; [`Workspace::sync`] then
/// tells of both.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) layout: Arc<Layout>,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) options: Options,
    pub(crate) staged: Vec<Staged>,
    carried: Synced,
    ids: JobIdSource,
    /// Held for its lock, which the system gives back however this process ends.
    _lock: File,
}

impl Workspace {
    /// Opens the workspace at `path`, made if there is none, and recovers what the last owner
    /// left.
    ///
    /// # Errors
    /// [`WorkspaceError::Locked`] when another process owns it; [`WorkspaceError::Io`] when it
    /// cannot be made or read. A single job that cannot be recovered is no error, but told of in
    /// [`Recovered`].
    pub fn open(path: &Path, options: Options, now: SystemTime) -> Result<(Self, Recovered)> {
        Self::open_on(Arc::new(Disk), path, options, now)
    }

    /// [`Workspace::open`], with changes to the disk going through `fs`.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_on(
        fs: Arc<dyn FileSystem>,
        path: &Path,
        options: Options,
        now: SystemTime,
    ) -> Result<(Self, Recovered)> {
        let layout = Layout::create(path, &*fs)?;
        let lock = lock(layout.root())?;
        let mut workspace = Self {
            layout: Arc::new(layout),
            fs,
            options,
            staged: Vec::new(),
            carried: Synced::default(),
            ids: JobIdSource::new(std::process::id()),
            _lock: lock,
        };
        let recovered = workspace.recover(now)?;
        Ok((workspace, recovered))
    }

    /// The workspace's absolute path.
    pub fn path(&self) -> &Path {
        self.layout.root()
    }

    /// A handle that reads, for any thread.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.layout))
    }

    /// A new id, after all that were made or found before, also when the clock went back.
    pub fn next_id(&mut self, now: SystemTime) -> JobId {
        self.ids.next(micros_since_epoch(now))
    }

    pub(crate) fn ids_come_after(&mut self, id: &JobId) {
        self.ids.after(id);
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
        self.staged.push(Staged { written, route, ..Staged::new(id, JobState::Writing) });
    }

    fn write_submission(
        &mut self,
        job: &NewJob,
        now: SystemTime,
    ) -> Result<(JobMeta, std::os::fd::OwnedFd)> {
        let prompt_bytes = job.prompt.len() as u64;
        if prompt_bytes > MAX_FILE_BYTES {
            return Err(WorkspaceError::TooLarge {
                what: "a prompt",
                bytes: prompt_bytes,
                limit: MAX_FILE_BYTES,
            });
        }
        if job.meta.mode != JobType::Text {
            let failure = crate::files::unsupported(job.meta.mode);
            return Err(WorkspaceError::Rejected { id: job.id.clone(), failure });
        }
        let taken = JobState::ALL.into_iter().find(|&state| self.layout.holds(state, &job.id));
        if let Some(state) = taken {
            return Err(WorkspaceError::Exists { id: job.id.clone(), state });
        }
        let mut meta = job.meta.clone();
        meta.submitted_at.get_or_insert_with(|| format_timestamp(now));
        let meta_bytes = meta_json(&meta)?;
        let seal = SubmissionSeal::new(job.prompt.as_bytes(), &meta_bytes);
        let job_bytes = job_json(&job.spec, Some(seal))?;
        if job_bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(WorkspaceError::TooLarge {
                what: "a job description",
                bytes: job_bytes.len() as u64,
                limit: MAX_FILE_BYTES,
            });
        }
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

    /// Looks at a queued job. One that is malformed is prepared to move to `failed`.
    ///
    /// # Errors
    /// [`WorkspaceError::Rejected`] with what is wrong with it, [`WorkspaceError::NotFound`],
    /// [`WorkspaceError::NotAJob`] for a link or file of that name, and [`WorkspaceError::Io`].
    pub fn inspect(&mut self, id: &JobId, now: SystemTime) -> Result<QueuedJob> {
        self.flush(id);
        let fd = self.open_in(JobState::Ready, id)?;
        let dir = job_dir(&fd, self.layout.job_path(JobState::Ready, id));
        match load(&dir)? {
            Ok(Loaded { spec, mut meta, prompt_bytes }) => {
                clear_outcome(&mut meta);
                Ok(QueuedJob { id: id.clone(), spec, meta, prompt_bytes })
            }
            Err(failure) => Err(self.reject(id, failure, now)?),
        }
    }

    /// Prepares to run a queued job: its attempt is counted by the time it is in `processing`.
    ///
    /// # Errors
    /// As [`Workspace::inspect`], and [`WorkspaceError::WrongState`] when it is not queued.
    pub fn claim(&mut self, id: &JobId, now: SystemTime) -> Result<ClaimedJob> {
        self.flush(id);
        let fd = self.open_in(JobState::Ready, id)?;
        let dir = job_dir(&fd, self.layout.job_path(JobState::Ready, id));
        let loaded = match load(&dir)? {
            Ok(loaded) => load_prompt(&dir)?.map(|prompt| (loaded, prompt)),
            Err(failure) => Err(failure),
        };
        let (Loaded { mut spec, mut meta, .. }, prompt) = match loaded {
            Ok(loaded) => loaded,
            Err(failure) => return Err(self.reject(id, failure, now)?),
        };
        spec.attempts = spec.attempts.saturating_add(1);
        let mut staged = Staged::new(id.clone(), JobState::Ready);
        staged.route.push(JobState::Processing);
        dir.write(&*self.fs, JOB_NEXT, &job_json(&spec, None)?)?;
        staged.written.push(JOB_NEXT);
        staged.replace.push((JOB_NEXT, JOB_FILE));
        if meta.status.is_some() || OutcomeSeal::of(&meta).is_some() {
            // It ended before, and was put back: by `retry`, or by somebody's hand.
            clear_outcome(&mut meta);
            dir.write(&*self.fs, META_NEXT, &meta_json(&meta)?)?;
            staged.written.push(META_NEXT);
            staged.replace.push((META_NEXT, META_FILE));
            staged.remove.extend([ERROR_FILE, RESULT_FILE, PARTIAL_FILE]);
        } else if spec.attempts > 1 {
            staged.remove.push(PARTIAL_FILE);
        }
        self.staged.push(staged);
        let path = self.layout.job_path(JobState::Processing, id);
        Ok(ClaimedJob::new(id.clone(), spec, meta, prompt, (fd, path), Arc::clone(&self.fs)))
    }

    /// Prepares a claimed job's end: `result` is its answer. `completed_at`, `status` and
    /// `artifacts` of `meta` are filled in.
    ///
    /// # Errors
    /// [`StillClaimed`] hands the job back when its answer cannot be written.
    pub fn complete(
        &mut self,
        job: ClaimedJob,
        result: &str,
        mut meta: JobMeta,
        now: SystemTime,
    ) -> Result<(), Box<StillClaimed>> {
        self.flush(&job.id);
        let digest = Digest::of(result.as_bytes());
        meta.status = Some("done".to_owned());
        meta.artifacts = vec![RESULT_FILE.to_owned()];
        meta.error = None;
        let mut write = || {
            if result.len() as u64 > MAX_FILE_BYTES {
                return Err(WorkspaceError::TooLarge {
                    what: "an answer",
                    bytes: result.len() as u64,
                    limit: MAX_FILE_BYTES,
                });
            }
            let dir = job.job_dir();
            if job.partial_is(digest) {
                self.fs
                    .rename((dir.fd, PARTIAL_FILE), (dir.fd, RESULT_FILE), true)
                    .map_err(|error| dir.io("replace", RESULT_FILE, error))?;
            } else {
                dir.write(&*self.fs, RESULT_FILE, result.as_bytes())?;
                dir.remove(&*self.fs, PARTIAL_FILE)?;
            }
            let seal = OutcomeSeal { attempt: job.spec.attempts, result: Some(digest) };
            self.write_outcome(&job, &mut meta, seal, now)
        };
        match write() {
            Ok(()) => {
                let mut staged = Staged::new(job.id, JobState::Processing);
                staged.written.extend([RESULT_FILE, META_NEXT]);
                staged.replace.push((META_NEXT, META_FILE));
                staged.route.push(JobState::Done);
                self.staged.push(staged);
                Ok(())
            }
            Err(error) => Err(Box::new(StillClaimed { job, error })),
        }
    }

    /// Prepares a claimed job's failure, or its cancellation where the code says so.
    ///
    /// # Errors
    /// [`StillClaimed`] hands the job back when the reason cannot be written.
    pub fn fail(
        &mut self,
        job: ClaimedJob,
        failure: &Failure,
        mut meta: JobMeta,
        now: SystemTime,
    ) -> Result<(), Box<StillClaimed>> {
        self.flush(&job.id);
        set_failure(&mut meta, failure);
        let mut write = || {
            let dir = job.job_dir();
            dir.write(&*self.fs, ERROR_FILE, failure.to_text().as_bytes())?;
            let seal = OutcomeSeal { attempt: job.spec.attempts, result: None };
            self.write_outcome(&job, &mut meta, seal, now)
        };
        match write() {
            Ok(()) => {
                let mut staged = Staged::new(job.id, JobState::Processing);
                staged.written.extend([ERROR_FILE, META_NEXT]);
                staged.replace.push((META_NEXT, META_FILE));
                staged.route.push(JobState::Failed);
                self.staged.push(staged);
                Ok(())
            }
            Err(error) => Err(Box::new(StillClaimed { job, error })),
        }
    }

    fn write_outcome(
        &self,
        job: &ClaimedJob,
        meta: &mut JobMeta,
        seal: OutcomeSeal,
        now: SystemTime,
    ) -> Result<()> {
        meta.completed_at.get_or_insert_with(|| format_timestamp(now));
        seal.put_into(meta);
        job.job_dir().write(&*self.fs, META_NEXT, &meta_json(meta)?)?;
        Ok(())
    }

    /// Prepares to put a claimed job back into the queue.
    ///
    /// # Errors
    /// [`StillClaimed`] hands the job back when its attempt cannot be taken back.
    pub fn release(&mut self, job: ClaimedJob, attempt: Attempt) -> Result<(), Box<StillClaimed>> {
        self.flush(&job.id);
        let mut staged = Staged::new(job.id.clone(), JobState::Processing);
        staged.route.push(JobState::Ready);
        if attempt == Attempt::Forgotten {
            let spec =
                JobSpec { attempts: job.spec.attempts.saturating_sub(1), ..job.spec.clone() };
            let written = job_json(&spec, None)
                .and_then(|bytes| job.job_dir().write(&*self.fs, JOB_NEXT, &bytes));
            if let Err(error) = written {
                return Err(Box::new(StillClaimed { job, error }));
            }
            staged.written.push(JOB_NEXT);
            staged.replace.push((JOB_NEXT, JOB_FILE));
        }
        self.staged.push(staged);
        Ok(())
    }

    /// Makes everything that was prepared true, and tells of it.
    pub fn sync(&mut self) -> Synced {
        let group = std::mem::take(&mut self.staged);
        let mut synced = std::mem::take(&mut self.carried);
        if group.is_empty() {
            return synced;
        }
        let durable = staged::syncs(self.options.durability);
        if durable && let Err(error) = staged::sync_contents(&self.layout, &*self.fs, &group) {
            self.give_up(group, &error, &mut synced);
            return synced;
        }
        let mut settling = Vec::new();
        for staged in group {
            match staged::publish(&self.layout, &*self.fs, &staged) {
                Ok(()) if staged.settle => settling.push(staged),
                Ok(()) => synced.done.push((staged.id, staged.route.last().copied())),
                Err(error) => {
                    if staged.at == JobState::Writing {
                        let _ = staged::delete(&self.layout, &*self.fs, staged.id.as_str());
                    }
                    synced.failed.push((staged.id, error));
                }
            }
        }
        if settling.is_empty() {
            return synced;
        }
        if durable && let Err(error) = staged::sync_moves(&self.layout, &*self.fs) {
            self.give_up(settling, &error, &mut synced);
            return synced;
        }
        for staged in settling {
            if staged.discard {
                // The job is gone whatever becomes of this; the next opening tries again.
                let gone = staged::gone_name(&staged.id);
                let _ = staged::delete(&self.layout, &*self.fs, &gone);
            }
            synced.done.push((staged.id, staged.route.last().copied()));
        }
        synced
    }

    fn give_up(&self, group: Vec<Staged>, error: &WorkspaceError, synced: &mut Synced) {
        for staged in group {
            if staged.at == JobState::Writing {
                // Its client is told that there is no such job, so there must be none.
                let _ = staged::delete(&self.layout, &*self.fs, staged.id.as_str());
            }
            synced.failed.push((staged.id, error.duplicate()));
        }
    }

    /// Makes true what is prepared, if any of it is this job's.
    pub(crate) fn flush(&mut self, id: &JobId) {
        if self.staged.iter().any(|staged| staged.id == *id) {
            let synced = self.sync();
            self.carried.append(synced);
        }
    }

    /// Opens a job's directory in a state, or says where the job is instead.
    pub(crate) fn open_in(&self, state: JobState, id: &JobId) -> Result<std::os::fd::OwnedFd> {
        if let Some(fd) = self.layout.open_job(state, id)? {
            return Ok(fd);
        }
        let elsewhere = JobState::ALL[1..].iter().find(|&&at| self.layout.holds(at, id));
        Err(match elsewhere {
            Some(&at) => {
                let wanted = match state {
                    JobState::Ready => "claimed or canceled as a queued job",
                    JobState::Failed => "retried",
                    _ => "handled as such",
                };
                WorkspaceError::WrongState { id: id.clone(), state: at, wanted }
            }
            None => staged::not_found(&self.layout, id),
        })
    }

    /// Prepares a malformed job's move to `failed`; the error is for whoever asked for it.
    pub(crate) fn reject(
        &mut self,
        id: &JobId,
        failure: Failure,
        now: SystemTime,
    ) -> Result<WorkspaceError> {
        self.stage_failure(JobState::Ready, id, &failure, now)?;
        Ok(WorkspaceError::Rejected { id: id.clone(), failure })
    }

    /// Prepares to move a job that nobody runs to `failed`.
    pub(crate) fn stage_failure(
        &mut self,
        at: JobState,
        id: &JobId,
        failure: &Failure,
        now: SystemTime,
    ) -> Result<()> {
        let fd = self.open_in(at, id)?;
        let dir = job_dir(&fd, self.layout.job_path(at, id));
        let mut meta = match dir.read(META_FILE) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
            _ => JobMeta::default(),
        };
        clear_outcome(&mut meta);
        set_failure(&mut meta, failure);
        meta.completed_at = Some(format_timestamp(now));
        dir.write(&*self.fs, ERROR_FILE, failure.to_text().as_bytes())?;
        dir.write(&*self.fs, META_NEXT, &meta_json(&meta)?)?;
        let mut staged = Staged::new(id.clone(), at);
        staged.written.extend([ERROR_FILE, META_NEXT]);
        staged.replace.push((META_NEXT, META_FILE));
        staged.route.push(JobState::Failed);
        staged.settle = true;
        self.staged.push(staged);
        Ok(())
    }
}

fn set_failure(meta: &mut JobMeta, failure: &Failure) {
    let canceled = failure.code == threadrunner_core::ErrorCode::Canceled;
    meta.status = Some(if canceled { "canceled" } else { "failed" }.to_owned());
    meta.artifacts = vec![ERROR_FILE.to_owned()];
    meta.error = Some(failure.clone());
}

fn lock(root: &Path) -> Result<File> {
    let path: PathBuf = root.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| WorkspaceError::io("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(WorkspaceError::Locked { path: root.to_owned() }),
        Err(TryLockError::Error(error)) => Err(WorkspaceError::io("lock", &path, error)),
    }
}
