//! The daemon's start and shutdown.
//!
//! [`run`] takes the home's lock, opens the workspaces, binds the socket and serves until told to
//! stop. The lock marks the daemon as alive, so it is released last.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::{
    Config, FileLock, Home, WorkspaceSettings, find_engine, interrupt_is_ignored, resolve_backend,
    write_own,
};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::context::Context;
use crate::directories;
use crate::failures::{io_failure, refused_by_system};
use crate::jobs::{Hub, Owner};
use crate::listen::bind;
use crate::models::{self, ModelCatalog};
use crate::opening::{Opened, open, remember_names};
use crate::peers::Peers;
use crate::store::{Store, Stores};
use crate::workspaces::{Configured, Directories, Served, Workspaces};
use crate::{inherited, limits, log, pid_note, reach, retention, server};

/// Capacity of the channel from the workspaces' threads to the owner. When it is full, the threads
/// wait.
const STORE_EVENTS: usize = 1024;
/// The line that the client that started this daemon waits for.
const READY: &str = r#"{"ready":true}"#;
/// How long connections get to send their last frames when the daemon stops.
const LAST_FRAMES: Duration = Duration::from_secs(2);

/// The maximum number of threads for blocking work, such as reading workspaces, beside those that
/// look at models.
const BLOCKING_THREADS: usize = 16;
/// How long an idle blocking thread is kept: in effect forever, see [`start_blocking_thread`].
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Starts the daemon, serves, and returns once it has been told to stop. `socket` is a path to
/// listen on instead of the home's.
pub(crate) fn run(foreground: bool, socket: Option<PathBuf>) -> ExitCode {
    let kept = inherited::let_go(foreground);
    // Files that the daemon and its engines create are private to the user.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if !foreground {
        // Fails only if this process leads its group already. Then it stays in its session.
        let _ = rustix::process::setsid();
    }
    let started = |runtime| match start(foreground, socket.as_deref(), &kept)? {
        Some((daemon, lock)) => daemon.serve(runtime, lock),
        None => Ok(()),
    };
    match runtime().and_then(started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(%failure, "cannot start");
            // A caller that names a socket may not read stdout.
            if foreground || socket.is_some() {
                complain(failure.to_text().trim_end());
            }
            if !foreground {
                report(&serde_json::to_string(&failure).unwrap_or_default());
            }
            ExitCode::from(failure.code.exit_code() as u8)
        }
    }
}

/// Builds a runtime of one thread: the daemon only waits, the engines compute.
fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS + models::AT_ONCE)
        .thread_keep_alive(FOR_EVER)
        .build()
        .map_err(|error| refused_by_system("start the runtime", &error))?;
    let within = runtime.enter();
    // With a handler, writing beyond the limit on a file's size is an error; without one, it kills
    // the process. Installed here because the log is the first file written.
    let _caught = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
        .map_err(|error| refused_by_system("watch signals", &error))?;
    drop(within);
    Ok(runtime)
}

/// What serving needs.
struct Daemon {
    home: Home,
    config: Config,
    engine: PathBuf,
    workspaces: Vec<(WorkspaceSettings, Result<Opened, Failure>)>,
    listener: std::os::unix::net::UnixListener,
    /// The maximum number of connections.
    connections: usize,
    foreground: bool,
}

