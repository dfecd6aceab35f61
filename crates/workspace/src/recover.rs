//! Recovery, an owner's first step: repairs what the last one left, however it ended.

use std::time::{Duration, SystemTime};

use rustix::fs::AtFlags;
use threadrunner_core::{Failure, JobId, JobMeta, JobSpec, JobState, micros_since_epoch};

use crate::claim::begun_too_often;
use crate::files::{JobDir, job_dir};
use crate::job_files::{Digest, LoadError, OutcomeSeal, is_whole_submission, load_spec};
use crate::layout::{
    ERROR_FILE, JOB_NEXT, META_FILE, META_NEXT, OUTPUT_FILE, PARTIAL_FILE, RESULT_FILE,
    SUBMISSION_FILES,
};
use crate::staged::{self, Staged};
use crate::submission::Submission;
use crate::{Result, Workspace, WorkspaceError, listing, tree};

/// How old an entry in `input/writing` must be to count as abandoned.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What opening a workspace found and repaired.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The queue: every job in `input/ready`, of any program, oldest first.
    pub queued: Vec<JobId>,
    /// Accepted jobs that a power failure had kept out of the queue. They are queued now.
    pub submitted: Vec<JobId>,
    /// Jobs whose attempt was cut short. They are queued again.
    pub requeued: Vec<JobId>,
    /// Jobs that were answered but not yet in `output`. They are now.
    pub finished: Vec<JobId>,
    /// Jobs moved to `failed`: out of attempts, malformed, or failed before.
    pub failed: Vec<JobId>,
    /// How many leftovers of submissions were deleted.
    pub deleted: usize,
    /// What could not be recovered, and was left as it is.
    pub troubles: Vec<WorkspaceError>,
}

/// What to do with a job in `processing`.
enum Verdict {
    /// Its end was prepared in this file: repeat the renames.
    Ended(Ending, &'static str),
    /// Queue it again.
    Again,
    /// Fail it.
    GiveUp(Failure),
}

/// How an attempt ended.
enum Ending {
    /// With these files.
    Done(&'static [&'static str]),
    Failed(Option<Failure>),
}

impl Workspace {
    /// Repairs what the last owner left. `lost` are submissions in the redo log that a power
    /// failure may have taken.
    pub(crate) fn recover(
        &mut self,
        lost: Vec<Submission<'_>>,
        now: SystemTime,
    ) -> Result<Recovered> {
        let mut recovered = Recovered::default();
        for submission in lost {
            match self.redo(&submission) {
                Ok(()) => {}
                Err(error @ WorkspaceError::NotAJob { .. }) => recovered.troubles.push(error),
                // Going on would overwrite the log, which is all that is left of the job.
                Err(error) => return Err(error),
            }
        }
        self.recover_writing(now, &mut recovered)?;
        self.recover_processing(now, &mut recovered)?;
        let synced = self.sync();
        for (id, error) in synced.failed {
            for list in [
                &mut recovered.submitted,
                &mut recovered.requeued,
                &mut recovered.finished,
                &mut recovered.failed,
            ] {
                list.retain(|other| *other != id);
            }
            recovered.troubles.push(error);
        }
        let emptied = self.unsynced.empty_redo(&self.layout, &*self.fs);
        recovered.troubles.extend(emptied.err());
        recovered.queued = listing::ids(&self.layout, JobState::Ready)?;
        self.continue_ids(&recovered);
        recovered.troubles.extend(self.recall_ids().err());
        Ok(recovered)
    }

    /// Writes a submission again, as if it were new, if it is nowhere or was torn.
    fn redo(&self, submission: &Submission<'_>) -> Result<()> {
        let id = &submission.id;
        for at in JobState::ALL {
            let Some(fd) = self.layout.open_job(at, id)? else { continue };
            let dir = job_dir(&fd, self.layout.job_path(at, id));
            let is_whole = match at {
                JobState::Writing => is_whole_submission(&dir),
                // It was synced before it could end.
                JobState::Done | JobState::Failed => true,
                JobState::Ready | JobState::Processing => !submission.is_torn(&dir)?,
            };
            if is_whole {
                return Ok(());
            }
            // Possibly left by a recovery that was cut short itself.
            tree::delete_writing(&self.layout, &*self.fs, &staged::gone_name(id))?;
            staged::withdraw(&self.layout, &*self.fs, at, id)?;
        }
        submission.write(&self.layout, &*self.fs).map(drop)
    }

