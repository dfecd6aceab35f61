//! One engine process: its birth, its two streams of frames, its last words and its end.
//!
//! A task per process owns the child. The order to exit is the end of the command stream; a
//! process that does not obey within [`EXIT_GRACE`] is killed. Whatever happens, the task's last
//! message is [`EngineMessage::Exited`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use threadrunner_core::engine_protocol::{Command, ENGINE_ENVIRONMENT, Event, Load};
use threadrunner_core::{ErrorCode, Failure, decode_frame, encode_frame};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr};
use tokio::sync::mpsc;

/// How long a process may take to exit once its command stream has ended.
const EXIT_GRACE: Duration = Duration::from_secs(5);
/// Commands that may wait for a process that is busy computing.
const COMMANDS: usize = 1024;
/// Lines of its stderr that are kept for the message when it dies.
const LAST_WORDS: usize = 8;
/// The longest line of stderr that is logged, in bytes.
const LONGEST_LINE: u64 = 4096;

/// Tells engine processes apart, also two of the same model one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EngineId(pub(crate) u64);

/// What an engine's task tells the daemon.
#[derive(Debug)]
pub(crate) enum EngineMessage {
    /// What the process said, in order; all that one read brought.
    Events(Vec<Event>),
    /// The process is gone: how, in words.
    Exited { how: String },
}

/// The daemon's end of a running process. Dropping it orders the process to exit.
#[derive(Debug)]
pub(crate) struct EngineProcess {
    pub(crate) id: EngineId,
    pub(crate) pid: u32,
    commands: mpsc::Sender<Command>,
}

/// Starts engine processes.
#[derive(Debug)]
pub(crate) struct Spawner {
    binary: PathBuf,
    messages: mpsc::Sender<(EngineId, EngineMessage)>,
    next: u64,
}

impl Spawner {
    /// Starts the program at `binary`, and tells of it through `messages`.
    pub(crate) fn new(binary: PathBuf, messages: mpsc::Sender<(EngineId, EngineMessage)>) -> Self {
        Self { binary, messages, next: 0 }
    }

    /// Starts a process and orders it to load. Does not wait for it.
    ///
    /// # Errors
    /// When the program is missing or cannot be started.
    pub(crate) fn spawn(&mut self, load: Load) -> Result<EngineProcess, Failure> {
        let model = load.model.name();
        let (ours, mut child) = self.start().map_err(|error| cannot_start(&self.binary, &error))?;
        let (commands, orders) = mpsc::channel(COMMANDS);
        // The channel is new and has room.
        let _ = commands.try_send(Command::Load(load));
        self.next += 1;
        let id = EngineId(self.next);
        let pid = child.id().unwrap_or_default();
        tracing::info!(pid, model, "engine started");
        let stderr = child.stderr.take();
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let how = attend(id, child, ours, stderr, orders, &messages).await;
            tracing::info!(pid, model, how, "engine exited");
            let _ = messages.send((id, EngineMessage::Exited { how })).await;
        });
        Ok(EngineProcess { id, pid, commands })
    }

    fn start(&self) -> io::Result<(UnixStream, Child)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = tokio::process::Command::new(&self.binary)
            .envs(ENGINE_ENVIRONMENT.iter().copied())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok((UnixStream::from_std(ours)?, child))
    }
}

fn cannot_start(binary: &Path, error: &io::Error) -> Failure {
    Failure::new(
        ErrorCode::BackendUnavailable,
        format!("cannot start the engine {}: {error}", binary.display()),
    )
    .hint("install threadrunner-engine beside threadrunner-daemon, or set THREADRUNNER_ENGINE")
}

impl EngineProcess {
    /// Sends a command; false if the process is gone or reads nothing any more.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}

/// Looks after one process until it is gone; returns how it went.
async fn attend(
    id: EngineId,
    mut child: Child,
    socket: UnixStream,
    stderr: Option<ChildStderr>,
    orders: mpsc::Receiver<Command>,
    messages: &mpsc::Sender<(EngineId, EngineMessage)>,
) -> String {
    let (from, to) = socket.into_split();
    let last_words = tokio::spawn(log_stderr(child.id().unwrap_or_default(), stderr));
    let mut listening = std::pin::pin!(listen(id, from, messages));
    let spoken = tokio::select! {
        spoken = &mut listening => spoken,
        () = command(to, orders) => {
            // Ordered to exit: what it still says is heard, for so long.
            match tokio::time::timeout(EXIT_GRACE, listening).await {
                Ok(spoken) => spoken,
                Err(_) => Err("did not exit when told to".to_owned()),
            }
        }
    };
    let ended = match spoken {
        // Its stream ended: the process is ending, or has closed a stream that it may not.
        Ok(()) => tokio::time::timeout(EXIT_GRACE, child.wait()).await.ok(),
        Err(_) => None,
    };
    let how = match ended {
        Some(Ok(status)) => describe(status),
        Some(Err(error)) => format!("could not be waited for: {error}"),
        None => {
            let _ = child.kill().await;
            spoken.err().unwrap_or_else(|| "closed its stream".to_owned()) + ", and was killed"
        }
    };
    match last_words.await {
        Ok(words) if !words.is_empty() => format!("{how}: {words}"),
        _ => how,
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => match rustix::process::Signal::from_named_raw(signal) {
            Some(name) => format!("was ended by signal {signal} ({name:?})"),
            None => format!("was ended by signal {signal}"),
        },
        (None, Some(0)) => "exited".to_owned(),
        (None, code) => format!("exited with code {}", code.unwrap_or(-1)),
    }
}

/// Passes the process's events on until its stream ends; `Err` says what was wrong with it.
async fn listen(
    id: EngineId,
    mut from: OwnedReadHalf,
    messages: &mpsc::Sender<(EngineId, EngineMessage)>,
) -> Result<(), String> {
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        match from.read_buf(&mut buffer).await {
            Ok(0) => return Ok(()),
            // A process that was killed with commands unread resets the stream.
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        let mut events = Vec::new();
        while let Some(event) = decode_frame(&mut buffer)
            .map_err(|error| format!("spoke what is not the engine protocol ({error})"))?
        {
            events.push(event);
        }
        if !events.is_empty() && messages.send((id, EngineMessage::Events(events))).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes commands until there are none to come, then ends the stream.
async fn command(mut to: OwnedWriteHalf, mut orders: mpsc::Receiver<Command>) {
    let mut commands = Vec::new();
    let mut buffer = BytesMut::new();
    while orders.recv_many(&mut commands, 64).await > 0 {
        for command in commands.drain(..) {
            if let Err(error) = encode_frame(&command, &mut buffer) {
                // Prompts are bounded by the clients' frames, which are as long.
                tracing::error!(%error, "a command does not fit a frame");
            }
        }
        if to.write_all_buf(&mut buffer).await.is_err() {
            // It is gone; `listen` sees that too. Wait for the order to forget it.
            orders.close();
            std::future::pending::<()>().await;
        }
    }
    let _ = to.shutdown().await;
}

/// Logs what the process writes to stderr, and returns the last of it as one line.
async fn log_stderr(pid: u32, stderr: Option<ChildStderr>) -> String {
    let Some(stderr) = stderr else { return String::new() };
    let mut lines = BufReader::new(stderr);
    let mut kept = VecDeque::with_capacity(LAST_WORDS);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        tracing::warn!(pid, "engine: {line}");
        if kept.len() == LAST_WORDS {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    // An assertion says most; it is not always last.
    let telling = kept.iter().find(|line| line.contains("ASSERT") || line.contains("terminate"));
    telling.or(kept.back()).cloned().unwrap_or_default()
}
