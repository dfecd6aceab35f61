//! The workspaces of this daemon as handlers use them: by name, and all of them at once.

use std::sync::Arc;

use threadrunner_core::protocol::{JobQuery, WorkspaceStatus};
use threadrunner_core::{ErrorCode, Failure, JobId};
use threadrunner_home::{DEFAULT_WORKSPACE, WorkspaceSettings, no_such_workspace};
use threadrunner_workspace::{Reader, by_time};

use crate::store::Archive;

/// Which of the workspaces that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WorkspaceId(pub(crate) u16);

/// A workspace that is served.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) id: WorkspaceId,
    pub(crate) settings: Arc<WorkspaceSettings>,
    pub(crate) archive: Archive,
    pub(crate) reader: Reader,
}

/// A job that was found, and where.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) id: JobId,
    pub(crate) workspace: Served,
}

/// A workspace of the configuration: served, or why not.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) settings: Arc<WorkspaceSettings>,
    pub(crate) served: Result<Served, Failure>,
}

/// The workspaces of the configuration.
#[derive(Debug)]
pub(crate) struct Workspaces(pub(crate) Vec<Configured>);

impl Served {
    pub(crate) fn new(
        id: WorkspaceId,
        settings: Arc<WorkspaceSettings>,
        reader: Reader,
        archive: Archive,
    ) -> Self {
        Self { id, settings, archive, reader }
    }

    /// Runs a read of the workspace where it may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let reader = self.reader.clone();
        blocking(move || read(&reader)).await
    }
}

impl Located {
    /// Runs a read of the job's workspace where it may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader, &JobId) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let id = self.id.clone();
        self.workspace.read(move |reader| read(reader, &id)).await
    }
}

impl Workspaces {
    /// The workspace of that name; without one, the default.
    pub(crate) fn named(&self, name: Option<&str>) -> Result<&Served, Failure> {
        let name = name.unwrap_or(DEFAULT_WORKSPACE);
        match self.0.iter().find(|configured| configured.settings.name == name) {
            Some(configured) => configured.served.as_ref().map_err(Clone::clone),
            None => Err(no_such_workspace(name, self.0.iter().map(|it| it.settings.name.as_str()))),
        }
    }

    /// The workspaces to look for jobs in: the one of that name; without one, all that are served.
    pub(crate) fn among(&self, name: Option<&str>) -> Result<Vec<Served>, Failure> {
        match name {
            Some(_) => Ok(vec![self.named(name)?.clone()]),
            None => Ok(self.0.iter().filter_map(|it| it.served.as_ref().ok()).cloned().collect()),
        }
    }

    /// The job that a query names.
    pub(crate) async fn find(&self, query: JobQuery) -> Result<Located, Failure> {
        let among = self.among(query.workspace.as_deref())?;
        blocking(move || find(&query.job, &among)).await
    }

    /// What `status` tells of them.
    pub(crate) fn status(&self) -> Vec<WorkspaceStatus> {
        let status = |configured: &Configured| WorkspaceStatus {
            name: configured.settings.name.clone(),
            path: configured.settings.path.clone(),
            error: configured.served.as_ref().err().map(|failure| failure.message.clone()),
        };
        self.0.iter().map(status).collect()
    }
}

/// The job that a text names in any of these workspaces.
fn find(text: &str, among: &[Served]) -> Result<Located, Failure> {
    let mut found: Vec<Located> = Vec::new();
    let mut failures: Vec<Failure> = Vec::new();
    for workspace in among {
        match workspace.reader.resolve(text) {
            Ok(id) => found.push(Located { id, workspace: workspace.clone() }),
            Err(error) => failures.push(error.into()),
        }
    }
    // A whole id is that job, though it may be a part of another's.
    if found.iter().any(|job| job.id.as_str() == text) {
        found.retain(|job| job.id.as_str() == text);
    } else if let Some(ambiguous) =
        failures.iter().find(|failure| failure.code == ErrorCode::AmbiguousId)
    {
        return Err(ambiguous.clone());
    }
    if text == "last" {
        found.sort_by(|a, b| by_time(&b.id, &a.id));
        found.truncate(1);
    }
    match (found.pop(), found.pop()) {
        (Some(job), None) => Ok(job),
        (Some(second), Some(first)) => Err(ambiguous(text, &first, &second)),
        (None, _) => Err(none(text, among, failures)),
    }
}

fn ambiguous(text: &str, first: &Located, second: &Located) -> Failure {
    let name = |job: &Located| format!("{} in '{}'", job.id, job.workspace.settings.name);
    Failure::new(
        ErrorCode::AmbiguousId,
        format!("'{text}' fits {} and {}", name(first), name(second)),
    )
    .hint("give more of the id, or the workspace with -w")
}

/// Why there is no such job: what one workspace says for itself, or all of them alike.
fn none(text: &str, among: &[Served], mut failures: Vec<Failure>) -> Failure {
    // Where one could not be read, the job may be there.
    if let Some(at) = failures.iter().position(|failure| failure.code != ErrorCode::JobNotFound) {
        return failures.swap_remove(at);
    }
    // What is wrong with the text itself, each says alike.
    failures.dedup_by(|a, b| a.message == b.message);
    match failures.pop() {
        Some(only) if failures.is_empty() => only,
        _ => {
            let names: Vec<_> = among.iter().map(|it| it.settings.name.as_str()).collect();
            let names = names.join(", ");
            Failure::new(
                ErrorCode::JobNotFound,
                format!("no job '{text}' in any of the workspaces: {names}"),
            )
            .hint("see `threadrunner jobs` for what there is")
        }
    }
}

/// Runs something where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(ErrorCode::Internal, error.to_string())),
    }
}
