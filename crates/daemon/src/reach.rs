//! Keeps the socket reachable: listens again if its file is removed.
//!
//! A runtime directory is removed when its user's last session ends, and the daemon keeps running. So
//! it watches its socket's directory. When the socket is gone it listens again, in the home if need
//! be, and writes the new path into its lock, where clients look that find nothing at the usual
//! place.
//!
//! If the lock's file is removed too, as with the whole home, no client finds this daemon, and the
//! next one starts another. Then this one ends, and leaves the other's socket alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use threadrunner_core::Failure;
use threadrunner_home::FileLock;
use threadrunner_workspace::system_watcher;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::context::Context;
use crate::failures::io_failure;
use crate::listen::bind;
use crate::peers::Peers;
use crate::server;

/// How often to look if the directory cannot be watched, or listening failed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often to look at a directory that is watched: an unmounted one, or one with a renamed
/// ancestor, tells nothing.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);
/// How long to wait after a change: the rest of the directory may be about to go.
const SETTLE: Duration = Duration::from_secs(1);

/// Tells when something leaves the directories of the socket and the lock.
struct Watch {
    left: Arc<Notify>,
    /// `None` if one cannot be watched.
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Watches the directories that these files are in.
    fn start(files: [&Path; 2]) -> Self {
        let left = Arc::new(Notify::new());
        let tell = Arc::clone(&left);
        let handler = move |event: notify::Result<notify::Event>| {
            // Files come and change here all the time; only what leaves matters.
            let stays = event.is_ok_and(|event| match event.kind {
                EventKind::Access(_) | EventKind::Create(_) => true,
                EventKind::Modify(what) => !matches!(what, ModifyKind::Name(_)),
                _ => false,
            });
            if !stays {
                tell.notify_one();
            }
        };
        let watch = || -> notify::Result<_> {
            let mut watcher = system_watcher(handler)?;
            for file in files {
                let directory = file.parent().unwrap_or(Path::new("/"));
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        };
        let watcher = watch()
            .inspect_err(|error| tracing::info!(%error, "cannot watch the directory of the socket or the lock"))
            .ok();
        Self { left, watcher }
    }

    /// Waits until the socket should be looked at.
    async fn changed(&self) {
        let anyway = if self.watcher.is_some() { LOOK_ANYWAY } else { LOOK_EVERY };
        tokio::select! {
            () = self.left.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(anyway) => {}
        }
    }
}

/// Keeps the daemon within its clients' reach, until `closing`. Tells it to stop when its lock is
/// gone.
pub(crate) async fn keep(
    peers: Arc<Peers>,
    context: Arc<Context>,
    lock: Arc<FileLock>,
    closing: CancellationToken,
) {
    let (usual, lock_file) = (context.home.socket.clone(), context.home.daemon_lock());
    let mut path = usual.clone();
    let mut servers = JoinSet::new();
    let mut complained = false;
    let mut watch = Watch::start([&path, &lock_file]);
    loop {
        // They may have left before the watch began.
        let (there, locked, file) = (path.clone(), Arc::clone(&lock), lock_file.clone());
        let looked = blocking(move || Ok((is_gone(&there), locked.is_at(&file)))).await;
        let (socket_gone, locked) = looked.unwrap_or((false, true));
        if !locked {
            tracing::warn!("the lock's file is gone: another daemon may run for this home");
            // It ends anyway if it has been told to stop.
            let _ = context.hub.stop(true).await;
            closing.cancelled().await;
            break;
        }
        if !socket_gone {
            tokio::select! {
                () = watch.changed() => {}
                () = closing.cancelled() => break,
            }
            continue;
        }
        match listen_again(&context, &lock) {
            Ok((found, listener)) => {
                tracing::warn!(socket = %found.display(), "the socket was gone; it listens again");
                path = found;
                watch = Watch::start([&path, &lock_file]);
                complained = false;
                let (peers, context) = (Arc::clone(&peers), Arc::clone(&context));
                servers.spawn(server::serve(listener, peers, context, closing.clone()));
            }
            Err(failure) => {
                if !complained {
                    tracing::warn!(%failure, "the socket is gone");
                    complained = true;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = closing.cancelled() => break,
                }
                // The directory may be another one by now.
                watch = Watch::start([&path, &lock_file]);
            }
        }
    }
    if path != usual && lock.is_at(&lock_file) {
        let _ = std::fs::remove_file(path);
    }
    servers.join_all().await;
}

/// What is in its place may be another daemon's, and is left alone.
fn is_gone(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn listen_again(context: &Context, lock: &FileLock) -> Result<(PathBuf, UnixListener), Failure> {
    let home = &context.home;
    let usual = home.socket.clone();
    // Not to make a runtime directory that is the system's to make.
    let there = usual.parent().is_some_and(|dir| dir.parent().is_some_and(Path::is_dir));
    let listener = match there.then(|| home.create().and_then(|()| bind(&usual))) {
        Some(Ok(listener)) => Ok((usual, listener)),
        _ => {
            let path = home.run_dir.join("daemon.sock");
            bind(&path).map(|listener| (path, listener))
        }
    };
    let (path, listener) = listener?;
    let cannot = |error: io::Error| io_failure("listen at", &path, &error);
    let listener = UnixListener::from_std(listener).map_err(cannot)?;
    lock.write_note(path.as_os_str().as_encoded_bytes()).map_err(cannot)?;
    Ok((path, listener))
}