    /// Prepares to recover one job in `processing` that nobody holds any more, because its end
    /// could not be written, as opening the workspace does for all of them. Does nothing if the job
    /// is not there.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn recover_job(&mut self, id: &JobId, now: SystemTime) -> Result<()> {
        self.flush(id);
        self.recover_one(id, now, &mut Recovered::default())
    }

    fn recover_writing(&mut self, now: SystemTime, recovered: &mut Recovered) -> Result<()> {
        let mut names = Vec::new();
        listing::for_each_entry(self.layout.dir(JobState::Writing), |name, _| {
            names.push(name.to_owned());
        })
        .map_err(|e| WorkspaceError::io("list", self.layout.path(JobState::Writing), e))?;
        names.sort_unstable();
        for name in names {
            if let Ok(id) = JobId::parse(&name)
                && let Ok(Some(fd)) = self.layout.open_job(JobState::Writing, &id)
                && is_whole_submission(&job_dir(&fd, self.layout.job_path(JobState::Writing, &id)))
            {
                let mut staged = Staged::new(id.clone(), JobState::Writing);
                staged.written.extend(SUBMISSION_FILES);
                staged.route.push(JobState::Ready);
                self.staged.push(staged);
                recovered.submitted.push(id);
            } else if staged::is_gone(&name) || self.is_forgotten(&name, now) {
                match tree::delete_writing(&self.layout, &*self.fs, &name) {
                    Ok(()) => recovered.deleted += 1,
                    Err(error) => recovered.troubles.push(error),
                }
            }
        }
        Ok(())
    }

    fn is_forgotten(&self, name: &str, now: SystemTime) -> bool {
        let dir = self.layout.dir(JobState::Writing);
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        let age = FORGOTTEN_AFTER.as_secs();
        let now = micros_since_epoch(now) / 1_000_000;
        u64::try_from(stat.st_mtime).is_ok_and(|modified| modified.saturating_add(age) < now)
    }

    fn recover_processing(&mut self, now: SystemTime, recovered: &mut Recovered) -> Result<()> {
        for id in listing::ids(&self.layout, JobState::Processing)? {
            self.ids_come_after(&id);
            if let Err(error) = self.recover_one(&id, now, recovered) {
                recovered.troubles.push(error);
            }
        }
        Ok(())
    }

    fn recover_one(
        &mut self,
        id: &JobId,
        now: SystemTime,
        recovered: &mut Recovered,
    ) -> Result<()> {
        let Some(fd) = self.layout.open_job(JobState::Processing, id)? else { return Ok(()) };
        let dir = job_dir(&fd, self.layout.job_path(JobState::Processing, id));
        match verdict(&dir, |spec| self.max_attempts(spec))? {
            Verdict::Ended(ending, meta_file) => {
                let mut staged = Staged::new(id.clone(), JobState::Processing);
                staged.written.push(meta_file);
                if meta_file != META_FILE {
                    staged.replace.push((meta_file, META_FILE));
                }
                match ending {
                    Ending::Done(files) => {
                        staged.written.extend(files);
                        staged.remove.push(PARTIAL_FILE);
                        staged.route.push(JobState::Done);
                        recovered.finished.push(id.clone());
                    }
                    Ending::Failed(failure) => {
                        // The reason is sealed in `meta.json`; the text file next to it may be
                        // torn.
                        let text = failure.map(|failure| failure.to_text()).unwrap_or_default();
                        dir.write(&*self.fs, ERROR_FILE, text.as_bytes())?;
                        staged.written.push(ERROR_FILE);
                        staged.remove.extend([RESULT_FILE, OUTPUT_FILE]);
                        staged.route.push(JobState::Failed);
                        recovered.failed.push(id.clone());
                    }
                }
                self.staged.push(staged);
            }
            Verdict::Again => {
                let mut staged = Staged::new(id.clone(), JobState::Processing);
                // The partial answer stays readable until the next attempt begins.
                staged.remove.extend([META_NEXT, JOB_NEXT, RESULT_FILE, OUTPUT_FILE]);
                staged.route.push(JobState::Ready);
                self.staged.push(staged);
                recovered.requeued.push(id.clone());
            }
            Verdict::GiveUp(failure) => {
                self.stage_failure(JobState::Processing, id, &failure, now)?;
                recovered.failed.push(id.clone());
            }
        }
        Ok(())
    }

    /// Makes new ids continue after the newest existing one, even if the clock went back.
    fn continue_ids(&mut self, recovered: &Recovered) {
        if let Some(newest) = recovered.queued.last() {
            self.ids_come_after(newest);
        }
        // Reading a million names of finished jobs would take long. Each directory changed no
        // earlier than its newest job was made, so its modification time is enough.
        for state in JobState::ALL {
            let changed = std::fs::metadata(self.layout.path(state)).and_then(|it| it.modified());
            if let Ok(changed) = changed {
                // The file system's clock advances in ticks, of up to a hundredth of a second.
                let micros = micros_since_epoch(changed).saturating_add(10_000);
                if let Ok(id) = JobId::parse(&format!("{micros:016}")) {
                    self.ids_come_after(&id);
                }
            }
        }
    }
}

fn verdict(dir: &JobDir<'_>, max_attempts: impl Fn(&JobSpec) -> u32) -> Result<Verdict> {
    let spec = match load_spec(dir) {
        Ok(spec) => spec,
        Err(LoadError::Unfit(failure)) => return Ok(Verdict::GiveUp(failure)),
        Err(LoadError::Workspace(error)) => return Err(error),
    };
    for name in [META_NEXT, META_FILE] {
        if let Some(ending) = ended(dir, name, spec.attempts) {
            return Ok(Verdict::Ended(ending, name));
        }
    }
    if spec.attempts >= max_attempts(&spec) {
        return Ok(Verdict::GiveUp(begun_too_often(spec.attempts)));
    }
    Ok(Verdict::Again)
}

/// How this attempt ended according to this `meta.json`; `None` if it ended another attempt, or if
/// the answer that it seals is not complete.
fn ended(dir: &JobDir<'_>, name: &str, attempt: u32) -> Option<Ending> {
    let bytes = dir.read(name).ok().flatten()?;
    let meta: JobMeta = serde_json::from_slice(&bytes).ok()?;
    let seal = OutcomeSeal::of(&meta).filter(|seal| seal.attempt == attempt)?;
    let Some(digest) = seal.result else { return Some(Ending::Failed(meta.error)) };
    let is_whole = |name, digest| {
        let file = dir.read(name).ok().flatten();
        file.is_some_and(|bytes| Digest::of(&bytes) == digest)
    };
    let files: &'static [&'static str] = match seal.output {
        None => &[RESULT_FILE],
        Some(output) if is_whole(OUTPUT_FILE, output) => &[RESULT_FILE, OUTPUT_FILE],
        Some(_) => return None,
    };
    is_whole(RESULT_FILE, digest).then_some(Ending::Done(files))
}
