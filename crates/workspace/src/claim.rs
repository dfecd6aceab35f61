//! Inspects queued jobs, and claims them to run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use threadrunner_core::{ErrorCode, Failure, JobId, JobMeta, JobSpec, JobState, Timestamp};

use crate::files::{JobDir, job_dir};
use crate::finish::set_failure;
use crate::job_files::{
    self, Description, LoadError, OutcomeSeal, clear_outcome, job_json, load_prompt, meta_json,
};
use crate::layout::{
    ERROR_FILE, HOOK_FILE, HOOK_LOG_FILE, JOB_FILE, JOB_NEXT, META_FILE, META_NEXT, OUTPUT_FILE,
    PARTIAL_FILE, RESULT_FILE,
};
use crate::staged::Staged;
use crate::{ClaimedJob, Result, Workspace, WorkspaceError};

/// A queued job, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedJob {
    /// Its id.
    pub id: JobId,
    /// What is asked.
    pub spec: JobSpec,
    /// Its metadata.
    pub meta: JobMeta,
    /// The prompt's length, in bytes.
    pub prompt_bytes: u64,
}

/// How long a job that was created in `input/ready`, and not renamed into it, may lack its prompt.
const UNFINISHED_FOR: Duration = Duration::from_secs(1);

impl Workspace {
    /// Inspects a queued job. A malformed one is prepared to move to `failed`.
    ///
    /// # Errors
    /// [`WorkspaceError::Rejected`] with what is wrong with it; [`WorkspaceError::Unfinished`] for
    /// a directory that is still being filled, to be inspected again a second later;
    /// [`WorkspaceError::NotAJob`] for a link or file of that name, which stays where it is;
    /// [`WorkspaceError::Exists`] when a failed job has the same id; [`WorkspaceError::NotFound`];
    /// [`WorkspaceError::WrongState`]; [`WorkspaceError::Io`].
    pub fn inspect(&mut self, id: &JobId, now: SystemTime) -> Result<QueuedJob> {
        self.flush(id);
        let fd = self.open_in(JobState::Ready, id, "inspected")?;
        let dir = job_dir(&fd, self.layout.job_path(JobState::Ready, id));
        self.refuse_namesake(id, &dir, now)?;
        match job_files::load(&dir) {
            Ok(Description { spec, mut meta, prompt_bytes, .. }) => {
                clear_outcome(&mut meta);
                Ok(QueuedJob { id: id.clone(), spec, meta, prompt_bytes })
            }
            Err(error) => Err(self.refuse(id, &dir, error, now)?),
        }
    }

    /// Prepares to run a queued job. Its attempt is counted by the time it is in `processing`.
    ///
    /// # Errors
    /// As [`Workspace::inspect`]; a job without attempts left is [`WorkspaceError::Rejected`].
    pub fn claim(&mut self, id: &JobId, now: SystemTime) -> Result<ClaimedJob> {
        self.flush(id);
        self.note_id(id, now);
        let fd = self.open_in(JobState::Ready, id, "claimed")?;
        let dir = job_dir(&fd, self.layout.job_path(JobState::Ready, id));
        self.refuse_namesake(id, &dir, now)?;
        let (spec, mut meta, prompt) = match self.load_next_attempt(&dir) {
            Ok(loaded) => loaded,
            Err(error) => return Err(self.refuse(id, &dir, error, now)?),
        };
        match self.stage_claim(id, &dir, &spec, &mut meta) {
            Ok(staged) => self.staged.push(staged),
            Err(error) => {
                // On a full disk this is tried often, and none of it was an attempt.
                let _ = dir.remove(&*self.fs, JOB_NEXT);
                return Err(error);
            }
        }
        let path = self.layout.job_path(JobState::Processing, id);
        Ok(ClaimedJob::new(id.clone(), spec, meta, prompt, (fd, path), Arc::clone(&self.fs)))
    }

    fn stage_claim(
        &self,
        id: &JobId,
        dir: &JobDir<'_>,
        spec: &JobSpec,
        meta: &mut JobMeta,
    ) -> Result<Staged> {
        let mut staged = Staged::new(id.clone(), JobState::Ready);
        staged.route.push(JobState::Processing);
        dir.write(&*self.fs, JOB_NEXT, &job_json(spec, None)?)?;
        staged.written.push(JOB_NEXT);
        staged.replace.push((JOB_NEXT, JOB_FILE));
        let ended_before = meta.status.is_some() || OutcomeSeal::of(meta).is_some();
        if ended_before {
            // It was queued again, by `retry` or by hand.
            clear_outcome(meta);
            dir.write(&*self.fs, META_NEXT, &meta_json(meta)?)?;
            staged.written.push(META_NEXT);
            staged.replace.push((META_NEXT, META_FILE));
        }
        // From an earlier attempt, even one that does not count. Removed now and not at the sync,
        // which may come after this attempt has begun to write.
        dir.remove(&*self.fs, PARTIAL_FILE)?;
        if ended_before || spec.attempts > 1 {
            for name in [ERROR_FILE, RESULT_FILE, OUTPUT_FILE, HOOK_FILE, HOOK_LOG_FILE] {
                dir.remove(&*self.fs, name)?;
            }
        }
        Ok(staged)
    }

