//! What every handler may use: the owner of the jobs, the workspace's reader, the configuration.

use std::path::PathBuf;
use std::time::Instant;

use threadrunner_core::protocol::ModelQuery;
use threadrunner_core::{ErrorCode, Failure, JobId, JobState, ModelRef};
use threadrunner_home::{Config, Home};
use threadrunner_workspace::Reader;

use crate::jobs::{Hub, ViewReader};
use crate::store::Archive;

/// What every handler may use.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) hub: Hub,
    pub(crate) reader: Reader,
    pub(crate) archive: Archive,
    pub(crate) home: Home,
    pub(crate) config: Config,
    pub(crate) workspace: PathBuf,
    pub(crate) started: Instant,
}

impl Context {
    /// Runs a read of the workspace where it may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let reader = self.reader.clone();
        match tokio::task::spawn_blocking(move || read(&reader)).await {
            Ok(result) => result,
            Err(error) => Err(Failure::new(ErrorCode::Internal, error.to_string())),
        }
    }

    /// The job that a query names.
    pub(crate) async fn find(
        &self,
        query: threadrunner_core::protocol::JobQuery,
    ) -> Result<JobId, Failure> {
        self.workspace_known(query.workspace.as_deref())?;
        self.read(move |reader| Ok(reader.resolve(&query.job)?)).await
    }

    /// A job's view, if it is queued or running. The owner may not have been told yet of one in
    /// `ready`: after a start with a long queue, or a retry. Then it is told first.
    pub(crate) async fn watch(&self, id: &JobId) -> Result<Option<ViewReader>, Failure> {
        if let Some(view) = self.hub.watch(id.clone()).await? {
            return Ok(Some(view));
        }
        let name = id.clone();
        if self.read(move |reader| Ok(reader.locate(&name)?.0)).await? != JobState::Ready {
            return Ok(None);
        }
        self.archive.look(id.clone()).await?;
        self.hub.watch(id.clone()).await
    }

    /// Checks that a workspace named in a request is one that this daemon has.
    pub(crate) fn workspace_known(&self, name: Option<&str>) -> Result<(), Failure> {
        match name {
            None | Some("default") => Ok(()),
            Some(name) => Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!("there is no workspace '{name}'"),
            )),
        }
    }

    /// The model that a query names.
    pub(crate) fn model(&self, query: &ModelQuery) -> Result<ModelRef, Failure> {
        let backend = threadrunner_home::resolve_backend(query.backend, &self.home, &self.config);
        threadrunner_home::resolve_model(&self.home, &self.config, backend, query.model.as_deref())
    }
}
