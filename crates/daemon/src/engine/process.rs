//! One engine process: start, command and event streams, stderr and exit.
//!
//! One task per process owns the child. Closing the command stream orders the process to exit; a
//! process that does not within [`EXIT_GRACE`] is killed. The task's last message is always
//! [`EngineMessage::Exited`].

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::io::Errno;
use threadrunner_core::engine_protocol::{Command, ENGINE_ENVIRONMENT, Event, Load};
use threadrunner_core::{ErrorCode, Failure, FrameError, decode_frame, encode_frame};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::bounds::{Allowance, MOST_EVENT_BYTES, bounded};
use super::last_words::{LogBudget, log_stderr};
use crate::halves::{self, ReadHalf, WriteHalf};
use crate::tied::tie;

/// How long a process may take to exit after its command stream is closed.
pub(crate) const EXIT_GRACE: Duration = Duration::from_secs(5);
/// Commands that may queue for a process that is busy computing.
const COMMANDS: usize = 1024;
/// Bytes of events that are read: the burst, and per second. An engine that answers thousands of
/// requests a second sends a tenth of that. One that sends more is slowed down.
const READ_OF_EVENTS: (u32, u32) = (16 << 20, 16 << 20);
/// What an event costs of that beside its bytes: handling it is more work than reading it.
const EVENT_COST: usize = 64;
/// The maximum number of bytes per read.
const CHUNK: usize = 16 << 10;

/// Identifies an engine process, also among several of the same model in succession.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EngineId(pub(crate) u64);

/// What an engine's task tells the owner.
#[derive(Debug)]
pub(crate) enum EngineMessage {
    /// Events in order: all that one read completed.
    Events(Vec<Event>),
    /// The process is gone.
    Exited(Exit),
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Exit {
    /// A phrase that continues "it ...".
    pub(crate) how: String,
    /// Whether a `SIGKILL` from elsewhere ended it: a person, or the kernel because memory ran out.
    /// Then the jobs it ran are not to blame.
    pub(crate) was_killed: bool,
}

impl Exit {
    fn said(how: String) -> Self {
        Self { how, was_killed: false }
    }
}

/// The daemon's end of a running process. Dropping it orders the process to exit.
#[derive(Debug)]
pub(crate) struct EngineProcess {
    pub(crate) id: EngineId,
    pub(crate) pid: u32,
    commands: mpsc::Sender<Command>,
    kill: CancellationToken,
}

/// Starts engine processes.
#[derive(Debug)]
pub(crate) struct Spawner {
    binary: PathBuf,
    messages: mpsc::Sender<(EngineId, EngineMessage)>,
    log: Arc<LogBudget>,
    next: u64,
}

impl Spawner {
    /// Returns a spawner of the program at `binary` that reports through `messages`.
    pub(crate) fn new(binary: PathBuf, messages: mpsc::Sender<(EngineId, EngineMessage)>) -> Self {
        Self { binary, messages, log: Arc::new(LogBudget::new()), next: 0 }
    }

    /// Starts a process and orders it to load a model, without waiting for it.
    ///
    /// # Errors
    /// If the program is missing or cannot be started.
    pub(crate) fn spawn(&mut self, load: Load) -> Result<EngineProcess, Failure> {
        let model = load.model.name();
        let process = self.begin(model.clone(), Command::Load(load))?;
        tracing::info!(pid = process.pid, model, "engine started");
        Ok(process)
    }

    /// Starts a process that reports how much memory `load` would take and exits, without waiting
    /// for it.
    ///
    /// # Errors
    /// If the program is missing or cannot be started.
    pub(crate) fn size(&mut self, load: Load) -> Result<EngineProcess, Failure> {
        self.begin(load.model.name(), Command::Size(load))
    }

