//! Inspecting, listing and looking up the jobs in the workspace.

use std::time::{Instant, SystemTime};

use threadrunner_core::{Failure, JobId, JobState};
use threadrunner_workspace::{ClaimedJob, Reader, WorkspaceError};

use super::super::expand::expand;
use super::super::standing::standing;
use super::super::{After, Claim, Found, Standing, StoreEvent};
use super::{AT_REST_AFTER, COMPLAINTS, FILLED_AFTER, Keeper, Pending};

impl Keeper {
    /// Builds what the owner needs to run a claimed job.
    pub(super) fn claim_of(&mut self, job: &ClaimedJob) -> Claim {
        let (prompt, spec, meta) =
            (job.prompt().to_owned(), job.spec().clone(), job.meta().clone());
        let mut claim = Claim { prompt, spec, meta, state: None, unfit: None };
        let expanded = expand(&mut claim.prompt, &mut claim.spec, &self.workspace.reader());
        // The history goes in after expansion: references in it are not expanded.
        claim.unfit = expanded.and_then(|()| self.begin_turn(job.id(), &mut claim)).err();
        claim
    }

    /// Checks that all jobs that a job waits for exist.
    pub(super) fn all_there(&self, after: &[JobId]) -> Result<(), Failure> {
        let reader = self.workspace.reader();
        after.iter().try_for_each(|id| reader.locate(id).map(drop).map_err(Failure::from))
    }

    /// Inspects all jobs found at the start, so that it is known what each needs.
    pub(super) fn look_at_all(&mut self) {
        while let Some(id) = self.backlog.pop_front() {
            self.look(id);
        }
    }

    /// Reports the state of a job. If it has ended, perhaps by hand, it needs nothing more.
    pub(super) fn tell_standing(&mut self, id: JobId) {
        let how = standing(&id, &self.workspace.reader());
        if how != Standing::Open {
            self.needs.ended(&id);
        }
        self.tell(StoreEvent::Stands { id, how });
    }

    pub(super) fn needed_by(&mut self, id: &JobId) -> Option<JobId> {
        let reader = self.workspace.reader();
        self.needs.needed_by(id, |job| lives(job, &reader))
    }

    /// Inspects a job in `ready`, and reports it if it is one.
    pub(super) fn look(&mut self, id: JobId) {
        let now = SystemTime::now();
        match self.workspace.inspect(&id, now) {
            Ok(job) => {
                let waited = job
                    .meta
                    .submitted_at
                    .as_ref()
                    .and_then(|submitted| submitted.age(now))
                    .unwrap_or_default();
                let time_left_s = job.spec.timeout_s.map(|seconds| seconds - waited.as_secs_f64());
                self.needs.add(&id, &job.spec.after);
                if let Err(failure) = self.note_hook(&id, &job.spec) {
                    tracing::warn!(job = %id, %failure, "its hook is lost if the daemon dies");
                    self.hooked.insert(id.clone());
                }
                let spec = job.spec;
                let turn = self.ask_turn(&id, &spec).unwrap_or_else(|failure| {
                    tracing::warn!(job = %id, %failure, "cannot read its session");
                    None
                });
                let after = After::of(spec.after, spec.after_any, turn, &self.workspace.reader());
                let tag = job.meta.tags.first().map(|tag| tag.as_str().into());
                let (model, priority) = (spec.model, spec.priority);
                let found = Found { model, priority, tag, time_left_s, after };
                self.tell(StoreEvent::Found { id, found });
            }
            // Moved or removed, by another program or this daemon.
            Err(WorkspaceError::NotFound { .. } | WorkspaceError::WrongState { .. }) => {}
            Err(WorkspaceError::Unfinished { .. }) => {
                if self.unfinished.iter().all(|(_, other)| *other != id) {
                    self.unfinished.push_back((Instant::now() + FILLED_AFTER, id));
                }
            }
            Err(error @ (WorkspaceError::Rejected { .. } | WorkspaceError::NotAJob { .. })) => {
                tracing::warn!(job = %id, %error, "not a valid job in ready");
                if matches!(error, WorkspaceError::Rejected { .. }) {
                    self.pending.push((id, Pending::Refused));
                }
            }
            Err(error) => {
                self.listed = None;
                // Log it once: each listing inspects it again.
                if self.complained.len() < COMPLAINTS && self.complained.insert(id.clone()) {
                    tracing::warn!(job = %id, %error, "cannot read a job in ready");
                }
            }
        }
    }

    pub(super) fn list(&mut self) {
        let reader = self.workspace.reader();
        if !reader.is_in_place() {
            return;
        }
        let changed = reader.changed(JobState::Ready);
        // Do not read a long, unchanged queue again and again.
        if changed.is_some() && changed == self.listed {
            return;
        }
        let at_rest = |changed: &SystemTime| {
            SystemTime::now().duration_since(*changed).is_ok_and(|age| age > AT_REST_AFTER)
        };
        self.listed = changed.filter(at_rest);
        match reader.ids(JobState::Ready) {
            Ok(ids) => self.tell(StoreEvent::Listed { ids }),
            Err(error) => {
                self.listed = None;
                tracing::error!(%error, "cannot list the queue");
            }
        }
    }
}

/// Whether a job exists and has not ended.
fn lives(id: &JobId, reader: &Reader) -> bool {
    reader.locate(id).is_ok_and(|(state, _)| !state.is_final())
}
