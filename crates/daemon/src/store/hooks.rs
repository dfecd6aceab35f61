//! The workspace's part of running programs when jobs have ended.

use threadrunner_core::{Failure, HookOutcome, JobId, JobSpec};
use threadrunner_workspace::WorkspaceError;

use super::StoreEvent;
use super::keeper::Keeper;

impl Keeper {
    /// Notes on disk that a job has a hook, if it has, before the job can end.
    pub(super) fn note_hook(&mut self, id: &JobId, spec: &JobSpec) -> Result<(), Failure> {
        if spec.on_done.is_some() && !self.hooked.contains(id) {
            self.workspace.expect_hook(id)?;
            self.hooked.insert(id.clone());
        }
        Ok(())
    }

    /// Takes back the note of a job that is none.
    pub(super) fn forget_hook(&mut self, id: &JobId) {
        if self.hooked.remove(id)
            && let Err(error) = self.workspace.forget_hook(id)
        {
            tracing::warn!(job = %id, %error, "the note of a hook is left");
        }
    }

    /// Tells of a job that has ended, if it has a hook.
    pub(super) fn tell_hook_due(&self, id: &JobId) {
        if self.hooked.contains(id) {
            self.tell(StoreEvent::HookDue { id: id.clone() });
        }
    }

    /// Tells of the hooks that an earlier daemon left. Whether their jobs have ended is looked at
    /// when it is their turn.
    pub(super) fn tell_hooks_due(&mut self) {
        match self.workspace.expected_hooks() {
            Ok(ids) => {
                for id in ids {
                    self.hooked.insert(id.clone());
                    self.tell(StoreEvent::HookDue { id });
                }
            }
            Err(error) => tracing::warn!(%error, "hooks that are due are not run"),
        }
    }

    pub(super) fn begin_hook(&mut self, id: JobId) {
        if !self.hooked.contains(&id) {
            // It has run since this was asked for.
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
            // Queued again meanwhile: it is run at its next end.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(job = %id, %error, "how a hook went is not written down");
                // It ran: not again and again because the disk is full.
                self.forget_hook(id);
            }
        }
    }
}
