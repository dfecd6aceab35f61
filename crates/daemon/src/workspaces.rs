//! The daemon's workspaces as handlers use them: one by name, or all of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use threadrunner_core::protocol::{JobQuery, WorkspaceStatus};
use threadrunner_core::{ErrorCode, Failure, JobId, JobSelector, WorkspaceName};
use threadrunner_home::{WorkspaceSettings, no_such_workspace};
use threadrunner_workspace::{Reader, by_time};

use crate::blocking::blocking;
use crate::store::{Archive, WorkspaceId};

/// A workspace that is served.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) id: WorkspaceId,
    pub(crate) settings: Arc<WorkspaceSettings>,
    pub(crate) archive: Archive,
    pub(crate) reader: Reader,
}

/// A job and the workspace in which it was found.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) id: JobId,
    pub(crate) workspace: Served,
}

/// A workspace of the configuration: served, or the reason why not.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) settings: Arc<WorkspaceSettings>,
    pub(crate) served: Result<Served, Failure>,
}

/// The configured workspaces, followed by the directories that became workspaces by being used.
#[derive(Debug)]
pub(crate) struct Workspaces(RwLock<Vec<Configured>>);

impl Served {
    pub(crate) fn new(
        id: WorkspaceId,
        settings: Arc<WorkspaceSettings>,
        reader: Reader,
        archive: Archive,
    ) -> Self {
        Self { id, settings, archive, reader }
    }

    /// Reads the workspace on a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let reader = self.reader.clone();
        blocking(move || read(&reader)).await
    }
}

impl Located {
    /// Reads the job's workspace on a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader, &JobId) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let id = self.id.clone();
        self.workspace.read(move |reader| read(reader, &id)).await
    }
}

impl Workspaces {
    pub(crate) fn new(configured: Vec<Configured>) -> Self {
        Self(RwLock::new(configured))
    }

    /// Adds a workspace that was opened later.
    pub(crate) fn add(&self, configured: Configured) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(configured);
    }

    // Do not hold the guard across an await.
    fn all(&self) -> RwLockReadGuard<'_, Vec<Configured>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a workspace by name; without a name, the default one.
    pub(crate) fn named(&self, name: Option<&WorkspaceName>) -> Result<Served, Failure> {
        let default = WorkspaceName::default();
        let name = name.unwrap_or(&default);
        let all = self.all();
        let at = name.directory();
        let is_named = |settings: &WorkspaceSettings| {
            settings.name == *name || at.is_some_and(|path| settings.path == path)
        };
        match all.iter().find(|configured| is_named(&configured.settings)) {
            Some(configured) => configured.served.clone(),
            None => {
                let names = all.iter().map(|it| &it.settings.name);
                Err(no_such_workspace(name, names.filter(|name| name.directory().is_none())))
            }
        }
    }

    /// The paths of directories that became workspaces by being used.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let all = self.all();
        let names = all.iter().map(|configured| &configured.settings.name);
        names.filter_map(|name| name.directory()).map(Path::to_owned).collect()
    }

    /// The paths of the workspaces that are served.
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        let all = self.all();
        let served = all.iter().filter(|configured| configured.served.is_ok());
        served.map(|configured| configured.settings.path.clone()).collect()
    }

    /// The workspaces in which to look for jobs: the named one, or all that are served.
    pub(crate) fn among(&self, name: Option<&WorkspaceName>) -> Result<Vec<Served>, Failure> {
        match name {
            Some(_) => Ok(vec![self.named(name)?]),
            None => {
                Ok(self.all().iter().filter_map(|it| it.served.as_ref().ok()).cloned().collect())
            }
        }
    }

    /// Describes the workspaces for `status`.
    pub(crate) fn status(&self) -> Vec<WorkspaceStatus> {
        let status = |configured: &Configured| WorkspaceStatus {
            name: configured.settings.name.clone(),
            path: configured.settings.path.clone(),
            error: configured.served.as_ref().err().cloned(),
        };
        self.all().iter().map(status).collect()
    }
}

/// Finds the job that a query names in any of these workspaces.
pub(crate) async fn find_among(query: JobQuery, among: Vec<Served>) -> Result<Located, Failure> {
    blocking(move || find(&query.job, &among)).await
}

fn find(job: &JobSelector, among: &[Served]) -> Result<Located, Failure> {
    let mut found: Vec<Located> = Vec::new();
    let mut failures: Vec<Failure> = Vec::new();
    for workspace in among {
        match workspace.reader.resolve(job) {
            Ok(id) => found.push(Located { id, workspace: workspace.clone() }),
            Err(error) => failures.push(error.into()),
        }
    }
    // A full id wins, even if it is also a part of another id.
    let is_named = |found: &Located| found.id.as_str() == job.as_str();
    if found.iter().any(is_named) {
        found.retain(is_named);
    } else if let Some(ambiguous) =
        failures.iter().find(|failure| failure.code == ErrorCode::AmbiguousId)
    {
        return Err(ambiguous.clone());
    }
    if job.is_last() {
        found.sort_by(|a, b| by_time(&b.id, &a.id));
        found.truncate(1);
    }
    match (found.pop(), found.pop()) {
        (Some(only), None) => Ok(only),
        (Some(second), Some(first)) => Err(ambiguous(job, &first, &second)),
        (None, _) => Err(none(job, among, failures)),
    }
}

fn ambiguous(job: &JobSelector, first: &Located, second: &Located) -> Failure {
    let name = |job: &Located| format!("{} in '{}'", job.id, job.workspace.settings.name);
    Failure::new(
        ErrorCode::AmbiguousId,
        format!("'{job}' matches {} and {}", name(first), name(second)),
    )
    .hint("give more of the id, or the workspace with -w")
}

/// The failure for a job that was not found: that of the one workspace, or one for all of them.
fn none(job: &JobSelector, among: &[Served], mut failures: Vec<Failure>) -> Failure {
    // If a workspace could not be read, the job may be in it.
    if let Some(at) = failures.iter().position(|failure| failure.code != ErrorCode::JobNotFound) {
        return failures.swap_remove(at);
    }
    // All workspaces report the same problem with the text itself.
    failures.dedup_by(|a, b| a.message == b.message);
    match failures.pop() {
        Some(only) if failures.is_empty() => only,
        _ => {
            let names: Vec<_> = among.iter().map(|it| it.settings.name.as_str()).collect();
            let names = names.join(", ");
            Failure::new(
                ErrorCode::JobNotFound,
                format!("no job '{job}' in any of the workspaces: {names}"),
            )
            .hint("see `threadrunner jobs` for what there is")
        }
    }
}

/// What is needed to open directories as workspaces while the daemon runs.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    /// Held while opening one: they are opened one at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// The threads of the opened ones, to be joined when the daemon stops.
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Directories {
    /// Takes the threads of the opened directories.
    pub(crate) fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
