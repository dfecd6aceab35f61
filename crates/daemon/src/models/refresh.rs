//! Keeps the listing of `models/` fresh, on a thread of its own: when the directory changes, and
//! from time to time, because a file system may not report changes and links may lead elsewhere.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use threadrunner_workspace::system_watcher;

use super::{Inner, ModelCatalog};
use crate::last_thread::LastThread;

/// The shortest time between two listings: a model that is being written reports many changes.
const SETTLE: Duration = Duration::from_millis(100);
/// How often to list without a reported change.
const EVERY: Duration = Duration::from_secs(30);

/// The handle on the thread, which ends when the catalog is gone.
#[derive(Debug)]
pub(super) struct Refresh {
    wake: SyncSender<()>,
    thread: LastThread,
}

impl Drop for Refresh {
    fn drop(&mut self) {
        // It may be awake.
        let _ = self.wake.try_send(());
        self.thread.wait();
    }
}

/// Starts the thread.
pub(super) fn keep_fresh(directory: &Path, catalog: &ModelCatalog) -> Refresh {
    let (inner, directory) = (Arc::downgrade(&catalog.0), directory.to_owned());
    // One notice is as good as many.
    let (wake, changes) = mpsc::sync_channel(1);
    let changed = wake.clone();
    let keep = move || keep(&inner, &directory, &changed, &changes);
    // Without it, models that are new are listed when a name leads nowhere.
    let thread = std::thread::Builder::new().name("models".to_owned()).spawn(keep);
    let thread =
        thread.inspect_err(|error| tracing::warn!(%error, "new models are noticed when asked for"));
    Refresh { wake, thread: LastThread(thread.ok()) }
}

fn keep(weak: &Weak<Inner>, directory: &Path, changed: &SyncSender<()>, changes: &Receiver<()>) {
    let mut watcher = None;
    loop {
        if watcher.is_none() {
            watcher = watch(directory, changed.clone());
        }
        let Some(inner) = weak.upgrade() else { return };
        if let Err(failure) = inner.list() {
            tracing::debug!(%failure, "cannot list the models");
        }
        drop(inner);
        if changes.recv_timeout(EVERY).is_ok() && weak.strong_count() > 0 {
            std::thread::sleep(SETTLE);
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
    let mut watcher = system_watcher(tell).ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
