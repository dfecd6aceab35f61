//! A terminal for a test: types keys and reads what is shown.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::wait::PATIENCE;

/// A program on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keys: File,
    shown: Receiver<Vec<u8>>,
    unread: String,
}

impl Terminal {
    /// Starts a program with this as its controlling terminal, so that Ctrl-C reaches it as a key.
    ///
    /// # Panics
    /// If no terminal can be opened, or the program cannot be started.
    pub fn start(command: &Command) -> Self {
        Self::sized(command, 0, 0)
    }

    /// Starts it on a terminal with this many columns and rows; zeros mean that the size is
    /// unknown.
    ///
    /// # Panics
    /// As [`Terminal::start`].
    pub fn sized(command: &Command, columns: u16, rows: u16) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        tcsetwinsize(&keys, size(columns, rows)).expect("a terminal has a size");
        grantpt(&keys).and_then(|()| unlockpt(&keys)).expect("a terminal can be used");
        let name = ptsname(&keys, Vec::new()).expect("a terminal has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let screen = || -> Stdio {
            let screen = rustix::fs::open(&name, flags, Mode::empty());
            screen.expect("a terminal can be opened").into()
        };
        // Only a session leader can have a controlling terminal; util-linux's `setsid` makes one.
        let mut leader = Command::new("setsid");
        leader.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        leader.env_clear();
        leader.env("TERM", "xterm");
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        leader.stdin(screen()).stdout(screen()).stderr(screen());
        let child = leader.spawn().expect("setsid can be started");
        let keys = File::from(keys);
        let mut seen = keys.try_clone().expect("a terminal can be read and written");
        let (show, shown) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Reading fails once nothing has the terminal open any more.
            while let Ok(n @ 1..) = seen.read(&mut chunk) {
                if show.send(chunk[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, shown, unread: String::new() }
    }

    /// Resizes the terminal; the system notifies the program.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        tcsetwinsize(&self.keys, size(columns, rows)).expect("a terminal has a size");
    }

    /// Types keys.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until `text` is shown, and forgets everything up to its end.
    ///
    /// # Panics
    /// If it is not shown within a minute, or the program ends first.
    pub fn see(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            if let Some(at) = self.unread.find(text) {
                self.unread.drain(..at + text.len());
                return;
            }
            match self.shown.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(bytes) => self.unread.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{text:?} is not seen; what is: {:?}", self.unread)
                }
            }
        }
    }

    /// Everything that is shown until the program ends.
    ///
    /// # Panics
    /// If it does not end within a minute.
    pub fn see_all(&mut self) -> String {
        let start = Instant::now();
        loop {
            match self.shown.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(bytes) => self.unread.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => return std::mem::take(&mut self.unread),
                Err(RecvTimeoutError::Timeout) => panic!("it goes on: {:?}", self.unread),
            }
        }
    }

    /// Waits for the program to end and returns its exit code.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn end(mut self) -> Option<i32> {
        self.child.wait().expect("the program ends").code()
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}
