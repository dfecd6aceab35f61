//! What is done to jobs that nobody runs.

use std::time::{Duration, SystemTime};

use rustix::fs::AtFlags;
use threadrunner_core::{ErrorCode, Failure, JobId, JobSpec, JobState};

use crate::files::job_dir;
use crate::job_files::{job_json, load_spec};
use crate::layout::{JOB_FILE, JOB_NEXT, Layout};
use crate::staged::Staged;
use crate::time::micros_since_epoch;
use crate::{Result, Workspace, WorkspaceError, listing};

/// Which finished jobs are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Jobs that ended longer ago than this go.
    pub max_age: Option<Duration>,
    /// The oldest jobs go until no more than this many are left.
    pub max_count: Option<usize>,
    /// Failed and canceled jobs stay.
    pub keep_failed: bool,
}

impl Workspace {
    /// Prepares to cancel a queued job. A running one is canceled by whoever runs it, with
    /// [`Workspace::fail`].
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it is not queued; [`WorkspaceError::NotFound`];
    /// [`WorkspaceError::Io`].
    pub fn cancel(&mut self, id: &JobId, now: SystemTime) -> Result<()> {
        let failure = Failure::new(ErrorCode::Canceled, "the job was canceled before it began");
        self.fail_queued(id, &failure, now)
    }

    /// Prepares to fail a queued job: a deadline passed, or what it waited for failed.
    ///
    /// # Errors
    /// As [`Workspace::cancel`].
    pub fn fail_queued(&mut self, id: &JobId, failure: &Failure, now: SystemTime) -> Result<()> {
        self.flush(id);
        self.stage_failure(JobState::Ready, id, failure, now)
    }

    /// Prepares to queue a failed or canceled job again, as if it had never been begun.
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it is not failed; [`WorkspaceError::NotFound`];
    /// [`WorkspaceError::Rejected`] when its description cannot be read; [`WorkspaceError::Io`].
    pub fn retry(&mut self, id: &JobId) -> Result<()> {
        self.flush(id);
        let fd = self.open_in(JobState::Failed, id, "retried")?;
        let dir = job_dir(&fd, self.layout.job_path(JobState::Failed, id));
        let spec = load_spec(&dir)?
            .map_err(|failure| WorkspaceError::Rejected { id: id.clone(), failure })?;
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

impl Retention {
    /// Which of the jobs that have ended go, oldest first.
    pub(crate) fn not_kept(&self, layout: &Layout, now: SystemTime) -> Result<Vec<JobId>> {
        if self.max_age.is_none() && self.max_count.is_none() {
            return Ok(Vec::new());
        }
        let mut ended = listing::ids(layout, JobState::Done)?;
        if !self.keep_failed {
            ended.append(&mut listing::ids(layout, JobState::Failed)?);
            ended.sort_unstable_by(listing::by_time);
        }
        let too_many = ended.len().saturating_sub(self.max_count.unwrap_or(usize::MAX));
        let mut index = 0;
        ended.retain(|id| {
            index += 1;
            index <= too_many || self.max_age.is_some_and(|age| ended_before(layout, id, age, now))
        });
        Ok(ended)
    }
}

// The last thing that changes in a job's directory is its `meta.json`, when the job ends. To ask
// the directory for its time is a hundred times cheaper than to read that file.
fn ended_before(layout: &Layout, id: &JobId, age: Duration, now: SystemTime) -> bool {
    let limit = micros_since_epoch(now).saturating_sub(age.as_micros() as u64) / 1_000_000;
    [JobState::Done, JobState::Failed].into_iter().any(|state| {
        let stat = rustix::fs::statat(layout.dir(state), id.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| u64::try_from(stat.st_mtime).is_ok_and(|at| at < limit))
    })
}
