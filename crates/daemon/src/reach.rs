//! The socket's file, while the daemon lives.
//!
//! A runtime directory is taken away when its user's last session ends, and the daemon goes on. So it
//! looks whether its socket is there still. Where it is not it listens at another, in the home
//! if need be, and says so in its lock: there clients look that find none where they expect it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use threadrunner_core::Failure;
use threadrunner_home::FileLock;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::peers::Peers;
use crate::{server, startup};

/// How long the daemon may be out of reach.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Sees to it that clients find the daemon, until `closing`.
pub(crate) async fn keep(
    peers: Arc<Peers>,
    context: Arc<Context>,
    lock: Arc<FileLock>,
    closing: CancellationToken,
) {
    let usual = context.home.socket.clone();
    let mut path = usual.clone();
    let mut servers = JoinSet::new();
    let mut complained = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = closing.cancelled() => break,
        }
        if !is_gone(&path) {
            continue;
        }
        match listen_again(&context, &lock) {
            Ok((found, listener)) => {
                tracing::warn!(socket = %found.display(), "the socket was gone; it listens again");
                path = found;
                complained = false;
                let (peers, context) = (Arc::clone(&peers), Arc::clone(&context));
                servers.spawn(server::serve(listener, peers, context, closing.clone()));
            }
            // Perhaps the whole home is: it is said once.
            Err(failure) if !complained => {
                tracing::warn!(%failure, "the socket is gone");
                complained = true;
            }
            Err(_) => {}
        }
    }
    if path != usual {
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
    let listener = match there.then(|| home.create().and_then(|()| startup::bind(&usual))) {
        Some(Ok(listener)) => Ok((usual, listener)),
        _ => {
            let path = home.run_dir.join("daemon.sock");
            startup::bind(&path).map(|listener| (path, listener))
        }
    };
    let (path, listener) = listener?;
    let cannot = |error: io::Error| startup::io_failure("listen at", &path, &error);
    let listener = UnixListener::from_std(listener).map_err(cannot)?;
    lock.write_note(path.as_os_str().as_encoded_bytes()).map_err(cannot)?;
    Ok((path, listener))
}
