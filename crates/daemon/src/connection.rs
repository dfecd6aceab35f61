//! One connection: frames in, frames out, many requests side by side.
//!
//! Requests with an id run each in a task of its own. Those without one could not be told apart,
//! so they run one after the other. When the client is gone, what it was attached to is canceled;
//! a client that only closed its sending half still gets its answers.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, poll};
use threadrunner_core::protocol::{ErrorFrame, Reply, ReplyBody, Request, RequestId};
use threadrunner_core::{ErrorCode, Failure, FrameCodec, FrameError, JobId, encode_frame};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::handlers;
use crate::stream::{self, ReadHalf, WriteHalf};

/// Frames that may wait for a client that reads slowly; then its requests wait.
const FRAMES_OUT: usize = 64;
/// Requests of one connection at once.
const REQUESTS: usize = 256;
/// Requests without an id that may wait for the one before them.
const WAITING: usize = 16;
/// How long the rest of a frame may take once its beginning is there.
const FRAME_PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether a client that closed its sending half is still there.
const LOOK: Duration = Duration::from_millis(250);

/// Where the frames of one answer go.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    id: Option<RequestId>,
    out: mpsc::Sender<Bytes>,
    gone: CancellationToken,
}

/// The client is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Answer {
    /// Sends frames, all in one write.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn send(&self, bodies: Vec<ReplyBody>) -> Result<(), Gone> {
        if bodies.is_empty() {
            return Ok(());
        }
        let mut bytes = BytesMut::new();
        for body in bodies {
            let reply = Reply { id: self.id.clone(), body };
            if let Err(error) = encode_frame(&reply, &mut bytes) {
                let failure = Failure::new(ErrorCode::Io, format!("the answer: {error}"));
                let body = ReplyBody::Error(ErrorFrame::new(failure, None));
                let reply = Reply { id: self.id.clone(), body };
                // An error frame always fits.
                let _ = encode_frame(&reply, &mut bytes);
            }
        }
        self.out.send(bytes.freeze()).await.map_err(|_| Gone)
    }

    /// Sends the last frame of an answer that is data.
    pub(crate) async fn data<T: serde::Serialize>(&self, data: &T) -> Result<(), Gone> {
        match serde_json::to_value(data) {
            Ok(data) => self.send(vec![ReplyBody::Data { data }]).await,
            Err(error) => {
                self.fail(Failure::new(ErrorCode::Internal, error.to_string()), None).await
            }
        }
    }

    /// Sends the last frame of an answer that failed.
    pub(crate) async fn fail(&self, failure: Failure, job: Option<JobId>) -> Result<(), Gone> {
        self.send(vec![ReplyBody::Error(ErrorFrame::new(failure, job))]).await
    }

    /// Whether the client is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Ends when the client is gone.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

/// Serves one client until it is gone or has all its answers.
pub(crate) async fn serve(stream: UnixStream, context: Arc<Context>, closing: CancellationToken) {
    let (read, write) = match stream.into_std().and_then(stream::split) {
        Ok(halves) => halves,
        Err(error) => {
            tracing::error!(%error, "cannot watch a connection");
            return;
        }
    };
    let gone = CancellationToken::new();
    let (out, frames) = mpsc::channel(FRAMES_OUT);
    let writer = tokio::spawn(write_frames(write, frames, gone.clone()));
    let mut connection = Connection {
        context,
        answer: Answer { id: None, out, gone },
        requests: JoinSet::new(),
        in_order: None,
    };
    connection.read_requests(read, &closing).await;
    drop(connection);
    // All answers are given: what is still to be written goes out, as far as the client reads.
    let _ = tokio::time::timeout(FRAME_PATIENCE, writer).await;
}

struct Connection {
    context: Arc<Context>,
    answer: Answer,
    requests: JoinSet<()>,
    in_order: Option<mpsc::Sender<Request>>,
}

