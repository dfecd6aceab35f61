//! One connection, shared by many requests.
//!
//! A [`Client`] numbers requests and queues them for the task that owns the socket; that task sends
//! each answer's frames to its [`Replies`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use threadrunner_core::protocol::{
    Ask, ErrorFrame, FirstReply, Op, Progress, ReplyBody, Request, RequestId,
};
use threadrunner_core::{ErrorCode, Failure, JobId, encode_frame};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::drive::{Outgoing, PROBE_LIMIT, SILENCE, drive, silent, strange};

/// Unread answer frames of one request before the whole connection stops reading.
const UNREAD_REPLIES: usize = 256;
/// Requests queued for writing before [`Client::request`] waits.
const UNWRITTEN_REQUESTS: usize = 16;
/// How long the daemon may take to begin its answer to a request that reads its disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The same for a request that it answers from memory.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// A connection to the daemon. Clones share it; it closes when the last clone and the last
/// [`Replies`] are dropped.
///
/// An answer may take as long as its job. But if the daemon stops responding at all, every pending
/// request fails with [`ErrorCode::Timeout`] within a minute.
#[derive(Debug, Clone)]
pub struct Client {
    requests: mpsc::Sender<Outgoing>,
    next_id: Arc<AtomicU64>,
    unread: Arc<AtomicBool>,
    logs: Arc<PathBuf>,
}

/// The answer to one request, frame by frame.
///
/// Frames are neither discarded nor buffered without bound, so an answer that is not read blocks
/// all others on its connection. Drop an answer that is no longer wanted.
#[derive(Debug)]
pub struct Replies {
    frames: mpsc::Receiver<ReplyBody>,
    first: Option<ReplyBody>,
    job: Option<JobId>,
    client: Client,
}

impl Client {
    /// Talks over `stream`. `logs` is the directory that hints name when the daemon goes away.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(stream: UnixStream, logs: &Path) -> Self {
        Self::within(stream, logs, (SILENCE, PROBE_LIMIT))
    }

    pub(crate) fn within(stream: UnixStream, logs: &Path, limits: (Duration, Duration)) -> Self {
        let (requests, outgoing) = mpsc::channel(UNWRITTEN_REQUESTS);
        let unread = Arc::new(AtomicBool::new(false));
        tokio::spawn(drive(stream, outgoing, unread.clone(), limits));
        let next_id = Arc::new(AtomicU64::new(1));
        Self { requests, next_id, unread, logs: Arc::new(logs.into()) }
    }

    /// Whether the connection ended before the daemon had read everything sent. The last request
    /// was then not begun, and may be sent again.
    pub fn went_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Sends a request, and returns its answer as [`Replies`].
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] if it is too long for a frame; [`ErrorCode::ConnectionLost`]
    /// if the connection is gone.
    pub async fn request(&self, op: impl Into<Op>) -> Result<Replies, Failure> {
        let op = op.into();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Request { id: Some(RequestId::Number(id)), op };
        let mut frame = BytesMut::new();
        encode_frame(&request.to_json(), &mut frame).map_err(|error| {
            let failure =
                Failure::new(ErrorCode::InvalidRequest, format!("cannot send this: {error}"));
            failure.hint("make the prompt shorter")
        })?;
        let (replies, frames) = mpsc::channel(UNREAD_REPLIES);
        self.requests.send(Outgoing { id, frame, replies }).await.map_err(|_| self.lost(None))?;
        Ok(Replies { frames, first: None, job: None, client: self.clone() })
    }

    /// Sends a request that is answered by one value, and waits for that value.
    ///
    /// # Errors
    /// The error that the daemon answers with, and those of [`Client::request`];
    /// [`ErrorCode::BadFrame`] if the answer is of another kind.
    pub async fn call<A: Ask>(&self, ask: A) -> Result<A::Answer, Failure> {
        self.request(ask).await?.into_answer::<A>().await
    }

    fn lost(&self, job: Option<&JobId>) -> Failure {
        let message = match job {
            Some(job) => format!("lost the connection to the daemon before job {job} ended"),
            None => "lost the connection to the daemon before it answered".to_owned(),
        };
        Failure::new(ErrorCode::ConnectionLost, message)
            .hint(format!("its log may say why: {}", self.logs.display()))
    }
}

