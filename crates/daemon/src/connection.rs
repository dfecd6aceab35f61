//! One connection: frames in, frames out, many requests at once.
//!
//! Each request with an id runs in its own task. Requests without an id run one after the other,
//! because their answers could not be told apart. When the client is gone, the jobs it was attached
//! to are canceled; a client that only closed its sending half still gets its answers.

mod incoming;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use threadrunner_core::protocol::Request;
use threadrunner_core::{ErrorCode, Failure};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::incoming::{Frame, Incoming, Trouble};
use crate::answer::{Answer, FRAMES_OUT, Gone, Outgoing};
use crate::blocking::blocking;
use crate::context::Context;
use crate::halves::{self, ReadHalf, WriteHalf};
use crate::handlers;
use crate::peers::{Peer, UnderWay};
use crate::room::{Piece, SMALL};

/// The maximum number of requests in progress on one connection.
const REQUESTS: usize = 256;
/// The maximum number of requests without an id that wait for the one before them.
const WAITING: usize = 16;
/// How long a client may take to read what is left once all its answers are given.
const LAST_WRITE: Duration = Duration::from_secs(60);
/// How often to check whether a client that closed its sending half is still there.
const LOOK: Duration = Duration::from_millis(250);

/// Serves one client until it is gone or has all its answers.
pub(crate) async fn serve(
    stream: UnixStream,
    context: Arc<Context>,
    closing: CancellationToken,
    peer: Arc<Peer>,
) {
    let (read, write) = match stream.into_std().and_then(halves::split) {
        Ok(halves) => halves,
        Err(error) => {
            tracing::error!(%error, "cannot watch a connection");
            return;
        }
    };
    let (out, frames) = mpsc::channel(FRAMES_OUT);
    let writer = tokio::spawn(write_frames(write, frames, peer.clone()));
    let mut connection = Connection {
        context,
        answer: Answer::new(out, peer.clone()),
        peer: peer.clone(),
        requests: JoinSet::new(),
        in_order: None,
    };
    connection.read_requests(read, &closing).await;
    drop(connection);
    // All answers are given; let the client read what is not written yet.
    let _ = tokio::time::timeout(LAST_WRITE, writer).await;
    peer.gone.cancel();
}

/// A request and what it holds while it is in progress.
struct Next {
    request: Request,
    under_way: UnderWay,
    room: Option<Piece>,
}

struct Connection {
    context: Arc<Context>,
    answer: Answer,
    peer: Arc<Peer>,
    requests: JoinSet<()>,
    in_order: Option<mpsc::Sender<Next>>,
}

