//! Ends attempts: completes, fails or releases a claimed job.

use std::time::SystemTime;

use threadrunner_core::{
    ErrorCode, Failure, JobMeta, JobOutcome, JobSpec, JobState, Output, Timestamp,
};

use crate::job_files::{Digest, OutcomeSeal, job_json, meta_json};
use crate::layout::{
    ERROR_FILE, JOB_FILE, JOB_NEXT, META_FILE, META_NEXT, OUTPUT_FILE, PARTIAL_FILE, RESULT_FILE,
};
use crate::staged::Staged;
use crate::submission::fits;
use crate::{ClaimedJob, Result, StillClaimed, Workspace, WorkspaceError};

/// Whether an attempt that was given up counts against the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It counts: the job killed its engine, or may have.
    Counted,
    /// It does not count: the daemon is shutting down, and the job did nothing wrong.
    Forgotten,
}

impl Workspace {
    /// Prepares to complete a claimed job with the answer `result`, its text, and `output`, what it
    /// holds beside it. Fills in `completed_at` (unless
    /// it is set), `status` and `artifacts` of `meta`.
    ///
    /// # Errors
    /// [`StillClaimed`] returns the job when its answer cannot be written.
    pub fn complete(
        &mut self,
        job: ClaimedJob,
        result: &str,
        output: &[Output],
        mut meta: JobMeta,
        now: SystemTime,
    ) -> Result<(), Box<StillClaimed>> {
        self.flush(job.id());
        self.note_id(job.id(), now);
        meta.status = Some(JobOutcome::Done);
        let files: &[&'static str] = match output {
            [] => &[RESULT_FILE],
            _ => &[RESULT_FILE, OUTPUT_FILE],
        };
        meta.artifacts = files.iter().map(|&name| name.to_owned()).collect();
        meta.error = None;
        if let Err(error) = self.write_result(&job, result, output, meta, now) {
            return Err(Box::new(StillClaimed { job, error }));
        }
        let mut staged = Staged::new(job.into_id(), JobState::Processing);
        staged.written.extend(files);
        staged.written.push(META_NEXT);
        staged.replace.push((META_NEXT, META_FILE));
        staged.remove.push(PARTIAL_FILE);
        staged.route.push(JobState::Done);
        self.staged.push(staged);
        Ok(())
    }

    fn write_result(
        &self,
        job: &ClaimedJob,
        result: &str,
        output: &[Output],
        meta: JobMeta,
        now: SystemTime,
    ) -> Result<()> {
        fits("an answer", result.len())?;
        let dir = job.job_dir();
        let sealed_output = match output {
            [] => None,
            output => {
                let text = line_of(output)?;
                fits("an answer", text.len())?;
                dir.write(&*self.fs, OUTPUT_FILE, text.as_bytes())?;
                Some(Digest::of(text.as_bytes()))
            }
        };
        let digest = Digest::of(result.as_bytes());
        // Usually the answer is on the disk already, as the partial answer.
        let renamed = job.partial_is(digest)
            && self.fs.rename((dir.fd, PARTIAL_FILE), (dir.fd, RESULT_FILE), true).is_ok();
        if !renamed {
            dir.write(&*self.fs, RESULT_FILE, result.as_bytes())?;
        }
        self.write_outcome(job, meta, (Some(digest), sealed_output), now)
    }

    /// Prepares to fail a claimed job, or to cancel it if the failure's code is
    /// [`ErrorCode::Canceled`].
    ///
    /// # Errors
    /// [`StillClaimed`] returns the job when the reason cannot be written.
    pub fn fail(
        &mut self,
        job: ClaimedJob,
        failure: &Failure,
        mut meta: JobMeta,
        now: SystemTime,
    ) -> Result<(), Box<StillClaimed>> {
        self.flush(job.id());
        self.note_id(job.id(), now);
        set_failure(&mut meta, failure);
        let write = |meta: JobMeta| {
            job.job_dir().write(&*self.fs, ERROR_FILE, failure.to_text().as_bytes())?;
            self.write_outcome(&job, meta, (None, None), now)
        };
        let mut written = write(meta.clone());
        if written.as_ref().is_err_and(WorkspaceError::is_disk_full) {
            // Recording that the disk is full takes space: free that of the answer, which is void
            // now.
            let dir = job.job_dir();
            let _ = dir.remove(&*self.fs, RESULT_FILE);
            let _ = dir.remove(&*self.fs, OUTPUT_FILE);
            let _ = dir.remove(&*self.fs, PARTIAL_FILE);
            written = write(meta);
        }
        if let Err(error) = written {
            return Err(Box::new(StillClaimed { job, error }));
        }
        let mut staged = Staged::new(job.into_id(), JobState::Processing);
        staged.written.extend([ERROR_FILE, META_NEXT]);
        staged.replace.push((META_NEXT, META_FILE));
        staged.remove.extend([RESULT_FILE, OUTPUT_FILE]);
        staged.route.push(JobState::Failed);
        self.staged.push(staged);
        Ok(())
    }

    fn write_outcome(
        &self,
        job: &ClaimedJob,
        mut meta: JobMeta,
        (result, output): (Option<Digest>, Option<Digest>),
        now: SystemTime,
    ) -> Result<()> {
        meta.completed_at.get_or_insert_with(|| Timestamp::at(now));
        OutcomeSeal { attempt: job.spec().attempts, result, output }.put_into(&mut meta);
        job.job_dir().write(&*self.fs, META_NEXT, &meta_json(&meta)?)?;
        Ok(())
    }

    /// Prepares to put a claimed job back into the queue.
    ///
    /// # Errors
    /// [`StillClaimed`] returns the job when its attempt cannot be taken back.
    pub fn release(&mut self, job: ClaimedJob, attempt: Attempt) -> Result<(), Box<StillClaimed>> {
        self.flush(job.id());
        let mut staged = Staged::new(job.id().clone(), JobState::Processing);
        staged.route.push(JobState::Ready);
        if attempt == Attempt::Forgotten {
            let spec = job.spec();
            let spec = JobSpec { attempts: spec.attempts.saturating_sub(1), ..spec.clone() };
            let written = job_json(&spec, None)
                .and_then(|bytes| job.job_dir().write(&*self.fs, JOB_NEXT, &bytes));
            if let Err(error) = written {
                return Err(Box::new(StillClaimed { job, error }));
            }
            staged.written.push(JOB_NEXT);
            staged.replace.push((JOB_NEXT, JOB_FILE));
        }
        // The partial answer stays readable until the next attempt begins.
        staged.remove.extend([META_NEXT, RESULT_FILE, OUTPUT_FILE]);
        self.staged.push(staged);
        Ok(())
    }
}

/// Outputs as a line of JSON.
fn line_of(output: &[Output]) -> Result<String> {
    let json = serde_json::to_string(output);
    json.map(|line| line + "\n")
        .map_err(|source| WorkspaceError::Json { what: OUTPUT_FILE, source })
}

pub(crate) fn set_failure(meta: &mut JobMeta, failure: &Failure) {
    meta.status = Some(match failure.code {
        ErrorCode::Canceled => JobOutcome::Canceled,
        _ => JobOutcome::Failed,
    });
    meta.artifacts = vec![ERROR_FILE.to_owned()];
    meta.error = Some(failure.clone());
}
