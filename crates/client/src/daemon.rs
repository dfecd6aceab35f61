//! Reaching the daemon of a home, and starting it if none runs.
//!
//! A daemon is alive as long as it holds its lock; the socket is only where it listens. Clients
//! that start one take the spawn lock first, so that many at once start a single daemon.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use threadrunner_core::protocol::{Ask, Op, ask};
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::{Config, FileLock, Home, find_program};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connection::{Client, Replies, first_reply_limit};
use crate::spawn::spawn;

/// How long a running daemon may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long getting a daemon may take in all, including the end of an old one.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a started daemon may take to report that it is ready: it scans its jobs first.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How often to check whether a daemon has come up or gone away. One that this process starts is
/// not polled: it reports through a pipe.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often to start a daemon that reports ready and then cannot be reached.
const START_ATTEMPTS: u32 = 3;

/// A step that delays a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The daemon is being started.
    Starting,
    /// An old daemon is ending; then a new one is started.
    Replacing,
    /// The daemon did not end when told to, and was sent SIGTERM or SIGKILL.
    Signaled {
        /// Its process id.
        pid: u32,
        /// Whether it was SIGKILL.
        killed: bool,
    },
}

/// How to reach the daemon of one home. Holds no connection.
pub struct Daemon {
    home: Home,
    program: Option<PathBuf>,
    on_phase: Box<dyn Fn(Phase) + Send + Sync>,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("home", &self.home.root).finish_non_exhaustive()
    }
}

impl Daemon {
    /// The daemon of `home`.
    pub fn new(home: Home) -> Self {
        Self { home, program: None, on_phase: Box::new(|_| ()) }
    }

