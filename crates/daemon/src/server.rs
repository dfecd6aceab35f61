//! The socket: who may connect, and how many.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::context::Context;

/// Connections at once. More wait in the listener's backlog.
const CONNECTIONS: usize = 1024;
/// How long to wait when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `closing`, then waits until those that are open have their answers.
pub(crate) async fn serve(
    listener: UnixListener,
    context: Arc<Context>,
    closing: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) if is_ours(&stream) => {
                    let serving = connection::serve(stream, context.clone(), closing.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = closing.cancelled() => {}
    }
    connections.close();
    connections.wait().await;
}

/// Whether the peer runs as the same user. Permissions of the socket say so too; a socket in a
/// shared directory, or one that was passed on, would get around them.
fn is_ours(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == rustix::process::getuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused a connection of another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a connection of nobody knows who");
            false
        }
    }
}
