//! Single keys, typed while something is shown.

use std::io::{self, IsTerminal};
use std::thread;

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// A terminal whose keys come one by one and are not shown. Dropped, it is as before.
#[derive(Debug)]
pub(crate) struct Keys {
    before: Termios,
    typed: mpsc::Receiver<u8>,
    continued: Signal,
}

impl Keys {
    /// Listens, where standard input is the terminal of this program's own.
    pub(crate) fn listen() -> Option<Self> {
        let stdin = io::stdin();
        // Changing a terminal that another program is using stops this one.
        if !stdin.is_terminal() || tcgetpgrp(&stdin).ok()? != getpgrp() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        // While the program was stopped, the shell had the terminal.
        let continued =
            signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw())).ok()?;
        let (tell, typed) = mpsc::channel(16);
        thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&tell)).ok()?;
        let keys = Self { before, typed, continued };
        keys.take_one_by_one();
        Some(keys)
    }

    /// Resolves when somebody types q, or ends the input.
    pub(crate) async fn quit(&mut self) {
        loop {
            tokio::select! {
                key = self.typed.recv() => if matches!(key, Some(b'q' | b'Q' | 4)) {
                    return;
                } else if key.is_none() {
                    // The terminal is gone: its end is another signal's to tell.
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
        // Without it, q needs Enter.
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
