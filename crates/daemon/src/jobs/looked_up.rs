//! Handles what was looked up and done on disks for the owner.

use std::time::Instant;

use threadrunner_core::engine_protocol::StateDirectory;
use threadrunner_core::{Failure, JobId, ModelRef};

use super::disk::News;
use super::known_models::Consulted;
use super::live::Stage;
use super::owner::Owner;
use super::prepared::Prepared;
use crate::model_files::ModelFiles;
use crate::models::FoundModel;
use crate::store::{After, WorkspaceId};

impl Owner {
    pub(super) fn disk_news(&mut self, news: News) {
        match news {
            News::Looked(model, found) => {
                self.models.looked(&model);
                let found = found.unwrap_or_else(|failure| {
                    tracing::warn!(model = model.name(), %failure, "cannot look at the model");
                    FoundModel { model, files: ModelFiles::default(), settings: Default::default() }
                });
                self.models.saw(found, Instant::now());
            }
            News::Usual(workspace, found) => self.resolved(workspace, found),
            News::State(model, state) => self.prepared.there(model, state),
            News::Taken(taken) => {
                self.end_engines_that_take_too_much(taken, Instant::now());
            }
        }
    }

    /// Whether enough is known of a model for its next job to begin. If not, it is looked at, and
    /// its jobs wait.
    pub(super) fn knows(&mut self, model: &ModelRef) -> bool {
        match self.models.consult(model, Instant::now()) {
            Consulted::Known => true,
            Consulted::Look => {
                self.disk.look(model.clone());
                false
            }
            Consulted::Wait => false,
        }
    }

    /// The directory for the session states of a model, or `None` while it is being created.
    pub(super) fn state_of(
        &mut self,
        model: &ModelRef,
        now: Instant,
    ) -> Option<Option<StateDirectory>> {
        if !self.disk.keeps_states() {
            return Some(None);
        }
        match self.prepared.take(model, now) {
            Prepared::There(state) => Some(state),
            Prepared::Awaited(_) => None,
            Prepared::Missing => {
                if !self.disk.prepare_state(model.clone()) {
                    // This load does without; the next one asks again.
                    self.prepared.forget(model);
                    return Some(None);
                }
                None
            }
        }
    }

    /// Has a job wait until the usual model of its workspace is looked up.
    pub(super) fn resolve_later(&mut self, workspace: WorkspaceId, id: JobId, after: After) {
        let waiting = self.unresolved.entry(workspace).or_default();
        waiting.push((id, after));
        if waiting.len() == 1 {
            self.disk.find_usual(workspace, self.stores[workspace].settings().clone());
        }
    }

    fn resolved(&mut self, workspace: WorkspaceId, found: Result<FoundModel, Failure>) {
        let waiting = self.unresolved.remove(&workspace).unwrap_or_default();
        let model = found.map(|found| {
            let model = found.model.clone();
            self.models.saw(found, Instant::now());
            model
        });
        for (id, after) in waiting {
            let Some(live) = self.live.get_mut(&id) else { continue };
            if !matches!(live.stage, Stage::Resolving) {
                // It was canceled meanwhile.
                continue;
            }
            match &model {
                Ok(model) => {
                    live.model = model.clone();
                    live.stage = Stage::Storing;
                    self.hold_or_enqueue(&id, after);
                }
                Err(failure) => self.fail_queued(&id, failure.clone()),
            }
        }
    }
}