    fn begin(&mut self, model: String, first: Command) -> Result<EngineProcess, Failure> {
        let (ours, mut child) = self.start().map_err(|error| cannot_start(&self.binary, &error))?;
        let (commands, orders) = mpsc::channel(COMMANDS);
        let loads = matches!(first, Command::Load(_));
        // The channel is new and has room.
        let _ = commands.try_send(first);
        self.next += 1;
        let id = EngineId(self.next);
        let pid = child.id().unwrap_or_default();
        let stderr = child.stderr.take().map(|stderr| (stderr, Arc::clone(&self.log)));
        let messages = self.messages.clone();
        let kill = CancellationToken::new();
        let killed = kill.clone();
        tokio::spawn(async move {
            let exit = attend(id, child, ours, stderr, orders, &killed, &messages).await;
            let how = &exit.how;
            match loads {
                true => tracing::info!(pid, model, how, "engine exited"),
                false => tracing::debug!(pid, model, how, "the memory estimate ended"),
            }
            let _ = messages.send((id, EngineMessage::Exited(exit))).await;
        });
        Ok(EngineProcess { id, pid, commands, kill })
    }

    fn start(&self) -> io::Result<((ReadHalf, WriteHalf), Child)> {
        let (ours, theirs) = UnixStream::pair()?;
        let ours = halves::split(ours)?;
        let mut command = tokio::process::Command::new(&self.binary);
        command
            .envs(ENGINE_ENVIRONMENT.iter().copied())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A stuck or hostile one does not heed the end of its stream when the daemon is killed. The
        // runtime's one thread is the main thread.
        tie(command.as_std_mut());
        Ok((ours, command.spawn()?))
    }
}

fn cannot_start(binary: &Path, error: &io::Error) -> Failure {
    // Out of descriptors, processes or memory: a later start may succeed.
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM];
    if Errno::from_io_error(error).is_some_and(|errno| lacking.contains(&errno)) {
        return Failure::new(ErrorCode::Overloaded, format!("cannot start an engine now: {error}"))
            .hint("try again later, or with fewer connections and models at once");
    }
    Failure::new(
        ErrorCode::BackendUnavailable,
        format!("cannot start the engine {}: {error}", binary.display()),
    )
    .hint("install threadrunner-engine beside threadrunner-daemon, or set THREADRUNNER_ENGINE")
}

impl EngineProcess {
    /// A process for tests, and the commands it is sent.
    #[cfg(test)]
    pub(crate) fn heard(id: EngineId) -> (Self, mpsc::Receiver<Command>) {
        let (commands, heard) = mpsc::channel(COMMANDS);
        (Self { id, pid: 0, commands, kill: CancellationToken::new() }, heard)
    }

    /// Sends a command. Returns false if the process is gone or no longer reads.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Kills the process at once, for one that cannot be trusted to obey.
    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }
}

/// Runs one process until it is gone, and returns how it ended.
async fn attend(
    id: EngineId,
    mut child: Child,
    (from, to): (ReadHalf, WriteHalf),
    stderr: Option<(ChildStderr, Arc<LogBudget>)>,
    orders: mpsc::Receiver<Command>,
    killed: &CancellationToken,
    messages: &mpsc::Sender<(EngineId, EngineMessage)>,
) -> Exit {
    let pid = child.id().unwrap_or_default();
    let mut last_words = tokio::spawn(async move {
        match stderr {
            Some((stderr, log)) => log_stderr(pid, stderr, &log).await,
            None => String::new(),
        }
    });
    let mut listening = std::pin::pin!(listen(id, from, messages));
    let spoken = tokio::select! {
        // Kill first: it comes together with the end of the commands.
        biased;
        () = killed.cancelled() => Err("was given up on".to_owned()),
        spoken = &mut listening => spoken,
        () = command(id, to, orders, messages) => {
            // The process was ordered to exit. Hear what it still says, for a limited time.
            match tokio::time::timeout(EXIT_GRACE, listening).await {
                Ok(spoken) => spoken,
                Err(_) => Err("did not exit when told to".to_owned()),
            }
        }
    };
    let ended = match spoken {
        // Its stream ended: the process is exiting, or closed the stream without being told to.
        Ok(()) => tokio::time::timeout(EXIT_GRACE, child.wait()).await.ok(),
        Err(_) => None,
    };
    let mut exit = match ended {
        Some(Ok(status)) => describe(status),
        Some(Err(error)) => Exit::said(format!("could not be waited for: {error}")),
        None => {
            let _ = child.kill().await;
            let how = spoken.err().unwrap_or_else(|| "closed its stream".to_owned());
            Exit::said(how + ", and was killed")
        }
    };
    match tokio::time::timeout(EXIT_GRACE, &mut last_words).await {
        Ok(Ok(words)) if !words.is_empty() => exit.how = format!("{}: {words}", exit.how),
        Ok(_) => {}
        // A child of the engine may hold its stderr open for as long as it likes.
        Err(_) => last_words.abort(),
    }
    exit
}

