//! Standard output is data, standard error is talk.
//!
//! `print` and its variants write data and report errors; `say`, `hint` and `ask` write talk, whose
//! errors are ignored.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use threadrunner_core::{Failure, JobId, Output, OutputKind};

use crate::closed_stdout;
use crate::error::CommandError;
use crate::style::{self, Style};
use crate::wrap::{Screen, wrapped};

/// Whether to say nothing but why a command failed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// How much a writable pipe takes without blocking, in bytes: `PIPE_BUF` of Linux.
const CHUNK: usize = 4096;
/// How often to check whether a stalled reader reads again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Prints data.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let stdout = open_stdout()?;
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
/// paused terminal) must not keep Ctrl-C from being handled.
pub(crate) async fn print_patiently(text: &str) -> io::Result<()> {
    let stdout = open_stdout()?;
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

/// Standard output. Fails if it was closed when the program started.
fn open_stdout() -> io::Result<io::Stdout> {
    match closed_stdout::was_closed() {
        true => Err(rustix::io::Errno::BADF.into()),
        false => Ok(io::stdout()),
    }
}

fn may_write(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    // Any other trouble is reported by the write.
    !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// One write, past the standard library's buffer: each piece of an answer is shown at once, with a
/// single system call.
fn write_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(fd, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            // Another process made the descriptor non-blocking; keep waiting.
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            written => return Ok(written?),
        }
    }
}

/// Asks a question on standard error, wrapped like other talk, and leaves the line open for the answer.
pub(crate) fn ask(text: &str) {
    let _ = write_some(io::stderr().as_fd(), fitted(text).as_bytes());
}

/// The text as it is printed: on a terminal, wrapped between words and, unless `plain`, with its
/// Markdown rendered.
pub(crate) fn for_terminal(text: String, plain: bool) -> String {
    match width() {
        Some(columns) => {
            let mut screen = Screen::new(style::on_stdout() && !plain);
            screen.push(&text, columns) + &screen.finish(columns)
        }
        None => text,
    }
}

/// What an answer holds beside its text, as lines of JSON. Thoughts are not part of the answer, and
/// only `--json` shows them.
pub(crate) fn lines_of(output: &[Output]) -> String {
    let told = output.iter().filter(|output| output.kind() != OutputKind::Reasoning);
    // Cannot fail: it is plain data with string keys.
    told.map(|output| serde_json::to_string(output).unwrap_or_default() + "\n").collect()
}

/// Prints a message to standard error. Errors are ignored: failing to print it is not a failure.
pub(crate) fn say(text: &str) {
    say_as_it_is(&fitted(text));
}

/// Says something that `--quiet` silences.
pub(crate) fn remark(text: &str) {
    if !is_quiet() {
        say(text);
    }
}

/// The same as [`say`], with a styled word before it.
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

/// The text, wrapped between words if standard error is a terminal.
fn fitted(text: &str) -> String {
    match stderr_width() {
        Some(columns) => wrapped(text, columns),
        None => text.to_owned(),
    }
}

/// Why a command ended early, as `--json` prints it. The error has the same form as in a job's
/// record and in the answers of a batch.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a Failure,
    /// Whether the same command may succeed if it is run again.
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a JobId>,
}

/// From here on, says nothing but why a command failed.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether to say nothing but why a command failed (`--quiet`).
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Says what to do next.
pub(crate) fn hint(text: &str) {
    say_set_off("hint:", Style::Cyan, text);
}

/// Reports why a command ended early: on standard error, or with `--json` as one object on standard
/// output. If the object cannot be written, falls back to standard error.
pub(crate) fn report(error: &CommandError, json: bool) {
    match error {
        CommandError::Failed { failure, job } => {
            if json {
                let told = print_json(&Failed {
                    error: failure,
                    retryable: failure.code.retryable(),
                    job: job.as_ref(),
                });
                if told.is_ok() {
                    return;
                }
                // The failure may be about standard output itself.
            }
            say_set_off("threadrunner:", Style::Red, &failure.message);
            if let Some(text) = &failure.hint {
                hint(text);
            }
        }
        CommandError::Interrupted | CommandError::ReaderGone | CommandError::Silent(_) => {}
    }
}

/// The columns of the terminal on standard output; `None` if it is not a terminal.
pub(crate) fn width() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

/// The columns and rows of the terminal on standard output; `None` if it is not a terminal.
pub(crate) fn size() -> Option<(usize, usize)> {
    size_of(io::stdout().as_fd())
}

/// The columns of the terminal on standard error; `None` if it is not a terminal.
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
