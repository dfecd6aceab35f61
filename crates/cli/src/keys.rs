//! Single keys typed while something is shown, read without Enter.

use std::io::{self, IsTerminal};
use std::thread;

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// A terminal in a mode where keys arrive one by one, without echo. Dropping it restores the mode.
#[derive(Debug)]
pub(crate) struct Keys {
    before: Termios,
    typed: mpsc::Receiver<u8>,
    continued: Signal,
}

impl Keys {
    /// Begins to listen, if standard input is a terminal with this program in its foreground.
    pub(crate) fn listen() -> Option<Self> {
        let stdin = io::stdin();
        // Changing the terminal's mode from the background would stop this process.
        if !stdin.is_terminal() || tcgetpgrp(&stdin).ok()? != getpgrp() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        // While this process was stopped, the shell may have changed the mode.
        let continued =
            signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw())).ok()?;
        let (tell, typed) = mpsc::channel(16);
        thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&tell)).ok()?;
        let keys = Self { before, typed, continued };
        keys.take_one_by_one();
        Some(keys)
    }

    /// Resolves when the user types q or Ctrl-D.
    pub(crate) async fn quit(&mut self) {
        loop {
            tokio::select! {
                key = self.typed.recv() => if matches!(key, Some(b'q' | b'Q' | 4)) {
                    return;
                } else if key.is_none() {
                    // The terminal is gone; SIGHUP ends the program.
                    std::future::pending::<()>().await;
                },
                _ = self.continued.recv() => self.take_one_by_one(),
            }
        }
    }

    fn take_one_by_one(&self) {
        let mut modes = self.before.clone();
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        // If it fails, q merely needs Enter.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn read_keys(tell: &mpsc::Sender<u8>) {
    let mut key = [0];
    while let Ok(1) = rustix::io::read(io::stdin(), &mut key) {
        if tell.blocking_send(key[0]).is_err() {
            return;
        }
    }
}