fn describe(status: ExitStatus) -> Exit {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => match name_of(signal) {
            Some(name) => format!("was ended by signal {signal} ({name})"),
            None => format!("was ended by signal {signal}"),
        },
        (None, Some(0)) => "exited".to_owned(),
        (None, code) => format!("exited with code {}", code.unwrap_or(-1)),
    };
    let killed = rustix::process::Signal::KILL.as_raw();
    Exit { how, was_killed: status.signal() == Some(killed) }
}

/// The name of a signal that commonly ends processes.
fn name_of(signal: i32) -> Option<&'static str> {
    use rustix::process::Signal;
    let names = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::ILL, "SIGILL"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::SYS, "SIGSYS"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
    ];
    names.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name)
}

/// Passes the process's events on until its stream ends. `Err` is what it did wrong, as a phrase
/// that continues "it ...".
async fn listen(
    id: EngineId,
    mut from: ReadHalf,
    messages: &mpsc::Sender<(EngineId, EngineMessage)>,
) -> Result<(), String> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut allowance = Allowance::new(READ_OF_EVENTS.0, READ_OF_EVENTS.1, Instant::now());
    loop {
        let read = match (&mut from).take(CHUNK as u64).read_buf(&mut buffer).await {
            Ok(0) => return Ok(()),
            // A process that was killed with commands unread resets the stream.
            Err(_) => return Ok(()),
            Ok(read) => read,
        };
        let mut events = Vec::new();
        loop {
            if let Some(length) = announced(&buffer).filter(|length| *length > MOST_EVENT_BYTES) {
                return Err(format!(
                    "sent an event of {length} bytes; the maximum is {MOST_EVENT_BYTES}"
                ));
            }
            let event = decode_frame(&mut buffer)
                .map_err(|error| format!("sent what is not the engine protocol ({error})"))?;
            match event {
                Some(event) => events.push(bounded(event)),
                None => break,
            }
        }
        let cost = read + events.len() * EVENT_COST;
        if !events.is_empty() && messages.send((id, EngineMessage::Events(events))).await.is_err() {
            return Ok(());
        }
        if let Some(pause) = allowance.overdraw(cost, Instant::now()) {
            tokio::time::sleep(pause).await;
        }
    }
}

/// The length of the next frame, once its header is there.
fn announced(buffer: &BytesMut) -> Option<usize> {
    buffer.first_chunk().map(|header| u32::from_le_bytes(*header) as usize)
}

/// Writes commands until the channel is closed, then shuts the stream down.
async fn command(
    id: EngineId,
    mut to: WriteHalf,
    mut orders: mpsc::Receiver<Command>,
    messages: &mpsc::Sender<(EngineId, EngineMessage)>,
) {
    let mut commands = Vec::new();
    let mut buffer = BytesMut::new();
    while orders.recv_many(&mut commands, 64).await > 0 {
        let mut refused = Vec::new();
        for command in commands.drain(..) {
            if let Err(error) = encode_frame(&command, &mut buffer) {
                tracing::error!(%error, "a command does not fit in a frame");
                refused.extend(too_long(&command, &error));
            }
        }
        if !refused.is_empty() {
            // The owner may be gone.
            let _ = messages.send((id, EngineMessage::Events(refused))).await;
        }
        if to.write_all(&buffer.split()).await.is_err() {
            // The process is gone; `listen` notices too. Until then, refuse further commands.
            orders.close();
            std::future::pending::<()>().await;
        }
    }
    to.shutdown();
}

