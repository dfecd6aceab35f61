//! What all handlers share: the handle to the jobs' owner, the workspaces and the configuration.

use std::time::Instant;

use threadrunner_core::protocol::{JobQuery, ModelQuery};
use threadrunner_core::{Failure, JobState, ModelRef};
use threadrunner_home::{Config, Home, WorkspaceSettings};

use crate::jobs::{Awaited, Hub, ViewReader};
use crate::workspaces::{Directories, Located, Workspaces, find_among};

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) hub: Hub,
    pub(crate) workspaces: Workspaces,
    pub(crate) directories: Directories,
    pub(crate) home: Home,
    pub(crate) config: Config,
    pub(crate) started: Instant,
}

impl Context {
    /// Finds the job that a query names, in order to wait for it. A job that is not on disk yet is
    /// found only by its full id.
    pub(crate) async fn find(&self, query: JobQuery) -> Result<Located, Failure> {
        if let Some(id) = query.job.id()
            && let Some(workspace) = self.hub.locate(id.clone()).await?
        {
            let among = self.among(query.workspace.as_ref()).await?;
            if let Some(workspace) = among.into_iter().find(|served| served.id == workspace) {
                return Ok(Located { id, workspace });
            }
        }
        self.find_stored(query).await
    }

    /// Finds the job that a query names, if it is on disk.
    pub(crate) async fn find_stored(&self, query: JobQuery) -> Result<Located, Failure> {
        let among = self.among(query.workspace.as_ref()).await?;
        find_among(query, among).await
    }

    /// Returns a job's view if it is queued or running.
    ///
    /// After a start with a long queue, or after a retry, the owner may not know yet of a job in
    /// `ready`; in that case this tells it first.
    pub(crate) async fn watch(
        &self,
        job: &Located,
        awaited: Awaited,
    ) -> Result<Option<ViewReader>, Failure> {
        if let Some(view) = self.hub.watch(job, awaited).await? {
            return Ok(Some(view));
        }
        if job.read(|reader, id| Ok(reader.locate(id)?.0)).await? != JobState::Ready {
            return Ok(None);
        }
        job.workspace.archive.look(job.id.clone()).await?;
        self.hub.watch(job, awaited).await
    }

    /// Resolves the model that a query names, with its draft model.
    pub(crate) fn model(&self, query: &ModelQuery) -> Result<ModelRef, Failure> {
        self.with_draft(self.model_alone(query)?, query)
    }

    /// Resolves the model that a query names, with a draft model only if the query names one.
    pub(crate) fn model_to_unload(&self, query: &ModelQuery) -> Result<ModelRef, Failure> {
        let model = self.model_alone(query)?;
        if query.draft.is_some() { self.with_draft(model, query) } else { Ok(model) }
    }

    fn model_alone(&self, query: &ModelQuery) -> Result<ModelRef, Failure> {
        let backend = threadrunner_home::resolve_backend(query.backend, &self.home, &self.config);
        threadrunner_home::resolve_model(&self.home, &self.config, backend, query.model.as_deref())
    }

    fn with_draft(&self, model: ModelRef, query: &ModelQuery) -> Result<ModelRef, Failure> {
        let draft = query.draft.as_deref();
        threadrunner_home::resolve_draft(&self.home, &self.config, model, draft)
    }

    /// Resolves the model that a query names in a workspace, with its draft model.
    pub(crate) fn model_in(
        &self,
        workspace: &WorkspaceSettings,
        query: &ModelQuery,
    ) -> Result<ModelRef, Failure> {
        let backend = threadrunner_home::resolve_backend(query.backend, &self.home, &self.config);
        let model = threadrunner_home::resolve_workspace_model(
            &self.home,
            &self.config,
            workspace,
            backend,
            query.model.as_deref(),
        )?;
        self.with_draft(model, query)
    }
}
