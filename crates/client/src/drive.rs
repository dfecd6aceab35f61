//! The task that owns a connection's socket, and its limits on the daemon's silence.
//!
//! [`drive`] writes requests and routes answer frames to their requests by id. When the daemon has
//! been silent for [`SILENCE`], it sends a probe; when that goes unanswered, every request fails.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use threadrunner_core::protocol::{ErrorFrame, Op, Progress, Reply, ReplyBody, Request, RequestId};
use threadrunner_core::{ErrorCode, Failure, FrameError, decode_frame, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The read buffer's initial capacity, in bytes.
const READ_BUFFER: usize = 8 << 10;
/// How long the daemon may be silent before it is probed.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);
/// How long it may then take to answer.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(20);
/// The probe's request id. All other ids are higher.
const PROBE: u64 = 0;

/// A request on its way to the daemon.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: u64,
    pub(crate) frame: BytesMut,
    pub(crate) replies: mpsc::Sender<ReplyBody>,
}

/// Owns the socket: writes requests, and hands each answer frame to its request. Returns when the
/// daemon goes away or the last `Client` is dropped, and with it ends every pending answer.
pub(crate) async fn drive(
    mut stream: UnixStream,
    mut requests: mpsc::Receiver<Outgoing>,
    unread_there: Arc<AtomicBool>,
    limits: (Duration, Duration),
) {
    let (mut reader, mut writer) = stream.split();
    let mut unread = BytesMut::with_capacity(READ_BUFFER);
    let mut unwritten = BytesMut::new();
    let mut writable = true;
    let mut waiting: HashMap<u64, mpsc::Sender<ReplyBody>> = HashMap::new();
    let mut patience = Patience::new(limits);
    loop {
        // In this order, a request is registered before its answer can be read.
        tokio::select! {
            biased;
            request = requests.recv(), if writable && unwritten.is_empty() => {
                let Some(request) = request else { return };
                if waiting.is_empty() {
                    patience.begin_again();
                }
                waiting.insert(request.id, request.replies);
                unwritten = request.frame;
            }
            written = writer.write(&unwritten), if !unwritten.is_empty() => match written {
                Ok(count) => {
                    unwritten.advance(count);
                    patience.taken_in();
                }
                // What the daemon sent before it closed is still to be read.
                Err(_) => {
                    unread_there.store(true, Ordering::Release);
                    unwritten.clear();
                    writable = false;
                }
            },
            read = reader.read_buf(&mut unread) => {
                // The daemon closed its end with something unread in it.
                if matches!(&read, Err(error) if error.kind() == ErrorKind::ConnectionReset) {
                    unread_there.store(true, Ordering::Release);
                }
                if !matches!(read, Ok(1..)) {
                    return;
                }
                patience.begin_again();
                loop {
                    match decode_frame::<Reply>(&mut unread) {
                        Ok(Some(reply)) => deliver(reply, &mut waiting).await,
                        Ok(None) => break,
                        Err(error) => {
                            deliver(to_all(garbled(&error)), &mut waiting).await;
                            return;
                        }
                    }
                }
            }
            () = sleep_until(patience.until), if !waiting.is_empty() => {
                if patience.asked {
                    deliver(to_all(silent(limits.0 + limits.1)), &mut waiting).await;
                    return;
                }
                patience.ask();
                // A daemon that does not even read what is being written need not be probed.
                if writable && unwritten.is_empty() {
                    unwritten = probe();
                }
            }
        }
    }
}

/// How long the daemon may stay silent.
struct Patience {
    /// Before the probe, and after it.
    limits: (Duration, Duration),
    until: Instant,
    asked: bool,
}

impl Patience {
    fn new(limits: (Duration, Duration)) -> Self {
        Self { limits, until: Instant::now() + limits.0, asked: false }
    }

    /// The daemon said something, or the first request began to wait.
    fn begin_again(&mut self) {
        *self = Self::new(self.limits);
    }

    /// The daemon read something, and has yet to answer.
    fn taken_in(&mut self) {
        if !self.asked {
            self.begin_again();
        }
    }

    fn ask(&mut self) {
        self.until = Instant::now() + self.limits.1;
        self.asked = true;
    }
}

/// The frame that probes the daemon.
fn probe() -> BytesMut {
    let request = Request { id: Some(RequestId::Number(PROBE)), op: Op::Status };
    let mut frame = BytesMut::new();
    // Far below the frame limit, so it cannot fail.
    let _ = encode_frame(&request.to_json(), &mut frame);
    frame
}