/// The event with which the process would refuse the command. A prompt that was accepted may still
/// be too long here: JSON escapes and the rest of the command come on top.
fn too_long(command: &Command, error: &FrameError) -> Option<Event> {
    let Command::Generate(generate) = command else { return None };
    let failure = Failure::new(
        ErrorCode::InvalidRequest,
        format!("the prompt does not fit in a frame: {error}"),
    )
    .hint("shorten the prompt");
    Some(Event::Failed { id: generate.id, failure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadrunner_core::engine_protocol::{EngineRequestId, Generate, Input};
    use threadrunner_core::{Parameters, Priority};

    #[test]
    fn who_was_killed_is_said_with_the_signals_name() {
        assert_eq!(describe(ExitStatus::from_raw(9)).how, "was ended by signal 9 (SIGKILL)");
        assert_eq!(describe(ExitStatus::from_raw(34)).how, "was ended by signal 34");
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)).how, "exited with code 3");
    }

    #[test]
    fn a_lack_of_descriptors_passes_and_a_lack_of_the_program_does_not() {
        let code = |errno: Errno| cannot_start(Path::new("engine"), &errno.into()).code;
        assert_eq!(code(Errno::MFILE), ErrorCode::Overloaded);
        assert_eq!(code(Errno::NOENT), ErrorCode::BackendUnavailable);
    }

    #[tokio::test]
    async fn an_exit_is_told_though_a_child_holds_the_stderr_open() {
        // The child reads what this test never writes, and exits with it.
        let (hold, held) = std::io::pipe().map(|(read, write)| (write, read)).unwrap();
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", "exec 3<&0; cat <&3 >/dev/null & exit 7"]);
        let mut child = shell.stdin(Stdio::from(held)).stderr(Stdio::piped()).spawn().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let ours = halves::split(ours).unwrap();
        let (_commands, orders) = mpsc::channel(1);
        let (messages, _heard) = mpsc::channel(1);
        let stderr = child.stderr.take().map(|stderr| (stderr, Arc::new(LogBudget::new())));
        let kill = CancellationToken::new();
        let exit = attend(EngineId(1), child, ours, stderr, orders, &kill, &messages).await;
        assert_eq!(exit.how, "exited with code 7");
        drop(hold);
    }

    #[tokio::test]
    async fn a_prompt_that_fits_no_frame_fails_and_the_next_command_is_sent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_read, to) = halves::split(ours).unwrap();
        let (commands, orders) = mpsc::channel(2);
        let (messages, mut heard) = mpsc::channel(2);
        // Each newline becomes two bytes.
        let input = Input::Raw("\n".repeat(threadrunner_core::MAX_FRAME_BYTES / 2));
        let (params, priority) = (Parameters::default(), Priority::Normal);
        let generate = Generate {
            id: EngineRequestId(7),
            input,
            params,
            priority,
            session: None,
            stream: true,
        };
        commands.try_send(Command::Generate(Box::new(generate))).unwrap();
        commands.try_send(Command::Cancel { id: EngineRequestId(8) }).unwrap();
        drop(commands);
        command(EngineId(1), to, orders, &messages).await;
        let Some((EngineId(1), EngineMessage::Events(events))) = heard.recv().await else {
            panic!("the owner is told");
        };
        assert!(matches!(events[..], [Event::Failed { id: EngineRequestId(7), .. }]), "{events:?}");
        let mut sent = Vec::new();
        let (mut from, _to) = halves::split(theirs).unwrap();
        from.read_to_end(&mut sent).await.unwrap();
        let sent: Option<Command> = decode_frame(&mut BytesMut::from(&sent[..])).unwrap();
        assert!(matches!(sent, Some(Command::Cancel { id: EngineRequestId(8) })), "{sent:?}");
    }
}