    /// Starts `program` if no daemon runs, instead of looking for `threadrunner-daemon`.
    #[must_use]
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Calls `tell` for each step that delays a connection.
    #[must_use]
    pub fn on_phase(mut self, tell: impl Fn(Phase) + Send + Sync + 'static) -> Self {
        self.on_phase = Box::new(tell);
        self
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn tell(&self, phase: Phase) {
        (self.on_phase)(phase);
    }

    /// Connects to the running daemon; `None` if none runs.
    ///
    /// # Errors
    /// [`ErrorCode::DaemonUnavailable`] if the socket cannot be used, or its daemon belongs to
    /// another user.
    pub async fn connect(&self) -> Result<Option<Client>, Failure> {
        if let Some(client) = self.connect_to(&self.home.socket).await? {
            return Ok(Some(client));
        }
        // A daemon started in another environment may listen at another socket (a cron job has no
        // XDG_RUNTIME_DIR). Its lock says where.
        match FileLock::read_note(&self.home.daemon_lock()) {
            Some(note) if note != self.home.socket.as_os_str().as_bytes() => {
                self.connect_to(Path::new(OsStr::from_bytes(&note))).await
            }
            _ => Ok(None),
        }
    }

    /// Connects to the daemon, and starts it if none runs.
    ///
    /// # Errors
    /// [`ErrorCode::DaemonUnavailable`], [`ErrorCode::Timeout`], or the daemon's own reason for not
    /// starting.
    pub async fn connect_or_start(&self) -> Result<Client, Failure> {
        match self.connect().await? {
            Some(client) => Ok(client),
            None => self.start(false).await,
        }
    }

    /// Ensures that a daemon runs that is not about to end. Returns whether one ran already.
    ///
    /// # Errors
    /// As [`Daemon::connect_or_start`].
    pub async fn ensure_running(&self) -> Result<bool, Failure> {
        let runs = self.connect_to_lasting().await?.is_some();
        if !runs {
            self.start(false).await?;
        }
        Ok(runs)
    }

    /// Sends a request and waits for the answer to begin. Starts a daemon if none runs, and
    /// replaces one that speaks another version of the protocol.
    ///
    /// # Errors
    /// As [`Daemon::connect_or_start`], and the error that the daemon answers with.
    pub async fn open(&self, op: Op) -> Result<Replies, Failure> {
        let client = self.connect_or_start().await?;
        let failure = match begin(client.clone(), op.clone()).await {
            Ok(replies) => return Ok(replies),
            Err(failure) => failure,
        };
        let begun = outlives(&op) && !client.went_unread();
        let client = match failure.code {
            ErrorCode::UnsupportedVersion => self.start(true).await?,
            // It refused, so nothing was begun. Another is started once it is gone.
            ErrorCode::ShuttingDown => self.start(false).await?,
            // It went away before it said anything. A submission that it read may be on disk and
            // must not be done twice; everything else can be repeated without harm.
            ErrorCode::ConnectionLost if !begun => self.connect_or_start().await?,
            _ => return Err(failure),
        };
        begin(client, op).await
    }

    /// Sends a request to the running daemon and waits for the answer to begin; `None` if none
    /// runs, or if it ends before it answers. Starts none.
    ///
    /// # Errors
    /// As [`Daemon::connect`], and the error that the daemon answers with.
    pub async fn open_running(&self, op: Op) -> Result<Option<Replies>, Failure> {
        let Some(client) = self.connect().await? else { return Ok(None) };
        match begin(client, op).await {
            Ok(replies) => Ok(Some(replies)),
            Err(failure) => match failure.code {
                ErrorCode::ShuttingDown | ErrorCode::ConnectionLost => Ok(None),
                _ => Err(failure),
            },
        }
    }

    /// Like [`Daemon::open`], for a request that is answered by one value.
    ///
    /// # Errors
    /// As [`Daemon::open`].
    pub async fn call<A: Ask>(&self, ask: A) -> Result<A::Answer, Failure> {
        self.open(ask.into()).await?.into_answer::<A>().await
    }

    /// Checks what could keep a daemon from starting: the configuration, the directories, which are
    /// created if they are missing, and the program. Called before a daemon is ended to be replaced,
    /// so that none is left without a successor.
    ///
    /// # Errors
    /// The reason why a daemon would not start.
    pub fn check_startable(&self) -> Result<(), Failure> {
        Config::load(&self.home)?;
        self.home.check_workspace(&self.home.workspace)?;
        self.home.create()?;
        self.program().map(drop)
    }

    fn program(&self) -> Result<PathBuf, Failure> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            None => find_program("threadrunner-daemon", "THREADRUNNER_DAEMON"),
        }
    }

    async fn connect_to(&self, socket: &Path) -> Result<Option<Client>, Failure> {
        let refused = |error: &io::Error| {
            Failure::new(
                ErrorCode::DaemonUnavailable,
                format!("cannot connect to the socket {}: {error}", socket.display()),
            )
            .hint("`threadrunner doctor` checks the socket and its permissions")
        };
        let connected = match UnixStream::connect(socket).await {
            // The daemon's backlog is full. Only a blocking connect waits for its turn.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connect_in_turn(socket).await
            }
            connected => connected,
        };
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound
                    // It has ended, perhaps just now.
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotADirectory => Ok(None),
                    _ => Err(refused(&error)),
                };
            }
        };
        let peer = stream.peer_cred().map_err(|error| refused(&error))?.uid();
        let own = rustix::process::geteuid().as_raw();
        if peer != own {
            return Err(Failure::new(
                ErrorCode::DaemonUnavailable,
                format!("the daemon at {} belongs to user {peer}, not {own}", socket.display()),
            )
            .hint("set THREADRUNNER_SOCKET to a path in a directory of your own"));
        }
        Ok(Some(Client::new(stream, &self.home.cache_dir)))
    }

    /// Starts a daemon and connects to it, or to one that another process started meanwhile. With
    /// `replace`, first ends a daemon of another version. Thanks to the spawn lock, many calls at
    /// once start a single daemon.
    async fn start(&self, replace: bool) -> Result<Client, Failure> {
        let deadline = Instant::now() + START_LIMIT;
        self.home.create().map_err(|failure| match failure.code {
            ErrorCode::Io => Failure { code: ErrorCode::DaemonUnavailable, ..failure },
            _ => failure,
        })?;
        (self.on_phase)(if replace { Phase::Replacing } else { Phase::Starting });
        let _spawning = lock(self.home.spawn_lock(), deadline).await?;
        if let Some(client) = self.connect().await? {
            if !self.is_going(&client, replace).await? {
                return Ok(client);
            }
            (self.on_phase)(Phase::Replacing);
            if replace {
                self.check_startable()?;
                self.stop_and_wait(client, deadline).await?;
            } else {
                self.wait_until_gone(deadline).await?;
            }
        }
        for _ in 0..START_ATTEMPTS {
            if let Some(client) = self.wait_for_other(deadline).await? {
                return Ok(client);
            }
            (self.on_phase)(Phase::Starting);
            spawn(&self.program()?, &self.home, READY_LIMIT).await?;
            if let Some(client) = self.connect().await? {
                return Ok(client);
            }
        }
        Err(Failure::new(
            ErrorCode::DaemonUnavailable,
            format!(
                "the daemon reported that it is ready, but nothing listens at {}",
                self.home.socket.display()
            ),
        )
        .hint(format!("its log may say why: {}", self.home.cache_dir.display())))
    }

    /// Whether the daemon at the other end is ending, or with `replace` must end because it speaks
    /// another version. Another client may have replaced it while this one waited for the lock.
    async fn is_going(&self, client: &Client, replace: bool) -> Result<bool, Failure> {
        let status = match begin(client.clone(), Op::Status).await {
            Ok(replies) => replies.into_answer::<ask::Status>().await,
            Err(failure) => Err(failure),
        };
        match status {
            Ok(status) => Ok(status.stopping),
            Err(failure) => match failure.code {
                ErrorCode::UnsupportedVersion => Ok(replace),
                ErrorCode::ShuttingDown | ErrorCode::ConnectionLost => Ok(true),
                _ => Err(failure),
            },
        }
    }

    /// Connects to the running daemon, unless it is ending.
    async fn connect_to_lasting(&self) -> Result<Option<Client>, Failure> {
        match self.connect().await? {
            Some(client) if !self.is_going(&client, false).await? => Ok(Some(client)),
            _ => Ok(None),
        }
    }

    /// Waits for a daemon that holds its lock but cannot be reached. If it is starting, the result
    /// is a connection to it; if it is ending, `None`.
    async fn wait_for_other(&self, deadline: Instant) -> Result<Option<Client>, Failure> {
        while self.is_locked()? {
            if let Some(client) = self.connect_to_lasting().await? {
                return Ok(Some(client));
            }
            (self.on_phase)(Phase::Replacing);
            look_again(deadline, "a daemon holds its lock but cannot be reached").await?;
        }
        Ok(None)
    }

    /// Whether a daemon is alive. The lock that it holds decides, not its socket or process id.
    pub(crate) fn is_locked(&self) -> Result<bool, Failure> {
        if !self.home.run_dir.is_dir() {
            return Ok(false);
        }
        Ok(FileLock::try_now(&self.home.daemon_lock())?.is_none())
    }
}

