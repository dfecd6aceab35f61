//! How running jobs end: with an answer, with a failure, or back in the queue.

use std::time::{Instant, SystemTime};

use threadrunner_core::{Failure, JobId, JobMeta, Output};
use threadrunner_workspace::{Attempt, StillClaimed, WorkspaceError};

use super::super::StoreEvent;
use super::{Keeper, Pending, RECOVERED_AFTER, not_claimed};

impl Keeper {
    pub(super) fn complete(
        &mut self,
        id: JobId,
        (text, output): (&str, &[Output]),
        meta: JobMeta,
        now: SystemTime,
    ) {
        let Some(job) = self.claimed.remove(&id) else { return self.not_claimed(id) };
        match self.workspace.complete(job, text, output, meta.clone(), now) {
            Ok(()) => self.ends(id, Ok(())),
            Err(still) => {
                let StillClaimed { job, error } = *still;
                let failure = Failure::from(error);
                // If there is no room for the answer, there may be some for the reason. If not even
                // that, the job stays in `processing` and is recovered later.
                if let Err(still) = self.workspace.fail(job, &failure, meta, now) {
                    tracing::error!(job = %id, error = %still.error, "cannot record its failure");
                    self.recover_later(id.clone());
                }
                self.ends(id, Err(failure));
            }
        }
    }

    pub(super) fn fail(&mut self, id: JobId, failure: &Failure, meta: JobMeta, now: SystemTime) {
        let Some(job) = self.claimed.remove(&id) else { return self.not_claimed(id) };
        let result = self.workspace.fail(job, failure, meta, now);
        if result.is_err() {
            self.recover_later(id.clone());
        }
        self.ends(id, result.map_err(|still| still.error.into()));
    }

    pub(super) fn release(&mut self, id: JobId, counted: bool) {
        let attempt = if counted { Attempt::Counted } else { Attempt::Forgotten };
        let Some(job) = self.claimed.remove(&id) else {
            let failure = not_claimed(&id);
            return self.tell(StoreEvent::Released { id, result: Err(failure) });
        };
        match self.workspace.release(job, attempt) {
            Ok(()) => self.pending.push((id, Pending::Released)),
            Err(still) => {
                self.recover_later(id.clone());
                let result = Err(still.error.into());
                self.tell(StoreEvent::Released { id, result });
            }
        }
    }

    /// Reports that a claim failed, for now or for good.
    pub(super) fn not_claimed_for(&mut self, id: JobId, error: WorkspaceError) {
        if error.is_shortage() {
            self.tell(StoreEvent::NotNow { id, failure: error.into() });
        } else {
            self.listed = None;
            if matches!(error, WorkspaceError::Rejected { .. }) {
                self.pending.push((id.clone(), Pending::Refused));
            }
            self.tell(StoreEvent::Claimed { id, result: Err(error.into()) });
        }
    }

    /// Schedules the recovery of a job that was left in `processing` because its end could not be
    /// written.
    pub(super) fn recover_later(&mut self, id: JobId) {
        self.unended.push_back((Instant::now() + RECOVERED_AFTER, id));
    }

    pub(super) fn recover(&mut self, id: JobId) {
        if self.claimed.contains_key(&id) {
            // It was claimed again in the meantime.
            return;
        }
        match self.workspace.recover_job(&id, SystemTime::now()) {
            Ok(()) => self.pending.push((id, Pending::Recovered)),
            // It went with the workspace.
            Err(_) if !self.workspace.reader().is_in_place() => {}
            Err(error) => {
                tracing::debug!(job = %id, %error, "a job waits to be recovered");
                self.recover_later(id);
            }
        }
    }
}
