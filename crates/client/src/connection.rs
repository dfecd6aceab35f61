//! One connection, many requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use threadrunner_core::protocol::{Ask, FirstReply, Op, Progress, ReplyBody, Request, RequestId};
use threadrunner_core::{ErrorCode, Failure, JobId, encode_frame};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::drive::{Outgoing, PROBE_LIMIT, SILENCE, drive, silent};

/// Answer frames that wait to be read before the connection stops reading more.
const UNREAD_REPLIES: usize = 256;
/// Requests that wait to be written before the next one waits.
const UNWRITTEN_REQUESTS: usize = 16;
/// How long the daemon may take to say anything to a request for which it looks at its disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The same where it has the answer in memory.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// A connection to the daemon. Clones share it; it closes when the last of them and the last
/// [`Replies`] are dropped.
///
/// A daemon may take as long as a job does to answer, but not to say that it is there: whoever waits
/// for one that has stopped answering is told so within a minute.
#[derive(Debug, Clone)]
pub struct Client {
    requests: mpsc::Sender<Outgoing>,
    next_id: Arc<AtomicU64>,
    unread: Arc<AtomicBool>,
    logs: Arc<PathBuf>,
}

/// The answer to one request, frame by frame.
///
/// Answers that are not read hold up all others on their connection, as nothing is thrown away
/// and nothing piles up: drop what is no longer wanted.
#[derive(Debug)]
pub struct Replies {
    frames: mpsc::Receiver<ReplyBody>,
    first: Option<ReplyBody>,
    job: Option<JobId>,
    client: Client,
}

impl Client {
    /// Talks over `stream`. `logs` is where to send a person when the daemon goes away.
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

    /// Whether the connection ended before the daemon had read all that was sent: what was sent
    /// last was not begun, and may be asked again.
    pub fn went_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Sends a request. Its answer is in the [`Replies`].
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] when it is too long for a frame;
    /// [`ErrorCode::ConnectionLost`] when the connection is gone.
    pub async fn request(&self, op: impl Into<Op>) -> Result<Replies, Failure> {
        let op = op.into();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Request { id: Some(RequestId::Number(id)), op };
        let mut frame = BytesMut::new();
        encode_frame(&request.to_json(), &mut frame).map_err(|error| {
            let failure =
                Failure::new(ErrorCode::InvalidRequest, format!("cannot send that: {error}"));
            failure.hint("make the prompt shorter")
        })?;
        let (replies, frames) = mpsc::channel(UNREAD_REPLIES);
        self.requests.send(Outgoing { id, frame, replies }).await.map_err(|_| self.lost(None))?;
        Ok(Replies { frames, first: None, job: None, client: self.clone() })
    }

    /// Sends a request that is answered by one value, and waits for it.
    ///
    /// # Errors
    /// What the daemon answers, or [`Client::request`]'s errors; [`ErrorCode::BadFrame`] when the
    /// answer is of another kind.
    pub async fn call<A: Ask>(&self, ask: A) -> Result<A::Answer, Failure> {
        self.request(ask).await?.into_answer::<A>().await
    }

    fn lost(&self, job: Option<&JobId>) -> Failure {
        let message = match job {
            Some(job) => format!("the daemon went away before it finished job {job}"),
            None => "the daemon went away before it answered".to_owned(),
        };
        Failure::new(ErrorCode::ConnectionLost, message)
            .hint(format!("its log may say why: {}", self.logs.display()))
    }
}

impl Replies {
    /// The next frame of the answer. An error frame comes as the error that it tells of.
    ///
    /// Dropping the future loses no frame.
    ///
    /// # Errors
    /// What the daemon answers; [`ErrorCode::ConnectionLost`], with the job and the log named,
    /// when there is no more to come.
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

    /// Adds the text that has come already to `text`, which came before it. Waits for nothing.
    pub fn add_ready_text(&mut self, text: &mut String) {
        while self.first.is_none() {
            match self.frames.try_recv() {
                Ok(ReplyBody::Token { token, .. }) => text.push_str(&token),
                Ok(other) => self.first = Some(other),
                // What is wrong, if anything is, the next frame tells.
                Err(_) => return,
            }
        }
    }

    /// Waits for the answer to begin, so that [`Replies::next`] has it at once. `None` waits for
    /// as long as it takes.
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

    /// Waits for the value that the answer is; events before it are skipped.
    ///
    /// # Errors
    /// As [`Replies::next`]; [`ErrorCode::BadFrame`] when the answer is of another kind.
    pub async fn into_answer<A: Ask>(mut self) -> Result<A::Answer, Failure> {
        loop {
            match self.next().await? {
                ReplyBody::Data { data } => {
                    return serde_json::from_value(data).map_err(|error| {
                        strange(format!("the daemon's answer is not as expected: {error}"))
                    });
                }
                ReplyBody::Event(_) => {}
                ReplyBody::Unknown {}
                | ReplyBody::Token { .. }
                | ReplyBody::End(_)
                | ReplyBody::Error(_) => {
                    return Err(strange("the daemon answered with text, not a value".to_owned()));
                }
            }
        }
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

/// How long to wait for the first frame that answers `op`; `None` if that may rightly take as
/// long as a job.
pub(crate) fn first_reply_limit(op: &Op) -> Option<Duration> {
    match op.treatment().first_reply {
        FirstReply::AtOnce => Some(STATUS_LIMIT),
        FirstReply::Soon => Some(ANSWER_LIMIT),
        FirstReply::Whenever => None,
    }
}

pub(crate) fn strange(message: String) -> Failure {
    Failure::new(ErrorCode::BadFrame, message)
        .hint("is something else listening on the socket? `threadrunner doctor` tells")
}