/// Takes the lock and the socket; returns `None` if another daemon holds the lock. `kept` lists, in
/// words, inherited settings that could not be undone.
fn start(
    foreground: bool,
    socket: Option<&Path>,
    kept: &[String],
) -> Result<Option<(Daemon, FileLock)>, Failure> {
    let home = match socket {
        Some(socket) => Home::from_env_with_socket(socket)?,
        None => Home::from_env()?,
    };
    home.create()?;
    log::start(&home, foreground, socket.and_then(|_| log::usual_cache()));
    for what in kept {
        tracing::warn!("cannot undo a setting that the daemon inherited: {what}");
    }
    if let Some(unused) = &home.unused_runtime_dir {
        let (path, why) = (unused.path.display(), &unused.why);
        tracing::warn!("XDG_RUNTIME_DIR is not used: {path} {why}; the socket is in the home");
    }
    let text = Config::text(&home)?;
    let config = Config::read(text.as_deref().unwrap_or_default(), &home)?;
    let settings = config.workspaces(&home);
    let connections = limits::connections(settings.len())?;
    let Some(lock) = FileLock::try_now(&home.daemon_lock())? else {
        if socket.is_some() {
            listens_there(&home)?;
        }
        if foreground {
            complain("a daemon is already running for this home: see `threadrunner status`");
        } else {
            report(READY);
        }
        return Ok(None);
    };
    let engine = engine_binary();
    // The answer is kept: later, the daemon's one thread may not wait for it.
    let _ = resolve_backend(None, &home, &config);
    // Keep no client's directory from being unmounted. All paths are absolute by now.
    let _ = std::env::set_current_dir("/");
    // The note lets clients find the socket even if their environment names another. A full disk is
    // no reason not to serve: jobs have to be removed from it.
    if let Err(error) = lock.write_note(home.socket.as_os_str().as_encoded_bytes()) {
        tracing::warn!(path = %home.daemon_lock().display(), %error, "cannot note the socket");
    }
    // Clients compare their configuration with this copy and say if it differs.
    if let Err(error) = write_own(&home.running_config(), text.unwrap_or_default().as_bytes()) {
        tracing::warn!(path = %home.running_config().display(), %error, "cannot copy the config");
    }
    let open = |settings: WorkspaceSettings| {
        let opened = open(&home, &settings, config.durability);
        (settings, opened)
    };
    let mut workspaces: Vec<_> = settings.into_iter().map(open).collect();
    // Requests that name a broken workspace are told why. With no usable workspace, do not start.
    if workspaces.iter().all(|(_, opened)| opened.is_err())
        && let Some((_, Err(failure))) = workspaces.drain(..).next()
    {
        return Err(failure);
    }
    let used = directories::used_before(&home, &config).into_iter().map(open);
    // A used directory that cannot be opened now is opened when it is used again.
    workspaces.extend(used.filter(|(_, opened)| opened.is_ok()));
    let listener = bind(&home.socket)?;
    let daemon = Daemon { home, config, engine, workspaces, listener, connections, foreground };
    Ok(Some((daemon, lock)))
}

/// Fails if the running daemon is known to listen elsewhere than this one would have.
fn listens_there(home: &Home) -> Result<(), Failure> {
    let Some(note) = FileLock::read_note(&home.daemon_lock()) else { return Ok(()) };
    if note == home.socket.as_os_str().as_encoded_bytes() {
        return Ok(());
    }
    let there = String::from_utf8_lossy(&note);
    let message = format!(
        "a daemon is already running for this home; it listens on {there}, not on {}",
        home.socket.display()
    );
    Err(Failure::new(ErrorCode::DaemonUnavailable, message)
        .hint("connect to that one, or stop it with `threadrunner daemon stop`"))
}

