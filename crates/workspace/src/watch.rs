//! Watches for jobs that other programs submit by renaming a directory into `input/ready`.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use notify::event::{EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use threadrunner_core::{JobId, JobState};

use crate::{Reader, WorkspaceError};

/// What the watcher saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A job appeared in `input/ready` that this process's [`Workspace`](crate::Workspace) did not
    /// put there.
    Arrived(JobId),
    /// Events were lost: list all of `input/ready`.
    Rescan,
}

/// The jobs that this process puts into `input/ready` itself, until the watcher sees them. Notes
/// nothing while nobody watches.
#[derive(Debug, Default)]
pub(crate) struct OwnArrivals(Mutex<Option<HashSet<JobId>>>);

impl OwnArrivals {
    /// Puts a job into `input/ready` without the watcher reporting it.
    pub(crate) fn put<T, E>(&self, id: &JobId, put: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if let Some(ids) = &mut *self.ids() {
            ids.insert(id.clone());
        }
        put().inspect_err(|_| {
            self.seen(id);
        })
    }

    /// Whether the job was expected. It no longer is.
    fn seen(&self, id: &JobId) -> bool {
        self.ids().as_mut().is_some_and(|ids| ids.remove(id))
    }

    fn watch(&self, watched: bool) {
        *self.ids() = watched.then(HashSet::new);
    }

    /// Whether a watcher reports what other programs put there.
    pub(crate) fn are_watched(&self) -> bool {
        self.ids().is_some()
    }

    fn ids(&self) -> MutexGuard<'_, Option<HashSet<JobId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches `input/ready` until dropped.
///
/// Some file systems do not report changes by other machines (NFS, FUSE), so an owner also lists
/// [`Reader::ids`] of [`JobState::Ready`] now and then.
pub struct Watcher {
    reader: Reader,
    _watcher: notify::RecommendedWatcher,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.reader.own_arrivals().watch(false);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Starts watching, and calls `tell` on a thread of the watcher. Does not report what was in
    /// `input/ready` before: list it after this returns, and nothing in between is missed.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`] when the system has no such events, or none left to give.
    pub fn start(
        reader: &Reader,
        mut tell: impl FnMut(WatchEvent) + Send + 'static,
    ) -> crate::Result<Self> {
        let path = reader.path().join(JobState::Ready.directory());
        let error =
            |error: notify::Error| WorkspaceError::io("watch", &path, std::io::Error::other(error));
        let seen_by = reader.clone();
        let mut told = move |event| {
            match &event {
                // The lost events may include expected ones.
                WatchEvent::Rescan => seen_by.own_arrivals().watch(true),
                WatchEvent::Arrived(id) if seen_by.own_arrivals().seen(id) => return,
                WatchEvent::Arrived(id) => seen_by.note_arrival(id),
            }
            tell(event);
        };
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => told(WatchEvent::Rescan),
            Ok(event) if is_arrival(event.kind) => {
                let ids = event.paths.iter().filter_map(|path| id_of(path));
                ids.for_each(|id| told(WatchEvent::Arrived(id)));
            }
            Ok(_) => {}
            Err(_) => told(WatchEvent::Rescan),
        };
        let mut watcher = system_watcher(handler).map_err(error)?;
        watcher.watch(&path, RecursiveMode::NonRecursive).map_err(error)?;
        // Not sooner: a job that no watcher sees would be expected forever.
        reader.own_arrivals().watch(true);
        Ok(Self { reader: reader.clone(), _watcher: watcher })
    }
}

/// A watcher of file system events, with a thread of its own.
///
/// `notify` panics if it cannot start that thread, so this first starts one that ends at once, to
/// learn whether the system allows another. Another process may take the last thread in between. A
/// limit that is reached stays reached, though, so what is left is the moment in which it is.
///
/// # Errors
/// The system refuses the thread, or has no such events to give.
pub fn system_watcher(
    handler: impl notify::EventHandler,
) -> notify::Result<notify::RecommendedWatcher> {
    let trial = std::thread::Builder::new().spawn(|| ()).map_err(notify::Error::io)?;
    trial.join().map_err(|_| notify::Error::generic("a thread that does nothing panicked"))?;
    notify::recommended_watcher(handler)
}

// A rename within the directory is reported twice, as a new name and as a pair of names. The second
// is skipped. FSEvents is vaguer about renames, so there any of them counts.
fn is_arrival(kind: EventKind) -> bool {
    use notify::event::RenameMode;
    match kind {
        EventKind::Create(_) => true,
        EventKind::Modify(ModifyKind::Name(mode)) => {
            matches!(mode, RenameMode::To | RenameMode::Any | RenameMode::Other)
        }
        _ => false,
    }
}

fn id_of(path: &Path) -> Option<JobId> {
    JobId::parse(path.file_name()?.to_str()?).ok()
}
