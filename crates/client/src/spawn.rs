//! Starting the daemon's process and reading whether it is ready.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

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
    let earlier = Logged::by_now(home);
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
        return Err(died(status, home, &earlier));
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

fn died(status: Option<ExitStatus>, home: &Home, earlier: &Logged) -> Failure {
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
    match fresh_log(home, earlier) {
        Some(log) => failure.hint(log),
        None => failure.hint("run `threadrunner daemon run` to see its output"),
    }
}

/// What earlier daemons logged: the newest log and its length.
#[derive(Debug, Default)]
struct Logged {
    path: Option<PathBuf>,
    bytes: u64,
}

impl Logged {
    fn by_now(home: &Home) -> Self {
        let path = home.newest_log();
        let found = path.as_ref().and_then(|path| path.metadata().ok());
        Self { path, bytes: found.map_or(0, |found| found.len()) }
    }
}

/// The end of the log, if anything was written to it after `earlier`.
fn fresh_log(home: &Home, earlier: &Logged) -> Option<String> {
    let path = home.newest_log()?;
    let mut log = open_regular(&path, OpenOptions::new().read(true), Links::Followed).ok()?;
    let length = log.metadata().ok()?.len();
    // A log that is shorter than before was begun anew.
    let same = earlier.path.as_ref() == Some(&path) && earlier.bytes <= length;
    let from = if same { earlier.bytes } else { 0 };
    log.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_TAIL)))).ok()?;
    let mut bytes = Vec::new();
    log.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    (!end.is_empty()).then(|| format!("the end of {}:\n{end}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_logged_since_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let home = |name: &str| (name == "HOME").then(|| dir.path().into());
        let home = Home::resolve(dir.path(), home).unwrap();
        std::fs::create_dir_all(&home.cache_dir).unwrap();
        let log = |day: &str, text: &str| {
            let path = home.cache_dir.join(format!("threadrunner-daemon-{day}.log"));
            std::fs::write(path, text).unwrap();
        };
        log("2026-01-01", "earlier\n");
        let earlier = Logged::by_now(&home);
        assert_eq!(fresh_log(&home, &earlier), None);
        log("2026-01-01", "earlier\nnow\n");
        assert!(fresh_log(&home, &earlier).unwrap().ends_with("log:\nnow"));
        log("2026-01-02", "today\n");
        assert!(fresh_log(&home, &earlier).unwrap().ends_with("log:\ntoday"));
    }
}