/// A failure of the connection, addressed to all its requests.
fn to_all(failure: Failure) -> Reply {
    Reply { id: None, body: ReplyBody::Error(ErrorFrame::new(failure, None)) }
}

async fn deliver(reply: Reply, waiting: &mut HashMap<u64, mpsc::Sender<ReplyBody>>) {
    let last = match &reply.body {
        ReplyBody::Error(_) | ReplyBody::End(_) | ReplyBody::Data { .. } => true,
        ReplyBody::Token { .. } | ReplyBody::Event(_) => false,
        // A newer daemon sends new kinds of frames only to clients that ask for them.
        ReplyBody::Unknown(_) => return,
    };
    if matches!(reply.body, ReplyBody::Event(Progress::Unknown)) {
        return;
    }
    match reply.id {
        Some(RequestId::Number(id)) => {
            let gone = match waiting.get(&id) {
                Some(replies) => replies.send(reply.body).await.is_err(),
                None => false,
            };
            if last || gone {
                waiting.remove(&id);
            }
        }
        // An error without a request's id concerns the connection, and so all requests.
        None if matches!(reply.body, ReplyBody::Error(_)) => {
            for (_, replies) in waiting.drain() {
                // If the receiver is gone, the error is not needed.
                let _ = replies.send(reply.body.clone()).await;
            }
        }
        // Not an answer to anything sent here.
        Some(RequestId::Text(_)) | None => {}
    }
}

/// The failure of a request that the daemon did not answer within `limit`.
pub(crate) fn silent(limit: Duration) -> Failure {
    Failure::new(
        ErrorCode::Timeout,
        format!("the daemon did not answer within {} s", limit.as_secs()),
    )
    .hint("`threadrunner daemon restart --now` ends it and starts a new one")
}

fn garbled(error: &FrameError) -> Failure {
    strange(format!("cannot decode the daemon's answer: {error}"))
}

/// The failure for an answer that makes no sense.
pub(crate) fn strange(message: String) -> Failure {
    Failure::new(ErrorCode::BadFrame, message)
        .hint("something else may be listening on the socket: `threadrunner doctor` checks")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Client;

    /// A connection to a daemon played by the test, with these limits on its silence.
    fn pair(silence: Duration, probe: Duration) -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::within(ours, Path::new("/home/cache"), (silence, probe)), theirs)
    }

    async fn op(stream: &mut UnixStream, unread: &mut BytesMut) -> (u64, String) {
        loop {
            if let Some(frame) = decode_frame::<serde_json::Value>(unread).unwrap() {
                let op = frame["op"].as_str().unwrap().to_owned();
                return (frame["id"].as_u64().unwrap(), op);
            }
            assert_ne!(stream.read_buf(unread).await.unwrap(), 0, "the client is gone");
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_daemon_that_has_stopped_answering_is_told() {
        let (client, _theirs) = pair(Duration::from_millis(1), Duration::from_millis(1));
        let mut first = client.request(Op::Ps).await.unwrap();
        let mut second = client.request(Op::Status).await.unwrap();
        for replies in [&mut first, &mut second] {
            let failure = replies.next().await.unwrap_err();
            assert_eq!(failure.code, ErrorCode::Timeout);
            assert!(failure.hint.unwrap().contains("restart --now"));
        }
    }

    #[tokio::test]
    async fn a_daemon_that_says_that_it_is_there_is_waited_for() {
        let (client, mut theirs) = pair(Duration::from_millis(1), Duration::from_secs(60));
        let mut replies = client.request(Op::Ps).await.unwrap();
        let job = tokio::spawn(async move { replies.next().await });
        let mut unread = BytesMut::new();
        let (asked, _) = op(&mut theirs, &mut unread).await;
        let mut say = async |id: u64, data: u32| {
            let mut frame = BytesMut::new();
            encode_frame(&serde_json::json!({"id": id, "data": data}), &mut frame).unwrap();
            theirs.write_all(&frame).await.unwrap();
            if id == asked { None } else { Some(op(&mut theirs, &mut unread).await) }
        };
        let mut probe = (PROBE, "status".to_owned());
        for _ in 0..3 {
            probe = say(probe.0, 0).await.unwrap();
            assert_eq!(probe, (PROBE, "status".to_owned()));
        }
        say(asked, 7).await;
        assert_eq!(job.await.unwrap().unwrap(), ReplyBody::Data { data: 7.into() });
    }
}