impl Daemon {
    /// Serves until told to stop. `lock` marks this daemon as alive and is released last.
    fn serve(self, runtime: Runtime, lock: FileLock) -> Result<(), Failure> {
        let (socket, lock_file) = (self.home.socket.clone(), self.home.daemon_lock());
        let lock = Arc::new(lock);
        let served = runtime.block_on(self.serve_in_runtime(Arc::clone(&lock)));
        // Kills the remaining engines. Does not wait for a workspace read that hangs.
        runtime.shutdown_timeout(Duration::from_millis(100));
        // Dropping the runtime dropped every handle on the workspaces' threads, so they end and
        // release their locks.
        let served = served.map(|(threads, places)| {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a workspace's thread panicked");
                }
            }
            places.iter().for_each(|workspace| pid_note::remove(workspace));
        });
        // Without its lock, the socket may be the next daemon's.
        if lock.is_at(&lock_file) {
            let _ = fs::remove_file(&socket);
        }
        tracing::info!("ended");
        drop(lock);
        served
    }

    /// Returns the workspaces' threads, which end with the runtime, and the workspaces' paths.
    async fn serve_in_runtime(
        self,
        lock: Arc<FileLock>,
    ) -> Result<(Vec<JoinHandle<()>>, Vec<PathBuf>), Failure> {
        let signals = Signals::new().map_err(|error| refused_by_system("watch signals", &error))?;
        let listener = UnixListener::from_std(self.listener)
            .map_err(|error| io_failure("listen on", &self.home.socket, &error))?;
        let (events, from_stores) = tokio::sync::mpsc::channel(STORE_EVENTS);
        let (mut stores, mut threads) = (Stores::default(), Vec::new());
        let mut configured = Vec::new();
        for (settings, opened) in self.workspaces {
            let settings = Arc::new(settings);
            let served = match opened {
                Ok(Opened { workspace, ready }) => {
                    let (id, reader) = (stores.next_id(), workspace.reader());
                    let (store, thread) = Store::start(
                        id,
                        Arc::clone(&settings),
                        workspace,
                        ready,
                        events.clone(),
                    )
                    .map_err(|error| refused_by_system("start a workspace's thread", &error))?;
                    remember_names(reader.clone());
                    let served = Served::new(id, Arc::clone(&settings), reader, store.archive());
                    tokio::spawn(retention::keep(served.clone()));
                    stores.push(store);
                    threads.push(thread);
                    Ok(served)
                }
                Err(failure) => Err(failure),
            };
            configured.push(Configured { settings, served });
        }
        start_blocking_thread().await?;
        // The owner keeps `events` weakly, so that it ends if all the threads do.
        let (home, config) = (self.home.clone(), self.config.clone());
        let models = ModelCatalog::of(&home, &config);
        let events = (events, from_stores);
        let (owner, hub) = Owner::new(home, config, self.engine, models.clone(), stores, events);
        let context = Arc::new(Context {
            hub: hub.clone(),
            workspaces: Workspaces::new(configured),
            directories: Directories::default(),
            models,
            home: self.home,
            config: self.config,
            started: Instant::now(),
        });
        let closing = CancellationToken::new();
        let peers = Peers::new(self.connections);
        let serving = server::serve(listener, peers.clone(), context.clone(), closing.clone());
        let serving = tokio::spawn(serving);
        let reachable = tokio::spawn(reach::keep(peers, context.clone(), lock, closing.clone()));
        tokio::spawn(obey(signals, hub));
        tracing::info!(pid = std::process::id(), socket = %context.home.socket.display(), "ready");
        if !self.foreground {
            report(READY);
        }
        owner.run().await;
        closing.cancel();
        let ends = async { tokio::join!(serving, reachable) };
        let _ = tokio::time::timeout(LAST_FRAMES, ends).await;
        threads.append(&mut context.directories.take_threads());
        Ok((threads, context.workspaces.places()))
    }
}

/// Starts the first thread for blocking work and keeps it. If the system later refuses to start
/// more, work queues for this one instead of failing.
async fn start_blocking_thread() -> Result<(), Failure> {
    // Fail with an error here: tokio would panic.
    std::thread::Builder::new()
        .spawn(|| ())
        .map_err(|error| refused_by_system("start a thread", &error))?
        .join()
        .map_err(|_| Failure::new(ErrorCode::Internal, "a thread that does nothing panicked"))?;
    blocking(|| Ok(())).await
}

struct Signals {
    terminate: Signal,
    // `None` if SIGINT is ignored, as in a job that a script put in the background.
    interrupt: Option<Signal>,
    // Caught so that closing the terminal does not end the daemon.
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: match interrupt_is_ignored() {
                true => None,
                false => Some(signal(SignalKind::interrupt())?),
            },
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Stops the daemon on the first SIGTERM or SIGINT, with a grace period; a second one ends it at
/// once.
async fn obey(mut signals: Signals, hub: Hub) {
    loop {
        let interrupted = async {
            match &mut signals.interrupt {
                Some(interrupt) => interrupt.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = signals.terminate.recv() => {}
            _ = interrupted => {}
            _ = signals.hangup.recv() => continue,
        }
        if hub.stop(false).await.is_err() {
            return;
        }
    }
}

/// The engine's program. Without one the daemon still serves: loads fail, and say why.
fn engine_binary() -> PathBuf {
    find_engine().unwrap_or_else(|failure| {
        tracing::warn!(%failure, "no engine");
        let chosen = std::env::var_os("THREADRUNNER_ENGINE").filter(|path| !path.is_empty());
        // Absolute, because the daemon leaves its working directory.
        let chosen = chosen.map(|path| std::path::absolute(&path).unwrap_or(path.into()));
        chosen.unwrap_or_else(|| "threadrunner-engine".into())
    })
}

/// Tells the client that started this daemon how the start went, and detaches from it.
///
/// Later output is discarded: stdout and stderr become `/dev/null`.
fn report(line: &str) {
    let mut stdout = io::stdout().lock();
    // The client may be gone.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Writes a line to stdout.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line to stderr.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "threadrunner-daemon: {line}");
}
