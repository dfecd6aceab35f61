//! Outgoing frames: one answer's frames, and how much of them may wait for the client.
//!
//! A client that reads nothing only blocks its own requests. Small frames share a few bytes per
//! connection; a large answer takes room from the budget that all connections share before it is
//! built.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use threadrunner_core::protocol::{Ask, ErrorFrame, Reply, ReplyBody, RequestId};
use threadrunner_core::{ErrorCode, Failure, FrameError, JobId, encode_frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::peers::Peer;
use crate::room::{Piece, SMALL};

/// The number of writes that may wait for a slow client; after that, its requests wait.
pub(crate) const FRAMES_OUT: usize = 64;
/// The bytes of small frames that may wait for a client.
const BYTES_OUT: usize = 4 * SMALL;
/// Answers that one connection builds at once, among those that do not wait for a job.
const TURNS: usize = 8;

/// Where the frames of one answer go.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    id: Option<RequestId>,
    out: mpsc::Sender<Outgoing>,
    peer: Arc<Peer>,
    small: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// A connection builds one large answer at a time, so that one client's do not hold up
    /// another's.
    large: Arc<Semaphore>,
    /// The room of the request's frame, if the frame was large.
    request: Option<Arc<Mutex<Option<Piece>>>>,
}

/// Frames on their way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) bytes: Bytes,
    pub(crate) room: Held,
}

/// What frames on their way out hold until they are dropped.
#[derive(Debug)]
pub(crate) enum Held {
    Small { _permit: Option<OwnedSemaphorePermit> },
    Large(Piece),
}

impl Held {
    /// The client reads on: it may hold the room for longer.
    pub(crate) fn note_read(&mut self, gone: &CancellationToken) {
        if let Self::Large(room) = self {
            room.is_theirs(gone);
        }
    }
}

/// The client is gone.
#[derive(Debug)]
pub(crate) struct Gone;

/// The last frame of an answer that is data, serialized without copying the data.
#[derive(Serialize)]
struct DataFrame<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RequestId>,
    data: &'a T,
}

impl Answer {
    pub(crate) fn new(out: mpsc::Sender<Outgoing>, peer: Arc<Peer>) -> Self {
        let small = Arc::new(Semaphore::new(BYTES_OUT));
        let turns = Arc::new(Semaphore::new(TURNS));
        let large = Arc::new(Semaphore::new(1));
        Self { id: None, out, peer, small, turns, large, request: None }
    }

    /// The answer to the request with this id.
    pub(crate) fn to(&self, id: Option<RequestId>) -> Self {
        Self { id, ..self.clone() }
    }

    /// The same answer, holding the room of its request's frame.
    pub(crate) fn holding(self, room: Option<Piece>) -> Self {
        Self { request: room.map(|room| Arc::new(Mutex::new(Some(room)))), ..self }
    }

    /// Releases the room of the request's frame: the request is no longer in memory.
    pub(crate) fn request_is_stored(&self) {
        if let Some(request) = &self.request {
            drop(request.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Waits for one of the connection's [`TURNS`]. Hold the permit until the answer is sent: while
    /// the client reads nothing, its other answers are not built.
    ///
    /// # Errors
    /// [`Gone`] if the client is gone.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit, Gone> {
        // The semaphore is never closed.
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| Gone)?;
        if self.is_gone() { Err(Gone) } else { Ok(turn) }
    }

    /// Takes room for an answer of `bytes` bytes if that is large. Call it before loading the
    /// answer.
    ///
    /// # Errors
    /// If no room becomes free in time, or the client is gone.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Option<Piece>, Failure> {
        match bytes {
            0..=SMALL => Ok(None),
            _ => self.large_room(bytes).await.map(Some),
        }
    }

    async fn large_room(&self, bytes: usize) -> Result<Piece, Failure> {
        let taking = async {
            // The semaphore is never closed.
            let alone = self.large.clone().acquire_owned().await.ok();
            Ok(self.peer.all.outgoing.take(bytes).await?.in_turn(alone))
        };
        tokio::select! {
            biased;
            () = self.gone() => {
                Err(Failure::new(ErrorCode::ConnectionLost, "the client is gone"))
            }
            taken = taking => taken,
        }
    }

    /// Sends frames in one write.
    ///
    /// # Errors
    /// [`Gone`] if the client is gone.
    pub(crate) async fn send(&self, bodies: Vec<ReplyBody>) -> Result<(), Gone> {
        self.send_in(bodies, None).await
    }

