//! The workspace's part in hooks, the programs that run when jobs have ended.

use threadrunner_core::{Failure, HookOutcome, JobId, JobSpec};
use threadrunner_workspace::WorkspaceError;

use super::StoreEvent;
use super::keeper::Keeper;

impl Keeper {
    /// Notes on disk that a job has a hook, if it has one, before the job can end.
    pub(super) fn note_hook(&mut self, id: &JobId, spec: &JobSpec) -> Result<(), Failure> {
        if spec.on_done.is_some() && !self.hooked.contains(id) {
            self.workspace.expect_hook(id)?;
            self.hooked.insert(id.clone());
        }
        Ok(())
    }

    /// Removes the note of a hook: it has run, or its job does not exist.
    pub(super) fn forget_hook(&mut self, id: &JobId) {
        if self.hooked.remove(id)
            && let Err(error) = self.workspace.forget_hook(id)
        {
            tracing::warn!(job = %id, %error, "cannot remove the note of a hook");
        }
    }

    /// Reports that an ended job has a hook, if it has one.
    pub(super) fn tell_hook_due(&self, id: &JobId) {
        if self.hooked.contains(id) {
            self.tell(StoreEvent::HookDue { id: id.clone() });
        }
    }

    /// Reports the hooks that an earlier daemon left. Whether their jobs have ended is checked when
    /// they are about to run.
    pub(super) fn tell_hooks_due(&mut self) {
        match self.workspace.expected_hooks() {
            Ok(ids) => {
                for id in ids {
                    self.hooked.insert(id.clone());
                    self.tell(StoreEvent::HookDue { id });
                }
            }
            Err(error) => tracing::warn!(%error, "cannot find the hooks that are due"),
        }
    }

    pub(super) fn begin_hook(&mut self, id: JobId) {
        if !self.hooked.contains(&id) {
            // It has run since.
            return self.tell(StoreEvent::HookReady { id, result: Ok(None) });
        }
        let result = match self.workspace.begin_hook(&id) {
            Err(WorkspaceError::NotFound { .. }) => {
                self.forget_hook(&id);
                Ok(None)
            }
            result => result.map_err(Failure::from),
        };
        self.tell(StoreEvent::HookReady { id, result });
    }

    pub(super) fn end_hook(&mut self, id: &JobId, outcome: &HookOutcome) {
        match self.workspace.end_hook(id, outcome) {
            Ok(true) => {
                self.hooked.remove(id);
            }
            // Queued again in the meantime: the hook runs when the job ends next.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(job = %id, %error, "cannot record the outcome of a hook");
                // It has run. A full disk is no reason to run it again and again.
                self.forget_hook(id);
            }
        }
    }
}
