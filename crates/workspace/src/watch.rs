//! Jobs that other programs submit, by renaming a directory into `input/ready`.

use std::fmt;
use std::path::Path;

use notify::event::{EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use threadrunner_core::{JobId, JobState};

use crate::{Reader, Result, WorkspaceError};

/// What the watcher saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A job appeared in `input/ready`. The owner's own submissions are told of as well.
    Arrived(JobId),
    /// Events were lost: look at all of `input/ready`.
    Rescan,
}

/// Watches `input/ready` until it is dropped.
///
/// Not every file system tells of changes that another machine made (NFS, FUSE), so an owner
/// also looks at [`Reader::ids`] of [`JobState::Ready`] now and then.
pub struct Watcher {
    _watcher: notify::RecommendedWatcher,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Begins to watch, and calls `tell` on a thread of the watcher's. What was in `input/ready`
    /// before is not told of: list it after this returns, and nothing is missed between.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`] where the system has no such events, or no more of them to give.
    pub fn start(
        reader: &Reader,
        mut tell: impl FnMut(WatchEvent) + Send + 'static,
    ) -> Result<Self> {
        let path = reader.path().join(JobState::Ready.directory());
        let error =
            |error: notify::Error| WorkspaceError::io("watch", &path, std::io::Error::other(error));
        let reader = reader.clone();
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => tell(WatchEvent::Rescan),
            Ok(event) if is_arrival(event.kind) => {
                for path in &event.paths {
                    if let Some(id) = id_of(path) {
                        reader.note_arrival(&id);
                        tell(WatchEvent::Arrived(id));
                    }
                }
            }
            Ok(_) => {}
            Err(_) => tell(WatchEvent::Rescan),
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(error)?;
        watcher.watch(&path, RecursiveMode::NonRecursive).map_err(error)?;
        Ok(Self { _watcher: watcher })
    }
}

// A rename within the directory is told of twice, as a new name and as a pair of names; the
// second is left out. What FSEvents tells of renames is vaguer, so there any of them counts.
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
