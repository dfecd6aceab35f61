//! Keeps the listing of `models/` fresh, on a thread of its own: when the directory changes, and
//! from time to time, because a file system may not report changes and links may lead elsewhere.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::{Inner, ModelCatalog};

/// The shortest time between two listings: a model that is being written reports many changes.
const SETTLE: Duration = Duration::from_millis(100);
/// How often to list without a reported change.
const EVERY: Duration = Duration::from_secs(30);

/// Starts the thread, which ends when the catalog is gone.
pub(super) fn keep_fresh(directory: &Path, catalog: &ModelCatalog) {
    let (inner, directory) = (Arc::downgrade(&catalog.0), directory.to_owned());
    let keep = move || keep(&inner, &directory);
    // Without it, models that are new are listed when a name leads nowhere.
    if let Err(error) = std::thread::Builder::new().name("models".to_owned()).spawn(keep) {
        tracing::warn!(%error, "models that are replaced by links are noticed late");
    }
}

fn keep(inner: &Weak<Inner>, directory: &PathBuf) {
    // One notice is as good as many.
    let (changed, changes) = mpsc::sync_channel(1);
    let mut watcher = None;
    loop {
        if watcher.is_none() {
            watcher = watch(directory, changed.clone());
        }
        let Some(inner) = inner.upgrade() else { return };
        if let Err(failure) = inner.list() {
            tracing::debug!(%failure, "cannot list the models");
        }
        drop(inner);
        std::thread::sleep(SETTLE);
        match changes.recv_timeout(EVERY) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn watch(directory: &Path, changed: SyncSender<()>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        // Listing a directory is reported, too.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(tell).ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
