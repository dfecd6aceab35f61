//! What all handlers share: the handle to the jobs' owner, the workspaces and the configuration.

use std::sync::Arc;
use std::time::Instant;

use threadrunner_core::protocol::{JobQuery, ModelQuery};
use threadrunner_core::{Failure, JobState, ModelRef};
use threadrunner_home::{Config, Home, WorkspaceSettings};

use crate::jobs::{Awaited, Hub, ViewReader};
use crate::models::{Asked, FoundModel, ModelCatalog};
use crate::workspaces::{Directories, Located, Workspaces, find_among};

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) hub: Hub,
    pub(crate) workspaces: Workspaces,
    pub(crate) directories: Directories,
    pub(crate) models: ModelCatalog,
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
    pub(crate) async fn model(&self, query: ModelQuery) -> Result<FoundModel, Failure> {
        self.models.resolve_soon(Asked { query, workspace: None, drafted: true }).await
    }

    /// Resolves the model that a query names, with a draft model only if the query names one.
    pub(crate) async fn model_to_unload(&self, query: ModelQuery) -> Result<ModelRef, Failure> {
        let asked = Asked { query, workspace: None, drafted: false };
        Ok(self.models.resolve_soon(asked).await?.model)
    }

    /// Resolves the model that a query names in a workspace, with its draft model.
    pub(crate) async fn model_in(
        &self,
        workspace: &Arc<WorkspaceSettings>,
        query: ModelQuery,
    ) -> Result<FoundModel, Failure> {
        let workspace = Some(Arc::clone(workspace));
        self.models.resolve_soon(Asked { query, workspace, drafted: true }).await
    }
}