/// Whether the work that `op` begins may outlive the client. An attached prompt is a job too, which
/// the next daemon runs if the one that accepted it died.
fn outlives(op: &Op) -> bool {
    op.treatment().outlives
}

async fn begin(client: Client, op: Op) -> Result<Replies, Failure> {
    let limit = first_reply_limit(&op);
    let asks = !outlives(&op) && !matches!(op, Op::Follow(_));
    let mut replies = client.request(op).await?;
    match replies.begin(limit).await {
        // An answer about a job is read with it.
        Err(failure) if asks && replies.job().is_some() => replies.put_back(failure),
        begun => begun?,
    }
    Ok(replies)
}

pub(crate) async fn look_again(deadline: Instant, what: &str) -> Result<(), Failure> {
    if Instant::now() >= deadline {
        return Err(Failure::new(
            ErrorCode::Timeout,
            format!("gave up after {} s: {what}", START_LIMIT.as_secs()),
        )
        .hint("`threadrunner daemon stop --now` ends it without waiting for jobs"));
    }
    sleep(LOOK_AGAIN).await;
    Ok(())
}

/// Takes the lock at `path`. Waits for it in a thread, because the system call has no deadline.
async fn lock(path: PathBuf, deadline: Instant) -> Result<FileLock, Failure> {
    if let Some(lock) = FileLock::try_now(&path)? {
        return Ok(lock);
    }
    let late = Failure::new(
        ErrorCode::Timeout,
        format!("another process has been starting the daemon for {} s", START_LIMIT.as_secs()),
    )
    .hint(format!("it holds the lock {}", path.display()));
    let waiting = in_thread(move || FileLock::wait(&path)).map_err(|_| late.clone())?;
    match timeout_at(deadline, waiting).await {
        Ok(Ok(lock)) => lock,
        Ok(Err(_)) | Err(_) => Err(late),
    }
}

async fn connect_in_turn(socket: &Path) -> io::Result<UnixStream> {
    let socket = socket.to_owned();
    let waiting = in_thread(move || net::UnixStream::connect(socket))?;
    let stream = timeout(CONNECT_LIMIT, waiting)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "too many clients are waiting"))?
        .map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (tell, result) = oneshot::channel();
    thread::Builder::new().name("wait".to_owned()).spawn(move || {
        // If the caller gave up waiting, the result is dropped here.
        let _ = tell.send(work());
    })?;
    Ok(result)
}