impl Replies {
    /// The next frame of the answer. An error frame is returned as `Err`.
    ///
    /// Cancel safe: dropping the future loses no frame.
    ///
    /// # Errors
    /// The error that the daemon answers with; [`ErrorCode::ConnectionLost`], naming the job and
    /// the log, if no more frames can come.
    pub async fn next(&mut self) -> Result<ReplyBody, Failure> {
        let body = match self.first.take() {
            Some(body) => body,
            None => match self.frames.recv().await {
                Some(body) => body,
                None => return Err(self.client.lost(self.job.as_ref())),
            },
        };
        match body {
            ReplyBody::Error(frame) => {
                self.job = frame.job.clone().or(self.job.take());
                Err(frame.into_failure())
            }
            body => {
                match &body {
                    ReplyBody::Event(Progress::Accepted { job }) => self.job = Some(job.clone()),
                    ReplyBody::End(end) => self.job = Some(end.job.clone()),
                    _ => {}
                }
                Ok(body)
            }
        }
    }

    /// Appends the text that has already arrived to `text`. Never waits.
    pub fn add_ready_text(&mut self, text: &mut String) {
        while self.first.is_none() {
            match self.frames.try_recv() {
                Ok(ReplyBody::Token { token, .. }) => text.push_str(&token),
                Ok(other) => self.first = Some(other),
                // Nothing there yet, or a lost connection, which `next` reports.
                Err(_) => return,
            }
        }
    }

    /// Waits for the first frame, which [`Replies::next`] then returns at once. `None` waits
    /// without a limit.
    ///
    /// # Errors
    /// As [`Replies::next`]; [`ErrorCode::Timeout`] after `limit`.
    pub async fn begin(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        let next = self.next();
        let body = match limit {
            Some(limit) => timeout(limit, next).await.unwrap_or_else(|_| Err(silent(limit)))?,
            None => next.await?,
        };
        self.first = Some(body);
        Ok(())
    }

    /// Waits for an answer that is one value, and skips events before it.
    ///
    /// # Errors
    /// As [`Replies::next`]; [`ErrorCode::BadFrame`] if the answer is of another kind.
    pub async fn into_answer<A: Ask>(mut self) -> Result<A::Answer, Failure> {
        loop {
            match self.next().await? {
                ReplyBody::Data { data } => {
                    return serde_json::from_value(data).map_err(|error| {
                        strange(format!("unexpected answer from the daemon: {error}"))
                    });
                }
                ReplyBody::Event(_) => {}
                ReplyBody::Unknown(_)
                | ReplyBody::Token { .. }
                | ReplyBody::End(_)
                | ReplyBody::Error(_) => {
                    return Err(strange("the daemon answered with text, not a value".to_owned()));
                }
            }
        }
    }

    /// Has the next frame be this failure, with the job that is known by now.
    pub(crate) fn put_back(&mut self, failure: Failure) {
        self.first = Some(ReplyBody::Error(ErrorFrame::new(failure, self.job.clone())));
    }

    /// The job, once the daemon has named it.
    pub fn job(&self) -> Option<&JobId> {
        self.job.as_ref()
    }

    /// The connection, for further requests.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// How long to wait for the first frame that answers `op`; `None` if that may take as long as a
/// job.
pub(crate) fn first_reply_limit(op: &Op) -> Option<Duration> {
    match op.treatment().first_reply {
        FirstReply::AtOnce => Some(STATUS_LIMIT),
        FirstReply::Soon => Some(ANSWER_LIMIT),
        FirstReply::Whenever => None,
    }
}
