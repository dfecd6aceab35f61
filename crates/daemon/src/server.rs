//! The listening socket: accepts connections of the same user, up to a limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use threadrunner_core::protocol::{ErrorFrame, Reply, ReplyBody};
use threadrunner_core::{ErrorCode, Failure, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::context::Context;
use crate::peers::Peers;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a failing accept is logged.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Accepts connections until `closing`, then waits until the open ones have their answers.
pub(crate) async fn serve(
    listener: UnixListener,
    peers: Arc<Peers>,
    context: Arc<Context>,
    closing: CancellationToken,
) {
    let connections = TaskTracker::new();
    let accepting = async {
        let mut spare = spare_descriptor();
        let mut error_said: Option<Instant> = None;
        loop {
            let mut accepted = listener.accept().await;
            if let Err(error) = &accepted {
                if error_said.is_none_or(|said| said.elapsed() > SAID_EVERY) {
                    tracing::error!(%error, "cannot accept a connection");
                    error_said = Some(Instant::now());
                }
                // Use the spare descriptor to accept the next client: tell it why it cannot be
                // served, or serve it if descriptors are available again.
                drop(spare.take());
                let next = timeout(ACCEPT_PAUSE, listener.accept()).await;
                spare = spare_descriptor();
                match next {
                    Ok(Ok((stream, _))) if spare.is_none() => {
                        let error = error.to_string();
                        refuse(stream, &error, "raise `ulimit -n` where the daemon starts").await;
                        spare = spare_descriptor();
                        continue;
                    }
                    Ok(Ok(next)) => accepted = Ok(next),
                    Ok(Err(_)) => {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                    Err(_) => continue,
                }
            }
            if let Ok((stream, _)) = accepted
                && is_ours(&stream)
            {
                match peers.admit() {
                    Some(peer) => {
                        let (context, closing) = (context.clone(), closing.clone());
                        connections.spawn(connection::serve(stream, context, closing, peer));
                    }
                    None => {
                        refuse(stream, "too many are busy", "end some of its clients").await;
                    }
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

/// Opens a descriptor to give up when there are no others.
fn spare_descriptor() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

/// Tells a client that it cannot be served, and closes its connection.
async fn refuse(mut stream: UnixStream, why: &str, remedy: &str) {
    let failure = Failure::new(
        ErrorCode::Overloaded,
        format!("the daemon cannot take another connection: {why}"),
    )
    .hint(format!("try again later, or {remedy}"));
    let body = ReplyBody::Error(ErrorFrame::new(failure, None));
    let mut bytes = BytesMut::new();
    if encode_frame(&Reply { id: None, body }, &mut bytes).is_ok() {
        // The frame is shorter than a socket's buffer.
        let _ = timeout(ACCEPT_PAUSE, stream.write_all(&bytes)).await;
        // Read what the client sends: closing with unread data would discard the frame.
        let _ = stream.shutdown().await;
        let _ = timeout(ACCEPT_PAUSE, stream.read(&mut [0; 4096])).await;
    }
}

/// Whether the peer runs as the same user. The socket's mode already ensures that, unless the
/// socket is in a shared directory or was passed on.
fn is_ours(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == rustix::process::getuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused a connection from another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a connection from an unknown user");
            false
        }
    }
}
