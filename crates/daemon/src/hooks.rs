//! Hooks: programs that run when a job has ended, without a shell, a few at a time, each within a
//! time limit.
//!
//! A hook runs at least once. It is noted on disk before its job can end, and the note is removed
//! when the program has ended. If the daemon crashes in between, the next one runs the program
//! again, so that a script that moves on from job to job never stalls; a program for which twice is
//! once too often checks what it has already done. It never runs twice at the same time, because it
//! ends with the daemon ([`hook_process`]).

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use threadrunner_core::{ErrorCode, Failure, HookOutcome, JobId, Timestamp};
use threadrunner_home::{Config, Home};
use threadrunner_workspace::Hook;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::hook_process::{self, Ending};
use crate::store::WorkspaceId;

/// The longest report of how a program ended, in bytes.
const LONGEST_ENDING: u64 = 64 << 10;
/// How long killing a program may take.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The environment variables that a hook inherits from the daemon: those that a user's programs
/// expect, and none that depends on what happened to start the daemon.
const KEPT: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
];

/// A job and its workspace. The id alone is ambiguous: another program may have put a job of the
/// same id into each workspace.
pub(crate) type PlacedJob = (WorkspaceId, JobId);

/// Hooks that are due, and those that run.
#[derive(Debug)]
pub(crate) struct Hooks {
    due: VecDeque<PlacedJob>,
    /// Running hooks, and whether the job has ended again in the meantime.
    running: HashMap<PlacedJob, bool>,
    at_once: usize,
    timeout: Duration,
    environment: Vec<(&'static str, std::ffi::OsString)>,
    ended: mpsc::Sender<(PlacedJob, Option<HookOutcome>)>,
    from_tasks: mpsc::Receiver<(PlacedJob, Option<HookOutcome>)>,
    stopping: bool,
    give_up: CancellationToken,
}

impl Hooks {
    pub(crate) fn new(home: &Home, config: &Config) -> Self {
        let at_once = config.max_hooks as usize;
        let (ended, from_tasks) = mpsc::channel(at_once);
        let kept = KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let own = [
            ("THREADRUNNER_HOME", home.root.clone().into_os_string()),
            ("THREADRUNNER_SOCKET", home.socket.clone().into_os_string()),
        ];
        Self {
            due: VecDeque::new(),
            running: HashMap::new(),
            at_once,
            timeout: config.hook_timeout,
            environment: kept.chain(own).collect(),
            ended,
            from_tasks,
            stopping: false,
            give_up: CancellationToken::new(),
        }
    }

    /// The number of hooks that wait to run.
    pub(crate) fn due(&self) -> usize {
        self.due.len()
    }

    /// Whether no hook runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Notes that a job with a hook has ended.
    pub(crate) fn job_ended(&mut self, job: PlacedJob) {
        match self.running.get_mut(&job) {
            Some(again) => *again = true,
            None => self.due.push_back(job),
        }
    }

    /// Takes the next job whose hook may start now.
    pub(crate) fn next(&mut self) -> Option<PlacedJob> {
        if self.stopping || self.running.len() >= self.at_once {
            return None;
        }
        let job = self.due.pop_front()?;
        self.running.insert(job.clone(), false);
        Some(job)
    }

    /// Starts a hook.
    pub(crate) fn run(&self, job: PlacedJob, hook: Hook) {
        let mut command = Command::new(hook_process::own_program());
        command
            .arg0("threadrunner-daemon")
            .arg(hook_process::ARGUMENT)
            .arg(&hook.program)
            .arg(&hook.directory)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("THREADRUNNER_JOB_ID", job.1.as_str())
            .env("THREADRUNNER_JOB_STATUS", hook.status.as_str())
            .env("THREADRUNNER_WORKSPACE", &hook.workspace)
            .current_dir(&hook.directory)
            .process_group(0);
        let (timeout, give_up, ended) = (self.timeout, self.give_up.clone(), self.ended.clone());
        tokio::spawn(async move {
            let outcome = attend(command, hook, timeout, give_up).await;
            // If the owner is gone, the note on disk remains.
            let _ = ended.send((job, outcome)).await;
        });
    }