impl Connection {
    async fn read_requests(&mut self, read: ReadHalf, closing: &CancellationToken) {
        let gone = self.peer.gone.clone();
        let mut incoming = Incoming::new(read, self.peer.clone());
        loop {
            while self.requests.try_join_next().is_some() {}
            let next = tokio::select! {
                next = incoming.next() => next,
                () = gone.cancelled() => break,
                () = closing.cancelled() => break,
            };
            match next {
                Ok(Some(frame)) => {
                    if self.begin(frame).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(Trouble::Lost) => {
                    gone.cancel();
                    break;
                }
                Err(Trouble::Refused(failure)) => {
                    let _ = self.answer.fail(failure, None).await;
                    break;
                }
            }
        }
        self.in_order = None;
        // No more requests come. Those in progress continue while the client is there.
        loop {
            if hung_up(incoming.stream()) {
                gone.cancel();
            }
            tokio::select! {
                ended = self.requests.join_next() => if ended.is_none() { break },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn begin(&mut self, Frame { json, room }: Frame) -> Result<(), Gone> {
        let parsed = if json.len() <= SMALL {
            Request::parse(&json)
        } else {
            // Parsing a large request must not block other connections.
            let parsed = blocking(move || Ok(Request::parse(&json))).await;
            parsed.unwrap_or_else(|failure| Err((None, failure)))
        };
        let request = match parsed {
            Ok(request) => request,
            Err((id, failure)) => return self.answer.to(id).fail(failure, None).await,
        };
        let answer = self.answer.to(request.id.clone());
        let control = request.op.treatment().control;
        if !control && !self.peer.has_place() {
            let failure = Failure::new(
                ErrorCode::Overloaded,
                "the daemon has reached its limit of connections, and none of them is idle",
            )
            .hint("try again later; `threadrunner ps` and `threadrunner daemon stop` work");
            return answer.fail(failure, None).await;
        }
        let Some(under_way) = self.peer.begin(&request.op) else {
            let failure = Failure::new(
                ErrorCode::Overloaded,
                "the daemon has reached its limit of requests in progress",
            )
            .hint("try again later");
            return answer.fail(failure, None).await;
        };
        let next = Next { request, under_way, room };
        if next.request.id.is_none() {
            return self.begin_in_order(next).await;
        }
        if self.requests.len() >= REQUESTS && !control {
            let failure = Failure::new(
                ErrorCode::Overloaded,
                format!("more than {REQUESTS} requests at once on one connection"),
            );
            return answer.fail(failure, None).await;
        }
        let context = self.context.clone();
        self.requests.spawn(async move {
            let _ = handle(context, next, answer).await;
        });
        Ok(())
    }

    async fn begin_in_order(&mut self, next: Next) -> Result<(), Gone> {
        let lane = self.in_order.get_or_insert_with(|| {
            let (lane, waiting) = mpsc::channel(WAITING);
            let (context, answer) = (self.context.clone(), self.answer.clone());
            self.requests.spawn(run_in_order(context, answer, waiting));
            lane
        });
        match lane.try_send(next) {
            Ok(()) => Ok(()),
            // Waiting here would keep this task from noticing that the client is gone.
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
}

async fn run_in_order(context: Arc<Context>, answer: Answer, mut waiting: mpsc::Receiver<Next>) {
    while let Some(next) = waiting.recv().await {
        if handle(context.clone(), next, answer.clone()).await.is_err() {
            return;
        }
    }
}

/// Answers one request.
async fn handle(context: Arc<Context>, next: Next, answer: Answer) -> Result<(), Gone> {
    let Next { request, under_way, room } = next;
    let answer = answer.holding(room);
    let handled = handlers::handle(context, request.op, answer).await;
    drop(under_way);
    handled
}

async fn write_frames(mut write: WriteHalf, mut frames: mpsc::Receiver<Outgoing>, peer: Arc<Peer>) {
    let gone = &peer.gone;
    let mut ready = Vec::new();
    while frames.recv_many(&mut ready, FRAMES_OUT).await > 0 {
        let written = tokio::select! {
            biased;
            written = write_together(&mut write, &mut ready, &peer) => written,
            // The client is gone; drop the rest.
            () = gone.cancelled() => return,
        };
        if written.is_err() {
            gone.cancel();
            return;
        }
    }
}

/// Writes frames, and releases the room of each once it is written.
async fn write_together(
    write: &mut WriteHalf,
    ready: &mut Vec<Outgoing>,
    peer: &Peer,
) -> io::Result<()> {
    let all = ready.iter().map(|frames| frames.bytes.len()).sum::<usize>();
    if ready.len() > 1 && all <= SMALL {
        // Answers that are ready together wake the client once.
        let mut together = Vec::with_capacity(all);
        ready.iter().for_each(|frames| together.extend_from_slice(&frames.bytes));
        write.write_noting(&together, |left| peer.note_read(left)).await?;
        ready.clear();
    }
    for mut frames in ready.drain(..) {
        let Outgoing { bytes, room } = &mut frames;
        let read = |left| {
            peer.note_read(left);
            room.note_read(&peer.gone);
        };
        write.write_noting(bytes, read).await?;
    }
    Ok(())
}

/// Whether the client closed both directions. Reading alone cannot tell that from a client that
/// only closed its sending half.
fn hung_up(read: &ReadHalf) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(read.as_fd(), PollFlags::empty())];
    match poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}
