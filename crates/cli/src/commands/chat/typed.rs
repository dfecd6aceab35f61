//! What is typed while an answer comes: kept out of its text, and kept for afterwards.
//!
//! The terminal goes on to edit lines and to turn Ctrl-C into a signal, and only echoes nothing. A
//! thread takes whole lines from it, because a terminal holds no more than 4 KiB of them. What has no
//! end yet stays with the terminal, and is in the editor when that begins to read.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use threadrunner_core::MAX_FRAME_BYTES;

use super::line::is_complete;

/// The longest line that a terminal hands out.
const LINE_BYTES: usize = 4096;

/// Reads what is typed until it is asked for it.
#[derive(Debug)]
pub(super) struct Typed {
    /// How the terminal was, where it could be told to echo nothing.
    before: Option<Termios>,
    /// Ends the thread when it is dropped.
    end: Option<PipeWriter>,
    thread: Option<JoinHandle<Taken>>,
}

/// What was typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    /// Texts that are complete, in their order.
    pub(super) whole: Vec<String>,
    /// What is to go on.
    pub(super) begun: String,
    /// Whether there will be no more.
    pub(super) ended: bool,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: Vec<u8>,
    ended: bool,
}

impl Typed {
    /// Begins to read from the terminal that standard input is. Where that cannot be, nothing is
    /// read, and what is typed stays with the terminal.
    pub(super) fn begin() -> Self {
        let nothing = Self { before: None, end: None, thread: None };
        let Ok((stop, end)) = io::pipe() else { return nothing };
        let read = move || take(&io::stdin(), &stop);
        let thread = std::thread::Builder::new().name("typed".to_owned()).spawn(read).ok();
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO);
            // Else it looks worse, and is read all the same.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &quiet);
        }
        Self { before, end: Some(end), thread }
    }

    /// What was typed until now; nobody reads any more.
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

/// Takes what there is, until `stop` is closed and there is no more.
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

/// Lines that belong together are one text.
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