impl Connection {
    async fn read_requests(&mut self, mut read: ReadHalf, closing: &CancellationToken) {
        let mut buffer = BytesMut::new();
        let gone = self.answer.gone.clone();
        loop {
            while self.requests.try_join_next().is_some() {}
            match FrameCodec.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    if self.begin(&frame).await.is_err() {
                        break;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    self.refuse(&error).await;
                    break;
                }
            }
            let patience = if buffer.is_empty() { Duration::MAX } else { FRAME_PATIENCE };
            let read = tokio::select! {
                read = tokio::time::timeout(patience, read.read_buf(&mut buffer)) => read,
                () = gone.cancelled() => break,
                () = closing.cancelled() => break,
            };
            match read {
                Ok(Ok(n)) if n > 0 => {}
                // The end of the stream, or of the patience with the rest of a frame.
                Ok(Ok(_)) | Err(_) => {
                    if let Err(error) = FrameCodec.decode_eof(&mut buffer) {
                        self.refuse(&error).await;
                    }
                    break;
                }
                Ok(Err(_)) => {
                    gone.cancel();
                    break;
                }
            }
        }
        self.in_order = None;
        // No more requests come. Those under way go on for as long as somebody listens.
        loop {
            if hung_up(&read) {
                gone.cancel();
            }
            tokio::select! {
                ended = self.requests.join_next() => if ended.is_none() { break },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn begin(&mut self, frame: &[u8]) -> Result<(), Gone> {
        let request = match Request::parse(frame) {
            Ok(request) => request,
            Err((id, failure)) => {
                return Answer { id, ..self.answer.clone() }.fail(failure, None).await;
            }
        };
        if request.id.is_none() {
            return self.begin_in_order(request).await;
        }
        if self.requests.len() >= REQUESTS {
            let failure = Failure::new(
                ErrorCode::Overloaded,
                format!("more than {REQUESTS} requests at once on one connection"),
            );
            return Answer { id: request.id, ..self.answer.clone() }.fail(failure, None).await;
        }
        let answer = Answer { id: request.id, ..self.answer.clone() };
        let context = self.context.clone();
        self.requests.spawn(async move {
            // A client that is gone has nobody to be told.
            let _ = handlers::handle(context, request.op, answer).await;
        });
        Ok(())
    }

    async fn begin_in_order(&mut self, request: Request) -> Result<(), Gone> {
        let lane = self.in_order.get_or_insert_with(|| {
            let (lane, waiting) = mpsc::channel(WAITING);
            let (context, answer) = (self.context.clone(), self.answer.clone());
            self.requests.spawn(run_in_order(context, answer, waiting));
            lane
        });
        match lane.try_send(request) {
            Ok(()) => Ok(()),
            // Waiting here would leave nobody to see the client go.
            Err(mpsc::error::TrySendError::Full(_)) => {
                let failure = Failure::new(
                    ErrorCode::Overloaded,
                    format!("more than {WAITING} requests without an id wait on one connection"),
                )
                .hint("give each request an \"id\", or wait for its answer");
                self.answer.fail(failure, None).await
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
        }
    }

    async fn refuse(&self, error: &FrameError) {
        let failure = Failure::new(ErrorCode::BadFrame, error.to_string())
            .hint("a frame is a 4-byte little-endian length and that many bytes of JSON");
        let _ = self.answer.fail(failure, None).await;
    }
}

async fn run_in_order(context: Arc<Context>, answer: Answer, mut waiting: mpsc::Receiver<Request>) {
    while let Some(request) = waiting.recv().await {
        if handlers::handle(context.clone(), request.op, answer.clone()).await.is_err() {
            return;
        }
    }
}

async fn write_frames(
    mut write: WriteHalf,
    mut frames: mpsc::Receiver<Bytes>,
    gone: CancellationToken,
) {
    let mut ready = Vec::new();
    while frames.recv_many(&mut ready, FRAMES_OUT).await > 0 {
        // What several answers have ready wakes the client once.
        let written = match ready.as_slice() {
            [one] => write.write_all(one).await,
            all => write.write_all(&all.concat()).await,
        };
        if written.is_err() {
            gone.cancel();
            return;
        }
        ready.clear();
    }
}

/// Whether the client closed both directions: what reading alone cannot tell from one that closed
/// its sending half.
fn hung_up(read: &ReadHalf) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(read.as_fd(), PollFlags::empty())];
    match poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}
