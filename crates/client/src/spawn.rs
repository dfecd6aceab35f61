//! Starting the daemon's process and reading whether it is ready.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::{Home, Links, open_regular};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The longest greeting read from a daemon, in bytes.
const LINE_LIMIT: u64 = 64 << 10;
/// How long a process may take to exit after it closes its output.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
/// How many lines of the log to show when the daemon died without a greeting.
const LOG_LINES: usize = 5;
/// How many bytes at the end of the log to search for them.
const LOG_TAIL: u64 = 64 << 10;

/// What the daemon prints when it starts: one line of JSON. Then it closes its standard output.
#[derive(Deserialize)]
#[serde(untagged)]
enum Greeting {
    Ready { ready: bool },
    Failed(Failure),
}

/// Starts `program` and waits until it reports that it is ready.
///
/// It gets no arguments: it reads the same environment. Its standard output is a pipe, so its
/// greeting or its death is noticed at once.
pub(crate) async fn spawn(program: &Path, home: &Home, limit: Duration) -> Result<(), Failure> {
    let began = SystemTime::now();
    let unavailable = |message: String| Failure::new(ErrorCode::DaemonUnavailable, message);
    let cannot = |error: std::io::Error| {
        unavailable(format!("cannot start {}: {error}", program.display()))
            .hint("run `threadrunner doctor` to find out why")
    };
    let mut child = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(cannot)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(unavailable("the daemon was started without a pipe".to_owned()));
    };
    let exited = reap(child);
    let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout)).map_err(cannot)?;
    let line = timeout(limit, first_line(stdout)).await.map_err(|_| {
        Failure::new(
            ErrorCode::Timeout,
            format!("the daemon was not ready within {} s", limit.as_secs()),
        )
        .hint(format!("its log may say why: {}", home.cache_dir.display()))
    })?;
    if line.is_empty() {
        let status = timeout(EXIT_LIMIT, exited).await.ok().and_then(Result::ok);
        return Err(died(status, home, began));
    }
    match serde_json::from_slice(&line) {
        Ok(Greeting::Ready { ready: true }) => Ok(()),
        Ok(Greeting::Failed(failure)) => Err(cannot_run(failure)),
        Ok(Greeting::Ready { ready: false }) | Err(_) => Err(unavailable(format!(
            "{} is not the ThreadRunner daemon: it printed '{}'",
            program.display(),
            String::from_utf8_lossy(&line).chars().take(80).collect::<String>().trim_end()
        ))
        .hint("reinstall it, or unset THREADRUNNER_DAEMON")),
    }
}

/// Everything up to the end of the first line; empty if the pipe ends without one.
async fn first_line(pipe: pipe::Receiver) -> Vec<u8> {
    let mut pipe = pipe.take(LINE_LIMIT);
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        // A read error counts as the end of the pipe.
        match pipe.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(_) => return Vec::new(),
        }
    }
    line
}

/// Waits for the process in a thread of its own, so that it leaves no zombie in a long-lived
/// client.
fn reap(mut child: Child) -> oneshot::Receiver<ExitStatus> {
    let (tell, exited) = oneshot::channel();
    // Without a thread, the exit status stays unknown.
    let _ = thread::Builder::new().name("reap".to_owned()).spawn(move || {
        if let Ok(status) = child.wait() {
            // Usually the receiver is gone: the daemon outlives its client.
            let _ = tell.send(status);
        }
    });
    exited
}

/// The daemon's own reason for not starting. What is wrong with its files or with itself means to
/// the caller that there is no daemon.
fn cannot_run(failure: Failure) -> Failure {
    match failure.code {
        ErrorCode::Io | ErrorCode::Internal | ErrorCode::Unknown => Failure {
            code: ErrorCode::DaemonUnavailable,
            message: format!("the daemon cannot start: {}", failure.message),
            hint: failure.hint,
        },
        _ => failure,
    }
}

fn died(status: Option<ExitStatus>, home: &Home, began: SystemTime) -> Failure {
    let how = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!(" (exit code {code})"),
            (None, Some(signal)) => format!(" (signal {signal})"),
            (None, None) => String::new(),
        },
        None => String::new(),
    };
    let failure = Failure::new(
        ErrorCode::DaemonUnavailable,
        format!("the daemon died while it was starting{how}"),
    );
    match fresh_log(home, began) {
        Some(log) => failure.hint(log),
        None => failure.hint("run `threadrunner daemon run` to see its output"),
    }
}

/// The end of the log, if anything was written to it since `began`.
fn fresh_log(home: &Home, began: SystemTime) -> Option<String> {
    let path = home.newest_log()?;
    let mut log = open_regular(&path, OpenOptions::new().read(true), Links::Followed).ok()?;
    let found = log.metadata().ok()?;
    // File times are coarser than the clock.
    if found.modified().ok()? + Duration::from_millis(50) < began {
        return None;
    }
    log.seek(SeekFrom::Start(found.len().saturating_sub(LOG_TAIL))).ok()?;
    let mut bytes = Vec::new();
    log.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    (!end.is_empty()).then(|| format!("the end of {}:\n{end}", path.display()))
}