    /// Like [`Answer::send`], for frames that have room.
    pub(crate) async fn send_in(
        &self,
        bodies: Vec<ReplyBody>,
        room: Option<Piece>,
    ) -> Result<(), Gone> {
        if bodies.is_empty() {
            return Ok(());
        }
        let id = self.id.clone();
        self.write(room, move || frames(id, bodies)).await
    }

    /// Sends data as the last frame of an answer.
    pub(crate) async fn data<A: Ask>(&self, data: &A::Answer) -> Result<(), Gone> {
        let bytes = data_frame(self.id.as_ref(), data);
        self.put(bytes, None).await
    }

    /// Like [`Answer::data`], for data that has room.
    pub(crate) async fn data_in<A: Ask<Answer: Send + 'static>>(
        &self,
        data: A::Answer,
        room: Option<Piece>,
    ) -> Result<(), Gone> {
        let id = self.id.clone();
        self.write(room, move || data_frame(id.as_ref(), &data)).await
    }

    /// Sends a failure as the last frame of an answer.
    pub(crate) async fn fail(&self, failure: Failure, job: Option<JobId>) -> Result<(), Gone> {
        self.send(vec![ReplyBody::Error(ErrorFrame::new(failure, job))]).await
    }

    /// Whether the client is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.peer.gone.is_cancelled()
    }

    /// Is canceled when the client is gone.
    pub(crate) fn gone_token(&self) -> CancellationToken {
        self.peer.gone.clone()
    }

    /// Completes when the client is gone.
    pub(crate) async fn gone(&self) {
        self.peer.gone.cancelled().await;
    }

    /// Encodes and sends frames. A large answer is encoded on a blocking thread.
    async fn write(
        &self,
        room: Option<Piece>,
        encode: impl FnOnce() -> Bytes + Send + 'static,
    ) -> Result<(), Gone> {
        let bytes = match room {
            None => encode(),
            Some(_) => blocking(move || Ok(encode())).await.map_err(|_| Gone)?,
        };
        self.put(bytes, room).await
    }

    async fn put(&self, bytes: Bytes, room: Option<Piece>) -> Result<(), Gone> {
        let room = match (room, bytes.len()) {
            (_, ..=SMALL) => {
                let permits = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                Held::Small { _permit: self.small.clone().acquire_many_owned(permits).await.ok() }
            }
            (Some(room), _) => Held::Large(room),
            // Larger than expected: no room was taken in advance.
            (None, large) => match self.large_room(large).await {
                Ok(room) => Held::Large(room),
                Err(failure) => {
                    tracing::warn!(%failure, "closing a connection without its answer");
                    self.peer.gone.cancel();
                    return Err(Gone);
                }
            },
        };
        let room = match room {
            Held::Large(mut room) => {
                room.shrink(bytes.len());
                room.is_theirs(&self.peer.gone);
                Held::Large(room)
            }
            small @ Held::Small { .. } => small,
        };
        self.out.send(Outgoing { bytes, room }).await.map_err(|_| Gone)
    }
}

fn frames(id: Option<RequestId>, bodies: Vec<ReplyBody>) -> Bytes {
    let mut bytes = BytesMut::new();
    let mut reply = Reply { id, body: ReplyBody::Data { data: serde_json::Value::Null } };
    for body in bodies {
        reply.body = body;
        if let Err(error) = encode_frame(&reply, &mut bytes) {
            refuse(reply.id.clone(), &error, &mut bytes);
        }
    }
    bytes.freeze()
}

fn data_frame<T: Serialize>(id: Option<&RequestId>, data: &T) -> Bytes {
    let mut bytes = BytesMut::new();
    if let Err(error) = encode_frame(&DataFrame { id, data }, &mut bytes) {
        refuse(id.cloned(), &error, &mut bytes);
    }
    bytes.freeze()
}

/// Writes an error frame in place of one that cannot be encoded.
fn refuse(id: Option<RequestId>, error: &FrameError, bytes: &mut BytesMut) {
    let code = match error {
        FrameError::TooLong { .. } => ErrorCode::Io,
        _ => ErrorCode::Internal,
    };
    let failure = Failure::new(code, format!("cannot send the answer: {error}"));
    let body = ReplyBody::Error(ErrorFrame::new(failure, None));
    // An error frame always fits.
    let _ = encode_frame(&Reply { id, body }, bytes);
}