    /// Moves a job to `failed` if it is its own fault that it cannot run. Returns why it cannot.
    fn refuse(
        &mut self,
        id: &JobId,
        dir: &JobDir<'_>,
        error: LoadError,
        now: SystemTime,
    ) -> Result<WorkspaceError> {
        match error {
            LoadError::Unfit(failure) => self.reject(id, dir, failure, now),
            LoadError::Workspace(error) => Err(error),
        }
    }

    /// What to run, with the attempt counted.
    fn load_next_attempt(&self, dir: &JobDir<'_>) -> Result<(JobSpec, JobMeta, String), LoadError> {
        let Description { mut spec, meta, sealed_prompt, .. } = job_files::load(dir)?;
        let prompt = load_prompt(dir, sealed_prompt)?;
        // An attempt may have ended in a power failure before the rename that counts it.
        if let Some(next) = job_files::load_prepared_spec(dir) {
            spec.attempts = spec.attempts.max(next.attempts);
        }
        let max = self.max_attempts(&spec);
        if spec.attempts >= max {
            return Err(begun_too_often(spec.attempts).into());
        }
        spec.attempts += 1;
        Ok((spec, meta, prompt))
    }

    /// How many attempts a claimed job has left if this one fails.
    pub fn attempts_left(&self, job: &ClaimedJob) -> u32 {
        self.max_attempts(job.spec()).saturating_sub(job.spec().attempts)
    }

    pub(crate) fn max_attempts(&self, spec: &JobSpec) -> u32 {
        spec.max_attempts.unwrap_or(self.options.max_attempts).max(1)
    }

    /// Refuses a job whose id already belongs to one that has ended: it could never end itself.
    fn refuse_namesake(&mut self, id: &JobId, dir: &JobDir<'_>, now: SystemTime) -> Result<()> {
        let ended = [JobState::Failed, JobState::Done];
        match ended.into_iter().find(|&at| self.layout.holds(at, id)) {
            None => Ok(()),
            // Its own failure has no place either, so it stays where it is.
            Some(JobState::Failed) => {
                Err(WorkspaceError::Exists { id: id.clone(), state: JobState::Failed })
            }
            Some(state) => {
                let exists = WorkspaceError::Exists { id: id.clone(), state };
                let failure = Failure::from(exists).hint("give its directory another name");
                Err(self.reject(id, dir, failure, now)?)
            }
        }
    }

    /// Prepares to move a malformed job to `failed`, and returns the error for the caller.
    fn reject(
        &mut self,
        id: &JobId,
        dir: &JobDir<'_>,
        failure: Failure,
        now: SystemTime,
    ) -> Result<WorkspaceError> {
        if !dir.has_prompt() && dir.changed_within(UNFINISHED_FOR, now) {
            return Ok(WorkspaceError::Unfinished { path: dir.path.clone() });
        }
        self.stage_failure(JobState::Ready, id, &failure, now)?;
        Ok(WorkspaceError::Rejected { id: id.clone(), failure })
    }

    /// Prepares to move a job that is not running to `failed`.
    pub(crate) fn stage_failure(
        &mut self,
        at: JobState,
        id: &JobId,
        failure: &Failure,
        now: SystemTime,
    ) -> Result<()> {
        let fd = self.open_in(at, id, "canceled as a queued job")?;
        let dir = job_dir(&fd, self.layout.job_path(at, id));
        let mut meta = job_files::load_whole_meta(&dir)?;
        clear_outcome(&mut meta);
        set_failure(&mut meta, failure);
        meta.completed_at = Some(Timestamp::at(now));
        dir.write(&*self.fs, ERROR_FILE, failure.to_text().as_bytes())?;
        dir.write(&*self.fs, META_NEXT, &meta_json(&meta)?)?;
        let mut staged = Staged::new(id.clone(), at);
        staged.written.extend([ERROR_FILE, META_NEXT]);
        staged.replace.push((META_NEXT, META_FILE));
        staged.remove.extend([RESULT_FILE, OUTPUT_FILE]);
        staged.route.push(JobState::Failed);
        staged.settle = true;
        self.staged.push(staged);
        Ok(())
    }
}

pub(crate) fn begun_too_often(attempts: u32) -> Failure {
    let times = if attempts == 1 { "once".to_owned() } else { format!("{attempts} times") };
    let message =
        format!("the job was started {times} and never ended: the daemon or its engine died");
    Failure::new(ErrorCode::EngineDied, message)
        .hint("see `threadrunner daemon logs`; `threadrunner retry` queues it again")
}
