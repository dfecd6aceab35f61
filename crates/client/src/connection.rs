//! One connection, many requests.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::de::DeserializeOwned;
use threadrunner_core::protocol::{ErrorFrame, Op, Progress, Reply, ReplyBody, Request, RequestId};
use threadrunner_core::{ErrorCode, Failure, FrameError, JobId, decode_frame, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Answer frames that wait to be read before the connection stops reading more.
const UNREAD_REPLIES: usize = 256;
/// Requests that wait to be written before the next one waits.
const UNWRITTEN_REQUESTS: usize = 16;
/// Room for what the daemon says at once.
const READ_BUFFER: usize = 8 << 10;
/// How long the daemon may take to say anything to a request for which it looks at its disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The same where it has the answer in memory.
const STATUS_LIMIT: Duration = Duration::from_secs(10);
/// After so long a silence it is asked whether it still answers.
const SILENCE: Duration = Duration::from_secs(20);
/// How long it may take to say so.
const PROBE_LIMIT: Duration = Duration::from_secs(20);
/// The request that asks. All others have higher numbers.
const PROBE: u64 = 0;

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

#[derive(Debug)]
struct Outgoing {
    id: u64,
    frame: BytesMut,
    replies: mpsc::Sender<ReplyBody>,
}

impl Client {
    /// Talks over `stream`. `logs` is where to send a person when the daemon goes away.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(stream: UnixStream, logs: &Path) -> Self {
        Self::within(stream, logs, (SILENCE, PROBE_LIMIT))
    }

    fn within(stream: UnixStream, logs: &Path, limits: (Duration, Duration)) -> Self {
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
    pub async fn request(&self, op: Op) -> Result<Replies, Failure> {
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
    pub async fn call<T: DeserializeOwned>(&self, op: Op) -> Result<T, Failure> {
        self.request(op).await?.into_value().await
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
    pub async fn into_value<T: DeserializeOwned>(mut self) -> Result<T, Failure> {
        loop {
            match self.next().await? {
                ReplyBody::Data { data } => {
                    return serde_json::from_value(data).map_err(|error| {
                        strange(format!("the daemon's answer is not as expected: {error}"))
                    });
                }
                ReplyBody::Event(_) => {}
                ReplyBody::Token { .. } | ReplyBody::End(_) | ReplyBody::Error(_) => {
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

/// How long to wait for the first frame that answers `op`; `None` where that may rightly take as
/// long as a job.
pub(crate) fn first_reply_limit(op: &Op) -> Option<Duration> {
    match op {
        Op::Wait(_) | Op::Prune(_) | Op::Stop { .. } => None,
        // An answer in one piece still begins with the event that the job was accepted; the
        // simplest form has no events.
        Op::Simple(_) => None,
        Op::Ps | Op::Status => Some(STATUS_LIMIT),
        Op::Run(_)
        | Op::Follow(_)
        | Op::Submit(_)
        | Op::Watch(_)
        | Op::Job(_)
        | Op::Result(_)
        | Op::Jobs(_)
        | Op::Cancel(_)
        | Op::Retry(_)
        | Op::Rm(_)
        | Op::Sessions(_)
        | Op::Session(_)
        | Op::UndoSession(_)
        | Op::RmSession(_)
        | Op::Load(_)
        | Op::Unload(_) => Some(ANSWER_LIMIT),
    }
}

/// Owns the socket: writes requests, and hands each answer frame to whoever asked. Ends, and with
/// it every answer under way, when the daemon goes away or nobody is left to ask.
async fn drive(
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
        // In this order, a request is always known before its answer can be read.
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
                // Whatever the daemon had to say before it closed is still to be read.
                Err(_) => {
                    unread_there.store(true, Ordering::Release);
                    unwritten.clear();
                    writable = false;
                }
            },
            read = reader.read_buf(&mut unread) => {
                // So the system says that the other end was closed with something unread in it.
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
                // One that does not even take in what is being written need not be asked.
                if writable && unwritten.is_empty() {
                    unwritten = probe();
                }
            }
        }
    }
}

/// How long the daemon may go on saying nothing.
struct Patience {
    /// Until it is asked whether it still answers, and from then on.
    limits: (Duration, Duration),
    until: Instant,
    asked: bool,
}

impl Patience {
    fn new(limits: (Duration, Duration)) -> Self {
        Self { limits, until: Instant::now() + limits.0, asked: false }
    }

    /// It has said something, or somebody begins to wait for it.
    fn begin_again(&mut self) {
        *self = Self::new(self.limits);
    }

    /// It has taken something in, and has yet to answer.
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

/// The frame that asks the daemon whether it still answers.
fn probe() -> BytesMut {
    let request = Request { id: Some(RequestId::Number(PROBE)), op: Op::Status };
    let mut frame = BytesMut::new();
    // It is short, and so always a frame.
    let _ = encode_frame(&request.to_json(), &mut frame);
    frame
}

/// A failure of the connection, which is one of all its requests.
fn to_all(failure: Failure) -> Reply {
    Reply { id: None, body: ReplyBody::Error(ErrorFrame::new(failure, None)) }
}

async fn deliver(reply: Reply, waiting: &mut HashMap<u64, mpsc::Sender<ReplyBody>>) {
    let last = match &reply.body {
        ReplyBody::Error(_) | ReplyBody::End(_) | ReplyBody::Data { .. } => true,
        ReplyBody::Token { .. } | ReplyBody::Event(_) => false,
    };
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
        // An error that belongs to no request is about the connection, and so about all of them.
        None if matches!(reply.body, ReplyBody::Error(_)) => {
            for (_, replies) in waiting.drain() {
                // Whoever dropped the answer wants no more of it.
                let _ = replies.send(reply.body.clone()).await;
            }
        }
        // Nothing that was asked for here.
        Some(RequestId::Text(_)) | None => {}
    }
}

fn silent(limit: Duration) -> Failure {
    Failure::new(
        ErrorCode::Timeout,
        format!("the daemon did not answer within {} s", limit.as_secs()),
    )
    .hint("`threadrunner daemon restart --now` ends it and starts a new one")
}

fn garbled(error: &FrameError) -> Failure {
    strange(format!("the daemon sent something that is not an answer: {error}"))
}

fn strange(message: String) -> Failure {
    Failure::new(ErrorCode::BadFrame, message)
        .hint("is something else listening on the socket? `threadrunner doctor` tells")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection to a daemon that the test plays, whose silence is long after `silence`.
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
        let job = tokio::spawn(async move { client.call::<u32>(Op::Ps).await });
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
        assert_eq!(job.await.unwrap().unwrap(), 7);
    }
}
