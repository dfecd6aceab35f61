//! Standard output is data, standard error is talk.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use threadrunner_core::{Failure, JobId};

use crate::error::CommandError;
use crate::style::{self, Style};
use crate::wrap::wrapped;

/// Whether nothing is said but why a command failed.
static QUIET: AtomicBool = AtomicBool::new(false);

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

/// A text as it is printed: on a terminal in lines that end between words, elsewhere as it is.
pub(crate) fn for_terminal(text: String) -> String {
    match width() {
        Some(columns) => wrapped(&text, columns),
        None => text,
    }
}

/// Says something on standard error. That nobody hears it is no reason to fail.
pub(crate) fn say(text: &str) {
    say_as_it_is(&fitted(text));
}

/// The same with its first word set off.
fn say_set_off(word: &str, style: Style, text: &str) {
    let line = fitted(&format!("{word} {text}"));
    let rest = line.strip_prefix(word).unwrap_or_default();
    say_as_it_is(&format!("{}{rest}", style.paint(word, style::on_stderr())));
}

fn say_as_it_is(text: &str) {
    let stderr = io::stderr();
    let line = format!("{text}\n");
    let _ = write_some(stderr.as_fd(), line.as_bytes());
}

/// A text in lines that end between words, where standard error is a terminal.
fn fitted(text: &str) -> String {
    match stderr_width() {
        Some(columns) => wrapped(text, columns),
        None => text.to_owned(),
    }
}

/// Why a command ended early, as `--json` prints it: the error is of the same form as in a job's
/// record and in the answers of a batch.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a Failure,
    /// Whether the same command may succeed when it is given again.
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a JobId>,
}

/// From here on says nothing but why a command failed.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether nothing is to be said but why a command failed.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Says what to do next.
pub(crate) fn hint(text: &str) {
    say_set_off("hint:", Style::Cyan, text);
}

/// Tells why a command ended early: on standard error for people, as one object on standard
/// output with `--json`, unless that cannot be written.
pub(crate) fn report(error: &CommandError, json: bool) {
    match error {
        CommandError::Failed { failure, job } => {
            if json {
                // Where that cannot be written, standard error has it.
                let told = print_json(&Failed {
                    error: failure,
                    retryable: failure.code.retryable(),
                    job: job.as_ref(),
                });
                if told.is_ok() {
                    return;
                }
                // Standard output may be what the failure is about.
            }
            say_set_off("threadrunner:", Style::Red, &failure.message);
            if let Some(text) = &failure.hint {
                hint(text);
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
    size_of(io::stdout().as_fd())
}

/// The width of the terminal that standard error is; `None` where it is none.
pub(crate) fn stderr_width() -> Option<usize> {
    size_of(io::stderr().as_fd()).map(|(columns, _)| columns)
}

fn size_of(fd: BorrowedFd<'_>) -> Option<(usize, usize)> {
    if !fd.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    (size.ws_col > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}
