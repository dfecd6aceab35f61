//! Keeps what is typed during an answer out of its text, and saves it for afterwards.
//!
//! The terminal still edits lines and turns Ctrl-C into a signal; only its echo is off. A thread
//! takes whole lines from it, because a terminal buffers no more than 4 KiB of them. An unfinished
//! line stays in the terminal, and is in the editor when that starts to read.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use threadrunner_core::MAX_FRAME_BYTES;

use super::line::is_complete;

/// The longest line that a terminal returns, in bytes.
const LINE_BYTES: usize = 4096;

/// Reads what is typed, until [`Self::finish`].
#[derive(Debug)]
pub(super) struct Typed {
    /// The settings of the terminal, to restore them; `None` if they could not be read.
    before: Option<Termios>,
    /// Ends the thread when it is dropped.
    end: Option<PipeWriter>,
    thread: Option<JoinHandle<Taken>>,
}

/// What was typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    /// Complete texts, in order.
    pub(super) whole: Vec<String>,
    /// The beginning of an incomplete text.
    pub(super) begun: String,
    /// Whether the input has ended.
    pub(super) ended: bool,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: Vec<u8>,
    ended: bool,
}

impl Typed {
    /// Starts to read standard input, which is a terminal. If that is not possible, nothing is
    /// read, and what is typed stays in the terminal.
    pub(super) fn begin() -> Self {
        let nothing = Self { before: None, end: None, thread: None };
        let Ok((stop, end)) = io::pipe() else { return nothing };
        let read = move || take(&io::stdin(), &stop);
        let thread = std::thread::Builder::new().name("typed".to_owned()).spawn(read).ok();
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO);
            // Best effort: with the echo on it only looks worse.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &quiet);
        }
        Self { before, end: Some(end), thread }
    }

    /// Stops reading, and returns what was typed.
    pub(super) fn finish(mut self) -> Texts {
        self.end = None;
        let taken = self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        texts(&String::from_utf8_lossy(&taken.bytes), taken.ended)
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Reads until `stop` is closed and nothing is left to read.
fn take(terminal: &impl AsFd, stop: &impl AsFd) -> Taken {
    let mut taken = Taken::default();
    let mut line = [0; LINE_BYTES];
    while taken.bytes.len() < MAX_FRAME_BYTES {
        let mut fds = [PollFd::new(terminal, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        if fds[0].revents().is_empty() {
            break;
        }
        match rustix::io::read(terminal, &mut line) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(n @ 1..) => taken.bytes.extend_from_slice(&line[..n]),
            Ok(0) | Err(_) => {
                taken.ended = true;
                break;
            }
        }
    }
    taken
}

/// Joins lines that belong together into texts.
fn texts(typed: &str, ended: bool) -> Texts {
    let mut texts = Texts { ended, ..Texts::default() };
    for line in typed.split_inclusive('\n') {
        texts.begun.push_str(line);
        if line.ends_with('\n') && is_complete(&texts.begun) {
            texts.whole.push(std::mem::take(&mut texts.begun));
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_that_belong_together_are_one_text_and_what_has_no_end_is_begun() {
        let typed = texts("one\ntwo\\\nthree\n\"\"\"\nfour\n", false);
        assert_eq!(typed.whole, ["one\n", "two\\\nthree\n"]);
        assert_eq!((typed.begun.as_str(), typed.ended), ("\"\"\"\nfour\n", false));
        assert_eq!(texts("", true), Texts { ended: true, ..Texts::default() });
    }

    #[test]
    fn all_that_was_there_is_taken_before_it_ends() {
        let (terminal, mut keys) = io::pipe().unwrap();
        let (stop, end) = io::pipe().unwrap();
        keys.write_all(&b"hello\n".repeat(2000)).unwrap();
        drop(end);
        let taken = take(&terminal, &stop);
        assert_eq!((taken.bytes.len(), taken.ended), (12_000, false));
        drop(keys);
        let (stop, _end) = io::pipe().unwrap();
        assert!(take(&terminal, &stop).ended);
    }
}
