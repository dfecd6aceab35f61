//! Standard output is data, standard error is talk.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use threadrunner_core::protocol::ErrorFrame;

use crate::error::CommandError;

/// A pipe takes so much at once without blocking, if it takes anything (`PIPE_BUF`).
const CHUNK: usize = 4096;
/// How often it is looked whether a reader that holds things up has gone on.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Prints data.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let stdout = io::stdout();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        rest = &rest[write_some(stdout.as_fd(), rest)?..];
    }
    Ok(())
}

/// Prints data as one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    print(&line)
}

/// Prints data without ever blocking the thread: a reader that has stopped reading (a pager, a
/// terminal on hold) must not keep Ctrl-C from being heard.
pub(crate) async fn print_patiently(text: &str) -> io::Result<()> {
    let stdout = io::stdout();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        if may_write(stdout.as_fd()) {
            rest = &rest[write_some(stdout.as_fd(), &rest[..rest.len().min(CHUNK)])?..];
        } else {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

fn may_write(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    // Whatever else is the matter, writing will tell.
    !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// One write, not through the standard library's buffer: each piece of an answer is to be seen
/// when it is there, and is one system call.
fn write_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(fd, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            // Somebody else made it non-blocking; it is waited for all the same.
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            written => return Ok(written?),
        }
    }
}

/// Asks something on standard error, and leaves the line open for the answer.
pub(crate) fn ask(text: &str) {
    let _ = write_some(io::stderr().as_fd(), text.as_bytes());
}

/// Says something on standard error. That nobody hears it is no reason to fail.
pub(crate) fn say(text: &str) {
    let stderr = io::stderr();
    let line = format!("{text}\n");
    let _ = write_some(stderr.as_fd(), line.as_bytes());
}

/// Tells why a command ended early: on standard error for people, as one object on standard
/// output with `--json`, unless that cannot be written.
pub(crate) fn report(error: &CommandError, json: bool) {
    match error {
        CommandError::Failed { failure, job } => {
            if json {
                let frame = ErrorFrame::new(failure.clone(), job.clone());
                if print_json(&frame).is_ok() {
                    return;
                }
                // Standard output may be what the failure is about.
            }
            say(&format!("threadrunner: {}", failure.message));
            if let Some(hint) = &failure.hint {
                say(hint);
            }
        }
        CommandError::Interrupted | CommandError::ReaderGone | CommandError::Silent(_) => {}
    }
}

/// The width of the terminal that standard output is; `None` where it is none.
pub(crate) fn width() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

/// The columns and rows of the terminal that standard output is; `None` where it is none.
pub(crate) fn size() -> Option<(usize, usize)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout.as_fd()).ok()?;
    (size.ws_col > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}
