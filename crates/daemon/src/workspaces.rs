//! The daemon's workspaces as handlers use them: one by name, or all of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use threadrunner_core::protocol::{JobQuery, WorkspaceStatus};
use threadrunner_core::{ErrorCode, Failure, JobId, JobSelector, WorkspaceName};
use threadrunner_home::{WorkspaceSettings, no_such_workspace};
use threadrunner_workspace::{Reader, by_time};

use crate::blocking::blocking;
use crate::store::{Archive, WorkspaceId};

/// How long it counts that a workspace was seen in its place.
const FRESH: Duration = Duration::from_millis(10);
/// How long a disk may take to say whether a workspace is in its place.
const PATIENCE: Duration = Duration::from_secs(1);

/// A workspace that is served.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) id: WorkspaceId,
    pub(crate) settings: Arc<WorkspaceSettings>,
    pub(crate) archive: Archive,
    pub(crate) reader: Reader,
    /// When it was last seen in its place. Held during a look, so that a disk that hangs takes one
    /// thread and not many.
    seen: Arc<tokio::sync::Mutex<Option<Instant>>>,
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
        Self { id, settings, archive, reader, seen: Arc::default() }
    }

    /// Whether the workspace's directories are still at its path. Looks on a blocking thread, and
    /// says yes if the disk does not answer: what is asked of it next reports that.
    pub(crate) async fn is_in_place(&self) -> bool {
        let look = async {
            let mut seen = Arc::clone(&self.seen).lock_owned().await;
            if seen.is_some_and(|at| at.elapsed() < FRESH) {
                return true;
            }
            let reader = self.reader.clone();
            let look = move || {
                let there = reader.is_in_place();
                *seen = there.then(Instant::now);
                Ok(there)
            };
            blocking(look).await.unwrap_or(true)
        };
        tokio::time::timeout(PATIENCE, look).await.unwrap_or(true)
    }

    /// Why a workspace that is not in its place is not used.
    pub(crate) fn gone(&self) -> Failure {
        let (name, path) = (&self.settings.name, self.settings.path.display());
        let which = match name.directory() {
            Some(_) => format!("the workspace {path}"),
            None => format!("the workspace '{name}' ({path})"),
        };
        let message = format!("{which} is gone: its directory was removed, moved or replaced");
        Failure::new(ErrorCode::Io, message).hint("the next prompt for it creates it again")
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

    /// Adds a workspace that was opened later, or puts it in the place of the one of its name.
    pub(crate) fn put(&self, configured: Configured) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|known| known.settings.name == configured.settings.name) {
            Some(known) => *known = configured,
            None => all.push(configured),
        }
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

    /// The workspaces that are served and in their places.
    pub(crate) async fn in_place(&self) -> Vec<Served> {
        let served: Vec<_> =
            self.all().iter().filter_map(|it| it.served.as_ref().ok()).cloned().collect();
        let mut in_place = Vec::with_capacity(served.len());
        for workspace in served {
            if workspace.is_in_place().await {
                in_place.push(workspace);
            }
        }
        in_place
    }

    /// Describes the workspaces for `status`.
    pub(crate) async fn status(&self) -> Vec<WorkspaceStatus> {
        let all: Vec<_> =
            self.all().iter().map(|it| (it.settings.clone(), it.served.clone())).collect();
        let mut status = Vec::with_capacity(all.len());
        for (settings, served) in all {
            let error = match served {
                Ok(served) if served.is_in_place().await => None,
                Ok(served) => Some(served.gone()),
                Err(failure) => Some(failure),
            };
            let (name, path) = (settings.name.clone(), settings.path.clone());
            status.push(WorkspaceStatus { name, path, error });
        }
        status
    }
}

/// Finds the job that a query names in any of these workspaces.
pub(crate) async fn find_among(query: JobQuery, among: Vec<Served>) -> Result<Located, Failure> {
    blocking(move || find(&query.job, &among)).await
}

/// The job that was submitted or arrived last in any of these workspaces.
fn last(among: &[Served]) -> Result<Option<Located>, Failure> {
    let mut last: Option<(Located, Option<Instant>)> = None;
    for workspace in among {
        let Some((id, when)) = workspace.reader.last()? else { continue };
        let is_later = |(other, then): &(Located, Option<Instant>)| {
            when.cmp(then).then_with(|| by_time(&id, &other.id)).is_gt()
        };
        if last.as_ref().is_none_or(is_later) {
            last = Some((Located { id, workspace: workspace.clone() }, when));
        }
    }
    Ok(last.map(|(located, _)| located))
}

fn find(job: &JobSelector, among: &[Served]) -> Result<Located, Failure> {
    if job.is_last()
        && let Some(last) = last(among)?
    {
        return Ok(last);
    }
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
    /// The threads of all that were opened, to be joined when the daemon stops.
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Directories {
    /// How many were opened since the daemon started.
    pub(crate) fn opened(&self) -> usize {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes the threads of the opened directories.
    pub(crate) fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