    /// Waits for the next hook to end. Without an outcome it was given up, and will run again.
    pub(crate) async fn ended(&mut self) -> Option<(PlacedJob, Option<HookOutcome>)> {
        self.from_tasks.recv().await
    }

    /// Notes that a hook has ended. Returns false if its job has ended again in the meantime: then
    /// the hook is due again, and its outcome is void.
    pub(crate) fn done(&mut self, job: &PlacedJob) -> bool {
        let again = self.running.remove(job).unwrap_or_default();
        if again {
            self.due.push_back(job.clone());
        }
        !again
    }

    /// Starts no more hooks.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Kills the running hooks. The next daemon runs them again.
    pub(crate) fn give_up(&self) {
        self.give_up.cancel();
    }
}

/// Runs a program until it ends; `None` if it was given up.
async fn attend(
    command: Command,
    hook: Hook,
    timeout: Duration,
    give_up: CancellationToken,
) -> Option<HookOutcome> {
    let begun = Instant::now();
    let mut outcome = HookOutcome {
        program: hook.program.clone(),
        started_at: Timestamp::at(SystemTime::now()),
        ..HookOutcome::default()
    };
    match start(command, hook) {
        Ok((mut child, mut socket)) => {
            let ending = tokio::select! {
                ending = tokio::time::timeout(timeout, ending(&mut socket)) => ending.ok(),
                () = give_up.cancelled() => {
                    end(child, socket).await;
                    return None;
                }
            };
            match ending {
                Some(Ok(ending)) => {
                    outcome.exit_code = ending.exit_code;
                    outcome.signal = ending.signal;
                    outcome.error = ending.error;
                    let _ = child.wait().await;
                }
                Some(Err(error)) => {
                    outcome.error = Some(format!("cannot wait for it: {error}"));
                    end(child, socket).await;
                }
                None => {
                    end(child, socket).await;
                    outcome.timed_out = true;
                }
            }
        }
        Err(failure) => outcome.error = Some(failure.message),
    }
    outcome.duration_s = begun.elapsed().as_secs_f64();
    Some(outcome)
}

/// Starts a program under a process that attends to it until the socket's other end closes. Only
/// the returned socket keeps that open: the command, which holds the other end, is dropped here.
fn start(mut command: Command, hook: Hook) -> Result<(Child, UnixStream), Failure> {
    check(&hook.program)?;
    let start = || -> std::io::Result<(Child, UnixStream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        command.stdin(OwnedFd::from(theirs)).stdout(hook.log).stderr(Stdio::null());
        Ok((command.spawn()?, UnixStream::from_std(ours)?))
    };
    start().map_err(|error| {
        Failure::new(ErrorCode::Io, format!("cannot start {}: {error}", hook.program.display()))
    })
}

/// Reads the report of how the program ended.
async fn ending(socket: &mut UnixStream) -> std::io::Result<Ending> {
    let mut said = Vec::new();
    socket.take(LONGEST_ENDING).read_to_end(&mut said).await?;
    Ok(serde_json::from_slice(&said)?)
}

/// Ends a program and the processes in its group.
async fn end(mut child: Child, socket: UnixStream) {
    drop(socket);
    if tokio::time::timeout(END_LIMIT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Checks that a program may run as a hook: an executable file that only the user and root can
/// change.
pub(crate) fn check(program: &Path) -> Result<(), Failure> {
    let refuse = |why: &str| {
        let message = format!("on_done: {} {why}", program.display());
        Err(Failure::new(ErrorCode::InvalidRequest, message)
            .hint("name a program of your own by its absolute path"))
    };
    if !program.is_absolute() {
        return refuse("is not an absolute path");
    }
    let found = match std::fs::metadata(program) {
        Ok(found) => found,
        Err(error) => return refuse(&format!("cannot be found: {error}")),
    };
    let mode = found.permissions().mode();
    let owner = found.uid();
    if !found.is_file() {
        return refuse("is not a file");
    }
    if mode & 0o111 == 0 {
        return refuse("is not executable");
    }
    if owner != 0 && owner != rustix::process::getuid().as_raw() {
        return refuse("belongs to another user");
    }
    if mode & 0o002 != 0 {
        return refuse("can be changed by everyone");
    }
    Ok(())
}
