//! A thread that ends before the daemon does, unless its disk hangs.
//!
//! The files of a process are closed when its last thread has ended, and a client that was told of
//! the end may unmount or remount a disk.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long to wait for it.
const PATIENCE: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A thread that was told to end.
#[derive(Debug)]
pub(crate) struct LastThread(pub(crate) Option<JoinHandle<()>>);

impl LastThread {
    /// Waits a moment for its end.
    pub(crate) fn wait(&self) {
        let Some(thread) = &self.0 else { return };
        let until = Instant::now() + PATIENCE;
        let is_this = thread.thread().id() == std::thread::current().id();
        while !is_this && !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
